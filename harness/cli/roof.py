"""roof: measure what this node's device can do, for GPUs that no table knows."""

from __future__ import annotations

import os
import re
import statistics
from pathlib import Path
from typing import Annotated

import typer

import harness
from harness.cli.console import progress
from harness.cli.contents import find_image, image_files
from harness.cli.options import SiteOption, VariantOption
from harness.errors import CommandError, UserError
from harness.files import write_whole
from harness.image.engine import find_engine
from harness.image.process import run_command
from harness.project import Project, parse_variant
from harness.roof import MeasuredRoof, RoofRate, parse_roof
from harness.run.campaign import project_catalog
from harness.site import DEFAULT_SITE

PROGRAM = "harness/probe/roof.py"
INSIDE = "/opt/harness-probe"  # where the image sees this package
LONGEST_S = 600.0  # a device that needs longer than this for both measurements hangs


def register(app: typer.Typer) -> None:
    """Add this family's commands."""
    app.command()(roof)


def roof(
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="An image file, or a tutorial: its current image.")
    ] = None,
    variant: VariantOption = "cpu",
    site: SiteOption = DEFAULT_SITE,
    python: Annotated[str, typer.Option("--python", help="Without IMAGE: a Python that has torch.")] = "python3",
    seconds: Annotated[float, typer.Option(min=0.1, max=120, help="For each of the two measurements.")] = 10.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: below roofs/.")] = None,
) -> None:
    """Measure this node's roof: a matrix product and a copy, 10 s each. The judge holds unknown GPUs against it.

    Run it on the node that has the GPU. Examples: harness roof 2 --variant cuda; harness roof --python .venv/bin/python
    """
    project = Project.find()
    chosen = parse_variant(variant)
    package = Path(harness.__file__).parent
    options = ["--seconds", str(seconds), *(["--device", chosen] if image or chosen == "cuda" else [])]
    if image is None:
        command = [python, str(package.parent / PROGRAM), *options]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    else:
        catalog = project_catalog(project, site)
        files = image_files(catalog, find_image(project, catalog, image, variant))
        engine = find_engine()
        flags = [*engine.run_flags(), "--cleanenv", "--no-home", *(["--nv"] if chosen == "cuda" else [])]
        bind = ["--bind", f"{package}:{INSIDE}/harness:ro"]
        command = [
            str(engine.path),
            "--quiet",
            "exec",
            *flags,
            *bind,
            *files.engine_arguments,
            "python",
            f"{INSIDE}/{PROGRAM}",
            *options,
        ]
        environment = {**os.environ, f"{engine.variable_prefix}ENV_PYTHONPATH": INSIDE}
        if devices := os.environ.get("CUDA_VISIBLE_DEVICES"):
            environment[f"{engine.variable_prefix}ENV_CUDA_VISIBLE_DEVICES"] = devices
    with progress(f"measuring for {2 * seconds:.0f} s"):
        found = _measure(command, environment)
    target = write_whole(output or project.roofs / f"{slug(found)}.json", found.model_dump_json(indent=2) + "\n")
    device = found.device
    count = f"{device.count} threads of " if device.kind == "cpu" else ""
    typer.echo(f"device:  {count}{device.name}" + (f", driver {device.driver}" if device.driver else ""))
    typer.echo(f"matmul:  {_rate(found.matmul)}")
    typer.echo(f"copy:    {_rate(found.copy_rate)}")
    typer.echo(f"written: {target}")


def _measure(command: list[str], environment: dict[str, str]) -> MeasuredRoof:
    """Run the probe and read its answer: the last line of its standard output."""
    try:
        done = run_command(command, env=environment, separate_stdout=True, timeout_s=LONGEST_S, where=command[0])
    except CommandError as error:
        said = next((line for line in error.output.splitlines() if line.startswith("error: ")), None)
        if said is not None:
            raise UserError(said.removeprefix("error: "), where="harness roof") from error
        raise
    lines = done.stdout.splitlines()
    return parse_roof(lines[-1] if lines else "", where="harness roof")


def slug(found: MeasuredRoof) -> str:
    """A file name for the device: ``nvidia-a100-sxm4-80gb``, ``amd-epyc-7763-2-threads``."""
    name = re.sub(r"[^a-z0-9]+", "-", found.device.name.lower()).strip("-") or "device"
    return f"{name}-{found.device.count}-threads" if found.device.kind == "cpu" else name


def _rate(rate: RoofRate) -> str:
    low, high = min(rate.samples), max(rate.samples)
    middle = statistics.median(rate.samples)
    return f"{middle:.4g} {rate.unit} ({rate.detail}; {len(rate.samples)} windows, {low:.4g} to {high:.4g})"
