"""An image's own test is run again when it might do something else, and only then."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tiny_project import harness

from harness.catalog.catalog import Catalog
from harness.image.overlay import OverlayFile
from harness.image.tested import LastPass, digest_of, would_repeat

PROGRAM = """\
import argparse
import torch
from lazily import late

LIMIT = 3

def decorate(function):
    return function

class Network(torch.nn.Module):
    def __init__(self, width=LIMIT):
        "Layers."
        super().__init__()
        self.width = width

    def forward(self, images):
        return images

@decorate
def decorated():
    return 1

def named():
    return 2

STEPS = {"named": named}

def train(args):
    for epoch in range(args.epochs):
        print(epoch)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", default=1)
    train(parser.parse_args())

main()
"""
RAN = {"train.py": ["decorate", "main"]}
FILES = [
    OverlayFile("opt/tutorial/train.py", 0o644, PROGRAM.encode()),
    OverlayFile("opt/tutorial/lazily.py", 0o644, b"import numpy\n"),
    OverlayFile("opt/harness/harness/runtime/run.py", 0o644, b"def end():\n    return 0\n"),
    OverlayFile(".singularity.d/runscript", 0o755, b"exec python\n"),
]


def last_pass() -> LastPass:
    return LastPass(ran=RAN, digest=digest_of("stack", FILES, RAN))


def with_change(number: int, old: str, new: str) -> list[OverlayFile]:
    """The layer with some text in one file replaced by another."""
    text = FILES[number].content.decode()
    assert old in text
    changed = dataclasses.replace(FILES[number], content=text.replace(old, new, 1).encode())
    return [*FILES[:number], changed, *FILES[number + 1 :]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        print(epoch)", "        print(epoch, args)"),
        ("        print(epoch)", "        print(epoch)\n    import no_such_package"),
        ("        return images", "        return undefined"),
        ("        self.width = width", "        self.width = width + 1"),
        ("main()\n", "main()  # a remark\n"),
        ("LIMIT = 3", "\n\nLIMIT = (3)"),
    ],
)
def test_what_the_test_does_not_run_may_change(old: str, new: str) -> None:
    assert would_repeat(last_pass(), "stack", with_change(0, old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import torch\n", "import torch\nimport numpy\n"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("default=1", "default=2"),  # in main, which ran
        ("    return function", "    return print"),
        ("width=LIMIT", "width=1 // 0"),  # evaluated where the function is defined
        ('"Layers."', '"Many layers."'),  # a program may show it
        ("def forward(self, images)", "def forward(self, images: Missing)"),
        ("class Network(torch.nn.Module)", "class Network(torch.nn.Linear)"),
        ("    return 1", "    return 3"),  # its decorator may read it
        ("    return 2", "    return 3"),  # whoever gets STEPS may read it
        ("@decorate\n", ""),
        ("def train(args)", "async def train(args)"),
        ("        print(epoch)", "        print(epoch"),  # no program at all
    ],
)
def test_after_any_other_change_it_is_run(old: str, new: str) -> None:
    assert not would_repeat(last_pass(), "stack", with_change(0, old, new))


def test_whatever_else_is_in_the_layer_counts_whole() -> None:
    assert would_repeat(last_pass(), "stack", FILES)
    assert not would_repeat(None, "stack", FILES)
    assert not would_repeat(last_pass(), "another stack", FILES)
    assert not would_repeat(last_pass(), "stack", with_change(2, "return 0", "return 1"))
    assert not would_repeat(last_pass(), "stack", with_change(3, "exec", "nice"))
    assert would_repeat(last_pass(), "stack", with_change(1, "numpy", "torch"))  # not loaded by the test
    new = OverlayFile("opt/tutorial/argparse.py", 0o644, b"")  # found before the library's
    assert not would_repeat(last_pass(), "stack", [*FILES, new])
    assert not would_repeat(last_pass(), "stack", FILES[1:])


@pytest.mark.apptainer
def test_a_build_runs_the_test_when_what_it_ran_has_changed(built_project: Path, project: Path) -> None:
    program = project / "tutorials/xscow-2/count.py"
    catalog = Catalog(project / "catalog")

    def build(old: str, new: str, *options: str) -> tuple[int, str]:
        source = program.read_text(encoding="utf-8")
        assert old in source
        program.write_text(source.replace(old, new, 1), encoding="utf-8")
        done = harness(project, "build", "2", *options)
        return done.returncode, done.stderr

    late = "\n\ndef late():\n    return 1\n\n\nrun_program(main)\n"
    code, said = build("\n\nrun_program(main)\n", late)
    assert (code, "Running testscript" in said) == (0, True), said
    first = catalog.current("tutorial2.cpu")

    code, said = build("return 1", "return undefined")
    assert (code, "Running testscript" in said, "Compiling" in said) == (0, False, True), said
    second = catalog.current("tutorial2.cpu")
    assert first is not None
    assert second is not None
    assert first.sha256 != second.sha256

    code, said = build("return undefined", "return (")
    assert code == 1
    assert "SyntaxError" in said.splitlines()[-1]
    assert catalog.current("tutorial2.cpu") == second

    code, said = build("return (", "return 2", "--force")
    assert (code, "Running testscript" in said) == (0, True), said

    code, said = build('"count to this"', '"count to this" + 1')
    assert code == 1
    assert "TypeError" in said.splitlines()[-1]
