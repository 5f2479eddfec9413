"""The history's questions and answers."""

from __future__ import annotations

import getpass
import json
import time
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, and_, delete, insert, select
from sqlalchemy.exc import IntegrityError

from harness.errors import UserError
from harness.history.database import explained, open_engine, writing
from harness.history.schema import ACCEPTED, MEASUREMENTS, MODEL_SOURCE_LENGTH, RUNS
from harness.judge.verdict import Check, RunFacts, Verdict

# More earlier runs say little more, and hardware that aged long ago is no reference.
WINDOW = 50

# Databases limit how many values one statement may hold; SQLite before 3.32 to 999.
_IDS_PER_STATEMENT = 500


@dataclass(frozen=True)
class SeriesKey:
    """What makes two measurements comparable: the same work, weights, metric, unit, GPU model and count.

    ``variant``: the stack's, ``cpu-conda`` for a run without an image: other libraries of other builds.
    ``model_source``: as the measured step says: the site's model, random weights of its size, a tiny stand-in; empty
    where there is no model, and in runs that were recorded before this was kept.
    """

    tutorial: str
    variant: str
    preset: str
    step: str
    name: str
    unit: str
    device: str
    device_count: int
    model_source: str


@dataclass(frozen=True)
class Point:
    """One earlier measurement, in the unit of its series. ``ended_at``: seconds since the epoch."""

    key: SeriesKey
    run_id: str
    value: float
    samples: tuple[float, ...]
    overall: str
    ended_at: float
    site: str | None
    host: str | None
    image_sha256: str | None
    git_revision: str | None


@dataclass(frozen=True)
class Reference:
    """A value that somebody declared to be right. ``accepted_at``: seconds since the epoch."""

    key: SeriesKey
    run_id: str
    value: float
    accepted_at: float
    accepted_by: str
    why: str


def series_of(verdict: Verdict) -> tuple[SeriesKey, Check] | None:
    """The series a verdict's headline belongs to; None where it has no sound number or no device to attribute it to."""
    run, check = verdict.run, verdict.headline
    if check is None or check.value is None or check.unit is None or check.step is None:
        return None
    if run.variant is None or run.preset is None or run.device is None or run.device_count is None:
        return None
    key = SeriesKey(
        run.tutorial,
        _variant(run) or "",
        run.preset,
        check.step,
        check.name,
        check.unit,
        run.device,
        run.device_count,
        _model_source(run),
    )
    return key, check


@dataclass(frozen=True)
class History:
    """A history database. Any number of processes may use it at once."""

    engine: Engine

    @classmethod
    def open(cls, url: str) -> History:
        """Connect; makes or updates the schema.

        Raises:
            As :func:`harness.history.database.open_engine`.
        """
        return cls(open_engine(url))

    def record(self, verdicts: Sequence[Verdict]) -> None:
        """Keep verdicts; a run that was judged before is replaced by what is said now.

        Raises:
            HistoryError: the database failed; nothing was kept.
        """
        with explained(self.engine):
            try:
                self._record(verdicts)
            except IntegrityError:  # another process recorded the same run between our delete and insert
                self._record(verdicts)

    def _record(self, verdicts: Sequence[Verdict]) -> None:
        now, user = time.time(), getpass.getuser()
        last = {verdict.run.run_id: verdict for verdict in verdicts}  # of a run given twice the last counts
        runs, measurements = [], []
        for verdict in last.values():
            facts = verdict.run.model_dump()
            row = {column.name: facts.get(column.name) for column in RUNS.columns}
            kept = {"variant": _variant(verdict.run), "model_source": _model_source(verdict.run)}
            runs.append({**row, **kept, "overall": verdict.overall, "judged_at": now, "judged_by": user})
            found = series_of(verdict)
            if found is not None:
                measurements.append(_measurement(verdict, *found))
        ids = list(last)
        with writing(self.engine) as connection:
            for start in range(0, len(ids), _IDS_PER_STATEMENT):
                some = ids[start : start + _IDS_PER_STATEMENT]
                connection.execute(delete(MEASUREMENTS).where(MEASUREMENTS.c.run_id.in_(some)))
                connection.execute(delete(RUNS).where(RUNS.c.run_id.in_(some)))
            if runs:
                connection.execute(insert(RUNS), runs)
            if measurements:
                connection.execute(insert(MEASUREMENTS), measurements)

    def baseline(self, key: SeriesKey, *, before: float, window: int = WINDOW) -> list[Point]:
        """What a new measurement of that series is held against; see :meth:`baselines`."""
        return self.baselines(key, [before], window=window)[before]

    def baselines(
        self, key: SeriesKey, befores: Collection[float], *, window: int = WINDOW
    ) -> dict[float, list[Point]]:
        """What new measurements of that series are held against, oldest first, by their moment.

        Runs that failed do not count, nor measurements on shared GPUs. A reference that somebody accepted starts the
        series anew: what ended before its run is left out.

        Cost: three queries, however many moments.

        Args:
            befores: for each moment only runs that ended earlier, seconds since the epoch.
        """
        if not befores:
            return {}
        first, last = min(befores), max(befores)
        counted = and_(_is(key), RUNS.c.overall != "fail", MEASUREMENTS.c.shared.is_(False))
        points = self._points(and_(counted, RUNS.c.ended_at < first), window)
        if last > first:
            points += self._points(and_(counted, RUNS.c.ended_at >= first, RUNS.c.ended_at < last))
        ends = [point.ended_at for point in points]
        reference = self.reference(key)
        found = {}
        for before in befores:
            end = bisect_left(ends, before)
            earlier = points[max(0, end - window) : end]
            if reference is not None:
                own = (point.ended_at for point in earlier if point.run_id == reference.run_id)
                start = next(own, reference.accepted_at)
                earlier = [point for point in earlier if point.ended_at >= start]
            found[before] = earlier
        return found

    def select(self, where: ColumnElement[bool], limit: int = 100_000) -> list[Point]:
        """Measurements of runs that did not fail, oldest first; ``where`` speaks of RUNS and MEASUREMENTS."""
        return self._points(and_(where, RUNS.c.overall != "fail"), limit)

    def newest(self, tutorial: str | None = None, limit: int = 1000) -> list[Point]:
        """The newest measurements, failed runs too, oldest first."""
        return self._points(RUNS.c.tutorial == tutorial if tutorial else RUNS.c.run_id.is_not(None), limit)

    def accept(self, run_id: str, why: str, *, by: str | None = None) -> Reference:
        """Make a run's throughput the reference of its series.

        Raises:
            UserError: no such run, one that failed or has no number, or no reason given.
        """
        if not why.strip():
            raise UserError("a reference needs its reason", fix="add --why TEXT")
        points = self._points(RUNS.c.run_id == run_id, 1)
        if not points:
            raise UserError(
                f"the history has no throughput of run '{run_id}'", fix="harness check --run FOLDER records it"
            )
        point = points[0]
        if point.overall == "fail":
            raise UserError(f"run '{run_id}' failed", fix="accept one that passed, or mend what failed")
        reference = Reference(point.key, run_id, point.value, time.time(), by or getpass.getuser(), why.strip())
        columns = asdict(reference)
        with explained(self.engine), writing(self.engine) as connection:
            connection.execute(insert(ACCEPTED).values({**columns.pop("key"), **columns}))
        return reference

    def reference(self, key: SeriesKey) -> Reference | None:
        """The reference of a series, the last one accepted."""
        found = self.references(and_(*(ACCEPTED.c[name] == value for name, value in asdict(key).items())))
        return found[-1] if found else None

    def references(self, where: ColumnElement[bool] | None = None) -> list[Reference]:
        """Accepted references, oldest first."""
        query = select(ACCEPTED).order_by(ACCEPTED.c.id)
        with explained(self.engine), self.engine.connect() as connection:
            rows = connection.execute(query if where is None else query.where(where)).all()
        return [Reference(_key(row), row.run_id, row.value, row.accepted_at, row.accepted_by, row.why) for row in rows]

    def _points(self, where: ColumnElement[bool], limit: int | None = None) -> list[Point]:
        query = (
            select(RUNS, MEASUREMENTS)
            .join(MEASUREMENTS, MEASUREMENTS.c.run_id == RUNS.c.run_id)
            .where(where)
            .order_by(RUNS.c.ended_at.desc())
            .limit(limit)
        )
        with explained(self.engine), self.engine.connect() as connection:
            rows = connection.execute(query).all()
        return [_point(row) for row in reversed(rows)]


def _measurement(verdict: Verdict, key: SeriesKey, check: Check) -> dict[str, Any]:
    return {
        "run_id": verdict.run.run_id,
        "step": key.step,
        "name": key.name,
        "unit": key.unit,
        "value": check.value,
        "samples": json.dumps(list(check.samples)),
        "shared": verdict.run.gpu_shared,
    }


def _variant(run: RunFacts) -> str | None:
    return f"{run.variant}-conda" if run.variant and run.environment == "conda" else run.variant


def _model_source(run: RunFacts) -> str:
    return (run.model_source or "")[:MODEL_SOURCE_LENGTH]


def _is(key: SeriesKey) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = []
    for name, value in asdict(key).items():
        table = MEASUREMENTS if name in ("step", "name", "unit") else RUNS
        conditions.append(table.c[name] == value)
    return and_(*conditions)


def _key(row: Row[Any]) -> SeriesKey:
    return SeriesKey(**{field.name: getattr(row, field.name) for field in fields(SeriesKey)})


def _point(row: Row[Any]) -> Point:
    return Point(
        key=_key(row),
        run_id=row.run_id,
        value=row.value,
        samples=tuple(json.loads(row.samples)),
        overall=row.overall,
        ended_at=row.ended_at or row.judged_at,
        site=row.site,
        host=row.host,
        image_sha256=row.image_sha256,
        git_revision=row.git_revision,
    )
