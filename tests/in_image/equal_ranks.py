"""Run by harness.runtime.launch: train scow-3's network in double precision on made-up images, print loss and weights.

In double precision the order in which ranks add numbers hardly matters, so any other difference shows.
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from harness.runtime import join_team, run_program

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tutorials" / "scow-3"))
from resnet import ResNet18

BATCH, STEPS, CLASSES = 7, 4, 3  # 7 images are shared unevenly by 2, 3 and 5 ranks


def main() -> None:
    torch.set_num_threads(1)
    with join_team(torch, torch.device("cpu")) as team:
        torch.manual_seed(team.rank)  # rank 0's weights must win
        network = ResNet18(CLASSES, width=4, stem="cifar").double()
        shared = team.wrap(network, synced_batch_norm=True)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        source = torch.Generator().manual_seed(0)
        losses = []
        for _ in range(STEPS):
            images = torch.randn(BATCH, 3, 16, 16, dtype=torch.float64, generator=source)
            labels = torch.randint(CLASSES, (BATCH,), generator=source)
            mine = team.part(BATCH)
            optimizer.zero_grad()
            loss = F.cross_entropy(shared(images[mine]), labels[mine], reduction="sum")
            (loss * (team.size / BATCH)).backward()
            optimizer.step()
            losses.append(team.add(loss.item())[0] / BATCH)
        network.eval()
        held_out = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=source)
        scores = network(held_out).flatten().tolist()  # the running statistics of batch norm decide here
        if team.is_first:
            sys.stdout.write(
                json.dumps({"losses": losses, "scores": scores, "ranks": [m["rank"] for m in team.members]})
            )


run_program(main)
