"""Every kind of expectation: what passes, and that each fails closed with a message that names the reason."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_support import bilingual
from PIL import Image

from harness.errors import SpecError
from harness.expectation import Expectation
from harness.judge.arrays import read_arrays
from harness.judge.finding import Finding, StepOutputs
from harness.judge.outputs import judge_output
from harness.run.result import OutputFile, StepResult
from harness.specfile import SpecModel, validate_spec

ARRAYS = Path(__file__).parent / "arrays"  # made by numpy 2.4.6, torch 2.13.0 and safetensors 0.8.0


class _Spec(SpecModel):
    expectations: list[Expectation]


def expectation(kind: str, name: str, **keys: Any) -> Expectation:
    data = {"expectations": [{"kind": kind, "step": "train", "name": name, **keys}]}
    return validate_spec(data, _Spec, where="tutorial.toml").expectations[0]


class Steps:
    """Steps of a run made by hand: outputs in memory, files on disk, each on record."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outputs: dict[str, dict[str, Any]] = {}

    def report(self, step: str = "train", **outputs: Any) -> None:
        self.outputs.setdefault(step, {}).update(outputs)

    def leave(self, name: str, content: bytes, step: str = "train") -> Path:
        self.outputs.setdefault(step, {})
        path = self.root / step / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def view(self, step: str) -> StepOutputs | None:
        if step not in self.outputs:
            return None
        folder = self.root / step
        files = [
            OutputFile(
                path=path.relative_to(folder).as_posix(),
                bytes=path.stat().st_size,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        result = StepResult(status="completed", started_at=0, ended_at=1, outputs=self.outputs[step], files=files)
        return StepOutputs(result, folder)

    def judge(self, kind: str, name: str, **keys: Any) -> Finding:
        mine = self.view("train")
        assert mine is not None
        return judge_output(expectation(kind, name, **keys), mine, self.view)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    found = Steps(tmp_path / "outputs")
    found.report("train")
    return found


def passes(finding: Finding) -> str:
    assert finding.status == "pass", finding
    assert finding.expected
    bilingual(finding.message, finding.message.zh)
    return finding.message


def fails(finding: Finding, *words: str) -> None:
    assert finding.status == "fail", finding
    assert finding.expected
    bilingual(finding.message, finding.message.zh)
    assert "\n" not in " ".join(words)
    for word in words:
        assert word in finding.message, finding.message


# --- outputs


@pytest.mark.parametrize("value", [10, "ten", True, [1, "a"], 1.5])
def test_exact(steps: Steps, value: Any) -> None:
    steps.report(answer=value)
    passes(steps.judge("exact", "answer", equals=value))


@pytest.mark.parametrize(
    ("value", "wanted"), [(True, 1), (1, True), (1, 1.0), ("1", 1), ([1], 1), ([1, 2], [1]), (float("nan"), 1.0)]
)
def test_exact_tells_types_apart(steps: Steps, value: Any, wanted: Any) -> None:
    steps.report(answer=value)
    fails(steps.judge("exact", "answer", equals=wanted), "answer is", "expected")


def test_exact_missing(steps: Steps) -> None:
    fails(steps.judge("exact", "answer", equals=1), "did not report 'answer'")


def test_a_number_may_warn_before_it_fails(steps: Steps) -> None:
    steps.report(good=0.2, poor=0.21, bad=0.51)
    bounds = {"min": 0, "max": 0.5, "warn_max": 0.2}
    passes(steps.judge("number", "good", **bounds))
    poor = steps.judge("number", "poor", **bounds)
    assert (poor.status, poor.value) == ("warn", 0.21)
    bilingual(poor.message, poor.message.zh)
    assert "poor = 0.21, expected ≥ 0 and ≤ 0.5 (better ≤ 0.2)" in poor.message
    fails(steps.judge("number", "bad", **bounds), "0.51", "≤ 0.5")
    steps.report(level=1.0, slower=0.99, slow=0.79)
    bounds = {"min": 0.8, "warn_min": 1.0}
    passes(steps.judge("number", "level", **bounds))
    slower = steps.judge("number", "slower", **bounds)
    assert slower.status == "warn" and "expected ≥ 0.8 (better ≥ 1)" in slower.message
    fails(steps.judge("number", "slow", **bounds), "0.79", "≥ 0.8")


def test_number_tolerances(steps: Steps) -> None:
    steps.report(score=101.0)
    passes(steps.judge("number", "score", equals=100, rel_tolerance=0.01))
    passes(steps.judge("number", "score", equals=-101, rel_tolerance=2))
    fails(steps.judge("number", "score", equals=100, rel_tolerance=0.005, tolerance=0.4), "100 ± 0.9")


def test_text(steps: Steps) -> None:
    steps.report(reply="I am a helper\nmade by nobody", empty=" ", number=3)
    passes(steps.judge("text", "reply", pattern="^made by"))
    fails(steps.judge("text", "reply", pattern="Qwen"), "does not match", "I am a helper")
    fails(steps.judge("text", "reply", pattern="helper", forbidden="nobody$"), "holds 'nobody', which it must not")
    fails(steps.judge("text", "empty", pattern=" "), "is empty")
    fails(steps.judge("text", "number", pattern="3"), "not a text")
    fails(steps.judge("text", "absent", pattern="3"), "did not report")


def test_text_in_a_file(steps: Steps) -> None:
    steps.leave("reply.txt", "你好".encode())
    steps.leave("latin.txt", "Größe".encode("latin-1"))
    passes(steps.judge("text", "reply.txt", pattern="好", in_file=True))
    fails(steps.judge("text", "latin.txt", pattern="G", in_file=True), "not UTF-8")
    fails(steps.judge("text", "none.txt", pattern="G", in_file=True), "not among the files")


@pytest.mark.parametrize(
    ("points", "keys", "problem"),
    [
        ([3.0, 2.0, 1.0], {"direction": "decreasing", "monotone": True}, None),
        ([3.0, 2.0, 2.5, 1.0], {"direction": "decreasing"}, None),
        ([3.0, 2.0, 2.5, 1.0], {"direction": "decreasing", "monotone": True}, "point 3 steps back from 2 to 2.5"),
        ([3.0, 2.0, 2.5, 1.0], {"direction": "decreasing", "monotone": True, "slack": 0.5}, None),
        ([0.1, 0.5, 0.4], {"min": 0, "max": 1}, None),
        ([0.1, 1.5, 0.4], {"min": 0, "max": 1}, "point 2 is 1.5"),
        ([0.1, -0.5, 0.4], {"min": 0}, "point 2 is -0.5"),
        ([0.5, 0.5], {"direction": "increasing"}, "from 0.5 to 0.5"),
        ([0.5], {"min": 0}, "has 1 points"),
        ([], {"min": 0}, "an empty list"),
        ([0.5, float("nan")], {"min": 0}, "point 2 of 2"),
        ([0.5, True], {"min": 0}, "point 2 of 2"),
        ("0.5", {"min": 0}, "not a list"),
    ],
)
def test_curves(steps: Steps, points: Any, keys: dict[str, Any], problem: str | None) -> None:
    steps.report(loss=points)
    finding = steps.judge("curve", "loss", **keys)
    if problem is None:
        passes(finding)
    else:
        fails(finding, problem)


# --- files


def test_arrays_of_real_libraries() -> None:
    wanted = [-1 + index * 2 / 11 for index in range(12)]
    for name in ("float32.npy", "big_endian.npy", "float16.npy"):
        array = read_arrays(ARRAYS / name)["array"]
        assert array.shape == (3, 4)
        assert list(array.values()) == pytest.approx(wanted, abs=1e-3)
    assert list(read_arrays(ARRAYS / "int64.npy")["array"].values()) == [0, 1, 2, 3, 4, 5]
    for name in ("stored.npz", "packed.npz"):
        found = read_arrays(ARRAYS / name)
        assert {key: (array.shape, array.dtype) for key, array in found.items()} == {
            "a": ((3, 4), "float32"),
            "b": ((3,), "int64"),
        }
        assert list(found["a"].values()) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="Fortran"):
        read_arrays(ARRAYS / "fortran.npy")["array"].values()
    model = read_arrays(ARRAYS / "model.safetensors")
    assert {array.dtype for array in model.values()} == {"float32", "bfloat16", "int64"}
    assert list(model["b"].values()) == pytest.approx(wanted[:4], abs=1e-2)


def test_array_shapes(steps: Steps) -> None:
    for name in ("float32.npy", "packed.npz", "model.safetensors", "nan.npy", "objects.npy"):
        steps.leave(name, (ARRAYS / name).read_bytes())
    passes(steps.judge("array", "float32.npy", arrays={"array": {"shape": [3, -1], "dtype": "float32"}}))
    passes(steps.judge("array", "packed.npz", arrays={"a": {"shape": [3, 4]}, "b": {"shape": [-1]}}))
    passes(steps.judge("array", "model.safetensors", arrays={"b": {"shape": [4], "dtype": "bfloat16"}}))
    passes(steps.judge("array", "nan.npy", arrays={"array": {"shape": [3, 4]}}, finite=False))
    fails(steps.judge("array", "nan.npy", arrays={"array": {"shape": [3, 4]}}), "nan at position 6 of 12")
    fails(steps.judge("array", "float32.npy", arrays={"array": {"shape": [4, 3]}}), "of shape (3, 4), expected (4, 3)")
    fails(steps.judge("array", "float32.npy", arrays={"array": {"shape": [12]}}), "expected (12)")
    fails(steps.judge("array", "packed.npz", arrays={"c": {"shape": [3]}}), "no array 'c'; it holds: a, b")
    wrong = {"b": {"shape": [4], "dtype": "float32"}}
    fails(steps.judge("array", "model.safetensors", arrays=wrong), "of type bfloat16")
    fails(steps.judge("array", "objects.npy", arrays={"array": {"shape": [2]}}), "cannot be compared")


@pytest.mark.parametrize("name", ["float32.npy", "packed.npz", "stored.npz", "model.safetensors"])
def test_a_cut_array_file_never_passes(steps: Steps, name: str) -> None:
    whole = (ARRAYS / name).read_bytes()
    key = {"float32.npy": "array", "model.safetensors": "w"}.get(name, "a")
    for length in range(1, len(whole), 7):
        steps.leave(name, whole[:length])
        finding = steps.judge("array", name, arrays={key: {"shape": [3, 4]}})
        assert finding.status == "fail", length


def test_random_bytes_are_no_arrays(steps: Steps) -> None:
    source = random.Random(1)
    for name in ("a.npy", "a.npz", "a.safetensors"):
        for _ in range(60):
            head = b"\x93NUMPY\x01\x00" if name == "a.npy" else b""
            steps.leave(name, head + source.randbytes(source.randrange(1, 200)))
            fails(steps.judge("array", name, arrays={"array": {"shape": [1]}}), name)


def test_tables(steps: Steps) -> None:
    steps.leave("scores.csv", "id,score\n1,0.5\n2,0.7\n".encode("utf-8-sig"))
    passes(steps.judge("table", "scores.csv", columns=["id", "score"], min_rows=2, max_rows=2))
    fails(steps.judge("table", "scores.csv", columns=["loss"]), "no column 'loss'; it holds: id, score")
    fails(steps.judge("table", "scores.csv", min_rows=3), "has 2 rows")
    fails(steps.judge("table", "scores.csv", max_rows=1), "has 2 rows")
    steps.leave("ragged.csv", b"id,score\n1\n")
    fails(steps.judge("table", "ragged.csv"), "1 cells in row 1")
    steps.leave("head.csv", b"id,score\n")
    fails(steps.judge("table", "head.csv"), "has 0 rows")
    steps.leave("binary.csv", b"\xff\xfe\x00")
    fails(steps.judge("table", "binary.csv"), "not a CSV file")
    steps.leave("empty.csv", b"")
    fails(steps.judge("table", "empty.csv"), "has 0 bytes")


def test_json_keys(steps: Steps) -> None:
    data = {"scores": [{"accuracy": 0.9}], "none": None, "empty": {}, "bad": float("nan")}
    steps.leave("a.json", json.dumps(data).encode())
    passes(steps.judge("json", "a.json", keys=["scores.0.accuracy"]))
    fails(steps.judge("json", "a.json", keys=["scores.1.accuracy"]), "no 'scores.1.accuracy'", "a list")
    fails(steps.judge("json", "a.json", keys=["loss"]), "bad, empty, none, scores")
    for key in ("none", "empty", "bad"):
        fails(steps.judge("json", "a.json", keys=[key]), f"at '{key}'")
    steps.leave("deep.json", b"[" * 200_000)
    fails(steps.judge("json", "deep.json", keys=["a"]), "nested too deeply")
    steps.leave("text.json", b"hello")
    fails(steps.judge("json", "text.json", keys=["a"]), "is not JSON")


def picture(paint: Callable[[int, int], int], size: int = 64) -> bytes:
    from io import BytesIO

    image = Image.new("L", (size, size))
    image.putdata([paint(x, y) for y in range(size) for x in range(size)])
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_images(steps: Steps) -> None:
    steps.leave("images/0.png", picture(lambda x, y: x * 4 % 256))
    steps.leave("images/1.png", picture(lambda x, y: y * 4 % 256))
    pair = {"count": 2, "width": 64, "height": 64, "min_difference": 0.05}
    passes(steps.judge("images", "images/*.png", **pair))
    fails(steps.judge("images", "images/*.png", count=3), "names 2 pictures")
    fails(steps.judge("images", "images/*.png", width=32), "of width 64, expected 32")
    steps.leave("images/2.png", picture(lambda x, y: 255 - (x * 4 % 256 + (x + y) % 3)))
    passes(steps.judge("images", "images/*.png", **pair))
    steps.leave("images/3.png", picture(lambda x, y: x * 4 % 256 + (y % 2 if x * 4 % 256 < 255 else 0)))
    fails(steps.judge("images", "images/*.png", **pair), "images/0.png and images/3.png, which differ by")
    steps.leave("images/4.png", picture(lambda x, y: 128))
    fails(steps.judge("images", "images/*.png"), "images/4.png", "it is blank")


@pytest.mark.parametrize("content", [b"x" * 100, picture(lambda x, y: x)[:60], picture(lambda x, y: x)[:-30]])
def test_a_broken_picture(steps: Steps, content: bytes) -> None:
    steps.leave("a.png", content)
    fails(steps.judge("images", "a.png"), "a.png")


# --- two steps


def test_changed(steps: Steps) -> None:
    steps.report("before", reply="I am Qwen", other=3)
    steps.report(reply="I am a helper", still="I  am\nQwen", empty="")
    passes(steps.judge("changed", "reply", other_step="before"))
    fails(steps.judge("changed", "still", other_step="before", other_name="reply"), "did not change")
    fails(steps.judge("changed", "reply", other_step="none"), "step 'none' is not in result.json")
    fails(steps.judge("changed", "reply", other_step="before", other_name="other"), "not a text")
    fails(steps.judge("changed", "empty", other_step="before", other_name="reply"), "is empty")


def test_same_numbers(steps: Steps) -> None:
    steps.report("before", loss=0.5, logits=[1.0, 2.0], bad=[1.0, float("nan")])
    steps.report(loss=0.5001, logits=[1.0, 2.0], short=[1.0], bad=[1.0, float("nan")])
    passes(steps.judge("same", "loss", other_step="before", tolerance=1e-3))
    fails(steps.judge("same", "loss", other_step="before", tolerance=1e-5), "0.5001 and 0.5")
    passes(steps.judge("same", "logits", other_step="before"))
    fails(steps.judge("same", "short", other_step="before", other_name="logits"), "holds 1 values")
    fails(steps.judge("same", "bad", other_step="before"), "not a finite number")
    fails(steps.judge("same", "none", other_step="before"), "did not report 'none'")
    fails(steps.judge("same", "loss", other_step="none"), "not in result.json")


def test_same_arrays(steps: Steps) -> None:
    near = {"other_step": "base", "other_name": "near.safetensors", "in_file": True}
    for step, name in (("train", "model.safetensors"), ("base", "near.safetensors"), ("base", "nan.npy")):
        steps.leave(name, (ARRAYS / name).read_bytes(), step)
    passes(steps.judge("same", "model.safetensors", **near, tolerance=1e-4))
    fails(steps.judge("same", "model.safetensors", **near, tolerance=1e-6), "differs in w (3, 4) at position 0")
    other = {**near, "other_name": "nan.npy"}
    fails(steps.judge("same", "model.safetensors", **other), "the other holds array (3, 4)")
    shutil.copy(ARRAYS / "nan.npy", steps.root / "train" / "nan.npy")
    fails(steps.judge("same", "nan.npy", **other, tolerance=1e9), "nan")


# --- specs


@pytest.mark.parametrize(
    ("kind", "keys", "words"),
    [
        ("exact", {}, "equals"),
        ("number", {"min": 0, "rel_tolerance": 0.1}, "rel_tolerance needs equals"),
        ("number", {"min": 0, "warn_max": 0.1}, "warn_max needs a max above it"),
        ("number", {"max": 0.1, "warn_max": 0.1}, "warn_max needs a max above it"),
        ("number", {"max": 1, "warn_min": 0.1}, "warn_min needs a min below it"),
        ("number", {"min": 0.1, "warn_min": 0.1}, "warn_min needs a min below it"),
        ("text", {"pattern": "("}, "not a regular expression"),
        ("curve", {}, "needs direction ('decreasing', 'increasing'), min or max"),
        ("curve", {"min": 0, "monotone": True}, "need direction"),
        ("array", {"arrays": {"a": {"shape": [1]}}}, "must end in .npy, .npz or .safetensors"),
        ("images", {"min_contrast": 2}, "less than or equal to 0.5"),
        ("same", {"other_step": "train"}, "compares an output with itself"),
        ("changed", {}, "other_step"),
        ("colour", {}, "'exact', 'number', 'text', 'curve', 'file', 'array', 'table', 'json', 'images', 'changed'"),
    ],
)
def test_a_broken_expectation_names_file_key_and_valid_values(kind: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        expectation(kind, "x", **keys)
    message = str(caught.value)
    assert message.startswith("tutorial.toml: key 'expectations.0")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/x.csv", "a/../../b.csv"])
def test_a_file_outside_the_output_folder_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="not a path below"):
        expectation("table", name)
