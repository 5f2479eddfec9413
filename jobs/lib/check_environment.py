"""Hold a Python environment against a requirements lock; run by that environment's Python.

    python -I check_environment.py PYTHON LOCK [NAME==VERSION ...]

PYTHON is major.minor; LOCK a file of pip with lines NAME==VERSION, or nothing. The first thing that is not as locked is
said on one line, and the exit status is 1.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)


def main():
    python, lock, *pins = sys.argv[1:]
    have = ".".join(map(str, sys.version_info[:2]))
    if have != python:
        sys.exit(f"it has Python {have}, locked is {python}")
    text = "\n".join(pins)
    if lock:
        text += "\n" + Path(lock).read_text(encoding="utf-8")
    for name, wanted in PIN.findall(text):
        try:
            found = version(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is missing, locked is {wanted}")
        if found != wanted:
            sys.exit(f"{name} is {found}, locked is {wanted}")


main()
