"""Running a graph's tasks as batch jobs: each stack's, and after it, by the scheduler's own rule, its tutorials'."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import SchedulerError, SchedulerUnavailableError
from harness.factory.graph import Graph, State, Task
from harness.factory.local import tail_errors
from harness.scheduler import JobRequest, JobState, JobStatus, Scheduler, Waiter

PASSED_ON = ("PATH", "HARNESS_CACHE", "CATALOG", "HARNESS_SIGNING_KEY", "XDG_CONFIG_HOME")
"""What a build on another node must find as it is here."""


@dataclass(frozen=True)
class BatchRunner:
    """Submits tasks to Slurm.

    Attributes:
        root: the checkout, which the nodes see under the same path.
        logs: folder for the jobs' scripts and outputs.
        options: of sbatch, for each job, such as ``--partition=cpu``.
        on_change: called when a task's state changes.
        first_interval_s: of the waiter.
    """

    scheduler: Scheduler
    root: Path
    logs: Path
    on_change: Callable[[Task], None]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    first_interval_s: float = 1.0

    def run(self, graph: Graph) -> None:
        """Submit the whole graph and wait for it. Whatever interrupts it cancels the jobs that have not ended.

        Raises:
            SchedulerUnavailableError: the scheduler stopped answering.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        jobs: dict[str, Task] = {}
        try:
            self._submit(graph, jobs)
            self._wait(graph, jobs)
        except BaseException:
            left = [job for job, task in jobs.items() if graph.outcomes[task.name].state is State.RUNNING]
            if left:
                self.scheduler.cancel(left)
            raise

    def _submit(self, graph: Graph, jobs: dict[str, Task]) -> None:
        ids: dict[str, str] = {}
        for outcome in list(graph.outcomes.values()):
            task = outcome.task
            if outcome.state is not State.WAITING:
                continue  # what it needs was refused
            after = [ids[name] for name in task.needs if name in ids]
            # Without kill-on-invalid-dep a job whose stack failed would wait for ever.
            options = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
            log = self.logs / f"{task.name}.log"
            log.unlink(missing_ok=True)
            request = JobRequest(
                script=self._script(task),
                workdir=self.root,
                output=log,
                name=f"build-{task.name}",
                environment={name: self.environment[name] for name in PASSED_ON if name in self.environment},
                options=(*self.options, *options),
            )
            graph.start(task, log)
            try:
                ids[task.name] = self.scheduler.submit(request)
                jobs[ids[task.name]] = task
            except SchedulerUnavailableError:
                raise
            except SchedulerError as error:
                graph.finish(task, State.FAILED, reason=str(error))
            self.on_change(task)

    def _script(self, task: Task) -> Path:
        script = self.logs / f"{task.name}.sh"
        command = shlex.join([sys.executable, "-m", "harness", *task.arguments])
        script.write_text(f"#!/bin/bash\nexec {command}\n", encoding="utf-8")
        return script

    def _wait(self, graph: Graph, jobs: dict[str, Task]) -> None:
        def on_status(status: JobStatus) -> None:
            task = jobs[status.job_id]
            graph.outcomes[task.name].seconds = _seconds(status)
            if not status.state.is_active and status.state is not JobState.UNKNOWN:
                self._finish(graph, task, status)
            self.on_change(task)

        waiter = Waiter(self.scheduler, on_status=on_status, first_interval_s=self.first_interval_s)
        for result in waiter.wait(list(jobs)).values():
            task = jobs[result.job_id]
            if graph.outcomes[task.name].state is State.RUNNING:  # lost: nobody knows it any more
                graph.finish(task, State.FAILED, reason=str(result))
                self.on_change(task)

    def _finish(self, graph: Graph, task: Task, status: JobStatus) -> None:
        if graph.outcomes[task.name].state is not State.RUNNING:
            return
        log = self.logs / f"{task.name}.log"
        failed = [n for n in task.needs if n in graph.outcomes and graph.outcomes[n].state in (State.FAILED,)]
        if status.state is JobState.COMPLETED:
            graph.finish(task, State.BUILT, seconds=_seconds(status))
        elif failed or (status.state is JobState.CANCELLED and status.started is None and task.needs):
            graph.finish(task, State.NOT_TRIED, reason=f"it needs {', '.join(failed or task.needs)}")
        else:
            said = next(iter(reversed(list(tail_errors(log)))), "")
            words = f"job {status.job_id} {status.state.value}"
            reason = ": ".join(filter(None, [words, said or status.reason]))
            graph.finish(task, State.FAILED, seconds=_seconds(status), reason=reason)


def _seconds(status: JobStatus) -> float:
    if status.started is None:
        return 0.0
    return (status.ended or time.time()) - status.started
