"""A site's own checks and metrics: a Python file beside ``sites/<name>.toml``, named there as ``checks``.

In it every function ``check_…`` is a check and every function ``metric_…`` a number, of each run of that site. Each
gets the run and returns one :class:`Answer`:

    from harness.hooks import Answer, RunView, failed, measured, passed

    def check_driver(run: RunView) -> Answer:
        driver = run.device.driver if run.device else None
        return passed(f"driver {driver}") if driver == "550.54" else failed(f"driver {driver}, not 550.54")

    def metric_start(run: RunView) -> Answer:
        return measured(run.step("train").phases["image_start"], "s", at_most=30)

The answers stand in verdict, JUnit, page and JSON beside the built-in ones, in the group ``site``. A hook that raises,
or returns anything else, is a failed check that names it and the line; see docs/hooks.md.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

from harness.errors import HarnessError
from harness.gpu import GpuLimits, gpu_limits
from harness.project import Project
from harness.run.evidence import Evidence
from harness.run.result import Device, Metric, RunResult, StepResult
from harness.site import Site, load_site
from harness.tutorial import Tutorial

PREFIXES = ("check_", "metric_")


@dataclass(frozen=True)
class RunView:
    """One run, to be read. Everything in it is a copy or immutable, but for the files.

    Attributes:
        folder: of the run's newest attempt: log.txt, result.json, outputs/<step>/.
        tutorial: what was run.
        variant: cpu or cuda; None where nothing on record says it.
        preset: smoke, bench or full; likewise.
        site: the site's file.
        result: result.json; None where there is none that can be believed.
        job: what the job script wrote of itself (job.json).
        exit_code: of the job; None where none is on record.
        log_tail: the last lines of the log.
        device: where the step whose throughput is judged computed.
        gpu: the published limits of that GPU; None for a CPU, and for a GPU that harness/gpu.py does not know.
    """

    folder: Path
    tutorial: Tutorial
    variant: str | None
    preset: str | None
    site: Site
    result: RunResult | None
    job: Mapping[str, Any]
    exit_code: int | None
    log_tail: tuple[str, ...]
    device: Device | None
    gpu: GpuLimits | None

    def step(self, name: str) -> StepResult:
        """What a step reported.

        Raises:
            LookupError: it is not in the result.
        """
        if self.result is None or name not in self.result.steps:
            raise LookupError(f"step '{name}' is not in result.json")
        return self.result.steps[name]

    def metric(self, step: str, name: str) -> Metric:
        """A metric of a step.

        Raises:
            LookupError: the step or the metric is not in the result.
        """
        metrics = self.step(step).metrics
        if name not in metrics:
            raise LookupError(f"step '{step}' has no metric '{name}'")
        return metrics[name]

    def outputs(self, step: str) -> Path:
        """The folder a step left its files in."""
        return self.folder / "outputs" / step


@dataclass(frozen=True)
class Answer:
    """What a hook says. ``zh`` is the message in Chinese; ``floor`` the slowest value that passes.

    Raises:
        ValueError: a number that is not finite.
    """

    status: Literal["pass", "warn", "fail", "skip"]
    message: str
    zh: str = ""
    value: float | None = None
    unit: str | None = None
    expected: str | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        if not self.message.strip():
            raise ValueError("an answer needs a message")
        for number in (self.value, self.floor):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{number} is not a finite number")


def passed(message: str, **more: Any) -> Answer:
    """It is right. ``more``: zh, value, unit, expected."""
    return Answer("pass", message, **more)


def failed(message: str, **more: Any) -> Answer:
    """It is wrong; the message says what, and what to do."""
    return Answer("fail", message, **more)


def warned(message: str, **more: Any) -> Answer:
    """It passes, and somebody should look at it."""
    return Answer("warn", message, **more)


def skipped(message: str, **more: Any) -> Answer:
    """It does not apply to this run; the message says why."""
    return Answer("skip", message, **more)


def measured(value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> Answer:
    """A number, in ``unit``; it fails outside its bounds, where it has any.

    Raises:
        ValueError: a number that is not finite, or no unit.
    """
    if not unit.strip():
        raise ValueError("a metric needs its unit")
    bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", at_least), ("≤", at_most)) if bound is not None]
    inside = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    shown = f"{value:.6g} {unit}"
    return Answer(
        "pass" if inside else "fail",
        shown if inside else f"{shown}, expected {' and '.join(bounds)} {unit}",
        shown if inside else f"{shown}，应为 {' 且 '.join(bounds)} {unit}",
        value,
        unit,
        f"{' and '.join(bounds)} {unit}" if bounds else None,
        at_least,
    )


@dataclass(frozen=True)
class Hook:
    """One function of a site's file. ``file``: where it is, for messages and tracebacks."""

    name: str
    file: Path
    call: Callable[[RunView], object]


@dataclass(frozen=True)
class SiteHooks:
    """The hooks of one site, in the order of their file; ``site`` is None for a run whose site has no file here."""

    site: Site | None
    hooks: tuple[Hook, ...]


NO_HOOKS = SiteHooks(None, ())


def load_hooks(project: Project, site_name: str) -> SiteHooks:
    """The hooks of a site. A file that cannot be loaded becomes one hook that raises what went wrong.

    Raises:
        SpecError: the site's own file is broken.
    """
    if not project.site_file(site_name).is_file():
        return NO_HOOKS  # a run of another site's checkout: its checks are judged there
    site = load_site(project, site_name)
    if site.checks is None:
        return SiteHooks(site, ())
    path = project.sites / site.checks
    try:
        module = _load(path, site_name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises becomes a failed check
        return SiteHooks(site, (_broken(path, error),))
    found = [
        Hook(name, path, function)
        for name, function in vars(module).items()
        if name.startswith(PREFIXES) and inspect.isfunction(function) and function.__module__ == module.__name__
    ]
    if not found:
        empty = HarnessError("it defines no function check_… or metric_…", where=path.name, fix="see docs/hooks.md")
        return SiteHooks(site, (_broken(path, empty),))
    return SiteHooks(site, tuple(found))


def _load(path: Path, site_name: str) -> ModuleType:
    if not path.is_file():
        raise HarnessError("no such file", where=path.name, fix=f"put it beside {site_name}.toml, or remove 'checks'")
    name = f"harness_site_checks_{path.stem.replace('-', '_').replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise HarnessError("it cannot be loaded as Python", where=path.name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as for any import; dataclasses in the file look themselves up there
    spec.loader.exec_module(module)
    return module


def _broken(path: Path, error: BaseException) -> Hook:
    def fail(_: RunView) -> object:
        raise error

    return Hook(path.name, path, fail)


def run_view(evidence: Evidence, tutorial: Tutorial, site: Site) -> RunView:
    """The view of a run that its hooks get."""
    step = evidence.result.steps.get(tutorial.throughput.step) if evidence.result else None
    device = step.device if step else None
    return RunView(
        folder=evidence.paths.attempt_folder,
        tutorial=tutorial,
        variant=evidence.variant,
        preset=evidence.preset,
        site=site,
        result=evidence.result.model_copy(deep=True) if evidence.result else None,
        job=MappingProxyType(dict(evidence.job)),
        exit_code=evidence.exit_code,
        log_tail=evidence.log_tail,
        device=device,
        gpu=gpu_limits(device.name, device.compute_capability) if device and device.kind == "cuda" else None,
    )
