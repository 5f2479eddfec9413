"""Train a small convolutional network on handwritten digits: two convolutions, two linear layers, Adam.

The images live on the device as one tensor. Batches are rows of a random permutation made there too, so no Python code
touches single images and the device does not wait for a loader.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, choose_device, run_program

# isort: split
import argparse

import matplotlib
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from handwriting import Data, load_data
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

AVERAGED_SHARE = 0.25  # of the epochs, at the end, whose weights are averaged


class Network(nn.Module):
    """Images (n, 1, 28, 28) -> scores (n, 10). The second convolution has twice the ``channels`` of the first."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(2 * channels * 7 * 7, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


def configure(device: torch.device) -> dict[str, object]:
    """Set what decides speed and reproducibility, and say what was set."""
    torch.set_float32_matmul_precision("high")  # TF32 for matrix products, on GPUs that have it
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False  # a race between kernels has another winner every day
    torch.backends.cudnn.deterministic = True
    return {
        "tf32": device.type == "cuda",
        "cudnn_benchmark": False,
        "cudnn_deterministic": True,
        "channels_last": True,
        "amp": False,  # launching kernels takes longer than running them here: casts would only add more
        "data_resident": True,
    }


def train_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, data: Data, order: Tensor, batch: int) -> Tensor:
    """One pass over the rows ``order``; the mean loss, left on the device."""
    network.train()
    total = torch.zeros((), device=order.device)
    for rows in order.split(batch):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(data.train_images[rows]), data.train_labels[rows])
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(rows)
    return total / len(order)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch: int = 1000) -> float:
    """Share of images whose highest score is that of their label."""
    network.eval()
    right = torch.zeros((), dtype=torch.long, device=labels.device)
    for some, truth in zip(images.split(batch), labels.split(batch), strict=True):
        right += (network(some).argmax(1) == truth).sum()
    return right.item() / len(labels)


def plot(losses: list[float], accuracies: list[float], final: float, title: str) -> Figure:
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")  # no pyplot: a compute node has no screen
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(losses) + 1)
    left.plot(epochs, losses, marker="o", color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.plot(epochs, [100 * value for value in accuracies], marker="o", color="tab:green")
    right.axhline(100 * final, color="tab:orange", linestyle="--")
    right.set(xlabel="epoch", ylabel="test accuracy in %")
    right.set_title(f"with averaged weights {100 * final:.2f} %", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure


def train(run: StepRun, args: argparse.Namespace) -> None:
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(torch=torch.__version__, matplotlib=matplotlib.__version__)
    run.output("settings", configure(device))
    with run.phase("load"):
        torch.manual_seed(args.seed)
        data = load_data(args.max_images, args.mean, args.std, device)
        network = Network(args.channels, args.hidden).to(device, memory_format=torch.channels_last)
    run.output("data_source", data.source)
    run.output("n_train", len(data.train_labels))
    run.output("n_test", len(data.test_labels))
    print(f"{data.source}: {len(data.train_labels)} training and {len(data.test_labels)} test images on {facts.name}")

    # At a constant learning rate the weights keep jittering around a good place: their average is nearer to it.
    optimizer = torch.optim.Adam(network.parameters(), lr=args.lr, foreach=True)
    average = AveragedModel(network)
    averaged_from = args.epochs - max(1, round(AVERAGED_SHARE * args.epochs))
    passes = args.digits_passes if data.source == "digits" else 1
    shuffle = torch.Generator(device).manual_seed(args.seed)
    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    losses: list[float] = []
    accuracies: list[float] = []
    for epoch in range(1, args.epochs + 1):
        with meter.window(units=passes * len(data.train_labels)):
            shuffled = [torch.randperm(len(data.train_labels), generator=shuffle, device=device) for _ in range(passes)]
            loss = train_epoch(network, optimizer, data, torch.cat(shuffled), args.batch_size)
        with run.phase("evaluate"):
            if epoch > averaged_from:
                average.update_parameters(network)
            losses.append(loss.item())
            accuracies.append(accuracy(network, data.test_images, data.test_labels))
        print(f"epoch {epoch:2d}: loss {losses[-1]:.4f}, test accuracy {100 * accuracies[-1]:.2f} %")

    final = accuracy(average, data.test_images, data.test_labels)
    run.throughput("train_throughput", meter, unit="images/s")
    run.output("train_loss", losses)
    run.output("test_accuracy_curve", accuracies)
    run.output("test_accuracy_first_epoch", accuracies[0])
    run.output("test_accuracy_last_epoch", accuracies[-1])
    run.output("test_accuracy", final)
    with run.phase("save"):
        plot(losses, accuracies, final, f"CNN on {data.source}").savefig(run.output_file("learning_curve.png"))
    print(f"test accuracy {100 * final:.2f} %, {meter.median:.0f} images/s, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("epochs", 20, "the first is warm-up, not measured", minimum=2)
    arguments.parameter("batch_size", 64, "images per step", minimum=1)
    arguments.parameter("lr", 1e-3, "learning rate of Adam", minimum=0)
    arguments.parameter("channels", 16, "of the first convolution; the second has twice as many", minimum=1)
    arguments.parameter("hidden", 128, "width of the layer between convolutions and scores", minimum=1)
    arguments.parameter("mean", 0.5, "taken from each pixel of 0..1")
    arguments.parameter("std", 0.5, "each pixel is divided by it then: with 0.5 and 0.5 they are -1..1", minimum=1e-6)
    arguments.parameter("digits_passes", 4, "passes over the small digits set that make one epoch", minimum=1)
    arguments.parameter("seed", 1, "of the weights and the order of the images", minimum=0)
    arguments.parameter("max_images", 0, "use only so many training and test images; 0: all", minimum=0)
    args = arguments.parse_args()
    with StepRun.from_environment("train", tutorial="xscow-2", parameters=vars(args)) as run:
        train(run, args)


if __name__ == "__main__":
    run_program(main)
