"""Run folders and a small project, made by hand: what the tests of judge, report and suite start from."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

from harness.project import Project
from harness.run.evidence import ExpectedImage
from harness.run.paths import RunPaths
from harness.tutorial import Tutorial, load_tutorial

IMAGE = "ab" * 32
_NUMBERS = re.compile(r"\d+(?:[.,]\d+)*")


def bilingual(english: str, chinese: str) -> None:
    """The Chinese twin is there, is Chinese, and tells the same numbers."""
    assert re.search("[\u4e00-\u9fff]", chinese), (english, chinese)
    assert sorted(_NUMBERS.findall(english)) == sorted(_NUMBERS.findall(chinese)), (english, chinese)


DEFINITION = "cd" * 32
EXPECTED = ExpectedImage(IMAGE, DEFINITION)
RUN_ID = "tutorial2-cpu-smoke-20260101T000000Z-0a1b"

TUTORIAL_TOML = """
id = "xscow-2"
title = { en = "Handwritten digits", zh = "手写数字识别" }
summary = { en = "A small CNN.", zh = "一个小型卷积网络。" }
stack = "pytorch"

[[steps]]
name = "train"
program = "train.py"
parameters = { epochs = 20 }

[presets.smoke]
description = { en = "Seconds.", zh = "数秒。" }
[presets.smoke.steps.train]
epochs = 2
[presets.full]
description = { en = "As the tutorial says.", zh = "与教程一致。" }

[resources.cpu]
cpus = 2
memory_gb = 4
minutes = 10
[resources.cuda]
gpus_per_node = 1
cpus = 4
memory_gb = 16
minutes = 10

[[expectations]]
kind = "number"
step = "train"
name = "test_accuracy"
min = 0.97
max = 1.0
when = { source = "digits" }

[[expectations]]
kind = "number"
step = "train"
name = "test_accuracy"
min = 0.98
when = { source = "mnist" }

[[expectations]]
kind = "number"
step = "train"
name = "classes"
equals = 10

[[expectations]]
kind = "curve"
step = "train"
name = "train_loss"
direction = "decreasing"
min_points = 3
min_change = 0.5

[[expectations]]
kind = "file"
step = "train"
name = "learning_curve.png"
min_bytes = 60
format = "png"

[throughput]
step = "train"
metric = "train_throughput"
unit = "images/s"
flop_per_unit = 1.6e7
flop_source = "counted by hand"
[throughput.floors.cpu]
fail = 500
warn = 2000
source = "a laptop's core"
[throughput.floors.cuda]
fail = 5000
source = "a V100"
"""


def small_project(root: Path, spec: str = TUTORIAL_TOML) -> Project:
    """A project with one tutorial, xscow-2."""
    folder = root / "tutorials" / "xscow-2"
    folder.mkdir(parents=True)
    (root / "containers").mkdir()
    (folder / "tutorial.toml").write_text(spec, encoding="utf-8")
    (folder / "train.py").write_text("", encoding="utf-8")
    return Project(root)


def small_tutorial(root: Path) -> Tutorial:
    return load_tutorial(small_project(root), "2")


def png(width: int = 320, height: int = 200, shade: int = 200) -> bytes:
    """A valid grey PNG."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes([shade]) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SAMPLES = [4100.0, 4180.0, 4150.0, 4210.0, 4170.0, 4160.0, 4190.0]

RESULT: dict[str, Any] = {
    "schema_version": 1,
    "run_id": RUN_ID,
    "attempt": "0",
    "tutorial": "xscow-2",
    "variant": "cpu",
    "preset": "smoke",
    "git_revision": "0123456789abcdef0123456789abcdef01234567",
    "host": "node07",
    "job_id": "4711",
    "gpus_requested": 0,
    "gpu_shared": False,
    "image": {"path": "/catalog/x.sif", "sha256": IMAGE, "definition_sha256": DEFINITION},
    "steps": {
        "train": {
            "status": "completed",
            "error": None,
            "started_at": 1767225600.0,
            "ended_at": 1767225617.5,
            "parameters": {"epochs": 2, "batch_size": 64},
            "phases": {"queue": 3.0, "image_start": 1.2, "load": 2.5, "warm_up": 1.8, "measured": 8.9},
            "metrics": {
                "train_throughput": {"value": 4170.0, "unit": "images/s", "higher_is_better": True, "samples": SAMPLES}
            },
            "outputs": {"test_accuracy": 0.9833, "classes": 10, "train_loss": [2.1, 0.6, 0.2], "source": "digits"},
            "files": [],
            "device": {"kind": "cpu", "name": "AMD EPYC 7763", "count": 2},
            "versions": {"python": "3.11.7", "torch": "2.7.1"},
        }
    },
}

GPU = {
    "kind": "cuda",
    "name": "NVIDIA A100-SXM4-80GB",
    "count": 1,
    "compute_capability": [8, 0],
    "memory_bytes": 85899345920,
    "driver": "550.54",
}


def good_result() -> dict[str, Any]:
    """A result that passes every check; a copy to be spoiled."""
    return copy.deepcopy(RESULT)


def gpu_result(shared: bool = False, requested: int = 1) -> dict[str, Any]:
    """The same on a GPU."""
    data = good_result()
    data.update(variant="cuda", gpus_requested=requested, gpu_shared=shared)
    step = data["steps"]["train"]
    step["device"] = dict(GPU)
    step["metrics"]["train_throughput"] = {"value": 41700.0, "unit": "images/s", "samples": [s * 10 for s in SAMPLES]}
    return data


def make_run(
    folder: Path, data: dict[str, Any] | None, *, exit_code: str | None = "0", log: str = "epoch 1\nepoch 2\ndone\n"
) -> RunPaths:
    """A run folder as a job leaves it: the result (with the digest of its picture), log, exit status, job record."""
    run = RunPaths(folder)
    picture = run.outputs("train") / "learning_curve.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(png())
    run.job.write_text(
        json.dumps(
            {
                "run_id": data["run_id"] if data else RUN_ID,
                "tutorial": "xscow-2",
                "variant": data["variant"] if data else "cpu",
                "preset": data["preset"] if data else "smoke",
                "attempt": "0",
                "node": "node07",
                "site": "demo",
            }
        ),
        encoding="utf-8",
    )
    run.log.write_text(log, encoding="utf-8")
    if exit_code is not None:
        run.exit_code.write_text(exit_code + "\n", encoding="utf-8")
    if data is not None:
        write_result(run, data)
    return run


def write_result(run: RunPaths, data: dict[str, Any]) -> None:
    """Write result.json; an empty list of files is filled with the picture's true record."""
    for step in data["steps"].values():
        if step.get("files") == []:
            content = (run.outputs("train") / "learning_curve.png").read_bytes()
            step["files"] = [
                {
                    "path": "learning_curve.png",
                    "bytes": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            ]
    run.result.write_text(json.dumps(data), encoding="utf-8")
