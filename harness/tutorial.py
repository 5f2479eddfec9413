"""The tutorial: what ``tutorials/<id>/tutorial.toml`` says. The only place that knows a tutorial."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.errors import SpecError, UserError
from harness.expectation import CurveExpectation as CurveExpectation
from harness.expectation import Expectation as Expectation
from harness.expectation import FileExpectation as FileExpectation
from harness.expectation import NumberExpectation as NumberExpectation
from harness.expectation import Scalar as Scalar
from harness.expectation import not_finite
from harness.holding import DataSet as DataSet
from harness.holding import Model as Model
from harness.project import PresetName as PresetName
from harness.project import Project
from harness.project import Variant as Variant
from harness.specfile import LocalizedText, SpecModel, read_toml, validate_spec

BOARD = "board.py"
NAME_PATTERN = r"^[a-z][a-z0-9_]*$"


class Resources(SpecModel):
    """What a job of one variant asks the scheduler for."""

    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(0, ge=0)
    cpus: int = Field(ge=1, description="cores per node")
    memory_gb: float = Field(gt=0, description="host memory per node, GiB")
    minutes: int = Field(ge=1, description="wall time limit")
    internet: bool = Field(False, description="runs on a node that reaches hubs: the site's data partition, if any")
    processes_per_node: int = Field(1, ge=1, description="ranks of a distributed step on each node")


class Step(SpecModel):
    """One program run inside the image; the job runs the steps in order."""

    name: str = Field(pattern=NAME_PATTERN)
    program: str = Field(description="file of the tutorial's folder, run by the image's python")
    distributed: bool = Field(False, description="started once per rank: nodes x processes_per_node times")
    scales: bool = Field(
        False, description="as right with more nodes or processes than the resources say, where a person asks for them"
    )
    rendezvous: Literal["file", "platform"] = Field(
        "file", description="where ranks of several nodes meet: a file of the run, or RANK, MASTER_ADDR and MASTER_PORT"
    )
    resumes: bool = Field(False, description="goes on from its checkpoints when the run is started again")
    parameters: dict[str, Scalar] = Field(
        default_factory=dict, description="the original's values; each becomes --key value (a bool: --key or nothing)"
    )

    @model_validator(mode="after")
    def _shared(self) -> Step:
        if self.scales and not self.distributed:
            raise ValueError(f"step '{self.name}': scales needs distributed")
        return self


class Preset(SpecModel):
    """Overrides of step parameters: ``[presets.smoke.train] epochs = 2``."""

    description: LocalizedText
    steps: dict[str, dict[str, Scalar]] = Field(default_factory=dict)


class Floor(SpecModel):
    """Slowest acceptable value; beyond `fail` fails, beyond `warn` warns. `source` says where the numbers come from."""

    fail: float = Field(gt=0)
    warn: float | None = Field(None, gt=0)
    source: str
    source_zh: str | None = Field(None, description="the same for Chinese pages and reports; without it, the English")


class PhysicalFloor(SpecModel):
    """The slowest acceptable share of what the hardware can do: holds on any GPU, also one never seen before.

    ============== ======================================================= ===============
    kind           the value that `fail` and `warn` bound                  better
    ============== ======================================================= ===============
    mfu            rate x flop_per_unit / peak FLOP/s                      higher
    mbu            rate x bytes_per_unit / peak bytes/s                    higher
    bytes_per_unit peak bytes/s / rate, in 1e9 bytes                       lower
    ms_per_layer   1000 / (rate x layers), for decoding bound by the host  lower
    ============== ======================================================= ===============
    """

    kind: Literal["mfu", "mbu", "bytes_per_unit", "ms_per_layer"]
    fail: float = Field(gt=0)
    warn: float | None = Field(None, gt=0)
    layers: int | None = Field(None, ge=1, description="of the model; only for ms_per_layer")
    devices: Literal["all", "one"] = Field("all", description="one: the GPUs take turns (device_map=auto)")
    source: str
    source_zh: str | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.kind in ("mfu", "mbu")

    @model_validator(mode="after")
    def _sound(self) -> PhysicalFloor:
        if self.warn is not None and (self.warn < self.fail if self.higher_is_better else self.warn > self.fail):
            raise ValueError(f"physical: warn must not be {'below' if self.higher_is_better else 'above'} fail")
        if self.higher_is_better and max(self.fail, self.warn or 0) > 1:
            raise ValueError("physical: fail and warn are fractions of the limit, at most 1")
        if (self.kind == "ms_per_layer") != (self.layers is not None):
            raise ValueError("physical: layers is needed by ms_per_layer, and by nothing else")
        return self


class PresetThroughput(SpecModel):
    """What differs where a preset computes something smaller or larger than the original; floors by variant."""

    flop_per_unit: float | None = Field(None, gt=0)
    flop_source: str | None = None
    bytes_per_unit: float | None = Field(None, gt=0)
    bytes_source: str | None = None
    physical: PhysicalFloor | Literal[False] | None = Field(
        None, description="false: none, where what is computed is too small to load a GPU"
    )
    floors: dict[Variant, Floor] = Field(default_factory=dict)


class Throughput(SpecModel):
    """The metric that says whether the tutorial runs as fast as this machine allows."""

    step: str
    metric: str = Field(pattern=NAME_PATTERN)
    unit: str
    higher_is_better: bool = Field(True, description="false for a latency")
    flop_per_unit: float | None = Field(None, gt=0, description="floating point operations per unit of work")
    flop_source: str | None = None
    bytes_per_unit: float | None = Field(None, gt=0, description="bytes of device memory read per unit of work")
    bytes_source: str | None = None
    physical: PhysicalFloor | None = Field(None, description="for GPUs; where their limits are known it is the floor")
    floors: dict[Variant, Floor]
    reruns: int | None = Field(None, ge=0, description="as a site's reruns, for this tutorial; it wins")
    presets: dict[PresetName, PresetThroughput] = Field(default_factory=dict)
    meaning: LocalizedText | None = Field(None, description="what a low value says, for the page")
    measured: LocalizedText | None = Field(None, description="what the number is, if not the median over windows")
    instead: list[OtherThroughput] = Field(
        default_factory=list, description="what is judged where the step was told to work in another way"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Throughput:
        for variant, floor in self.floors.items():
            if floor.warn is not None and (
                floor.warn < floor.fail if self.higher_is_better else floor.warn > floor.fail
            ):
                raise ValueError(
                    f"floors.{variant}: warn must not be {'below' if self.higher_is_better else 'above'} fail"
                )
        if self.physical is not None and not (self.higher_is_better and self.unit.endswith("/s")):
            raise ValueError("physical needs a rate: a unit that ends in '/s', higher is better")
        return self

    @model_validator(mode="after")
    def _sourced(self) -> Throughput:
        parts: list[Throughput | PresetThroughput] = [self, *self.presets.values()]
        for part in parts:
            if part.flop_per_unit is not None and not part.flop_source:
                raise ValueError("flop_per_unit needs flop_source")
            if part.bytes_per_unit is not None and not part.bytes_source:
                raise ValueError("bytes_per_unit needs bytes_source")
        needs = {"mfu": self.flop_per_unit, "mbu": self.bytes_per_unit}
        if self.physical is not None and needs.get(self.physical.kind, 1) is None:
            work = "flop_per_unit" if self.physical.kind == "mfu" else "bytes_per_unit"
            raise ValueError(f"physical.kind '{self.physical.kind}' needs {work}")
        return self

    def under(self, preset: str | None) -> Throughput:
        """This, with what differs under ``preset``; unchanged where nothing does."""
        own = next((part for name, part in self.presets.items() if name == preset), PresetThroughput())
        changes: dict[str, Any] = {"floors": {**self.floors, **own.floors}}
        if own.flop_per_unit is not None:
            changes |= {"flop_per_unit": own.flop_per_unit, "flop_source": own.flop_source}
        if own.bytes_per_unit is not None:
            changes |= {"bytes_per_unit": own.bytes_per_unit, "bytes_source": own.bytes_source}
        if own.physical is not None:
            changes["physical"] = own.physical or None
        return self.model_copy(update=changes)


class OtherThroughput(Throughput):
    """Of another engine, under another metric's name: never compared with the first one's floors or earlier runs."""

    when: dict[str, Scalar] = Field(min_length=1, description="parameters of the step that make it this one")


class Tutorial(SpecModel):
    """One folder under ``tutorials/``."""

    id: str = Field(pattern=r"^(mnist|(xscow|scow)-\d+)$")
    title: LocalizedText
    summary: LocalizedText
    stack: str
    like: str | None = Field(
        None, description="another tutorial: what this file does not say is as there, and the programs are those"
    )
    modules: list[str] = Field(default_factory=list, description="files that programs import; also ../OTHER/…")
    steps: list[Step] = Field(min_length=1)
    presets: dict[PresetName, Preset]
    resources: dict[Variant, Resources]
    data: list[DataSet] = Field(default_factory=list)
    models: list[Model] = Field(default_factory=list)
    stores: list[Literal["data", "models"]] = Field(
        default_factory=list, description="roots of the site that this tutorial writes to, where the person may"
    )
    expectations: list[Expectation] = Field(min_length=1)
    throughput: Throughput

    @model_validator(mode="after")
    def _consistent(self) -> Tutorial:
        steps = [step.name for step in self.steps]
        for owner, named in [
            *((f"expectation '{e.name}'", step) for e in self.expectations for step in (e.step, *e.other_steps)),
            ("throughput", self.throughput.step),
            *((f"presets.{name}", step) for name, preset in self.presets.items() for step in preset.steps),
        ]:
            if named not in steps:
                raise ValueError(f"{owner} names step '{named}'; valid steps: {', '.join(steps)}")
        for name, preset in self.presets.items():
            for step in self.steps:
                unknown = sorted(set(preset.steps.get(step.name, {})) - set(step.parameters))
                if unknown:
                    valid = ", ".join(sorted(step.parameters))
                    raise ValueError(f"presets.{name}.steps.{step.name} sets '{unknown[0]}'; valid: {valid}")
        for throughput in (self.throughput, *self.throughput.instead):
            missing = sorted(set(self.resources) - set(throughput.floors))
            if missing:
                raise ValueError(f"throughput.floors lacks the variant '{missing[0]}'")
        for other in self.throughput.instead:
            unknown = sorted(set(other.when) - set(self.step(other.step).parameters))
            if unknown or other.step != self.throughput.step or other.metric == self.throughput.metric:
                what = f"when names '{unknown[0]}'" if unknown else "step must be the same, metric another"
                raise ValueError(f"throughput.instead: {what}")
        for model in self.models:
            unknown = sorted(set(model.unless) - {name for step in self.steps for name in step.parameters})
            if unknown:
                raise ValueError(f"models '{model.name}': unless names '{unknown[0]}', no parameter of any step")
        for expectation in self.expectations:
            if not_finite(expectation):
                raise ValueError(f"expectation '{expectation.name}' has a number that is not finite")
        return self

    @property
    def has_board(self) -> bool:
        """Whether its image holds the program of a web board that `harness open` can start."""
        return any(Path(module).name == BOARD for module in self.modules)

    @property
    def scales(self) -> bool:
        """Whether a person may ask for more nodes or processes than the resources say."""
        return any(step.scales for step in self.steps)

    @property
    def program_folder(self) -> str:
        """The folder below ``tutorials/`` that holds the programs."""
        return self.like or self.id

    @property
    def stem(self) -> str:
        """The name people type: ``tutorial2`` for xscow-2, ``tutorial14`` for scow-14, ``scow-6``, ``mnist``."""
        number = bare_number(self.id)
        return self.id if number is None else f"tutorial{number}"

    def step(self, name: str) -> Step:
        """The step of that name; KeyError is impossible for names the model has checked."""
        return next(step for step in self.steps if step.name == name)

    def parameters(self, step: str, preset: PresetName) -> dict[str, Scalar]:
        """The step's parameters under a preset: the originals, overridden."""
        merged = dict(self.step(step).parameters)
        if preset in self.presets:
            merged.update(self.presets[preset].steps.get(step, {}))
        return merged

    def as_run(self, parameters: Mapping[str, Scalar]) -> Tutorial:
        """This, judged by what the step that is measured was told to do.

        Args:
            parameters: those its program ran with.
        """
        for other in self.throughput.instead:
            if all(parameters.get(name) == value for name, value in other.when.items()):
                return self.model_copy(update={"throughput": other})
        return self

    def can_do_without(self, wanted: DataSet, preset: PresetName, given: Mapping[str, Scalar]) -> bool:
        """Whether a run never looks at ``wanted``, or has a fallback for it.

        Args:
            given: parameters given at submission, which win over the preset's.
        """
        if not wanted.is_needed(preset):
            return True
        if not isinstance(wanted, Model) or not wanted.unless:
            return False
        steps = [{**self.parameters(step.name, preset), **given} for step in self.steps]
        return all(step[name] == value for step in steps for name, value in wanted.unless.items() if name in step)

    def expected(self, preset: PresetName) -> list[Expectation]:
        return [e for e in self.expectations if preset in e.presets]


def option_words(parameters: Mapping[str, Scalar]) -> list[str]:
    """Parameters as a program takes them: ``--key value``; a bool is ``--key`` or nothing."""
    words: list[str] = []
    for name, value in parameters.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not False:
            words += [flag, str(value)]
    return words


def bare_number(tutorial_id: str) -> int | None:
    """The number that alone names this tutorial, or None.

    Two series share numbers: a bare number means the xscow one where there is one (1-9), else the scow one.
    """
    match = re.fullmatch(r"(xscow|scow)-(\d+)", tutorial_id)
    if match is None:
        return None
    series, number = match[1], int(match[2])
    return number if series == "xscow" or not 1 <= number <= 9 else None


def tutorial_ids(project: Project) -> list[str]:
    """Ids of all tutorials of the checkout, in reading order."""

    def order(tutorial_id: str) -> tuple[str, int]:
        name, _, number = tutorial_id.partition("-")
        return name, int(number or 0)

    return sorted((p.parent.name for p in project.tutorials.glob("*/tutorial.toml")), key=order)


def resolve_id(project: Project, name: str) -> str:
    """The id that ``name`` (an id, a bare number, or a stem such as ``tutorial6``) stands for.

    Raises:
        UserError: no such tutorial; names the nearest ones.
    """
    ids = tutorial_ids(project)
    wanted = name.strip().lower()
    aliases = {alias: tutorial_id for tutorial_id in ids for alias in _aliases(tutorial_id)}
    if wanted in aliases:
        return aliases[wanted]
    near = [aliases[alias] for alias in difflib.get_close_matches(wanted, list(aliases), n=4, cutoff=0.4)]
    suggestions = list(dict.fromkeys(near)) or ids
    raise UserError(f"unknown tutorial '{name}'", fix=f"nearest: {', '.join(suggestions)} (all: harness list)")


def _aliases(tutorial_id: str) -> list[str]:
    number = bare_number(tutorial_id)
    return [tutorial_id] if number is None else [tutorial_id, str(number), f"tutorial{number}"]


def load_tutorial(project: Project, name: str) -> Tutorial:
    """Load the tutorial that ``name`` stands for (see :func:`resolve_id`).

    Raises:
        UserError: unknown name. SpecError: a broken tutorial.toml, or a program it names that is not there.
    """
    tutorial_id = resolve_id(project, name)
    path = project.tutorial_file(tutorial_id)
    tutorial = validate_spec(_with_likeness(project, path), Tutorial, where=str(path))
    if tutorial.id != tutorial_id:
        raise SpecError(f"id is '{tutorial.id}' but the folder is '{tutorial_id}'", where=str(path))
    folder = project.tutorials / tutorial.program_folder
    for step in tutorial.steps:
        if not (folder / step.program).is_file():
            raise SpecError(
                f"step '{step.name}' names the program '{step.program}', which is not there", where=str(path)
            )
    for module in tutorial.modules:
        if not (folder / module).is_file():
            raise SpecError(f"modules names '{module}', which is not there", where=str(path))
    return tutorial


def _with_likeness(project: Project, path: Path) -> dict[str, Any]:
    """The file's content on top of the tutorial it is like, whole keys at a time.

    Only expectations add up: ``more_expectations`` come after those of the other.

    Raises:
        SpecError: that tutorial does not exist, or is itself like another.
    """
    data = read_toml(path)
    if "like" not in data:
        return data
    valid = [other for other in tutorial_ids(project) if other != path.parent.name]
    if data["like"] not in valid:
        raise SpecError(f"like is {data['like']!r}, no other tutorial; valid: {', '.join(valid)}", where=str(path))
    base = read_toml(project.tutorial_file(data["like"]))
    if "like" in base:
        raise SpecError(f"like is '{data['like']}', which is itself like '{base['like']}'; name that", where=str(path))
    both = {**base, **data}
    both["expectations"] = [*both.get("expectations", []), *both.pop("more_expectations", [])]
    return both
