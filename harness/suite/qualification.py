"""The tests, made from tutorial.toml: run -> step -> group -> check. Collected by ``harness.pytest_plugin``.

A node id reads ``…/qualification.py::xscow-2.cpu.smoke::train::throughput::train_throughput``; checks of the whole run
have no step: ``…::xscow-2.cpu.smoke::image::digest``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest._code.code import (
    ExceptionInfo,
    ReprEntryNative,
    ReprExceptionInfo,
    ReprFileLocation,
    ReprTraceback,
    TerminalRepr,
)

from harness.errors import HarnessError
from harness.judge.plan import CheckKey, plan_checks
from harness.judge.verdict import Check
from harness.report.junit import check_properties, run_properties
from harness.suite.session import SuiteSession
from harness.suite.target import Target


class CheckFailedError(Exception):
    """A check of the verdict failed; the text is its message."""


class CheckWarning(pytest.PytestWarning):
    """A check of the verdict passed with a warning."""


class QualificationFile(pytest.File):
    """The suite's only file: a node per run of the session."""

    def collect(self) -> Iterable[pytest.Collector]:
        suite: SuiteSession | None = getattr(self.config, "_harness_suite", None)
        if suite is None:
            raise self.CollectError("say what to qualify: --tutorial 2 [--variant cpu], or --run runs/<run-id>")
        for target in suite.targets:
            try:
                hooks = suite.hooks_of(target)
            except HarnessError as error:
                raise self.CollectError(str(error)) from error
            keys = plan_checks(target.tutorial, target.preset, hooks)
            yield CheckTree.from_parent(self, name=target.name, target=target, keys=keys, levels=("step", "group"))


class CheckTree(pytest.Collector):
    """A node that sorts its checks by step, then by group; checks without a step go straight into their group."""

    def __init__(self, *, target: Target, keys: Sequence[CheckKey], levels: tuple[str, ...], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.target = target
        self.keys = keys
        self.levels = levels

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        if not self.levels:
            for key in self.keys:
                yield CheckItem.from_parent(self, name=key.name, target=self.target, key=key)
            return
        level, deeper = self.levels[0], self.levels[1:]
        if level == "step":
            yield from self._branches("group", (), [key for key in self.keys if key.step is None])
            yield from self._branches("step", deeper, [key for key in self.keys if key.step is not None])
        else:
            yield from self._branches(level, deeper, self.keys)

    def _branches(self, level: str, deeper: tuple[str, ...], keys: Sequence[CheckKey]) -> Iterable[pytest.Collector]:
        for name in dict.fromkeys(getattr(key, level) for key in keys):
            mine = [key for key in keys if getattr(key, level) == name]
            yield CheckTree.from_parent(self, name=name, target=self.target, keys=mine, levels=deeper)


class CheckItem(pytest.Item):
    """One check of one run."""

    def __init__(self, *, target: Target, key: CheckKey, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.harness_target = target
        self.key = key
        self.add_marker(key.group)

    def runtest(self) -> None:
        suite: SuiteSession = self.config._harness_suite  # type: ignore[attr-defined]
        target = self.harness_target
        if suite.submit_only and target.problem is None:
            pytest.skip(f"submitted as {target.run.run_id if target.run else target.name}; judge it with --collect")
        verdict = target.verdict
        if target.notice:
            warnings.warn(CheckWarning(target.notice), stacklevel=2)
            target.notice = None
        check = verdict.check(*self.key)
        if check is None:
            raise CheckFailedError(f"the verdict does not answer {'::'.join(part for part in self.key if part)}")
        self.user_properties.extend(run_properties(verdict.run) + check_properties(check))
        self._report(check)

    def _report(self, check: Check) -> None:
        if check.status == "fail":
            raise CheckFailedError(check.message)
        if check.status == "skip":
            pytest.skip(check.message)
        if check.status == "warn":
            warnings.warn(CheckWarning(f"{self.harness_target.name}: {check.message}"), stacklevel=2)

    def repr_failure(self, excinfo: ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        """One line of cause, the run folder and the end of its log, not a traceback through this file."""
        if not isinstance(excinfo.value, (CheckFailedError, HarnessError)):
            return super().repr_failure(excinfo, style)
        target = self.harness_target
        lines = [str(excinfo.value)]
        if target.run is not None:
            lines.append(f"run folder: {target.run.folder}")
        if target.entry is not None and target.entry.evidence.log_tail:
            lines += ["end of the log:", *(f"  {line}" for line in target.entry.evidence.log_tail[-20:])]
        # pytest's own classes: these pass from a worker of pytest-xdist to the process that reports.
        entry = ReprEntryNative([f"{line}\n" for line in lines])
        where = ReprFileLocation(str(self.path), 0, lines[0])
        return ReprExceptionInfo(ReprTraceback([entry], None, "native"), where)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        parts = (self.key.step, self.key.group, self.key.name)
        # Blanks, not "::": pytest -v rewrites the dots of a title that is the end of the node id.
        return Path(self.path), None, " ".join((self.harness_target.name, *(part for part in parts if part)))
