"""Building and publishing: real images, and everything that can go wrong on the way."""

from __future__ import annotations

import http.server
import json
import os
import secrets
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from tiny_project import exported, harness, image_of, main_file

from harness.catalog.catalog import Catalog

NAME = "tutorial2.cpu"
CPU_JOB = "jobs/tutorial2.apptainer.cpu.job"
pytestmark = [
    pytest.mark.apptainer,
    pytest.mark.skipif(
        shutil.which("apptainer") is None and shutil.which("singularity") is None,
        reason="no apptainer or singularity: scripts/install-apptainer; `make test` installs it",
    ),
]


def build(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return harness(project, "build", "2", *arguments)


def run_image(project: Path, *arguments: str, preset: str | None = None) -> subprocess.CompletedProcess[str]:
    userns = ["--userns"] if os.geteuid() == 0 else []
    environment = {**os.environ, **({"APPTAINERENV_HARNESS_PRESET": preset} if preset else {})}
    image = image_of(project / "catalog", NAME)
    command = ["apptainer", "run", *userns, "--cleanenv", *image, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_build_publishes_a_working_image_and_does_nothing_when_nothing_changed(project: Path) -> None:
    done = build(project)
    assert done.returncode == 0, done.stderr
    catalog = Catalog(project / "catalog")
    manifest = catalog.current(NAME)
    assert manifest is not None
    catalog.verify(manifest)
    assert catalog.leftovers(NAME) == []
    assert manifest.base.origin in ("registry", "bootstrapped")
    assert manifest.base.digest.startswith("sha256:")

    # The image says what it is, takes a step name, and the preset chooses the parameters.
    run = run_image(project, "count", preset="smoke")
    assert "arguments ['--to', '10'] greeting good day" in run.stdout, run.stderr
    assert "'--to', '1000', '--to', '7'" in run_image(project, "count", "--to", "7").stdout
    assert "valid: count" in run_image(project, "nonsense").stderr
    assert run_image(project, "nonsense").returncode == 2
    image = str(exported(project, project / "exported.sif"))
    asked = subprocess.run(
        ["apptainer", "inspect", "--json", "--all", image], capture_output=True, text=True, check=True
    )
    attributes = json.loads(asked.stdout)["data"]["attributes"]
    assert attributes["labels"]["org.opencontainers.image.title"] == NAME
    assert attributes["labels"]["org.supercontainers.name"] == "tiny"
    assert "Counting\n计数" in attributes["helpfile"]

    again = build(project)
    assert again.returncode == 0
    assert "up to date" in again.stderr
    assert catalog.current(NAME) == manifest


def test_a_changed_program_is_built_again_and_the_old_image_stays_readable(project: Path) -> None:
    assert build(project).returncode == 0
    catalog = Catalog(project / "catalog")
    before = catalog.current(NAME)
    program = project / "tutorials/xscow-2/count.py"
    program.write_text(program.read_text() + "print('changed')\n")
    assert build(project).returncode == 0
    after = catalog.current(NAME)
    assert before is not None
    assert after is not None
    assert after.sha256 != before.sha256
    assert catalog.files(before).main.is_file()
    assert "changed" in run_image(project, "count").stdout


def test_a_failing_test_in_the_image_publishes_nothing_and_names_the_log(project: Path) -> None:
    (project / "tutorials/xscow-2/count.py").write_text("raise SystemExit('Error: broken program')\n")
    done = build(project)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "broken program" in done.stderr.strip().splitlines()[-1]
    catalog = Catalog(project / "catalog")
    assert catalog.current(NAME) is None
    assert catalog.leftovers(NAME) == []


def test_a_damaged_image_is_refused_by_a_job_and_made_anew_by_the_command_that_it_names(project: Path) -> None:
    assert build(project).returncode == 0
    assert harness(project, "jobs").returncode == 0
    image = main_file(project / "catalog", NAME)
    image.chmod(0o644)
    with image.open("r+b") as stream:
        stream.seek(image.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    refused = subprocess.run(["bash", CPU_JOB], cwd=project, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "is damaged" in refused.stderr
    told = refused.stderr.strip().rpartition("make build-sif ")[2]
    assert told == "TUT=xscow-2 VARIANT=cpu"  # which is `harness build xscow-2 --variant cpu`
    done = harness(project, "build", "xscow-2", "--variant", "cpu")
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr
    assert harness(project, "catalog", "verify").returncode == 0


@pytest.mark.parametrize("lost", ["folder", "layer.sif", "manifest.json", "stack.sif", "the stack itself"])
def test_what_somebody_removed_of_a_published_image_is_built_again(project: Path, lost: str) -> None:
    assert build(project).returncode == 0
    catalog = Catalog(project / "catalog")
    published = catalog.current(NAME)
    assert published is not None
    folder = catalog.version(NAME, published.sha256)
    if lost == "folder":
        shutil.rmtree(folder)
    elif lost == "the stack itself":
        (folder / "stack.sif").resolve().unlink()
    else:
        (folder / lost).unlink()
    assert harness(project, "catalog", "list").returncode == 0
    checked = harness(project, "catalog", "verify")
    assert checked.returncode == 1
    assert "build it again: harness build tutorial2 --variant cpu" in checked.stdout, checked.stdout
    explained = harness(project, "explain", "2")
    assert explained.returncode == 0, explained.stderr
    assert f"{NAME}: would be built: the published one is broken: " in explained.stdout
    done = harness(project, "build", "tutorial2", "--variant", "cpu")  # as it was told
    assert done.returncode == 0, done.stderr
    assert f"{NAME}: note: the published one is broken: " in done.stderr
    again = catalog.current(NAME)
    assert again is not None
    assert again.sha256 == published.sha256
    assert harness(project, "catalog", "verify").returncode == 0
    assert "up to date" in build(project).stderr


def test_an_image_without_an_overlay_is_asked_for_and_remembered(project: Path) -> None:
    assert build(project).returncode == 0
    catalog = Catalog(project / "catalog")
    layered = catalog.current(NAME)
    done = harness(project, "build", "2", "--no-overlay")
    assert done.returncode == 0, done.stderr
    whole = catalog.current(NAME)
    assert layered is not None
    assert whole is not None
    assert (layered.has_layer, whole.has_layer) == (True, False)
    assert "up to date" in harness(project, "build", "2", "--no-overlay").stderr
    rebuilt = harness(project, "rebuild", "--verify", "2")
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert "the same, byte for byte" in rebuilt.stdout
    assert "it is one file system" in harness(project, "explain", "2").stdout
    assert harness(project, "build", "2").returncode == 0
    assert catalog.current(NAME) == layered.model_copy(update={"built_at": catalog.current(NAME).built_at})  # type: ignore[union-attr]


def test_without_an_engine_the_build_says_what_to_install(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("git", "sh", "env"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    done = harness(project, "build", "2", env={"PATH": str(tools)})
    assert done.returncode == 2
    assert "scripts/install-apptainer" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_base_that_was_made_here_is_said_so_in_one_line_each_time_it_is_built_on(project: Path) -> None:
    program = project / "tutorials/xscow-2/count.py"
    for options in ([], ["--force"]):
        done = build(project, *options)
        assert done.returncode == 0, done.stderr
        manifest = Catalog(project / "catalog").current(NAME)
        assert manifest is not None
        if manifest.base.origin == "registry":
            pytest.skip("a registry answers here, so nothing is bootstrapped")
        said = [line for line in done.stderr.splitlines() if "bootstrapped here on 20" in line]
        assert len(said) == 1, done.stderr
        assert "not the registry's; harness build --refresh-base" in said[0]
        program.write_text(program.read_text() + "# more\n")


class _Forbidding(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


def test_an_index_of_a_stack_that_is_left_out_is_said_with_its_answer(project: Path) -> None:
    stack = project / "containers/tiny/stack.toml"
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    # A stage that no run of this test left in the cache: only a build asks for indexes.
    dockerfile.write_text(dockerfile.read_text() + f"RUN echo {secrets.token_hex(8)} >/indexes\n")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        forbidding, silent = f"http://127.0.0.1:{server.server_port}/simple", "http://127.0.0.1:9/simple"
        text = stack.read_text().replace(
            "[variants.cpu]", f'[variants.cpu]\nextra_indexes = ["{forbidding}", "{silent}"]'
        )
        stack.write_text(text)
        done = build(project)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert f"tiny.cpu: note: package index {forbidding} is left out: it answers HTTP 403" in done.stderr
    assert f"tiny.cpu: note: package index {silent} is left out: it does not answer" in done.stderr


def test_a_dead_registry_is_named_when_the_base_cannot_be_bootstrapped(project: Path) -> None:
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(
        dockerfile.read_text().replace("docker.io/library/debian:bookworm-slim", "127.0.0.1:9/team/base:1")
    )
    done = build(project)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "127.0.0.1:9" in last
    assert last.startswith("error: ")


def test_a_dockerfile_that_cannot_be_converted_is_refused_with_its_line(project: Path) -> None:
    dockerfile = project / "containers/tiny/Dockerfile.cpu"
    dockerfile.write_text(dockerfile.read_text() + "RUN --network=none true\n")
    done = build(project)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: containers/tiny/Dockerfile.cpu:7: RUN")
