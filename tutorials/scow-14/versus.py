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
        dtype, dialect = torch.float16, cuda_dialect(torch.cuda.get_device_capability(device), threads)
    else:
        import tilelang.cpu.language as language

        places = (language.alloc_local, language.alloc_local, language.alloc_local, language.grid)
        dtype, dialect = torch.float32, Dialect(language, "c", "float32", None, *places, CPU_OPTIONS)
    run.output("dtype", dialect.dtype)
    return device, dtype, dialect


def cuda_dialect(capability: tuple[int, int], threads: int) -> Dialect:
    """How TileLang is spoken to on a GPU of this compute capability."""
    import tilelang.language as language

    operand = language.alloc_shared if capability < (8, 0) else language.alloc_fragment
    places = (language.alloc_shared, language.alloc_fragment, operand, language.Parallel)
    return Dialect(language, "cuda", "float16", threads, *places, [])


def need_multiple(name: str, value: int, tile_name: str, tile: int) -> None:
    """Refuse, before anything is compiled, a size that tiles do not cover."""
    if value % tile:
        raise ProgramError(f"--{name} {value} is no multiple of --{tile_name} {tile}: the last tile would stick out")


def shared_memory(function: object, target: str | dict[str, str]) -> int:
    """Bytes of shared memory that each tile of a kernel takes on a GPU; says so without one."""
    from tilelang.backend.target import determine_target

    gpu = determine_target(target, return_object=True)
    with gpu:
        kernels = tilelang.lower(function, target=gpu).device_mod.functions.values()
    return sum(int(kernel.attrs.get("dyn_shared_memory_buf", 0)) for kernel in kernels)


def need_shared_memory(function: object, target: str) -> None:
    """Refuse, before anything is compiled, tiles that do not fit: their launch would fail, in the driver's words."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    limit = getattr(properties, "shared_memory_per_block_optin", None)  # not every torch tells
    needed = shared_memory(function, target)
    if limit is not None and needed > limit:
        raise ProgramError(
            f"a tile needs {needed:,} bytes of shared memory, {properties.name} has {limit:,}: "
            "choose smaller tiles (--tile-rows, --tile-columns, --tile-keys) or fewer --stages"
        )


def compile_kernel(run: StepRun, function: object, dialect: Dialect) -> Callable[..., None]:
    """The kernel as something to call with its inputs and the tensor for its result."""
    start = time.perf_counter()
    with run.phase("compile"):
        if dialect.target == "cuda":
            need_shared_memory(function, dialect.target)
        kernel = tilelang.compile(function, target=dialect.target, compile_flags=dialect.options)
    print(f"compiled for {dialect.target} in {time.perf_counter() - start:.1f} s")
    run.output("source_lines", len(kernel.get_kernel_source().splitlines()))
    return kernel


def worst_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest ``|result - reference| / (1 + |reference|)``: below 0.01 is torch's allclose at 0.01 and 0.01."""
    difference = (result.double() - reference.double()).abs() / (1 + reference.double().abs())
    return difference.max().item()  # NaN stays NaN, and fails


def as_graph(compute: Compute, calls: int) -> Callable[[], None]:
    """``calls`` calls as one CUDA graph to replay: a GPU is done with a small kernel before Python calls the next.

    Raises:
        RuntimeError: they cannot be captured, or a replay does not compute them.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what libraries allocate at their first calls must not be captured
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            result = compute()
    result.fill_(torch.nan)  # a kernel that was launched elsewhere is not in the graph, and would be fast
    graph.replay()
    torch.cuda.synchronize()
    if result.isnan().any().item():
        raise RuntimeError("the replayed graph does not compute the result")
    return graph.replay


def in_python(compute: Compute, calls: int) -> Callable[[], None]:
    """``calls`` calls, one after the other."""

    def run_all() -> None:
        for _ in range(calls):
            compute()

    return run_all


def prepare(run: StepRun, name: str, sides: dict[str, Compute], calls: int) -> dict[str, Callable[[], None]]:
    """What each side's timed window runs: graphs on a GPU, of both or of none, so that they are timed alike."""
    timed_as, work = "calls", {who: in_python(compute, calls) for who, compute in sides.items()}
    if torch.cuda.is_initialized():
        try:
            work = {who: as_graph(compute, calls) for who, compute in sides.items()}
            timed_as = "graph"
        except RuntimeError as error:
            print(f"{name}: no CUDA graph, timed call by call: {error}")
    run.output(f"{name}_timed_as", timed_as)
    return work


def race(run: StepRun, name: str, ours: Compute, torchs: Compute, flop: float, calls: int, windows: int) -> None:
    """Time both in turns, so that a change of the clocks hits both; ``flop`` is the work of one call."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    meters = {"tilelang": Throughput(WARM_UP, synchronize), "torch": Throughput(WARM_UP, synchronize)}
    work = prepare(run, name, {"tilelang": ours, "torch": torchs}, calls)
    for _ in range(WARM_UP + windows):
        for who, meter in meters.items():
            with meter.window(units=calls * flop / 1e9):
                work[who]()
    rates = {who: meter.median for who, meter in meters.items()}
    run.throughput(f"{name}_throughput", meters["tilelang"], unit="GFLOP/s")
    run.metric(f"{name}_torch_throughput", rates["torch"], "GFLOP/s", meters["torch"].samples)
    run.output(f"{name}_versus_torch", rates["tilelang"] / rates["torch"])
    for who, rate in rates.items():
        run.output(f"{name}_{who}_ms", flop / rate / 1e6)
        print(f"{name} with {who}: {flop / rate / 1e6:.3f} ms, {rate:.1f} GFLOP/s")
    print(f"{name}: TileLang is {rates['tilelang'] / rates['torch']:.2f} times as fast as torch")
