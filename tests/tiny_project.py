"""A project with one tutorial on a stack of a few megabytes: real images in seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.catalog.catalog import Catalog

REPOSITORY = Path(__file__).parent.parent
HARNESS = Path(sys.executable).parent / "harness"

DOCKERFILE = """\
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
FROM ${BASE_IMAGE}
ENV GREETING="good day" PATH=/opt/stack/bin:$PATH
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends python3 >/dev/null \\
 && rm -rf /var/lib/apt/lists/* && ln -s python3 /usr/bin/python
COPY requirements.lock /opt/stack/requirements.lock
"""

STACK = """\
name = "tiny"
[title]
en = "A few megabytes"
zh = "几兆字节"
[variants.cpu]
dockerfile = "Dockerfile.cpu"
requirements = "requirements.in"
lock = "requirements.lock"
python = "3.11"
test = ["test -f /opt/stack/requirements.lock"]
[variants.cuda]
dockerfile = "Dockerfile.cpu"
requirements = "requirements.in"
lock = "requirements.lock"
python = "3.11"
test = ["test -f /opt/stack/requirements.lock"]
"""

TUTORIAL = """\
id = "xscow-2"
stack = "tiny"
[title]
en = "Counting"
zh = "计数"
[summary]
en = "Counts."
zh = "数数。"
[[steps]]
name = "count"
program = "count.py"
parameters = { to = 1000 }
[presets.smoke]
description = { en = "short", zh = "短" }
steps.count = { to = 10 }
[resources.cpu]
cpus = 1
memory_gb = 1
minutes = 2
[resources.cuda]
gpus_per_node = 1
cpus = 1
memory_gb = 1
minutes = 2
[[data]]
name = "numbers"
folders = ["numbers", "other/numbers"]
files = ["a.txt", "b.txt"]
source = "anywhere"
fallback = { en = "counting", zh = "数数" }
[[models]]
name = "tiny/counter"
folders = ["counter"]
files = ["config.json"]
source = "anywhere"
fallback = { en = "fingers", zh = "手指" }
fallback_presets = ["smoke", "full"]
[[expectations]]
kind = "number"
step = "count"
name = "sum"
min = 1
[throughput]
step = "count"
metric = "counts"
unit = "counts/s"
floors.cpu = { fail = 1, source = "any machine counts once a second" }
floors.cuda = { fail = 1, source = "any machine counts once a second" }
"""

PROGRAM = """\
import os
import sys
import time
from pathlib import Path

from harness.runtime import DeviceFacts, ProgramArguments, StepRun, Throughput, model_folder, run_program


def main():
    parser = ProgramArguments("Count.")
    parser.parameter("to", 1000, "count to this")
    parser.parameter("misbehave", "no", "no, hang, end (no result), memory, litter, or outlive (the next attempt)")
    args = parser.parse_args()
    print("arguments", sys.argv[1:], "greeting", os.environ.get("GREETING"), flush=True)
    print("node", os.environ.get("HARNESS_NODE"), "GPUs", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    print("model", model_folder(["counter"]), flush=True)
    if args.misbehave == "end":
        return
    with StepRun.from_environment("count", tutorial="xscow-2", parameters=vars(args), keeps="kept") as run:
        kept = run.folder / "kept"
        run.output("kept_before", sorted(path.name for path in kept.iterdir()) if kept.is_dir() else [])
        kept.mkdir(exist_ok=True)
        (kept / f"of-{os.environ.get('HARNESS_ATTEMPT', '1')}").touch()
        run.use_device(DeviceFacts(kind="cpu", name="a CPU", count=1))
        meter = Throughput(warm_up=0)
        for _ in range(3):
            with meter.window(args.to):
                total = sum(range(args.to + 1))
        run.throughput("counts", meter, unit="counts/s")
        run.output("sum", total)
        if args.misbehave == "outlive" and os.environ["HARNESS_ATTEMPT"] == "0":
            print("hanging", flush=True)
            while not os.path.exists(os.environ["HARNESS_RUN_DIR"] + "/attempt-1/exit_code"):
                time.sleep(0.1)
            run.output("sum", -1)
        if args.misbehave == "litter":
            ends = ("CONFIGDIR", "_CACHE_DIR", "_CACHE_PATH", "_CACHE_HOME", "_CACHE_ROOT", "EXTENSIONS_DIR", "HF_HOME")
            places = {name: Path(place) for name, place in os.environ.items() if name.endswith(ends)}
            places["home"] = Path.home() / ".cache"
            for place in places.values():
                place.mkdir(parents=True, exist_ok=True)
                (place / "litter").write_text("compiled")
            run.output("littered", {name: str(place) for name, place in places.items()})
        if args.misbehave == "memory":
            hoard = [bytearray(os.urandom(1 << 20) * 10) for _ in range(100)]
            print(len(hoard), "times 10 MiB")
        if args.misbehave == "hang":
            print("hanging", flush=True)
            time.sleep(600)


run_program(main)
"""


def make_tiny_project(root: Path) -> Path:
    """Write the project to ``root``, with the repository's own harness and job library."""
    files = {
        "containers/tiny/Dockerfile.cpu": DOCKERFILE,
        "containers/tiny/stack.toml": STACK,
        "containers/tiny/requirements.in": "",
        "containers/tiny/requirements.lock": "# nothing\n",
        "tutorials/xscow-2/tutorial.toml": TUTORIAL,
        "tutorials/xscow-2/count.py": PROGRAM,
        "sites/default.toml": (REPOSITORY / "sites/default.toml").read_text(encoding="utf-8"),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copytree(REPOSITORY / "harness/runtime", root / "harness/runtime")
    shutil.copy(REPOSITORY / "harness/__init__.py", root / "harness/__init__.py")
    shutil.copytree(REPOSITORY / "jobs/lib", root / "jobs/lib")
    (root / "runs").mkdir()
    return root


def harness(root: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the ``harness`` command in a project."""
    return subprocess.run(
        [str(HARNESS), *arguments],
        cwd=root,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def image_of(catalog: Path, name: str) -> list[str]:
    """What `apptainer run` and `exec` are given to run a catalog's current image."""
    files = Catalog(catalog).current_files(name)
    assert files is not None, f"{name} is not published"
    return files.engine_arguments


def main_file(catalog: Path, name: str) -> Path:
    """The layer of a catalog's current image, or its one file: where its lock is."""
    published = Catalog(catalog)
    manifest = published.current(name)
    assert manifest is not None, f"{name} is not published"
    return published.files(manifest).main


def exported(root: Path, target: Path) -> Path:
    """The current image of the project's tutorial as one file."""
    done = harness(root, "export", "2", "-o", str(target))
    assert done.returncode == 0, done.stderr
    return target
