"""The image and the device: did the run use the software and the hardware it was meant to use."""

from __future__ import annotations

from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence, ExpectedImage
from harness.run.result import RunResult, StepResult
from harness.tutorial import Tutorial


def judge_image(evidence: Evidence, tutorial: Tutorial, expected: ExpectedImage | None, absent: str) -> list[Check]:
    """Digest, definition, and one device check per step; ``absent`` says why, where there is no result at all."""
    image = evidence.result.image if evidence.result else None
    digest = image.sha256 if image else None
    definition = image.definition_sha256 if image else None
    wanted = expected.sha256 if expected else None
    wanted_definition = expected.definition_sha256 if expected else None
    missing = absent if evidence.result is None else None
    conda = _conda(evidence) if evidence.without_image and missing is None else []
    devices = [_device(evidence, step.name, absent) for step in tutorial.steps]
    if conda:
        return [*conda, *devices]
    return [
        _digest("digest", "image", digest, wanted, missing, known=expected is not None),
        _definition(definition, wanted_definition, missing, known=expected is not None),
        *devices,
    ]


def _conda(evidence: Evidence) -> list[Check]:
    """The checks of the image for a run that was asked to do without one; it is never taken for a run in an image."""
    where = f"no image was used: the run was asked for in a conda environment, {evidence.fact('conda') or 'not named'}"
    image = evidence.result.image if evidence.result else None
    if image is not None and image.sha256:
        ruling: tuple[Status, str] = ("fail", f"asked for without an image, the program ran in {image.sha256[:12]}…")
    else:
        ruling = ("skip", where)
    lock = evidence.fact("lock_sha256")
    packages = (
        f"packages are those of the lock {lock[:12]}…, by the job's own check" if lock else "its base has no lock"
    )
    return [
        Check(group="image", name="digest", status=ruling[0], message=ruling[1]),
        Check(group="image", name="definition", status="skip", message=f"no image, so no definition; {packages}"),
    ]


def _digest(name: str, noun: str, found: str | None, wanted: str | None, missing: str | None, *, known: bool) -> Check:
    def check(status: Status, message: str) -> Check:
        return Check(group="image", name=name, status=status, message=message, expected=wanted and f"sha256:{wanted}")

    if missing is not None:
        return check("fail", f"{noun} unknown: {missing}")
    if not known or not wanted:
        return check(
            "fail",
            "no image is on record to compare with, so nobody can say that this run used the right one; "
            "build or publish the image first (make build-sif)",
        )
    if not found:
        return check(
            "fail",
            f"the run recorded no {noun} digest: the program ran outside an image; start it through the job script",
        )
    if found.lower() != wanted.lower():
        return check(
            "fail",
            f"the run used the {noun} {found[:12]}…, not {wanted[:12]}…; the image was rebuilt since: submit again",
        )
    return check("pass", f"{noun} {found[:12]}… is the expected one")


def _definition(found: str | None, wanted: str | None, missing: str | None, *, known: bool) -> Check:
    if missing is None and known and wanted is None:
        message = "the definition of the expected image is not on record; its digest already settles which image it is"
        return Check(group="image", name="definition", status="skip", message=message)
    return _digest("definition", "definition", found, wanted, missing, known=known)


def _device(evidence: Evidence, step_name: str, absent: str) -> Check:
    result = evidence.result
    step = result.steps.get(step_name) if result else None
    if result is None or step is None:
        reason = absent if result is None else f"step '{step_name}' is not in result.json"
        status, message, expected = _fail(f"device unknown: {reason}")
    else:
        status, message, expected = _device_ruling(
            evidence.variant or result.variant, result, step, _gpus_given(evidence)
        )
    return Check(
        group="image",
        step=step_name,
        name="device",
        status=status,
        message=message,
        value=step.device.count if step and step.device else None,
        expected=expected,
    )


def _device_ruling(
    variant: str, result: RunResult, step: StepResult, gpus_given: int
) -> tuple[Status, str, str | None]:
    device = step.device
    if variant == "cpu":
        if device is None:
            return _fail("the step recorded no device")
        if device.kind != "cpu":
            return _fail(f"the CPU variant computed on {device.name}; its floor does not hold there")
        return "pass", f"{device.count} CPU threads on {device.name}", None
    wanted = max(1, result.gpus_requested, gpus_given)
    expected = f"{wanted} GPU{'s' if wanted > 1 else ''}"
    if device is None:
        return _fail("the step recorded no device, so nobody can say that it used the GPU", expected)
    if device.kind == "cpu":
        return _fail(
            "CPU fallback: the CUDA variant computed on the CPU; "
            "the image was started without --nv, the node's driver is too old, or the job has no GPU (--gres=gpu:1)",
            expected,
        )
    if device.count < wanted:
        return _fail(
            f"used {device.count} of the {wanted} GPUs asked for; see CUDA_VISIBLE_DEVICES and the launcher in the log",
            expected,
        )
    shared = ", shared with other jobs" if result.gpu_shared else ""
    return "pass", f"{device.count} × {device.name}{shared}", expected


def _gpus_given(evidence: Evidence) -> int:
    """How many GPUs the job script counted, 0 where it does not say."""
    text = evidence.fact("gpus") or ""
    return int(text) if text.isdecimal() and len(text) < 6 else 0


def _fail(message: str, expected: str | None = None) -> tuple[Status, str, str | None]:
    return "fail", message, expected
