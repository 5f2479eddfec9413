"""Train ResNet18 on CIFAR-10 with one process per GPU (DistributedDataParallel).

Every process holds all images and the same network. It computes the gradient of its share of each batch, the processes
average their gradients, and all take the same step. So the numbers do not depend on how many processes there are.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    Checkpoints,
    ProgramArguments,
    ProgramError,
    Speed,
    StepRun,
    Team,
    Throughput,
    choose_device,
    choose_speed,
    join_team,
    run_program,
)  # fmt: skip

# isort: split
import argparse

import matplotlib
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from cifar import Data, Moves, augmented, load_data, normalised
from matplotlib.figure import Figure
from resnet import ResNet18
from torch import Tensor, nn

CLASSES = 10
EVALUATION_BATCH = 1000
CHECKPOINTS = "checkpoints"  # folder of the run


def train_epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, data: Data,
    order: Tensor, moves: Moves, batch: int, team: Team, speed: Speed,
) -> Tensor:  # fmt: skip
    """One pass over the rows ``order`` in global batches; the summed loss of this process's shares, on the device.

    What is left at the end and fills no batch is left out; the next epoch's order is another.
    """
    network.train()
    total = torch.zeros((), device=order.device)
    for start in range(0, len(order) - batch + 1, batch):
        part = team.part(batch)
        mine = slice(start + part.start, start + part.stop)
        optimizer.zero_grad(set_to_none=True)
        with speed.autocast():
            scores = network(augmented(data.train_images[order[mine]], moves.of(mine)))
            # Gradients are averaged over processes, whose shares may differ by an image: times size, by batch.
            loss = F.cross_entropy(scores, data.train_labels[order[mine]], reduction="sum")
        scaler.scale(loss * (team.size / batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        total += loss.detach()
    return total


@torch.no_grad()
def evaluate(network: nn.Module, data: Data, team: Team, speed: Speed) -> tuple[float, float]:
    """(accuracy, mean loss) over all test images; each process looks at its share, the counts are added up."""
    network.eval()
    part = team.part(len(data.test_labels))
    right = loss = torch.zeros((), device=data.test_labels.device)
    images, labels = (rows[part].split(EVALUATION_BATCH) for rows in (data.test_images, data.test_labels))
    for some, truth in zip(images, labels, strict=True):
        with speed.autocast():
            scores = network(normalised(some)).float()
        right = right + (scores.argmax(1) == truth).sum()
        loss = loss + F.cross_entropy(scores, truth, reduction="sum")
    all_right, all_loss = team.add(right.item(), loss.item())
    return all_right / len(data.test_labels), all_loss / len(data.test_labels)


def plot(losses: list[float], test_losses: list[float], accuracies: list[float], title: str) -> Figure:
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")  # no pyplot: a compute node has no screen
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(losses) + 1)
    left.plot(epochs, losses, marker="o", color="tab:blue", label="training")
    left.plot(epochs, test_losses, marker="o", color="tab:orange", label="test")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
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
    speed = choose_speed(torch, team.device)
    run.output("settings", {**speed.settings, "batch_norm": args.batch_norm, "data_resident": True})
    run.output("world_size", team.size)
    run.output("ranks", list(team.members))
    if args.batch_size < team.size:
        raise ProgramError(f"a batch of {args.batch_size} cannot be shared by {team.size} processes")
    with run.phase("load"):
        data = load_data(args.max_images, team.device)
        torch.manual_seed(args.seed)
        network = ResNet18(CLASSES, args.width, args.stem).to(team.device, memory_format=torch.channels_last)
        shared = team.wrap(network, synced_batch_norm=args.batch_norm == "synced")
    images = len(data.train_labels) * (args.digits_passes if data.source == "digits" else 1)
    if images < args.batch_size:
        raise ProgramError(f"{images} images do not fill a batch of {args.batch_size}")
    run.output("data_source", data.source)
    run.output("n_train", len(data.train_labels))
    run.output("n_test", len(data.test_labels))
    team.say(f"{data.source}: {len(data.train_labels)} training images, {team.size} process(es)")

    optimizer = torch.optim.SGD(
        network.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay
    )
    scaler = speed.scaler()
    checkpoints = Checkpoints(torch, run.folder / CHECKPOINTS, vars(args), is_writer=team.is_first)
    curves: dict[str, list[float]] = {"train_loss": [], "test_loss": [], "test_accuracy": []}
    done = 0
    if (saved := checkpoints.newest()) is not None:
        done, curves = saved.epoch, saved.state["curves"]
        network.load_state_dict(saved.state["network"])
        optimizer.load_state_dict(saved.state["optimizer"])
        scaler.load_state_dict(saved.state["scaler"])
    run.output("resumed_after_epoch", done)
    team.wait()  # nobody writes a checkpoint while another still looks for the newest one
    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if team.device.type == "cuda" else lambda: None)
    used = images // args.batch_size * args.batch_size
    for epoch in range(done + 1, args.epochs + 1):
        with meter.window(units=used):
            # on the CPU, from the epoch's own seed: the same for every number of processes, and after a restart
            source = torch.Generator().manual_seed(args.seed * 1_000_003 + epoch)
            rows = len(data.train_labels)
            order = torch.cat([torch.randperm(rows, generator=source) for _ in range(images // rows)]).to(team.device)
            moves = Moves.draw(images, data.mirrored, source, team.device)
            loss = train_epoch(shared, optimizer, scaler, data, order, moves, args.batch_size, team, speed)
        team.agree(network)
        with run.phase("evaluate"):
            accuracy, test_loss = evaluate(network, data, team, speed)
        curves["train_loss"].append(team.add(loss.item())[0] / used)
        curves["test_loss"].append(test_loss)
        curves["test_accuracy"].append(accuracy)
        with run.phase("checkpoint"):
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoints.save(epoch, **state, scaler=scaler.state_dict(), curves=curves)
        team.say(f"epoch {epoch:2d}: loss {curves['train_loss'][-1]:.4f}, test accuracy {100 * accuracy:.2f} %")
    # Too little may be left to measure: the first epoch after a start is warm-up.
    run.throughput("train_throughput", meter, unit="images/s", resumed_after=done, left=args.epochs - done)
    report(run, curves, checkpoints, team, data.source)


def report(run: StepRun, curves: dict[str, list[float]], checkpoints: Checkpoints, team: Team, source: str) -> None:
    run.output("train_loss", curves["train_loss"])
    run.output("test_accuracy_curve", curves["test_accuracy"])
    run.output("test_loss", curves["test_loss"][-1])
    run.output("test_accuracy", curves["test_accuracy"][-1])
    run.output("checkpoints", len(checkpoints.files()))
    if team.is_first:
        title = f"ResNet18 on {source}, {team.size} process(es)"
        picture = plot(curves["train_loss"], curves["test_loss"], curves["test_accuracy"], title)
        picture.savefig(run.output_file("learning_curve.png"))
        accuracy = 100 * curves["test_accuracy"][-1]
        print(f"test accuracy {accuracy:.2f} %, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("epochs", 5, "the first is warm-up, not measured", minimum=2)
    arguments.parameter("batch_size", 512, "images per step, of all processes together", minimum=1)
    arguments.parameter("lr", 0.1, "learning rate of SGD", minimum=0)
    arguments.parameter("momentum", 0.9, "of SGD", minimum=0)
    arguments.parameter("weight_decay", 1e-4, "pulls the weights towards zero", minimum=0)
    arguments.parameter("batch_norm", "synced", "synced: statistics of the whole batch; local: of each process's share")
    arguments.parameter("width", 64, "channels after the stem", minimum=1)
    arguments.parameter("stem", "imagenet", "imagenet or cifar: see resnet.py")
    arguments.parameter("digits_passes", 4, "passes over the small digits set that make one epoch", minimum=1)
    arguments.parameter("seed", 1, "of the weights, the order of the images and how they are moved", minimum=0)
    arguments.parameter("max_images", 0, "use only so many training and test images; 0: all", minimum=0)
    args = arguments.parse_args()
    for name, valid in (("batch_norm", ("synced", "local")), ("stem", ("imagenet", "cifar"))):
        if getattr(args, name) not in valid:
            arguments.error(f"--{name}: '{getattr(args, name)}' is none of {', '.join(valid)}")
    with StepRun.from_environment("train", tutorial="scow-3", parameters=vars(args), keeps=CHECKPOINTS) as run:
        device, facts = choose_device(torch, run.gpus_requested)
        run.use_device(facts)
        run.versions(torch=torch.__version__, matplotlib=matplotlib.__version__)
        with join_team(torch, device) as team:
            train(run, args, team)


if __name__ == "__main__":
    run_program(main)
