"""Every way a run can go wrong gives a failure that names its cause; nothing broken ever passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judge_support import (
    EXPECTED,
    GPU,
    IMAGE,
    RUN_ID,
    TUTORIAL_TOML,
    bilingual,
    good_result,
    gpu_result,
    make_run,
    png,
    small_project,
    small_tutorial,
    write_result,
)

from harness.judge import Check, RunFacts, Verdict, VerdictError, judge_run, load_verdict, plan_checks, write_verdict
from harness.judge.numbers import finite
from harness.run.evidence import Asked, ExpectedImage, SchedulerWord, gather_evidence
from harness.run.paths import RunPaths
from harness.tutorial import Tutorial, load_tutorial

Data = dict[str, Any]
Spoil = Callable[[Data], object]


@pytest.fixture
def tutorial(tmp_path: Path) -> Tutorial:
    return small_tutorial(tmp_path / "project")


def judged(
    tutorial: Tutorial,
    run: RunPaths,
    *,
    asked: Asked | None = None,
    scheduler: SchedulerWord | None = None,
    image: ExpectedImage | None = EXPECTED,
) -> Verdict:
    return judge_run(gather_evidence(run, asked=asked, scheduler=scheduler), tutorial, image)


def message(verdict: Verdict, group: str, step: str | None, name: str, status: str = "fail") -> str:
    check = verdict.check(group, step, name)  # type: ignore[arg-type]
    assert check is not None, [c.key for c in verdict.checks]
    assert check.status == status, check
    assert "\n" not in check.message
    bilingual(check.message, check.message_zh)
    return check.message


def step_of(data: Data) -> Data:
    return data["steps"]["train"]  # type: ignore[no-any-return]


def metric_of(data: Data) -> Data:
    return step_of(data)["metrics"]["train_throughput"]  # type: ignore[no-any-return]


def test_good_run_passes(tutorial: Tutorial, tmp_path: Path) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, good_result()))
    problems = [check for check in verdict.checks if check.status in ("fail", "warn")]
    assert problems == []
    assert verdict.overall == "pass"
    assert [check.key for check in verdict.checks] == [tuple(key) for key in plan_checks(tutorial, "smoke")]
    headline = verdict.headline
    assert headline is not None
    assert (headline.value, headline.unit, headline.floor) == (4170.0, "images/s", 500)
    # 4170 images/s x 16 MFLOP over 2 threads x 64 FLOP x 6 GHz.
    assert headline.fraction_of_limit == pytest.approx(4170 * 1.6e7 / (2 * 64 * 6e9))
    assert message(verdict, "output", "train", "test_accuracy[source=mnist]", "skip")
    assert verdict.run.site == "demo"
    assert verdict.run.device == "AMD EPYC 7763"


def test_good_gpu_run_passes(tutorial: Tutorial, tmp_path: Path) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, gpu_result()))
    assert verdict.overall == "pass"
    assert "A100-80 at 312 TFLOP/s" in message(verdict, "throughput", "train", "train_throughput.limit", "pass")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1", "exit status 1 on node07; the log ends: done"),
        ("137", "killed by signal 9 (SIGKILL)"),
        ("143", "killed by signal 15 (SIGTERM)"),
        ("oops", "'oops', not an exit status"),
        ("-9", "not an exit status"),
    ],
)
def test_bad_exit_status(tutorial: Tutorial, tmp_path: Path, code: str, expected: str) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, good_result(), exit_code=code))
    assert expected in message(verdict, "run", None, "job")
    assert verdict.overall == "fail"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (SchedulerWord("TIMEOUT", "TimeLimit", 0, None, "node07"), "ran out of time on node07: TIMEOUT (TimeLimit)"),
        (SchedulerWord("CANCELLED by 1000"), "was cancelled on node07: CANCELLED by 1000"),
        (SchedulerWord("NODE_FAIL"), "the node was lost"),
        (SchedulerWord("OUT_OF_MEMORY"), "more host memory than it asked for"),
        (SchedulerWord("PREEMPTED"), "make room"),
        (SchedulerWord("UNKNOWN"), "no longer knows the job"),
        (SchedulerWord("RUNNING"), "has not ended"),
        (SchedulerWord("PENDING", "Resources"), "has not ended: PENDING (Resources)"),
        (SchedulerWord("FAILED", "NonZeroExitCode", 3), "exit status 3"),
        (SchedulerWord("FAILED", None, 0, 11), "signal 11 (SIGSEGV)"),
        (SchedulerWord("SOMETHING_NEW"), "ended as 'SOMETHING_NEW'"),
        (SchedulerWord("COMPLETED", None, 0, 9), "signal 9"),
    ],
)
def test_scheduler_word(tutorial: Tutorial, tmp_path: Path, word: SchedulerWord, expected: str) -> None:
    run = make_run(tmp_path / RUN_ID, good_result(), exit_code=None)
    verdict = judged(tutorial, run, scheduler=word)
    assert expected in message(verdict, "run", None, "job")
    assert verdict.overall == "fail"


def test_scheduler_failure_outweighs_exit_status(tutorial: Tutorial, tmp_path: Path) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, good_result()), scheduler=SchedulerWord("NODE_FAIL"))
    assert verdict.overall == "fail"


def test_no_exit_status(tutorial: Tutorial, tmp_path: Path) -> None:
    by_hand = judged(tutorial, make_run(tmp_path / "a", good_result(), exit_code=None))
    assert by_hand.overall == "warn"
    silent = judged(tutorial, make_run(tmp_path / "b", None, exit_code=None))
    assert "still runs, was killed, or never started" in message(silent, "run", None, "job")
    told = judged(
        tutorial, make_run(tmp_path / "c", good_result(), exit_code=None), scheduler=SchedulerWord("COMPLETED", None, 0)
    )
    assert told.overall == "pass"


def test_ended_without_result(tutorial: Tutorial, tmp_path: Path) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, None))
    assert "ended without a result" in message(verdict, "run", None, "result")
    # Each check that has nothing to judge fails by itself: `pytest -k throughput` must not be green.
    statuses = {check.status for check in verdict.checks if check.name != "job"}
    assert statuses == {"fail"}
    assert "not measured: there is no result.json" in message(verdict, "throughput", "train", "train_throughput")


def test_killed_run_names_the_cause_everywhere(tutorial: Tutorial, tmp_path: Path) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, None, exit_code="137"))
    assert "signal 9" in message(verdict, "throughput", "train", "train_throughput")
    assert "signal 9" in message(verdict, "output", "train", "classes")


@pytest.mark.parametrize(
    "text",
    ["", '{"schema_version": 1, "run_id"', "[]", '{"schema_version": 99}', "\x00\xff", "[" * 100_000, "9" * 5000],
)
def test_broken_result(tutorial: Tutorial, tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / RUN_ID, None)
    run.result.write_text(text, encoding="latin-1")
    verdict = judged(tutorial, run)
    assert "cannot be believed" in message(verdict, "run", None, "result")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("tutorial", "xscow-1", "tutorial 'xscow-1', asked for was 'xscow-2'"),
        ("variant", "cuda", "variant 'cuda', asked for was 'cpu'"),
        ("preset", "full", "preset 'full'"),
        ("attempt", "1", "earlier attempt left"),
        ("run_id", "another", "another run"),
    ],
)
def test_result_of_something_else(tutorial: Tutorial, tmp_path: Path, key: str, value: str, expected: str) -> None:
    run = make_run(tmp_path / RUN_ID, good_result())
    data = good_result()
    data[key] = value
    write_result(run, data)
    assert expected in message(judged(tutorial, run), "run", None, "identity")


def test_asked_for_another_tutorial(tutorial: Tutorial, tmp_path: Path) -> None:
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, good_result()), asked=Asked(tutorial="mnist"))
    assert "asked for mnist" in message(verdict, "run", None, "identity")


def fail_step(data: Data) -> None:
    step_of(data).update(status="failed", error={"type": "OutOfMemoryError", "message": "CUDA out of memory"})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda data: data["steps"].clear(), "step 'train' is not in result.json"),
        (fail_step, "failed with OutOfMemoryError: CUDA out of memory"),
        (lambda data: step_of(data).update(status="failed"), "did not say why"),
    ],
)
def test_step(tutorial: Tutorial, tmp_path: Path, spoil: Spoil, expected: str) -> None:
    data = good_result()
    spoil(data)
    assert expected in message(judged(tutorial, make_run(tmp_path / RUN_ID, data)), "run", "train", "completed")


@pytest.mark.parametrize(
    ("name", "spoil", "expected"),
    [
        ("test_accuracy[source=digits]", lambda o: o.update(test_accuracy=0.5), "expected ≥ 0.97 and ≤ 1"),
        ("test_accuracy[source=digits]", lambda o: o.update(test_accuracy=float("nan")), "not a finite number"),
        ("test_accuracy[source=digits]", lambda o: o.update(test_accuracy="0.99"), "not a finite number"),
        ("test_accuracy[source=digits]", lambda o: o.update(test_accuracy=True), "not a finite number"),
        ("test_accuracy[source=digits]", lambda o: o.pop("test_accuracy"), "did not report 'test_accuracy'"),
        ("test_accuracy[source=digits]", lambda o: o.pop("source"), "depends on the output 'source'"),
        ("classes", lambda o: o.update(classes=11), "expected 10 ± 0"),
        ("classes", lambda o: o.update(classes=10**400), "not a finite number"),
        ("train_loss", lambda o: o.update(train_loss=[2.0, 0.1]), "has 2 points"),
        ("train_loss", lambda o: o.update(train_loss=[0.2, 0.6, 2.1]), "expected decreasing"),
        ("train_loss", lambda o: o.update(train_loss=[2.0, 1.9, 1.8]), "by at least 0.5"),
        ("train_loss", lambda o: o.update(train_loss=[2.0, float("inf"), 0.1]), "point 2 of 3"),
        ("train_loss", lambda o: o.update(train_loss=0.2), "not a list"),
        ("train_loss", lambda o: o.pop("train_loss"), "did not report 'train_loss'"),
    ],
)
def test_outputs(tutorial: Tutorial, tmp_path: Path, name: str, spoil: Spoil, expected: str) -> None:
    data = good_result()
    spoil(step_of(data)["outputs"])
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert expected in message(verdict, "output", "train", name)
    assert verdict.overall == "fail"


@pytest.mark.parametrize(
    ("content", "recorded", "expected"),
    [
        (None, png(), "is not in the run folder"),
        (png()[:-4], png(), "changed or cut"),
        (png(shade=10)[:-1] + b"\x00", png(shade=10), "changed after the run"),
        (b"x" * 200, b"x" * 200, "is not a PNG"),
        (png()[:-12] + b"x" * 12, png()[:-12] + b"x" * 12, "was cut short"),
        (png(0, 1), png(0, 1), "empty PNG"),
        (b"small", b"small", "has 5 bytes, expected at least 60"),
    ],
)
def test_files(tutorial: Tutorial, tmp_path: Path, content: bytes | None, recorded: bytes, expected: str) -> None:
    run = make_run(tmp_path / RUN_ID, None)
    picture = run.outputs("train") / "learning_curve.png"
    picture.write_bytes(recorded)
    write_result(run, good_result())
    picture.unlink()
    if content is not None:
        picture.write_bytes(content)
    assert expected in message(judged(tutorial, run), "output", "train", "learning_curve.png")


def test_file_not_on_record(tutorial: Tutorial, tmp_path: Path) -> None:
    data = good_result()
    step_of(data)["files"] = [{"path": "other.png", "bytes": 1, "sha256": "00"}]
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert "not among the files the step recorded: other.png" in message(
        verdict, "output", "train", "learning_curve.png"
    )


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda d: step_of(d)["metrics"].clear(), "the metric 'train_throughput' is missing"),
        (lambda d: metric_of(d).update(unit="batches/s"), "is in 'batches/s', the tutorial states 'images/s'"),
        (lambda d: metric_of(d).update(value=float("nan")), "not a positive finite number"),
        (lambda d: metric_of(d).update(value=float("inf"), samples=[]), "not a positive finite number"),
        (lambda d: metric_of(d).update(value=0.0, samples=[]), "not a positive finite number"),
        (lambda d: metric_of(d).update(value=-3.0, samples=[]), "not a positive finite number"),
        (lambda d: metric_of(d).update(samples=[4170.0, float("nan")]), "raw samples"),
        (lambda d: metric_of(d).update(samples=[100.0, 100.0, 100.0]), "median of its samples is 100"),
        (lambda d: metric_of(d).update(higher_is_better=False), "lower is better"),
        (lambda d: metric_of(d).update(value=100.0, samples=[100.0] * 5), "too slow: 100 images/s, the floor is 500"),
        (lambda d: d["steps"].clear(), "step 'train' is not in result.json"),
    ],
)
def test_throughput_fails(tutorial: Tutorial, tmp_path: Path, spoil: Spoil, expected: str) -> None:
    data = good_result()
    spoil(data)
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert expected in message(verdict, "throughput", "train", "train_throughput")


def test_a_resumed_run_with_too_little_left_to_measure_is_neither_passed_nor_failed_for_it(
    tutorial: Tutorial, tmp_path: Path
) -> None:
    data = good_result()
    step_of(data)["metrics"].clear()
    step_of(data)["not_measured"] = {"train_throughput": {"resumed_after": 19, "left": 1, "of": "epochs"}}
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    words = message(verdict, "throughput", "train", "train_throughput", "skip")
    assert words.startswith("not measured: resumed after epoch 19 with 1 epochs left")
    for name in ("limit", "steady", "history"):
        message(verdict, "throughput", "train", f"train_throughput.{name}", "skip")
    assert verdict.overall == "pass", "the work itself was done and judged"


@pytest.mark.parametrize(
    "said",
    [
        {"train_throughput": {"resumed_after": 0, "left": 20, "of": "epochs"}},
        {"step_rate": {"resumed_after": 19, "left": 1, "of": "epochs"}},
        {},
    ],
    ids=["from the beginning", "of another metric", "silent"],
)
def test_a_missing_metric_that_no_resumption_explains_fails(tutorial: Tutorial, tmp_path: Path, said: Data) -> None:
    data = good_result()
    step_of(data)["metrics"].clear()
    step_of(data)["not_measured"] = said
    assert judged(tutorial, make_run(tmp_path / RUN_ID, data)).overall == "fail"


def test_throughput_warns(tutorial: Tutorial, tmp_path: Path) -> None:
    data = good_result()
    metric_of(data).update(value=1000.0, samples=[1000.0] * 5)
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert "slow: 1000 images/s, expected 2000" in message(verdict, "throughput", "train", "train_throughput", "warn")
    assert verdict.overall == "warn"


def test_faster_than_the_hardware(tutorial: Tutorial, tmp_path: Path) -> None:
    data = good_result()
    metric_of(data).update(value=1e6, samples=[1e6] * 5)
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert "broken timing" in message(verdict, "throughput", "train", "train_throughput.limit")


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], "0 raw samples"),
        ([4000.0, 4100.0], "2 raw samples"),
        ([2000.0, 6000.0, 4000.0, 2500.0, 5500.0], "scatter"),
        ([3000.0, 3100.0, 4000.0, 4000.0, 4300.0, 4400.0], "still warming up"),
        ([4400.0, 4300.0, 4000.0, 4000.0, 3100.0, 3000.0], "slowing down"),
    ],
)
def test_unsteady(tutorial: Tutorial, tmp_path: Path, samples: list[float], expected: str) -> None:
    data = good_result()
    metric_of(data).update(value=4000.0 if len(samples) != 2 else 4050.0, samples=samples)
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert expected in message(verdict, "throughput", "train", "train_throughput.steady", "warn")


def test_shared_gpu_has_no_floor_but_needs_a_metric(tutorial: Tutorial, tmp_path: Path) -> None:
    data = gpu_result(shared=True)
    metric_of(data).update(value=10.0, samples=[10.0] * 5)
    verdict = judged(tutorial, make_run(tmp_path / "slow", data))
    assert "shared GPU" in message(verdict, "throughput", "train", "train_throughput", "skip")
    assert verdict.overall == "pass"
    metric_of(data).update(value=float("nan"))
    message(judged(tutorial, make_run(tmp_path / "nan", data)), "throughput", "train", "train_throughput")


def test_unknown_gpu_has_no_limit(tutorial: Tutorial, tmp_path: Path) -> None:
    data = gpu_result()
    step_of(data)["device"].update(name="NVIDIA Z9000", compute_capability=[19, 0])
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert "'NVIDIA Z9000'" in message(verdict, "throughput", "train", "train_throughput.limit", "skip")


@pytest.mark.parametrize(
    ("device", "requested", "expected"),
    [
        ({"kind": "cpu", "name": "EPYC", "count": 4}, 1, "CPU fallback"),
        (None, 1, "recorded no device"),
        ("gpu", 2, "used 1 of the 2 GPUs"),
    ],
)
def test_device(tutorial: Tutorial, tmp_path: Path, device: Any, requested: int, expected: str) -> None:
    data = gpu_result(requested=requested)
    if device != "gpu":
        step_of(data)["device"] = device
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert expected in message(verdict, "image", "train", "device")


SEVERAL_STEPS = TUTORIAL_TOML.replace(
    'name = "train"\nprogram = "train.py"',
    'name = "train"\nprogram = "train.py"\ndistributed = true',
    1,
).replace("[presets.smoke]", '[[steps]]\nname = "chat"\nprogram = "train.py"\n\n[presets.smoke]', 1)


@pytest.mark.parametrize(
    ("train", "chat", "nodes", "failing"),
    [
        (2, GPU | {"count": 1}, 1, {}),
        (1, GPU | {"count": 1}, 1, {"train": "used 1 of the 2 GPUs"}),
        (2, {"kind": "cpu", "name": "EPYC", "count": 4}, 1, {"chat": "CPU fallback"}),
        (2, None, 1, {"chat": "recorded no device"}),
        (4, GPU | {"count": 1}, 2, {}),
        (2, GPU | {"count": 1}, 2, {"train": "used 2 of the 4 GPUs"}),
    ],
    ids=["one of two for one process", "half a team", "on the CPU", "no device", "two nodes", "one node of two"],
)
def test_a_step_of_one_process_needs_one_gpu_and_a_distributed_one_all(
    tmp_path: Path, train: int, chat: Any, nodes: int, failing: dict[str, str]
) -> None:
    gpus = f"nodes = {nodes}\ngpus_per_node = 2"
    project = small_project(tmp_path / "project", SEVERAL_STEPS.replace("gpus_per_node = 1", gpus))
    data = gpu_result(requested=2)
    step_of(data)["device"]["count"] = train
    data["steps"]["chat"] = {**step_of(data), "device": chat, "outputs": {}, "metrics": {}, "files": []}
    verdict = judged(load_tutorial(project, "2"), make_run(tmp_path / RUN_ID, data))
    for name in ("train", "chat"):
        if name in failing:
            assert failing[name] in message(verdict, "image", name, "device")
        else:
            assert device_status(verdict, name) == "pass"


@pytest.mark.parametrize(("preset", "status"), [("smoke", "pass"), ("full", "fail")])
def test_a_server_uses_the_gpus_that_the_tutorial_gives_it_under_the_preset(
    tmp_path: Path, preset: str, status: str
) -> None:
    """What the run says of itself does not count: with --tensor-parallel 1 the full preset fails."""
    text = TUTORIAL_TOML.replace("{ epochs = 20 }", "{ epochs = 20, tensor_parallel = 2 }")
    text = text.replace("epochs = 2\n", "epochs = 2\ntensor_parallel = 1\n")
    project = small_project(tmp_path / "project", text.replace("gpus_per_node = 1", "gpus_per_node = 2"))
    data = gpu_result(requested=2) | {"preset": preset}
    step_of(data)["parameters"]["tensor_parallel"] = 1
    verdict = judged(load_tutorial(project, "2"), make_run(tmp_path / RUN_ID, data))
    assert device_status(verdict, "train") == status


def device_status(verdict: Verdict, step: str) -> str:
    check = verdict.check("image", step, "device")
    assert check is not None
    return check.status


def test_cpu_variant_on_a_gpu(tutorial: Tutorial, tmp_path: Path) -> None:
    data = good_result()
    step_of(data)["device"] = gpu_result()["steps"]["train"]["device"]
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data))
    assert "CPU variant computed on" in message(verdict, "image", "train", "device")


@pytest.mark.parametrize(
    ("image", "expected_image", "expected"),
    [
        ({"sha256": None}, EXPECTED, "outside an image"),
        ({"sha256": "ef" * 32}, EXPECTED, "not abababababab"),
        ({"sha256": IMAGE}, None, "no image is on record"),
    ],
)
def test_image(
    tutorial: Tutorial, tmp_path: Path, image: Data, expected_image: ExpectedImage | None, expected: str
) -> None:
    data = good_result()
    data["image"].update(image)
    verdict = judged(tutorial, make_run(tmp_path / RUN_ID, data), image=expected_image)
    assert expected in message(verdict, "image", None, "digest")


def test_definition(tutorial: Tutorial, tmp_path: Path) -> None:
    data = good_result()
    data["image"]["definition_sha256"] = "12" * 32
    run = make_run(tmp_path / RUN_ID, data)
    assert "used the definition" in message(judged(tutorial, run), "image", None, "definition")
    unknown = judged(tutorial, run, image=ExpectedImage(IMAGE))
    message(unknown, "image", None, "definition", "skip")
    assert unknown.overall == "pass"


def test_no_checks_is_a_failure() -> None:
    facts = RunFacts(run_id="r", tutorial="mnist")
    assert Verdict(run=facts).overall == "fail"
    skipped = Check(group="run", name="job", status="skip", message="nothing")
    assert Verdict(run=facts, checks=(skipped,)).overall == "fail"


def test_round_trip_and_tampering(tutorial: Tutorial, tmp_path: Path) -> None:
    run = make_run(tmp_path / RUN_ID, good_result())
    verdict = judged(tutorial, run)
    assert load_verdict(write_verdict(run, verdict)) == verdict
    assert [path.name for path in run.folder.iterdir() if path.name.startswith(".")] == []
    data = json.loads(run.verdict.read_text(encoding="utf-8"))
    data["checks"][0]["status"] = "fail"
    with pytest.raises(VerdictError, match="its checks say 'fail'"):
        Verdict.from_json(json.dumps(data))
    for broken in ("", "{}", "[]", "null", '{"schema_version": 2}'):
        with pytest.raises(VerdictError):
            Verdict.from_json(broken)


NOT_POSITIVE = st.one_of(st.floats(max_value=0.0), st.just(float("nan")), st.just(float("inf")))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=NOT_POSITIVE,
    kind=st.sampled_from(["value", "samples", "missing", "digest", "output"]),
    digest=st.text("0123456789abcdef", min_size=1, max_size=64).filter(lambda text: text != IMAGE),
)
def test_nothing_unsound_ever_passes(
    tutorial: Tutorial, tmp_path_factory: pytest.TempPathFactory, value: float, kind: str, digest: str
) -> None:
    data = good_result()
    if kind == "value":
        metric_of(data)["value"] = value
    elif kind == "samples":
        metric_of(data)["samples"].append(value)
    elif kind == "missing":
        step_of(data)["metrics"] = {"other": metric_of(data)}
    elif kind == "digest":
        data["image"]["sha256"] = digest
    else:
        step_of(data)["outputs"]["test_accuracy"] = value
    verdict = judged(tutorial, make_run(tmp_path_factory.mktemp("run") / RUN_ID, data))
    assert verdict.overall == "fail"
    assert Verdict.from_json(verdict.to_json()) == verdict


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["test_accuracy", "train_loss", "classes", "source"]), value=JSON_VALUES)
def test_any_reported_value_gets_a_verdict(
    tutorial: Tutorial, tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    data = good_result()
    step_of(data)["outputs"][key] = value
    verdict = judged(tutorial, make_run(tmp_path_factory.mktemp("run") / RUN_ID, data))
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_numbers() -> None:
    assert [finite(v) for v in (1, 2.5, True, "3", None, float("nan"), 10**400)] == [1.0, 2.5, *[None] * 5]


def test_log_tail(tmp_path: Path) -> None:
    run = make_run(tmp_path / RUN_ID, None, log="old\n" * 9000 + " 10%\r 50%\r100%\nlast \ufffd line\n\n")
    tail = gather_evidence(run).log_tail
    assert tail[-2:] == ("100%", "last \ufffd line")
    assert len(tail) <= 60
