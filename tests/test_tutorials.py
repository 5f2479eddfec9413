"""The tutorials themselves: real images of this checkout, real jobs on a real Slurm, judged by the harness."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cluster_fixtures import needs_slurm
from tiny_project import REPOSITORY, harness, image_of

from harness.catalog.catalog import Catalog
from harness.cluster import ClusterSpec, PrivateCluster
from harness.project import Project, image_name
from harness.run.paths import RunPaths
from harness.run.reruns import resubmit
from harness.run.result import load_result
from harness.tutorial import load_tutorial

TUTORIALS = ("mnist", "xscow-1", "xscow-2", "xscow-3", "scow-0", "scow-1", "scow-3")
IMAGES = tuple(image_name(load_tutorial(Project(REPOSITORY), name).stem, "cpu") for name in TUTORIALS)
pytestmark = [pytest.mark.apptainer, pytest.mark.image]


@pytest.fixture(scope="session")
def catalog(cache: Path) -> Catalog:
    """The CPU images of this checkout, built here; stack stages come from the cache where nothing changed."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test` installs it")
    root = cache / "catalog"
    done = harness(REPOSITORY, "build", *TUTORIALS, env={"CATALOG": str(root), "HARNESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    return Catalog(root)


@pytest.fixture
def small_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateCluster]:
    """One node with two cores: jobs run one after the other, so that none measures its neighbour."""
    with PrivateCluster(tmp_path_factory.mktemp("small"), ClusterSpec(nodes=1, cpus=2)) as cluster:
        yield cluster


def inside(catalog: Catalog, image: str, *command: str, bind: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in an image as the job scripts do."""
    userns = ["--userns"] if os.geteuid() == 0 else []
    flags = ["--bind", bind] if bind else []
    argv = ["apptainer", "exec", *userns, "--cleanenv", "--no-home", *flags, *image_of(catalog.root, image), *command]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@needs_slurm
def test_all_smoke_runs_pass_as_slurm_jobs_in_their_images(
    catalog: Catalog, small_cluster: PrivateCluster, tmp_path: Path
) -> None:
    environment = {**os.environ, **small_cluster.environment(), "CATALOG": str(catalog.root)}
    suite = [sys.executable, "-m", "pytest", "--pyargs", "harness.suite", "-p", "no:cacheprovider", "-v"]
    asked = ["--tutorial", ",".join(TUTORIALS), "--variant", "cpu", "--preset", "smoke"]
    files = [f"--junitxml={tmp_path}/junit.xml", "--report", str(tmp_path / "report")]
    done = subprocess.run([*suite, *asked, *files], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for check in (
        "xscow-2.cpu.smoke::train::output::test_accuracy[data_source=digits] PASSED",
        "mnist.cpu.smoke::train::output::test_accuracy[data_source=digits] PASSED",
        "xscow-1.cpu.smoke::train::throughput::train_throughput PASSED",
        "scow-3.cpu.smoke::train::output::world_size PASSED",
        "xscow-3.cpu.smoke::train::output::reload_difference PASSED",
        "scow-0.cpu.smoke::check::output::problem_count PASSED",
        "mnist.cpu.smoke::image::digest PASSED",
    ):
        assert check in done.stdout
    properties = {(p.get("name"), p.get("value")) for p in ElementTree.parse(tmp_path / "junit.xml").iter("property")}
    for image in IMAGES:
        manifest = catalog.current(image)
        assert manifest is not None
        assert any(value == manifest.sha256 for _, value in properties)
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= len(TUTORIALS) - 1  # scow-0 draws nothing


def run_in_image_tests(catalog: Catalog, *names: str) -> None:
    """The unittest cases of tests/in_image, by the image's own Python."""
    command = ("env", "-C", "/mnt/tests/in_image", "python", "-m", "unittest", "-v", *names)
    done = inside(catalog, "tutorial2.cpu", *command, bind=f"{REPOSITORY}:/mnt:ro")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "skipped" not in done.stderr


def test_the_programs_read_real_files_refuse_broken_ones_and_repeat_by_seed(catalog: Catalog) -> None:
    run_in_image_tests(catalog, "test_programs", "test_ranks.Refused")


def test_any_number_of_ranks_gives_the_numbers_of_one_process(catalog: Catalog) -> None:
    run_in_image_tests(catalog, "test_ranks.Equal")


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(catalog: Catalog) -> None:
    run_in_image_tests(catalog, "test_ranks.Resumed")


@needs_slurm
def test_ranks_on_two_nodes_meet_and_are_one_run(
    catalog: Catalog, slurm_cluster: PrivateCluster, tmp_path: Path
) -> None:
    """scow-3 on two virtual nodes, two processes each, by plain sbatch."""
    environment = {**os.environ, **slurm_cluster.environment(), "CATALOG": str(catalog.root), "PRESET": "smoke"}
    environment["RUN_ID"] = f"two-nodes-{os.getpid()}"
    folder = REPOSITORY / "runs" / environment["RUN_ID"]
    short = ["--epochs", "2", "--max-images", "200"]
    command = ["sbatch", "--wait", "--nodes=2", f"--output={tmp_path}/log", "jobs/scow-3.apptainer.cpu.job", *short]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text(encoding="utf-8")
        outputs = load_result(folder / "result.json").steps["train"].outputs
        assert outputs["world_size"] == 4
        assert [member["node"] for member in outputs["ranks"]] == ["n1", "n1", "n2", "n2"]
        assert not list(folder.glob(".rendezvous*"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@needs_slurm
def test_a_person_may_ask_for_more_processes_or_nodes_and_sees_the_loss_of_one_process(
    catalog: Catalog, slurm_cluster: PrivateCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mnist by `harness submit`: one process, two of a node, one on each of two nodes; a re-run is of the same size."""
    for name, value in {**slurm_cluster.environment(), "CATALOG": str(catalog.root)}.items():
        monkeypatch.setenv(name, value)
    # One step per epoch, so the loss before and after one: later ones differ by the roundings of single precision.
    short = [word for value in ("epochs=2", "max_images=151", "batch_size=151") for word in ("--set", value)]
    sizes = {(1, 1): (), (1, 2): ("--processes", "2"), (2, 1): ("--nodes", "2")}
    runs: list[RunPaths] = []
    try:
        for asked in sizes.values():
            done = harness(REPOSITORY, "submit", "mnist", "--preset", "smoke", *short, *asked)
            assert done.returncode == 0, done.stderr
            runs.append(RunPaths(REPOSITORY / done.stdout.strip()))
        runs += resubmit(
            Project(REPOSITORY, catalog_override=catalog.root), runs[2], 1, known=(), progress=lambda _: None
        )
        waited = harness(REPOSITORY, "wait", *(str(run.folder) for run in runs))
        assert waited.returncode == 0, waited.stdout + waited.stderr
        steps = [load_result(run.result).steps["train"] for run in runs]
        nodes = [[member["node"] for member in step.outputs["ranks"]] for step in steps]
        assert [len(set(names)) for names in nodes] == [1, 1, 2, 2]
        assert [step.outputs["world_size"] for step in steps] == [1, 2, 2, 2]
        for step in steps:
            assert step.outputs["train_loss"] == pytest.approx(steps[0].outputs["train_loss"], rel=1e-5)
            assert step.metrics["train_throughput"].value == pytest.approx(151 / step.phases["measured"], rel=0.05)
    finally:
        for run in runs:
            shutil.rmtree(run.folder, ignore_errors=True)


def test_the_image_is_closed_to_the_users_own_packages_and_keeps_nothing_of_the_builder(catalog: Catalog) -> None:
    look = "import sys, site; print(site.ENABLE_USER_SITE, *sys.path)"
    done = inside(catalog, "tutorial2.cpu", "python", "-c", look)
    assert done.stdout.startswith("False ")
    assert ".local" not in done.stdout
    left = inside(
        catalog, "tutorial2.cpu", "sh", "-c", "ls -A /mnt /.harness-build /etc/pip.conf /root/.config 2>/dev/null"
    )
    assert left.stdout.strip() == "/mnt:"
