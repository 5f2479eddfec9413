"""The schema of ``result.json``: what a run measured and produced. Written by ``harness.runtime``, read here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import HarnessError

SCHEMA_VERSION = 1


class _Record(BaseModel):
    # A newer program may write more than this reader knows; what it knows must be right.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Metric(_Record):
    """A measured quantity. ``value`` is the headline (the median of ``samples``), both in ``unit``."""

    value: float
    unit: str
    higher_is_better: bool = True
    samples: list[float] = Field(default_factory=list)


class NotMeasured(_Record):
    """Why a metric is missing: the run went on from a checkpoint with too little left to do."""

    resumed_after: int = Field(ge=1, description="done by an earlier start of the run")
    left: int = Field(ge=0, description="done by this one")
    of: Literal["epochs", "steps"]


class OutputFile(_Record):
    """A file the step wrote, relative to its output folder."""

    path: str
    bytes: int
    sha256: str


class Device(_Record):
    """Where the step computed. ``kind`` is what the program really used, not what it was given."""

    kind: Literal["cpu", "cuda"]
    name: str
    count: int = Field(ge=1, description="CPU threads, or GPUs used")
    compute_capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    multiprocessors: int | None = None
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    memory_bus_bits: int | None = None


class StepError(_Record):
    type: str
    message: str


class StepResult(_Record):
    """One step. ``phases`` maps queue, image_start, load, warm_up, measured to seconds (absent: unknown)."""

    status: Literal["completed", "failed"]
    error: StepError | None = None
    started_at: float
    ended_at: float
    parameters: dict[str, Any] = Field(default_factory=dict)
    phases: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    not_measured: dict[str, NotMeasured] = Field(default_factory=dict)
    outputs: dict[str, Any] = Field(default_factory=dict)
    files: list[OutputFile] = Field(default_factory=list)
    device: Device | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class ImageFacts(_Record):
    """The image the program ran in; all None outside an image."""

    path: str | None = None
    sha256: str | None = None
    definition_sha256: str | None = None


class RunResult(_Record):
    schema_version: int
    run_id: str
    attempt: str
    tutorial: str
    variant: Literal["cpu", "cuda"]
    preset: Literal["smoke", "bench", "full"]
    git_revision: str | None = None
    host: str
    job_id: str | None = None
    gpus_requested: int = 0
    gpu_shared: bool = False
    image: ImageFacts = Field(default_factory=ImageFacts)
    steps: dict[str, StepResult]


class ResultError(HarnessError):
    """A result.json that is there but cannot be believed."""


def load_result(path: Path) -> RunResult:
    """Read and check a result file.

    Raises:
        FileNotFoundError: there is none. ResultError: truncated, not JSON, or not of this schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, numbers or nesting beyond reason
        raise ResultError(f"not valid JSON: {error}", where=str(path)) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise ResultError(f"schema_version is {version!r}; this harness reads {SCHEMA_VERSION}", where=str(path))
    try:
        return RunResult.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"key '{key}': {first['msg']}", where=str(path)) from error
