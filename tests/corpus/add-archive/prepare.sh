#!/bin/sh
# What git does not keep; run in a copy of this folder.
set -e
mkdir -p t/sub && echo x > t/sub/x && chmod 640 t/sub/x && ln -s sub/x t/l
tar -czf a.tar.gz --owner=3 --group=4 --numeric-owner t && tar -cf b.tar -C t . && rm -r t
