"""Train the usual MNIST network: two convolutions, two linear layers, dropout, Adadelta.

The images live on the device as one tensor. Batches are rows of a random permutation, so no Python code touches single
images and the device does not wait for a loader. A job of several processes shares each batch among them: they average
their gradients and all take the same step, which is the step that one process alone would take.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    ProgramArguments,
    ProgramError,
    StepRun,
    Team,
    Throughput,
    choose_device,
    join_team,
    run_program,
)

# isort: split
import argparse

import matplotlib
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from handwriting import Data, load_data
from matplotlib.figure import Figure
from torch import Tensor, nn

MEAN, STD = 0.1307, 0.3081  # of MNIST's pixels, scaled to 0..1


class Network(nn.Module):
    """Images (n, 1, 28, 28) -> scores (n, 10), by one process of a team."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team
        self.features = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden = nn.Sequential(nn.Linear(64 * 12 * 12, 128), nn.ReLU())
        self.scores = nn.Linear(128, 10)

    def forward(self, images: Tensor, count: int = 0) -> Tensor:
        """``count``: images of the whole batch, of which these are this process's share; 0: nothing is dropped."""
        features = self.dropped(self.features(images), 0.25, count).flatten(1)
        return self.scores(self.dropped(self.hidden(features), 0.5, count))

    def dropped(self, values: Tensor, share: float, count: int) -> Tensor:
        """Dropout. Where the zeros are is drawn for the whole batch, so that all processes do what one alone would."""
        if self.team.size == 1 or count == 0:
            return F.dropout(values, share, training=count > 0)
        # Random numbers are handed out in the order of memory: it must be that of the values.
        order = torch.channels_last if values.dim() == 4 else torch.contiguous_format
        whole = torch.empty(count, *values.shape[1:], dtype=values.dtype, device=values.device, memory_format=order)
        return values * F.dropout(whole.fill_(1), share)[self.team.part(count)]


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


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, data: Data, order: Tensor, batch: int, team: Team
) -> Tensor:
    """One pass over the rows ``order``, batches shared by all; this process's part of the mean loss, on its device."""
    network.train()
    total = torch.zeros((), device=order.device)
    for rows in order.split(batch):
        mine = rows[team.part(len(rows))]
        optimizer.zero_grad(set_to_none=True)
        scores = network(data.train_images[mine], len(rows))
        loss = F.cross_entropy(scores, data.train_labels[mine], reduction="sum")
        # Gradients are averaged over processes, whose shares may differ by an image: times size, by batch.
        (loss * (team.size / len(rows))).backward()
        optimizer.step()
        total += loss.detach()
    return total / len(order)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, team: Team, batch: int = 1000) -> float:
    """Share of images whose highest score is that of their label; each process looks at its part."""
    network.eval()
    part = team.part(len(labels))
    right = torch.zeros((), dtype=torch.long, device=labels.device)
    for some, truth in zip(images[part].split(batch), labels[part].split(batch), strict=True):
        right += (network(some).argmax(1) == truth).sum()
    return team.add(right.item())[0] / len(labels)


def plot(losses: list[float], accuracies: list[float], title: str) -> Figure:
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")  # no pyplot: a compute node has no screen
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(losses) + 1)
    left.plot(epochs, losses, marker="o", color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.plot(epochs, [100 * value for value in accuracies], marker="o", color="tab:green")
    right.set(xlabel="epoch", ylabel="test accuracy in %")
    right.set_title(f"at the end {100 * accuracies[-1]:.2f} %", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure


def train(run: StepRun, args: argparse.Namespace, team: Team) -> None:
    device = team.device
    run.output("settings", configure(device))
    run.output("world_size", team.size)
    run.output("ranks", list(team.members))
    if args.batch_size < team.size:
        raise ProgramError(f"a batch of {args.batch_size} cannot be shared by {team.size} processes")
    with run.phase("load"):
        torch.manual_seed(args.seed)  # the same in all processes: weights, dropout, order
        data = load_data(args.max_images, MEAN, STD, device)
        network = Network(team).to(device, memory_format=torch.channels_last)
        shared = team.wrap(network, synced_batch_norm=False)  # it has none
    run.output("data_source", data.source)
    run.output("n_train", len(data.train_labels))
    run.output("n_test", len(data.test_labels))
    say = print if team.is_first else lambda _: None
    say(f"{data.source}: {len(data.train_labels)} training images, {len(data.test_labels)} test images, on {device}")

    optimizer = torch.optim.Adadelta(network.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=args.gamma)
    shuffle = torch.Generator(device).manual_seed(args.seed)
    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    losses: list[float] = []
    accuracies: list[float] = []
    for epoch in range(1, args.epochs + 1):
        with meter.window(units=len(data.train_labels)):
            order = torch.randperm(len(data.train_labels), generator=shuffle, device=device)
            loss = train_epoch(shared, optimizer, data, order, args.batch_size, team)
        schedule.step()
        with run.phase("evaluate"):
            losses.append(team.add(loss.item())[0])
            accuracies.append(accuracy(network, data.test_images, data.test_labels, team))
        say(f"epoch {epoch:2d}: loss {losses[-1]:.4f}, test accuracy {100 * accuracies[-1]:.2f} %")

    run.throughput("train_throughput", meter, unit="images/s")
    run.output("train_loss", losses)
    run.output("test_accuracy_curve", accuracies)
    run.output("test_accuracy", accuracies[-1])
    if team.is_first:
        with run.phase("save"):
            torch.save(network.state_dict(), run.output_file("mnist_cnn.pt"))
            title = f"MNIST network on {data.source}, {team.size} process(es)"
            plot(losses, accuracies, title).savefig(run.output_file("learning_curve.png"))
    say(f"test accuracy {100 * accuracies[-1]:.2f} %, {meter.median:.0f} images/s, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("epochs", 14, "passes over the training images; the first is warm-up, not measured", minimum=2)
    arguments.parameter("batch_size", 64, "images per step, of all processes together", minimum=1)
    arguments.parameter("lr", 1.0, "learning rate of Adadelta", minimum=0)
    arguments.parameter("gamma", 0.7, "the learning rate is multiplied by this after every epoch", minimum=0)
    arguments.parameter("seed", 1, "of the weights, the dropout and the order of the images", minimum=0)
    arguments.parameter("max_images", 0, "use only so many training and test images; 0: all", minimum=0)
    args = arguments.parse_args()
    with StepRun.from_environment("train", tutorial="mnist", parameters=vars(args)) as run:
        device, facts = choose_device(torch, run.gpus_requested)
        run.use_device(facts)
        run.versions(torch=torch.__version__, matplotlib=matplotlib.__version__)
        with join_team(torch, device) as team:
            train(run, args, team)


if __name__ == "__main__":
    run_program(main)
