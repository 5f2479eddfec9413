"""Opening a history: any SQL server that SQLAlchemy speaks to, brought to the newest schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from harness.errors import UserError
from harness.history.failure import HistoryError as HistoryError
from harness.history.schema import NEWEST_REVISION

# Another process may hold SQLite's lock for the length of a short transaction; a stuck one is an error.
LOCK_SECONDS = 30


def open_engine(url: str) -> Engine:
    """Connect and bring the schema up to date. Several processes may do so at once.

    One that is up to date already is only read, so that people may look at a history that they may not write.

    Raises:
        UserError: not a database URL, or its driver is not installed. HistoryError: it does not answer, or its schema
            is newer than this harness.
    """
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            parsed, connect_args={"timeout": LOCK_SECONDS} if sqlite else {}, pool_pre_ping=not sqlite
        )
    except ArgumentError as error:
        raise UserError(f"'{url}' is not a database URL", fix="write e.g. sqlite:///history.sqlite") from error
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise UserError(
            f"no driver for this database: {error}", where=hide_password(url), fix="pip install 'psycopg[binary]'"
        ) from error
    if sqlite:
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", _sqlite_begins)
    with _explained(url):
        with engine.connect() as connection:
            known = _revision(connection)
        if known != NEWEST_REVISION:
            # Loaded where it is needed: alembic takes as long to import as all else that a verdict costs.
            from harness.history.migration import migrate

            with writing(engine) as connection:
                migrate(connection, hide_password(url))
    return engine


def hide_password(url: str) -> str:
    """The URL as it may be shown and logged."""
    return make_url(url).render_as_string(hide_password=True)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that changes something: on SQLite it takes the write lock at once instead of failing half-way."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def explained(engine: Engine) -> Iterator[None]:
    """Any failure of the database inside becomes one line.

    Raises:
        HistoryError: it failed.
    """
    with _explained(engine.url.render_as_string(hide_password=True)):
        yield


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise HistoryError(
            f"the history database failed: {cause}",
            where=hide_password(url),
            fix="check that it is up and that you may write to it; HARNESS_HISTORY names another",
        ) from error


def _sqlite_connected(connection: Any, _: object) -> None:
    # The driver's own transaction handling commits before a CREATE TABLE; ours starts transactions itself.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")


def _sqlite_begins(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _revision(connection: Connection) -> str | None:
    """The schema's revision; None in a new database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
