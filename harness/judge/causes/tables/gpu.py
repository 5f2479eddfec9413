"""GPUs and their driver: not given, not visible, too old, broken, or not used."""

from __future__ import annotations

from harness.judge.causes.cause import Level, cause
from harness.judge.causes.matchers import any_of, both, fact, raised, said
from harness.run.evidence import Evidence

CUDA_ERRORS = r"RuntimeError|AcceleratorError|DistBackendError|CUDARuntimeError|DeferredCudaCallError"


def _fell_back(evidence: Evidence) -> str | None:
    """A completed step of the CUDA variant that computed on the CPU."""
    if evidence.result is None or evidence.variant != "cuda":
        return None
    for name, step in evidence.result.steps.items():
        if step.status == "completed" and step.device is not None and step.device.kind == "cpu":
            return f"step '{name}' of the CUDA variant computed on the CPU: {step.device.name}"
    return None


def _fewer(evidence: Evidence) -> str | None:
    """A completed step that used some GPUs, but not as many as were asked for.

    Beside distributed steps, which say their ``world_size``, a job may have steps of one process: one GPU will do there.
    """
    result = evidence.result
    if result is None or evidence.variant != "cuda":
        return None
    given = evidence.fact("gpus") or "0"
    wanted = max(result.gpus_requested, int(given) if given.isdecimal() and len(given) < 6 else 0)
    for name, step in result.steps.items():
        device = step.device
        if len(result.steps) > 1 and "world_size" not in step.outputs:
            continue
        if step.status == "completed" and device is not None and device.kind == "cuda" and device.count < wanted:
            return f"step '{name}' used {device.count} of {wanted} GPUs"
    return None


_SEES_NONE = any_of(
    raised(CUDA_ERRORS, r"No CUDA GPUs are available|no CUDA-capable device is detected"),
    raised(r"DeviceError", r"sees 0: (?!this image holds a CPU build)"),
    said(r"error: the job asked for \d+ GPU\(s\) but torch \S+ sees 0: (?!this image holds a CPU build)"),
)
_TOO_OLD = r"The NVIDIA driver on your system is too old"

CAUSES = (
    cause(
        "driver-too-old",
        "the node's NVIDIA driver is too old for the CUDA in the image",
        "节点的 NVIDIA 驱动版本过低，不支持镜像中的 CUDA",
        fix=(
            "run on a node with a newer driver (CUDA 12 needs 525 or newer, CUDA 13 needs 580), or use an image with an older CUDA",
            "换到驱动更新的节点（CUDA 12 需要 525 及以上，CUDA 13 需要 580 及以上），或使用 CUDA 版本较低的镜像",
        ),
        by=(
            raised(
                CUDA_ERRORS,
                _TOO_OLD
                + r"|CUDA driver version is insufficient|forward compatibility was attempted on non supported HW"
                r"|unsupported display driver / cuda driver combination",
            ),
            both(said(r"\S+: UserWarning: CUDA initialization: " + _TOO_OLD), any_of(_SEES_NONE, fact(_fell_back))),
            said(r"nvidia-container-cli: requirement error: unsatisfied condition: (?:cuda|driver)"),
        ),
    ),
    cause(
        "no-nv",
        "the program found no NVIDIA driver: the image was started without --nv, or the node has none",
        "程序找不到 NVIDIA 驱动：启动镜像时没有加 --nv，或节点没有驱动",
        fix=(
            "start the image with --nv (the job scripts do), and check that nvidia-smi works on the node",
            "启动镜像时加上 --nv（作业脚本已包含），并确认节点上 nvidia-smi 正常",
        ),
        by=(
            raised(CUDA_ERRORS, r"Found no NVIDIA driver on your system"),
            raised(r"ImportError|OSError", r"lib(?:cuda|nvidia-ml)\.so(?:\.1)?: cannot open shared object file"),
            both(
                said(r"\S+: UserWarning: CUDA initialization: Found no NVIDIA driver"),
                any_of(_SEES_NONE, fact(_fell_back)),
            ),
        ),
    ),
    cause(
        "no-gpu-on-node",
        "the job ran on a node without an NVIDIA driver",
        "作业运行在没有 NVIDIA 驱动的节点上",
        fix=(
            "submit to a GPU node (sbatch --gres=gpu:1), or use the .cpu.job",
            "提交到 GPU 节点（sbatch --gres=gpu:1），或使用 .cpu.job",
        ),
        by=(said(r"error: \d+ GPU\(s\) needed, but \S+ shows no NVIDIA driver"),),
    ),
    cause(
        "gpu-not-visible",
        "the program sees no GPU, although the node has a driver",
        "节点有驱动，但程序看不到任何 GPU",
        fix=(
            "ask for a GPU (--gres=gpu:1), start the image with --nv, and leave CUDA_VISIBLE_DEVICES as the scheduler set it",
            "申请 GPU（--gres=gpu:1），用 --nv 启动镜像，不要改动调度器设置的 CUDA_VISIBLE_DEVICES",
        ),
        level=Level.ROOT,
        by=(_SEES_NONE,),
    ),
    cause(
        "fewer-gpus",
        "the job got, or used, fewer GPUs than the tutorial needs",
        "作业得到或使用的 GPU 少于教程所需",
        fix=(
            "ask for as many as the tutorial needs (--gres=gpu:N) and start one process per GPU",
            "按教程要求申请 GPU（--gres=gpu:N），并为每块 GPU 启动一个进程",
        ),
        by=(
            said(r"error: \d+ GPU\(s\) needed, \d+ given"),
            raised(CUDA_ERRORS, r"CUDA error: invalid device ordinal"),
            raised(r"DeviceError", r"sees [1-9]\d*: |has no GPU of its own"),
            said(
                r"error: (?:the job asked for \d+ GPU\(s\) but torch \S+ sees [1-9]|local rank \d+ has no GPU of its own)"
            ),
            fact(_fewer),
        ),
    ),
    cause(
        "cpu-image",
        "the image holds a CPU build of torch",
        "镜像中的 torch 是 CPU 版本",
        fix=(
            "use the image of the cuda variant: make build-sif TUT=N VARIANT=cuda",
            "使用 cuda 变体的镜像：make build-sif TUT=N VARIANT=cuda",
        ),
        by=(
            raised(r"AssertionError|RuntimeError", r"Torch not compiled with CUDA enabled"),
            raised(r"DeviceError", r"this image holds a CPU build of torch"),
            said(r"error: the job asked for .*this image holds a CPU build of torch"),
        ),
    ),
    cause(
        "cpu-fallback",
        "the program computed on the CPU although a GPU was asked for",
        "申请了 GPU，程序却在 CPU 上计算",
        level=Level.SYMPTOM,
        fix=(
            "see at the start of the log why it did not take the GPU; start the image with --nv",
            "查看日志开头，找出程序没有使用 GPU 的原因；用 --nv 启动镜像",
        ),
        by=(fact(_fell_back),),
    ),
    cause(
        "gpu-architecture",
        "the image's programs were not built for this GPU model",
        "镜像中的程序没有为此型号 GPU 编译",
        fix=(
            "use an image whose torch supports this GPU (torch.cuda.get_arch_list() shows which), or another GPU model",
            "使用其 torch 支持此 GPU 的镜像（torch.cuda.get_arch_list() 可查看），或换一种 GPU",
        ),
        by=(
            raised(r"\w+", r"no kernel image is available for execution on the device"),
            raised(r"\w+", r"ptxas fatal\s+: Value 'sm_\w+' is not defined"),
        ),
    ),
    cause(
        "bad-gpu",
        "the node's GPU is broken",
        "节点的 GPU 出现硬件故障",
        fix=(
            "submit again without this node (sbatch --exclude=NODE) and tell the administrator the node and the evidence line",
            "避开该节点重新提交（sbatch --exclude=节点名），并把节点名和证据告诉管理员",
        ),
        by=(
            raised(
                r"\w+",
                r"uncorrectable ECC error encountered|GPU has fallen off the bus|GPU is lost|CUDA error: system not yet initialized"
                r"|CUDA error: hardware stack error|Uncorrectable NVLink error",
            ),
            # Xid codes of the hardware; 13, 31 and 43 are program errors (NVIDIA, "XID Errors").
            said(
                r"(?:\[[\s\d.]+\] )?NVRM: (?:Xid \(PCI:\S+\): (?:48|62|63|64|74|79|92|94|95|119|120|140),|GPU .*has fallen off the bus)"
            ),
            said(r"Unable to determine the device handle for (?:GPU|gpu)"),
        ),
    ),
    cause(
        "gpu-busy",
        "another program holds the GPU",
        "GPU 被其他程序占用",
        fix=(
            "submit again, without this node (sbatch --exclude=NODE); tell the administrator that a process was left on its GPU",
            "避开该节点重新提交（sbatch --exclude=节点名）；告诉管理员该 GPU 上有残留进程",
        ),
        by=(raised(r"\w+", r"CUDA-capable device\(s\) is/are busy or unavailable|all CUDA-capable devices are busy"),),
    ),
)
