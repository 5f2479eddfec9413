"""``harness cluster``: a private Slurm cluster to try the job scripts on."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from harness.cluster import ClusterSpec, PrivateCluster
from harness.errors import HarnessError

app = typer.Typer(
    help="Start, use and stop a private Slurm cluster on this machine, without being root.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_Box = Annotated[Path, typer.Option("--box", help="Folder of the cluster.")]
_DEFAULT = ClusterSpec()
_DEFAULT_BOX = Path(".cluster")


def register(commands: typer.Typer) -> None:
    """Add this family as one command."""
    commands.add_typer(app, name="cluster")


@app.command()
def start(
    box: _Box = _DEFAULT_BOX,
    nodes: Annotated[int, typer.Option(help="Virtual nodes.")] = _DEFAULT.nodes,
    cpus: Annotated[int, typer.Option(help="CPUs per node (pretended).")] = _DEFAULT.cpus,
    memory: Annotated[int, typer.Option(help="Memory per node, MiB (pretended).")] = _DEFAULT.memory_mib,
    gpus: Annotated[int, typer.Option(help="GPUs per node (pretended).")] = _DEFAULT.gpus,
    gpu_type: Annotated[str, typer.Option(help="Type of the GPUs.")] = _DEFAULT.gpu_type,
    shards: Annotated[
        int | None, typer.Option(help="Shards per node, a multiple of the GPUs; default: 64 for each GPU.")
    ] = None,
) -> None:
    """Start a cluster and wait until its nodes are idle.

    Examples:

      harness cluster start

      harness cluster start --nodes 4 --gpus 8 --gpu-type a100 --shards 0

      eval "$(harness cluster env)" && sbatch --wrap hostname
    """
    spec = ClusterSpec(
        nodes=nodes,
        cpus=cpus,
        memory_mib=memory,
        gpus=gpus,
        gpu_type=gpu_type,
        shards=64 * gpus if shards is None else shards,
    )
    cluster = PrivateCluster(box, spec)
    cluster.start()
    typer.echo(f"started {_describe(spec)} in {_shown(box)}")
    typer.echo(f'use it:  eval "$(harness cluster env{_box_option(box)})"')
    typer.echo(f"stop it: harness cluster stop{_box_option(box)}")


@app.command()
def stop(box: _Box = _DEFAULT_BOX) -> None:
    """Stop a cluster and everything its jobs left running; one that is stopped already is fine.

    Example:

      harness cluster stop
    """
    cluster = PrivateCluster(box)
    was_there = bool(cluster.daemons())
    cluster.stop()
    typer.echo(f"stopped the cluster in {_shown(box)}" if was_there else f"no cluster in {_shown(box)}")


@app.command()
def status(box: _Box = _DEFAULT_BOX) -> None:
    """Say which daemons run. Exit code 1 when not all of them do.

    Example:

      harness cluster status
    """
    cluster = PrivateCluster(box)
    for daemon in cluster.daemons():
        typer.echo(f"{daemon.name:<12} {'running' if daemon.alive else 'dead':<8} pid {daemon.pid}")
    if not cluster.is_running():
        raise HarnessError(
            "the cluster does not run", where=_shown(box), fix=f"harness cluster start{_box_option(box)}"
        )
    typer.echo(f"running: {_describe(cluster.spec)}")


@app.command()
def env(box: _Box = _DEFAULT_BOX) -> None:
    """Print the lines that make this shell use the cluster.

    Example:

      eval "$(harness cluster env)"
    """
    cluster = PrivateCluster(box)
    if not cluster.is_running():
        raise HarnessError(
            "the cluster does not run", where=_shown(box), fix=f"harness cluster start{_box_option(box)}"
        )
    for key, value in cluster.environment().items():
        typer.echo(f"export {key}={shlex.quote(value)}")


def _describe(spec: ClusterSpec) -> str:
    text = f"{spec.nodes} node{'s' if spec.nodes > 1 else ''} of {spec.cpus} CPUs"
    if spec.gpus:
        text += f", {spec.gpus} pretended {spec.gpu_type} GPUs"
    return text + (f", {spec.shards} shards" if spec.shards else "")


def _shown(box: Path) -> str:
    return os.path.relpath(box) if box.is_absolute() and box.is_relative_to(Path.cwd()) else str(box)


def _box_option(box: Path) -> str:
    return "" if box == _DEFAULT_BOX else f" --box {shlex.quote(str(box))}"
