"""What an image's own test asks of its programs: each loads, and says with --help what it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_project import REPOSITORY

GOOD = "import argparse\nargparse.ArgumentParser().parse_args()\n"


def self_test(*programs: Path) -> subprocess.CompletedProcess[str]:
    """As the test section of a definition calls it."""
    command = [sys.executable, "-m", "harness.runtime.self_test", *map(str, programs)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def programs(folder: Path, *sources: str) -> list[Path]:
    paths = [folder / f"program{number}.py" for number in range(len(sources))]
    for path, source in zip(paths, sources, strict=True):
        path.write_text(source)
    return paths


def test_programs_that_explain_themselves_pass_in_one_process(tmp_path: Path) -> None:
    log = tmp_path / "processes"
    note = f"import os\nopen({str(log)!r}, 'a').write(f'{{os.getpid()}} {{__name__}}\\n')\n" + GOOD
    done = self_test(*programs(tmp_path, note, note))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first, second = log.read_text().splitlines()
    assert first == second
    assert first.endswith(" __main__")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("import no_such_package\n" + GOOD, "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def main(:\n", "SyntaxError"),
        ("import argparse\nargparse.ArgumentParser().add_argument('--x', typ=int)\n", "TypeError"),
        ("raise SystemExit(3)\n", "program1.py --help ended with 3"),
        ("raise SystemExit('no device')\n", "program1.py --help ended with no device"),
        ("pass\n", "program1.py --help printed nothing"),
    ],
)
def test_the_first_program_that_does_not_is_named(tmp_path: Path, broken: str, said: str) -> None:
    done = self_test(*programs(tmp_path, GOOD, broken, GOOD))
    assert done.returncode == 1
    assert said in done.stderr
    assert "program1.py" in done.stderr


MODULE = """\
from __future__ import annotations
from typing import NamedTuple

class Size(NamedTuple):
    width: int
    @classmethod
    def usual(cls) -> "Size":
        "Docstring."
        return cls(3)
    def area(self) -> int:
        return self.width

def outer():
    def inner():
        return Size.usual()
    def never():
        raise AssertionError
    return inner()

def unused():
    import no_such_package
"""
PROGRAM = """\
import argparse
import threading
import module
SIZE = module.outer()

async def later():
    pass

def in_a_thread():
    pass

def main():
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    after()

def after():
    "Never comes."

if __name__ == "__main__":
    main()
"""


def test_what_ran_is_written_down_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "lazy.py").write_text("raise AssertionError\n")
    (program,) = programs(tmp_path, PROGRAM)
    command = [sys.executable, "-m", "harness.runtime.self_test", "--ran", str(tmp_path / "ran.json"), str(program)]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads((tmp_path / "ran.json").read_text()) == {
        "module.py": ["Size.usual", "outer", "outer.inner"],
        "program0.py": ["in_a_thread", "main"],
    }


def test_nothing_is_written_down_of_a_program_that_fails(tmp_path: Path) -> None:
    done = self_test(Path("--ran"), tmp_path / "ran.json", *programs(tmp_path, GOOD, "raise SystemExit(3)\n"))
    assert done.returncode == 1
    assert not (tmp_path / "ran.json").exists()


def test_programs_that_are_only_compiled_do_not_run(tmp_path: Path) -> None:
    good, bad = programs(tmp_path, "raise AssertionError\n", "def main(:\n")
    assert self_test(Path("--only-compile"), good).returncode == 0
    done = self_test(Path("--only-compile"), good, bad)
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
