"""Which commands there are and in which module each is. A command's module is imported when it is called, not before.

Typing ``harness --help`` or ``harness status`` must not wait for database, image and template libraries that it does
not use. A test holds this table against what the modules register.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Entry:
    """A command: its module below ``harness.cli`` and the first sentence of its help."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "list": Entry("images", "List the tutorials with their images."),
    "convert": Entry(
        "images",
        "Convert a Dockerfile to an Apptainer definition file; what a definition cannot express is refused.",
    ),
    "defs": Entry("images", "Write defs/*.def for every tutorial and variant."),
    "build": Entry("build", "Build, test and publish images."),
    "explain": Entry(
        "explain", "Say which stages `harness build` would build, and which line or file moved their keys."
    ),
    "inspect": Entry("contents", "Show who signed an image, what it was made from, and what is in it."),
    "rebuild": Entry(
        "contents",
        "Build an image again from the files and the lock inside it, with nothing cached but its base, and compare.",
    ),
    "export": Entry(
        "contents",
        "Write the current image of a tutorial as one self-contained signed file: the one that was built and tested.",
    ),
    "jobs": Entry(
        "jobs",
        "Write jobs/*.job for every tutorial and variant, in images and with conda; for another site, jobs/SITE/*.job.",
    ),
    "conda": Entry(
        "conda", "Write containers/*/VARIANT.environment.yml: each stack's locked packages as a conda environment."
    ),
    "docs": Entry("pages", "Write docs/tutorials/*.md for every tutorial, in English and in Chinese."),
    "models": Entry("supply", "The models that tutorials need of a site."),
    "data": Entry("supply", "The data sets that tutorials need of a site."),
    "schema": Entry("schema", "Write docs/schema/*.json: the schemas of report.json, result.json and verdict.json."),
    "submit": Entry("submit", "Submit jobs and return; `harness wait` and `harness check` work later from any shell."),
    "open": Entry("sessions", "Open Jupyter, or LLaMA-Factory's web board, in a tutorial's image, as a job."),
    "status": Entry("status", "Show the newest runs."),
    "wait": Entry("runs", "Wait until runs have ended."),
    "check": Entry("runs", "Judge runs: outputs, image, device and throughput."),
    "cancel": Entry("runs", "Cancel the jobs of runs."),
    "report": Entry(
        "runs",
        "Write one page, one JUnit file and one JSON file about the newest runs, or a comment for a pull request.",
    ),
    "history": Entry(
        "history",
        "Show the throughput measured so far, a line per tutorial, preset, source of the model, GPU model and count.",
    ),
    "compare": Entry(
        "history", "Compare the throughput of two groups of runs: the ratio B/A, with its confidence interval."
    ),
    "accept": Entry(
        "history",
        "Make a run's throughput the reference of its tutorial, GPU model and count; earlier runs no longer count.",
    ),
    "roof": Entry("roof", "Measure this node's roof: a matrix product and a copy, 10 s each."),
    "key": Entry(
        "keys", "Show the key that signs your images, made on first use, and the keys that the catalog trusts."
    ),
    "doctor": Entry("doctor", "Say what this machine lacks and the line that fixes it."),
    "demo": Entry(
        "demo", "Build an image from a Dockerfile, run it as a Slurm job on real data, judge the run, write the page."
    ),
    "cache": Entry("cache", "What builds keep for the next one: list it, remove what is old."),
    "catalog": Entry("catalog", "Published images: list, verify, roll back, remove old ones."),
    "cluster": Entry("cluster", "Start, use and stop a private Slurm cluster on this machine, without being root."),
    "lock": Entry("lock", "Resolve what stacks are made of: harness lock [STACK]..."),
}


class CommandTable(TyperGroup):
    """A group that knows names and summaries from :data:`COMMANDS` and loads a command when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


def load(name: str) -> Any:
    """The command of that name in :data:`COMMANDS`."""
    return registered_by(COMMANDS[name].module)[name]


def registered_by(module: str) -> dict[str, Any]:
    """The commands that ``harness.cli.<module>`` registers, by name."""
    family = typer.Typer(rich_markup_mode=None)
    importlib.import_module(f"harness.cli.{module}").register(family)
    return dict(typer.main.get_group(family).commands)
