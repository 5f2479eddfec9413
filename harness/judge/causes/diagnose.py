"""Which cause it was. Pure: the same trail always gives the same answer.

The rules, in order:

1. What comes after the scheduler or a person stopped the job is a consequence of that: exceptions of programs that were
   interrupted prove nothing. Exempt is what is told late (an out-of-memory kill is reported when the job ends) and what
   the job's end itself says.
2. A root cause beats a symptom, wherever they stand in the log: the kill of one rank explains why the others waited for
   it in vain. Of several root causes the first in time wins; of one exception chain, the first link.
3. Without a root cause, the first symptom.
4. Without either, how the job was ended: time limit, cancelled, preempted.
5. Otherwise what remains to be said (killed by a signal, a Python error nobody has a better word for), or "unknown".

May be wrong where a program catches an exception, prints its traceback, and is then stopped within 20 lines of output:
the exception is taken for fatal. And a library whose message changes is not recognised: then the answer is "program
error" or "unknown", never a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.judge.causes.cause import Cause, Level, Sighting
from harness.judge.causes.table import CAUSES, UNKNOWN
from harness.judge.causes.trail import Line, Trail

EVIDENCE_LINES = 3


@dataclass(frozen=True)
class Diagnosis:
    """The cause, and the lines that prove it, best first."""

    cause: Cause
    evidence: tuple[Line, ...]


def sightings(trail: Trail, causes: Sequence[Cause] = CAUSES) -> dict[str, list[Sighting]]:
    """Every proof of every cause, by the cause's id, in time order; causes without any are left out."""
    found: dict[str, list[Sighting]] = {}
    for cause in causes:
        seen = sorted((s for matcher in cause.matchers for s in matcher(trail)), key=lambda s: s.position)
        if seen:
            found[cause.id] = seen
    return found


def diagnose(trail: Trail, causes: Sequence[Cause] = CAUSES) -> Diagnosis:
    """The cause of a run that failed; :data:`~harness.judge.causes.table.UNKNOWN` where nothing proves any."""
    found = sightings(trail, causes)
    by_id = {cause.id: cause for cause in causes}
    stop = _stopped_at(trail, found, by_id)
    for level in (Level.ROOT, Level.SYMPTOM, Level.ENDING, Level.RESIDUE):
        candidates = [
            (sighting.position, order, cause_id)
            for order, (cause_id, seen) in enumerate(found.items())
            for sighting in seen
            if by_id[cause_id].level is level
            and (level in (Level.ENDING, Level.RESIDUE) or sighting.position < stop or sighting.position == trail.end)
        ]
        if candidates:
            cause_id = min(candidates)[2]
            return Diagnosis(by_id[cause_id], _distinct(found[cause_id]))
    last = next((line for line in reversed(trail.lines) if line.text.strip()), None)
    return Diagnosis(UNKNOWN, (last,) if last else ())


def _stopped_at(trail: Trail, found: dict[str, list[Sighting]], by_id: dict[str, Cause]) -> float:
    """The position at which the log says that the job was stopped; infinity where it does not."""
    stops = [
        sighting.position
        for cause_id, seen in found.items()
        for sighting in seen
        if by_id[cause_id].level is Level.ENDING and 0 <= sighting.position < trail.end
    ]
    return min(stops, default=float("inf"))


def _distinct(seen: Sequence[Sighting]) -> tuple[Line, ...]:
    """Up to three lines; ranks that say the same say it once."""
    lines: dict[str, Line] = {}
    for sighting in seen:
        lines.setdefault(sighting.line.text, sighting.line)
    return tuple(lines.values())[:EVIDENCE_LINES]
