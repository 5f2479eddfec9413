"""When an image's own test need not be run again, because it would do what it did when it last passed.

The test asks each program for its ``--help``, which loads all that the program imports: most of the seconds of a
rebuild after one line has changed. Most lines are in functions that ``--help`` never calls. So the test writes down
which functions ran (``harness/runtime/self_test.py``), and what it passed with is remembered: the stack, the rest of
the layer, and of each program all but the bodies of the functions that did not run. While that is the same, so is what
the test does; then the programs are only compiled, in the image.

Taken to have run is what something may look into without calling it: decorated functions, all of a decorated class, and
functions that a statement outside of functions names. Not seen is a function that ran and reads another one's source.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from harness.definition.tutorial_image import PROGRAMS
from harness.files import write_whole
from harness.image.overlay import OverlayFile

Ran = dict[str, list[str]]
"""Name of a file that the test loaded -> the functions of it that ran, by their places, such as ``Network.forward``."""

RAN = TypeAdapter(Ran)


class LastPass(BaseModel):
    """What an image's own test passed with.

    Attributes:
        ran: of each file that was loaded the functions that were called.
        digest: see :func:`digest_of`.
    """

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    ran: Ran
    digest: str


def digest_of(stack_key: str, files: Sequence[OverlayFile], ran: Mapping[str, Sequence[str]]) -> str:
    """sha256 (hex) over all that the test depends on, if it runs what it ran.

    Args:
        stack_key: of the stack's stage.
        files: the tutorial's layer; of its programs the essence counts, of all others the whole.

    Raises:
        SyntaxError: a program is none, for this process's Python.
    """
    counted = {}
    for file in files:
        if not is_program(file):
            counted[file.path] = hashlib.sha256(file.content).hexdigest()
        elif (name := Path(file.path).name) in ran:
            counted[file.path] = essence(file.content, ran[name])
        else:
            counted[file.path] = "not loaded"
    said = [stack_key, counted, sys.version_info[:2]]  # ast.dump differs by version
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def is_program(file: OverlayFile) -> bool:
    """Whether tests note which functions of a file run."""
    return Path("/", file.path).parent == Path(PROGRAMS) and file.path.endswith(".py")


def essence(source: bytes, ran: Sequence[str]) -> str:
    """A program's syntax tree without the bodies of functions that did not run, as text.

    Raises:
        SyntaxError: it is no program.
    """
    tree = ast.parse(source)
    named = {node.id for node in _outside_functions(tree) if isinstance(node, ast.Name)}
    _empty(tree, "", {*ran}, named)
    return ast.dump(tree)


def remembered(file: Path) -> LastPass | None:
    """What is remembered of an image's test; None for nothing, or what another version of this program wrote."""
    try:
        return LastPass.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def remember(file: Path, tested: LastPass) -> None:
    """Remember it in place of what was remembered."""
    write_whole(file, tested.model_dump_json(indent=1) + "\n")


def would_repeat(tested: LastPass | None, stack_key: str, files: Sequence[OverlayFile]) -> bool:
    """Whether a test that passed would do the very same now."""
    try:
        return tested is not None and tested.digest == digest_of(stack_key, files, tested.ran)
    except (SyntaxError, ValueError):
        return False  # the test will say so better


def _outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes that are not in a function's body; what decorates it or is its argument's default is none of it."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            waiting += [*node.decorator_list, node.args]
        else:
            waiting += ast.iter_child_nodes(node)


def _empty(tree: ast.AST, outer: str, ran: set[str], named: set[str]) -> None:
    """Take the bodies out of functions that did not run; their docstrings stay."""
    for node in ast.iter_child_nodes(tree):
        place = outer
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.decorator_list:
                continue  # whole
            place = f"{outer}{node.name}"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and place not in ran and node.name not in named:
            node.body = node.body[:1] if ast.get_docstring(node) is not None else []
            continue
        _empty(node, place if place == outer else f"{place}.", ran, named)
