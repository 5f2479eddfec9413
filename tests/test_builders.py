"""Several builders, killed builders, full disks: real `harness build` processes on one target."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small_disk import fill
from tiny_project import HARNESS, harness

from harness.catalog.catalog import Catalog
from harness.errors import HarnessError
from harness.image.stages import StageStore
from harness.lease import INTERVAL_VARIABLE

NAME = "tutorial2.cpu"
pytestmark = pytest.mark.apptainer


@pytest.fixture
def own_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, where bases and stages are those of all tests."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("base", "stages"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(cache / name)
    monkeypatch.setenv("HARNESS_CACHE", str(folder))
    return folder


def change_program(project: Path, line: str) -> None:
    program = project / "tutorials/xscow-2/count.py"
    program.write_text(program.read_text() + line + "\n")


def slow_down(project: Path, seconds: float) -> None:
    """The image's test, which asks the program for its help, takes this long: time to do something to its builder."""
    program = project / "tutorials/xscow-2/count.py"
    program.write_text(f"import sys, time\nif '--help' in sys.argv: time.sleep({seconds})\n" + program.read_text())


def builder(project: Path, *arguments: str, within: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*within, str(HARNESS), "build", "2", *arguments],
        cwd=project,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(process: subprocess.Popen[str], words: str) -> str:
    """Read what a builder says up to the line with these words."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"it never said '{words}':\n{seen}")


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_second_builder_says_for_whom_it_waits_and_shares_the_result(project: Path, own_cache: Path) -> None:
    slow_down(project, 3)
    first = builder(project)
    until(first, "Running testscript")
    second = builder(project)
    assert f"{NAME}: waiting for " in (said := until(second, "waiting for"))
    assert f"process {first.pid}, since" in said
    assert "published" in first.communicate()[1]
    said = second.communicate()[1]
    assert (first.returncode, second.returncode) == (0, 0)
    assert "up to date" in said
    assert "published" not in said


def test_a_builder_goes_on_at_once_after_one_that_was_killed_and_sweeps_after_it(
    project: Path, own_cache: Path
) -> None:
    slow_down(project, 60)
    first = builder(project)
    until(first, "Running testscript")
    second = builder(project)
    until(second, "waiting for")
    left = [path for path in (own_cache / "tmp").iterdir() if path.is_dir()]
    assert left
    kill(first)
    slow_down(
        project, 0
    )  # the second one reads the program when its turn has come, or builds the old one: kill it then
    said = until(second, "Running testscript")
    assert "removing a leftover of a killed build" in said
    assert not any(path.exists() for path in left)
    kill(second)
    program = project / "tutorials/xscow-2/count.py"
    program.write_text(program.read_text().replace("time.sleep(60)", "time.sleep(0)"))
    done = harness(project, "build", "2")
    assert done.returncode == 0, done.stderr
    # A kill between making a folder and signing it leaves it empty: nobody can know whose it is until it is old.
    assert [path for path in (own_cache / "tmp").iterdir() if not path.is_dir() or any(path.iterdir())] == []


def test_a_builder_in_another_container_sweeps_nothing_of_a_running_one(
    project: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two process id namespaces on one cache: a number means another process, or none, to the other."""
    if os.geteuid() != 0:
        pytest.skip("a namespace of process ids needs root; runs as root in CI")
    own = tmp_path / "cache"
    own.mkdir()
    (own / "base").symlink_to(cache / "base")
    shutil.copytree(cache / "stages", own / "stages", ignore=shutil.ignore_patterns(".*"), copy_function=os.link)
    monkeypatch.setenv("HARNESS_CACHE", str(own))
    assert harness(project, "build", "2").returncode == 0
    other = tmp_path / "other"
    shutil.copytree(project, other, symlinks=True, ignore=shutil.ignore_patterns("catalog"))
    dockerfile = other / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(f"{dockerfile.read_text()}RUN touch /other && sync\n")
    contained = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    inside = builder(other, within=contained)
    until(inside, "Starting build")
    (number,) = Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text().split()
    os.kill(int(number), signal.SIGSTOP)  # its engine goes on
    (building,) = (own / "stages").glob(".building-*")
    change_program(project, "# other")
    done = harness(project, "build", "2")
    assert done.returncode == 0, done.stderr
    assert "leftover" not in done.stderr
    assert building.exists()
    os.kill(int(number), signal.SIGCONT)
    said = inside.communicate()[1]
    assert inside.returncode == 0, said
    assert not building.exists()


def test_an_image_that_vanished_while_it_was_built_is_said_in_a_line(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with (
        pytest.raises(HarnessError, match="somebody removed the image that was just built; build again"),
        store.aside("ab" * 32) as temporary,
    ):
        store.keep(temporary, "ab" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_builder_that_was_suspended_too_long_publishes_nothing(project: Path, own_cache: Path) -> None:
    slow_down(project, 2)
    first = builder(project, **{INTERVAL_VARIABLE: "0.2"})
    until(first, "Running testscript")
    first.send_signal(signal.SIGSTOP)
    change_program(project, "# the second builder's")
    second = builder(project, **{INTERVAL_VARIABLE: "0.2"})
    said = second.communicate()[1]
    assert second.returncode == 0, said
    catalog = Catalog(project / "catalog")
    published = catalog.current(NAME)
    assert published is not None
    first.send_signal(signal.SIGCONT)
    said = first.communicate()[1]
    assert first.returncode == 1, said
    assert f"{NAME} was taken over by" in said.strip().splitlines()[-1]
    assert catalog.versions(NAME) == [published] == [catalog.current(NAME)]
    assert catalog.leftovers(NAME) == []


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_a_builder_killed_at_any_moment_leaves_the_catalog_whole(project: Path, own_cache: Path, kills: int) -> None:
    """Killed after a share of the time that a build takes: start, layer, test, signing and publishing are hit."""
    started = time.monotonic()
    assert harness(project, "build", "2").returncode == 0
    takes_s = time.monotonic() - started
    catalog = Catalog(project / "catalog")
    moments = random.Random(3)
    for turn in range(kills):
        before = catalog.current(NAME)
        change_program(project, f"# turn {turn}")
        process = builder(project)
        time.sleep(takes_s * (turn + moments.random()) / kills)
        kill(process)
        after = catalog.current(NAME)
        assert after is not None
        catalog.verify(after)
        assert process.returncode == 0 or after == before or after in catalog.versions(NAME)
    assert harness(project, "catalog", "verify").returncode == 0
    done = harness(project, "build", "2", "--force")
    assert done.returncode == 0, done.stderr
    assert catalog.leftovers(NAME) == catalog.stack_leftovers() == []
    assert list((own_cache / "tmp").iterdir()) == []


# --- full disks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave_bytes", [16_384, pytest.param(0, marks=pytest.mark.slow), pytest.param(60_000, marks=pytest.mark.slow)]
)
def test_a_full_catalog_keeps_what_it_has(project: Path, own_cache: Path, disk: Path, leave_bytes: int) -> None:
    """No room for a lease, for a layer, or for what comes after the layer."""
    env = {"CATALOG": str(disk / "catalog")}
    catalog = Catalog(disk / "catalog")
    assert harness(project, "build", "2", env=env).returncode == 0
    before = catalog.current(NAME)
    change_program(project, "# other")
    filler = fill(disk, leave_bytes)
    done = harness(project, "build", "2", env=env)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "no space left" in last
    assert "Traceback" not in done.stderr
    filler.unlink()
    assert catalog.current(NAME) == before
    assert harness(project, "catalog", "verify", env=env).returncode == 0
    assert catalog.leftovers(NAME) == []
    done = harness(project, "build", "2", env=env)
    assert done.returncode == 0, done.stderr
    assert catalog.current(NAME) != before


def test_a_build_with_nothing_to_do_is_done_on_a_cache_that_cannot_be_written(
    project: Path, cache: Path, disk: Path
) -> None:
    for name in ("base", "stages"):
        (disk / name).symlink_to(cache / name)
    env = {"HARNESS_CACHE": str(disk)}
    assert harness(project, "build", "2", env=env).returncode == 0
    (disk / "digests.json").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = harness(project, "build", "2", env=env)
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr
    note = f"note: {disk}/digests.json: digests of files cannot be remembered: read-only file system"
    assert note in done.stderr
    change_program(project, "# other")
    done = harness(project, "build", "2", env=env)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(
        rf"^error: {disk}/\S+: its file system is read-only; .*set HARNESS_CACHE", done.stderr, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("leave_bytes", "options", "said"),
    [
        (16_384, [], "no space left while building tutorial2.cpu"),
        (  # the stack is larger
            30_000_000,
            ["--no-overlay"],
            r"no space left to build tutorial2.cpu: at least \d+ MB are needed, 30 MB are free",
        ),
    ],
)
def test_a_full_cache_loses_nothing(
    project: Path, built_project: Path, cache: Path, disk: Path, leave_bytes: int, options: list[str], said: str
) -> None:
    for name in ("base", "stages"):
        (disk / name).symlink_to(cache / name)
    env = {"HARNESS_CACHE": str(disk)}
    assert harness(project, "build", "2", env=env).returncode == 0
    catalog = Catalog(project / "catalog")
    before = catalog.current(NAME)
    change_program(project, "# other")
    filler = fill(disk, leave_bytes)
    done = harness(project, "build", "2", *options, env=env)
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(said, last)
    assert str(disk) in last
    assert catalog.current(NAME) == before
    filler.unlink()
    assert list((disk / "tmp").iterdir()) == []
    assert harness(project, "build", "2", env=env).returncode == 0
