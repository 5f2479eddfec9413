"""Predict prices with a small neural network: one hidden layer, Adam, strong weight decay.

The table is small, so it lives on the device as a whole: training rows, test rows and the weights.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, choose_device, run_program

# isort: split
import argparse

import matplotlib
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from matplotlib.figure import Figure
from table import Data, load_table, prepare
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

EPOCHS_PER_WINDOW = 5  # an epoch takes milliseconds: too short to be timed alone
AVERAGED_SHARE = 0.25  # of the training, at its end, whose weights are averaged


def root_mean_square(predicted: Tensor, truth: Tensor, score: str) -> float:
    """The score: lower is better."""
    if score == "rmse_log":
        predicted, truth = predicted.clamp(min=1).log(), truth.log()
    return F.mse_loss(predicted, truth).sqrt().item()


def baseline(data: Data, score: str) -> float:
    """Score of always predicting the training set's mean (of logarithms: the best constant there is)."""
    mean = data.train_target.log().mean().exp() if score == "rmse_log" else data.train_target.mean()
    return root_mean_square(mean.expand_as(data.test_target), data.test_target, score)


def train_epochs(
    network: nn.Module, optimizer: torch.optim.Optimizer, data: Data, shuffle: torch.Generator, batch: int, epochs: int
) -> None:
    """``epochs`` passes over the training rows, each in a new order made on the device."""
    for _ in range(epochs):
        for chosen in torch.randperm(len(data.train_target), generator=shuffle, device=shuffle.device).split(batch):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(network(data.train_features[chosen]), data.train_target[chosen]).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(network: nn.Module, data: Data, score: str) -> dict[str, float]:
    """Scores on the training and on the test rows. Everything is on the device already."""
    return {
        "train": root_mean_square(network(data.train_features), data.train_target, score),
        "test": root_mean_square(network(data.test_features), data.test_target, score),
    }


def plot(epochs: list[int], curves: dict[str, list[float]], mean_score: float, final: float, title: str) -> Figure:
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")  # no pyplot: a compute node has no screen
    axes = figure.subplots()
    for (name, values), colour in zip(curves.items(), ("tab:blue", "tab:green"), strict=True):
        axes.plot(epochs, values, marker="o", markersize=4, color=colour, label=name)
    axes.axhline(final, color="tab:orange", linestyle="--", label=f"test, averaged weights: {final:.4g}")
    axes.axhline(mean_score, color="tab:gray", linestyle=":", label=f"predicting the mean: {mean_score:.4g}")
    axes.set(xlabel="epoch", ylabel="error (lower is better)", ylim=(0, 1.5 * mean_score), title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def train(run: StepRun, args: argparse.Namespace) -> None:
    # A step is a few microseconds of arithmetic: a second thread would spend longer waiting for the first than helping
    # it, ten times longer where both share their cores with other work.
    device, facts = choose_device(torch, run.gpus_requested, max_threads=1)
    run.use_device(facts)
    run.versions(torch=torch.__version__, pandas=pd.__version__, matplotlib=matplotlib.__version__)
    # exact single precision everywhere: the score's logarithms forgive nothing, and nothing here is large
    torch.set_float32_matmul_precision("highest")
    run.output("settings", {"tf32": False, "amp": False, "data_resident": True, "epochs_per_window": EPOCHS_PER_WINDOW})
    with run.phase("load"):
        torch.manual_seed(args.seed)
        table = load_table()
        data = prepare(table, args.test_share, args.split_seed, device)
        network = nn.Sequential(
            nn.Linear(data.train_features.shape[1], args.hidden), nn.ReLU(), nn.Linear(args.hidden, 1)
        )
        network.to(device)
    rows = len(data.train_target)
    run.output("data_source", table.source)
    run.output("n_train", rows)
    run.output("n_test", len(data.test_target))
    run.output("n_features", data.train_features.shape[1])
    print(f"{table.source}: {rows} training and {len(data.test_target)} test rows on {facts.name}")

    optimizer = torch.optim.Adam(network.parameters(), lr=args.lr, weight_decay=args.weight_decay, foreach=True)
    average = AveragedModel(network)  # a rate of 0.1 keeps the weights jumping; their average is what they jump around
    shuffle = torch.Generator(device).manual_seed(args.seed)
    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    epochs = [0]
    curves = {name: [value] for name, value in evaluate(network, data, table.score).items()}  # untrained
    for done in range(0, args.epochs, EPOCHS_PER_WINDOW):
        todo = min(EPOCHS_PER_WINDOW, args.epochs - done)
        with meter.window(units=todo * rows):
            train_epochs(network, optimizer, data, shuffle, args.batch_size, todo)
        with run.phase("evaluate"):
            epochs.append(done + todo)
            if epochs[-1] > (1 - AVERAGED_SHARE) * args.epochs:
                average.update_parameters(network)
            for name, value in evaluate(network, data, table.score).items():
                curves[name].append(value)
    mean_score = baseline(data, table.score)
    final = evaluate(average, data, table.score)["test"]
    better = 1 - final / mean_score

    run.throughput("train_throughput", meter, unit="samples/s")
    run.output("train_score_curve", curves["train"])
    run.output("test_score_curve", curves["test"])
    run.output("score", table.score)
    run.output("rmse", final)
    run.output("baseline_rmse", mean_score)
    run.output("improvement", better)
    with run.phase("save"):
        figure = plot(epochs, curves, mean_score, final, f"{table.source}: {table.score} while training")
        figure.savefig(run.output_file("learning_curve.png"))
    print(f"{table.score} {final:.4g}, predicting the mean {mean_score:.4g}: {100 * better:.1f} % better")
    print(f"{meter.median:.0f} samples/s, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("epochs", 100, f"the first {EPOCHS_PER_WINDOW} are warm-up", minimum=EPOCHS_PER_WINDOW + 1)
    arguments.parameter("batch_size", 32, "rows per step", minimum=1)
    arguments.parameter("lr", 0.1, "learning rate of Adam", minimum=0)
    arguments.parameter("weight_decay", 5.0, "pulls the weights towards zero", minimum=0)
    arguments.parameter("hidden", 128, "width of the hidden layer", minimum=1)
    arguments.parameter("test_share", 0.2, "of the rows, kept for testing", minimum=0.01)
    arguments.parameter("split_seed", 42, "which rows those are", minimum=0)
    arguments.parameter("seed", 42, "of the weights and the order of the rows", minimum=0)
    args = arguments.parse_args()
    if args.test_share >= 1:
        arguments.error(f"--test-share: {args.test_share} leaves nothing to learn from")
    with StepRun.from_environment("train", tutorial="xscow-1", parameters=vars(args)) as run:
        train(run, args)


if __name__ == "__main__":
    run_program(main)
