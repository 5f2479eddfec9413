"""What the benchmarks of the harness alone share: a project whose one job prints two lines, and measured commands.

No image is started: what a start costs is measured elsewhere (docs/benchmarks/images.md), and here only what comes on
top of the jobs is of interest. The published image is a placeholder that the job names as the one it used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))  # the small project is the tests' one

from tiny_project import TUTORIAL, make_tiny_project  # noqa: E402

from harness.catalog.catalog import CURRENT, Catalog  # noqa: E402
from harness.catalog.manifest import BaseOrigin, Manifest  # noqa: E402
from harness.definition.tutorial_image import definition_key, tutorial_definition  # noqa: E402
from harness.project import Project, image_name  # noqa: E402
from harness.tutorial import load_tutorial  # noqa: E402

TOOLS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")

# What both tools run. A sanity regex and a performance value have something to find.
BODY = """\
#!/bin/bash
echo "answer: 42"
echo "rate: 123.4 items/s"
"""

# The rest of ours: the records that a harness judges by, written as jobs/lib/job.sh and harness.runtime write them.
JOB = """\
#!/bin/bash
#SBATCH --cpus-per-task=1
#SBATCH --mem=50M
#SBATCH --time=00:01:00
set -eu
run=runs/$RUN_ID started=$EPOCHREALTIME
said=$(bash body.sh)
[[ $said =~ rate:\\ ([0-9.]+) ]]
rate=${BASH_REMATCH[1]}
cat >"$run/job.json" <<END
{"tutorial": "xscow-2", "variant": "cpu", "preset": "$PRESET", "run_id": "$RUN_ID", "attempt": "0",
 "job_id": "$SLURM_JOB_ID", "node": "$SLURMD_NODENAME", "image_sha256": "@IMAGE@", "job_started_at": "$started"}
END
cat >"$run/.result.json" <<END
{"schema_version": 1, "run_id": "$RUN_ID", "attempt": "0", "tutorial": "xscow-2", "variant": "cpu", "preset": "$PRESET",
 "host": "$SLURMD_NODENAME", "job_id": "$SLURM_JOB_ID",
 "image": {"sha256": "@IMAGE@", "definition_sha256": "@DEFINITION@"},
 "steps": {"count": {"status": "completed", "started_at": $started, "ended_at": $EPOCHREALTIME,
  "device": {"kind": "cpu", "name": "a CPU", "count": 1}, "outputs": {"said": "${said//$'\\n'/\\\\n}"},
  "metrics": {"rate": {"value": $rate, "unit": "items/s", "samples": [$rate, $rate, $rate, $rate, $rate]}}}}}
END
mv "$run/.result.json" "$run/result.json"
echo 0 >"$run/.exit_code"
mv "$run/.exit_code" "$run/exit_code"
"""

_EXPECTED = """\
[[expectations]]
kind = "text"
step = "count"
name = "said"
pattern = "answer: 42"
[throughput]
step = "count"
metric = "rate"
unit = "items/s"
floors.cpu = { fail = 100, source = "what the job prints, less a fifth" }
floors.cuda = { fail = 100, source = "not run" }
"""


@dataclass(frozen=True)
class Cost:
    """What commands took: seconds of wall and CPU time, MB of resident memory, calls of Slurm's commands by name.

    CPU time is that of the command and all it started and waited for, Slurm's own commands included.
    """

    wall_s: float
    cpu_s: float
    memory_mb: float
    calls: Mapping[str, int]
    output: str

    def __add__(self, other: Cost) -> Cost:
        calls = {name: self.calls.get(name, 0) + other.calls.get(name, 0) for name in {**self.calls, **other.calls}}
        memory = max(self.memory_mb, other.memory_mb)
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, memory, calls, self.output + other.output)

    @property
    def commands(self) -> int:
        """How often Slurm was asked for anything."""
        return sum(self.calls.values())


class Meter:
    """Runs commands and says what they cost. Slurm's commands are counted by wrappers that come first on PATH."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._record, self._errors = folder / "calls", folder / "errors"
        tools = folder / "counted"
        tools.mkdir(parents=True)
        for name in TOOLS:
            if (real := shutil.which(name)) is not None:
                (tools / name).write_text(f'#!/bin/sh\necho {name} >>{self._record}\nexec {real} "$@"\n')
                (tools / name).chmod(0o755)
        self._environment = {**environment, "PATH": f"{tools}:{environment['PATH']}"}

    def run(self, command: Sequence[str | Path], folder: Path, *, may_fail: bool = False) -> Cost:
        """Run a command in a folder.

        Raises:
            SystemExit: it failed, with what it said.
        """
        self._record.write_text("")
        begun = time.perf_counter()
        words = [str(word) for word in command]
        with self._errors.open("w") as errors:
            process = subprocess.Popen(
                words, cwd=folder, env=self._environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0 and not may_fail:
            said = output[-2000:] + self._errors.read_text()[-2000:]
            raise SystemExit(f"{' '.join(words)[:200]}: exit {process.returncode}\n{said}")
        names = self._record.read_text().split()
        calls = {name: names.count(name) for name in TOOLS if name in names}
        return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, calls, output)


def harness_command() -> Path:
    """This checkout's `harness`."""
    return Path(sys.executable).parent / "harness"


def make_project(root: Path) -> Path:
    """A project with one tutorial whose job prints two lines, "published" and with its job script."""
    make_tiny_project(root)
    start = TUTORIAL.index("[[data]]")  # no data, no models, other expectations
    (root / "tutorials/xscow-2/tutorial.toml").write_text(TUTORIAL[:start] + _EXPECTED)
    project = Project(root)
    tutorial = load_tutorial(project, "2")
    name = image_name(tutorial.stem, "cpu")
    image, definition = "ab" * 32, definition_key(project, tutorial_definition(project, tutorial, "cpu"))
    manifest = Manifest(
        name=name,
        tutorial=tutorial.id,
        stack="tiny",
        variant="cpu",
        sha256=image,
        stack_image=None,
        whole_sha256=image,
        content_sha256=image,
        signed_by="nobody",
        bytes=0,
        own_bytes=0,
        definition_sha256=definition,
        base=BaseOrigin(reference="none", digest="none", origin="none"),
        compression="none",
        builder="a benchmark",
        built_at="2026-01-01T00:00:00+00:00",
        git_revision=None,
    )
    catalog = Catalog(project.catalog("catalog"))
    path = catalog.manifest_file(name, image)
    path.parent.mkdir(parents=True)
    path.write_text(manifest.model_dump_json())
    (path.parent / "image.sif").touch()
    (catalog.folder(name) / CURRENT).symlink_to(image)
    (root / "body.sh").write_text(BODY)
    script = project.job_file(tutorial.stem, "cpu")
    script.parent.mkdir(exist_ok=True)
    script.write_text(JOB.replace("@IMAGE@", image).replace("@DEFINITION@", definition))
    return root
