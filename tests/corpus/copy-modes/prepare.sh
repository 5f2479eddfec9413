#!/bin/sh
# What git does not keep; run in a copy of this folder.
set -e
chmod 4711 d/s; chmod 2775 d; chmod 1777 d/sub; chmod 664 d/sub/w; chmod 755 run.sh
