#!/bin/sh
# What git does not keep; run in a copy of this folder.
set -e
mkdir -p t/sub && echo x > t/sub/x && chmod 640 t/sub/x && ln -s sub/x t/link && ln t/sub/x t/hard && mkdir t/empty && chmod 1777 t/empty
tar -cf a.tar --owner=3 --group=4 --numeric-owner t
xz -k a.tar && bzip2 -k a.tar && zstd -q a.tar
echo text | xz > text.xz && echo text | bzip2 > text.bz2
python3 -c 'import zipfile; zipfile.ZipFile("a.zip", "w").write("t/sub/x")'
mkdir -p o/alternatives && echo mine > o/alternatives/mine && echo h > o/issue && tar -czf over.tar.gz --owner=0 --group=0 -C o . && rm -r t o a.tar
