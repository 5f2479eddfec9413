"""How fast images reach the network: the way the original tutorials describe, against ours, on the same data.

    .venv/bin/python benchmarks/originals.py [--table docs/benchmarks/originals.md]

The original way is torchvision's: a data set that makes a picture of one image, transforms it and returns it, and a
DataLoader that collects 64 of them. The stack holds no torchvision, so its transforms stand here as they are there: the
same calls of Pillow and torch. Ours are the tutorials' own functions. Both feed the tutorial's own network.

Runs in the CPU image of xscow-2 (`make build-sif TUT=2 VARIANT=cpu`). The data are random bytes of the real shape: how
long it takes does not depend on what is in the pictures.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
BATCH, REPETITIONS = 64, 3
WORKERS = (0, 2)  # of the original's DataLoader; the better of them counts
MNIST_IMAGES, CIFAR_IMAGES, TRAINED_IMAGES = 3_200, 1_280, 640
INTRODUCTION = f"""# Feeding the network: the original tutorials' way against ours

Written by `benchmarks/originals.py` on {{day}}: {{machine}}, torch {{torch}}, load {{load:.0f}} (1 minute) at the end.

Images per second, median of {REPETITIONS} epochs, batches of {BATCH}. "original": one image at a time through
torchvision's transforms in a DataLoader. "batches" only collects them; "training" has the tutorial's network learn from
them, and on a CPU the network takes most of that time. Wall time is with a thread per core, and the original with no
worker or with {WORKERS[-1]}, whichever is faster: on a busy machine it says little. Processor time is with one thread
and no worker. {MNIST_IMAGES:,} and {CIFAR_IMAGES:,} images of random bytes ({TRAINED_IMAGES} for training). Nothing
here was measured on a GPU.

| what | original, wall | ours, wall | ratio | original, processor | ours, processor | ratio |
|---|---|---|---|---|---|---|
"""


def program(tutorial: str, name: str) -> ModuleType:
    """A module of a tutorial, under a name of its own: two tutorials may each have a train.py."""
    path = REPOSITORY / "tutorials" / tutorial / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{tutorial.replace('-', '_')}_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure_inside() -> dict[str, Any]:
    """All figures: {row: {"original": images/s, "ours": images/s}}. Runs in the image."""
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tutorials/xscow-2")]
    import numpy as np
    import torch
    import torch.nn.functional as F  # noqa: N812 - its name everywhere
    from PIL import Image, ImageOps
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

    digits, handwriting, cifar = (
        program(*module) for module in (("xscow-2", "train"), ("xscow-2", "handwriting"), ("scow-3", "cifar"))
    )

    def to_tensor(picture: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        """torchvision's ToTensor and Normalize."""
        array = torch.from_numpy(np.array(picture, np.uint8, copy=True))
        image = array.view(picture.size[1], picture.size[0], len(picture.getbands())).permute(2, 0, 1).contiguous()
        image = image.to(torch.float32).div(255)
        centre, spread = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
        return image.clone().sub_(centre).div_(spread)

    class Digits(Dataset[tuple[Tensor, int]]):
        """torchvision.datasets.MNIST with ToTensor and Normalize."""

        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images, labels

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            picture = Image.fromarray(self.images[row].numpy())
            return to_tensor(picture, (digits.MEAN,), (digits.STD,)), int(self.labels[row])

    class Photographs(Dataset[tuple[Tensor, int]]):
        """torchvision.datasets.CIFAR10 with RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, Normalize."""

        def __init__(self, images: Tensor, labels: Tensor) -> None:
            self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            picture = ImageOps.expand(Image.fromarray(self.images[row]), border=cifar.BORDER, fill=0)
            left, top = (int(torch.randint(0, 2 * cifar.BORDER + 1, (1,))) for _ in range(2))
            picture = picture.crop((left, top, left + cifar.SIZE, top + cifar.SIZE))
            if random.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return to_tensor(picture, cifar.MEAN, cifar.STD), self.labels[row]

    def our_digits(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        # Once for all epochs of a run; counted in every one here.
        ready = handwriting.normalise(images / 255, digits.MEAN, digits.STD)
        for rows in torch.randperm(len(images)).split(BATCH):
            yield ready[rows], labels[rows]

    def our_photographs(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        source = torch.Generator().manual_seed(1)
        moves = cifar.Moves.draw(len(images), True, source, images.device)
        for number, rows in enumerate(torch.randperm(len(images)).split(BATCH)):
            part = slice(number * BATCH, number * BATCH + len(rows))
            yield cifar.augmented(images[rows], moves.of(part)), labels[rows]

    def rate(
        images: int,
        batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
        network: nn.Module | None,
        clock: Callable[[], float],
    ) -> float:
        """Images per second of ``clock``, the median epoch."""
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01) if network else None
        rates = []
        for _ in range(REPETITIONS):
            began = clock()
            seen = 0
            for some, truth in batches():
                seen += len(truth)
                if network is not None and optimizer is not None:
                    optimizer.zero_grad(set_to_none=True)
                    F.cross_entropy(network(some), truth).backward()
                    optimizer.step()
            assert seen == images
            rates.append(images / (clock() - began))
        return statistics.median(rates)

    def row(images: Tensor, kind: type, ours: Any, network: Callable[[], nn.Module] | None) -> dict[str, float]:
        labels = torch.randint(0, 10, (len(images),))
        data = kind(images, labels)

        def original(workers: int, clock: Callable[[], float]) -> float:
            loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers)
            return rate(len(images), lambda: loader, network() if network else None, clock)

        def mine(clock: Callable[[], float]) -> float:
            learner = network().to(memory_format=torch.channels_last) if network else None
            return rate(len(images), lambda: ours(images, labels), learner, clock)

        torch.set_num_threads(os.cpu_count() or 1)
        found = {
            "original_wall": max(original(workers, time.perf_counter) for workers in WORKERS),
            "ours_wall": mine(time.perf_counter),
        }
        torch.set_num_threads(1)
        return {**found, "original_cpu": original(0, time.process_time), "ours_cpu": mine(time.process_time)}

    mnist = torch.randint(0, 256, (MNIST_IMAGES, 28, 28), dtype=torch.uint8)
    photographs = torch.randint(0, 256, (CIFAR_IMAGES, 3, 32, 32), dtype=torch.uint8)
    return {
        "torch": torch.__version__,
        "rows": {
            "MNIST (mnist, xscow-2), batches": row(mnist, Digits, our_digits, None),
            "MNIST (xscow-2), training": row(mnist[:TRAINED_IMAGES], Digits, our_digits, digits.Network),
            "CIFAR-10 (scow-3), batches": row(photographs, Photographs, our_photographs, None),
        },
    }


def in_the_image() -> dict[str, Any]:
    """What :func:`measure_inside` finds in the catalog's CPU image of xscow-2."""
    from harness.image.engine import find_engine
    from harness.project import Project
    from harness.run.campaign import project_catalog

    files = project_catalog(Project.find(), "default").current_files("tutorial2.cpu")
    if files is None:
        raise SystemExit("error: no image of xscow-2; make build-sif TUT=2 VARIANT=cpu")
    userns = ["--userns"] if os.geteuid() == 0 else []
    bind = [
        "--cleanenv",
        "--no-home",
        "--bind",
        f"{REPOSITORY}:/mnt:ro",
        "--env",
        "PYTHONDONTWRITEBYTECODE=1,MPLCONFIGDIR=/tmp",
    ]
    command = [str(find_engine().path), "--quiet", "exec", *userns, *bind, *files.engine_arguments]
    done = subprocess.run(
        [*command, "python", "/mnt/benchmarks/originals.py", "--inside"], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print, or write, the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, help="write a page of it")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(measure_inside()))
        return
    found = in_the_image()
    from harness.runtime.device import cpu_model

    page = INTRODUCTION.format(
        day=datetime.now(tz=timezone.utc).date(), machine=f"{os.cpu_count()} cores of {cpu_model()}",
        torch=found["torch"], load=os.getloadavg()[0],
    )  # fmt: skip
    for what, rates in found["rows"].items():
        cells = []
        for clock in ("wall", "cpu"):
            original, ours = rates[f"original_{clock}"], rates[f"ours_{clock}"]
            cells += [f"{original:,.0f}", f"{ours:,.0f}", f"{ours / original:.1f}"]
        page += f"| {what} | {' | '.join(cells)} |\n"
    if arguments.table:
        arguments.table.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
