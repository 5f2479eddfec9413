"""Run by harness.runtime.launch: train mnist's network, as its program does, in double precision on made-up images.

With dropout, and a last batch of fewer images than there are ranks. See equal_ranks.py.
"""

import json
import sys
from pathlib import Path

import torch

from harness.runtime import join_team, run_program

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tutorials" / "xscow-2"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tutorials" / "mnist"))
from handwriting import Data
from train import Network, train_epoch

IMAGES, BATCH, EPOCHS = 22, 7, 4


def main() -> None:
    torch.set_num_threads(1)
    with join_team(torch, torch.device("cpu")) as team:
        source = torch.Generator().manual_seed(0)
        images = torch.randn(IMAGES, 1, 28, 28, dtype=torch.float64, generator=source)
        labels = torch.randint(10, (IMAGES,), generator=source)
        data = Data("made up", images, labels, images, labels)
        torch.manual_seed(1)
        network = Network(team).double().to(memory_format=torch.channels_last)
        shared = team.wrap(network, synced_batch_norm=False)
        optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
        losses = []
        for _ in range(EPOCHS):
            order = torch.randperm(IMAGES, generator=source)
            losses += team.add(train_epoch(shared, optimizer, data, order, BATCH, team).item())
        network.eval()
        scores = network(images[:4]).flatten().tolist()
        if team.is_first:
            sys.stdout.write(json.dumps({"losses": losses, "scores": scores}))


run_program(main)
