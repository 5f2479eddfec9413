"""The pytest plugin of the qualification suite: ``pytest --pyargs harness.suite --tutorial 2 --variant cpu``.

Registered as a pytest11 entry point, so pytest loads it in every session of every project that has the harness
installed. It therefore imports nothing of the harness here; without its options it only compares a path per file.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.suite.session import SuiteSession

SUITE_FILE = Path(__file__).parent / "suite" / "qualification.py"
VARIANTS = ("cpu", "cuda")
PRESETS = ("smoke", "bench", "full")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "tutorial qualification (pytest --pyargs harness.suite)")
    group.addoption(
        "--tutorial",
        action="append",
        default=[],
        dest="harness_tutorials",
        metavar="IDS",
        help="tutorials to qualify: ids, numbers or stems, separated by commas; may be repeated",
    )
    group.addoption(
        "--variant", choices=VARIANTS, default=None, dest="harness_variant", help="variant of the image (default: cuda)"
    )
    group.addoption(
        "--preset", choices=PRESETS, default=None, dest="harness_preset", help="size of the run (default: smoke)"
    )
    group.addoption(
        "--site", default="default", dest="harness_site", metavar="NAME", help="sites/NAME.toml (default: default)"
    )
    group.addoption(
        "--submit-only", action="store_true", dest="harness_submit_only", help="submit the runs and judge nothing"
    )
    group.addoption(
        "--collect",
        action="store_true",
        dest="harness_collect",
        help="judge the latest runs that were submitted before; submit nothing",
    )
    group.addoption(
        "--run",
        action="append",
        default=[],
        dest="harness_runs",
        metavar="FOLDER",
        help="judge this run folder; submit nothing; may be repeated",
    )
    group.addoption(
        "--rerun",
        type=int,
        default=None,
        dest="harness_reruns",
        metavar="N",
        help="run again at most N times what is too near its throughput's gate to decide (default: tutorial and site)",
    )
    group.addoption(
        "--report",
        default=None,
        dest="harness_report",
        metavar="DIR",
        help="write index.html, report.json and junit.xml of the judged runs there",
    )


def pytest_configure(config: pytest.Config) -> None:
    options = config.option
    if options.harness_tutorials or options.harness_runs:
        from harness.suite.session import start

        start(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != SUITE_FILE.name or file_path != SUITE_FILE:
        return None
    from harness.suite.qualification import QualificationFile

    collector: pytest.Collector = QualificationFile.from_parent(parent, path=file_path)
    return collector


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    suite = _suite(session.config)
    if suite is None or session.config.option.collectonly or session.testsfailed:
        return
    suite.began = True
    if not suite.is_controller:
        suite.submit_selected(session)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist asks what a worker it is about to start should know."""
    suite = _suite(node.config)
    if suite is not None and suite.board is not None:
        node.workerinput["harness_board"] = str(suite.board.folder)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # Outside the test itself, so that a time limit on tests does not count the time a job waits in the queue.
    suite = _suite(item.config)
    if suite is not None:
        suite.await_run_of(item)
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    suite = _suite(config)
    if suite is not None:
        suite.interrupted = suite.began and exitstatus == pytest.ExitCode.INTERRUPTED
        suite.print_summary(terminalreporter)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    suite = _suite(session.config)
    if suite is None or suite.is_worker or session.config.option.collectonly:
        return
    suite.take_up()
    suite.record()
    suite.write_report()


def pytest_unconfigure(config: pytest.Config) -> None:
    suite = _suite(config)
    if suite is not None:
        suite.end()


def _suite(config: pytest.Config) -> SuiteSession | None:
    """The suite's session, or None where it is not being run."""
    suite: SuiteSession | None = getattr(config, "_harness_suite", None)
    return suite
