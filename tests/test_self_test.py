"""What an image's own test asks of its programs: each loads, and says with --help what it takes."""

from __future__ import annotations

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
