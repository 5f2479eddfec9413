"""A site's own checks: they land in every report, and whatever goes wrong in one is a failed check that says where."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from judge_support import EXPECTED, RUN_ID, gpu_result, make_run, small_project
from tiny_project import REPOSITORY

from harness.errors import SpecError
from harness.history.judging import judge_all
from harness.hooks import load_hooks
from harness.judge.verdict import Check, Verdict
from harness.project import Project
from harness.report.entry import ReportEntry, report_entry
from harness.report.html import render_html
from harness.report.json_report import render_json
from harness.report.junit import render_junit
from harness.report.markdown import render_markdown
from harness.report.schema import schema_text
from harness.run.evidence import Evidence, gather_evidence
from harness.run.paths import RunPaths
from harness.tutorial import load_tutorial

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
SITE = 'name = "demo"\ntitle = { en = "Demo", zh = "演示" }\nchecks = "demo_checks.py"\n'
HEAD = "from harness.hooks import RunView, failed, measured, passed, skipped, warned\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    found = small_project(tmp_path / "project")
    found.sites.mkdir()
    found.site_file("demo").write_text(SITE, encoding="utf-8")
    return found


def judged(project: Project, code: str | None) -> tuple[Verdict, Evidence]:
    if code is not None:
        (project.sites / "demo_checks.py").write_text(code, encoding="utf-8")
    folder = project.runs / RUN_ID
    evidence = gather_evidence(make_run(folder, gpu_result()) if not folder.exists() else RunPaths(folder))
    (verdict,), problems = judge_all(project, [(evidence, load_tutorial(project, "2"), EXPECTED)])
    assert problems == []
    return verdict, evidence


def own(verdict: Verdict) -> list[Check]:
    return [check for check in verdict.checks if check.group == "site"]


def example(page: str) -> str:
    """The Python file of docs/hooks.md."""
    found = re.search(r"```python\n(.*?)```", (REPOSITORY / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_the_documentation_works_and_is_in_every_report(project: Project) -> None:
    assert example("hooks.md") == example("hooks.zh-CN.md")
    verdict, evidence = judged(project, example("hooks.md"))
    assert [(check.name, check.status) for check in own(verdict)] == [
        ("check_driver", "pass"),
        ("check_no_ecc_errors", "pass"),
        ("metric_image_start", "pass"),
    ]
    entry: ReportEntry = report_entry(verdict, evidence, load_tutorial(project, "2"))
    case = ET.fromstring(render_junit([entry])).find(".//testcase[@name='site::metric_image_start']")
    assert case is not None
    properties = {p.get("name"): p.get("value") for p in case.findall("properties/property")}
    assert (properties["value"], properties["unit"]) == ("1.2", "s")
    page = render_html([entry], generated_at=NOW)
    assert "The site's own checks" in page.replace("&#39;", "'")
    assert "站点自有检查" in page
    assert "metric_<wbr>image_<wbr>start" in page
    document = json.loads(render_json([entry], generated_at=NOW))
    jsonschema.validate(document, json.loads(schema_text("report")))
    assert document["runs"][0]["verdict"]["checks"][-1]["value"] == 1.2


def test_a_failed_check_of_the_site_fails_the_run(project: Project) -> None:
    verdict, evidence = judged(
        project,
        HEAD + "def check_gpu(run):\n"
        "    return failed(f'not on an {run.gpu.name}', zh='不应在此 GPU 上')\n"
        "def metric_start(run):\n"
        "    return measured(run.metric('train', 'train_throughput').value, 'images/s', at_most=1)\n"
        "def helper(run):\n    raise ValueError\n",
    )
    first, second = own(verdict)
    assert (first.status, first.message, first.says("zh")) == ("fail", "not on an A100-80", "不应在此 GPU 上")
    assert (second.status, second.expected) == ("fail", "≤ 1 images/s")
    assert verdict.overall == "fail"
    assert "check&#95;gpu" in render_markdown([report_entry(verdict, evidence, load_tutorial(project, "2"))])


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("def check_it(run):\n    return run.step('nothing')\n", "check_it", "raised LookupError: step 'nothing'"),
        (
            "def check_it(run):\n    return 1 / 0\n",
            "check_it",
            "ZeroDivisionError: division by zero (demo_checks.py:3)",
        ),
        ("def check_it(run):\n    raise SystemExit(0)\n", "check_it", "raised SystemExit: 0 (demo_checks.py:3)"),
        ("def check_it(run):\n    return True\n", "check_it", "returned bool; return passed(…)"),
        ("def check_it(run):\n    pass\n", "check_it", "returned nothing"),
        ("def check_it():\n    pass\n", "check_it", "raised TypeError"),
        ("def check_it(run):\n    return passed('')\n", "check_it", "an answer needs a message (demo_checks.py:3)"),
        ("def metric_it(run):\n    return measured(float('nan'), 's')\n", "metric_it", "nan is not a finite number"),
        ("def metric_it(run):\n    return measured(1.0, ' ')\n", "metric_it", "a metric needs its unit"),
        ("def check_it(run):\n    run.variant = 'cpu'\n", "check_it", "FrozenInstanceError"),
        ("def check_it(run)\n", "demo_checks.py", "raised SyntaxError"),
        ("import nowhere\n", "demo_checks.py", "ModuleNotFoundError: No module named 'nowhere' (demo_checks.py:2)"),
        ("VALUE = 3\n", "demo_checks.py", "defines no function check_… or metric_…"),
    ],
)
def test_what_goes_wrong_in_a_hook_is_a_failed_check(project: Project, code: str, name: str, words: str) -> None:
    verdict, _ = judged(project, HEAD + code)
    (check,) = own(verdict)
    assert (check.name, check.status) == (name, "fail")
    assert words in check.message
    assert "demo_checks.py" in check.message_zh
    assert verdict.overall == "fail"


def test_a_missing_file_fails_and_a_broken_name_is_refused(project: Project) -> None:
    (check,) = own(judged(project, None)[0])
    assert "no such file" in check.message
    project.site_file("demo").write_text(SITE.replace("demo_checks.py", "../elsewhere.py"), encoding="utf-8")
    with pytest.raises(SpecError, match="checks"):
        load_hooks(project, "demo")


def test_without_a_site_file_there_are_no_checks_of_its_own(project: Project) -> None:
    project.site_file("demo").unlink()
    assert own(judged(project, None)[0]) == []
