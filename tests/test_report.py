"""The reports: self-contained, escaped, complete, and readable in a real browser."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from judge_support import EXPECTED, IMAGE, RUN_ID, good_result, gpu_result, make_run, small_tutorial
from rich.console import Console

from harness.cli.language import chosen_language
from harness.errors import UserError
from harness.judge import judge_run
from harness.report.entry import ReportEntry, report_entry
from harness.report.format import duration, fraction_text, number, size
from harness.report.html import render_html, write_html
from harness.report.json_report import render_json, write_json
from harness.report.junit import render_junit, write_junit
from harness.report.markdown import render_markdown
from harness.report.schema import SCHEMAS, schema_text
from harness.report.sparkline import MAX_POINTS, sparkline
from harness.report.text import print_report
from harness.run.evidence import gather_evidence
from harness.specfile import Language

HOSTILE = "<script>alert('x')</script> &amp; \x1b[31m\x00 ]]> \ud7ff"
# JSON can hold half a surrogate pair, which no UTF-8 file can.
SURROGATE = HOSTILE + "\ud800"
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)


@pytest.fixture
def entries(tmp_path: Path) -> list[ReportEntry]:
    """A pass, a GPU pass, and a failure whose every text is hostile."""
    tutorial = small_tutorial(tmp_path / "project")
    hostile = good_result()
    step = hostile["steps"]["train"]
    step.update(status="failed", error={"type": "Error", "message": HOSTILE})
    step["parameters"] = {SURROGATE: SURROGATE}
    step["versions"] = {"torch": HOSTILE}
    step["outputs"]["source"] = HOSTILE
    step["metrics"]["train_throughput"]["unit"] = SURROGATE
    step["device"]["name"] = SURROGATE
    step["files"] = [
        {"path": "../../../secret.png", "bytes": 1, "sha256": "0"},
        {"path": "/etc/passwd.png", "bytes": 1, "sha256": "0"},
    ]
    hostile["host"] = SURROGATE
    runs = [
        make_run(tmp_path / "runs" / RUN_ID, good_result()),
        make_run(tmp_path / "runs" / "gpu", gpu_result()),
        make_run(tmp_path / "runs" / "bad <b>run</b>", hostile, exit_code="1", log=HOSTILE * 3),
        make_run(tmp_path / "runs" / "lost", None, exit_code="137"),
    ]
    found = []
    for run in runs:
        evidence = gather_evidence(run)
        found.append(report_entry(judge_run(evidence, tutorial, EXPECTED), evidence, tutorial))
    return found


def page_of(entries: list[ReportEntry]) -> str:
    return render_html(entries, generated_at=NOW, host="login01")


def test_page_is_self_contained(entries: list[ReportEntry]) -> None:
    page = page_of(entries)
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:image/png|#)", page) == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert page.count("data:image/png;base64,") >= 2
    assert "default-src 'none'" in page


def test_page_escapes_everything(entries: list[ReportEntry]) -> None:
    page = page_of(entries)
    assert page.count("<script>") == 1
    assert "<b>run</b>" not in page
    assert html.escape("<script>alert", quote=False) in page
    assert "secret.png" not in re.sub(r"<span class=\"why.*?</div>", "", page, flags=re.DOTALL)


def test_page_says_what_matters(entries: list[ReportEntry]) -> None:
    page = page_of(entries)
    for text in ("Handwritten digits", "手写数字识别", "Not qualified", "未通过", "login01", "2026-01-02 03:04"):
        assert text in page
    assert f'title="{IMAGE}"' in page
    assert "4\u2009170 images/s" in page
    assert "killed by signal 9 (SIGKILL)" in page
    assert 'class="spark"' in page


def test_page_of_nothing(tmp_path: Path) -> None:
    page = page_of([])
    assert "Not qualified" in page
    assert "No run was judged" in page


def test_links_are_relative_and_exist(entries: list[ReportEntry], tmp_path: Path) -> None:
    path = write_html(tmp_path / "report" / "index.html", entries)
    page = path.read_text(encoding="utf-8")
    links = re.findall(r'<a href="([^#"]+)">', page)
    assert f"../runs/{RUN_ID}/result.json" in links
    assert "../runs/bad%20%3Cb%3Erun%3C/b%3E/log.txt" in links or any("bad%20%3Cb%3Erun" in link for link in links)
    assert [name.name for name in path.parent.iterdir()] == ["index.html"]


def test_junit_has_the_numbers(entries: list[ReportEntry]) -> None:
    root = ET.fromstring(render_junit(entries))
    assert root.tag == "testsuites"
    assert int(root.get("tests", "0")) == sum(len(suite.findall("testcase")) for suite in root)
    assert int(root.get("failures", "0")) == len(root.findall(".//failure")) > 0
    first = root[0]
    facts = {p.get("name"): p.get("value") for p in first.findall("properties/property")}
    assert facts["image_sha256"] == IMAGE
    assert facts["run_id"] == RUN_ID
    assert facts["device"] == "AMD EPYC 7763"
    case = first.find("testcase[@name='train::throughput::train_throughput']")
    assert case is not None
    numbers = {p.get("name"): p.get("value") for p in case.findall("properties/property")}
    assert (float(numbers["value"] or 0), numbers["unit"], float(numbers["floor"] or 0)) == (4170.0, "images/s", 500.0)
    assert 0 < float(numbers["fraction_of_limit"] or 0) < 1
    failure = root.find(".//testsuite[4]/testcase/failure")
    assert failure is not None
    assert "signal 9" in failure.get("message", "")
    assert failure.text is not None
    assert "epoch 2\ndone" in failure.text


def test_json(entries: list[ReportEntry], tmp_path: Path) -> None:
    data = json.loads(render_json(entries, generated_at=NOW))
    assert json.loads(write_json(tmp_path / "new" / "report.json", entries).read_text(encoding="utf-8"))["runs"]
    assert ET.parse(write_junit(tmp_path / "new" / "junit.xml", entries)).getroot().tag == "testsuites"
    assert data["overall"] == "fail"
    assert [run["verdict"]["overall"] for run in data["runs"]] == ["pass", "pass", "fail", "fail"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_markdown_for_a_pull_request(entries: list[ReportEntry], language: Language) -> None:
    text = render_markdown(entries, language=language)
    title = {"en": "### ✗ Tutorial qualification: Not qualified", "zh": "### ✗ 教程验证报告: 未通过"}[language]
    assert text.startswith(title)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(entries)
    assert {line.count("|") for line in rows} == {7}, "no text of a run draws a column"
    assert "<script>" not in text
    assert "4\u2009170 images/s" in rows[1]
    assert " %" in rows[1]
    assert {"en": "killed", "zh": "杀死"}[language] in text
    assert text.count("<details>") == text.count("</details>") == 2
    assert "epoch 2" in text


def test_markdown_mentions_nobody_and_stays_below_the_limit_of_a_comment(entries: list[ReportEntry]) -> None:
    bad = entries[3]
    check = bad.verdict.checks[0].model_copy(update={"message": "asked @everyone | `rm` <img> #12 ![x](y)"})
    noisy = bad.verdict.model_copy(update={"checks": (check,), "cause": None})
    text = render_markdown([dataclasses.replace(bad, verdict=noisy)])
    assert "asked &#64;everyone &#124; &#96;rm&#96; &lt;img&gt; &#35;12 &#33;&#91;x&#93;&#40;y&#41;" in text
    assert "@everyone" not in text
    many = render_markdown([dataclasses.replace(bad, verdict=noisy)] * 300)
    assert len(many) < 65_536
    assert "more runs are left out" in many
    assert render_markdown([]).startswith("### ✗ ")


def test_every_json_fits_its_published_schema(entries: list[ReportEntry]) -> None:
    """Also the hostile ones; and each schema is a schema, and refuses something."""
    for name, documents in {
        "report": [json.loads(render_json(entries, generated_at=NOW)), json.loads(render_json([], generated_at=NOW))],
        "verdict": [json.loads(entry.verdict.to_json()) for entry in entries],
        "result": [json.loads(e.evidence.paths.result.read_text()) for e in entries if e.evidence.result],
    }.items():
        schema = json.loads(schema_text(name))
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        for document in documents:
            validator.validate(document)
            broken = {key: value for key, value in document.items() if key not in ("run", "runs", "steps")}
            assert not validator.is_valid(broken)


def test_the_committed_schemas_are_those_of_the_models() -> None:
    for name in SCHEMAS:
        committed = Path(__file__).parent.parent / "docs" / "schema" / f"{name}.json"
        assert committed.read_text(encoding="utf-8") == schema_text(name), "run: harness schema"


def test_the_chinese_report(entries: list[ReportEntry]) -> None:
    stream = StringIO()
    print_report(entries, Console(file=stream, width=160), language="zh")
    text = stream.getvalue()
    assert "✓ 通过" in text
    assert "✗ 失败  xscow-2.cpu.smoke::run::job: 作业被信号 9（SIGKILL）杀死（节点 node07）" in text
    assert "the job" not in text


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, "en"),
        (None, {"LANG": "zh_CN.UTF-8"}, "zh"),
        (None, {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        (None, {"LANG": "zh_CN.UTF-8", "HARNESS_LANGUAGE": "en"}, "en"),
        (None, {"HARNESS_LANGUAGE": "zh-CN"}, "zh"),
        ("en", {"HARNESS_LANGUAGE": "zh"}, "en"),
    ],
)
def test_the_language_of_a_command(given: str | None, environment: dict[str, str], expected: str) -> None:
    assert chosen_language(given, environment) == expected
    with pytest.raises(UserError, match="valid: en, zh"):
        chosen_language("fr", environment)


def test_text_is_plain_when_piped(entries: list[ReportEntry]) -> None:
    stream = StringIO()
    print_report(entries, Console(file=stream, width=160))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "✓ pass" in text
    assert "✗ fail  xscow-2.cpu.smoke::run::job: the job was killed by signal 9" in text
    assert text.count("nothing to judge") == 1


def test_sparkline() -> None:
    assert sparkline([1.0]) == sparkline([0.0, 0.0]) == ""
    drawing = sparkline([float(i) for i in range(1000)], floor=10.0)
    assert drawing.count(",") - drawing.count(", ") == MAX_POINTS
    assert 'class="floor"' in drawing
    assert "nan" not in sparkline([1.0, float("nan"), 2.0])


def test_formats() -> None:
    assert [number(v) for v in (0, 0.97312, 4170.2, 1e12)] == ["0", "0.9731", "4\u2009170", "1.000e+12"]
    assert [fraction_text(v) for v in (None, 0.5, 0.0021, 1e-9)] == ["–", "50 %", "0.21 %", "< 0.01 %"]
    assert [duration(v) for v in (0.42, 42, 185, 7440)] == ["0.4 s", "42 s", "3 min 5 s", "2 h 4 min"]
    assert [size(v) for v in (7, 14336, 5 * 2**40)] == ["7 B", "14 KiB", "5 TiB"]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The page in a frame of a phone's and of a desk's width; the probe writes what it measures into the document.
PROBE = """<!doctype html><meta charset="utf-8"><body>
<iframe id="phone" width="390" height="800"></iframe><iframe id="desk" width="1280" height="800"></iframe>
<script>
const page = %s;
let waiting = 2;
for (const id of ["phone", "desk"]) {
  const frame = document.getElementById(id);
  frame.onload = () => {
    const root = frame.contentDocument.documentElement, out = document.createElement("output");
    out.id = id + "-width";
    out.textContent = root.scrollWidth + "/" + frame.contentWindow.innerWidth + "/" + root.scrollHeight;
    document.body.append(out);
    if (--waiting === 0) document.body.dataset.done = frame.contentDocument.body.innerText.slice(0, 4000);
  };
  frame.srcdoc = page;
}
</script>"""


def browse(address: str, profile: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={profile}", "--virtual-time-budget=4000", "--dump-dom", address),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; scripts/install-packages test installs it")
def test_page_in_a_browser(entries: list[ReportEntry], tmp_path: Path) -> None:
    path = write_html(tmp_path / "report" / "index.html", entries)
    seen = browse(path.as_uri(), tmp_path / "profile")
    assert "CONSOLE" not in seen.stderr, seen.stderr
    assert "killed by signal 9" in seen.stdout
    # Written by the page's own script: it ran under the page's content security policy.
    assert re.search(r'<html lang="(en|zh-CN)">', seen.stdout)

    page = path.read_text(encoding="utf-8")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE % json.dumps(page).replace("</", "<\\/"), encoding="utf-8")
    measured = browse(probe.as_uri(), tmp_path / "profile").stdout
    for name in ("phone", "desk"):
        found = re.search(rf'<output id="{name}-width">(\d+)/(\d+)/(\d+)<', measured)
        assert found is not None, measured[-2000:]
        content, window, height = map(int, found.groups())
        assert content <= window
        assert height > 1000
    assert "Tutorial qualification" in measured
