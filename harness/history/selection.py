"""Which runs a person means: ``runs/<id>``, ``image:3f2a``, ``site:fics,date:2026-11-01..``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_

from harness.errors import UserError
from harness.history.schema import RUNS

FORMS = (
    "a run id or folder, or conditions joined by commas: run:ID image:SHA256 definition:SHA256 git:REVISION "
    "site:NAME host:NAME device:NAME date:2026-11-01 date:2026-11-01..2026-11-07 (either end may be left out)"
)


def selection(text: str) -> ColumnElement[bool]:
    """The condition that ``text`` states, on the table of runs. Dates are in this machine's time zone.

    Raises:
        UserError: it is none of :data:`FORMS`.
    """
    conditions: list[ColumnElement[bool]] = []
    for part in text.split(","):
        kind, colon, value = part.strip().partition(":")
        if not colon:
            kind, value = "run", kind.rstrip("/").rpartition("/")[2]
        maker = _KINDS.get(kind)
        if maker is None or not value:
            raise UserError(f"'{part}' does not say which runs", fix=f"give {FORMS}")
        conditions.append(maker(value))
    return and_(*conditions)


def _prefix(column: str) -> Callable[[str], ColumnElement[bool]]:
    return lambda value: RUNS.c[column].startswith(value, autoescape=True)


def _equal(column: str) -> Callable[[str], ColumnElement[bool]]:
    return lambda value: RUNS.c[column] == value


def _between(text: str) -> ColumnElement[bool]:
    first, dots, last = text.partition("..")
    if not dots:
        last = first
    conditions: list[ColumnElement[bool]] = [RUNS.c.ended_at.is_not(None)]
    if first:
        conditions.append(RUNS.c.ended_at >= _day(first).timestamp())
    if last:
        conditions.append(RUNS.c.ended_at < (_day(last) + timedelta(days=1)).timestamp())
    return and_(*conditions)


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        raise UserError(f"'{text}' is no date", fix="write e.g. 2026-11-01") from None


_KINDS: dict[str, Callable[[str], ColumnElement[bool]]] = {
    "run": _equal("run_id"),
    "image": _prefix("image_sha256"),
    "definition": _prefix("definition_sha256"),
    "git": _prefix("git_revision"),
    "site": _equal("site"),
    "host": _equal("host"),
    "device": lambda value: RUNS.c.device.contains(value, autoescape=True),
    "date": _between,
}
