"""What a definition says so that two builds of it give the same bytes.

Three things make builds differ: time (in files, byte code, passwords' ages, labels), what programs write about
themselves (logs, caches, ids), and who builds (umask of the checkout, names of folders). A few lines of %post and one
label answer most of it, here, so that plain ``apptainer build`` obeys them too. The rest is the builder's: names of
folders, the header of the image file, and ``SOURCE_DATE_EPOCH`` in the environment, for mksquashfs.
"""

from __future__ import annotations

import time
from dataclasses import replace

from harness.definition.model import Definition, Layer

EPOCH = 1793491200
"""2026-11-01 00:00 UTC, the month in which this project began. What a build writes is newer and gets this time; what
base images and packages bring is mostly older and keeps its own, so that their byte code stays valid."""

BUILD_DATE_LABEL = "org.label-schema.build-date"

# Python then marks byte code with a hash of its source, not with the source's time (py_compile does so by itself);
# useradd, pip and many others put this time where they would put today.
_OPENING = f"export SOURCE_DATE_EPOCH={EPOCH}"
_CLOSING = """\
# Leave nothing that differs from one build of this file to the next: logs, caches, lists, this machine's id.
for file in /var/log/* /var/log/*/* /etc/machine-id /var/lib/dbus/machine-id; do
    if [ -f "$file" ] && [ ! -L "$file" ]; then : >"$file"; fi
done
rm -rf /var/cache/ldconfig/aux-cache /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old
rm -rf /var/lib/dpkg/*-old /root/.cache"""


def reproducible(definition: Definition) -> Definition:
    """``definition`` with the lines that make its builds equal."""
    opening = Layer(commands=(_OPENING,), variables=(_OPENING,))
    built = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    closing = Layer(commands=(_CLOSING,), labels=((BUILD_DATE_LABEL, built),))
    return replace(definition, layers=(opening, *definition.layers, closing))
