#!/bin/sh
# What git does not keep; run in a copy of this folder.
set -e
chmod 4755 d/suid && mkdir d/shared && chmod 2775 d/shared && echo g > d/sgid && chmod 2711 d/sgid
