"""The reports' words in both languages."""

from __future__ import annotations

from typing import NamedTuple

from harness.judge.verdict import Group, Status
from harness.specfile import Language


class Words(NamedTuple):
    """One label."""

    en: str
    zh: str

    def says(self, language: Language) -> str:
        """The label in that language."""
        return self.zh if language == "zh" else self.en


LABELS: dict[str, Words] = {
    "title": Words("Tutorial qualification", "教程验证报告"),
    "all_pass": Words("Everything passed", "全部通过"),
    "all_warn": Words("Passed, with warnings", "通过，但有警告"),
    "all_fail": Words("Not qualified", "未通过"),
    "no_runs": Words("No run was judged.", "没有可判定的运行。"),
    "summary": Words("Tutorials and devices", "教程与设备"),
    "tutorial": Words("tutorial", "教程"),
    "runs": Words("runs", "次运行"),
    "checks": Words("checks", "项检查"),
    "generated": Words("made", "生成于"),
    "on": Words("on", "主机"),
    "site": Words("site", "站点"),
    "of_limit": Words("of the hardware limit", "（占硬件上限）"),
    "of_floor": Words("of the floor", "（相对下限）"),
    "floor": Words("floor", "下限"),
    "why": Words("Why it failed", "失败原因"),
    "fix": Words("What to do", "如何解决"),
    "evidence": Words("Evidence", "证据"),
    "consequence": Words("nothing to judge", "无可判定内容"),
    "not_run": Words("not run", "未运行"),
    "no_value": Words("no value", "无数值"),
    "details": Words("Run, software, parameters", "运行、软件与参数"),
    "where_time_went": Words("Where the time went", "时间分布"),
    "log": Words("End of the log", "日志末尾"),
    "no_log": Words("The run left no log.", "没有日志。"),
    "files": Words("Files", "文件"),
    "run": Words("run", "运行编号"),
    "job": Words("job", "作业号"),
    "rerun_of": Words("re-run of", "重跑自"),
    "node": Words("node", "节点"),
    "device": Words("device", "设备"),
    "driver": Words("driver", "驱动"),
    "image": Words("image", "镜像"),
    "definition": Words("definition", "定义文件"),
    "revision": Words("git revision", "Git 版本"),
    "started": Words("started", "开始"),
    "elapsed": Words("steps took", "步骤用时"),
    "parameters": Words("parameters", "参数"),
    "versions": Words("versions", "软件版本"),
    "metrics": Words("metrics", "指标"),
    "shared": Words("shared GPU", "共享 GPU"),
    "expected": Words("expected", "要求"),
    "whole_run": Words("run", "整体"),
    "picture": Words("picture", "图"),
    "top": Words("to the top", "回到顶部"),
}

STATUSES: dict[Status, Words] = {
    "pass": Words("pass", "通过"),
    "warn": Words("warning", "警告"),
    "fail": Words("fail", "失败"),
    "skip": Words("skipped", "跳过"),
}

GROUPS: dict[Group, Words] = {
    "run": Words("Run", "运行"),
    "image": Words("Image and device", "镜像与设备"),
    "output": Words("Outputs", "输出"),
    "throughput": Words("Throughput", "吞吐"),
    "site": Words("The site's own checks", "站点自有检查"),
}

# Of the terminal and of Markdown.
TEXTS: dict[str, Words] = {
    "run": Words("run", "运行"),
    "verdict": Words("verdict", "判定"),
    "device": Words("device", "设备"),
    "throughput": Words("throughput", "吞吐"),
    "share": Words("% of limit", "占上限"),
    "run_id": Words("run id", "运行编号"),
    "cause": Words("cause", "原因"),
    "why": Words("why", "原因"),
    "run_count": Words("{count} run", "{count} 次运行"),
    "runs_count": Words("{count} runs", "{count} 次运行"),
    "no_checks": Words("no checks", "没有检查"),
    "consequences": Words(
        "and {count} checks of {name} that had nothing to judge", "{name} 另有 {count} 项检查无可判定内容"
    ),
    "left_out": Words("The details of {count} more runs are left out.", "另有 {count} 次运行的详情从略。"),
}

# In the order they happen.
PHASES: dict[str, Words] = {
    "queue": Words("queue", "排队"),
    "image_start": Words("image start", "镜像启动"),
    "load": Words("load", "加载"),
    "warm_up": Words("warm-up", "预热"),
    "measured": Words("measured", "计时"),
}
