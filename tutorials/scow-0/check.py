"""Check that this Python is the one the tutorials need: its version, its packages, its speed. Then say hello.

An environment can be wrong in quiet ways: a package of one's home folder in front of the image's, a build of torch
without its fast kernels, fewer cores than asked for. Each is looked for here, and named.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, choose_device, choose_speed, run_program

# isort: split
import argparse
import importlib
import importlib.metadata
import os
import re
import site
import sys
from pathlib import Path

import torch

LOCK = Path("/opt/stack/requirements.lock")  # what the image was built from
# a distribution's name, and what it is imported as
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib",
}
WINDOWS, WARM_UP = 5, 2  # of matrix products
SECONDS = 0.2  # a window takes about as long


def locked_versions(lock: Path) -> dict[str, str]:
    """Distribution -> version, as the image's lock file pins them; empty outside an image."""
    if not lock.is_file():
        return {}
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;+]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def problems_of(locked: dict[str, str]) -> list[str]:
    """What is wrong with this Python, one line each."""
    found = []
    for distribution, module in PACKAGES.items():
        try:
            path = importlib.import_module(module).__file__ or ""
            version = importlib.metadata.version(distribution)
        except ImportError as error:
            found.append(f"{distribution} cannot be imported: {error}")
            continue
        if site.getuserbase() and path.startswith(str(Path(site.getuserbase()) / "lib")):
            found.append(f"{distribution} comes from {path}, not from the image; set PYTHONNOUSERSITE=1")
        if version != locked.get(distribution, version):
            found.append(f"{distribution} is {version}, the image was made with {locked[distribution]}")
    if locked and os.environ.get("PYTHONNOUSERSITE") != "1":
        found.append("PYTHONNOUSERSITE is not 1: packages of a home folder can shadow the image's")
    return found


def products_per_second(device: torch.device, size: int) -> Throughput:
    """How fast two square matrices are multiplied, in 1e9 floating point operations: the sign of a healthy torch."""
    speed = choose_speed(torch, device)
    left, right = torch.randn(2, size, size, device=device, dtype=speed.dtype or torch.float32)
    meter = Throughput(WARM_UP, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    work, repeats = 2 * size**3 / 1e9, 1
    for number in range(WARM_UP + WINDOWS):
        with meter.window(units=work * repeats):
            for _ in range(repeats):
                left @ right
        if number < WARM_UP:
            repeats = max(1, round(SECONDS * meter.last.rate / work))
    return meter


def check(run: StepRun, args: argparse.Namespace) -> None:
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    versions = {"torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    run.versions(**versions)
    print(f"Python {sys.version.split()[0]} at {sys.prefix} on {facts.name}, {facts.count} {facts.kind}")
    for name, version in versions.items():
        print(f"  {name} {version}")
    problems = problems_of(locked_versions(LOCK))
    for problem in problems:
        print(f"  problem: {problem}")
    meter = products_per_second(device, args.size)
    run.throughput("matrix_products", meter, unit="GFLOP/s")
    run.output("python", list(sys.version_info[:3]))
    run.output("python_minor", sys.version_info[1])
    run.output("in_image", LOCK.is_file())
    run.output("problems", problems)
    run.output("problem_count", len(problems))
    run.output_file("hello.txt").write_text("hello, world\n", encoding="utf-8")
    print(f"matrix products: {meter.median:.0f} GFLOP/s\nhello, world")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("size", 4096, "rows and columns of the matrices", minimum=16)
    args = arguments.parse_args()
    with StepRun.from_environment("check", tutorial="scow-0", parameters=vars(args)) as run:
        check(run, args)


if __name__ == "__main__":
    run_program(main)
