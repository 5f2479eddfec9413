"""``python -m harness.fidelity CORPUS [CASE...]``: run a corpus and write its table."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.errors import HarnessError, MissingToolError
from harness.fidelity.corpus import (
    CaseResult,
    add_bases,
    case_names,
    run_case,
    served,
    spython_converter,
    verdict_store,
)
from harness.fidelity.table import render_table
from harness.fidelity.verify import open_lab, our_converter


def in_order(
    judged: Callable[[str], CaseResult | HarnessError], names: Sequence[str], jobs: int
) -> Generator[CaseResult | HarnessError]:
    """Results in the order of ``names``; whoever stops listening waits for those that have begun, not for all."""
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        yield from pool.map(judged, names)
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> int:
    """Exit code 1: a definition of ours is wrong or was not built, or a case has no reference."""
    parser = argparse.ArgumentParser(prog="python -m harness.fidelity", description="Run a corpus of Dockerfiles.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("cases", nargs="*", help="names; none: all")
    parser.add_argument("--table", type=Path, help="write the table here")
    parser.add_argument("--ours-only", action="store_true", help="leave spython out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many cases at a time")
    parser.add_argument("--fresh", action="store_true", help="build all, also what is known from an equal build")
    options = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the engines end with us
    cache = Path(os.environ.get("HARNESS_CACHE") or "cache")
    results: list[CaseResult] = []
    missing = 0
    with open_lab(cache) as lab, served(options.corpus / "files") as files:
        add_bases(lab, options.corpus)
        store = None if options.fresh else verdict_store(lab, options.corpus, cache / "verdicts")
        converters, versions = {"ours": our_converter(lab)}, lab.versions()
        if not options.ours_only:
            with contextlib.suppress(MissingToolError):
                converters["spython"], versions["spython"] = spython_converter()

        def judged(name: str) -> CaseResult | HarnessError:
            try:
                return run_case(lab, options.corpus / name, converters, store=store, files=files)
            except HarnessError as error:
                return error

        names = options.cases or case_names(options.corpus)
        with contextlib.closing(in_order(judged, names, options.jobs)) as found:
            for name, result in zip(names, found, strict=True):
                if isinstance(result, HarnessError):
                    missing += 1
                    sys.stdout.write(f"{name}: no reference: {result}\n")
                    continue
                results.append(result)
                for converter, verdict in result.verdicts.items():
                    details = "".join(f"\n    {line}" for line in verdict.details[:6]) if converter == "ours" else ""
                    sys.stdout.write(f"{name} {converter}: {verdict.outcome} ({result.seconds:.1f} s){details}\n")
                sys.stdout.flush()
    if options.table and not missing:
        table = render_table(results, versions, "make fidelity", time.strftime("%Y-%m-%d", time.gmtime()))
        options.table.write_text(table, encoding="utf-8")
    return int(missing > 0 or any(r.verdicts["ours"].outcome in ("different", "failed") for r in results))


if __name__ == "__main__":
    sys.exit(main())
