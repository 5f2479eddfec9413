"""What each GPU can do at most: the roof that throughput is judged against.

Three ways to know it, best first: the table (dense peaks of the vendors' data sheets), the number of SMs and the clocks
the driver reports, and a measurement of the node (``harness roof``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuLimits:
    """Physical limits of one GPU model.

    Attributes:
        name: the model's short name.
        pattern: regular expression over the driver's device name.
        compute_capability: (major, minor), which tells apart models that share a marketing name.
        fp16_tflops: dense fp16 tensor peak, 1e12 FLOP/s.
        bf16_tflops: dense bf16 peak, 1e12 FLOP/s; None where the hardware has none.
        bandwidth_gbs: device memory bandwidth, 1e9 bytes/s.
        memory_gb: sizes it is sold with, 1e9 bytes.
    """

    name: str
    pattern: str
    compute_capability: tuple[int, int]
    fp16_tflops: float
    bf16_tflops: float | None
    bandwidth_gbs: float
    memory_gb: tuple[int, ...]


# More specific patterns first: the first match wins. Sister models of other limits are shut out by name.
GPUS: tuple[GpuLimits, ...] = (
    GpuLimits("V100", r"V100", (7, 0), 125, None, 900, (16, 32)),
    GpuLimits("Quadro RTX 4000", r"RTX 4000(?! (?:SFF )?Ada)", (7, 5), 57, None, 416, (8,)),
    GpuLimits("Quadro RTX 5000", r"RTX 5000(?! Ada)", (7, 5), 89, None, 448, (16,)),
    GpuLimits("A100-40", r"A[18]00.*40GB", (8, 0), 312, 312, 1555, (40,)),
    GpuLimits("A100-80", r"A[18]00", (8, 0), 312, 312, 2039, (80,)),
    GpuLimits("RTX 3090", r"RTX 3090(?! Ti)", (8, 6), 71, 71, 936, (24,)),
    GpuLimits("RTX 4090", r"RTX 4090(?! (?:D|Laptop))", (8, 9), 165, 165, 1008, (24,)),
    GpuLimits("L40S", r"L40S", (8, 9), 362, 362, 864, (48,)),
    GpuLimits("H100 PCIe", r"H100 PCIe", (9, 0), 756, 756, 2000, (80,)),
    GpuLimits("H100 SXM", r"(?<!G)H[18]00(?! NVL)", (9, 0), 989, 989, 3350, (80,)),
    GpuLimits("H200", r"(?<!G)H200(?! NVL)", (9, 0), 989, 989, 4800, (141,)),
    GpuLimits("B200", r"(?<!G)B200", (10, 0), 2250, 2250, 8000, (180,)),
)


def gpu_limits(device_name: str, compute_capability: tuple[int, int] | None = None) -> GpuLimits | None:
    """Limits of the GPU the driver calls ``device_name``, or None for a model this table does not hold.

    ``compute_capability`` must agree where it is given: "RTX 4000" is a Turing card or an Ada card.
    """
    for limits in GPUS:
        named = re.search(limits.pattern, device_name, re.IGNORECASE)
        if named and compute_capability in (None, limits.compute_capability):
            return limits
    return None


# fp16 fused multiply-adds per SM and cycle on tensor cores, fp32 accumulation where the two differ.
_FMA_PER_SM: dict[tuple[int, int], int] = {
    (7, 0): 512,
    (7, 5): 512,
    (8, 0): 1024,
    (8, 6): 512,
    (8, 9): 512,
    (9, 0): 2048,
}
# The GeForce cards of these two generations accumulate in fp32 at half that rate.
_GEFORCE_HALF = {(8, 6), (8, 9)}


def tflops_of(name: str, compute_capability: tuple[int, int], sms: int, clock_mhz: float) -> float | None:
    """Dense fp16 tensor peak in 1e12 FLOP/s: SMs x FMA per SM and cycle x 2 x clock; None for an unknown generation.

    Args:
        clock_mhz: the highest clock the driver names; a card never runs faster.
    """
    fma = _FMA_PER_SM.get(compute_capability)
    if fma is None or sms < 1 or not clock_mhz > 0:
        return None
    if compute_capability in _GEFORCE_HALF and "geforce" in name.lower():
        fma //= 2
    return sms * fma * 2 * clock_mhz * 1e6 / 1e12


def bandwidth_of(memory_clock_mhz: float, bus_bits: int) -> float | None:
    """Device memory bandwidth in 1e9 bytes/s: memory clock x bytes of the bus x 2 transfers a cycle."""
    if not memory_clock_mhz > 0 or bus_bits < 8:
        return None
    return memory_clock_mhz * 1e6 * (bus_bits / 8) * 2 / 1e9
