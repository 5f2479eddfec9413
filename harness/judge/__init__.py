"""Judging: pure functions from the evidence of one run, its tutorial and its image to a verdict."""

from __future__ import annotations

from harness.judge.judge import judge_run, write_verdict
from harness.judge.plan import CheckKey, plan_checks
from harness.judge.verdict import Check, RunFacts, Verdict, VerdictError, load_verdict

__all__ = [
    "Check",
    "CheckKey",
    "RunFacts",
    "Verdict",
    "VerdictError",
    "judge_run",
    "load_verdict",
    "plan_checks",
    "write_verdict",
]
