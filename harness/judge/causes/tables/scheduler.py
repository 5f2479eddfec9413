"""What the scheduler, the node or a person did to the job."""

from __future__ import annotations

from harness.judge.causes.cause import Level, cause
from harness.judge.causes.matchers import died_of, ended, raised, refused, said

# slurmstepd, on what it ends. A STEP is also cancelled by srun when one of its tasks failed, so only a JOB counts as cancelled.
_STOPPED = r"(?:slurmstepd\S*: )?error: \*\*\* {} \S+ ON \S+ CANCELLED AT \S+"
_ANY = _STOPPED.format("(?:JOB|STEP)")
_GRES = r"generic resource|\bgres\b|node configuration is not available"

CAUSES = (
    cause(
        "wall-time",
        "the job ran out of time",
        "作业超过时间限制",
        level=Level.ENDING,
        fix=(
            "ask for more time (sbatch --time=02:00:00) or run a smaller preset (PRESET=smoke)",
            "申请更长时间（sbatch --time=02:00:00），或使用更小的规模（PRESET=smoke）",
        ),
        by=(ended("TIMEOUT", "DEADLINE"), said(_ANY + r" DUE TO TIME LIMIT")),
    ),
    cause(
        "cancelled",
        "somebody cancelled the job",
        "作业被取消",
        level=Level.ENDING,
        fix=("submit it again", "重新提交"),
        by=(ended("CANCELLED", "REVOKED"), said(_STOPPED.format("JOB") + r" \*\*\*")),
    ),
    cause(
        "preempted",
        "the job had to make room for a more important one",
        "作业被更高优先级的作业抢占",
        level=Level.ENDING,
        fix=(
            "submit it again, or to a partition whose jobs are not preempted",
            "重新提交，或提交到不会被抢占的分区",
        ),
        by=(ended("PREEMPTED"), said(_ANY + r" DUE TO PREEMPTION")),
    ),
    cause(
        "node-lost",
        "the node failed while the job ran",
        "作业运行期间节点发生故障",
        fix=(
            "submit again; tell the administrator the node's name",
            "重新提交，并把节点名告诉管理员",
        ),
        by=(
            ended("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", first=True),
            said(_ANY + r" DUE TO NODE FAILURE", told_late=True),
        ),
    ),
    cause(
        "unwritable-log",
        "Slurm could not write the job's output file, so it never started the job",
        "Slurm 无法写入作业的输出文件，作业没有启动",
        fix=(
            "submit from a folder that exists and is writable on the compute nodes too; check --output, quota and permissions",
            "在计算节点也能访问并可写的目录中提交；检查 --output、配额和权限",
        ),
        by=(died_of(53),),
    ),
    cause(
        "rejected-gres",
        "the scheduler refused the job: no node has the GPUs, cores or memory it asks for",
        "调度器拒绝作业：没有节点满足所申请的 GPU、CPU 或内存",
        fix=(
            "see what nodes have (sinfo -o '%P %G %c %m') and ask for that: --gres=gpu:1, or --gres=shard:16 for a share",
            "用 sinfo -o '%P %G %c %m' 查看节点资源并按此申请：--gres=gpu:1，或用 --gres=shard:16 申请一部分",
        ),
        by=(refused(_GRES),),
    ),
    cause(
        "rejected",
        "the scheduler refused the job",
        "调度器拒绝了作业",
        fix=(
            "change what its answer names: partition, account, QOS or time limit (sites/NAME.toml, or sbatch's options)",
            "按其提示修改分区、账户、QOS 或时间限制（sites/NAME.toml 或 sbatch 选项）",
        ),
        by=(refused(rf"^(?!.*(?:{_GRES}))"),),
    ),
    cause(
        "never-starts",
        "the job waits for something that will not happen",
        "作业在等待不会满足的条件",
        fix=(
            "cancel it (harness cancel), change the request that the reason names, and submit again",
            "取消作业（harness cancel），按原因修改申请后重新提交",
        ),
        by=(
            ended(
                "PENDING",
                reason=r"DependencyNeverSatisfied|PartitionDown|PartitionInactive|PartitionTimeLimit|PartitionNodeLimit|BadConstraints"
                r"|InvalidAccount|InvalidQOS|JobHeldAdmin|launch_failed_requeued_held|MaxJobsPerAccount|UnavailableNodes",
            ),
        ),
    ),
    cause(
        "not-permitted",
        "the job may not read or write a file or folder",
        "作业没有读写某个文件或目录的权限",
        fix=(
            "see the path in the evidence: give the account the right, or write into the run folder, which is bound into the image",
            "查看证据中的路径：授予权限，或写入已挂载到镜像中的运行目录",
        ),
        by=(
            raised(r"PermissionError"),
            raised(r"OSError", r"\[Errno 30\]|Read-only file system"),
            said(r"error: cannot write /\S+; check quota and permissions"),
        ),
    ),
    cause(
        "job-lost",
        "the scheduler no longer knows the job, and it left no exit status",
        "调度器已没有该作业的记录，作业也没有留下退出状态",
        level=Level.RESIDUE,
        fix=(
            "submit it again; the log shows how far it came",
            "重新提交；日志显示了它运行到哪里",
        ),
        by=(ended("UNKNOWN"),),
    ),
)
