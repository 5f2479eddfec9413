"""From a failed run's evidence to the cause its verdict names."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.causes.cause import Level
from harness.judge.causes.diagnose import Diagnosis, diagnose
from harness.judge.causes.table import UNKNOWN
from harness.judge.causes.trail import gather_trail
from harness.judge.verdict import Check, EvidenceLine, FailureCause
from harness.run.evidence import Evidence

LINE_LENGTH = 400

# The checks whose failure has a cause beyond themselves; a result of another run or a stale image explain themselves.
EXPLAINED = frozenset({"job", "result", "completed", "device"})


def explain(evidence: Evidence, checks: Sequence[Check]) -> FailureCause | None:
    """Why the run failed; None where it did not, where its numbers alone are wrong, or where it has not ended.

    A run that ended well and whose outputs or throughput are wrong has no cause beyond what its checks say.
    """
    failed = {check.name for check in checks if check.status == "fail" and check.group in ("run", "image")}
    if not failed & EXPLAINED:
        return None
    diagnosis = diagnose(gather_trail(evidence))
    if diagnosis.cause is UNKNOWN and failed & EXPLAINED == {"device"}:
        return None  # the check of the device says all there is to say
    if _may_go_on(evidence) and diagnosis.cause.level is not Level.ROOT:
        return None
    return failure_cause(diagnosis, evidence.node)


def failure_cause(diagnosis: Diagnosis, node: str | None) -> FailureCause:
    """The diagnosis as the verdict records it."""
    return FailureCause(
        id=diagnosis.cause.id,
        title=diagnosis.cause.title,
        fix=diagnosis.cause.fix,
        evidence=tuple(
            EvidenceLine(where=line.where, text=line.text.strip()[:LINE_LENGTH]) for line in diagnosis.evidence
        ),
        node=node,
    )


def _may_go_on(evidence: Evidence) -> bool:
    """Nothing on record says that the job ended."""
    if evidence.exit_code is not None or evidence.exit_code_problem or "rejected" in evidence.ledger:
        return False
    if evidence.scheduler is not None:
        return evidence.scheduler.state.upper().split(" ")[0] in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING")
    return evidence.result is None
