"""Compiling a kernel for the device at hand, checking it against torch, and timing the two the same way."""

import os
import tempfile
import time
from collections.abc import Callable

import torch
from kernels import Dialect

from harness.runtime import ProgramError, StepRun, Throughput, choose_device

# Before the import, which makes the folder that compiled kernels go to: below a home that may not be writable.
os.environ.setdefault("TILELANG_CACHE_DIR", f"{tempfile.gettempdir()}/tilelang-{os.getuid()}")

# isort: split
import tilelang

Compute = Callable[[], torch.Tensor]
# Compiled where it runs: for this processor, and sums in any order, so that many are taken at once (50 times as fast).
CPU_OPTIONS = ["-O3", "-march=native", "-ffast-math"]
WARM_UP = 1  # windows: the first finds cold caches and low clocks


def choose_dialect(run: StepRun, threads: int) -> tuple[torch.device, torch.dtype, Dialect]:
    """Half precision in CUDA on a GPU, single precision in C on a CPU; recorded in the result."""
    # The C that TileLang writes runs on one core: torch gets one as well.
    device, facts = choose_device(torch, run.gpus_requested, max_threads=1)
    run.use_device(facts)
    run.versions(torch=torch.__version__, tilelang=tilelang.__version__)
    run.output("device", device.type)
    if device.type == "cuda":
        import tilelang.language as language

        early = torch.cuda.get_device_capability(device) < (8, 0)
        operand = language.alloc_shared if early else language.alloc_fragment
        places = (language.alloc_shared, language.alloc_fragment, operand, language.Parallel)
        dtype, dialect = torch.float16, Dialect(language, "cuda", "float16", threads, *places, [])
    else:
        import tilelang.cpu.language as language

        places = (language.alloc_local, language.alloc_local, language.alloc_local, language.grid)
        dtype, dialect = torch.float32, Dialect(language, "c", "float32", None, *places, CPU_OPTIONS)
    run.output("dtype", dialect.dtype)
    return device, dtype, dialect


def need_multiple(name: str, value: int, tile_name: str, tile: int) -> None:
    """Refuse, before anything is compiled, a size that tiles do not cover."""
    if value % tile:
        raise ProgramError(f"--{name} {value} is no multiple of --{tile_name} {tile}: the last tile would stick out")


def compile_kernel(run: StepRun, function: object, dialect: Dialect) -> Callable[..., None]:
    """The kernel as something to call with its inputs and the tensor for its result."""
    start = time.perf_counter()
    with run.phase("compile"):
        kernel = tilelang.compile(function, target=dialect.target, compile_flags=dialect.options)
    print(f"compiled for {dialect.target} in {time.perf_counter() - start:.1f} s")
    run.output("source_lines", len(kernel.get_kernel_source().splitlines()))
    return kernel


def worst_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest ``|result - reference| / (1 + |reference|)``: below 0.01 is torch's allclose at 0.01 and 0.01."""
    difference = (result.double() - reference.double()).abs() / (1 + reference.double().abs())
    return difference.max().item()  # NaN stays NaN, and fails


def race(run: StepRun, name: str, ours: Compute, torchs: Compute, flop: float, calls: int, windows: int) -> None:
    """Time both in turns, so that a change of the clocks hits both; ``flop`` is the work of one call."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    meters = {"tilelang": Throughput(WARM_UP, synchronize), "torch": Throughput(WARM_UP, synchronize)}
    for _ in range(WARM_UP + windows):
        for who, compute in (("tilelang", ours), ("torch", torchs)):
            with meters[who].window(units=calls * flop / 1e9):
                for _ in range(calls):
                    compute()
    rates = {who: meter.median for who, meter in meters.items()}
    run.throughput(f"{name}_throughput", meters["tilelang"], unit="GFLOP/s")
    run.metric(f"{name}_torch_throughput", rates["torch"], "GFLOP/s", meters["torch"].samples)
    run.output(f"{name}_versus_torch", rates["tilelang"] / rates["torch"])
    for who, rate in rates.items():
        run.output(f"{name}_{who}_ms", flop / rate / 1e6)
        print(f"{name} with {who}: {flop / rate / 1e6:.3f} ms, {rate:.1f} GFLOP/s")
    print(f"{name}: TileLang is {rates['tilelang'] / rates['torch']:.2f} times as fast as torch")
