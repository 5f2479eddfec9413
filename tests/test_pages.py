"""``harness docs``: a page per tutorial and language, that says what its tutorial.toml says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tiny_project import REPOSITORY, harness, make_tiny_project

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
        assert (tutorial.title.en if language == "en" else tutorial.title.zh) in page


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
