"""The runtime library: what it writes is what the harness reads, whatever happens to the program."""

from __future__ import annotations

import ast
import gzip
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.run.result import load_result
from harness.runtime import (
    DataError,
    DeviceError,
    DeviceFacts,
    ProgramArguments,
    ProgramError,
    StepRun,
    Team,
    Throughput,
    choose_device,
    environment,
    find_data,
    find_mnist,
    keep_first_gpu,
    read_idx,
    read_prompt,
)

ROOT = Path(__file__).parent.parent
NAMES = [value for name, value in vars(environment).items() if name.isupper() and value.startswith("HARNESS_")]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a job script; returns the run folder."""
    for name in [*NAMES, "RANK", "OMP_NUM_THREADS"]:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "runs" / "run-1"
    values = {
        environment.RUN_DIR: str(folder),
        environment.RUN_ID: "run-1",
        environment.ATTEMPT: "0",
        environment.VARIANT: "cpu",
        environment.PRESET: "smoke",
        environment.GPUS_REQUESTED: "0",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return folder


def begin(step: str = "train", **parameters: Any) -> StepRun:
    return StepRun.from_environment(step, tutorial="mnist", parameters=parameters)


def result(folder: Path) -> Any:
    return load_result(folder / "result.json")


def test_a_whole_step_is_read_back(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.IMAGE_SHA256, "ab" * 32)
    monkeypatch.setenv(environment.GIT_REVISION, "0123abc")
    with begin(epochs=3) as run:
        run.use_device(DeviceFacts(kind="cpu", name="a CPU", count=2))
        run.versions(torch="2.13.0")
        with run.phase("load"):
            pass
        run.metric("speed", 2.0, "images/s", [1.0, 2.0, 3.0])
        run.output("curve", [1, 0.5])
        run.output_file("plots/a.txt").write_text("hello", encoding="utf-8")
    read = result(job)
    assert (read.run_id, read.attempt, read.tutorial, read.variant, read.preset) == (
        "run-1", "0", "mnist", "cpu", "smoke",
    )  # fmt: skip
    assert (read.image.sha256, read.git_revision) == ("ab" * 32, "0123abc")
    step = read.steps["train"]
    assert step.status == "completed"
    assert step.parameters == {"epochs": 3}
    assert step.metrics["speed"].samples == [1, 2, 3]
    assert step.outputs == {"curve": [1, 0.5]}
    assert [(file.path, file.bytes) for file in step.files] == [("plots/a.txt", 5)]
    assert step.device.name == "a CPU"
    assert step.versions["torch"] == "2.13.0"
    assert step.phases["load"] >= 0
    assert [p.name for p in job.iterdir() if p.name.startswith(".")] == []


def test_steps_of_one_attempt_are_merged_and_a_rerun_replaces(job: Path) -> None:
    for step, value in (("train", 1), ("merge", 2), ("train", 3)):
        with begin(step) as run:
            run.output("value", value)
    steps = result(job).steps
    assert {name: step.outputs["value"] for name, step in steps.items()} == {"train": 3, "merge": 2}


@pytest.mark.parametrize(("name", "value"), [(environment.ATTEMPT, "1"), (environment.RUN_ID, "run-2")])
def test_another_attempt_starts_afresh(job: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with begin("merge"):
        pass
    monkeypatch.setenv(name, value)
    run = begin("train")
    with run:
        assert not (job / "result.json").exists(), "an earlier success must not stand for this attempt if it is killed"
    assert list(result(job).steps) == ["train"]


def test_an_earlier_success_of_the_step_is_forgotten_at_its_start(job: Path) -> None:
    for step in ("train", "merge"):
        with begin(step):
            pass
    with begin("merge"):
        assert list(result(job).steps) == ["train"]


def test_a_foreign_result_is_kept_aside(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.mkdir(parents=True)
    (job / "result.json").write_text("{half", encoding="utf-8")
    with begin():
        pass
    assert result(job).steps["train"].status == "completed"
    assert (job / "result.json.unreadable").read_text(encoding="utf-8") == "{half"
    assert "is not a result" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("bad\nthing"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_a_failure_is_recorded_and_passed_on(job: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), begin() as run:
        run.metric("speed", 1.0, "images/s")
        raise error
    step = result(job).steps["train"]
    assert (step.status, step.error.type) == ("failed", type(error).__name__)
    assert step.error.message
    assert step.metrics["speed"].value == 1.0


def test_leaving_through_exit_zero_is_completed(job: Path) -> None:
    with pytest.raises(SystemExit), begin():
        raise SystemExit(0)
    assert result(job).steps["train"].status == "completed"


def test_a_promised_file_that_was_not_written_fails_the_step(job: Path) -> None:
    with pytest.raises(ProgramError, match=r"plot\.png"), begin() as run:
        run.output_file("plot.png")
    step = result(job).steps["train"]
    assert (step.status, step.error.type) == ("failed", "MissingOutput")


def test_a_file_of_an_earlier_attempt_does_not_count(job: Path) -> None:
    with begin() as run:
        run.output_file("a").write_text("old", encoding="utf-8")
    with pytest.raises(ProgramError), begin() as run:
        run.output_file("a")
    assert result(job).steps["train"].files == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "."])
def test_output_files_stay_in_their_folder(job: Path, name: str) -> None:
    with begin() as run, pytest.raises(ValueError, match="inside"):
        run.output_file(name)


def test_nan_and_infinity_are_recorded_for_the_judge(job: Path) -> None:
    with begin() as run:
        run.metric("speed", math.nan, "images/s", [1.0, math.inf])
        run.output("loss", [math.nan])
    step = result(job).steps["train"]
    assert math.isnan(step.metrics["speed"].value)
    assert step.metrics["speed"].samples[1] == math.inf
    assert math.isnan(step.outputs["loss"][0])


def test_what_json_cannot_hold_is_refused_where_it_is_given(job: Path) -> None:
    with begin() as run, pytest.raises(TypeError, match="output 'weights' is a object"):
        run.output("weights", object())


def test_only_rank_zero_writes(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with begin() as run:
        run.output("a", 1)
        run.output_file("a")
    assert not job.exists()


def test_phases_before_the_program(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.runtime.run import IMPORTED_AT

    monkeypatch.setenv(environment.SUBMITTED_AT, "1000.0")
    monkeypatch.setenv(environment.JOB_STARTED_AT, "1012.5")
    monkeypatch.setenv(environment.STEP_STARTED_AT, str(IMPORTED_AT - 0.75))
    with begin() as run:
        for _ in range(2):
            with run.phase("load"):
                time.sleep(0.01)
    phases = result(job).steps["train"].phases
    assert phases["queue"] == 12.5
    assert phases["image_start"] == pytest.approx(0.75)
    assert 0.02 <= phases["load"] < 1
    assert phases["imports"] >= 0


def test_clocks_that_disagree_do_not_give_negative_times(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.SUBMITTED_AT, "1000")
    monkeypatch.setenv(environment.JOB_STARTED_AT, "999.5")
    with begin():
        pass
    assert result(job).steps["train"].phases["queue"] == 0


@pytest.mark.parametrize(("name", "value"), [(environment.SUBMITTED_AT, "noon"), (environment.PRESET, "tiny")])
def test_a_broken_environment_is_named(job: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ProgramError, match=f"{name} is '{value}'"):
        begin()


def test_started_by_hand(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with begin() as run:
        assert run.gpus_requested is None
        run.use_device(DeviceFacts(kind="cuda", name="a GPU", count=1))
    assert run.folder.parent == tmp_path / "runs"
    assert run.folder.name.startswith("local-mnist-")
    assert str(run.folder) in capsys.readouterr().err
    assert result(run.folder).variant == "cuda"


def test_the_cuda_variant_needs_a_gpu_whatever_was_asked_for(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.VARIANT, "cuda")
    assert begin().gpus_requested == 1


# -- killed ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from harness.runtime import StepRun, run_program
def main():
    with StepRun.from_environment("train", tutorial="mnist", parameters={}) as run:
        run.output("filler", ["x" * 100] * 2000)
        print("ready", flush=True)
        time.sleep(60)
run_program(main)
"""

WRITER = """
import itertools
from harness.runtime import StepRun
for i in itertools.count():
    with StepRun.from_environment(f"step{i % 3}", tutorial="mnist", parameters={}) as run:
        run.output("filler", [i] * 50000)
    print(i, flush=True)
"""


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("number", "status", "kind"), [(signal.SIGTERM, 143, "Terminated"), (signal.SIGINT, -2, "KeyboardInterrupt")]
)
def test_a_signal_is_recorded(job: Path, number: signal.Signals, status: int, kind: str) -> None:
    with start(PROGRAM) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == status
    step = result(job).steps["train"]
    assert (step.status, step.error.type) == ("failed", kind)
    if number == signal.SIGTERM:
        assert step.error.message == "stopped by SIGTERM"


def test_a_reader_never_sees_half_a_result_whenever_the_writer_is_killed(job: Path) -> None:
    path, seen = job / "result.json", 0
    for _ in range(3):
        with start(WRITER) as process:
            assert process.stdout is not None
            process.stdout.readline()
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                try:
                    load_result(path)  # raises ResultError on a torn file
                except FileNotFoundError:
                    continue  # between two attempts there is none
                seen += 1
            process.kill()
            process.communicate(timeout=30)
        if path.exists():
            load_result(path)
    assert seen > 10


def test_a_full_disk_leaves_the_old_result(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin("train"):
        pass

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), begin("merge"):
        monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    assert list(result(job).steps) == ["train"]
    assert [p.name for p in job.iterdir()] == ["result.json"]


# -- timing ---------------------------------------------------------------------------------------------------------


def test_throughput_drops_the_warm_up_and_waits_at_the_edges_only() -> None:
    ticks = iter([0, 10, 20, 22, 30, 34, 40, 42])
    waits: list[int] = []
    meter = Throughput(warm_up=1, synchronize=lambda: waits.append(1), clock=lambda: float(next(ticks)))
    for _ in range(4):
        with meter.window(units=8):
            pass
    assert meter.samples == [4, 2, 4]
    assert meter.median == 4
    assert (meter.warm_up_seconds, meter.measured_seconds) == (10, 8)
    assert len(waits) == 8
    assert not meter.is_steady()


def test_throughput_leaves_out_what_a_window_pauses_for() -> None:
    """A checkpoint written inside the first of two windows: 90 of its 100 seconds."""
    ticks = iter([0, 5, 95, 100, 200, 210])
    meter = Throughput(warm_up=0, clock=lambda: float(next(ticks)))
    with meter.window(units=20), meter.pause():
        pass
    with meter.window(units=20):
        pass
    assert meter.samples == [2, 2]
    assert meter.measured_seconds == 20


def test_throughput_steadiness_needs_agreeing_windows() -> None:
    ticks = iter([0, 1, 2, 3, 4, 5.05, 6, 7])
    meter = Throughput(warm_up=1, clock=lambda: float(next(ticks)))
    for _ in range(4):
        assert not meter.is_steady()
        with meter.window(units=1):
            pass
    assert meter.is_steady()


def test_throughput_without_a_measured_window_is_an_error() -> None:
    meter = Throughput(warm_up=1)
    with meter.window(units=1):
        time.sleep(0.001)
    with pytest.raises(ValueError, match="nothing was measured"):
        _ = meter.median
    with pytest.raises(ValueError, match="cannot be timed"), meter.window(units=0):
        pass


# -- team -----------------------------------------------------------------------------------------------------------


def test_a_team_says_a_thing_once(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (2, 0, 1):
        Team(None, rank, 3, None, ()).say("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"


# -- device ---------------------------------------------------------------------------------------------------------


def fake_torch(gpus: int, cuda: str | None = "12.8") -> Any:
    properties = SimpleNamespace(name="NVIDIA A100-SXM4-80GB", major=8, minor=0, total_memory=85_000_000_000)
    return SimpleNamespace(
        __version__="2.7.1",
        version=SimpleNamespace(cuda=cuda),
        device=lambda *place: place,
        set_num_threads=lambda count: None,
        cuda=SimpleNamespace(
            is_available=lambda: gpus > 0,
            device_count=lambda: gpus,
            set_device=lambda index: None,
            get_device_properties=lambda index: properties,
        ),
    )


def test_a_gpu_that_was_asked_for_is_used_or_the_program_fails(job: Path) -> None:
    device, facts = choose_device(fake_torch(gpus=2), 1)
    assert device == ("cuda", 0)
    assert (facts.kind, facts.count, facts.compute_capability) == ("cuda", 1, (8, 0))
    with pytest.raises(DeviceError, match=r"asked for 1 GPU.*sees 0.*--nv"):
        choose_device(fake_torch(gpus=0), 1)
    with pytest.raises(DeviceError, match="CPU build of torch"):
        choose_device(fake_torch(gpus=0, cuda=None), 1)
    with pytest.raises(DeviceError, match="asked for 2"):
        choose_device(fake_torch(gpus=1), 2)


@pytest.mark.parametrize(("seen", "kept"), [(None, "0"), ("3,5", "3"), ("GPU-a,GPU-b", "GPU-a"), ("", "")])
def test_one_gpu_is_kept_of_those_that_the_job_has(
    seen: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen or "")
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    keep_first_gpu()
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == kept


def test_the_cpu_is_used_where_it_is_meant(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, facts = choose_device(fake_torch(gpus=1), 0)
    assert device == ("cpu",)
    assert facts.count == len(os.sched_getaffinity(0))
    assert choose_device(fake_torch(gpus=0), 0, max_threads=1)[1].count == 1
    assert choose_device(fake_torch(gpus=1), None)[1].kind == "cuda"
    assert choose_device(fake_torch(gpus=0), None)[1].kind == "cpu"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert choose_device(fake_torch(gpus=0), 0)[1].count == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(DeviceError, match="OMP_NUM_THREADS"):
        choose_device(fake_torch(gpus=0), 0)


# -- data -----------------------------------------------------------------------------------------------------------


def idx(shape: tuple[int, ...], fill: int = 1) -> bytes:
    sizes = struct.pack(f">{len(shape)}I", *shape)
    return bytes([0, 0, 8, len(shape)]) + sizes + bytes([fill]) * math.prod(shape)


def write_mnist(folder: Path, *, compress: bool = False) -> None:
    folder.mkdir(parents=True)
    files = {
        "train-images-idx3-ubyte": idx((6, 28, 28)),
        "train-labels-idx1-ubyte": idx((6,)),
        "t10k-images-idx3-ubyte": idx((2, 28, 28)),
        "t10k-labels-idx1-ubyte": idx((2,)),
    }
    for name, content in files.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_mnist_is_found(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, compress: bool
) -> None:
    write_mnist(tmp_path / "data" / layout, compress=compress)
    monkeypatch.setenv(environment.DATA_DIR, str(tmp_path / "data"))
    mnist = find_mnist()
    assert mnist is not None
    assert mnist.train_images.shape == (6, 28, 28)
    assert bytes(mnist.test_labels.data) == b"\1\1"


def test_absent_data_is_no_error_but_an_absent_root_is(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_mnist() is None
    monkeypatch.setenv(environment.DATA_DIR, str(tmp_path))
    assert find_mnist() is None
    assert find_data("ames") is None
    monkeypatch.setenv(environment.DATA_DIR, str(tmp_path / "gone"))
    with pytest.raises(DataError, match="no folder here"):
        find_mnist()


def spoil(folder: Path, kind: str) -> str:
    """Break one file of a data set; returns its name."""
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    if kind == "missing":
        labels.unlink()
        return labels.name
    if kind == "labels do not match":
        labels.write_bytes(idx((5,)))
        return labels.name
    if kind == "label 10":
        labels.write_bytes(idx((6,), fill=10))
        return labels.name
    contents = {
        "truncated": images.read_bytes()[:-1],
        "too long": images.read_bytes() + b"x",
        "empty": b"",
        "header only": images.read_bytes()[:10],
        "wrong magic": b"\0\0\x0d\3" + images.read_bytes()[4:],
        "no images": idx((0, 28, 28)),
        "other size": idx((6, 8, 8)),
    }
    images.write_bytes(contents[kind])
    return images.name


@pytest.mark.parametrize(
    "kind",
    [
        "missing", "labels do not match", "label 10", "truncated", "too long", "empty", "header only", "wrong magic",
        "no images", "other size",
    ],
)  # fmt: skip
def test_broken_data_is_named(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    write_mnist(tmp_path / "mnist")
    name = spoil(tmp_path / "mnist", kind)
    monkeypatch.setenv(environment.DATA_DIR, str(tmp_path))
    with pytest.raises(DataError) as caught:
        find_mnist()
    assert str(tmp_path / "mnist" / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx((6, 28, 28)))
    for content in (whole[:-9], whole[:20], b"not gzip", b""):
        path = tmp_path / "a.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(path)):
            read_idx(path, 3)


# -- arguments and packaging ------------------------------------------------------------------------------------------


def test_arguments_take_both_spellings_and_refuse_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ProgramArguments("A program.")
    arguments.parameter("batch_size", 64, "images per step", minimum=1)
    arguments.parameter("lr", 0.1, "rate")
    arguments.parameter("verbose", False, "say more")
    assert vars(arguments.parse_args([])) == {"batch_size": 64, "lr": 0.1, "verbose": False}
    for flag in ("--batch-size", "--batch_size"):
        assert arguments.parse_args([flag, "8", "--verbose"]).batch_size == 8
    for wrong, words in (
        (["--batch-size", "0"], "below 1"),
        (["--lr", "nan"], "not finite"),
        (["--lr", "x"], "number"),
    ):
        with pytest.raises(SystemExit) as caught:
            arguments.parse_args(wrong)
        assert caught.value.code == 2
        assert words in capsys.readouterr().err


def test_the_runtime_imports_the_standard_library_only() -> None:
    for path in sorted((ROOT / "harness" / "runtime").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                own = name.startswith("harness.runtime")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_the_result_survives_a_round_trip_through_plain_json(job: Path) -> None:
    with begin() as run:
        run.output("text", "手写数字")
    assert "手写数字" in (job / "result.json").read_text(encoding="utf-8")
    assert json.loads((job / "result.json").read_text(encoding="utf-8"))["schema_version"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"first\n" + "介绍".encode("gbk"), "line 2: not UTF-8"),
        ("介绍".encode("utf-16"), "line 1: not UTF-8"),
        (b" \n", "is empty"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_prompt(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_prompt_is_read_without_its_byte_order_mark_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes("\ufeff 介绍一下\n大语言模型\n".encode())
    assert read_prompt(tmp_path / "prompt.txt") == "介绍一下\n大语言模型"
