"""What job scripts offer to programs that write to the site's storage or reach hubs; without image and scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_support import run_here, site
from tiny_hub import TinyHub
from tiny_project import REPOSITORY

from harness.project import Project
from harness.run.needs import look
from harness.runtime import environment
from harness.tutorial import load_tutorial

JOB = "jobs/tutorial2.apptainer.cpu.job"
MODEL = "Qwen/Qwen3-4B-Instruct-2507"


def sourced(root: Path, commands: str, *options: str, **variables: str) -> list[str]:
    """Lines printed by commands of jobs/lib/job.sh; ``options`` are the job script's own."""
    script = "source jobs/lib/job.sh; DATA_ROOT= MODELS_ROOT= PRESET=full NODE=n1; " + commands
    environment = {**{key: value for key, value in os.environ.items() if key not in ("DATA", "MODELS")}, **variables}
    done = subprocess.run(
        ["bash", "-c", script, "job", *options], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_a_job_that_downloads_runs_where_the_internet_is_with_the_sites_hubs(supplied: Path) -> None:
    site(supplied, huggingface=["https://hf.example"], modelscope=["https://ms.example/x"])
    toml = supplied / "sites/default.toml"
    toml.write_text('partition = "batch"\ndata_partition = "data"\n' + toml.read_text())
    tutorial = supplied / "tutorials/xscow-2/tutorial.toml"
    assert run_here(supplied, "jobs").returncode == 0
    assert "--partition=batch" in (supplied / JOB).read_text()
    text = tutorial.read_text().replace("[resources.cpu]", "[resources.cpu]\ninternet = true", 1)
    tutorial.write_text('stores = ["models"]\n' + text)
    assert run_here(supplied, "jobs").returncode == 0
    job = (supplied / JOB).read_text()
    assert "--partition=data" in job
    assert f"job_offer_models {supplied.parent}/models writable" in job
    assert "job_offer_hubs huggingface=https://hf.example,modelscope=https://ms.example/x" in job


def test_a_root_is_writable_only_for_those_who_ask(supplied: Path, tmp_path: Path) -> None:
    show = 'echo "${MODELS_BIND[1]} ${DATA_BIND[1]}"'
    [line] = sourced(supplied, f"job_offer_models {tmp_path} writable; job_offer_data {tmp_path}; {show}")
    assert line == f"{tmp_path}:/models:rw {tmp_path}:/data:ro"


def test_hubs_tokens_and_proxies_go_along(supplied: Path) -> None:
    lines = sourced(
        supplied,
        "job_offer_hubs modelscope=http://m; printf '%s\\n' \"${HUB_VARIABLES[@]}\"",
        HF_TOKEN="t", https_proxy="http://proxy:1",
    )  # fmt: skip
    assert {"HARNESS_HUBS=modelscope=http://m", "HF_TOKEN=t", "https_proxy=http://proxy:1"} <= set(lines)


@pytest.mark.parametrize(("options", "refused"), [((), True), (("--weights", "random"), False), (("--x",), True)])
def test_a_missing_model_is_refused_unless_the_job_brings_its_own(
    supplied: Path, options: tuple[str, ...], refused: bool
) -> None:
    lines = sourced(supplied, "job_check_models owner/m smoke m config.json; echo on", *options)
    assert ("on" in lines) is not refused
    assert any("fetch it: .venv/bin/harness models fetch 'owner/m'" in line for line in lines) is refused
    assert "on" in sourced(supplied, "PRESET=smoke; job_check_models owner/m smoke m config.json; echo on")
    [line] = sourced(supplied, "job_check_data '' smoke d file; echo on")
    assert "get it by hand: see docs/models-and-data.md" in line


def download(run: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """scow-4's program, as a job runs it, with a rehearsal as small as can be."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HARNESS_", "HF_"))}
    offered = {"PYTHONPATH": str(REPOSITORY), environment.RUN_DIR: str(run), environment.VARIANT: "cpu", **variables}
    program = str(REPOSITORY / "tutorials/scow-4/download.py")
    command = [sys.executable, program, "--size-mb", "3", *arguments]
    return subprocess.run(command, env={**known, **offered}, capture_output=True, text=True, check=False)


def test_scow_4_rehearses_and_then_downloads_from_the_sites_mirror(tmp_path: Path) -> None:
    root, run = tmp_path / "models", tmp_path / "run"
    root.mkdir()
    files = {"config.json": b"{}", "model.safetensors": bytes(300_000)}
    with TinyHub({MODEL: files}).running() as hub:
        mirrors = f"huggingface=http://127.0.0.1:9,modelscope={hub.address}"
        nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", environment.MODELS_DIR: str(root)}
        done = download(run, **nowhere, **{environment.HUBS: mirrors})
        hub_address = hub.address
    assert done.returncode == 0, done.stderr
    outputs = json.loads((run / "result.json").read_text())["steps"]["download"]["outputs"]
    assert outputs["killed_with"] == -9 and outputs["resumed_equal"] and outputs["together_equal"]
    assert outputs["together_downloads"] == 3 and outputs["modelscope_equal"]
    assert outputs["damaged"] == ["model-00002-of-00003.safetensors"]
    assert outputs["verified"] and outputs["hub"] == hub_address
    assert (root / MODEL / "model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ((), {}, "no folder to download to: set MODELS"),
        (("--root", "/nowhere"), {}, "/nowhere cannot be written"),
        (("--source", "moon"), {}, "--source is hub or rehearsal"),
        (("--size-mb", "1"), {}, "1 is below 3"),
    ],
)
def test_scow_4_says_what_is_wrong_before_it_begins(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    done = download(tmp_path / "run", *arguments, **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert "tiny/random-weights" not in done.stdout


IDX = ["train-images{}idx3-ubyte", "train-labels{}idx1-ubyte", "t10k-images{}idx3-ubyte", "t10k-labels{}idx1-ubyte"]


@pytest.mark.parametrize(
    ("tutorial_id", "folder", "files", "lacking"),
    [
        ("scow-7", "MRPC", ["msr_paraphrase_train.txt", "msr_paraphrase_test.txt"], ""),
        ("scow-7", "MRPC", ["train.tsv", "msr_paraphrase_dev.tsv"], ""),
        ("scow-7", "MRPC", ["train.tsv", "dev.tsv.gz"], "MRPC/dev.tsv"),
        ("xscow-2", "mnist", [name.format(".") for name in IDX], ""),
        ("mnist", "MNIST/raw", [name.format("-") + ".gz" for name in IDX], ""),
        ("mnist", "mnist", [name.format(".") + ".gz" for name in IDX[:3]], "mnist/t10k-labels-idx1-ubyte"),
        ("xscow-1", "ames", ["train.csv.gz"], "ames/train.csv"),
        ("scow-3", "cifar10", ["data_batch_1.gz"], "cifar10/data_batch_1"),
    ],
)
def test_a_job_accepts_the_files_that_its_program_opens_and_no_others(
    tmp_path: Path, tutorial_id: str, folder: str, files: list[str], lacking: str
) -> None:
    """And `harness submit` with it."""
    tutorial = load_tutorial(Project(REPOSITORY), tutorial_id)
    (tmp_path / folder).mkdir(parents=True)
    for file in files:
        (tmp_path / folder / file).write_text("1")
    script = REPOSITORY / "jobs" / f"{tutorial.stem}.apptainer.cpu.job"
    [check] = [line for line in script.read_text().splitlines() if line.startswith("job_check_data ")]
    said = sourced(REPOSITORY, f"DATA_ROOT={tmp_path}; {check}; echo on")
    found = look("data", tutorial.data[0], tmp_path)
    if lacking:
        assert said[0].startswith(f"error: data set incomplete: {tmp_path}/{lacking} is missing")
        assert found is not None and found.problem == f"{tmp_path}/{lacking} is missing"
    else:
        assert (said, found) == (["on"], None)
