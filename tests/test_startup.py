"""Commands start at once: each imports what it uses, and the table of commands is what the modules register."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_project import REPOSITORY, harness

from harness.cli.commands import COMMANDS, registered_by

HEAVY = ("alembic", "docker", "jinja2", "PIL", "rich", "sqlalchemy")  # typer itself brings pydantic


def loaded_by(*arguments: str) -> set[str]:
    """The heavy libraries that a command loads."""
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('LOADED', *(name for name in {HEAVY!r} if name in sys.modules)))\n"
        "from harness.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"], ["status", "-n", "1"]])
def test_what_is_typed_often_loads_no_heavy_library(arguments: list[str]) -> None:
    assert loaded_by(*arguments) == set()


def test_submitting_needs_no_database_and_no_docker() -> None:
    assert not loaded_by("submit", "--help") - {"jinja2", "rich"}


@pytest.mark.parametrize("module", sorted({entry.module for entry in COMMANDS.values()}))
def test_the_table_of_commands_is_what_the_modules_register(module: str) -> None:
    listed = {name: entry.summary for name, entry in COMMANDS.items() if entry.module == module}
    assert {name: command.get_short_help_str(1000) for name, command in registered_by(module).items()} == listed


def test_a_mistyped_command_is_told_the_nearest() -> None:
    done = harness(REPOSITORY, "statsu")
    assert done.returncode == 2
    assert "No such command 'statsu'. Did you mean 'status'" in done.stderr
