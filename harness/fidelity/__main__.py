"""``python -m harness.fidelity CORPUS [CASE...]``: run a corpus and write its table."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path

from harness.errors import HarnessError, MissingToolError
from harness.fidelity.corpus import CaseResult, add_bases, case_names, render_table, run_case, spython_converter
from harness.fidelity.verify import open_lab, our_converter


def main() -> int:
    """Exit code 1: a definition of ours is wrong or was not built, or a case has no reference."""
    parser = argparse.ArgumentParser(prog="python -m harness.fidelity", description="Run a corpus of Dockerfiles.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("cases", nargs="*", help="names; none: all")
    parser.add_argument("--table", type=Path, help="write the table here")
    parser.add_argument("--ours-only", action="store_true", help="leave spython out")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the engines end with us
    results: list[CaseResult] = []
    missing = 0
    with open_lab(Path(os.environ.get("HARNESS_CACHE") or "cache")) as lab:
        add_bases(lab, options.corpus)
        converters = {"ours": our_converter(lab)}
        if not options.ours_only:
            with contextlib.suppress(MissingToolError):
                converters["spython"] = spython_converter()
        for name in options.cases or case_names(options.corpus):
            try:
                result = run_case(lab, options.corpus / name, converters)
            except HarnessError as error:
                missing += 1
                sys.stdout.write(f"{name}: no reference: {error}\n")
                continue
            results.append(result)
            for converter, verdict in result.verdicts.items():
                details = "".join(f"\n    {line}" for line in verdict.details[:6]) if converter == "ours" else ""
                sys.stdout.write(f"{name} {converter}: {verdict.outcome} ({result.seconds:.1f} s){details}\n")
            sys.stdout.flush()
            if options.table:
                options.table.write_text(render_table(results), encoding="utf-8")
    return int(missing > 0 or any(r.verdicts["ours"].outcome in ("different", "failed") for r in results))


if __name__ == "__main__":
    sys.exit(main())
