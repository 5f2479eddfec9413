"""One page of what the tutorials were measured to do: sizes, seconds, outputs, throughput. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from harness.expectation import ExactExpectation, NumberExpectation, TextExpectation
from harness.judge.verdict import Verdict
from harness.page import LANGUAGES, Language
from harness.report.format import duration, number, quantity
from harness.run.result import RunResult
from harness.tutorial import Tutorial

STEM = "measured"
MAX_OUTPUTS = 4  # of a tutorial, in its row
MAX_TEXT = 50  # characters of one of them

_HEADINGS: dict[Language, str] = {
    "en": "| tutorial | stack | verdict | image MB | layer MB | job | outputs | throughput |",
    "zh": "| 教程 | 软件栈 | 判定 | 镜像 MB | 层 MB | 作业用时 | 输出 | 吞吐量 |",
}
_INTRODUCTION: dict[Language, str] = {
    "en": """<!-- Written by `harness docs --measured` from the newest runs. -->
# What the tutorials were measured to do

**[简体中文](measured.zh-CN.md)**

Preset `{preset}`, variant `{variant}`, {machine}, {day}. Made with `harness build`, `harness submit` and
`harness check` of the tutorials below, then `{command}`.

"image" is a tutorial's self-contained file, most of which it shares with the other tutorials of its stack; "layer" is
its own part. "job" is the wall time of the whole batch job: with it, checking digests and signatures and starting the
image. Outputs are some of those that were judged. A small model on a CPU says nothing about the speed of the real one
on a GPU.
""",
    "zh": """<!-- 由 `harness docs --measured` 根据最近的运行生成。 -->
# 各教程的实测结果

**[English](measured.md)**

预设 `{preset}`，变体 `{variant}`，{machine}，{day}。先对下列教程执行 `harness build`、`harness submit` 与
`harness check`，再执行 `{command}`。

“镜像”为教程的独立镜像文件，其中大部分与同一软件栈的其他教程共享；“层”为教程自身的部分。“作业用时”为整个批处理作业的时间，包括校验摘要与签名以及启动镜像。
“输出”为已判定输出中的一部分。微型模型在 CPU 上的速度不能说明真实模型在 GPU 上的速度。
""",
}
_MISSING: dict[Language, str] = {"en": "Not measured: {names}.", "zh": "未测量：{names}。"}
_CHECKS: dict[Language, str] = {"en": "{passed} of {all} checks passed", "zh": "{all} 项检查中 {passed} 项通过"}


@dataclass(frozen=True)
class Measured:
    """A tutorial and one judged run of it.

    Attributes:
        image_bytes, layer_bytes: of the image it used; None where the catalog has that image no more.
        seconds: wall time of its job, None where the job left no word of when it began or ended.
    """

    tutorial: Tutorial
    verdict: Verdict
    result: RunResult | None
    image_bytes: int | None
    layer_bytes: int | None
    seconds: float | None


def measured_pages(
    rows: Sequence[Measured], missing: Sequence[str], *, preset: str, variant: str, machine: str, day: date
) -> dict[Language, str]:
    """The page in every language.

    Args:
        missing: ids of the tutorials that no run was found of.
        machine: its description, the same in all languages.
    """
    command = f"harness docs --measured --preset {preset} --variant {variant}"
    pages: dict[Language, str] = {}
    for language in LANGUAGES:
        page = [
            _INTRODUCTION[language].format(preset=preset, variant=variant, machine=machine, day=day, command=command),
            _HEADINGS[language],
            "|---|---|---|---|---|---|---|---|",
            *(_row(row, language) for row in rows),
        ]
        if missing:
            page += ["", _MISSING[language].format(names=", ".join(missing))]
        pages[language] = "\n".join(page) + "\n"
    return pages


def _row(row: Measured, language: Language) -> str:
    tutorial, headline = row.tutorial, row.verdict.headline
    suffix = ".md" if language == "en" else ".zh-CN.md"
    cells = [
        f"[{tutorial.id}]({tutorial.id}{suffix})",
        f"`{tutorial.stack}`",
        row.verdict.overall,
        _megabytes(row.image_bytes),
        _megabytes(row.layer_bytes),
        "–" if row.seconds is None else duration(row.seconds),
        "; ".join([_checks(row.verdict, language), *_outputs(row)]),
        quantity(headline.value, headline.unit) if headline else "–",
    ]
    return f"| {' | '.join(cells)} |"


def _checks(verdict: Verdict, language: Language) -> str:
    counts = verdict.counts()
    return _CHECKS[language].format(passed=counts["pass"], all=sum(counts.values()) - counts["skip"])


def _outputs(row: Measured) -> list[str]:
    """Some outputs that were judged and passed: numbers first, which say most, then texts, then the rest."""
    if row.result is None or row.verdict.run.preset is None:
        return []
    passed = {
        (check.step, check.name.partition("[")[0])
        for check in row.verdict.checks
        if check.group == "output" and check.status == "pass"
    }
    expectations = [e for e in row.tutorial.expectations if (e.step, e.name) in passed]
    shown: dict[str, str] = {}
    for kind in (NumberExpectation, TextExpectation, ExactExpectation):
        for wanted in expectations:
            step = row.result.steps.get(wanted.step)
            if isinstance(wanted, kind) and step is not None and wanted.name in step.outputs:
                shown.setdefault(wanted.name, _value(step.outputs[wanted.name]))
    return [f"`{name}` {value}" for name, value in list(shown.items())[:MAX_OUTPUTS]]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return number(value)
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"“{text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + '…'}”"


def _megabytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.{0 if count >= 10e6 else 2}f}"
