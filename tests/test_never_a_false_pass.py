"""The harness never says pass about something it did not see. Each attempt to make it is one case, failed by name."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_support import EXPECTED, RUN_ID, TUTORIAL_TOML, bilingual, good_result, gpu_result, make_run, small_project

from harness.judge import judge_run
from harness.judge.verdict import Verdict
from harness.run.evidence import ExpectedImage, gather_evidence
from harness.run.paths import RunPaths
from harness.tutorial import Tutorial, load_tutorial

Data = dict[str, Any]
SUBMITTED = 1767225590.0  # ten seconds before the good result's step began


def step(data: Data) -> Data:
    return data["steps"]["train"]  # type: ignore[no-any-return]


def metric(data: Data) -> Data:
    return step(data)["metrics"]["train_throughput"]  # type: ignore[no-any-return]


def tutorial_of(tmp_path: Path, text: str = TUTORIAL_TOML) -> Tutorial:
    project = small_project(tmp_path / "project")
    project.tutorial_file("xscow-2").write_text(text, encoding="utf-8")
    return load_tutorial(project, "2")


def judged(
    tmp_path: Path, data: Data, *, image: ExpectedImage | None = EXPECTED, spoil: Callable[[RunPaths], object] = bool
) -> Verdict:
    run = make_run(tmp_path / RUN_ID, data)
    run.ledger.write_text(json.dumps({"run_id": RUN_ID, "submitted_at": SUBMITTED}), encoding="utf-8")
    spoil(run)
    return judge_run(gather_evidence(run), tutorial_of(tmp_path), image)


def named(verdict: Verdict, group: str, name: str, words: str) -> None:
    """The verdict fails, and the check of that name says why, in both languages."""
    assert verdict.overall == "fail"
    check = next(check for check in verdict.checks if (check.group, check.name) == (group, name))
    assert check.status == "fail", check
    assert words in check.message, check
    bilingual(check.message, check.message_zh)


def test_what_is_spoiled_below_passes_unspoiled(tmp_path: Path) -> None:
    assert judged(tmp_path / "cpu", good_result()).overall == "pass"
    assert judged(tmp_path / "gpu", gpu_result()).overall in ("pass", "warn")


CASES: dict[str, tuple[Callable[[Data], object], str, str, str]] = {
    "missing metric": (lambda d: step(d)["metrics"].clear(), "throughput", "train_throughput", "is missing"),
    "metric NaN": (lambda d: metric(d).update(value=float("nan")), "throughput", "train_throughput", "nan images/s"),
    "output NaN": (lambda d: step(d)["outputs"].update(classes=float("nan")), "output", "classes", "not a finite"),
    "a sample NaN": (lambda d: metric(d)["samples"].append(float("nan")), "throughput", "train_throughput", "samples"),
    "other unit": (lambda d: metric(d).update(unit="images/min"), "throughput", "train_throughput", "images/min"),
    "other direction": (lambda d: metric(d).update(higher_is_better=False), "throughput", "train_throughput", "lower"),
    "headline not of its samples": (
        lambda d: metric(d).update(value=9_999.0),
        "throughput",
        "train_throughput",
        "median of its samples",
    ),
    "wrong digest": (lambda d: d["image"].update(sha256="0" * 64), "image", "digest", "not abababababab"),
    "outside an image": (lambda d: d["image"].update(sha256=None), "image", "digest", "outside an image"),
    "wrong definition": (lambda d: d["image"].update(definition_sha256="0" * 64), "image", "definition", "not cdcdcd"),
    "result of another run": (lambda d: d.update(run_id="other"), "run", "identity", "the result is of run 'other'"),
    "result of another attempt": (lambda d: d.update(attempt="1"), "run", "identity", "the result is of attempt '1'"),
    "result older than its submission": (
        lambda d: step(d).update(started_at=SUBMITTED - 3600, ended_at=SUBMITTED - 3590),
        "run",
        "identity",
        "3600 s before the run was submitted",
    ),
    "a time that is no time": (
        lambda d: step(d).update(started_at=float("nan")),
        "run",
        "identity",
        "before the run was submitted",
    ),
    "no step": (lambda d: d["steps"].clear(), "run", "completed", "is not in result.json"),
    "no expectation applies": (
        lambda d: step(d)["outputs"].pop("train_loss"),
        "output",
        "train_loss",
        "did not report",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_spoiled_result_fails_by_name(tmp_path: Path, case: str) -> None:
    spoil, group, name, words = CASES[case]
    data = good_result()
    spoil(data)
    named(judged(tmp_path, data), group, name, words)


GPU_CASES: dict[str, tuple[Callable[[Data], object], str, str, str]] = {
    "fewer GPUs than asked": (lambda d: d.update(gpus_requested=2), "image", "device", "used 1 of the 2 GPUs"),
    "nobody says how many": (lambda d: d.update(gpus_requested=0), "image", "device", "used 1 of the 4 GPUs"),
    "CPU fallback": (
        lambda d: step(d).update(device={"kind": "cpu", "name": "AMD EPYC", "count": 8}),
        "image",
        "device",
        "CPU fallback",
    ),
    "no device": (lambda d: step(d).update(device=None), "image", "device", "recorded no device"),
    "faster than the hardware": (
        lambda d: metric(d).update(value=4e9, samples=[4e9] * 5),
        "throughput",
        "train_throughput.limit",
        "broken timing",
    ),
}


@pytest.mark.parametrize("case", GPU_CASES)
def test_a_spoiled_gpu_result_fails_by_name(tmp_path: Path, case: str) -> None:
    spoil, group, name, words = GPU_CASES[case]
    data = gpu_result()
    spoil(data)
    run = make_run(tmp_path / RUN_ID, data)
    tutorial = tutorial_of(tmp_path, TUTORIAL_TOML.replace("gpus_per_node = 1", "gpus_per_node = 4"))
    named(judge_run(gather_evidence(run), tutorial, EXPECTED), group, name, words)


@pytest.mark.parametrize("kept", [0, 1, 500, -2])
def test_truncated_json(tmp_path: Path, kept: int) -> None:
    verdict = judged(tmp_path, good_result(), spoil=lambda run: run.result.write_text(run.result.read_text()[:kept]))
    named(verdict, "run", "result", "cannot be believed")


def test_nobody_knows_the_image(tmp_path: Path) -> None:
    named(judged(tmp_path, good_result(), image=None), "image", "digest", "no image is on record")


def test_an_image_whose_signature_nobody_verified(tmp_path: Path) -> None:
    def unsigned(run: RunPaths) -> None:
        run.job.write_text(json.dumps({**json.loads(run.job.read_text()), "signed_by": ""}))

    named(judged(tmp_path, good_result(), spoil=unsigned), "image", "digest", "signature was not verified")


def test_a_result_in_a_folder_of_another_run_that_nothing_else_names(tmp_path: Path) -> None:
    run = make_run(tmp_path / "another", good_result())
    run.job.unlink()
    named(judge_run(gather_evidence(run), tutorial_of(tmp_path), EXPECTED), "run", "identity", "is of run")


def test_a_preset_that_expects_nothing(tmp_path: Path) -> None:
    text = TUTORIAL_TOML.replace("[[expectations]]", '[[expectations]]\npresets = ["full"]')
    verdict = judge_run(
        gather_evidence(make_run(tmp_path / RUN_ID, good_result())), tutorial_of(tmp_path, text), EXPECTED
    )
    named(verdict, "output", "judged", "expects no output of the preset smoke")


def test_expectations_of_which_none_applies(tmp_path: Path) -> None:
    data = good_result()
    step(data)["outputs"]["source"] = "elsewhere"
    tutorial = tutorial_of(tmp_path)
    only = [e for e in tutorial.expectations if e.when]
    assert len(only) == 2
    run = gather_evidence(make_run(tmp_path / RUN_ID, data))
    named(
        judge_run(run, tutorial.model_copy(update={"expectations": only}), EXPECTED),
        "output",
        "judged",
        "none of the 2",
    )


def test_a_scheduler_that_says_nothing_is_no_pass(tmp_path: Path) -> None:
    run = make_run(tmp_path / RUN_ID, None, exit_code=None)
    named(judge_run(gather_evidence(run), tutorial_of(tmp_path), EXPECTED), "run", "job", "no exit status")


def test_no_answer_and_no_checks_are_failures(tmp_path: Path) -> None:
    verdict = judged(tmp_path, good_result())
    assert verdict.model_copy(update={"checks": ()}).overall == "fail"
    skipped = tuple(check.model_copy(update={"status": "skip"}) for check in verdict.checks)
    assert verdict.model_copy(update={"checks": skipped}).overall == "fail"


def test_the_judge_does_not_change_what_it_judges(tmp_path: Path) -> None:
    evidence = gather_evidence(make_run(tmp_path / RUN_ID, good_result()))
    before = copy.deepcopy(dataclasses.asdict(evidence))
    judge_run(evidence, tutorial_of(tmp_path), EXPECTED)
    assert dataclasses.asdict(evidence) == before
