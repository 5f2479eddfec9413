"""The most a run's device can do, and what follows from it for a tutorial's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.gpu import bandwidth_of, gpu_limits, tflops_of
from harness.judge.said import Said, same, say
from harness.roof import MeasuredRoof, roof_for
from harness.run.result import Device
from harness.tutorial import Floor, PhysicalFloor, Throughput

# A roof no CPU core reaches, so that only broken timing can exceed it: two AVX-512 fused multiply-adds a cycle
# (2 units x 16 fp32 lanes x 2 operations) at 6 GHz, above every shipped turbo clock.
CPU_FLOP_PER_CYCLE = 64
CPU_MAX_HZ = 6e9

# Published bf16 matmuls attain 78 % (B200) to 87 % (A100) of the peak; a node below 65 % is sick, and one whose copy is
# below 75 % of the bandwidth too. So nothing real is faster than a measurement of a sound node divided by this.
ATTAINED_AT_LEAST = 0.65


@dataclass(frozen=True)
class Roof:
    """The most a device can do; None where nobody knows.

    Attributes:
        flops: FLOP/s of all its GPUs (or threads) together; a measured roof gives what was measured.
        bytes_per_s: of device memory, likewise.
        headroom: nothing real is faster than ``headroom`` times these.
        count: GPUs or threads.
        text: how it is known.
    """

    flops: float | None
    bytes_per_s: float | None
    headroom: float
    count: int
    text: str


def device_roof(device: Device, roofs: Sequence[MeasuredRoof] = ()) -> tuple[Roof | None, Said]:
    """(roof, why there is none).

    Of a GPU: the table by name and compute capability; else what was measured on the same model; else what follows from
    its SMs and clocks. Of a CPU: a bound no core reaches.
    """
    if device.kind == "cpu":
        flops = device.count * CPU_FLOP_PER_CYCLE * CPU_MAX_HZ
        text = f"{device.count} threads × {CPU_FLOP_PER_CYCLE} FLOP/cycle × {CPU_MAX_HZ / 1e9:g} GHz"
        return Roof(flops, None, 1.0, device.count, text), same("")
    found = _by_name(device) or _measured(device, roofs) or _by_clocks(device)
    if found is None:
        return None, say(
            "the peak of '{device}' is not in harness/gpu.py and was not measured; "
            "measure it on its node: harness roof",
            "“{device}”的峰值不在 harness/gpu.py 中，也没有实测；请在其节点上测量：harness roof",
            device=device.name,
        )
    return found, same("")


def _by_name(device: Device) -> Roof | None:
    limits = gpu_limits(device.name, device.compute_capability)
    if limits is None:
        return None
    peak = max(limits.fp16_tflops, limits.bf16_tflops or 0.0)
    text = f"{device.count} × {limits.name} at {peak:g} TFLOP/s and {limits.bandwidth_gbs:g} GB/s"
    return Roof(device.count * peak * 1e12, device.count * limits.bandwidth_gbs * 1e9, 1.0, device.count, text)


def _measured(device: Device, roofs: Sequence[MeasuredRoof]) -> Roof | None:
    roof = roof_for(roofs, device.kind, device.name, device.count)
    if roof is None:
        return None
    tflops, gbs = roof.matmul.median, roof.copy_rate.median
    text = f"{device.count} × {device.name}, measured: {tflops:.4g} TFLOP/s and {gbs:.4g} GB/s"
    return Roof(device.count * tflops * 1e12, device.count * gbs * 1e9, 1 / ATTAINED_AT_LEAST, device.count, text)


def _by_clocks(device: Device) -> Roof | None:
    tflops = bandwidth = None
    if device.multiprocessors and device.clock_mhz and device.compute_capability:
        tflops = tflops_of(device.name, device.compute_capability, device.multiprocessors, device.clock_mhz)
    if device.memory_clock_mhz and device.memory_bus_bits:
        bandwidth = bandwidth_of(device.memory_clock_mhz, device.memory_bus_bits)
    if tflops is None and bandwidth is None:
        return None
    known = [f"{tflops:.4g} TFLOP/s by SMs and clock"] if tflops else []
    known += [f"{bandwidth:.4g} GB/s by memory clock and bus"] if bandwidth else []
    return Roof(
        device.count * tflops * 1e12 if tflops else None,
        device.count * bandwidth * 1e9 if bandwidth else None,
        1.0,
        device.count,
        f"{device.count} × {device.name}: {' and '.join(known)}",
    )


def highest_rate(spec: Throughput, roof: Roof) -> float | None:
    """Units per second that the roof allows at most, by computing and by memory; None where neither is known."""
    rates = [
        limit * roof.headroom / work
        for limit, work in ((roof.flops, spec.flop_per_unit), (roof.bytes_per_s, spec.bytes_per_unit))
        if limit is not None and work is not None
    ]
    return min(rates, default=None)


@dataclass(frozen=True)
class Bounds:
    """Rates, in the metric's unit: beyond ``fail`` fails, beyond ``warn`` warns. ``source``: where they come from."""

    fail: float
    warn: float | None
    source: Said


def lowest_rate(spec: Throughput, variant: str | None, roof: Roof | None) -> Bounds | None:
    """The floor: the physical one on a GPU whose limits are known, else the stated one; None where there is none."""
    physical = physical_floor(spec, roof) if variant == "cuda" else None
    if physical is not None:
        return physical
    floor = spec.floors.get("cuda" if variant == "cuda" else "cpu")
    return None if floor is None else Bounds(floor.fail, floor.warn, _source(floor))


def physical_floor(spec: Throughput, roof: Roof | None) -> Bounds | None:
    """``throughput.physical`` as rates in units per second; None without one, or without the limit it is a share of."""
    physical = spec.physical
    if physical is None:
        return None
    share = 1 / roof.count if roof is not None and physical.devices == "one" else 1.0
    flops = roof.flops * share if roof is not None and roof.flops is not None else None
    bandwidth = roof.bytes_per_s * share if roof is not None and roof.bytes_per_s is not None else None

    def rate(bound: float) -> float | None:
        match physical.kind:
            case "mfu":
                return bound * flops / spec.flop_per_unit if flops and spec.flop_per_unit else None
            case "mbu":
                return bound * bandwidth / spec.bytes_per_unit if bandwidth and spec.bytes_per_unit else None
            case "bytes_per_unit":
                return bandwidth / (bound * 1e9) if bandwidth else None
            case "ms_per_layer":
                return 1000 / (bound * physical.layers) if physical.layers else None

    fail = rate(physical.fail)
    if fail is None:
        return None
    sign = "≥" if physical.higher_is_better else "≤"
    warn = rate(physical.warn) if physical.warn is not None else None
    source = say(
        "{noun} {sign} {share}: {source}",
        "{noun} {sign} {share}：{source}",
        noun=_NOUNS[physical.kind],
        sign=sign,
        share=f"{physical.fail:g}",
        source=_source(physical),
    )
    return Bounds(fail, warn, source)


_NOUNS = {
    "mfu": same("MFU"),
    "mbu": same("MBU"),
    "bytes_per_unit": say("GB per unit", "每单位 GB 数"),
    "ms_per_layer": say("ms per layer", "每层毫秒数"),
}


def _source(floor: Floor | PhysicalFloor) -> Said:
    """Where a floor comes from; in English for both where nobody wrote the Chinese."""
    return Said(floor.source, floor.source_zh or floor.source)
