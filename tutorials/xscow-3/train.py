"""Train ResNet50 on ImageNet from scratch with one process per GPU (DistributedDataParallel).

Each process computes the gradient of its share of every batch, the processes average their gradients, and all take the
same step. After each epoch the state is saved; a job that is started again goes on from there.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    Checkpoints,
    ProgramArguments,
    ProgramError,
    StepRun,
    Team,
    allocated_cores,
    choose_device,
    choose_speed,
    join_team,
    run_program,
)

# isort: split
import argparse
import os
from statistics import median

import matplotlib
import torch
from images import load_data
from matplotlib.figure import Figure
from trainer import Trainer

CHECKPOINTS = "checkpoints"  # folder of the run
STORED_PER_SIDE = 256 / 224  # of an image's side as it is kept to the side the network sees


def plot(curves: dict[str, list[float]], title: str) -> Figure:
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")  # no pyplot: a compute node has no screen
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(curves["train_loss"]) + 1)
    left.plot(epochs, curves["train_loss"], marker="o", color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss")
    for name, colour in (("top1", "tab:green"), ("top5", "tab:orange")):
        right.plot(epochs, [100 * value for value in curves[name]], marker="o", color=colour, label=name)
    right.set(xlabel="epoch", ylabel="validation accuracy in %")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure


def train(run: StepRun, args: argparse.Namespace, team: Team) -> None:
    speed = choose_speed(torch, team.device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = min(args.workers, max(0, allocated_cores() // local - 1))  # one core is for the process itself
    with run.phase("load"):
        stored = round(args.image_size * STORED_PER_SIDE)
        data = load_data(stored, args.max_images, args.resident_gb, workers, team.device)
    if not team.size <= args.batch_size <= data.n_train * args.passes:
        raise ProgramError(f"a batch of {args.batch_size} fits neither {team.size} processes nor {data.n_train} images")
    resident = type(data.train).__name__ == "Resident"
    settings = {"batch_norm": args.batch_norm, "data_resident": resident, "workers_per_process": workers}
    run.output("settings", {**speed.settings, **settings})
    facts = {"data_source": data.source, "n_train": data.n_train, "n_test": data.n_test, "classes": data.classes}
    for name, value in {**facts, "world_size": team.size, "ranks": list(team.members)}.items():
        run.output(name, value)

    trainer = Trainer(args, data, team, speed)
    checkpoints = Checkpoints(torch, run.folder / CHECKPOINTS, vars(args), is_writer=team.is_first, keep=3)
    curves: dict[str, list[float]] = {"train_loss": [], "top1": [], "top5": [], "data_wait_share": []}
    done = 0
    if (saved := checkpoints.newest()) is not None:
        done = saved.epoch
        curves |= saved.state["curves"]
        for name in ("network", "optimizer", "scaler"):
            getattr(trainer, name).load_state_dict(saved.state[name])
    run.output("resumed_after_epoch", done)
    team.wait()  # nobody writes a checkpoint while another still looks for the newest one
    for epoch in range(done + 1, args.epochs + 1):
        loss, waiting = trainer.epoch(epoch)
        with run.phase("evaluate"):
            top1, top5 = trainer.evaluate(trainer.network)
        for name, value in zip(curves, (loss, top1, top5, waiting), strict=True):
            curves[name].append(value)
        with run.phase("checkpoint"):
            state = {name: getattr(trainer, name).state_dict() for name in ("network", "optimizer", "scaler")}
            checkpoints.save(epoch, **state, curves=curves)
        if team.is_first:
            right = f"top-1 {100 * top1:.2f} %, top-5 {100 * top5:.2f} %"
            print(f"epoch {epoch:2d}: loss {loss:.4f}, {right}, {100 * waiting:.0f} % waiting for data", flush=True)
    # Too little may be left to measure: the first window after a start is warm-up.
    run.throughput("train_throughput", trainer.meter, unit="images/s", resumed_after=done, left=args.epochs - done)
    report(run, trainer, checkpoints, curves)


def report(run: StepRun, trainer: Trainer, checkpoints: Checkpoints, curves: dict[str, list[float]]) -> None:
    """The numbers, and whether the saved network is the trained one: loaded into a new one it must be as good."""
    team = trainer.team
    team.wait()
    saved = checkpoints.newest()
    if saved is None:
        raise ProgramError(f"no readable checkpoint in {run.folder}: is the disk full?")
    reloaded = trainer.new_network()
    reloaded.load_state_dict(saved.state["network"])
    top1, _ = trainer.evaluate(reloaded)
    run.output("reload_difference", abs(top1 - curves["top1"][-1]))
    run.output("checkpoints", len(checkpoints.files()))
    for name, values in curves.items():
        run.output(f"{name}_curve", values)
    run.output("data_wait_share", median(curves["data_wait_share"]))  # the first epoch is no measure
    run.output("top1", curves["top1"][-1])
    run.output("top5", curves["top5"][-1])
    if team.is_first:
        plot(curves, f"ResNet50, {team.size} process(es)").savefig(run.output_file("learning_curve.png"))
        print(f"top-5 {100 * curves['top5'][-1]:.2f} %, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("epochs", 20, "passes over the training images", minimum=2)
    arguments.parameter("batch_size", 256, "images per step, of all processes together", minimum=1)
    arguments.parameter("lr", 0.1, "learning rate of SGD at the beginning", minimum=0)
    arguments.parameter("momentum", 0.9, "of SGD", minimum=0)
    arguments.parameter("weight_decay", 1e-4, "pulls the weights towards zero", minimum=0)
    arguments.parameter("lr_step", 5, "epochs after which the learning rate falls", minimum=1)
    arguments.parameter("lr_gamma", 0.2, "what it is multiplied by then", minimum=0)
    arguments.parameter("batch_norm", "local", "local: statistics of each process's share; synced: of the whole batch")
    arguments.parameter("width", 64, "channels after the stem", minimum=1)
    arguments.parameter("image_size", 224, "pixels per side that the network sees", minimum=32)
    arguments.parameter("workers", 8, "per process, for decoding; never more than its cores less one", minimum=0)
    arguments.parameter("resident_gb", 8.0, "sets up to this size stay in the device's memory, GiB", minimum=0)
    arguments.parameter("passes", 1, "passes over the images that make one epoch", minimum=1)
    arguments.parameter("seed", 1, "of the weights, the order of the images and their parts", minimum=0)
    arguments.parameter("max_images", 0, "use only so many training and validation images; 0: all", minimum=0)
    args = arguments.parse_args()
    if args.batch_norm not in ("local", "synced"):
        arguments.error(f"--batch-norm: '{args.batch_norm}' is none of local, synced")
    with StepRun.from_environment("train", tutorial="xscow-3", parameters=vars(args), keeps=CHECKPOINTS) as run:
        device, facts = choose_device(torch, run.gpus_requested)
        run.use_device(facts)
        run.versions(torch=torch.__version__, matplotlib=matplotlib.__version__)
        with join_team(torch, device) as team:
            train(run, args, team)


if __name__ == "__main__":
    run_program(main)
