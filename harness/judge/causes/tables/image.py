"""The image and the engine that starts it; what is in it and what it runs on."""

from __future__ import annotations

from harness.judge.causes.cause import cause
from harness.judge.causes.matchers import died_of, raised, said

_BUILD = ("build it: make build-sif TUT=N VARIANT=cpu|cuda", "构建镜像：make build-sif TUT=N VARIANT=cpu|cuda")

CAUSES = (
    cause(
        "missing-image",
        "the image is not there",
        "镜像不存在",
        fix=_BUILD,
        by=(
            said(r"error: no image \S"),
            said(r"FATAL:\s+.*could not open image .*no such file or directory"),
        ),
    ),
    cause(
        "damaged-image",
        "the image is damaged, or was changed after it was signed",
        "镜像已损坏，或签名后被改动",
        fix=("build it again: make build-sif TUT=N", "重新构建：make build-sif TUT=N"),
        by=(
            said(r"error: \S+ is damaged \(its content is sha256"),
            said(r"error: \S+ was changed after it was signed, or is no image"),
            said(r"FATAL:\s+.*image format not recognized"),
            said(r"FATAL:\s+.*(?:squashfs.*(?:corrupt|invalid|superblock)|failed to (?:get|read) .*SIF)"),
        ),
    ),
    cause(
        "unsigned-image",
        "nobody this catalog trusts has signed the image",
        "镜像没有受信任的签名",
        fix=(
            "build it with a key the catalog trusts (harness key --trust KEY), or set ALLOW_UNSIGNED=1 if it is your own",
            "用镜像库信任的密钥构建（harness key --trust KEY）；若是自己的镜像，可设置 ALLOW_UNSIGNED=1",
        ),
        by=(said(r"error: \S+ (?:is not signed|was not signed by a key in|cannot be verified: no key in)"),),
    ),
    cause(
        "no-engine",
        "neither apptainer nor singularity is on the node",
        "节点上没有 apptainer 或 singularity",
        fix=(
            "load its module in the job (module load apptainer), or ask the administrator to install it",
            "在作业中加载模块（module load apptainer），或请管理员安装",
        ),
        by=(said(r"error: neither apptainer nor singularity is on "),),
    ),
    cause(
        "engine-refused",
        "the container engine could not start the image on this node",
        "容器引擎无法在该节点上启动镜像",
        fix=(
            "tell the administrator the node and the evidence line: user namespaces or FUSE are missing there",
            "把节点名和证据告诉管理员：该节点缺少用户命名空间或 FUSE",
        ),
        by=(
            said(
                r"FATAL:\s+(?!.*(?:no such file or directory|No space left|image format not recognized)).*container creation failed"
            ),
            said(
                r"(?:FATAL|ERROR)\s*:?\s+(?:Failed to create user namespace|.*user namespace.*(?:disabled|not permitted|not allowed))"
            ),
        ),
    ),
    cause(
        "missing-command",
        "a program the job starts is not in the image or on the node",
        "镜像或节点中没有作业要启动的程序",
        fix=(
            "add it to the stack's Dockerfile and build again, or load its module",
            "把它加入软件栈的 Dockerfile 并重新构建，或加载相应模块",
        ),
        by=(
            said(r"FATAL:\s+.*executable file not found in \$PATH"),
            said(r"(?:\S+: line \d+: |bash: |/bin/sh: \d+: )\S+: (?:command )?not found$"),
        ),
    ),
    cause(
        "missing-package",
        "a Python package is not in the image",
        "镜像中缺少 Python 包",
        fix=(
            "add it to the stack's requirements and build again; packages of one's own home are not seen inside (PYTHONNOUSERSITE=1)",
            "把它加入软件栈的依赖并重新构建；镜像内看不到个人目录中的包（PYTHONNOUSERSITE=1）",
        ),
        by=(
            raised(r"ModuleNotFoundError|PackageNotFoundError"),
            said(r"^\S*python[\d.]*: No module named \S+$"),  # python -m
            raised(
                r"ImportError", r"cannot import name|requires the .* library but it was not found|Using `.*` requires"
            ),
        ),
    ),
    cause(
        "missing-library",
        "a shared library is missing in the image, or does not fit",
        "镜像中缺少共享库，或版本不符",
        fix=(
            "add the library to the stack's Dockerfile and build again",
            "把该库加入软件栈的 Dockerfile 并重新构建",
        ),
        by=(
            raised(
                r"ImportError|OSError",
                r"^(?!.*(?:libcuda|libnvidia-ml|GLIBC)).*(?:cannot open shared object file|undefined symbol)",
            ),
            said(r"\S+: error while loading shared libraries: (?!libcuda|libnvidia)"),
        ),
    ),
    cause(
        "old-glibc",
        "the image's libc is older than the node's driver libraries need",
        "镜像的 libc 版本过低，无法使用节点的驱动库",
        fix=(
            "use an image on a newer base (Debian 12, Ubuntu 22.04), or one without --nv where no GPU is needed",
            "使用基于更新系统的镜像（Debian 12、Ubuntu 22.04）；不需要 GPU 时不要加 --nv",
        ),
        by=(
            said(r"\S+: .*version `GLIBC(?:XX)?_[\d.]+' not found"),
            raised(r"ImportError|OSError", r"version `GLIBC(?:XX)?_[\d.]+' not found"),
        ),
    ),
    cause(
        "old-cpu",
        "the node's processor lacks instructions the image's programs use",
        "节点的处理器不支持镜像中程序使用的指令",
        fix=(
            "run on a newer node (sbatch --constraint, --exclude=NODE), or use an image built for older processors",
            "换到较新的节点（sbatch --constraint 或 --exclude=节点名），或使用为旧处理器构建的镜像",
        ),
        by=(
            died_of(4),
            said(r"(?:\S+: line \d+:\s+\d+ )?Illegal instruction\b"),
            said(r"Fatal Python error: Illegal instruction"),
        ),
    ),
)
