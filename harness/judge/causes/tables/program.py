"""The program's own end, where nothing better is known."""

from __future__ import annotations

from collections.abc import Iterable

from harness.judge.causes.cause import Cause, Level, Sighting, cause
from harness.judge.causes.matchers import any_of, both, died_of, exited, fact, raised, said
from harness.judge.causes.trail import Trail
from harness.run.evidence import Evidence

# Exceptions that only report that another process failed, or that this one was told to stop.
REPORTERS = (
    r"ChildFailedError|ProcessRaisedException|ProcessExitedException|CalledProcessError|SignalException|KeyboardInterrupt"
    r"|SystemExit|Terminated|BrokenProcessPool|CancelledError|EngineDeadError|BrokenPipeError|GeneratorExit"
)
# vLLM's parent process on its engine's death.
_ENGINE_DIED = r"Engine core initialization failed|Engine process failed to start|EngineCore encountered an issue"


def _reported_nothing(evidence: Evidence) -> str | None:
    """Exit status 0 and no result."""
    ended_well = evidence.exit_code == 0 and evidence.result is None and not evidence.result_exists
    return "0, and there is no result.json" if ended_well else None


RESIDUE = (
    cause(
        "killed",
        "the program was killed, and nothing says by whom",
        "程序被杀死，没有记录说明原因",
        level=Level.RESIDUE,
        fix=(
            "most often memory: ask for more (sbatch --mem), and look for an out-of-memory line in the node's kernel log",
            "多数情况是内存不足：申请更多内存（sbatch --mem），并查看节点内核日志中的 OOM 记录",
        ),
        by=(died_of(9),),
    ),
    cause(
        "stopped",
        "the program was told to stop, and nothing says by whom",
        "程序收到停止信号，没有记录说明来源",
        level=Level.RESIDUE,
        fix=("submit it again", "重新提交"),
        by=(died_of(15, 2, 1), any_of(raised(r"Terminated|KeyboardInterrupt|SignalException"))),
    ),
    cause(
        "crashed",
        "a program crashed in its machine code",
        "程序在底层代码中崩溃",
        level=Level.SYMPTOM,
        fix=(
            "see which library the last lines name; run again with PYTHONFAULTHANDLER=1 to see where it was",
            "查看最后几行所指的库；设置 PYTHONFAULTHANDLER=1 重新运行以定位",
        ),
        by=(
            died_of(11, 6, 7, 8),
            said(r"(?:\S+: line \d+:\s+\d+ )?(?:Segmentation fault|Aborted|Bus error|Floating point exception)\b"),
            said(r"Fatal Python error: (?!Illegal instruction)"),
            said(
                r"E\d{4} [\d:.]+ \d+ \S*elastic/multiprocessing/api\.py:\d+\] failed \(exitcode: -(?:11|7|8)\)",
                told_late=True,
            ),
        ),
    ),
    cause(
        "no-result",
        "the program ended well and reported nothing",
        "程序正常结束，但没有报告任何结果",
        level=Level.RESIDUE,
        fix=(
            "see that the program reports its step with harness.runtime (StepRun), and that the job runs every step",
            "确认程序使用 harness.runtime（StepRun）报告该步骤，且作业运行了所有步骤",
        ),
        by=(fact(_reported_nothing, file="exit_code"),),
    ),
    cause(
        "damaged-result",
        "the run's result.json cannot be read",
        "运行的 result.json 无法读取",
        level=Level.RESIDUE,
        fix=(
            "submit again; the disk may have been full, or somebody edited the file",
            "重新提交；可能是磁盘曾经写满，或文件被人改动",
        ),
        by=(fact(lambda evidence: evidence.result_problem if evidence.result_exists else None),),
    ),
    cause(
        "refused-input",
        "the program refused what it was given, and says what to change",
        "程序拒绝了给定的输入，并说明了如何修改",
        level=Level.RESIDUE,
        fix=("do what its message says", "按提示修改"),
        by=(both(any_of(said(r"(?:\S+\.py: )?error: ")), exited(2)),),
    ),
)


def program_error(others: tuple[Cause, ...]) -> Cause:
    """A Python error that no other cause explains; ``others`` are all those causes."""

    def unexplained(trail: Trail) -> Iterable[Sighting]:
        every = list(raised(rf"(?!(?:{REPORTERS})$)\w+", rf"^(?!.*(?:{_ENGINE_DIED}))")(trail))
        if not every:
            return
        explained = {
            s.chain for other in others for matcher in other.matchers for s in matcher(trail) if s.chain is not None
        }
        yield from (sighting for sighting in every if sighting.chain not in explained)

    return cause(
        "program-error",
        "the program has an error, or was given something it does not expect",
        "程序出错，或得到了意料之外的输入",
        fix=(
            "read the last lines of its traceback in the log; the tutorial's author can mend it",
            "阅读日志中错误回溯的最后几行；请教程作者修复",
        ),
        by=(unexplained,),
    )
