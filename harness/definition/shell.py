"""POSIX shell for %post: quoting that the definition parser leaves alone, and the functions that stand for Docker's.

A definition's parser reads a line starting with ``%word`` as a section, one starting with ``bootstrap:`` as a new
stage, and ``{{ word }}`` as a build argument, wherever they stand. Two quotes in a row mean nothing to a shell and
break all three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# %files stages here and %post moves on from here; removed at the end of %post.
STAGING = "/.harness-build"
# What other stages copy from a stage waits here, packed.
OUTGOING = "/.harness-out"
# The base's own start command, kept when the image gets another.
BASE_RUNSCRIPT = "/.singularity.d/runscript.base"

_HOSTILE = re.compile(r"^\s*(?:%\w|bootstrap\s*:)|\{\{", re.MULTILINE | re.IGNORECASE)
_LINE_TOKEN = re.compile(r"^(\s*)(?=%\w|bootstrap\s*:)", re.MULTILINE | re.IGNORECASE)


def is_hostile(text: str) -> bool:
    """Would the definition parser take some of ``text`` for its own syntax?"""
    return bool(_HOSTILE.search(text))


def break_tokens(text: str, quotes: str) -> str:
    """``text`` inside quotes of a shell word, with ``quotes`` (a closing and an opening one) in hostile places."""
    text = _LINE_TOKEN.sub(rf"\1{quotes}", text)
    return re.sub(r"\{(?=\{)", "{" + quotes, text)


def quote(text: str) -> str:
    """One shell word that means exactly ``text`` and nothing to the definition parser."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII) and not is_hostile(text):
        return text
    mark = "\x00"  # a quote is written as '\\'' in the end; the mark keeps the breaking of tokens out of that
    inner = break_tokens(text.replace("'", mark), "''").replace(mark, "'\\''")
    return f"'{inner}'"


def quote_path(text: str) -> str:
    """One shell word for a text in which ``{{ NAME }}`` stays a build argument."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def join(words: Iterable[str]) -> str:
    """A command line of words that each mean exactly themselves."""
    return " ".join(quote(word) for word in words)


# The order is that of their text in a definition; a name here is a command that a definition may call.
FUNCTIONS = {
    "owner": """\
owner() { # USER[:GROUP] as Docker's --chown reads it
    case $1 in
    *:*) echo "$1" ;;
    *[!0-9]*) echo "$(id -u "$1"):$(id -g "$1")" ;;
    *) echo "$1:$1" ;;
    esac
}""",
    "folder": """\
folder() { # path, owner: what is missing of the path belongs to the owner
    if [ ! -d "$1" ]; then folder "$(dirname "$1")" "$2"; mkdir "$1"; chown "$2" "$1"; fi
}""",
    # A folder's content is copied, into a folder that keeps its own mode; a file keeps its name only below a folder.
    "copy": """\
copy() { # staged, target, the folder a file goes to
    if [ -d "$1" ]; then
        mkdir -p "$2"
        chown "$(stat -c %u:%g "$2")" "$1"
        chmod "$(stat -c %a "$2")" "$1"
        cp -a "$1/." "$2"
    else
        mkdir -p "$3" && cp -a "$1" "$2"
    fi
}""",
    "own": """\
own() { # owner, staged, target, the folder a file goes to: before a copy with --chown
    chown -R "$1" "$2"
    if [ -d "$2" ]; then folder "$3" "$1"; else folder "$4" "$1"; fi
}""",
    "unpack": """\
unpack() { # archive, target
    mkdir -p "$2" && tar -xpf "$1" --numeric-owner -C "$2"
}""",
    "fetch": """\
fetch() { # address, file
    if command -v curl >/dev/null; then curl -fsSL -o "$2" "$1"
    elif command -v wget >/dev/null; then wget -q -O "$2" "$1"
    elif command -v python3 >/dev/null; then
        python3 -c 'import sys, urllib.request as r; r.urlretrieve(sys.argv[1], sys.argv[2])' "$1" "$2"
    else echo "ADD $1: the image has no curl, wget or python3 to fetch it with" >&2; return 1; fi
    chmod 600 "$2"
}""",
    "send": """\
send() { # number, sources: packs what another stage copies from this one
    out=/.harness-out/$1; number=0; shift
    mkdir -p "$out"
    for source in "$@"; do
        source=$(readlink -f "$source")
        [ -e "$source" ] || { echo "COPY --from: a source is not there" >&2; return 1; }
        number=$((number + 1))
        if [ -d "$source" ]; then
            tar -cf "$out/$number.folder" --numeric-owner --exclude=./proc --exclude=./sys --exclude=./dev \\
                --exclude='./.singularity.d' --exclude='./.harness-out' --exclude='./.exec' --exclude='./.run' \\
                --exclude='./.shell' --exclude='./.test' --exclude='./.post.script' --exclude='./singularity' \\
                --exclude='./environment' -C "$source" .
        else
            tar -cf "$out/$number.file" --numeric-owner -C "$(dirname "$source")" "$(basename "$source")"
        fi
    done
}""",
    "receive": """\
receive() { # number: unpacks what the other stage sent, owners kept
    for sent in "$1"/*.*; do
        mkdir -p "${sent%.*}"
        tar -xpf "$sent" --numeric-owner -C "${sent%.*}"
    done
}""",
    "received": """\
received() { # packed: the path of what was in it
    case $1 in
    *.folder) echo "${1%.*}" ;;
    *) echo "${1%.*}/$(ls -A "${1%.*}")" ;;
    esac
}""",
    "run_as": """\
run_as() { # USER[:GROUP], command: with the user's groups, and home unless ENV says another
    user=${1%%:*} groups=--clear-groups
    case $1 in
    *:*) group=${1#*:} ;;
    *) group=$(id -g "$user" 2>/dev/null || echo 0); ! id "$user" >/dev/null 2>&1 || groups=--init-groups ;;
    esac
    home=$(getent passwd "$user" | cut -d: -f6)
    shift
    [ -n "${env_home:-}" ] || export HOME="${home:-/}"
    exec setpriv --reuid="$user" --regid="$group" "$groups" "$@"
}""",
    "user_owner": """\
user_owner() { # USER[:GROUP]: whom a WORKDIR made after USER belongs to
    case $1 in
    *:*) echo "$1" ;;
    *) echo "$(id -u "$1" 2>/dev/null || echo "$1"):$(id -g "$1" 2>/dev/null || echo 0)" ;;
    esac
}""",
    "mount_in": """\
mount_in() { # content or '', target: puts it, or an empty folder, in the target's place for one RUN
    mkdir -p "$(dirname "$2")"
    if [ -e "$2" ] || [ -L "$2" ]; then mv "$2" "$2.harness-aside"; fi
    if [ -z "$1" ]; then mkdir "$2"; elif [ -d "$1" ]; then mv "$1" "$2"; else cp -a "$1" "$2"; fi
}""",
    "mount_out": """\
mount_out() { # target, where its content is kept or '': an empty folder stays, as after Docker's mounts
    kind=file; [ ! -d "$1" ] || kind=folder
    if [ -n "$2" ]; then mkdir -p "$(dirname "$2")"; rm -rf "$2"; mv "$1" "$2"; else rm -rf "$1"; fi
    if [ -e "$1.harness-aside" ] || [ -L "$1.harness-aside" ]; then mv "$1.harness-aside" "$1"
    elif [ $kind = folder ]; then mkdir "$1"; fi
}""",
}

_NEEDS = {"own": ("folder",)}


def functions_for(commands: Iterable[str]) -> list[str]:
    """The text of the functions that the commands call, and of those that these call."""
    text = "\n".join(commands)
    called = {name for name in FUNCTIONS if re.search(rf"(?<![\w/.-]){name} ", text)}
    for name in sorted(called):
        called.update(_NEEDS.get(name, ()))
    return [body for name, body in FUNCTIONS.items() if name in called]


def uses_function(text: str) -> bool:
    """Does a user's shell text mention a name that one of the functions would hide?"""
    return any(re.search(rf"\b{name}\b", text) for name in FUNCTIONS)
