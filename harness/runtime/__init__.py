"""What a tutorial program needs to be measured. Standard library only; copied into every image.

Import it before the heavy libraries: its import marks the moment the program began.

    from harness.runtime import StepRun, Throughput, choose_device, run_program

    with StepRun.from_environment("train", tutorial="mnist", parameters=vars(args)) as run:
        device, facts = choose_device(torch, run.gpus_requested)
        run.use_device(facts)
        with run.phase("load"):
            ...
        meter = Throughput(warm_up=1)
        for epoch in range(epochs):
            with meter.window(units=len(images)):
                ...
        run.throughput("train_throughput", meter, unit="images/s")
        run.output("test_accuracy", 0.99)
"""

from __future__ import annotations

from harness.runtime.arguments import ProgramArguments
from harness.runtime.checkpoint import Checkpoint, Checkpoints
from harness.runtime.data import find_data, find_mnist, read_idx, read_prompt
from harness.runtime.device import DeviceFacts, allocated_cores, choose_device, keep_first_gpu
from harness.runtime.errors import DataError, DeviceError, ModelError, ProgramError, Terminated, run_program
from harness.runtime.models import check_model, model_folder, weight_bytes
from harness.runtime.run import StepRun
from harness.runtime.speed import Speed, choose_speed
from harness.runtime.team import Team, join_team
from harness.runtime.timing import Throughput
from harness.runtime.windows import measure_windows

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "DataError",
    "DeviceError",
    "DeviceFacts",
    "ModelError",
    "ProgramArguments",
    "ProgramError",
    "Speed",
    "StepRun",
    "Team",
    "Terminated",
    "Throughput",
    "allocated_cores",
    "check_model",
    "choose_device",
    "choose_speed",
    "find_data",
    "find_mnist",
    "join_team",
    "keep_first_gpu",
    "measure_windows",
    "model_folder",
    "read_idx",
    "read_prompt",
    "run_program",
    "weight_bytes",
]
