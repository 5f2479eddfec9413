"""``harness docs``: a page per tutorial and language, that says what its tutorial.toml says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_project import REPOSITORY, harness, make_tiny_project

from harness.catalog.catalog import Catalog
from harness.page import LANGUAGES, page_file, render_page
from harness.project import Project
from harness.tutorial import load_tutorial, tutorial_ids

PROJECT = Project(REPOSITORY)


def test_the_committed_pages_are_what_the_tutorials_say() -> None:
    done = harness(REPOSITORY, "docs", "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tutorial_id", tutorial_ids(PROJECT))
def test_a_page_names_what_is_there(tutorial_id: str) -> None:
    tutorial = load_tutorial(PROJECT, tutorial_id)
    for language in LANGUAGES:
        page = render_page(tutorial, language)
        scripts = set(re.findall(r"jobs/\S+?\.job", page))
        assert scripts
        for script in scripts:
            assert (REPOSITORY / script).is_file(), script
        for link in re.findall(r"\]\(([^)]+)\)", page):
            assert (page_file(PROJECT, tutorial_id, language).parent / link).is_file(), link
        for expectation in tutorial.expected("full"):
            assert f"`{expectation.name}`" in page
        for data in tutorial.data:
            for name in (name for entry in data.files for name in entry.split("|")):
                assert f"`{name}`" in page, "what its program opens, under every name"
        assert (tutorial.title.en if language == "en" else tutorial.title.zh) in page
    assert "依据：" in page and "依据（英文）" not in page, "where a floor comes from is said in Chinese too"


def test_a_page_says_steps_conditions_floors_and_their_sources() -> None:
    lora, served = load_tutorial(PROJECT, "xscow-6"), load_tutorial(PROJECT, "xscow-8")
    english, chinese = render_page(lora, "en", "47 s"), render_page(lora, "zh", "47 s")
    first = "answers_with_identity` is 0 or less, where `data_source` is"
    assert f"Step `chat_before`: `{first}" in english
    assert "（当 `model_source` 为 `site` 且 `data_source` 为 `identity-centre-assistant` 时）" in chinese
    assert "时）（当" not in chinese
    for page in (english, chinese):
        assert "47 s" in page and "150 tokens/s" in page and "3 %" in page
    assert english.count("not measured yet: an estimate. Records are some 80 tokens") == 1
    assert chinese.count("尚未实测，为估计值。记录约 80 个词元") == 1
    assert "## Presets" in english and "## 预设" in chinese
    for language in LANGUAGES:
        page = render_page(served, language)
        assert "`transformers_token_rate`" in page and "30 %" in page
        assert served.throughput.meaning is not None and served.throughput.meaning.says(language) in page
        assert "2.1 GB" in render_page(load_tutorial(PROJECT, "xscow-3"), language)
        assert "cuda" not in render_page(load_tutorial(PROJECT, "scow-4"), language)


def test_the_page_of_imagenet_says_how_many_images_are_looked_at_before_the_start() -> None:
    """A person who waits in a queue for hours must know that a damaged file may end the training later."""
    program = (PROJECT.tutorials / "xscow-3/images.py").read_text(encoding="utf-8")
    checked = re.search(r"^CHECKED = (\d+)", program, re.MULTILINE)
    assert checked is not None
    for language, words in (("en", "up to {} of train/ and of val/"), ("zh", "train/ 与 val/ 中各抽查至多 {} 张")):
        assert words.format(f"{int(checked[1]):,}") in page_file(PROJECT, "xscow-3", language).read_text("utf-8")


def test_a_changed_tutorial_is_drift_until_its_page_is_written(tmp_path: Path) -> None:
    root = make_tiny_project(tmp_path / "tiny")
    assert harness(root, "docs").returncode == 0
    assert harness(root, "docs", "--check").returncode == 0
    path = root / "tutorials/xscow-2/tutorial.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("Counts.", "Counts well."), encoding="utf-8")
    done = harness(root, "docs", "--check")
    assert done.returncode == 1
    assert "xscow-2.md" in done.stderr
    assert "make docs" in done.stderr
    assert harness(root, "docs").returncode == 0
    assert "Counts well." in (root / "docs/tutorials/xscow-2.md").read_text(encoding="utf-8")
    shutil.rmtree(root / "docs")
    assert harness(root, "docs", "--check").returncode == 1


@pytest.mark.apptainer
def test_what_was_measured_is_a_page_of_the_newest_runs(built_project: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(built_project, root, symlinks=True)
    shutil.rmtree(root / "runs")
    (root / "runs").mkdir()
    refused = harness(root, "docs", "--measured")
    assert refused.returncode == 2
    assert "no tutorial has such a run" in refused.stderr
    job = ["bash", "jobs/tutorial2.apptainer.cpu.job"]
    subprocess.run(job, cwd=root, env={**os.environ, "PRESET": "smoke"}, check=True, capture_output=True)
    done = harness(root, "docs", "--measured")
    assert done.returncode == 0, done.stderr
    manifest = Catalog(root / "catalog").current("tutorial2.cpu")
    assert manifest is not None
    [row] = [line for line in (root / "docs/tutorials/measured.md").read_text().splitlines() if "[xscow-2]" in line]
    assert f"| {manifest.bytes / 1e6:.0f} | {manifest.own_bytes / 1e6:.2f} |" in row
    assert re.search(r"\| `tiny` \| (pass|warn) \|", row), "a busy machine may only warn of its throughput"
    assert "`sum` 55" in row
    assert row.endswith("counts/s |")
    assert "项检查中" in (root / "docs/tutorials/measured.zh-CN.md").read_text(encoding="utf-8")
    assert harness(root, "docs").returncode == 0
    assert (root / "docs/tutorials/measured.md").is_file(), "it is no tutorial's page, and stays"
