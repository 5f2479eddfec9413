"""JUnit XML with the numbers in it: one test suite per run, one test case per check, metrics as properties."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree as ET

from harness.files import write_whole
from harness.judge.verdict import Check, FailureCause, RunFacts
from harness.report.entry import ReportEntry, check_id

# Characters that no XML 1.0 document may hold, escaped or not (W3C XML 1.0, production 2).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(entries: Sequence[ReportEntry]) -> str:
    """JUnit XML text. Warnings pass, with the message in ``system-out``; failures carry message and log tail."""
    root = ET.Element("testsuites", name="harness")
    totals = dict.fromkeys(("tests", "failures", "skipped"), 0)
    for entry in entries:
        suite = _suite(entry)
        root.append(suite)
        for name in totals:
            totals[name] += int(suite.get(name, "0"))
    for name, number in totals.items():
        root.set(name, str(number))
    root.set("errors", "0")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def write_junit(path: Path, entries: Sequence[ReportEntry]) -> Path:
    """Write :func:`render_junit`.

    Raises:
        OSError: it cannot be written.
    """
    return write_whole(path, render_junit(entries))


def run_properties(run: RunFacts) -> list[tuple[str, str]]:
    """(name, value) of the facts that identify a run; unknown ones are left out."""
    facts = {
        "run_id": run.run_id,
        "tutorial": run.tutorial,
        "variant": run.variant,
        "preset": run.preset,
        "site": run.site,
        "host": run.host,
        "job_id": run.job_id,
        "device": run.device,
        "device_count": run.device_count,
        "gpu_shared": "true" if run.gpu_shared else None,
        "driver": run.driver,
        "image_sha256": run.image_sha256,
        "definition_sha256": run.definition_sha256,
        "git_revision": run.git_revision,
        "rerun_of": run.rerun_of,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def cause_properties(cause: FailureCause | None) -> list[tuple[str, str]]:
    """(name, value) of why the run failed; empty where it has no cause."""
    if cause is None:
        return []
    proof = " | ".join(f"{line.where}: {line.text}" for line in cause.evidence)
    facts = {"cause": cause.id, "cause_title": cause.title.en, "cause_evidence": proof, "cause_fix": cause.fix.en}
    return [(name, value) for name, value in facts.items() if value]


def check_properties(check: Check) -> list[tuple[str, str]]:
    """(name, value) of a check's numbers, written so that they read back exactly; unknown ones are left out."""
    facts = {
        "status": check.status,
        "value": check.value,
        "unit": check.unit,
        "expected": check.expected,
        "floor": check.floor,
        "limit": check.limit,
        "fraction_of_limit": check.fraction_of_limit,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _suite(entry: ReportEntry) -> ET.Element:
    run, counts = entry.verdict.run, entry.verdict.counts()
    suite = ET.Element(
        "testsuite",
        name=_clean(entry.name),
        tests=str(len(entry.verdict.checks)),
        failures=str(counts["fail"]),
        skipped=str(counts["skip"]),
        errors="0",
    )
    if run.started_at is not None:
        suite.set("timestamp", _timestamp(run.started_at))
        suite.set("time", f"{max(0.0, (run.ended_at or run.started_at) - run.started_at):.3f}")
    if run.host:
        suite.set("hostname", _clean(run.host))
    _properties(suite, run_properties(run) + cause_properties(entry.verdict.cause))
    for check in entry.verdict.checks:
        suite.append(_case(entry, check))
    return suite


def _case(entry: ReportEntry, check: Check) -> ET.Element:
    name = check_id(check)
    case = ET.Element("testcase", classname=_clean(entry.name), name=_clean(name), time="0")
    _properties(case, check_properties(check))
    message = _clean(check.message)
    if check.status == "fail":
        failure = ET.SubElement(case, "failure", message=message, type=check.group)
        failure.text = _clean("\n".join((check.message, "", "last lines of the log:", *entry.evidence.log_tail)))
    elif check.status == "skip":
        ET.SubElement(case, "skipped", message=message)
    else:
        ET.SubElement(case, "system-out").text = message if check.status == "pass" else f"warning: {message}"
    return case


def _properties(parent: ET.Element, properties: list[tuple[str, str]]) -> None:
    element = ET.SubElement(parent, "properties")
    for name, value in properties:
        ET.SubElement(element, "property", name=name, value=_clean(value))


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
