"""Facts of the device a program computes on, and the choice of it. Torch comes in as an argument, not an import."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.runtime.errors import DeviceError

NVIDIA_SMI_TIMEOUT_S = 20  # a node with a sick GPU can make it hang


@dataclass(frozen=True)
class DeviceFacts:
    """Where the step really computed: the fields of ``Device`` in ``harness/run/result.py``.

    Attributes:
        kind: "cpu" or "cuda".
        name: the processor's or the driver's name of the model.
        count: CPU threads, or GPUs, used by all ranks together.
        compute_capability: (major, minor) of the GPU.
        memory_bytes: memory of one GPU.
        driver: version of the NVIDIA driver, None where it cannot be asked.
        multiprocessors, clock_mhz, memory_clock_mhz, memory_bus_bits: of one GPU, at its highest clocks; None where
            torch does not tell. From them the limits of a GPU follow that no table knows.
    """

    kind: str
    name: str
    count: int
    compute_capability: tuple[int, int] | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    multiprocessors: int | None = None
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    memory_bus_bits: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def allocated_cores() -> int:
    """Cores this process may run on: what the scheduler bound it to, not what the machine has."""
    return len(os.sched_getaffinity(0))


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; "unknown CPU" where the kernel does not say (some ARM machines)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "unknown CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else "unknown CPU"


def cpu_threads() -> int:
    """Threads to compute with: OMP_NUM_THREADS as the job set it, never more than the cores it was given.

    Raises:
        DeviceError: OMP_NUM_THREADS is not a whole number of 1 or more.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not asked:
        return allocated_cores()
    if not asked.isdigit() or int(asked) < 1:
        raise DeviceError(f"OMP_NUM_THREADS is '{asked}', must be a whole number of 1 or more")
    return min(int(asked), allocated_cores())


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver as nvidia-smi says it; None (unknown) where there is none or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.split()
    return lines[0] if answer.returncode == 0 and lines else None


def choose_device(torch: Any, gpus_requested: int | None, *, max_threads: int | None = None) -> tuple[Any, DeviceFacts]:
    """The torch device to compute on, and its facts.

    Args:
        torch: the imported torch module.
        gpus_requested: GPUs the job asked for on this node; 0: the CPU is meant, even where a GPU is visible;
            None: nobody said (started by hand), a GPU is used where there is one.
        max_threads: CPU threads that are of use to the program; None: all it was given.

    Raises:
        DeviceError: a GPU was asked for and torch does not see it. There is no silent fall-back to the CPU.
    """
    wanted = gpus_requested
    if wanted is None:
        wanted = 1 if torch.cuda.is_available() else 0
    if wanted == 0:
        threads = min(cpu_threads(), max_threads or allocated_cores())
        torch.set_num_threads(threads)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        return torch.device("cpu"), DeviceFacts(kind="cpu", name=cpu_model(), count=threads * ranks)
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if visible < wanted:
        raise DeviceError(_missing_gpu(torch, wanted, visible))
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= visible:
        raise DeviceError(f"local rank {index} has no GPU of its own: torch sees {visible}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index), _cuda_facts(torch, index)


def keep_first_gpu() -> None:
    """Let this process see only the first GPU of the job. To be called before torch is imported.

    For programs with a library that deals a model out over all GPUs it sees: those would take turns, one working at a
    time, and the result would name one.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def _cuda_facts(torch: Any, index: int) -> DeviceFacts:
    properties = torch.cuda.get_device_properties(index)
    return DeviceFacts(
        kind="cuda",
        name=str(properties.name),
        # one process drives one GPU: a program that was given two and is one process uses one, and must say so
        count=int(os.environ.get("WORLD_SIZE", "1")),
        compute_capability=(int(properties.major), int(properties.minor)),
        memory_bytes=int(properties.total_memory),
        driver=nvidia_driver(),
        multiprocessors=getattr(properties, "multi_processor_count", None),
        clock_mhz=_megahertz(properties, "clock_rate"),
        memory_clock_mhz=_megahertz(properties, "memory_clock_rate"),
        memory_bus_bits=getattr(properties, "memory_bus_width", None),
    )


def _megahertz(properties: Any, name: str) -> float | None:
    """A clock that torch names in kHz, as the CUDA runtime does; None where this torch does not name it."""
    value = getattr(properties, name, None)
    return value / 1000 if value else None


def _missing_gpu(torch: Any, wanted: int, visible: int) -> str:
    if torch.version.cuda is None:
        reason = "this image holds a CPU build of torch; use the image of the cuda variant"
    elif visible == 0:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        reason = (
            f"CUDA_VISIBLE_DEVICES={shown!r}; is apptainer called with --nv, and does nvidia-smi work on this node?"
        )
    else:
        reason = f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}"
    return f"the job asked for {wanted} GPU(s) but torch {torch.__version__} sees {visible}: {reason}"
