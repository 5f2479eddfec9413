"""From evidence to verdict. Pure: the same evidence always gives the same verdict."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from harness.files import write_whole
from harness.hooks import NO_HOOKS, SiteHooks
from harness.judge.background import NOTHING, Background
from harness.judge.causes import explain
from harness.judge.image import judge_image
from harness.judge.outputs import judge_outputs
from harness.judge.plan import plan_checks
from harness.judge.run_state import judge_run_state, why_absent
from harness.judge.site_checks import judge_site
from harness.judge.throughput import judge_throughput
from harness.judge.verdict import Check, RunFacts, Verdict
from harness.run.evidence import Evidence, ExpectedImage
from harness.run.paths import RunPaths
from harness.run.result import Device
from harness.tutorial import PresetName, Tutorial


def judge_run(
    evidence: Evidence,
    tutorial: Tutorial,
    expected_image: ExpectedImage | None,
    background: Background = NOTHING,
    hooks: SiteHooks = NO_HOOKS,
) -> Verdict:
    """Judge one run by its tutorial.

    Args:
        evidence: what was found (:func:`harness.run.evidence.gather_evidence`).
        tutorial: the tutorial that was asked for.
        expected_image: the image it must have used; None (nobody knows) is a failure.
        background: other runs and measured roofs, as far as the caller knows any.
        hooks: the site's own checks and metrics.

    Returns:
        A verdict whose checks are exactly those of :func:`harness.judge.plan.plan_checks`.
    """
    preset = judged_preset(evidence, tutorial)
    absent = why_absent(evidence)
    checks: list[Check] = [
        *judge_run_state(evidence, tutorial),
        *judge_image(evidence, tutorial, expected_image, absent),
        *judge_outputs(evidence, tutorial, preset, absent),
        *judge_throughput(evidence, tutorial, absent, background),
        *judge_site(evidence, tutorial, hooks),
    ]
    if evidence.result is None:
        checks = _mark_consequences(checks)
    cause = explain(evidence, checks)
    answered = {check.key: check for check in checks}
    return Verdict(
        run=run_facts(evidence, tutorial),
        checks=tuple(answered[key] for key in plan_checks(tutorial, preset, hooks)),
        cause=cause,
    )


def _mark_consequences(checks: list[Check]) -> list[Check]:
    """Without a result every check fails; only the first failure of the run itself is news."""
    first = next(check for check in checks if check.status == "fail")
    return [
        check if check is first or check.status != "fail" else check.model_copy(update={"consequence": True})
        for check in checks
    ]


def judged_preset(evidence: Evidence, tutorial: Tutorial) -> PresetName:
    """The preset whose expectations apply; the tutorial's first one where the run does not name a valid one.

    A run of an invalid preset fails its identity check whatever the others say.
    """
    for name in get_args(PresetName):
        if name == evidence.preset:
            return name  # type: ignore[no-any-return]
    return next(iter(tutorial.presets), "smoke")


def run_facts(evidence: Evidence, tutorial: Tutorial) -> RunFacts:
    """The facts a reader of the verdict needs to find and repeat the run."""
    result = evidence.result
    device = _device(evidence, tutorial)
    steps = list(result.steps.values()) if result else []
    measured = result.steps.get(tutorial.throughput.step) if result else None
    source = measured.outputs.get("model_source") if measured else None
    return RunFacts(
        run_id=evidence.paths.run_id,
        tutorial=tutorial.id,
        variant=evidence.variant,
        preset=evidence.preset,
        attempt=result.attempt if result else evidence.asked.attempt,
        site=evidence.fact("site"),
        host=evidence.node,
        job_id=(result.job_id if result else None) or evidence.fact("job_id"),
        device=device.name if device else None,
        device_kind=device.kind if device else None,
        device_count=device.count if device else None,
        gpu_shared=bool(result and result.gpu_shared),
        driver=device.driver if device else None,
        environment="conda" if evidence.without_image else "apptainer",
        image_sha256=(result.image.sha256 if result else None) or evidence.fact("image_sha256"),
        definition_sha256=result.image.definition_sha256 if result else None,
        git_revision=(result.git_revision if result else None) or evidence.fact("git_revision"),
        model_source=source if isinstance(source, str) else None,
        started_at=_finite_or_none(min((step.started_at for step in steps), default=None)),
        ended_at=_finite_or_none(max((step.ended_at for step in steps), default=None)),
        rerun_of=evidence.fact("rerun_of"),
    )


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and abs(value) < 1e12 else None


def _device(evidence: Evidence, tutorial: Tutorial) -> Device | None:
    """The device of the step whose throughput is judged, else of any step that names one."""
    steps = evidence.result.steps if evidence.result else {}
    first = steps.get(tutorial.throughput.step)
    devices = [step.device for step in (first, *steps.values()) if step is not None and step.device is not None]
    return devices[0] if devices else None


def write_verdict(paths: RunPaths, verdict: Verdict) -> Path:
    """Write ``verdict.json``; a reader never sees half of it.

    Raises:
        OSError: the run folder cannot be written.
    """
    return write_whole(paths.verdict, verdict.to_json(), durable=False)  # judging again gives it again
