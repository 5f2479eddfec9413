"""Building a set as a graph: here with several at a time, and as jobs of a real Slurm."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster_fixtures import needs_slurm
from small_disk import fill
from tiny_project import HARNESS, REPOSITORY, harness

from harness.catalog.catalog import Catalog
from harness.cluster import PrivateCluster
from harness.factory.graph import Graph, State, Task
from harness.factory.local import LocalRunner

needs_engine = pytest.mark.skipif(
    shutil.which("apptainer") is None and shutil.which("singularity") is None,
    reason="no apptainer or singularity: scripts/install-apptainer; `make test` installs it",
)


def states(graph: Graph) -> dict[str, State]:
    return {name: outcome.state for name, outcome in graph.outcomes.items()}


def test_what_needs_a_failed_task_is_not_tried_and_the_rest_goes_on() -> None:
    a, b = Task("a"), Task("b")
    graph = Graph([a, b, Task("a1", needs=("a",)), Task("a2", needs=("a1",)), Task("b1", needs=("b",))])
    assert [task.name for task in graph.ready()] == ["a", "b"]
    graph.start(a, Path("log"))
    assert [task.name for task in graph.ready()] == ["b"]
    graph.finish(a, State.FAILED, reason="no")
    graph.finish(b, State.BUILT)
    assert [task.name for task in graph.ready()] == ["b1"]
    assert states(graph)["a2"] is State.NOT_TRIED
    assert graph.outcomes["a1"].reason == "it needs a"
    graph.finish(graph.ready()[0], State.UP_TO_DATE)
    assert graph.is_done
    assert graph.has_failed


def test_a_need_outside_the_graph_counts_as_met() -> None:
    graph = Graph([Task("t", needs=("stack",))])
    assert [task.name for task in graph.ready()] == ["t"]


def add_tutorial(project: Path, number: int, stack: str = "tiny") -> None:
    """One more tutorial, a copy of the first."""
    folder = project / f"tutorials/xscow-{number}"
    shutil.copytree(project / "tutorials/xscow-2", folder)
    text = (folder / "tutorial.toml").read_text()
    (folder / "tutorial.toml").write_text(
        text.replace('"xscow-2"', f'"xscow-{number}"').replace('stack = "tiny"', f'stack = "{stack}"')
    )


def add_stack(project: Path, name: str, *, run: str) -> None:
    """One more stack, on the first one's first stage."""
    folder = project / "containers" / name
    shutil.copytree(project / "containers/tiny", folder)
    (folder / "stack.toml").write_text((folder / "stack.toml").read_text().replace('"tiny"', f'"{name}"', 1))
    file = folder / "Dockerfile.cpu"
    file.write_text(file.read_text() + f"RUN {run}\n")


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Name -> its line of the summary."""
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {words[1]: words[2] for words in lines if len(words) == 3}


def test_a_log_that_cannot_be_written_ends_no_task(disk: Path) -> None:
    logs = disk / "logs"
    logs.mkdir()
    fill(disk, 0)
    said: list[str] = []
    graph = Graph([Task(name, ("--version",)) for name in ("a", "b", "c")])
    LocalRunner(REPOSITORY, logs, 2, lambda task, line: said.append(line), lambda task: None).run(graph)
    assert states(graph) == dict.fromkeys("abc", State.BUILT)
    assert sum("the log cannot be written: no space left on device" in line for line in said) == 3
    assert sum(line.startswith("harness ") for line in said) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stack", "tiny", "--via", "slurm"), "--via slurm: not together with --stack"),
        (("--stack", "tiny", "--all", "--jobs", "4"), "--all and --jobs: not together with --stack"),
        (("--stack", "tiny", "--no-overlay"), "--no-overlay: not together with --stack"),
        (("--stack", "tiny", "--force"), "--force: not together with --stack"),
        (("2", "--jobs", "4"), "--jobs has no effect here: without --all one is built after another; add --all"),
        (("--all", "--via", "slurm", "-j", "4"), "--jobs has no effect here: batch jobs wait for the scheduler"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(project: Path, options: tuple[str, ...], words: str) -> None:
    done = harness(project, "build", *options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {words}")
    assert done.stderr.count("\n") == 1


@needs_engine
@pytest.mark.apptainer
def test_a_set_is_built_around_a_broken_stack(project: Path) -> None:
    add_tutorial(project, 3)
    add_stack(project, "broken", run="echo 'E: no such package' >&2; exit 7")
    add_tutorial(project, 4, "broken")
    done = harness(project, "build", "--all", "--jobs", "2")
    assert done.returncode == 1, done.stderr
    shown = rows(done)
    assert shown["tiny-cpu-stack"].startswith("built")
    assert shown["tutorial2.cpu"].startswith("built")
    assert shown["tutorial3.cpu"].startswith("built")
    assert shown["broken-cpu-stack"].startswith("failed")
    assert "E: no such package" in shown["broken-cpu-stack"]
    log = Path(shown["broken-cpu-stack"].rpartition("(")[2].rstrip(")"))
    assert "no such package" in log.read_text()
    assert "not tried" in shown["tutorial4.cpu"]
    assert "it needs broken-cpu-stack" in shown["tutorial4.cpu"]
    assert "tiny-cpu-stack: running" in done.stderr  # plain lines in a pipe
    assert "tutorial3.cpu: built" in done.stderr
    assert "\x1b" not in done.stderr
    catalog = Catalog(project / "catalog")
    assert catalog.current("tutorial2.cpu") is not None
    assert catalog.current("tutorial3.cpu") is not None
    assert catalog.current("tutorial4.cpu") is None

    # Mended: what is up to date stays, and its stack is not even looked at.
    dockerfile = project / "containers/broken/Dockerfile.cpu"
    dockerfile.write_text(dockerfile.read_text().replace("exit 7", "true"))
    again = harness(project, "build", "--all")
    assert again.returncode == 0, again.stderr
    shown = rows(again)
    assert shown["tutorial2.cpu"].startswith("up to date")
    assert shown["tutorial4.cpu"].startswith("built")
    assert "tiny-cpu-stack" not in shown


@needs_engine
@pytest.mark.apptainer
def test_ctrl_c_ends_every_build_and_leaves_nothing_half_written(
    project: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "cache"
    own.mkdir()
    (own / "base").symlink_to(cache / "base")
    (own / "stages").mkdir()
    monkeypatch.setenv("HARNESS_CACHE", str(own))
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(
        "ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim\nFROM ${BASE_IMAGE}\nRUN echo begun; sleep 637\n"
    )
    process = subprocess.Popen([str(HARNESS), "build", "--all"], cwd=project, start_new_session=True)
    log = own / "logs/tiny.cpu.log"
    try:
        deadline = time.monotonic() + 120
        while not (log.is_file() and "begun" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # to the parent alone: it must tell the others
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert subprocess.run(["pgrep", "-f", "sleep 637"], capture_output=True, text=True, check=False).stdout == ""
    assert list((own / "stages").iterdir()) == []
    assert list((own / "tmp").iterdir()) == []
    assert Catalog(project / "catalog").leftovers("tutorial2.cpu") == []


@needs_engine
@needs_slurm
@pytest.mark.apptainer
@pytest.mark.cluster
def test_a_set_is_built_by_batch_jobs_in_their_order(project: Path, slurm_cluster: PrivateCluster) -> None:
    add_tutorial(project, 3)
    add_stack(project, "broken", run="echo 'E: no such package' >&2; exit 7")
    add_tutorial(project, 4, "broken")
    environment = slurm_cluster.environment()
    done = harness(project, "build", "--all", "--via", "slurm", env=environment)
    assert done.returncode == 1, done.stderr
    shown = rows(done)
    assert [name for name, row in shown.items() if row.startswith("built")] == [
        "tiny-cpu-stack",
        "tutorial2.cpu",
        "tutorial3.cpu",
    ], done.stdout
    assert "E: no such package" in shown["broken-cpu-stack"]
    assert "it needs broken-cpu-stack" in shown["tutorial4.cpu"]
    assert Catalog(project / "catalog").current("tutorial3.cpu") is not None

    # A refused job: sbatch's own words, and nothing waits for ever.
    shutil.rmtree(project / "tutorials/xscow-4")
    site = project / "sites/strange.toml"
    site.write_text((project / "sites/default.toml").read_text().replace('"default"', '"strange"', 1))
    lines = [line for line in site.read_text().splitlines() if not line.startswith("partition")]
    at = next((i for i, line in enumerate(lines) if line.startswith("[")), len(lines))
    site.write_text("\n".join([*lines[:at], 'partition = "nowhere"', *lines[at:]]) + "\n")
    refused = harness(project, "build", "--all", "--force", "--via", "slurm", "--site", "strange", env=environment)
    assert refused.returncode == 1
    shown = rows(refused)
    assert "partition" in shown["tiny-cpu-stack"]
    assert "not tried" in shown["tutorial2.cpu"]


@needs_engine
def test_on_a_terminal_a_table_is_drawn_and_the_summary_stays_plain(project: Path) -> None:
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(dockerfile.read_text() + "RUN --network=none true\n")  # refused at once
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [str(HARNESS), "build", "--all"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as process:
        os.close(terminal)
        drawn = b""
        with contextlib.suppress(OSError), os.fdopen(master, "rb", buffering=0) as screen:
            while chunk := screen.read(4096):  # EIO when the other end is closed
                drawn += chunk
        stdout = process.stdout.read() if process.stdout else ""
    assert process.returncode == 1
    assert b"\x1b[" in drawn
    assert "…  tiny-cpu-stack  running" in drawn.decode()
    assert "\x1b" not in stdout
    assert "containers/tiny/Dockerfile.cpu:7: RUN" in stdout
    assert "- tutorial2.cpu   not tried" in stdout


def test_without_slurm_there_is_nothing_to_submit_to(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git") or "")
    done = harness(project, "build", "--all", "--via", "slurm", env={"PATH": str(tools), "SLURM_CONF": ""})
    assert done.returncode == 2
    assert "no Slurm to submit builds to: there is no sbatch" in done.stderr
