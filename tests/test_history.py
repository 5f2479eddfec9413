"""The history: what is kept, what is compared with what, and what happens where the database does not answer."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from judge_support import EXPECTED, gpu_result, make_run, small_project
from postgres_fixture import postgres_server, server_programs
from sqlalchemy import inspect, text
from tiny_project import harness, make_tiny_project

from harness.errors import UserError
from harness.history import migration
from harness.history.database import HistoryError, open_engine, writing
from harness.history.effect import effect
from harness.history.judging import judge_all
from harness.history.recording import record_verdicts
from harness.history.schema import METADATA, NEWEST_REVISION
from harness.history.selection import selection
from harness.history.store import History, SeriesKey, series_of
from harness.judge.verdict import Check, RunFacts, Verdict
from harness.run.evidence import gather_evidence
from harness.tutorial import load_tutorial

NO_POSTGRES = "no PostgreSQL server programs: scripts/install-packages test; `make test` installs them"
DAY = 86_400.0
NOON = time.mktime((2026, 11, 1, 12, 0, 0, 0, 0, -1))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if server_programs() is None:
        pytest.skip(NO_POSTGRES)
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/history.sqlite"
    address: str = request.getfixturevalue("postgres_url")
    engine = open_engine(address)
    with writing(engine) as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())
    engine.dispose()
    return address


def verdict(number: int, value: float, **facts: Any) -> Verdict:
    """A verdict of run ``number``, which ended at noon of day ``number``."""
    status = facts.pop("status", "pass")
    run = {
        "run_id": f"run-{number}",
        "tutorial": "xscow-2",
        "variant": "cuda",
        "preset": "bench",
        "site": "default",
        "device": "NVIDIA H200",
        "device_count": 1,
        "image_sha256": "ab" * 32,
        "ended_at": NOON + number * DAY,
        **facts,
    }
    check = Check(
        group="throughput",
        step="train",
        name="rate",
        status=status,
        message="measured",
        value=value,
        unit="images/s",
        samples=(value, value),
    )
    return Verdict(run=RunFacts(**run), checks=(check,))


def key() -> SeriesKey:
    found = series_of(verdict(0, 1))
    assert found is not None
    return found[0]


def test_a_baseline_holds_like_against_like_and_no_failures(url: str) -> None:
    history = History.open(url)
    history.record([verdict(number, 1000 + number) for number in range(6)])
    others = [
        verdict(10, 1, status="fail"),
        verdict(11, 1, device="NVIDIA A100"),
        verdict(12, 1, device_count=2),
        verdict(13, 1, preset="full"),
        verdict(14, 1, gpu_shared=True),
        verdict(15, 1, model_source="random"),
        verdict(16, 1, model_source="tiny-random"),
    ]
    history.record(others)
    values = [point.value for point in history.baseline(key(), before=NOON + 100 * DAY)]
    assert values == [1000, 1001, 1002, 1003, 1004, 1005]
    assert [point.value for point in history.baseline(key(), before=NOON + 2 * DAY)] == [1000, 1001]
    assert history.baseline(key(), before=NOON + 100 * DAY, window=2)[0].value == 1004


def test_an_accepted_run_with_random_weights_says_nothing_of_the_real_model(url: str) -> None:
    history = History.open(url)
    sources = ("random", "site", "tiny-random")
    for first, source in enumerate(sources):
        history.record([verdict(10 * number + first, 1000 * first + number, model_source=source) for number in (1, 2)])
    reference = history.accept("run-20", "measured without the model", by="admin")
    assert reference.key.model_source == "random"
    found = {}
    for source in sources:
        series = series_of(verdict(0, 1, model_source=source))
        assert series is not None
        found[source] = [point.value for point in history.baseline(series[0], before=NOON + 99 * DAY)]
        assert history.reference(series[0]) == (reference if source == "random" else None)
    assert found == {"random": [2], "site": [1001, 1002], "tiny-random": [2001, 2002]}
    endless = verdict(40, 1, model_source="x" * 1000)  # what a program says is cut, not refused by the server
    history.record([endless])
    assert history.newest()[-1].key == (series_of(endless) or [None])[0]


def test_a_run_judged_again_is_replaced_not_counted_twice(url: str) -> None:
    history = History.open(url)
    history.record([verdict(1, 1000)])
    history.record([verdict(1, 990)])
    assert [point.value for point in history.baseline(key(), before=NOON + 9 * DAY)] == [990]


def test_an_accepted_reference_starts_the_series_anew(url: str) -> None:
    history = History.open(url)
    history.record([verdict(number, 1000) for number in range(5)] + [verdict(5, 800), verdict(6, 810)])
    reference = history.accept("run-5", "new power limit", by="admin")
    assert (reference.value, reference.accepted_by, reference.why) == (800, "admin", "new power limit")
    assert history.reference(key()) == reference
    assert [point.value for point in history.baseline(key(), before=NOON + 9 * DAY)] == [800, 810]
    with pytest.raises(UserError, match="needs its reason"):
        history.accept("run-6", " ")
    with pytest.raises(UserError, match="no throughput of run 'run-99'"):
        history.accept("run-99", "why not")
    history.record([verdict(7, 1, status="fail")])
    with pytest.raises(UserError, match="failed"):
        history.accept("run-7", "why not")


def test_migrations_make_exactly_the_tables_that_the_code_uses(url: str) -> None:
    engine = open_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_what_was_recorded_before_the_models_source_was_kept_stays_readable(url: str) -> None:
    """A history of the first schema, with a reference: brought up to date when it is opened, nothing lost."""
    history = History.open(url)
    history.record([verdict(number, 1000 + number) for number in range(4)])
    old = history.accept("run-2", "before", by="admin")
    config = Config()
    config.set_main_option("script_location", str(Path(migration.__file__).parent / "migrations"))
    with writing(history.engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    with history.engine.connect() as connection:
        tables = [inspect(connection).get_columns(table) for table in ("runs", "accepted")]
    columns = {column["name"] for table in tables for column in table}
    assert "model_source" not in columns and {"run_id", "why"} <= columns
    history.engine.dispose()

    again = History.open(url)
    assert [point.value for point in again.newest()] == [1000, 1001, 1002, 1003]
    assert again.reference(key()) == old
    again.record([verdict(9, 5000, model_source="site")])
    assert [point.value for point in again.baseline(key(), before=NOON + 99 * DAY)] == [1002, 1003]


def test_a_schema_from_the_future_is_refused(url: str) -> None:
    engine = open_engine(url)
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(HistoryError, match="schema is version 9999"):
            open_engine(url)
    finally:
        with writing(engine) as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{NEWEST_REVISION}'"))


RECORDER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_history import verdict
from harness.history.store import History
history = History.open(sys.argv[2])
for number in range(20):
    history.record([verdict(number, 1000 + number)])
"""


def test_many_processes_may_open_a_new_history_and_record_the_same_runs(url: str) -> None:
    words = [sys.executable, "-c", RECORDER, str(Path(__file__).parent), url]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], errors
    assert len(History.open(url).baseline(key(), before=NOON + 99 * DAY)) == 20


def test_an_effect_finds_what_is_there_and_not_what_is_not() -> None:
    """1,000 simulated comparisons of 7 runs with 7, 2 % spread: the interval keeps its promise."""
    noise = random.Random(7)

    def group(level: float) -> list[float]:
        return [level * (1 + noise.gauss(0, 0.02)) for _ in range(7)]

    unchanged = [effect(group(100), group(100)) for _ in range(1000)]
    assert sum(found.is_clear for found in unchanged) <= 60  # 5 % promised
    slower = [effect(group(100), group(94)) for _ in range(1000)]
    assert sum(found.is_clear and found.ratio < 1 for found in slower) >= 950
    covered = sum(found.low <= 0.94 <= found.high for found in slower if found.low and found.high)
    assert covered >= 940


def test_an_effect_of_few_runs_says_how_little_it_knows() -> None:
    assert effect([100], [90]).confidence is None
    small = effect([100, 101, 99], [90, 91, 89])
    assert small.confidence == pytest.approx(0.9)
    assert small.is_clear
    with pytest.raises(UserError, match="positive"):
        effect([0.0], [1.0])
    with pytest.raises(UserError, match="empty"):
        effect([], [1.0])


def test_selections_that_say_nothing_are_refused() -> None:
    for wrong in ("colour:red", "image:", "date:yesterday"):
        with pytest.raises(UserError):
            selection(wrong)


# --- the commands


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A project with ten judged runs: five at 1000, five, of a newer image, at 900; and one that failed."""
    root = make_tiny_project(tmp_path / "project")
    for number in range(10):
        level, image = (1000, "ab" * 32) if number < 5 else (900, "cd" * 32)
        save(root, verdict(number, level + number % 5, image_sha256=image))
    save(root, verdict(20, 1.0, status="fail"))
    return root


def save(root: Path, judged: Verdict) -> None:
    folder = root / "runs" / judged.run.run_id
    folder.mkdir()
    (folder / "ledger.json").write_text(json.dumps({"tutorial": judged.run.tutorial, "submitted_at": 1}))
    (folder / "verdict.json").write_text(judged.to_json())


def test_the_history_is_collected_from_the_run_folders_and_shown(measured: Path) -> None:
    empty = harness(measured, "history")
    assert empty.returncode == 2
    assert "history is empty" in empty.stderr
    shown = harness(measured, "history", "--collect")
    assert shown.returncode == 0, shown.stderr
    assert "recorded 11 verdicts" in shown.stdout
    assert "10 (+1 failed)" in shown.stdout
    assert "1 x NVIDIA H200" in shown.stdout


def test_the_history_has_a_line_for_each_source_of_the_model(measured: Path) -> None:
    for number, source in ((30, "random"), (31, "site"), (32, "site")):
        save(measured, verdict(number, 10.0 * number, model_source=source))
    shown = harness(measured, "history", "--collect")
    rows = [line.split() for line in shown.stdout.splitlines() if line.startswith("xscow-2.")]
    assert [(row[1], row[6]) for row in rows] == [("-", "10"), ("random", "1"), ("site", "2")], shown.stdout
    done = harness(measured, "compare", "run-30", "run-31")
    assert done.returncode == 2
    assert "source of the model" in done.stderr
    assert harness(measured, "accept", "run-30", "--why", "no model here").stdout.count("random") == 1


def test_a_run_is_held_against_runs_with_the_same_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the result that the program wrote to the verdict: five runs of the real model, then two that are slower."""
    monkeypatch.setenv("HARNESS_HISTORY", f"sqlite:///{tmp_path}/history.sqlite")
    project = small_project(tmp_path / "project")
    tutorial = load_tutorial(project, "2")
    said = {}
    sources = {**dict.fromkeys(map(str, range(6)), "site"), "slow": "site", "random": "random"}
    for number, (name, source) in enumerate(sources.items()):
        data = gpu_result()
        rate = 41_700.0 if source == "site" and name != "slow" else 20_000.0
        step = data["steps"]["train"]
        step["metrics"]["train_throughput"] = {"value": rate, "unit": "images/s", "samples": [rate] * 6}
        step["outputs"]["model_source"] = source
        step["started_at"], step["ended_at"] = NOON + number, NOON + number + 0.5
        data["run_id"] = name
        evidence = gather_evidence(make_run(tmp_path / name, data))
        (judged,), problems = judge_all(project, [(evidence, tutorial, EXPECTED)])
        assert problems == []
        assert record_verdicts(project, [judged]) == []
        check = judged.check("throughput", "train", "train_throughput.history")
        assert check is not None
        said[name] = (judged.run.model_source, check.status, check.message)
    assert said["slow"][:2] == ("site", "warn"), said
    assert said["random"][0] == "random" and "0 earlier runs" in said["random"][2], said


def test_compare_shows_the_effect_its_confidence_and_fails_where_asked(measured: Path) -> None:
    harness(measured, "history", "--collect")
    done = harness(measured, "compare", "image:abab", "image:cdcd")
    assert done.returncode == 0, done.stderr
    assert "B is 10.0 % slower" in done.stdout
    assert "(97%)" in done.stdout
    assert harness(measured, "compare", "image:abab", "image:cdcd", "--fail-below", "0.95").returncode == 1
    assert harness(measured, "compare", "image:abab", "image:cdcd", "--fail-below", "0.85").returncode == 0
    dates = harness(measured, "compare", "date:..2026-11-03", "date:2026-11-04..2026-11-05")
    assert "no difference shown" in dates.stdout
    single = harness(measured, "compare", "runs/run-1", "run-7")
    assert "one run each: no confidence" in single.stdout
    nothing = harness(measured, "compare", "image:abab", "image:ef")
    assert nothing.returncode == 2
    assert "no measured run is 'image:ef'" in nothing.stderr


def test_accept_needs_a_reason_and_is_shown_with_who_and_why(measured: Path) -> None:
    harness(measured, "history", "--collect")
    assert harness(measured, "accept", "runs/run-7").returncode == 2
    done = harness(measured, "accept", "runs/run-7", "--why", "driver 580")
    assert done.returncode == 0, done.stderr
    assert "driver 580" in harness(measured, "history").stdout


def test_a_database_that_does_not_answer_is_one_line_without_its_password(measured: Path) -> None:
    environment = {"HARNESS_HISTORY": "postgresql+psycopg://me:secret@127.0.0.1:9/db"}
    done = harness(measured, "history", env=environment)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "secret" not in done.stderr
    wrong = harness(measured, "history", env={"HARNESS_HISTORY": "nonsense"})
    assert wrong.returncode == 2
    assert "not a database URL" in wrong.stderr


def test_the_newest_revision_is_the_last_migration(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/new.sqlite")
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == NEWEST_REVISION


def test_many_moments_are_answered_as_each_alone(url: str) -> None:
    history = History.open(url)
    history.record([verdict(number, 1000 + number) for number in range(0, 40, 2)])
    moments = [NOON + number * DAY + offset for number in (0, 1, 7, 30, 99) for offset in (-1.0, 0.0, 1.0)]
    for window in (1, 5, 50):
        alone = {moment: history.baseline(key(), before=moment, window=window) for moment in moments}
        assert history.baselines(key(), moments, window=window) == alone
    history.accept("run-8", "a new driver", by="admin")
    assert history.baselines(key(), moments) == {one: history.baseline(key(), before=one) for one in moments}
    assert history.baselines(key(), []) == {}


def test_a_history_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "of-somebody-else"
    folder.mkdir()
    history = History.open(f"sqlite:///{folder}/history.sqlite")
    history.record([verdict(1, 1000)])
    history.engine.dispose()
    # Root may write whatever the permissions say: the database itself is told.
    reader = History.open(f"sqlite:///file:{folder}/history.sqlite?mode=ro&uri=true")
    assert len(reader.baseline(key(), before=NOON + 9 * DAY)) == 1
    with pytest.raises(HistoryError, match="readonly"):
        reader.record([verdict(2, 1000)])
