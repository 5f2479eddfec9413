"""Memory and disks: host, GPU, /dev/shm, full disks, quotas, limits of the account."""

from __future__ import annotations

from harness.judge.causes.cause import Level, cause
from harness.judge.causes.matchers import ended, raised, said

# Programs of the shell that name themselves before they complain.
SHELL = r"(?:\S*/)?(?:bash|sh|tee|cp|mv|tar|dd|mkdir|mktemp|cat|rsync|unzip|git|printf|\S+: line \d+): "

CAUSES = (
    cause(
        "host-memory",
        "the job used more host memory than it asked for",
        "作业使用的主机内存超过了申请量",
        fix=(
            "ask for more memory (sbatch --mem=64G), or load less at once: fewer loader workers, a smaller batch",
            "申请更多内存（sbatch --mem=64G），或减少一次加载的数据：减少数据加载进程数或批大小",
        ),
        by=(
            ended("OUT_OF_MEMORY", first=True),
            said(
                r"(?:slurmstepd\S*: |\[[\dT:.-]+\] )error: (?:Detected \d+ oom[-_]kill event|.*[Ee]xceeded (?:job )?memory limit)",
                told_late=True,
            ),
            said(r"srun: error: \S+: tasks? \S+: Out Of Memory", told_late=True),
            raised(r"MemoryError|_ArrayMemoryError"),
            raised(r"RuntimeError", r"DefaultCPUAllocator: (?:can't allocate|not enough) memory"),
            raised(r"OSError|RuntimeError", r"\[Errno 12\]|Cannot allocate memory \(os error 12\)"),
            said(r"\s*what\(\):\s+std::bad_alloc"),
        ),
    ),
    cause(
        "gpu-memory",
        "the GPU's memory is full",
        "GPU 显存不足",
        fix=(
            "use a smaller batch, shorter sequences or a quantised model, or ask for a larger or whole GPU (--gres=gpu:1)",
            "减小批大小或序列长度，改用量化模型，或申请显存更大的整块 GPU（--gres=gpu:1）",
        ),
        by=(
            raised(r"OutOfMemoryError"),
            raised(
                r"RuntimeError|AcceleratorError|DistBackendError|ValueError",
                r"CUDA out of memory|CUDA error: out of memory|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED|Cuda failure (?:2 )?'out of memory'"
                r"|is less than desired GPU memory utilization|No available memory for the cache blocks"
                r"|is larger than the (?:available KV cache memory|maximum number of tokens that can be stored)",
            ),
        ),
    ),
    cause(
        "shared-memory",
        "/dev/shm on the node is too small for the data loader or NCCL",
        "节点的 /dev/shm 太小，数据加载进程或 NCCL 无法使用",
        fix=(
            "use fewer loader workers (num_workers), or ask the administrator for a larger /dev/shm",
            "减少数据加载进程（num_workers），或请管理员增大 /dev/shm",
        ),
        by=(
            raised(
                r"RuntimeError|DistBackendError",
                r"out of shared memory|unable to \w+ shared memory|Error while (?:creating|attaching to) shared memory segment",
            ),
            raised(r"OSError", r"\[Errno 28\].*'/dev/shm"),
            said(r"ERROR: Unexpected bus error encountered in worker"),
        ),
    ),
    cause(
        "disk-full",
        "a disk is full",
        "磁盘已满",
        fix=(
            "free space where the evidence points (df -h), or point WORK_DIR or TMPDIR at a disk with room",
            "清理证据所指位置的空间（df -h 查看），或把 WORK_DIR、TMPDIR 指向有空间的磁盘",
        ),
        by=(
            raised(r"\w+", r"^(?!.*/dev/shm).*(?:\[Errno 28\]|No space left on device|os error 28)"),
            said(SHELL + r".*No space left on device"),
            said(r"error: no space for temporary files on "),
        ),
    ),
    cause(
        "quota",
        "the account's disk quota is used up",
        "账户的磁盘配额已用完",
        fix=(
            "delete old runs and caches (quota -s shows the usage), or ask the administrator for a larger quota",
            "删除旧的运行结果和缓存（quota -s 查看用量），或请管理员提高配额",
        ),
        by=(
            raised(r"\w+", r"\[Errno 122\]|Disk quota exceeded|os error 122"),
            said(SHELL + r".*Disk quota exceeded"),
        ),
    ),
    cause(
        "process-limits",
        "a limit on open files or processes was reached",
        "达到打开文件数或进程数的上限",
        fix=(
            "use fewer loader workers or threads, or raise the limit in the job (ulimit -n 65536; ulimit -u)",
            "减少数据加载进程或线程，或在作业中提高上限（ulimit -n 65536；ulimit -u）",
        ),
        by=(
            raised(r"OSError", r"\[Errno (?:24|23)\]"),
            raised(r"RuntimeError", r"can't start new thread|received 0 items of ancdata|Too many open files"),
            raised(r"BlockingIOError|OSError", r"\[Errno 11\]"),
            said(r"\S+: fork: (?:retry: )?Resource temporarily unavailable"),
        ),
    ),
    cause(
        "write-failed",
        "a file could not be written to its end: the disk is full, or the quota used up",
        "文件未能写完：磁盘已满或配额用尽",
        fix=(
            "look at the disk the file lies on (df -h) and at the quota (quota -s), and free space",
            "查看该文件所在磁盘（df -h）和配额（quota -s），并清理空间",
        ),
        by=(
            raised(
                r"RuntimeError",
                r"basic_ios::clear: iostream error|PytorchStreamWriter failed writing|inline_container\.cc:\d+\] \. unexpected pos",
            ),
        ),
    ),
    cause(
        "worker-killed",
        "a process of the program was killed, most often because host memory ran out",
        "程序的某个进程被杀死，通常是主机内存不足",
        level=Level.SYMPTOM,
        fix=(
            "ask for more memory (sbatch --mem=64G) or use fewer loader workers (num_workers)",
            "申请更多内存（sbatch --mem=64G），或减少数据加载进程（num_workers）",
        ),
        by=(
            # torchrun, on the rank that failed first.
            said(
                r"E\d{4} [\d:.]+ \d+ \S*elastic/multiprocessing/api\.py:\d+\] failed \(exitcode: -9\)", told_late=True
            ),
            raised(
                r"RuntimeError",
                r"^(?!.*out of shared memory).*DataLoader worker \(pid\(?s?\)?,? .*(?:killed by signal|exited unexpectedly)",
            ),
        ),
    ),
)
