"""HEALTHCHECK as %test, for who knows that the check needs no running service."""

from __future__ import annotations

import re

from harness.definition.dockerfile import Instruction
from harness.definition.shell import join, quote
from harness.definition.state import StageState

DEFAULT_TIMEOUT_S = 30.0
"""Docker's."""
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def health_test(state: StageState) -> str | None:
    """The body of %test: the check once, in WORKDIR, within its timeout; None where there is none.

    Interval, start period and retries are about a service that comes up; a test has none to wait for.

    Raises:
        SpecError: the timeout is no duration.
    """
    check = state.health
    if check is None:
        return None
    words = check.values[1:]
    command = join(words) if check.is_json else f"{join(state.shell)} {quote(' '.join(words))}"
    lines = [] if state.workdir == "/" else [state.enter_later()]
    lines += [
        'command -v timeout >/dev/null || { echo "HEALTHCHECK as a test needs the program timeout" >&2; exit 1; }',
        f"timeout {_timeout_s(check):g} {command} || "
        f'{{ echo "HEALTHCHECK of {check.where} failed: exit status $?" >&2; exit 1; }}',
    ]
    return "\n".join(lines)


def _timeout_s(check: Instruction) -> float:
    flag = next((flag for flag in check.flags if flag.startswith("--timeout=")), None)
    if flag is None:
        return DEFAULT_TIMEOUT_S
    text = flag.partition("=")[2]
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise check.refuse(f"'{text}' is no duration", "write 30s or 1m30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts) or DEFAULT_TIMEOUT_S
