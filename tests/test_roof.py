"""`harness roof`: a real measurement with the torch of a real image, and that the judge uses what it wrote."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from judge_support import RUN_ID, gpu_result, make_run
from tiny_project import REPOSITORY, harness

from harness.cli.roof import slug
from harness.roof import load_roofs, parse_roof


def test_a_python_without_torch_is_one_line(project: Path) -> None:
    done = harness(project, "roof", "--python", sys.executable)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: harness roof: {sys.executable} has no torch")
    assert done.stderr.count("\n") == 1
    assert not (project / "roofs").exists()


def test_a_program_that_answers_nonsense_writes_nothing(project: Path, tmp_path: Path) -> None:
    liar = tmp_path / "python"
    liar.write_text("#!/bin/sh\necho '{\"schema_version\": 1}'\n")
    liar.chmod(0o755)
    done = harness(project, "roof", "--python", str(liar))
    assert done.returncode == 1
    assert "error: harness roof: key 'device'" in done.stderr
    assert not (project / "roofs").exists()


def test_an_unknown_image_is_named(project: Path) -> None:
    done = harness(project, "roof", "none.sif")
    assert (done.returncode, done.stderr) == (2, "error: none.sif: there is no such image\n")


ROOF = """{"schema_version": 1, "device": {"kind": "cuda", "name": "NVIDIA Z9000", "count": 1},
"matmul": {"unit": "TFLOP/s", "samples": [99, 100, 101]}, "copy_rate": {"unit": "GB/s", "samples": [1, 2, 3]}}"""


def test_check_holds_an_unknown_gpu_against_the_roofs_of_the_checkout(project: Path) -> None:
    """The rate of the tiny tutorial's metric has no work per unit, so give it one."""
    spec = project / "tutorials/xscow-2/tutorial.toml"
    text = spec.read_text().replace(
        'unit = "counts/s"', 'unit = "counts/s"\nflop_per_unit = 1e6\nflop_source = "counted"'
    )
    spec.write_text(text)
    data = gpu_result()
    step = data["steps"]["count"] = data["steps"].pop("train")
    step["device"].update(name="NVIDIA Z9000", compute_capability=[19, 0])
    step["metrics"] = {"counts": {"value": 1e9, "unit": "counts/s", "samples": [1e9] * 3}}
    step["files"] = [{"path": "none", "bytes": 1, "sha256": "0"}]
    shutil.copy(project / "sites/default.toml", project / "sites/demo.toml")  # the site the run names
    run = make_run(project / "runs" / RUN_ID, data)
    unknown = harness(project, "check", "--run", str(run.folder))
    assert run.verdict.is_file(), unknown.stderr
    assert "harness roof" in run.verdict.read_text()
    assert "broken timing" not in unknown.stdout
    (project / "roofs").mkdir()
    (project / "roofs" / "z9000.json").write_text(ROOF)
    known = harness(project, "check", "--run", str(run.folder))
    assert "broken timing: 1e+09 counts/s is 6.5 times what the hardware can do" in known.stdout
    (project / "roofs" / "z9000.json").write_text("{}")
    broken = harness(project, "check", "--run", str(run.folder))
    assert broken.returncode == 1
    assert "z9000.json: key 'device'" in broken.stderr


def test_file_names() -> None:
    assert slug(parse_roof(ROOF, where="z")) == "nvidia-z9000"
    cpu = (
        ROOF.replace('"cuda"', '"cpu"')
        .replace("NVIDIA Z9000", "AMD EPYC 7763 (64-Core)")
        .replace('"count": 1', '"count": 2')
    )
    assert slug(parse_roof(cpu, where="z")) == "amd-epyc-7763-64-core-2-threads"


@pytest.mark.apptainer
@pytest.mark.image
def test_the_cpus_roof_is_measured_in_the_image(cache: Path, tmp_path: Path) -> None:
    if shutil.which("apptainer") is None and shutil.which("singularity") is None:
        pytest.skip("no apptainer or singularity: scripts/install-apptainer; `make test` installs it")
    environment = {"CATALOG": str(cache / "catalog"), "HARNESS_CACHE": str(cache)}
    built = harness(REPOSITORY, "build", "xscow-2", env=environment)
    assert built.returncode == 0, built.stderr
    target = tmp_path / "roofs" / "cpu.json"
    done = harness(REPOSITORY, "roof", "2", "--seconds", "0.2", "-o", str(target), env=environment)
    assert done.returncode == 0, done.stderr
    (roof,) = load_roofs(target.parent)
    assert roof.device.kind == "cpu"
    assert 1 <= roof.device.count <= (os.cpu_count() or 1)
    # Between a hand-held calculator's and the bound that no core reaches: 64 FLOP a cycle at 6 GHz.
    assert 1e-5 < roof.matmul.median < roof.device.count * 64 * 6e9 / 1e12
    assert roof.copy_rate.median > 0
    assert roof.versions["torch"].startswith("2.")
    assert f"matmul:  {roof.matmul.median:.4g} TFLOP/s (2048 x 2048, float32" in done.stdout
