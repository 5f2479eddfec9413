"""Why a run failed, in plain words, with the line that proves it."""

from __future__ import annotations

from harness.judge.causes.explain import explain

__all__ = ["explain"]
