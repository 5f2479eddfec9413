"""Every tutorial.toml of the checkout, and what a broken one is told."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SpecError, UserError
from harness.project import PRESETS, Project
from harness.tutorial import NumberExpectation, bare_number, load_tutorial, resolve_id, tutorial_ids

ROOT = Path(__file__).parent.parent
PROJECT = Project(ROOT)
IDS = tutorial_ids(PROJECT)


def test_there_are_tutorials() -> None:
    assert {"mnist", "xscow-1", "xscow-2"} <= set(IDS)


@pytest.mark.parametrize("tutorial_id", IDS)
def test_the_committed_files_load(tutorial_id: str) -> None:
    tutorial = load_tutorial(PROJECT, tutorial_id)
    assert set(tutorial.presets) == set(PRESETS)
    for step in tutorial.steps:
        assert tutorial.parameters(step.name, "full") == step.parameters, "full is what the original says"
    for preset in PRESETS:
        assert tutorial.expected(preset)
    for data in tutorial.data:
        assert data.fallback is not None or data.files


@pytest.mark.parametrize("tutorial_id", IDS)
def test_every_data_source_is_judged_in_every_preset(tutorial_id: str) -> None:
    """A run that fell back must not escape judgement because no expectation names its data."""
    tutorial = load_tutorial(PROJECT, tutorial_id)
    conditional = [e for e in tutorial.expectations if isinstance(e, NumberExpectation) and "data_source" in e.when]
    sources = {e.when["data_source"] for e in conditional}
    for source in sources:
        for preset in PRESETS:
            assert any(e.when["data_source"] == source and preset in e.presets for e in conditional), (source, preset)


def program_defaults(path: Path) -> dict[str, Any]:
    """The ``arguments.parameter(name, default, ...)`` calls of a program."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return {
        ast.literal_eval(call.args[0]): ast.literal_eval(call.args[1])
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "parameter"
    }


@pytest.mark.parametrize("tutorial_id", IDS)
def test_the_programs_defaults_are_the_files_parameters(tutorial_id: str) -> None:
    tutorial = load_tutorial(PROJECT, tutorial_id)
    for step in tutorial.steps:
        defaults = program_defaults(PROJECT.tutorial_file(tutorial_id).parent / step.program)
        if defaults:  # a program may be somebody else's
            assert defaults == step.parameters


@pytest.fixture
def copy(tmp_path: Path) -> Project:
    """A project that holds one tutorial, xscow-2."""
    (tmp_path / "containers").mkdir()
    shutil.copytree(ROOT / "tutorials" / "xscow-2", tmp_path / "tutorials" / "xscow-2")
    return Project(tmp_path)


BROKEN = [
    ("epochs = 20", "epochs = = 20", "not valid TOML", "line"),
    ("epochs = 20", "epochs = [1]", "parameters.epochs", "not [1]"),
    ('stack = "pytorch"', 'stack = "pytorch"\ncolour = "red"', "unknown key 'colour'", "valid keys here: data, expect"),
    ('stack = "pytorch"', "", "key 'stack' is missing", ""),
    ("min_bytes = 5000", "min_bytes = 0", "min_bytes", "greater than or equal to 1"),
    ("[presets.smoke.steps.train]", "[presets.smoke.steps.trian]", "names step 'trian'", "valid steps: train"),
    ("max_images = 1500", "max_image = 1500", "sets 'max_image'", "valid: batch_size, digits_passes"),
    ("[presets.smoke.description]", "[presets.smok.description]", "presets.smok", "'smoke', 'bench' or 'full'"),
    ('kind = "curve"', 'kind = "curv"', "curv", "'exact', 'number', 'text', 'curve', 'file'"),
    ("min = 0.97\nmax = 1.0", "", "expectation 'test_accuracy'", "needs min, max or equals"),
    ('kind = "curve"', 'kind = "changed"\nother_step = "eval"', "", "direction"),
    (
        'kind = "curve"',
        'kind = "changed"\nstep = "train"\nname = "reply"\nother_step = "eval"\n[[expectations]]\nkind = "curve"',
        "expectation 'reply' names step 'eval'",
        "valid steps: train",
    ),
    ("min = 0.97", "min = nan", "expectation 'test_accuracy'", "not finite"),
    ("[throughput.floors.cuda]", "[throughput.floors.rocm]", "rocm", "'cpu' or 'cuda'"),
    ("fail = 200", "fail = 0", "floors.cpu.fail", "greater than 0"),
    ("warn = 2000", "warn = 10", "floors.cpu", "warn must not be below fail"),
    ("flop_source = ", "unused = ", "unused", ""),
    ("cpus = 2", "cpus = 0", "resources.cpu.cpus", "greater than or equal to 1"),
    ('id = "xscow-2"', 'id = "xscow-3"', "id is 'xscow-3' but the folder is 'xscow-2'", ""),
    ('id = "xscow-2"', 'id = "two"', "key 'id'", "pattern"),
    ('program = "train.py"', 'program = "tain.py"', "program 'tain.py'", "not there"),
]


@pytest.mark.parametrize(("old", "new", "what", "help_text"), BROKEN, ids=[f"{b[2]}-{b[1]}"[:60] for b in BROKEN])
def test_a_broken_file_is_one_line_with_file_and_key(
    copy: Project, old: str, new: str, what: str, help_text: str
) -> None:
    path = copy.tutorial_file("xscow-2")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_tutorial(copy, "2")
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert what in message
    assert help_text in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_text(copy: Project) -> None:
    path = copy.tutorial_file("xscow-2")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_tutorial(copy, "2")


@pytest.mark.parametrize("name", ["2", "tutorial2", "xscow-2", " XSCOW-2 "])
def test_the_names_people_type(name: str) -> None:
    assert resolve_id(PROJECT, name) == "xscow-2"


@pytest.mark.parametrize(("name", "nearest"), [("mnits", "mnist"), ("xscow2", "xscow-2"), ("tutorial_1", "xscow-1")])
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"unknown tutorial '{name}'; nearest: .*{nearest}") as caught:
        load_tutorial(PROJECT, name)
    assert "\n" not in str(caught.value)


def test_bare_numbers_mean_the_first_series_where_it_has_one() -> None:
    numbers = {name: bare_number(name) for name in ("xscow-6", "scow-6", "scow-0", "scow-14", "mnist")}
    assert numbers == {"xscow-6": 6, "scow-6": None, "scow-0": 0, "scow-14": 14, "mnist": None}
