#!/bin/sh
# An archive from before the magic, and files that only look like archives.
set -e
mkdir t && echo x >t/x
tar --format=v7 -cf old.tar --owner=3 --group=4 --numeric-owner t
gzip -kn old.tar
{ printf x | gzip -n | head -c 10; head -c 300 /dev/zero | tr '\0' '\377'; } >broken.gz
tar --format=ustar -cf sum.tar t
printf '000001' | dd of=sum.tar bs=1 seek=148 conv=notrunc 2>/dev/null
head -c 10240 /dev/zero >zeros.tar
rm -r t
