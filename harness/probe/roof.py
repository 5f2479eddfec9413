"""Measure the roof of the visible GPU, or of the CPU: how fast it multiplies matrices and copies memory.

    python roof.py [--seconds 10] [--device auto|cpu|cuda]

Prints one JSON object (``MeasuredRoof`` in ``harness/roof.py``). Half a second a window, the first fifth of the windows
dropped as warm-up, the clock read only when the device has finished. The matrices are random: zeros draw less power and
run faster than any real work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.runtime.device import DeviceFacts, choose_device
from harness.runtime.errors import ProgramError, run_program
from harness.runtime.timing import Throughput

WINDOW_S = 0.5
MIN_WINDOWS = 5
WARM_UP_SHARE = 0.2

GPU_MATRIX = 8192  # large enough that every tensor core is busy
CPU_MATRIX = 2048
GPU_COPY_BYTES = 1 << 30
CPU_COPY_BYTES = 256 << 20  # beyond every cache


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the roof of the visible GPU, or of the CPU.")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each of the two measurements")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--matrix", type=int, default=0, help="rows of the matrices; 0: as the device needs")
    parser.add_argument("--copy-bytes", type=int, default=0, help="size of what is copied; 0: as the device needs")
    args = parser.parse_args()
    if not args.seconds > 0:
        raise ProgramError(f"--seconds is {args.seconds}, must be above 0")
    torch = _torch()
    wanted = {"auto": None, "cpu": 0, "cuda": 1}[args.device]
    device, facts = choose_device(torch, wanted)
    is_gpu = facts.kind == "cuda"
    rows = args.matrix or (GPU_MATRIX if is_gpu else CPU_MATRIX)
    size = args.copy_bytes or (GPU_COPY_BYTES if is_gpu else CPU_COPY_BYTES)
    dtype = _dtype(torch, facts)
    synchronize: Callable[[], object] = torch.cuda.synchronize if is_gpu else _nothing
    torch.manual_seed(1)

    with torch.inference_mode():
        matmul = _matmul_rates(torch, device, dtype, rows, args.seconds, synchronize)
        copy = _copy_rates(torch, device, size, args.seconds, synchronize)

    record = {
        "schema_version": 1,
        "device": {**facts.as_dict(), "count": 1 if is_gpu else facts.count},
        "matmul": {
            "unit": "TFLOP/s",
            "samples": [rate / 1e12 for rate in matmul],
            "detail": f"{rows} x {rows}, {str(dtype).removeprefix('torch.')}",
        },
        "copy_rate": {"unit": "GB/s", "samples": [rate / 1e9 for rate in copy], "detail": f"{size / 1e6:.0f} MB"},
        "versions": {
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda),
            "python": platform.python_version(),
        },
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "measured_at": time.time(),
    }
    print(json.dumps(record))  # noqa: T201 - the program's answer


def _matmul_rates(
    torch: Any, device: Any, dtype: Any, rows: int, seconds: float, synchronize: Callable[[], object]
) -> list[float]:
    """FLOP/s of square matrix products; a product of n x n matrices counts 2 n^3."""
    left, right = (torch.randn(rows, rows, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty_like(left)
    return _measure("matmul", lambda: torch.mm(left, right, out=product), 2.0 * rows**3, seconds, synchronize)


def _copy_rates(torch: Any, device: Any, size: int, seconds: float, synchronize: Callable[[], object]) -> list[float]:
    """Bytes/s of copies, each byte counted twice: once read, once written."""
    source = torch.randn(max(1, size // 4), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    moved = 2.0 * source.numel() * source.element_size()
    return _measure("copy", lambda: target.copy_(source), moved, seconds, synchronize)


def _measure(
    name: str, work: Callable[[], object], units: float, seconds: float, synchronize: Callable[[], object]
) -> list[float]:
    """Units per second of each window that counts, as many as fit into the time."""
    work()  # allocates, and chooses kernels
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    once = max(time.perf_counter() - start, 1e-6)
    window_s = min(WINDOW_S, seconds / MIN_WINDOWS)
    repeats = max(1, round(window_s / once))
    meter = Throughput(warm_up=1, synchronize=synchronize)
    start = time.perf_counter()
    while len(meter.samples) < MIN_WINDOWS or time.perf_counter() - start < seconds:
        with meter.window(units * repeats):
            for _ in range(repeats):
                work()
    kept = meter.samples[int(WARM_UP_SHARE * len(meter.samples)) :]
    print(f"{name}: {len(kept)} windows of {repeats}", file=sys.stderr)  # noqa: T201 - progress
    return kept


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ProgramError(f"{sys.executable} has no torch; name an image or a Python that has it") from error


def _dtype(torch: Any, facts: DeviceFacts) -> Any:
    """The type whose peak the table in harness/gpu.py states; what a CPU computes in."""
    if facts.kind == "cpu":
        return torch.float32
    return torch.bfloat16 if (facts.compute_capability or (0, 0)) >= (8, 0) else torch.float16


def _nothing() -> None:
    """A CPU has finished when the call returns."""


if __name__ == "__main__":
    run_program(main)
