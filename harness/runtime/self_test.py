"""Do the programs of an image load, and explain themselves? What an image's own test asks.

    python -m harness.runtime.self_test PROGRAM...
    python -m harness.runtime.self_test --ran FILE PROGRAM...      and write down which of their functions ran
    python -m harness.runtime.self_test --only-compile FILE...

Runs each with ``--help``, all in one process: what they import together, often most of the seconds, is loaded once.
Exit code 1 after the first program that does not end well; why, is on the standard error.

What ``--ran`` writes is JSON: for each file beside the programs that was loaded, by its name, the functions of it that
were called, by their places: ``{"train.py": ["main", "Network.__init__"]}``. A program of which nothing that ran has
changed would do the same again (``harness/image/tested.py``).
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

_MARK = "__self_test_ran__"


class Notes:
    """Which functions of the files in some folders were called, in this process, by whichever thread.

    Each function gets a first statement that says so: a tracer would slow down all that libraries do.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = {str(folder) for folder in folders}
        self._ran: dict[str, set[str]] = {}
        setattr(builtins, _MARK, lambda file, function: self._ran[file].add(function))
        sys.meta_path.insert(0, _Finder(self))

    def covers(self, path: Path) -> bool:
        return str(path.parent) in self._folders

    def compiled(self, path: Path) -> types.CodeType:
        """The code of a file, with marks.

        Raises:
            SyntaxError, OSError: there is none.
        """
        self._ran.setdefault(path.name, set())
        return compile(marked(path.read_bytes(), path), str(path), "exec")

    def text(self) -> str:
        """What was noted, as JSON."""
        return json.dumps({file: sorted(functions) for file, functions in sorted(self._ran.items())}) + "\n"


def marked(source: bytes, path: Path) -> ast.Module:
    """A file's syntax tree in which each function first calls ``__self_test_ran__(file, place)``."""
    tree = ast.parse(source, str(path))

    def visit(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            place = outer
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                place = f"{outer}{child.name}"
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                at = 1 if ast.get_docstring(child, clean=False) is not None else 0
                call = ast.parse(f"{_MARK}({path.name!r}, {place!r})").body[0]
                for part in ast.walk(call):
                    ast.copy_location(part, child)
                child.body.insert(at, call)
            visit(child, place if place == outer else f"{place}.")

    visit(tree, "")
    return tree


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the usual finder finds; modules that notes cover are loaded with marks."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            return None
        if not self._notes.covers(Path(spec.origin)):
            return None
        loader = _Loader(name, spec.origin)
        loader.notes = self._notes
        return importlib.util.spec_from_file_location(name, spec.origin, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    notes: Notes

    def get_code(self, fullname: str) -> types.CodeType:
        return self.notes.compiled(Path(self.get_filename(fullname)))


def complaint(program: str, notes: Notes | None = None) -> str | None:
    """What is wrong with a program, run as a script with ``--help``; None where it printed something and ended well.

    Raises:
        Exception: whatever the program raises.
    """
    path = Path(program)
    code = notes.compiled(path) if notes else compile(path.read_bytes(), program, "exec")
    module = types.ModuleType("__main__")
    module.__file__ = program
    ours, sys.modules["__main__"] = sys.modules["__main__"], module
    sys.argv = [program, "--help"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, module.__dict__)
    except SystemExit as end:
        if end.code not in (0, None):
            return f"{program} --help ended with {end.code}"
    finally:
        sys.modules["__main__"] = ours
    return None if printed.getvalue().strip() else f"{program} --help printed nothing"


def first_complaint(programs: Sequence[str], ran: Path | None = None) -> str | None:
    """Of several programs, as a line for people; None where all is well.

    Args:
        ran: write here which functions were called, when all is well.
    """
    notes = Notes([Path(program).parent for program in programs]) if ran else None
    found = (complaint(program, notes) for program in programs)
    said = next((f"error: {text}" for text in found if text), None)
    if said is None and ran is not None and notes is not None:
        ran.write_text(notes.text(), encoding="utf-8")
    return said


def main() -> str | None:
    """Parse the arguments; a line for people where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m harness.runtime.self_test")
    parser.add_argument("--ran", type=Path, metavar="FILE", help="write here which functions ran")
    parser.add_argument("--only-compile", action="store_true", help="run nothing")
    parser.add_argument("programs", nargs="+")
    options = parser.parse_args()
    if options.only_compile:
        for program in options.programs:
            compile(Path(program).read_bytes(), program, "exec")
        return None
    return first_complaint(options.programs, options.ran)


if __name__ == "__main__":
    sys.exit(main())
