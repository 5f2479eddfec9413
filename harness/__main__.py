"""``python -m harness``: the command, for whoever knows the interpreter and not the PATH."""

from harness.cli import main

if __name__ == "__main__":
    main()
