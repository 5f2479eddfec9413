"""A node's measured roof: what ``harness roof`` writes, and what the judge holds unknown devices against."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import HarnessError

SCHEMA_VERSION = 1


class RoofError(HarnessError):
    """A roof file that is there but cannot be believed."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class RoofDevice(_Record):
    """The device that was measured: as ``Device`` of a result."""

    kind: Literal["cpu", "cuda"]
    name: str
    count: int = Field(ge=1)
    compute_capability: tuple[int, int] | None = None
    driver: str | None = None


class RoofRate(_Record):
    """One measurement: ``samples`` in ``unit``, one per window, in order."""

    unit: Literal["TFLOP/s", "GB/s"]
    samples: list[float] = Field(min_length=3)
    detail: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


class MeasuredRoof(_Record):
    """What ``harness/runtime/roof.py`` printed. The rates are those of one GPU, or of all given CPU threads."""

    schema_version: Literal[1] = 1
    device: RoofDevice
    matmul: RoofRate
    copy_rate: RoofRate
    versions: dict[str, str] = Field(default_factory=dict)
    host: str | None = None
    measured_at: float | None = None

    def fits(self, kind: str, name: str, count: int) -> bool:
        """Whether it speaks of such a device: same model; of a CPU also the same number of threads."""
        return (self.device.kind, self.device.name) == (kind, name) and (kind == "cuda" or self.device.count == count)


def parse_roof(text: str, *, where: str) -> MeasuredRoof:
    """A roof from its JSON text.

    Raises:
        RoofError: not JSON, another schema, or rates that are not positive.
    """
    fix = "measure again: harness roof"
    try:
        roof = MeasuredRoof.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RoofError(f"key '{key}': {first['msg']}", where=where, fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise RoofError(f"not valid JSON: {error}", where=where, fix=fix) from error
    for name, rate, unit in (("matmul", roof.matmul, "TFLOP/s"), ("copy_rate", roof.copy_rate, "GB/s")):
        if rate.unit != unit or any(not sample > 0 for sample in rate.samples):
            raise RoofError(f"key '{name}': must be positive samples in {unit}", where=where, fix=fix)
    return roof


def load_roofs(folder: Path) -> list[MeasuredRoof]:
    """Every ``*.json`` of a folder, in name order; none where there is no folder.

    Raises:
        RoofError: one of them cannot be believed.
    """
    paths: Iterable[Path] = sorted(folder.glob("*.json"))
    return [parse_roof(path.read_text(encoding="utf-8", errors="replace"), where=str(path)) for path in paths]


def roof_for(roofs: Sequence[MeasuredRoof], kind: str, name: str, count: int) -> MeasuredRoof | None:
    """The newest roof of such a device, or None."""
    fitting = [roof for roof in roofs if roof.fits(kind, name, count)]
    return max(fitting, key=lambda roof: roof.measured_at or 0.0, default=None)
