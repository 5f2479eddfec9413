"""The image and the device: did the run use the software and the hardware it was meant to use."""

from __future__ import annotations

from harness.judge.said import Said, same, say
from harness.judge.verdict import Check, Status
from harness.project import PRESETS
from harness.run.evidence import Evidence, ExpectedImage
from harness.run.result import RunResult, StepResult
from harness.tutorial import Tutorial

TENSOR_PARALLEL = "tensor_parallel"  # the parameter by which a serving step is told how many GPUs share each layer
_DeviceRuling = tuple[Status, Said, str | None]


def judge_image(evidence: Evidence, tutorial: Tutorial, expected: ExpectedImage | None, absent: Said) -> list[Check]:
    """Digest, definition, and one device check per step; ``absent`` says why, where there is no result at all."""
    image = evidence.result.image if evidence.result else None
    digest = image.sha256 if image else None
    definition = image.definition_sha256 if image else None
    wanted = expected.sha256 if expected else None
    wanted_definition = expected.definition_sha256 if expected else None
    missing = absent if evidence.result is None else None
    conda = _conda(evidence) if evidence.without_image and missing is None else []
    devices = [_device(evidence, tutorial, step.name, absent) for step in tutorial.steps]
    if conda:
        return [*conda, *devices]
    return [
        _image(evidence, digest, wanted, missing, known=expected is not None),
        _definition(definition, wanted_definition, missing, known=expected is not None),
        *devices,
    ]


def _conda(evidence: Evidence) -> list[Check]:
    """The checks of the image for a run that was asked to do without one; it is never taken for a run in an image."""
    image = evidence.result.image if evidence.result else None
    if image is not None and image.sha256:
        status: Status = "fail"
        used = say(
            "asked for without an image, the program ran in {image}…",
            "要求不使用镜像，程序却在镜像 {image}… 中运行",
            image=image.sha256[:12],
        )
    else:
        status = "skip"
        used = say(
            "no image was used: the run was asked for in a conda environment, {name}",
            "没有使用镜像：按要求在 conda 环境 {name} 中运行",
            name=evidence.fact("conda") or say("not named", "未命名"),
        )
    lock = evidence.fact("lock_sha256")
    if lock:
        packages = say(
            "no image, so no definition; packages are those of the lock {lock}…, by the job's own check",
            "没有镜像，因此没有定义文件；软件包与锁文件 {lock}… 一致（作业自行检查）",
            lock=lock[:12],
        )
    else:
        packages = say(
            "no image, so no definition; its base has no lock", "没有镜像，因此没有定义文件；其基础没有锁文件"
        )
    return [
        Check(group="image", name="digest", status=status, message=used, message_zh=used.zh),
        Check(group="image", name="definition", status="skip", message=packages, message_zh=packages.zh),
    ]


_IMAGE, _DEFINITION = say("image", "镜像"), say("definition", "定义文件")


def _image(evidence: Evidence, found: str | None, wanted: str | None, missing: Said | None, *, known: bool) -> Check:
    """The digest; and of a run that its job script recorded, that somebody vouched for the image."""
    check = _digest("digest", _IMAGE, found, wanted, missing, known=known)
    if check.status != "pass" or evidence.job.get("signed_by", "?"):
        return check
    message = say(
        "the image's signature was not verified: ALLOW_UNSIGNED was set; publish and sign it (make build-sif), or "
        "submit without ALLOW_UNSIGNED",
        "镜像签名未经验证：设置了 ALLOW_UNSIGNED；请发布并签名镜像（make build-sif），或去掉 ALLOW_UNSIGNED 重新提交",
    )
    return check.model_copy(update={"status": "fail", "message": message, "message_zh": message.zh})


def _digest(
    name: str, noun: Said, found: str | None, wanted: str | None, missing: Said | None, *, known: bool
) -> Check:
    def check(status: Status, message: Said) -> Check:
        return Check(
            group="image",
            name=name,
            status=status,
            message=message,
            message_zh=message.zh,
            expected=wanted and f"sha256:{wanted}",
        )

    if missing is not None:
        return check("fail", say("{noun} unknown: {missing}", "{noun}未知：{missing}", noun=noun, missing=missing))
    if not known or not wanted:
        return check(
            "fail",
            say(
                "no image is on record to compare with, so nobody can say that this run used the right one; "
                "build or publish the image first (make build-sif)",
                "没有可对照的镜像记录，无法确认本次运行用的是正确镜像；请先构建或发布镜像（make build-sif）",
            ),
        )
    if not found:
        return check(
            "fail",
            say(
                "the run recorded no {noun} digest: the program ran outside an image; start it through the job script",
                "运行没有记录{noun}摘要：程序在镜像之外运行；请通过作业脚本启动",
                noun=noun,
            ),
        )
    if found.lower() != wanted.lower():
        return check(
            "fail",
            say(
                "the run used the {noun} {found}…, not {wanted}…; the image was rebuilt since: submit again",
                "运行使用的{noun}是 {found}…，而不是 {wanted}…；镜像此后已重新构建：请重新提交",
                noun=noun,
                found=found[:12],
                wanted=wanted[:12],
            ),
        )
    message = say("{noun} {found}… is the expected one", "{noun} {found}… 符合要求", noun=noun, found=found[:12])
    return check("pass", message)


def _definition(found: str | None, wanted: str | None, missing: Said | None, *, known: bool) -> Check:
    if missing is None and known and wanted is None:
        message = say(
            "the definition of the expected image is not on record; its digest already settles which image it is",
            "没有该镜像定义文件的记录；镜像摘要已足以确认是哪个镜像",
        )
        return Check(group="image", name="definition", status="skip", message=message, message_zh=message.zh)
    return _digest("definition", _DEFINITION, found, wanted, missing, known=known)


def _device(evidence: Evidence, tutorial: Tutorial, step_name: str, absent: Said) -> Check:
    result = evidence.result
    step = result.steps.get(step_name) if result else None
    if result is None or step is None:
        reason = absent if result is None else not_in_result(step_name)
        status, message, expected = _fail(say("device unknown: {reason}", "设备未知：{reason}", reason=reason))
    else:
        wanted = _gpus_wanted(evidence, tutorial, step_name)
        status, message, expected = _device_ruling(evidence.variant or result.variant, result, step, wanted)
    return Check(
        group="image",
        step=step_name,
        name="device",
        status=status,
        message=message,
        message_zh=message.zh,
        value=step.device.count if step and step.device else None,
        expected=expected,
    )


def _device_ruling(variant: str, result: RunResult, step: StepResult, wanted: int) -> _DeviceRuling:
    device = step.device
    if variant == "cpu":
        if device is None:
            return _fail(say("the step recorded no device", "该步骤没有记录设备"))
        if device.kind != "cpu":
            message = say(
                "the CPU variant computed on {device}; its floor does not hold there",
                "CPU 变体在 {device} 上计算；其下限在那里不适用",
                device=device.name,
            )
            return _fail(message)
        message = say(
            "{count} CPU threads on {device}", "{device}，{count} 个 CPU 线程", count=device.count, device=device.name
        )
        return "pass", message, None
    expected = f"{wanted} GPU{'s' if wanted > 1 else ''}"
    if device is None:
        message = say(
            "the step recorded no device, so nobody can say that it used the GPU",
            "该步骤没有记录设备，无法确认它使用了 GPU",
        )
        return _fail(message, expected)
    if device.kind == "cpu":
        message = say(
            "CPU fallback: the CUDA variant computed on the CPU; "
            "the image was started without --nv, the node's driver is too old, or the job has no GPU (--gres=gpu:1)",
            "退回到了 CPU：CUDA 变体在 CPU 上计算；镜像启动时没有 --nv、节点驱动过旧，或作业没有 GPU（--gres=gpu:1）",
        )
        return _fail(message, expected)
    if device.count < wanted:
        message = say(
            "used {count} of the {wanted} GPUs asked for; see CUDA_VISIBLE_DEVICES and the launcher in the log",
            "申请了 {wanted} 个 GPU，只用了 {count} 个；请查看日志中的 CUDA_VISIBLE_DEVICES 和启动器",
            count=device.count,
            wanted=wanted,
        )
        return _fail(message, expected)
    shared = say(", shared with other jobs", "，与其他作业共享") if result.gpu_shared else same("")
    devices = say(
        "{count} × {name}{shared}", "{count} × {name}{shared}", count=device.count, name=device.name, shared=shared
    )
    return "pass", devices, expected


def _gpus_wanted(evidence: Evidence, tutorial: Tutorial, step_name: str) -> int:
    """How many GPUs the step had to use.

    A distributed step, and the step whose throughput is judged, use all that the job asked for. Any other is one
    process that waits its turn (a chat before the training, merging weights): one GPU will do. A step that the tutorial
    itself gives fewer GPUs under this preset (``tensor_parallel``) uses those; what the run says of it does not count.
    """
    step = tutorial.step(step_name)
    if step.distributed:
        return max(1, _gpus_asked(evidence, tutorial))
    if step_name != tutorial.throughput.step:
        return 1
    asked = max(1, _gpus_asked(evidence, tutorial))
    preset = next((name for name in PRESETS if name == evidence.preset), None)
    shared_by = tutorial.parameters(step_name, preset).get(TENSOR_PARALLEL) if preset else None
    if isinstance(shared_by, int) and not isinstance(shared_by, bool):
        return max(1, min(shared_by, asked))
    return asked


def _gpus_asked(evidence: Evidence, tutorial: Tutorial) -> int:
    """GPUs of the whole job: the job script counts a node's. Where it and the result are silent, the tutorial's."""
    resources = tutorial.resources.get("cuda")
    nodes = resources.nodes if resources else 1
    text = evidence.fact("gpus") or ""
    counted = int(text) if text.isdecimal() and len(text) < 6 else 0
    per_node = max(counted, evidence.result.gpus_requested if evidence.result else 0)
    if not per_node and resources:
        per_node = resources.gpus_per_node
    return nodes * per_node


def _fail(message: Said, expected: str | None = None) -> _DeviceRuling:
    return "fail", message, expected


def not_in_result(step: str) -> Said:
    """Why nothing can be said of a step."""
    return say("step '{step}' is not in result.json", "result.json 中没有步骤“{step}”", step=step)
