"""The result of a step: collected while the program runs, written as ``result.json`` when it ends, however it ends.

The schema is ``harness/run/result.py``, which reads it. ``result.json`` is replaced in one move, so a reader sees the
old file or the new one, never half of either, also when the machine loses power.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import FrameType, TracebackType
from typing import Any

from harness.runtime import environment
from harness.runtime.device import DeviceFacts
from harness.runtime.earlier import earlier_attempts, take_over
from harness.runtime.errors import ProgramError, Terminated
from harness.runtime.files import write_json
from harness.runtime.timing import Throughput

IMPORTED_AT = time.time()  # programs import the runtime first: this is when the program began
SCHEMA_VERSION = 1
RESULT_NAME = "result.json"
OUTPUTS_NAME = "outputs"


class StepRun:
    """One step of one run, as a context manager.

    An exception that leaves the block, Ctrl-C and SIGTERM included, is recorded as the step's failure and passed on.
    Only rank 0 of a distributed program writes; on the other ranks everything works and nothing is written.

    Attributes:
        step, tutorial, preset: what this is.
        folder: the run folder.
        gpus_requested: GPUs the job asked for; None when started by hand.
    """

    def __init__(
        self,
        step: str,
        *,
        tutorial: str,
        folder: Path,
        parameters: Mapping[str, Any],
        facts: Mapping[str, Any],
        gpus_requested: int | None = None,
        phases: Mapping[str, float] | None = None,
        is_writer: bool = True,
        keeps: str = "",
        earlier: Sequence[Path] = (),
    ) -> None:
        self.step = step
        self.tutorial = tutorial
        self.folder = folder
        self.preset = str(facts["preset"])
        self.gpus_requested = gpus_requested
        self._facts = dict(facts)
        self._parameters = {key: _plain(value, f"parameter '{key}'") for key, value in parameters.items()}
        self._phases: dict[str, float] = dict(phases or {})
        self._metrics: dict[str, dict[str, Any]] = {}
        self._not_measured: dict[str, dict[str, Any]] = {}
        self._outputs: dict[str, Any] = {}
        self._files: list[str] = []
        self._device: DeviceFacts | None = None
        self._versions = {"python": platform.python_version()}
        self._is_writer = is_writer
        self._keeps = keeps
        self._earlier = [path / keeps for path in earlier] if keeps else []
        self._started_at = 0.0
        self._previous_handler: Any = None

    @classmethod
    def from_environment(cls, step: str, *, tutorial: str, parameters: Mapping[str, Any], keeps: str = "") -> StepRun:
        """The step as the job script describes it (``harness/runtime/environment.py``).

        Started by hand, with none of those names set, it is a run of its own below ``./runs/``, and says so.

        Args:
            step: the step's name unless the job gives another.
            tutorial: likewise.
            parameters: the values the program runs with, recorded in the result.
            keeps: the folder, in the run's, of what a later attempt goes on from: it begins with what the newest
                earlier attempt left there.

        Raises:
            ProgramError: one of the names holds something it cannot mean.
        """
        get = os.environ.get
        tutorial = get(environment.TUTORIAL) or tutorial
        by_hand = not get(environment.RUN_DIR)
        folder = _local_folder(tutorial) if by_hand else Path(str(get(environment.RUN_DIR)))
        is_writer = get("RANK", "0") == "0"
        if by_hand and is_writer:
            print(f"no job: this run is recorded in {folder}", file=sys.stderr)  # noqa: T201 - for its user
        requested = _number(environment.GPUS_REQUESTED)
        gpus = None if by_hand and requested is None else int(requested or 0)
        variant = _choice(environment.VARIANT, ("cpu", "cuda"))
        shared = get(environment.GPU_SHARED) == "1"
        facts = {
            "run_id": get(environment.RUN_ID) or folder.name,
            "attempt": get(environment.ATTEMPT) or "0",
            "tutorial": tutorial,
            "variant": variant,
            "preset": _choice(environment.PRESET, ("smoke", "bench", "full")) or "full",
            "git_revision": get(environment.GIT_REVISION) or None,
            "host": get(environment.NODE) or socket.gethostname(),
            "job_id": get(environment.JOB_ID) or None,
            "gpus_requested": gpus or 0,
            "gpu_shared": shared,
            "image": {
                "path": get(environment.IMAGE_PATH) or None,
                "sha256": get(environment.IMAGE_SHA256) or None,
                "definition_sha256": get(environment.DEFINITION_SHA256) or None,
            },
        }
        if variant == "cuda" or shared:
            gpus = max(gpus or 0, 1)  # the cuda variant needs a GPU whatever was asked for
        return cls(
            get(environment.STEP) or step,
            tutorial=tutorial,
            folder=folder,
            parameters=parameters,
            facts=facts,
            gpus_requested=gpus,
            phases=_phases_before_the_program(),
            is_writer=is_writer,
            keeps=keeps,
            earlier=_earlier_folders(),
        )

    # -- what the program says ------------------------------------------------------------------------------------

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the body's wall time to the phase ``name`` (load, warm_up, measured, or another), in seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._add_phase(name, time.perf_counter() - start)

    def metric(
        self,
        name: str,
        value: float,
        unit: str,
        samples: Iterable[float] = (),
        *,
        higher_is_better: bool = True,
    ) -> None:
        """Record a measured quantity. NaN and infinity are recorded as they are: the judge fails them by name."""
        self._metrics[name] = {
            "value": float(value),
            "unit": unit,
            "higher_is_better": higher_is_better,
            "samples": [float(sample) for sample in samples],
        }

    def throughput(
        self, name: str, meter: Throughput, *, unit: str, resumed_after: int = 0, left: int = 0, of: str = "epochs"
    ) -> None:
        """Record ``meter`` as a metric and its windows' time as phases; whether it was steady becomes an output.

        A run that went on from a checkpoint may have had too little ``left`` to measure anything: that is recorded in
        place of the metric, and the judge skips what it cannot judge.

        Args:
            resumed_after: epochs, or steps, that an earlier start of this run did; 0: none did.
            left: how many were left to do.
            of: what those two count: epochs, steps.

        Raises:
            ValueError: nothing was measured, in a run from the beginning.
        """
        self._add_phase("warm_up", meter.warm_up_seconds)
        if not meter.measured and resumed_after > 0:
            self._not_measured[name] = {"resumed_after": resumed_after, "left": left, "of": of}
            return
        self.metric(name, meter.median, unit, meter.samples)
        self._add_phase("measured", meter.measured_seconds)
        self.output(f"{name}_steady", meter.is_steady())

    def output(self, name: str, value: Any) -> None:
        """Record something the step produced: a number, text, bool, list or dict of those.

        Raises:
            TypeError: ``value`` cannot be written as JSON (a tensor, an array: give ``.item()`` or ``.tolist()``).
        """
        self._outputs[name] = _plain(value, f"output '{name}'")

    def output_file(self, name: str) -> Path:
        """Where to write the file ``name`` (a relative path); its size and SHA-256 are recorded when the step ends.

        A file that an earlier attempt left there is removed. A step that completes without having written it fails.

        Raises:
            ValueError: ``name`` points outside the step's output folder.
        """
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise ValueError(f"output file '{name}' must be a path inside the step's output folder")
        path = self.folder / OUTPUTS_NAME / self.step / relative
        if self._is_writer:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                path.unlink()
            if str(relative) not in self._files:
                self._files.append(str(relative))
        return path

    def use_device(self, device: DeviceFacts) -> None:
        """Record what the step computes on."""
        self._device = device

    def versions(self, **versions: str) -> None:
        """Record versions of software: ``run.versions(torch=torch.__version__)``."""
        self._versions.update({name: str(version) for name, version in versions.items()})

    # -- beginning and end ----------------------------------------------------------------------------------------

    def __enter__(self) -> StepRun:
        self._started_at = time.time()
        if self._is_writer:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._forget_earlier()
            # Before the ranks meet: so all of them see the same.
            if self._keeps and (taken := take_over(self.folder / self._keeps, self._earlier)):
                print(f"taken over from an earlier attempt: {taken} in {self._keeps}/", file=sys.stderr)  # noqa: T201
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, _raise_terminated)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut off the writing below
        try:
            if self._is_writer:
                # leaving through sys.exit(0) is a normal end
                failure = None if isinstance(error, SystemExit) and error.code in (None, 0) else error
                self._finish(failure)
        finally:
            if self._previous_handler is not None:
                signal.signal(signal.SIGTERM, self._previous_handler)
                self._previous_handler = None

    def _finish(self, failure: BaseException | None) -> None:
        described = {name: self._describe_file(name) for name in self._files}
        missing = [name for name, file in described.items() if file is None and failure is None]
        self._write(failure, [file for file in described.values() if file is not None], missing)
        if missing:
            raise ProgramError(f"step '{self.step}' ended without writing its output file '{missing[0]}'")

    def _write(self, failure: BaseException | None, files: list[dict[str, Any]], missing: list[str]) -> None:
        error: dict[str, str] | None = None
        if failure is not None:
            error = {"type": type(failure).__name__, "message": str(failure) or type(failure).__name__}
        elif missing:
            error = {"type": "MissingOutput", "message": f"ended without writing '{missing[0]}'"}
        record = {
            "status": "completed" if error is None else "failed",
            "error": error,
            "started_at": self._started_at,
            "ended_at": time.time(),
            "parameters": self._parameters,
            "phases": self._phases,
            "metrics": self._metrics,
            "not_measured": self._not_measured,
            "outputs": self._outputs,
            "files": files,
            "device": None if self._device is None else self._device.as_dict(),
            "versions": self._versions,
        }
        steps = self._earlier_steps()
        steps[self.step] = record
        write_json(self.folder / RESULT_NAME, {**self._header(), "steps": steps})

    def _header(self) -> dict[str, Any]:
        variant = self._facts["variant"] or (self._device.kind if self._device else "cpu")
        return {"schema_version": SCHEMA_VERSION, **self._facts, "variant": variant}

    def _earlier_steps(self) -> dict[str, Any]:
        """The steps this attempt has already recorded. A result of another attempt or run does not count."""
        path = self.folder / RESULT_NAME
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            same = all(earlier[key] == self._facts[key] for key in ("run_id", "attempt"))
            return dict(earlier["steps"]) if same else {}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            # Not ours: we replace whole files. Keep it for whoever looks, and do not lose this step over it.
            aside = path.with_name(f"{RESULT_NAME}.unreadable")
            path.replace(aside)
            print(f"warning: {path} is not a result ({error}); moved to {aside.name}", file=sys.stderr)  # noqa: T201
            return {}

    def _forget_earlier(self) -> None:
        """Drop what an earlier attempt said: if this one is killed, its success must not stand for ours."""
        path = self.folder / RESULT_NAME
        if not path.exists():
            return
        steps = self._earlier_steps()
        steps.pop(self.step, None)
        if steps:
            write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "steps": steps})
        elif path.exists():
            path.unlink()

    def _output_path(self, name: str) -> Path:
        return self.folder / OUTPUTS_NAME / self.step / name

    def _describe_file(self, name: str) -> dict[str, Any] | None:
        """Size and digest of a written file, after it is safely on disk; None where it was not written."""
        digest, size = hashlib.sha256(), 0
        try:
            with self._output_path(name).open("rb") as stream:
                os.fsync(stream.fileno())
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
                    size += len(block)
        except FileNotFoundError:
            return None
        return {"path": name, "bytes": size, "sha256": digest.hexdigest()}

    def _add_phase(self, name: str, seconds: float) -> None:
        self._phases[name] = self._phases.get(name, 0.0) + seconds


def _plain(value: Any, what: str) -> Any:
    """``value`` as JSON knows it; dictionaries and lists are copied, so later changes do not reach the result."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} is a {type(value).__name__} that JSON cannot hold: {error}") from error


def _raise_terminated(number: int, _frame: FrameType | None) -> None:
    raise Terminated(signal.Signals(number).name, 128 + number)


def _earlier_folders() -> list[Path]:
    root, attempt = os.environ.get(environment.RUN_ROOT), _number(environment.ATTEMPT)
    return earlier_attempts(Path(root), int(attempt)) if root and attempt else []


def _local_folder(tutorial: str) -> Path:
    return Path.cwd() / "runs" / f"local-{tutorial}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"


def _phases_before_the_program() -> dict[str, float]:
    """Seconds in the queue, starting the image, and importing libraries, as far as the job script said when each began.

    Clocks of two machines may disagree by a little: below zero is zero.
    """
    submitted, job, step = (
        _number(name) for name in (environment.SUBMITTED_AT, environment.JOB_STARTED_AT, environment.STEP_STARTED_AT)
    )
    phases = {"imports": time.time() - IMPORTED_AT}
    if submitted is not None and job is not None:
        phases["queue"] = max(0.0, job - submitted)
    if step is not None:
        phases["image_start"] = max(0.0, IMPORTED_AT - step)
    return phases


def _number(name: str) -> float | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ProgramError(f"{name} is '{text}', which is not a number") from None


def _choice(name: str, valid: tuple[str, ...]) -> str | None:
    text = os.environ.get(name, "").strip()
    if text and text not in valid:
        raise ProgramError(f"{name} is '{text}'; valid: {', '.join(valid)}")
    return text or None
