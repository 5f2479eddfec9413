"""The network while it learns: a pass over the training images, and a test, by one process of the team."""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from crops import centre, random_crops
from images import Data
from resnet import ResNet50
from torch import nn

from harness.runtime import Speed, Team, Throughput

WINDOW_STEPS = 100  # steps that are timed together: reading the clock makes the processor wait for the device


class Trainer:
    """The network, its optimiser and how fast they go."""

    def __init__(self, args: argparse.Namespace, data: Data, team: Team, speed: Speed) -> None:
        self.args, self.data, self.team, self.speed = args, data, team, speed
        torch.manual_seed(args.seed)
        self.network = self.new_network()
        self.shared = team.wrap(self.network, synced_batch_norm=args.batch_norm == "synced")
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay
        )
        self.scaler = speed.scaler()
        synchronize = torch.cuda.synchronize if team.device.type == "cuda" else lambda: None
        self.meter = Throughput(warm_up=1, synchronize=synchronize)

    def new_network(self) -> nn.Module:
        network = ResNet50(self.data.classes, self.args.width)
        return network.to(self.team.device, memory_format=torch.channels_last)

    def epoch(self, number: int) -> tuple[float, float]:
        """One pass over the training images: the mean loss, and the share of the time in which data were waited for."""
        args, team, batch = self.args, self.team, self.args.batch_size
        began, waited = time.perf_counter(), 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = args.lr * args.lr_gamma ** ((number - 1) // args.lr_step)
        # on the CPU, from the epoch's own seed: the same for every number of processes, and after a restart
        source = torch.Generator().manual_seed(args.seed * 1_000_003 + number)
        order = torch.cat([torch.randperm(self.data.n_train, generator=source) for _ in range(args.passes)])
        part = team.part(batch)
        steps = [rows[part] for rows in order.split(batch) if len(rows) == batch]
        batches = self.data.train.batches(steps)
        total = torch.zeros((), device=team.device)
        self.shared.train()
        for first in range(0, len(steps), WINDOW_STEPS):
            window = min(WINDOW_STEPS, len(steps) - first)
            with self.meter.window(units=window * batch):
                for _ in range(window):
                    asked = time.perf_counter()
                    images, labels = next(batches)
                    waited += time.perf_counter() - asked
                    images = random_crops(images, args.image_size, self.data.cutting, source, part, batch)
                    self.optimizer.zero_grad(set_to_none=True)
                    with self.speed.autocast():
                        loss = F.cross_entropy(self.shared(images), labels, reduction="sum")
                    # Gradients are averaged over processes, whose shares may differ by an image: times size, by batch.
                    self.scaler.scale(loss * (team.size / batch)).backward()
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                    total += loss.detach()
        share = waited / (time.perf_counter() - began)
        team.agree(self.network)
        loss = team.add(total.item())[0] / (len(steps) * batch)
        # The largest of all processes' shares: the others wait for that one while gradients are averaged.
        return loss, max(team.add(*(share if rank == team.rank else 0.0 for rank in range(team.size))))

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> tuple[float, float]:
        """Shares of validation images whose class has the highest score, and one of the five highest."""
        network.eval()
        mine = torch.arange(self.data.n_test)[self.team.part(self.data.n_test)]
        first = five = torch.zeros((), device=self.team.device)
        for images, labels in self.data.test.batches([rows for rows in mine.split(self.args.batch_size) if len(rows)]):
            with self.speed.autocast():
                scores = network(centre(images, self.args.image_size))
            right = scores.topk(min(5, self.data.classes)).indices == labels[:, None]
            first, five = first + right[:, 0].sum(), five + right.sum()
        top1, top5 = self.team.add(first.item(), five.item())
        return top1 / self.data.n_test, top5 / self.data.n_test
