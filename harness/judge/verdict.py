"""The verdict of a run: its facts, every check, and one overall word. Fails closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, field_validator

from harness.errors import HarnessError
from harness.project import Environment
from harness.specfile import Language, LocalizedText

Group = Literal["run", "image", "output", "throughput", "site"]
Status = Literal["pass", "warn", "fail", "skip"]
Overall = Literal["pass", "warn", "fail"]


class VerdictError(HarnessError):
    """A verdict.json that is there but cannot be believed."""


def printable(text: str) -> str:
    """``text`` on one line without control characters: what a run wrote must not move a terminal's cursor."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in line)


class _Record(BaseModel):
    # Numbers that are not finite have no place in JSON, and a check that met one has said so in its message.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        return printable(value) if isinstance(value, str) else value


class Check(_Record):
    """One question and its answer.

    Attributes:
        group: which kind of question.
        step: the step it is about, or None for the whole run.
        name: the output, metric or fact; unique within (group, step).
        status: ``skip`` means "does not apply here", with the reason in ``message``.
        message: cause, evidence and, where known, what to do; one line.
        message_zh: the same in Chinese; empty where nobody wrote it, as in verdicts of older versions.
        value: what was found, where that is a finite number, in ``unit``.
        expected: what would have passed, for a reader.
        floor: slowest value that passes, in ``unit``.
        limit: highest value the hardware allows, in ``unit``.
        fraction_of_limit: ``value / limit``.
        samples: raw samples behind ``value``, in ``unit``, in the order they were taken.
        consequence: a failure only because the run left nothing to judge; another failed check names the cause.
        rerun: ``value`` is within the noise of its gate, and too few runs are there to decide: more would.
    """

    group: Group
    step: str | None = None
    name: str
    status: Status
    message: str
    message_zh: str = ""
    value: float | None = None
    unit: str | None = None
    expected: str | None = None
    floor: float | None = None
    limit: float | None = None
    fraction_of_limit: float | None = None
    samples: tuple[float, ...] = ()
    consequence: bool = False
    rerun: bool = False

    def says(self, language: Language) -> str:
        """The message in that language, else in English."""
        return self.message_zh or self.message if language == "zh" else self.message

    @property
    def key(self) -> tuple[str, str | None, str]:
        return self.group, self.step, self.name


class EvidenceLine(_Record):
    """A line that proves a cause. ``where`` is ``file:line`` in the run folder, or who said it."""

    where: str
    text: str


class FailureCause(_Record):
    """Why the run failed, in plain words.

    Attributes:
        id: stable name, such as ``gpu-memory``; ``unknown`` where nobody can say.
        title: one clause, in both languages.
        fix: the one thing to do, in both languages.
        evidence: the lines that prove it, best first.
        node: the machine it happened on, None where nobody knows.
    """

    id: str
    title: LocalizedText
    fix: LocalizedText
    evidence: tuple[EvidenceLine, ...] = ()
    node: str | None = None


class RunFacts(_Record):
    """Which run was judged. ``device`` is the name the driver gives; times are seconds since the epoch.

    ``rerun_of``: the run whose throughput this one was made to decide.
    ``environment``: what it ran in, an image or a conda environment.
    ``model_source``: the weights that the measured step computed with, in its own words (``site``, ``random``, ...).
    """

    run_id: str
    tutorial: str
    variant: str | None = None
    preset: str | None = None
    attempt: str | None = None
    site: str | None = None
    host: str | None = None
    job_id: str | None = None
    device: str | None = None
    device_kind: str | None = None
    device_count: int | None = None
    gpu_shared: bool = False
    driver: str | None = None
    environment: Environment = "apptainer"
    image_sha256: str | None = None
    definition_sha256: str | None = None
    git_revision: str | None = None
    model_source: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    rerun_of: str | None = None


class Verdict(_Record):
    """What the harness says of one run. ``cause`` says why it failed to run; None where it ran to its end."""

    schema_version: Literal[1] = 1
    run: RunFacts
    checks: tuple[Check, ...] = Field(default=())
    cause: FailureCause | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def overall(self) -> Overall:
        """``fail`` on any failure, and also where nothing passed: silence is not success."""
        found = {check.status for check in self.checks}
        if "fail" in found or not found & {"pass", "warn"}:
            return "fail"
        return "warn" if "warn" in found else "pass"

    def check(self, group: str, step: str | None, name: str) -> Check | None:
        """The check of that key, or None."""
        return next((check for check in self.checks if check.key == (group, step, name)), None)

    @property
    def wants_rerun(self) -> bool:
        """Whether more runs would decide: its rate is near a gate, and nothing else is wrong with it."""
        others = any(check.status == "fail" and check.group != "throughput" for check in self.checks)
        return not others and any(check.rerun for check in self.checks)

    def counts(self) -> dict[Status, int]:
        """Number of checks by status; every status is present."""
        statuses: tuple[Status, ...] = ("pass", "warn", "fail", "skip")
        return {status: sum(check.status == status for check in self.checks) for status in statuses}

    @property
    def headline(self) -> Check | None:
        """The throughput metric's own check: the one number a reader looks for."""
        return next((check for check in self.checks if check.group == "throughput"), None)

    def to_json(self) -> str:
        """JSON text that :meth:`from_json` reads back to an equal verdict."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str | None = None) -> Verdict:
        """Read a verdict back.

        Raises:
            VerdictError: not JSON, another schema, or an overall word its own checks do not support.
        """
        try:
            data: Any = json.loads(text)
            verdict = cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise VerdictError(f"key '{key}': {first['msg']}", where=where, fix="judge the run again") from error
        except ValueError as error:
            raise VerdictError(f"not valid JSON: {error}", where=where, fix="judge the run again") from error
        claimed = data.get("overall")
        if claimed not in (None, verdict.overall):
            raise VerdictError(
                f"it says overall '{claimed}', its checks say '{verdict.overall}'",
                where=where,
                fix="judge the run again",
            )
        return verdict


def load_verdict(path: Path) -> Verdict:
    """Read ``verdict.json``.

    Raises:
        FileNotFoundError: there is none. VerdictError: it cannot be believed.
    """
    return Verdict.from_json(path.read_text(encoding="utf-8", errors="replace"), where=str(path))
