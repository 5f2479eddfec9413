"""A wrong model or prompt, by the job scripts people use: one line, before anything is loaded.

The folders are stand-ins of a few bytes: a program that went on would say something else than what is asked for here.
Broken data sets: tests/in_image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_project import REPOSITORY, harness

from harness.job.render import job_file
from harness.project import Project
from harness.site import load_site
from harness.tutorial import load_tutorial

pytestmark = [pytest.mark.apptainer, pytest.mark.image, pytest.mark.slow]

PROJECT = Project(REPOSITORY)
ARCHITECTURE = {
    "xscow-4": "xlm-roberta", "xscow-5": "xlm-roberta", "scow-2": "clip", "scow-7": "bert",
    "xscow-7": "qwen2", "xscow-8": "qwen2", "scow-6": "qwen3", "xscow-9": "StableDiffusion3Pipeline",
}  # fmt: skip
PROMPT_FILE = {"xscow-7": "question-file", "scow-6": "question-file", "xscow-9": "prompt-file"}
GBK = "介绍一下大语言模型".encode("gbk")


def write_model(root: Path, tutorial_id: str, architecture: str, cut: int = 0, **config: object) -> Path:
    """A folder with all files the tutorial names; its weights lack the last ``cut`` bytes."""
    [wanted] = load_tutorial(PROJECT, tutorial_id).models
    folder = root / wanted.folders[0]
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(16)
    contents = {
        "config.json": json.dumps({"model_type": architecture, **config}),
        "model_index.json": json.dumps({"_class_name": architecture}),
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "model.safetensors"}}),
    }
    for name in wanted.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents.get(name, "{}"), encoding="utf-8")
        if name.endswith((".pt", ".bin")):  # torch's own form is looked at only where a zip file is begun
            path.write_bytes(b"\x80\x02")
    parts = [folder / name for name in wanted.files if name.endswith("/config.json")] or [folder / "config.json"]
    for part in parts:
        (part.parent / "model.safetensors").write_bytes(weights[: len(weights) - cut])
    return folder


@pytest.fixture(scope="module")
def places(cache: Path) -> dict[str, str]:
    """Where the images are, built."""
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test` installs it")
    found = {"CATALOG": str(cache.absolute() / "catalog"), "HARNESS_CACHE": str(cache.absolute())}
    done = harness(REPOSITORY, "build", *ARCHITECTURE, env=found)
    assert done.returncode == 0, done.stderr
    return found


def refused(tutorial_id: str, places: dict[str, str], *arguments: str, **roots: str) -> str:
    """The one error line of a job that was given what cannot be used."""
    tutorial = load_tutorial(PROJECT, tutorial_id)
    script = job_file(PROJECT, tutorial, "cpu", load_site(PROJECT, "default"))
    run_id = f"bad-input-{tutorial_id}-{os.getpid()}"
    environment = {**os.environ, **places, **roots, "PRESET": "smoke", "RUN_ID": run_id}
    try:
        done = subprocess.run(
            ["bash", str(script), *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
    finally:
        shutil.rmtree(PROJECT.runs / run_id, ignore_errors=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    [error] = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    return error


def real_weights(tutorial_id: str) -> list[str]:
    tutorial = load_tutorial(PROJECT, tutorial_id)
    return ["--weights", str(tutorial.parameters(tutorial.steps[0].name, "full")["weights"])]


@pytest.mark.parametrize("tutorial_id", ARCHITECTURE)
def test_a_model_of_another_architecture(tutorial_id: str, places: dict[str, str], tmp_path: Path) -> None:
    folder = write_model(tmp_path, tutorial_id, "gpt2")
    error = refused(tutorial_id, places, *real_weights(tutorial_id), MODELS=str(tmp_path))
    assert f"/models/{folder.relative_to(tmp_path)}: is a 'gpt2'" in error
    assert ARCHITECTURE[tutorial_id] in error


@pytest.mark.parametrize("tutorial_id", ARCHITECTURE)
def test_weights_cut_short(tutorial_id: str, places: dict[str, str], tmp_path: Path) -> None:
    write_model(tmp_path, tutorial_id, ARCHITECTURE[tutorial_id], cut=5)
    error = refused(tutorial_id, places, *real_weights(tutorial_id), MODELS=str(tmp_path))
    assert "model.safetensors: truncated" in error


@pytest.mark.parametrize("tutorial_id", ["xscow-7", "xscow-8", "scow-6"])
def test_a_model_of_another_size(tutorial_id: str, places: dict[str, str], tmp_path: Path) -> None:
    packed = {"quant_method": "gptq", "bits": 4}
    sizes = {"hidden_size": 3584, "num_hidden_layers": 28, "quantization_config": packed}  # Qwen2-7B
    folder = write_model(tmp_path, tutorial_id, ARCHITECTURE[tutorial_id], **sizes)
    error = refused(tutorial_id, places, *real_weights(tutorial_id), MODELS=str(tmp_path))
    assert f"/models/{folder.relative_to(tmp_path)}: its hidden_size is 3584, that of Qwen" in error


@pytest.mark.parametrize(
    ("tutorial_id", "key", "other", "own"),
    [
        ("xscow-5", "architectures", ["XLMRobertaModel"], ["XLMRobertaForSequenceClassification"]),  # bge-m3
        ("xscow-4", "hidden_size", 768, 1024),
        ("scow-7", "hidden_size", 1024, 768),  # bert-large
        ("scow-2", "projection_dim", 768, 512),  # ViT-L
    ],
)
def test_another_model_of_the_same_architecture(
    tutorial_id: str, key: str, other: object, own: object, places: dict[str, str], tmp_path: Path
) -> None:
    folder = write_model(tmp_path, tutorial_id, ARCHITECTURE[tutorial_id], **{key: other})
    error = refused(tutorial_id, places, *real_weights(tutorial_id), MODELS=str(tmp_path))
    assert f"{folder.relative_to(tmp_path)}: its {key} is {other}, that of the tutorial's model is {own}" in error


@pytest.mark.parametrize("tutorial_id", PROMPT_FILE)
def test_a_prompt_in_another_encoding(tutorial_id: str, places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"first line\n" + GBK)
    error = refused(tutorial_id, places, f"--{PROMPT_FILE[tutorial_id]}", "/data/prompt.txt", DATA=str(tmp_path))
    assert "/data/prompt.txt: line 2: not UTF-8" in error


def test_a_picture_that_is_none(places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "diagram.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    error = refused("scow-2", places, "--picture", "/data/diagram.png", DATA=str(tmp_path))
    assert "/data/diagram.png: not a picture, or a broken one" in error
