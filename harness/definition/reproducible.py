"""What a definition says so that two builds of it give the same bytes.

Three things make builds differ: time (in files, byte code, passwords' ages, labels), what programs write about
themselves (logs, caches, ids), and who builds (umask of the checkout, owners, names of folders). A few lines of %post
and one label answer most of it, here, so that plain ``apptainer build`` obeys them too. The rest is the builder's:
names of folders, the header of the image file, and ``SOURCE_DATE_EPOCH`` in the environment, for mksquashfs.
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
_OPENING = f"""\
export SOURCE_DATE_EPOCH={EPOCH}
# For an ordinary user Apptainer unpacks a base without its owners; these are the ones of Debian and Ubuntu.
while read -r owner group files; do
    if grep -q "^$owner:" /etc/passwd && grep -q "^$group:" /etc/group; then
        for file in $files; do
            if [ -e "$file" ] && mode=$(stat -c %a "$file"); then
                chown "$owner:$group" "$file"
                chmod "$mode" "$file" # a change of group takes the bit away that gives the group's rights
            fi
        done
    fi
done <<'OWNERS'
root shadow /etc/shadow /etc/gshadow /etc/shadow- /etc/gshadow- /usr/bin/chage /usr/bin/expiry /usr/sbin/unix_chkpwd
root utmp /var/log/btmp /var/log/lastlog /var/log/wtmp
root staff /var/local
root mail /var/mail
_apt root /var/cache/apt/archives/partial /var/lib/apt/lists/partial
OWNERS"""
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
