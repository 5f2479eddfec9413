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
# A build argument in a text that is no shell's, and in a shell's.
ARGUMENT = re.compile(r"\{\{ (\w+) \}\}")
_USED_ARGUMENT = re.compile(r"\$\{argument_(\w+)\}")
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
    """One shell word for a text in which ``{{ NAME }}`` is a build argument, whatever characters its value has."""
    pieces = ARGUMENT.split(text)
    words = [f'"${{{argument_variable(p)}}}"' if n % 2 else quote(p) for n, p in enumerate(pieces) if p]
    return "".join(words) or "''"


def argument_variable(name: str) -> str:
    """The shell variable of %post that holds the build argument ``name``."""
    return f"argument_{name}"


def read_argument(name: str) -> str:
    """The command that sets it. Apptainer puts the value into the text of the definition before anything reads that:
    in a quoted here-document a shell takes it as it is, and behind a first character no parser takes it for its own.
    """
    variable = argument_variable(name)
    end = f"end-of-{variable}"
    return f"{variable}=$(cat <<'{end}'\n={{{{ {name} }}}}\n{end}\n)\n{variable}=${{{variable}#=}}"


def keep_argument(name: str) -> str:
    """The command that keeps it for the finished image."""
    variable = argument_variable(name)
    return f'keep {variable} "${{{variable}}}"'


def read_arguments(text: str) -> set[str]:
    """Names of the build arguments whose shell variables ``text`` uses."""
    return set(_USED_ARGUMENT.findall(text))


def join(words: Iterable[str]) -> str:
    """A command line of words that each mean exactly themselves."""
    return " ".join(quote(word) for word in words)


# For where Apptainer writes the variables of a base wrongly, and the definition says them all.
FORGET_BASE_VARIABLES = ": >/.singularity.d/env/10-docker2singularity.sh"
# What a base said of its variables before this Dockerfile's ENVs; %environment refers to it.
BASE_ENVIRONMENT = "/.singularity.d/base-environment"

# The order is that of their text in a definition; a name here is a command that a definition may call. Bodies are
# subshells: a RUN must see none of their variables.
FUNCTIONS = {
    "keep": f"""\
keep() ( # name, value of a variable: for %environment. Apptainer's own shell, which reads that, knows no \\' outside
    # of quotes, so the value stands in double ones.
    value=$(printf '%s.' "$2" | sed 's/["$`\\\\]/\\\\&/g') # the dot: a newline at the end is part of it
    printf '%s="%s"\\n' "$1" "${{value%.}}" >>{BASE_ENVIRONMENT}
)""",
    "base_value": """\
base_value() ( # name: of a variable that a shell has a value of its own for, what the base says
    said=/.singularity.d/env/10-docker2singularity.sh
    grep -q "^export $1=" "$said" 2>/dev/null || exit 1
    env -i /bin/sh -c ". $said; printf %s \\"\\$$1\\""
)""",
    "owner": """\
owner() ( # USER[:GROUP] as Docker's --chown reads it
    case $1 in
    *:*) echo "$1" ;;
    *[!0-9]*) echo "$(id -u "$1"):$(id -g "$1")" ;;
    *) echo "$1:$1" ;;
    esac
)""",
    "folder": """\
folder() ( # path, owner or '', mode or '': makes what is missing of the path
    if [ ! -d "$1" ]; then
        folder "$(dirname "$1")" "$2" "$3"
        mkdir "$1"
        [ -z "$2" ] || chown "$2" "$1"
        case $3 in '' | *[!0-7]*) ;; *) chmod "$3" "$1" ;; esac
    fi
)""",
    "way": """\
way() ( # staged, target, the folder a file goes to, owner or '', mode or '': before a copy with --chown or --chmod
    if [ -d "$1" ]; then folder "$2" "$4" "$5"; else folder "$3" "$4" "$5"; fi
)""",
    # A folder's content is copied, into a folder that keeps its own mode; a file keeps its name only below a folder.
    # A link that is the target is followed; one below it, and a file of several names, is replaced.
    "copy": """\
copy() ( # staged, target, the folder a file goes to
    if [ -d "$1" ]; then
        mkdir -p "$2"
        chown "$(stat -Lc %u:%g "$2")" "$1"
        chmod "$(stat -Lc %a "$2")" "$1"
        cp -a --remove-destination "$1/." "$2"
    else
        mkdir -p "$3"
        target=$2
        [ ! -L "$target" ] || target=$(readlink -f "$target")
        cp -a --remove-destination "$1" "$target"
    fi
)""",
    # chown takes set-id bits away.
    "own": """\
own() ( # owner, staged
    find "$2" ! '(' -type f -perm /6000 ')' -exec chown -h "$1" {} +
    find "$2" -type f -perm /6000 -exec sh -ec \\
        'mode=$(stat -c %a "$1"); chown "$0" "$1"; chmod "$mode" "$1"' "$1" {} ';'
)""",
    # Where the image lacks the program, Debian's dpkg-deb can read all these formats as the data of a package.
    "unpack": """\
unpack() ( # archive, target, the program that packed it or ''
    mkdir -p "$2"
    if [ -z "$3" ] || command -v "$3" >/dev/null; then tar -xpf "$1" --numeric-owner -C "$2"; exit; fi
    if ! command -v dpkg-deb >/dev/null; then echo "ADD: the image has no $3 to unpack $1 with" >&2; exit 1; fi
    case $3 in bzip2) suffix=bz2 ;; zstd) suffix=zst ;; *) suffix=$3 ;; esac
    member() {
        printf '%-16s%-12s%-6s%-6s%-8s%-10s`\\n' "$1" 0 0 0 100644 "$(stat -c %s "$2")"
        cat "$2"
        [ $(($(stat -c %s "$2") % 2)) = 0 ] || echo
    }
    aside=$(dirname "$1")
    echo 2.0 >"$aside/version"
    tar -cf "$aside/control" -T /dev/null
    { printf '!<arch>\\n'; member debian-binary "$aside/version"; member control.tar "$aside/control"
      member "data.tar.$suffix" "$1"; } >"$aside/package"
    dpkg-deb --fsys-tarfile "$aside/package" >"$aside/unpacked"
    tar -xpf "$aside/unpacked" --numeric-owner -C "$2"
)""",
    "fetch": """\
fetch() ( # address, file
    mkdir -p "$(dirname "$2")"
    if command -v curl >/dev/null; then curl -fsSL -o "$2" "$1"
    elif command -v wget >/dev/null; then wget -q -O "$2" "$1"
    elif command -v python3 >/dev/null; then
        python3 -c 'import sys, urllib.request as r; r.urlretrieve(sys.argv[1], sys.argv[2])' "$1" "$2"
    elif [ -x /usr/lib/apt/apt-helper ]; then
        /usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file "$1" "$2" >/dev/null
    else echo "ADD $1: the image has no curl, wget, python3 or apt to fetch it with" >&2; exit 1; fi
    chmod 600 "$2"
)""",
    "check_sum": """\
check_sum() ( # sha256, file
    echo "$1  $2" | sha256sum -c - >/dev/null
)""",
    "send": """\
send() ( # number, sources: packs what another stage copies from this one
    out=/.harness-out/$1; number=0; shift
    mkdir -p "$out"
    for named in "$@"; do
        source=$(readlink -f "$named")
        if [ ! -e "$source" ]; then
            case $named in *[*?[]*) continue ;; esac # a pattern may fit nothing
            echo "COPY --from: $named is not there" >&2
            exit 1
        fi
        number=$((number + 1))
        if [ "$source" = / ]; then
            tar -cf "$out/$number.folder" --numeric-owner --exclude=./proc --exclude=./sys --exclude=./dev \\
                --exclude='./.singularity.d' --exclude='./.harness-out' --exclude='./.exec' --exclude='./.run' \\
                --exclude='./.shell' --exclude='./.test' --exclude='./.post.script' --exclude='./singularity' \\
                --exclude='./environment' -C / .
        elif [ -d "$source" ]; then
            tar -cf "$out/$number.folder" --numeric-owner -C "$source" .
        else # a link that is named itself is followed, and gives the file its name
            mkdir "$out/$number"
            cp -a "$source" "$out/$number/$(basename "$named")"
            tar -cf "$out/$number.file" --numeric-owner -C "$out/$number" "$(basename "$named")"
            rm -r "$out/$number"
        fi
    done
)""",
    "receive": """\
receive() ( # number: unpacks what the other stage sent, owners kept
    for sent in "$1"/*.*; do
        [ -e "$sent" ] || continue
        mkdir -p "${sent%.*}"
        tar -xpf "$sent" --numeric-owner -C "${sent%.*}"
    done
)""",
    "received": """\
received() ( # packed: the path of what was in it
    case $1 in
    *.folder) echo "${1%.*}" ;;
    *) echo "${1%.*}/$(ls -A "${1%.*}")" ;;
    esac
)""",
    # It becomes the command; its names are its own, for ENV may have a variable of a plainer one.
    "run_as": """\
run_as() { # USER[:GROUP], command: with the user's groups, and home unless ENV says another
    harness_user=${1%%:*} harness_groups=--clear-groups
    case $1 in
    *:*) harness_group=${1#*:} ;;
    *)
        harness_group=$(id -g "$harness_user" 2>/dev/null || echo 0)
        ! id "$harness_user" >/dev/null 2>&1 || harness_groups=--init-groups ;;
    esac
    harness_passwd=$(getent passwd "$harness_user" | cut -d: -f6)
    shift
    [ -n "${harness_home:-}" ] || export HOME="${harness_passwd:-/}"
    exec setpriv --reuid="$harness_user" --regid="$harness_group" "$harness_groups" "$@"
}""",
    "user_owner": """\
user_owner() ( # USER[:GROUP]: whom a WORKDIR made after USER belongs to
    case $1 in
    *:*) echo "$1" ;;
    *) echo "$(id -u "$1" 2>/dev/null || echo "$1"):$(id -g "$1" 2>/dev/null || echo 0)" ;;
    esac
)""",
    "mount_in": """\
mount_in() ( # tmpfs, ro or rw; what; target; a folder for notes: for one RUN
    mkdir -p "$4"
    path=$3
    while [ ! -e "$path" ] && [ ! -L "$path" ]; do echo "$path" >>"$4/made"; path=$(dirname "$path"); done
    mkdir -p "$(dirname "$3")"
    if [ ! -e "$3" ]; then
        if [ "$1" = tmpfs ] || [ -d "$2" ]; then mkdir "$3"; else : >"$3"; fi
    fi
    if [ "$1" = tmpfs ]; then mount -n -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$3"
    else mount -n --bind "$2" "$3"; fi
    [ "$1" != ro ] || mount -n -o remount,bind,ro,nosuid,nodev "$3"
)""",
    "mount_out": """\
mount_out() ( # target, the notes: what was made for the mount goes, where a RUN has put nothing into it
    umount -n -l "$1"
    if [ -f "$2/made" ]; then
        while IFS= read -r path; do
            if [ -d "$path" ]; then rmdir "$path" 2>/dev/null || true; elif [ ! -s "$path" ]; then rm -f "$path"; fi
        done <"$2/made"
    fi
    rm -r "$2"
)""",
}

_NEEDS = {"way": ("folder",)}


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
