"""A project whose one job prints two lines, without an image: for what is about many runs, not about what they do.

The published image is a placeholder that the job names as the one it used.
"""

from __future__ import annotations

from pathlib import Path

from tiny_project import TUTORIAL, make_tiny_project

from harness.catalog.catalog import CURRENT, Catalog
from harness.catalog.manifest import BaseOrigin, Manifest
from harness.definition.tutorial_image import definition_key, tutorial_definition
from harness.project import Project, image_name
from harness.tutorial import load_tutorial

# What the job does, and what the benchmarks give to other tools too: something for a sanity regex and a performance
# value to find.
BODY = """\
#!/bin/bash
echo "answer: 42"
echo "rate: 123.4 items/s"
"""

# The rest: the records that a harness judges by, written as jobs/lib/job.sh and harness.runtime write them.
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


def make_trivial_project(root: Path) -> Path:
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
