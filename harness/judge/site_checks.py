"""The site's own checks: its hooks are called, and whatever goes wrong with one fails that one."""

from __future__ import annotations

import traceback

from harness.hooks import Answer, Hook, RunView, SiteHooks, run_view
from harness.judge.said import Said, same, say
from harness.judge.verdict import Check
from harness.run.evidence import Evidence
from harness.tutorial import Tutorial


def judge_site(evidence: Evidence, tutorial: Tutorial, hooks: SiteHooks) -> list[Check]:
    """One check per hook, in order."""
    if hooks.site is None:
        return []
    view = run_view(evidence, tutorial, hooks.site)
    return [_check(hook, view) for hook in hooks.hooks]


def _check(hook: Hook, view: RunView) -> Check:
    try:
        answer = hook.call(view)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a site's mistake is a failed check, never ours
        return _failed(hook, _raised(hook, error))
    if not isinstance(answer, Answer):
        return _failed(
            hook,
            say(
                "hook '{name}' in {file} returned {found}; return passed(…), failed(…), warned(…), skipped(…) or "
                "measured(…)",
                "{file} 中的钩子“{name}”返回了 {found}；"
                "请返回 passed(…)、failed(…)、warned(…)、skipped(…) 或 measured(…)",
                name=hook.name,
                file=hook.file.name,
                found="nothing" if answer is None else type(answer).__name__,
            ),
        )
    return Check(
        group="site",
        name=hook.name,
        status=answer.status,
        message=answer.message,
        message_zh=answer.zh,
        value=answer.value,
        unit=answer.unit,
        expected=answer.expected,
        floor=answer.floor,
    )


def _failed(hook: Hook, message: Said) -> Check:
    return Check(group="site", name=hook.name, status="fail", message=message, message_zh=message.zh)


def _raised(hook: Hook, error: BaseException) -> Said:
    """Which hook raised what, and in which line of the site's file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(hook.file)]
    if isinstance(error, SyntaxError) and error.filename == str(hook.file):
        lines.append(error.lineno)
    where = f"{hook.file.name}:{lines[-1]}" if lines and lines[-1] else hook.file.name
    return say(
        "hook '{name}' raised {kind}: {error} ({where}); mend the site's checks",
        "钩子“{name}”抛出 {kind}：{error}（{where}）；请修正站点的检查",
        name=hook.name,
        kind=type(error).__name__,
        error=same(str(error) or "(no message)"),
        where=where,
    )
