"""Interactive sessions: jobs in which a server waits for a person. Where it is found, and waiting for it."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError
from harness.project import Project
from harness.run.following import PENDING_LIMIT_S, has_ended, job_of, scheduler_of
from harness.run.paths import RunPaths
from harness.run.records import RunRecord, newest_runs, read_record
from harness.scheduler.base import JobStatus
from harness.scheduler.wait import Outcome, Waiter
from harness.site import Site

CHECK_S = 0.2


class Session(BaseModel):
    """What ``session.json`` says; written by ``harness.runtime.session``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: str
    host: str
    node: str
    port: int
    page: str
    token: str
    started_at: float


@dataclass(frozen=True)
class Addresses:
    """How a person gets to a session.

    Attributes:
        tunnel: the line to type on one's own machine.
        url: what to open there then.
        direct: what to open on a machine inside the cluster.
    """

    tunnel: str
    url: str
    direct: str


def read_session(run: RunPaths) -> Session | None:
    """The session that answers; None where it does not yet, or any more.

    Raises:
        HarnessError: it is another user's, or damaged.
    """
    try:
        return Session.model_validate_json(run.session.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError:
        raise HarnessError("this session is another user's", where=str(run.session)) from None
    except ValidationError as error:
        raise HarnessError(f"damaged: {error.errors()[0]['msg']}", where=str(run.session)) from error


def addresses(session: Session, site: Site) -> Addresses:
    """The tunnel goes through the site's login node; where the site names none, through this machine."""
    login = f"{getpass.getuser()}@{site.interactive.login or socket.gethostname()}"
    path = f":{session.port}{session.page}?token={session.token}"
    return Addresses(
        tunnel=f"ssh -N -L {session.port}:{session.host}:{session.port} {login}",
        url=f"http://localhost{path}",
        direct=f"http://{session.host}{path}",
    )


def wait_for_session(
    project: Project,
    run: RunPaths,
    timeout_s: float | None = None,
    on_status: Callable[[JobStatus], None] | None = None,
) -> Session | None:
    """Block until the server answers; None where the job ended before it did.

    Raises:
        HarnessError: the run has no job, or waits still after ``timeout_s``. SchedulerUnavailableError: no answer.
    """
    facts = read_record(run).facts
    scheduler = scheduler_of(project, facts)
    job_id = job_of(scheduler, read_record(run))
    if job_id is None:
        raise HarnessError("this run has no job", where=str(run.folder), fix="submit it again")
    result = Waiter(scheduler, check_s=CHECK_S, on_status=on_status).wait(
        [job_id],
        done=lambda _: run.session.exists() or has_ended(run),
        pending_timeout_s=PENDING_LIMIT_S,
        timeout_s=timeout_s,
    )[job_id]
    session = read_session(run)
    if session is None and result.outcome in (Outcome.TIMEOUT, Outcome.PENDING_TIMEOUT):
        raise HarnessError(
            f"the session does not answer yet: {result}", where=run.run_id, fix="harness open --list, or harness cancel"
        )
    return session


def open_sessions(project: Project) -> Iterator[RunRecord]:
    """Sessions of this checkout that nobody cancelled and that have not said that they ended, newest first."""
    for record in newest_runs(project):
        if record.is_session and "cancelled_at" not in record.facts and not has_ended(record.paths):
            yield record
