"""What the judge is told besides the run itself: other runs, and measurements of the hardware."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.roof import MeasuredRoof
from harness.run.result import Device


@dataclass(frozen=True)
class OtherRun:
    """The throughput of another run of the same tutorial, variant and preset.

    Attributes:
        value: its headline, in ``unit``.
        device: the device's name, as the driver gives it.
        device_count: GPUs, or CPU threads.
        shared: it shared its GPU with other jobs.
    """

    value: float
    unit: str
    device: str
    device_count: int
    shared: bool = False


@dataclass(frozen=True)
class Background:
    """Attributes:
    roofs: measured roofs of nodes (``harness roof``).
    earlier: the runs before this campaign, which this one is compared with.
    repeats: this campaign's further runs of the same thing, which decide together with this one.
    """

    roofs: tuple[MeasuredRoof, ...] = ()
    earlier: tuple[OtherRun, ...] = ()
    repeats: tuple[OtherRun, ...] = ()


NOTHING = Background()


def comparable(runs: Iterable[OtherRun], device: Device | None, unit: str) -> list[float]:
    """Values of the runs on the same model and count of device, in the same unit, on a device of their own."""
    if device is None:
        return []
    return [
        run.value
        for run in runs
        if (run.device, run.device_count, run.unit, run.shared) == (device.name, device.count, unit, False)
    ]
