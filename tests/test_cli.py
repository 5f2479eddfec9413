"""The command line: help that teaches, and one line with the right exit code for every mistake."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest
from small_disk import fill
from tiny_project import REPOSITORY, harness, make_tiny_project

from harness.cli.main import explained

COMMANDS = [
    "list",
    "convert",
    "defs",
    "build",
    "explain",
    "jobs",
    "submit",
    "status",
    "wait",
    "check",
    "cancel",
    "report",
]
COMMANDS += ["doctor", "demo", "cluster start", "cluster stop", "cluster status", "cluster env"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = harness(REPOSITORY, *command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout
    assert f"harness {command}" in done.stdout


@pytest.mark.parametrize("state", ["full", "read-only"])
def test_what_the_machine_refuses_is_one_line_without_a_traceback(disk: Path, state: str) -> None:
    project = make_tiny_project(disk / "project")
    if state == "full":
        fill(disk, 0)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = harness(project, "defs", env={"HARNESS_CACHE": str(disk / "cache")})
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {disk}")
    assert ("no space left" if state == "full" else "its file system is read-only") in line
    assert "set HARNESS_CACHE and CATALOG to" in line


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    assert explained(FileNotFoundError(errno.ENOENT, "gone", "x")) is None
    assert explained(OSError("no number")) is None
    refused = explained(PermissionError(errno.EACCES, "no", "/x"))
    assert refused is not None
    assert str(refused).startswith("/x: not allowed; ")


def test_make_help_names_every_target() -> None:
    text = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for target in (
        "demo",
        "test",
        "build-sif",
        "build-all",
        "explain",
        "defs",
        "jobs",
        "submit",
        "check",
        "cluster",
        "doctor",
    ):
        assert f"\n  {target} " in text


@pytest.mark.parametrize(
    ("name", "nearest"), [("22", "xscow-2"), ("xscow2", "xscow-2"), ("tutorial3", "xscow-2"), ("", "xscow-2")]
)
def test_an_unknown_tutorial_names_the_nearest(project: Path, name: str, nearest: str) -> None:
    done = harness(project, "build", name)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"unknown tutorial '{name}'" in done.stderr
    assert nearest in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('unit = "counts/s"', 'unit = "counts/s', ["tutorial.toml", "at line "]),
        ('unit = "counts/s"', "", ["tutorial.toml", "throughput.unit", "missing"]),
        ('unit = "counts/s"', 'unit = "counts/s"\nspeed = 3', ["throughput.speed", "metric"]),
        ('kind = "number"', 'kind = "nmber"', ["expectations.0", "'number'"]),
        ("cpus = 1", "cpus = 0", ["resources.cpu.cpus", "greater than or equal to 1"]),
        ('step = "count"\nmetric', 'step = "cuont"\nmetric', ["throughput", "valid steps: count"]),
        ("steps.count = { to = 10 }", "steps.count = { too = 10 }", ["presets.smoke.steps.count", "valid: to"]),
        ("to = 1000", "to = [1]", ["steps.0.parameters.to", "true or false, a number, text"]),
        ('stack = "tiny"', 'stack = "tinny"', ["unknown stack 'tinny'", "valid: tiny"]),
        ('program = "count.py"', 'program = "cuont.py"', ["cuont.py", "not there"]),
        ('id = "xscow-2"', 'id = "xscow-3"', ["xscow-3", "xscow-2"]),
    ],
)
def test_a_broken_tutorial_names_file_key_and_valid_values(project: Path, old: str, new: str, words: list[str]) -> None:
    path = project / "tutorials/xscow-2/tutorial.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = harness(project, "defs")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "2", "--variant", "rocm"], "valid: cpu, cuda"),
        (["submit", "2", "--preset", "huge"], "valid: smoke, bench, full"),
        (["jobs", "--site", "mars"], "valid: default"),
        (["check", "2"], "make submit TUT=2"),
        (["check", "--run", "nowhere"], "no such run folder"),
        (["submit", "2"], "make jobs"),
        (
            ["submit", "2", "--processes", "2"],
            "cannot use --processes 2: no step of it says that it scales",
        ),
        (["submit", "2", "--nodes", "2"], "cannot use --nodes 2"),
        (["convert", "nowhere/Dockerfile"], "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(project: Path, arguments: list[str], words: str) -> None:
    done = harness(project, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert error.startswith("error: ")
    assert words in error


def test_outside_a_checkout_the_command_says_so(tmp_path: Path) -> None:
    done = harness(tmp_path, "list")
    assert done.returncode == 2
    assert "run this from a checkout" in done.stderr


def test_drift_of_generated_files_is_found_and_mended(project: Path) -> None:
    for command, folder in (("defs", "defs"), ("jobs", "jobs")):
        assert harness(project, command).returncode == 0
        assert harness(project, command, "--check").returncode == 0
        edited = sorted((project / folder).glob("*.*"))[0]
        edited.write_text(edited.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
        found = harness(project, command, "--check")
        assert found.returncode == 1
        assert edited.name in found.stderr
        assert f"make {command}" in found.stderr
        stray = project / folder / ("old.def" if folder == "defs" else "old.job")
        stray.write_text("", encoding="utf-8")
        assert harness(project, command).returncode == 0
        assert not stray.exists()


def test_a_new_tutorial_is_one_new_folder(project: Path) -> None:
    """Nothing but the folder is added: it is listed, and has definitions and jobs."""
    source, target = project / "tutorials/xscow-2", project / "tutorials/scow-14"
    target.mkdir()
    for path in source.iterdir():
        text = path.read_text(encoding="utf-8")
        (target / path.name).write_text(text.replace('id = "xscow-2"', 'id = "scow-14"'), encoding="utf-8")
    assert "scow-14" in harness(project, "list").stdout
    assert harness(project, "defs").returncode == 0
    assert harness(project, "jobs").returncode == 0
    assert (project / "defs/tutorial14.cpu.def").is_file()
    assert (project / "jobs/tutorial14.apptainer.job").is_file()
