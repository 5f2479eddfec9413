"""What each GPU can do at most: the roof that throughput is judged against.

Dense peaks from the vendors' data sheets; see docs/measurements for what nodes attained.
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
    """

    name: str
    pattern: str
    compute_capability: tuple[int, int]
    fp16_tflops: float
    bf16_tflops: float | None
    bandwidth_gbs: float


# More specific patterns first: the first match wins.
GPUS: tuple[GpuLimits, ...] = (
    GpuLimits("V100", r"V100", (7, 0), 125, None, 900),
    GpuLimits("Quadro RTX 4000", r"RTX 4000", (7, 5), 57, None, 416),
    GpuLimits("Quadro RTX 5000", r"RTX 5000", (7, 5), 89, None, 448),
    GpuLimits("A100-40", r"A100.*40GB", (8, 0), 312, 312, 1555),
    GpuLimits("A100-80", r"A[18]00", (8, 0), 312, 312, 2039),
    GpuLimits("RTX 3090", r"RTX 3090", (8, 6), 71, 71, 936),
    GpuLimits("RTX 4090", r"RTX 4090", (8, 9), 165, 165, 1008),
    GpuLimits("L40S", r"L40S", (8, 9), 362, 362, 864),
    GpuLimits("H100 PCIe", r"H100 PCIe", (9, 0), 756, 756, 2000),
    GpuLimits("H100 SXM", r"H100", (9, 0), 989, 989, 3350),
    GpuLimits("H200", r"H200", (9, 0), 989, 989, 4800),
    GpuLimits("B200", r"B200", (10, 0), 2250, 2250, 8000),
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
