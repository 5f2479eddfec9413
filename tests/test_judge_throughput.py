"""The throughput gates: what the hardware allows, what earlier runs let one expect, and that one unit rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judge_support import EXPECTED, SAMPLES, TUTORIAL_TOML, bilingual, gpu_result, make_run, small_project

from harness.errors import SpecError
from harness.gpu import GPUS, bandwidth_of, gpu_limits, tflops_of
from harness.judge import Check, Verdict, judge_run
from harness.judge.background import NOTHING, Background, OtherRun
from harness.judge.limits import device_roof
from harness.roof import RoofError, load_roofs, parse_roof, roof_for
from harness.run.evidence import gather_evidence
from harness.run.result import Device
from harness.tutorial import Tutorial, load_tutorial

A100 = "NVIDIA A100-SXM4-80GB"
ROOF = """{"schema_version": 1, "device": {"kind": "cuda", "name": "NVIDIA Z9000", "count": 1},
"matmul": {"unit": "TFLOP/s", "samples": [99, 100, 101]},
"copy_rate": {"unit": "GB/s", "samples": [1000, 1000, 1000]}}"""


# --- what a GPU can do


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
    [
        ("Tesla V100-SXM2-32GB", (7, 0), "V100"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), "A100-40"),
        (A100, (8, 0), "A100-80"),
        ("NVIDIA A800-SXM4-80GB", (8, 0), "A100-80"),
        ("NVIDIA H100 80GB HBM3", (9, 0), "H100 SXM"),
        ("NVIDIA H100 PCIe", (9, 0), "H100 PCIe"),
        ("NVIDIA H200", (9, 0), "H200"),
        ("NVIDIA B200", (10, 0), "B200"),
        ("Quadro RTX 4000", (7, 5), "Quadro RTX 4000"),
        ("NVIDIA RTX 4000 Ada Generation", (8, 9), None),
        ("NVIDIA RTX 4000 Ada Generation", None, None),
        ("NVIDIA GeForce RTX 4090", (8, 9), "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", (8, 9), None),
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6), None),
        ("NVIDIA H100 NVL", (9, 0), None),
        ("NVIDIA GH200 480GB", (9, 0), None),
        ("NVIDIA A100-SXM4-80GB", (9, 0), None),
    ],
)
def test_a_gpu_is_known_by_name_and_capability(
    name: str, capability: tuple[int, int] | None, expected: str | None
) -> None:
    found = gpu_limits(name, capability)
    assert (found.name if found else None) == expected


@pytest.mark.parametrize(
    ("model", "sms", "clock_mhz", "memory_mhz", "bits"),
    [
        ("V100", 80, 1530, 877, 4096),
        ("A100-80", 108, 1410, 1593, 5120),
        ("RTX 3090", 82, 1695, 9751, 384),
        ("H100 SXM", 132, 1830, 2619, 5120),
    ],
)
def test_the_formula_agrees_with_the_table(
    model: str, sms: int, clock_mhz: float, memory_mhz: float, bits: int
) -> None:
    """Data sheets of the four: SMs, boost clock, memory clock, bus."""
    limits = next(limits for limits in GPUS if limits.name == model)
    name = "NVIDIA GeForce RTX 3090" if model == "RTX 3090" else model
    assert tflops_of(name, limits.compute_capability, sms, clock_mhz) == pytest.approx(limits.fp16_tflops, rel=0.02)
    assert bandwidth_of(memory_mhz, bits) == pytest.approx(limits.bandwidth_gbs, rel=0.02)


def test_nothing_is_made_up_for_an_unknown_generation() -> None:
    assert tflops_of("NVIDIA Z9000", (19, 0), 100, 1000) is None
    assert tflops_of(A100, (8, 0), 108, 0) is None
    assert bandwidth_of(0, 5120) is None


def z9000(**facts: Any) -> Device:
    return Device(kind="cuda", name="NVIDIA Z9000", count=2, **facts)


def test_an_unknown_gpu_is_bounded_by_its_clocks_or_by_a_measurement() -> None:
    assert device_roof(z9000())[0] is None
    clocks = {"multiprocessors": 108, "clock_mhz": 1410.0, "memory_clock_mhz": 1593.0, "memory_bus_bits": 5120}
    roof = device_roof(z9000(compute_capability=(8, 0), **clocks))[0]
    assert roof is not None
    assert roof.flops == pytest.approx(2 * 312e12, rel=0.01)
    assert roof.bytes_per_s == pytest.approx(2 * 2039e9, rel=0.01)
    measured = device_roof(z9000(), [parse_roof(ROOF, where="z.json")])[0]
    assert measured is not None
    assert measured.flops == 2 * 100e12
    assert "measured: 100 TFLOP/s and 1000 GB/s" in measured.text


def test_the_newest_roof_of_the_same_device_counts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        ROOF.replace("1,", '1, "measured_at": 2,', 1).replace("99, 100, 101", "50, 50, 50")
    )
    (tmp_path / "b.json").write_text(ROOF.replace("1,", '1, "measured_at": 1,', 1))
    roofs = load_roofs(tmp_path)
    found = roof_for(roofs, "cuda", "NVIDIA Z9000", 4)
    assert found is not None
    assert found.matmul.median == 50
    assert roof_for(roofs, "cuda", "NVIDIA Z8000", 4) is None
    assert load_roofs(tmp_path / "none") == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", ROOF.replace("TFLOP/s", "GFLOP/s"), ROOF.replace("99, 100, 101", "0, 1, 2"),
     ROOF.replace("99, 100, 101", "1, 2"), ROOF.replace("99, 100", "NaN, 100"),
     ROOF.replace('"GB/s"', '"TFLOP/s"')],
)  # fmt: skip
def test_a_roof_that_cannot_be_believed(text: str) -> None:
    with pytest.raises(RoofError, match=r"^z.json: .*harness roof$"):
        parse_roof(text, where="z.json")


# --- the gates


def tutorial_with(tmp_path: Path, *extra: str, replace: tuple[str, str] = ("", "")) -> Tutorial:
    project = small_project(tmp_path / "project")
    text = TUTORIAL_TOML.replace(*replace).replace(
        "[throughput.floors.cpu]", "\n".join(extra) + "\n[throughput.floors.cpu]", 1
    )
    project.tutorial_file("xscow-2").write_text(text, encoding="utf-8")
    return load_tutorial(project, "2")


def judged(
    tutorial: Tutorial,
    folder: Path,
    rate: float,
    background: Background = NOTHING,
    *,
    device: dict[str, Any] | None = None,
    shared: bool = False,
    metric: dict[str, Any] | None = None,
) -> Verdict:
    data = gpu_result(shared=shared)
    step = data["steps"]["train"]
    step["device"].update(device or {})
    samples = [rate * sample / 4170 for sample in SAMPLES]
    step["metrics"]["train_throughput"] = {"value": rate, "unit": "images/s", "samples": samples, **(metric or {})}
    return judge_run(gather_evidence(make_run(folder, data)), tutorial, EXPECTED, background)


def check(verdict: Verdict, name: str = "", status: str | None = None) -> Check:
    found = verdict.check("throughput", "train", f"train_throughput{name}")
    assert found is not None
    assert status in (None, found.status), found
    bilingual(found.message, found.message_zh)
    return found


MFU = "physical = { kind = 'mfu', fail = 0.1, warn = 0.2, source = 'measured elsewhere' }"
Z9000 = {"name": "NVIDIA Z9000", "compute_capability": [19, 0]}


def test_the_physical_floor_follows_the_gpu(tmp_path: Path) -> None:
    tutorial = tutorial_with(tmp_path, MFU, replace=("1.6e7", "1e9"))
    # 312 TFLOP/s over 1 GFLOP per image: 10 % are 31,200 images/s.
    slow = check(judged(tutorial, tmp_path / "a", 31_000), status="fail")
    assert slow.floor == pytest.approx(31_200)
    assert "MFU ≥ 0.1: measured elsewhere" in slow.message
    assert "needs re-run" in slow.message
    check(judged(tutorial, tmp_path / "b", 40_000), status="warn")
    check(judged(tutorial, tmp_path / "c", 63_000), status="pass")
    h100 = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": [9, 0]}
    check(judged(tutorial, tmp_path / "d", 63_000, device=h100), status="fail")


@pytest.mark.parametrize("physical", [False, True])
def test_where_a_floor_comes_from_is_said_in_the_readers_language(tmp_path: Path, physical: bool) -> None:
    """In English in both where nobody wrote the Chinese."""
    plain, written = 'source = "a V100"', 'source = "a V100"\nsource_zh = "一块 V100"'
    shared = MFU.replace("'measured elsewhere'", "'a V100', source_zh = '一块 V100'")
    tutorial = tutorial_with(tmp_path / "both", *([shared] if physical else []), replace=(plain, written))
    found = check(judged(tutorial, tmp_path / "a", 10), status="fail")
    assert "a V100" in found.message and "一块 V100" not in found.message
    assert "一块 V100" in found.message_zh and "a V100" not in found.message_zh
    alone = tutorial_with(tmp_path / "alone", *([MFU] if physical else []))
    found = check(judged(alone, tmp_path / "b", 10), status="fail")
    source = "measured elsewhere" if physical else "a V100"
    assert source in found.message and source in found.message_zh


def test_without_a_roof_the_stated_floor_rules(tmp_path: Path) -> None:
    tutorial = tutorial_with(tmp_path, MFU)
    assert check(judged(tutorial, tmp_path / "a", 6_000, device=Z9000), status="pass").floor == 5_000
    check(judged(tutorial, tmp_path / "b", 4_000, device=Z9000), status="fail")


def test_a_measured_roof_is_limit_and_floor_of_an_unknown_gpu(tmp_path: Path) -> None:
    tutorial = tutorial_with(tmp_path, MFU, replace=("1.6e7", "1e9"))
    background = Background(roofs=(parse_roof(ROOF, where="z.json"),))
    found = judged(tutorial, tmp_path / "a", 30_000, background, device=Z9000)
    assert check(found, status="pass").floor == pytest.approx(10_000)
    assert check(found, ".limit", "pass").limit == pytest.approx(100_000 / 0.65)
    check(judged(tutorial, tmp_path / "b", 160_000, background, device=Z9000), ".limit", "fail")


@pytest.mark.parametrize(
    ("physical", "floor"),
    [
        ("kind = 'mbu', fail = 0.5", 0.5 * 2039e9 / 1e6),
        ("kind = 'mbu', fail = 0.5, devices = 'one'", 0.5 * 2039e9 / 1e6),
        ("kind = 'bytes_per_unit', fail = 1.3", 2039 / 1.3),
        ("kind = 'ms_per_layer', fail = 1.5, layers = 28", 1000 / (1.5 * 28)),
    ],
)
def test_kinds_of_physical_floors(tmp_path: Path, physical: str, floor: float) -> None:
    extra = ["bytes_per_unit = 1e6", "bytes_source = 'counted'", f"physical = {{ {physical}, source = 's' }}"]
    found = judged(tutorial_with(tmp_path, *extra), tmp_path / "run", 1_000)
    assert check(found).floor == pytest.approx(floor)


def test_gpus_that_take_turns_have_one_gpus_bandwidth(tmp_path: Path) -> None:
    extra = ["bytes_per_unit = 1e6", "bytes_source = 'c'"]
    floors = []
    for index, devices in enumerate(("all", "one")):
        physical = f"physical = {{ kind = 'mbu', fail = 0.5, devices = '{devices}', source = 's' }}"
        tutorial = tutorial_with(tmp_path / devices, *extra, physical)
        floors.append(check(judged(tutorial, tmp_path / f"run{index}", 1e6, device={"count": 2})).floor)
    assert floors[0] == pytest.approx(2 * (floors[1] or 0))


def test_memory_bounds_the_rate_as_computing_does(tmp_path: Path) -> None:
    tutorial = tutorial_with(tmp_path, "bytes_per_unit = 1e9", "bytes_source = 'counted'")
    assert check(judged(tutorial, tmp_path / "a", 2_000), ".limit", "pass").limit == pytest.approx(2_039)
    assert "broken timing" in check(judged(tutorial, tmp_path / "b", 2_050), ".limit", "fail").message


def again(*values: float, unit: str = "images/s", device: str = A100, count: int = 1) -> tuple[OtherRun, ...]:
    return tuple(OtherRun(value, unit, device, count) for value in values)


@pytest.mark.parametrize(
    ("rate", "repeats", "status", "words"),
    [
        (4_500, (), "fail", "needs re-run: the median of 3 runs decides"),
        (4_500, (6_000,), "fail", "needs re-run"),
        (4_500, (6_000, 6_100), "pass", "6000 images/s, the median of 3 runs"),
        (4_500, (6_000, 4_600), "fail", "too slow: 4600 images/s, the median of 3 runs"),
        (6_000, (), "pass", "6000 images/s"),
    ],
)
def test_the_median_of_three_runs_decides(
    tmp_path: Path, rate: float, repeats: tuple[float, ...], status: str, words: str
) -> None:
    tutorial = tutorial_with(tmp_path)
    found = check(judged(tutorial, tmp_path / "run", rate, Background(repeats=again(*repeats))), status=status)
    assert words in found.message
    assert found.rerun == ("needs re-run" in words)


def test_a_run_that_is_far_too_slow_needs_no_other(tmp_path: Path) -> None:
    """The floor is 5,000; noise does not explain 20 % less, so no GPU hour is spent on asking again."""
    tutorial = tutorial_with(tmp_path)
    verdict = judged(tutorial, tmp_path / "run", 4_000)
    assert "needs re-run" not in check(verdict, status="fail").message
    assert not verdict.wants_rerun
    assert judged(tutorial, tmp_path / "near", 4_900).wants_rerun


EARLIER = again(20_000, 20_100, 19_900, 20_050, 19_950, 20_000)


def test_history(tmp_path: Path) -> None:
    tutorial = tutorial_with(tmp_path)

    def history(folder: str, rate: float, **background: Any) -> Check:
        return check(judged(tutorial, tmp_path / folder, rate, Background(**background)), ".history")

    good = history("a", 19_500, earlier=EARLIER)
    assert good.status == "pass"
    assert "-2.5% of the median of 6 earlier runs, 20000" in good.message
    assert "would notice a change of ≥ 6% with 95% probability" in good.message
    slow = history("b", 18_000, earlier=EARLIER)
    assert (slow.status, slow.expected) == ("warn", "≥ 19000 images/s")
    assert "needs re-run" in slow.message
    assert history("c", 18_000, earlier=EARLIER, repeats=again(18_100, 18_200)).status == "fail"
    assert history("d", 18_000, earlier=EARLIER, repeats=again(19_900, 20_000)).status == "pass"
    assert history("e", 18_000, earlier=EARLIER[:4]).status == "skip"


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        (again(*[2e4] * 9, device="NVIDIA H200"), "0 earlier runs"),
        (again(*[2e4] * 9, count=2), "0 earlier runs"),
        (again(*[2e4] * 9, unit="batches/s"), "9 more are in another unit than images/s"),
        (tuple(OtherRun(2e4, "images/s", A100, 1, shared=True) for _ in range(9)), "0 earlier runs"),
    ],
)
def test_only_like_is_compared_with_like(tmp_path: Path, earlier: tuple[OtherRun, ...], words: str) -> None:
    found = judged(tutorial_with(tmp_path), tmp_path / "run", 10_000, Background(earlier=earlier))
    assert words in check(found, ".history", "skip").message


def test_a_shared_gpu_skips_floors_and_history_and_says_so(tmp_path: Path) -> None:
    found = judged(tutorial_with(tmp_path, MFU), tmp_path / "run", 10, Background(earlier=EARLIER), shared=True)
    assert "shared GPU" in check(found, status="skip").message
    assert "shared GPU" in check(found, ".history", "skip").message
    assert check(found, ".limit", "pass")


def test_lower_is_better(tmp_path: Path) -> None:
    text = TUTORIAL_TOML.replace('unit = "images/s"', 'unit = "ms"\nhigher_is_better = false')
    text = text.replace("fail = 500\nwarn = 2000", "fail = 2000\nwarn = 500")
    project = small_project(tmp_path / "project")
    project.tutorial_file("xscow-2").write_text(text, encoding="utf-8")
    latency = load_tutorial(project, "2")
    metric = {"unit": "ms", "higher_is_better": False}
    earlier = again(*[100.0] * 6, unit="ms")
    fine = judged(latency, tmp_path / "a", 102, Background(earlier=earlier), metric=metric)
    assert check(fine, status="pass")
    assert check(fine, ".history", "pass").expected == "≤ 105 ms"
    assert check(fine, ".limit", "skip")
    slow = judged(
        latency, tmp_path / "b", 6_000, Background(earlier=earlier, repeats=again(6e3, 6e3, unit="ms")), metric=metric
    )
    assert "too slow: 6000 ms" in check(slow, status="fail").message
    assert check(slow, ".history", "fail")
    confused = judged(latency, tmp_path / "c", 102, metric={"unit": "ms"})
    assert "says that higher is better, the tutorial states lower" in check(confused, status="fail").message


def test_warm_up_left_in_the_samples_is_named(tmp_path: Path) -> None:
    samples = [3_000.0, 6_000.0, *[20_000.0] * 8]
    found = judged(tutorial_with(tmp_path), tmp_path / "run", 20_000, metric={"samples": samples})
    assert "the first 2 of 10 samples are still warming up" in check(found, ".steady", "warn").message


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("physical = { kind = 'mfu', fail = 0.5, warn = 0.1, source = 's' }", "warn must not be below fail"),
        (
            "physical = { kind = 'ms_per_layer', fail = 1, warn = 2, layers = 3, source = 's' }",
            "must not be above fail",
        ),
        ("physical = { kind = 'mfu', fail = 20, source = 's' }", "at most 1"),
        ("physical = { kind = 'ms_per_layer', fail = 1, source = 's' }", "layers is needed"),
        ("physical = { kind = 'mbu', fail = 0.1, source = 's' }", "'mbu' needs bytes_per_unit"),
        ("physical = { kind = 'speed', fail = 0.1, source = 's' }", "'mfu', 'mbu', 'bytes_per_unit' or 'ms_per_layer'"),
        ("bytes_per_unit = 1e9", "bytes_per_unit needs bytes_source"),
        ("higher_is_better = false", "floors.cpu: warn must not be above fail"),
    ],
)
def test_a_broken_physical_floor(tmp_path: Path, extra: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        tutorial_with(tmp_path, extra)
    assert words in str(caught.value)
