"""The run itself: did the job end well, is there a result, is it the one asked for, did every step complete."""

from __future__ import annotations

import signal
from typing import NamedTuple

from harness.judge.image import not_in_result
from harness.judge.numbers import finite, shown
from harness.judge.said import Said, same, say
from harness.judge.verdict import Check, Status
from harness.run.evidence import Evidence, SchedulerWord
from harness.run.result import RunResult
from harness.tutorial import Tutorial


class _Ruling(NamedTuple):
    status: Status
    message: Said


_RESUBMIT = say("submit it again", "请重新提交")
_LOST = say("submit again; tell the administrator the node's name", "请重新提交，并把节点名告诉管理员")
_MORE_MEMORY = say("ask for more (#SBATCH --mem)", "请申请更多内存（#SBATCH --mem）")

# What a batch scheduler's final states mean to a student, and what to do. Slurm's words; others are translated to them.
_BAD_ENDS: dict[str, tuple[Said, Said]] = {
    "TIMEOUT": (
        say("the job ran out of time", "作业超出了时间限制"),
        say(
            "ask for more (#SBATCH --time) or run a smaller preset", "请申请更长时间（#SBATCH --time）或运行更小的预设"
        ),
    ),
    "DEADLINE": (
        say("the job reached its deadline", "作业到达了截止时间"),
        say("submit again without --deadline or with a later one", "请去掉 --deadline 或改晚后重新提交"),
    ),
    "CANCELLED": (say("the job was cancelled", "作业被取消"), _RESUBMIT),
    "REVOKED": (say("the job was revoked by another cluster", "作业被另一集群撤销"), _RESUBMIT),
    "NODE_FAIL": (say("the node was lost", "节点失联"), _LOST),
    "BOOT_FAIL": (say("the node did not start", "节点未能启动"), _LOST),
    "LAUNCH_FAILED": (say("the node could not start the job", "节点无法启动作业"), _LOST),
    "OUT_OF_MEMORY": (
        say("the job used more host memory than it asked for", "作业使用的主机内存超过了申请量"),
        _MORE_MEMORY,
    ),
    "PREEMPTED": (say("the job had to make room for a more important one", "作业被更高优先级的作业抢占"), _RESUBMIT),
    "UNKNOWN": (
        say("the scheduler no longer knows the job", "调度器已不认识该作业"),
        say(
            "submit it again; the run folder's log shows how far it came",
            "请重新提交；运行目录中的日志显示它进行到了哪里",
        ),
    ),
}
_UNFINISHED = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED")
_HELD = say("collect it again when it has ended", "请在它结束后再收集")


def judge_run_state(evidence: Evidence, tutorial: Tutorial) -> list[Check]:
    """The checks of group ``run``, in the order of :func:`harness.judge.plan.plan_checks`."""
    job = job_ruling(evidence)
    return [
        _check(None, "job", job),
        _check(None, "result", _result(evidence, job)),
        _check(None, "identity", _identity(evidence, tutorial)),
        *(_check(step.name, "completed", _step(evidence, step.name)) for step in tutorial.steps),
    ]


def why_absent(evidence: Evidence) -> Said:
    """One clause that says why there is no result; empty where there is one."""
    if evidence.result is not None:
        return same("")
    job = job_ruling(evidence)
    if job.status == "fail" and not evidence.result_exists:
        return Said(job.message.partition(";")[0], job.message.zh.partition("；")[0])
    return _result_problem(evidence)


def _result_problem(evidence: Evidence) -> Said:
    """Why there is no result to believe."""
    if not evidence.result_exists:
        return Said(evidence.result_problem or "there is no result", "没有 result.json")
    return Said(str(evidence.result_problem), f"result.json 不可信（{evidence.result_problem}）")


def _check(step: str | None, name: str, ruling: _Ruling) -> Check:
    return Check(
        group="run", step=step, name=name, status=ruling.status, message=ruling.message, message_zh=ruling.message.zh
    )


def job_ruling(evidence: Evidence) -> _Ruling:
    """How the job ended, by the scheduler's word and its exit status; both must be good."""
    word = _scheduler_ruling(evidence, evidence.scheduler) if evidence.scheduler else None
    if word is not None and word.status == "fail":
        return word
    if evidence.exit_code_problem:
        return _Ruling("fail", Said(evidence.exit_code_problem, f"退出状态不可读（{evidence.exit_code_problem}）"))
    if evidence.exit_code is not None:
        return _exit_ruling(evidence, evidence.exit_code)
    if word is not None:
        return word
    if evidence.result is None:
        return _Ruling(
            "fail",
            say(
                "the job left no exit status{where}: it still runs, was killed, or never started; {held}",
                "作业没有留下退出状态{where}：仍在运行、被杀死或从未启动；{held}",
                where=_where(evidence),
                held=_HELD,
            ),
        )
    return _Ruling(
        "warn",
        say(
            "no exit status is on record: the program was started by hand, or the job was killed after its last step",
            "没有退出状态的记录：程序是手动启动的，或作业在最后一步之后被杀死",
        ),
    )


def _scheduler_ruling(evidence: Evidence, word: SchedulerWord) -> _Ruling:
    state = word.state.upper().split(" ")[0].rstrip("+")
    reason = f" ({word.reason})" if word.reason and word.reason.lower() != "none" else ""
    parts = {"state": word.state, "reason": reason}
    where = _where(evidence)
    if state in _BAD_ENDS:
        cause, fix = _BAD_ENDS[state]
        template = "{cause}{where}: {state}{reason}; {fix}"
        chinese = "{cause}{where}：{state}{reason}；{fix}"
        return _Ruling("fail", say(template, chinese, cause=cause, where=where, fix=fix, **parts))
    if state in _UNFINISHED:
        template, chinese = "the job has not ended: {state}{reason}; {held}", "作业尚未结束：{state}{reason}；{held}"
        return _Ruling("fail", say(template, chinese, held=_HELD, **parts))
    if word.signal:
        return _signal_ruling(word.signal, where)
    if word.exit_code:
        return _exit_ruling(evidence, word.exit_code)
    if state == "COMPLETED":
        return _Ruling("pass", _ended_well(where))
    template, chinese = "the job ended as {state}{reason}{where}; {log}", "作业以 {state}{reason} 结束{where}；{log}"
    parts |= {"state": shown(word.state)}
    return _Ruling("fail", say(template, chinese, where=where, log=_see_log(evidence), **parts))


def _ended_well(where: Said) -> Said:
    return say("the job ended with exit status 0{where}", "作业正常结束，退出状态为 0{where}", where=where)


def _exit_ruling(evidence: Evidence, code: int) -> _Ruling:
    if code == 0:
        return _Ruling("pass", _ended_well(_where(evidence)))
    if 128 < code < 128 + 65:  # the shell's way to say that a signal ended the program
        return _signal_ruling(code - 128, _where(evidence))
    message = say(
        "the job ended with exit status {code}{where}; {log}",
        "作业以退出状态 {code} 结束{where}；{log}",
        code=code,
        where=_where(evidence),
        log=_see_log(evidence),
    )
    return _Ruling("fail", message)


_SIGNAL_HINTS = {
    "SIGKILL": say(
        "most often the kernel's or the scheduler's memory limit: ask for more memory",
        "多半是内核或调度器的内存限制：请申请更多内存",
    ),
    "SIGTERM": say("somebody or the scheduler stopped it: submit it again", "有人或调度器停止了它：请重新提交"),
    "SIGINT": say("somebody stopped it: submit it again", "有人停止了它：请重新提交"),
    "SIGXCPU": say("it used up its CPU time limit", "它用完了 CPU 时间限额"),
}
_LAST_LINES = say("see the last lines of the log", "请看日志的最后几行")


def _signal_ruling(number: int, where: Said) -> _Ruling:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unknown"
    message = say(
        "the job was killed by signal {number} ({name}){where}; {hint}",
        "作业被信号 {number}（{name}）杀死{where}；{hint}",
        number=number,
        name=name,
        where=where,
        hint=_SIGNAL_HINTS.get(name, _LAST_LINES),
    )
    return _Ruling("fail", message)


def _result(evidence: Evidence, job: _Ruling) -> _Ruling:
    if evidence.result is not None:
        steps = ", ".join(evidence.result.steps) or say("none", "无")
        return _Ruling(
            "pass", say("result.json is whole; steps: {steps}", "result.json 完整；步骤：{steps}", steps=steps)
        )
    problem = _result_problem(evidence)
    if evidence.result_exists:
        message = say(
            "{problem}; the disk may be full, or the file was edited",
            "{problem}；可能磁盘已满，或文件被改动",
            problem=problem,
        )
        return _Ruling("fail", message)
    if job.status == "pass":
        message = say(
            "the job ended without a result: its exit status is 0 but {problem}; {log}",
            "作业结束了却没有结果：退出状态为 0，但{problem}；{log}",
            problem=problem,
            log=_see_log(evidence),
        )
        return _Ruling("fail", message)
    return _Ruling("fail", say("{problem}: {job}", "{problem}：{job}", problem=problem, job=job.message))


def _identity(evidence: Evidence, tutorial: Tutorial) -> _Ruling:
    result, asked = evidence.result, evidence.asked
    if result is None:
        return _Ruling("fail", say("nothing to compare: {why}", "无可对照：{why}", why=why_absent(evidence)))
    if asked.tutorial and asked.tutorial != tutorial.id:
        message = say(
            "the run was asked for {asked}, not for {wanted}",
            "该运行是为 {asked} 提交的，而不是 {wanted}",
            asked=asked.tutorial,
            wanted=tutorial.id,
        )
        return _Ruling("fail", message)
    pairs = (
        (say("tutorial", "教程"), tutorial.id, result.tutorial),
        (say("variant", "变体"), asked.variant, result.variant),
        (say("preset", "预设"), asked.preset, result.preset),
        (say("run", "运行"), asked.run_id or evidence.paths.run_id, result.run_id),
        (say("attempt", "尝试"), asked.attempt, result.attempt),
    )
    for noun, wanted, found in pairs:
        if wanted is not None and wanted != found:
            hint = (
                say(
                    "the job was started again and this is what the earlier attempt left",
                    "作业重新启动过，这是之前一次尝试留下的",
                )
                if noun == "attempt"
                else say(
                    "the result was copied from, or written by, another run", "结果是从另一次运行复制来的，或由它写入"
                )
            )
            message = say(
                "the result is of {noun} {found}, asked for was {wanted}: {hint}",
                "结果属于{noun} {found}，要求的是 {wanted}：{hint}",
                noun=noun,
                found=shown(found),
                wanted=shown(wanted),
                hint=hint,
            )
            return _Ruling("fail", message)
    if (stale := _stale(evidence, result)) is not None:
        return _Ruling("fail", stale)
    if evidence.preset not in tutorial.presets or evidence.variant not in tutorial.resources:
        message = say(
            "{tutorial} has no {variant} variant with the preset {preset}",
            "{tutorial} 没有 {variant} 变体的 {preset} 预设",
            tutorial=tutorial.id,
            variant=evidence.variant,
            preset=evidence.preset,
        )
        return _Ruling("fail", message)
    name = f"{result.tutorial}, {result.variant}, {result.preset}"
    if asked.variant is None or asked.preset is None:
        message = say(
            "{name}; nothing on record says what was asked for, so its own word counts",
            "{name}；没有提交记录，以结果自述为准",
            name=name,
        )
        return _Ruling("pass", message)
    message = say("{name}, attempt {n}, as asked", "{name}，第 {n} 次尝试，与要求一致", name=name, n=result.attempt)
    return _Ruling("pass", message)


# Two machines' clocks may differ; by more than this they are broken, and a result's time says nothing.
_CLOCKS_DIFFER_S = 300.0


def _stale(evidence: Evidence, result: RunResult) -> Said | None:
    """A step that began before the run was submitted is not of this run; None where none did, or nothing says when."""
    submitted = finite(evidence.ledger.get("submitted_at"))
    if submitted is None:
        return None
    for name, step in result.steps.items():
        if not step.started_at >= submitted - _CLOCKS_DIFFER_S:
            return say(
                "step '{step}' began {seconds} s before the run was submitted: the result is older than the run, or "
                "the node's clock is wrong; submit again",
                "步骤“{step}”在提交之前 {seconds} 秒就开始了：结果早于本次运行，或节点时钟有误；请重新提交",
                step=name,
                seconds=f"{submitted - step.started_at:.0f}",
            )
    return None


def _step(evidence: Evidence, name: str) -> _Ruling:
    if evidence.result is None:
        return _Ruling("fail", say("not run to its end: {why}", "没有运行到底：{why}", why=why_absent(evidence)))
    step = evidence.result.steps.get(name)
    if step is None:
        present = ", ".join(evidence.result.steps) or say("none", "无")
        message = say(
            "{absent} (it holds: {present}); {log}",
            "{absent}（其中有：{present}）；{log}",
            absent=not_in_result(name),
            present=present,
            log=_see_log(evidence),
        )
        return _Ruling("fail", message)
    if step.error is not None:
        message = say(
            "step '{name}' failed with {type}: {text}",
            "步骤“{name}”失败，{type}：{text}",
            name=name,
            type=step.error.type,
            text=step.error.message or say("(no message)", "（无说明）"),
        )
        return _Ruling("fail", message)
    if step.status != "completed":
        message = say(
            "step '{name}' failed and did not say why; {log}",
            "步骤“{name}”失败，没有说明原因；{log}",
            name=name,
            log=_see_log(evidence),
        )
        return _Ruling("fail", message)
    seconds = f"{max(0.0, step.ended_at - step.started_at):.1f}"
    return _Ruling("pass", say("completed in {seconds} s", "用时 {seconds} 秒完成", seconds=seconds))


def _where(evidence: Evidence) -> Said:
    node = evidence.node
    return say(" on {node}", "（节点 {node}）", node=node) if node else same("")


def _see_log(evidence: Evidence) -> Said:
    last = next((line.strip() for line in reversed(evidence.log_tail) if line.strip()), None)
    if last is None:
        return say("the log is empty or missing", "日志为空或缺失")
    end = last if len(last) <= 160 else "…" + last[-159:]
    return say("the log ends: {end}", "日志末尾：{end}", end=end)
