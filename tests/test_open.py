"""harness open: real jobs on a real Slurm, Jupyter in the real image, a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from browser import needs_browser, page_source
from cluster_fixtures import needs_slurm
from tiny_project import HARNESS, REPOSITORY, harness, image_of, make_tiny_project

from harness.cluster import ClusterSpec, PrivateCluster
from harness.errors import SpecError
from harness.project import Project
from harness.site import Interactive, load_site
from harness.tutorial import load_tutorial


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A project whose stack says that it has Jupyter, and has not."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test` installs it")
    root = make_tiny_project(tmp_path_factory.mktemp("open") / "project")
    stack = root / "containers/tiny/stack.toml"
    stack.write_text(stack.read_text("utf-8").replace("[variants.cpu]\n", '[variants.cpu]\nservers = ["jupyter"]\n'))
    for command in (["jobs"], ["defs"], ["build", "2"]):
        done = harness(root, *command, env={"HARNESS_CACHE": str(cache)})
        assert done.returncode == 0, done.stderr
    return root


# -- what is refused, before a queue wait ---------------------------------------------------------------------------


def test_an_image_without_jupyter_is_refused_with_what_to_add(project: Path) -> None:
    done = harness(project, "open", "jupyter", "2")
    assert done.returncode == 2
    assert done.stderr == (
        "error: containers/tiny/stack.toml: the cpu image of xscow-2 has no Jupyter; add jupyterlab to the requirements"
        " in containers/tiny and 'jupyter' to the variant's servers, then harness lock\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["board", "2"], "xscow-2 has no web board; open that of a LLaMA-Factory tutorial, such as 6"),
        (["rstudio", "2"], "unknown server 'rstudio'"),
        (["jupyter"], "say what to open, and of which tutorial"),
        (["jupyter", "2", "--time", "long"], "--time is 'long'; write hours, minutes and seconds: 2:00:00"),
    ],
)
def test_what_cannot_be_opened_is_one_line(project: Path, words: list[str], said: str) -> None:
    done = harness(project, "open", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((project / "runs").iterdir())


def test_plain_sbatch_says_it_too(project: Path) -> None:
    """The job script alone, without a scheduler; before it looks for data, after it has looked for its image."""
    assert harness(project, "jobs").returncode == 0
    script = (project / "jobs/tutorial2.apptainer.cpu.job").read_text("utf-8")
    lines = script.splitlines()
    assert lines.index("job_open tiny 20000-29999") < lines.index('job_step count "$@"')
    library = 'source jobs/lib/job.sh; NAME=tutorial2 VARIANT=cpu OPEN=$1; job_open tiny 20000-20009 "${@:2}"'
    for words, said in (
        (["jupyter"], "the image of tutorial2 (cpu) has no jupyter; add jupyterlab to containers/tiny"),
        (["board", "jupyter"], "the image of tutorial2 (cpu) has no board; open the board of a tutorial that has"),
        (["vscode", "jupyter"], "unknown OPEN 'vscode'; use jupyter or board"),
    ):
        done = subprocess.run(["bash", "-c", library, "job", *words], cwd=project, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {said}")


def test_ports_are_the_sites_without_the_forbidden_ones_and_never_8888(project: Path) -> None:
    assert (
        Interactive(ports="8000-9000", forbidden_ports=[8000, 8500]).allowed_ports() == "8001-8499,8501-8887,8889-9000"
    )
    assert Interactive(ports="8880-8888").allowed_ports() == "8880-8887"
    site = project / "sites/default.toml"
    with site.open("a", encoding="utf-8") as file:
        file.write('\n[interactive]\nports = "8888-8888"\n')
    with pytest.raises(SpecError, match="ports '8888-8888' leaves none"):
        load_site(Project(project), "default")


def test_the_repositorys_tutorials_say_what_can_be_opened() -> None:
    for name, words in (("2", "pytorch 20000-29999 jupyter"), ("6", "llamafactory 20000-29999 jupyter board")):
        stem = load_tutorial(Project(REPOSITORY), name).stem
        for suffix in ("", ".cpu"):
            assert f"\njob_open {words}\n" in (REPOSITORY / f"jobs/{stem}.apptainer{suffix}.job").read_text("utf-8")


# -- a job that never answers ---------------------------------------------------------------------------------------


@needs_slurm
@pytest.mark.apptainer
def test_a_job_that_dies_says_why(tiny: Path, slurm_cluster: PrivateCluster) -> None:
    done = harness(tiny, "open", "jupyter", "2", env=slurm_cluster.environment())
    assert done.returncode == 1
    assert "No module named jupyterlab" in done.stderr  # the log's tail
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: tutorial2-cpu-jupyter-")
    assert "the job ended before jupyter answered: a Python package is not in the image" in last
    assert "no session is open" in harness(tiny, "open", "--list").stdout
    # It is no run to be judged, and not the tutorial's newest one.
    assert "no run of xscow-2" in harness(tiny, "check", "2").stderr
    (folder,) = (tiny / "runs").glob("tutorial2-cpu-jupyter-*")
    assert "an interactive session has nothing to be judged" in harness(tiny, "check", "--run", str(folder)).stderr


@needs_slurm
@pytest.mark.apptainer
@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_while_waiting_cancels_or_leaves_the_job(tiny: Path, slurm_cluster: PrivateCluster, keep: bool) -> None:
    environment = os.environ | slurm_cluster.environment()
    command = [str(HARNESS), "open", "jupyter", "2", "-o", "--begin=now+1hour", *(["--keep"] if keep else [])]
    process = subprocess.Popen(
        command, cwd=tiny, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    run_id = process.stdout.readline().strip().rpartition("/")[2]
    assert "PENDING" in process.stderr.readline()  # it waits
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert ("left as it is" if keep else f"cancelled {run_id}") in said
    queued = subprocess.run(["squeue", "-h", "-o", "%j"], env=environment, capture_output=True, text=True, check=True)
    assert (run_id in queued.stdout) is keep
    if keep:
        listed = harness(tiny, "open", "--list", env=slurm_cluster.environment()).stdout
        assert run_id in listed
        assert "PENDING" in listed
        assert harness(tiny, "cancel", "2", env=slurm_cluster.environment()).stdout == f"cancelled {run_id}\n"
        assert "no session is open" in harness(tiny, "open", "--list").stdout


# -- Jupyter, for real ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_range(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    with PrivateCluster(tmp_path_factory.mktemp("slurm"), ClusterSpec(nodes=1, cpus=8)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def catalog(cache: Path) -> Path:
    """A catalog that holds the image of tutorial 2, shared with tests/test_tutorials.py."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test` installs it")
    root = cache / "catalog"
    done = harness(REPOSITORY, "build", "2", env={"CATALOG": str(root), "HARNESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def jupyter(
    catalog: Path,
    small_range: PrivateCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, str, dict[str, str]]]:
    """A session of tutorial 2: its run folder, what `harness open` printed, and the environment it was opened in."""
    notebooks = tmp_path_factory.mktemp("notebooks")
    environment = {**small_range.environment(), "CATALOG": str(catalog), "NOTEBOOKS": str(notebooks)}
    done = harness(REPOSITORY, "open", "jupyter", "2", "--time", "0:10:00", env=environment)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: +(\S+)$", done.stdout, re.MULTILINE)
    assert found is not None
    folder = REPOSITORY / found[1]
    try:
        yield folder, done.stdout, environment
    finally:
        harness(REPOSITORY, "cancel", "--run", str(folder), env=environment)
        shutil.rmtree(folder, ignore_errors=True)


@needs_slurm
@pytest.mark.apptainer
@pytest.mark.image
class TestJupyter:
    """One session, looked at from all sides."""

    def test_it_says_how_to_get_there(self, jupyter: tuple[Path, str, dict[str, str]]) -> None:
        folder, printed, environment = jupyter
        session = json.loads((folder / "session.json").read_text("utf-8"))
        port, token, host = session["port"], session["token"], socket.gethostname()
        assert 20000 <= port <= 29999
        assert re.search(rf"^tunnel:  ssh -N -L {port}:{host}:{port} \S+@\S+$", printed, re.MULTILINE)
        assert f"url:     http://localhost:{port}/lab?token={token}\n" in printed
        assert f"direct:  http://{host}:{port}/lab?token={token}\n" in printed
        listed = harness(REPOSITORY, "open", "--list", env=environment).stdout
        assert re.search(rf"^{folder.name} +jupyter +RUNNING .*token={token}", listed, re.MULTILINE)
        ledger = json.loads((folder / "ledger.json").read_text("utf-8"))
        assert ledger["open"] == "jupyter"
        assert ledger["image_sha256"]

    def test_the_token_is_its_owners_alone(self, jupyter: tuple[Path, str, dict[str, str]]) -> None:
        folder, _, environment = jupyter
        session = json.loads((folder / "session.json").read_text("utf-8"))
        address = f"http://127.0.0.1:{session['port']}"
        for headers in ({}, {"Authorization": "token wrong"}):
            with pytest.raises(HTTPError, match="403"):
                urlopen(Request(f"{address}/api/kernels", headers=headers), timeout=30)
        with urlopen(f"{address}/lab?token={session['token']}", timeout=30) as page:
            assert page.status == 200
        secret = session["token"].encode()
        for path in [*folder.rglob("*"), *Path(environment["NOTEBOOKS"]).rglob("*")]:
            if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
                assert secret not in path.read_bytes(), path
        assert stat.S_IMODE((folder / "session.json").stat().st_mode) == 0o600
        assert secret not in subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout

    def test_a_cell_computes_with_the_images_torch(
        self,
        jupyter: tuple[Path, str, dict[str, str]],
        catalog: Path,
    ) -> None:
        userns = ["--userns"] if os.geteuid() == 0 else []
        command = ["apptainer", "exec", *userns, "--cleanenv", "--no-home", "--bind", f"{REPOSITORY}:/mnt:ro"]
        command += [*image_of(catalog, "tutorial2.cpu"), "python", "/mnt/tests/in_image/jupyter_cell.py"]
        with (jupyter[0] / "session.json").open() as session:
            done = subprocess.run(command, stdin=session, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("sum 10.0 2.")

    @pytest.mark.browser
    @needs_browser
    def test_the_page_in_a_browser(self, jupyter: tuple[Path, str, dict[str, str]], tmp_path: Path) -> None:
        session = json.loads((jupyter[0] / "session.json").read_text("utf-8"))
        address = f"http://localhost:{session['port']}/lab?token="
        seen = page_source(address + session["token"], tmp_path / "in", budget_ms=20_000)
        assert 'id="jp-main-dock-panel"' in seen  # drawn by JupyterLab's own scripts
        refused = page_source(address + "wrong", tmp_path / "out", budget_ms=5_000)
        assert "jp-main-dock-panel" not in refused
        assert "Token authentication is enabled" in refused

    def test_cancelled_it_leaves_nothing_behind(self, jupyter: tuple[Path, str, dict[str, str]]) -> None:
        """The last test of the session: others would find it closed."""
        folder, _, environment = jupyter
        assert harness(REPOSITORY, "cancel", "--run", str(folder), env=environment).returncode == 0
        harness(REPOSITORY, "wait", "--run", str(folder), env=environment)
        assert not (folder / "session.json").exists()
        assert folder.name not in harness(REPOSITORY, "open", "--list", env=environment).stdout


# -- LLaMA-Factory's board ------------------------------------------------------------------------------------------


@needs_slurm
@needs_browser
@pytest.mark.apptainer
@pytest.mark.browser
@pytest.mark.slow
def test_the_board_in_a_browser(small_range: PrivateCluster, cache: Path, tmp_path: Path) -> None:
    """The real LLaMA-Factory image: its page shows the fields for model and data set, to who has the token."""
    notebooks = tmp_path / "notebooks"
    environment = {**small_range.environment(), "CATALOG": str(cache / "catalog"), "HARNESS_CACHE": str(cache)}
    environment["NOTEBOOKS"] = str(notebooks)
    built = harness(REPOSITORY, "build", "11", env=environment)
    assert built.returncode == 0, built.stderr
    done = harness(REPOSITORY, "open", "board", "11", env=environment)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: +(\S+)$", done.stdout, re.MULTILINE)
    assert found is not None
    folder = REPOSITORY / found[1]
    try:
        session = json.loads((folder / "session.json").read_text("utf-8"))
        address = f"http://localhost:{session['port']}/"
        for query in ("", "?token=wrong"):
            with pytest.raises(HTTPError, match="401"):
                urlopen(address + query, timeout=60)
        for _ in range(5):  # the browser's clock runs ahead of a busy machine's board
            seen = page_source(f"{address}?token={session['token']}", tmp_path / "profile", budget_ms=30_000)
            if "Model name" in seen:
                break
        assert 'id="top.model_name"' in seen
        assert 'id="train.dataset"' in seen
        assert "Model name" in seen  # the label that the page fetched from the running board
        assert (notebooks / "data/dataset_info.json").is_file()
        assert session["token"].encode() not in (folder / "log.txt").read_bytes()
    finally:
        harness(REPOSITORY, "cancel", "--run", str(folder), env=environment)
        harness(REPOSITORY, "wait", "--run", str(folder), env=environment)
        shutil.rmtree(folder, ignore_errors=True)
