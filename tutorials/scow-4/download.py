"""Bring a model to the folder that a whole group shares: from the first hub that answers, whole or not at all.

A model is gigabytes, and a data node's job may be cut off by its time limit. So every file comes with a checksum from
the hub; half a file is kept and gone on with; and the folder that others read appears only when everything is right.
First all of that is rehearsed on a hub of our own. `harness models fetch` does the same for an administrator.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, ProgramError, StepRun, run_program

# isort: split
import argparse
import os
import tempfile
import time
from pathlib import Path

from rehearsal import rehearse

from harness.runtime import environment
from harness.runtime.device import DeviceFacts, cpu_model
from harness.runtime.hub.fetch import PROTOCOLS, fetch, hubs_in_order, parse_mirrors
from harness.runtime.hub.files import Repository
from harness.runtime.hub.progress import plain_watcher
from harness.runtime.hub.store import of_folder
from harness.runtime.models import models_root


def shared_root(given: str) -> Path:
    """The folder to download to: what was given, else the site's models root.

    Raises:
        ProgramError: there is none, or it cannot be written.
    """
    root = Path(given) if given else models_root()
    if root is None:
        raise ProgramError(
            "no folder to download to: set MODELS to one of yours, or [storage] models in the site's file"
        )
    if not root.is_dir() or not os.access(root, os.W_OK):
        raise ProgramError(f"{root} cannot be written: set MODELS to a folder of yours, which job and group can read")
    return root


def download(run: StepRun, args: argparse.Namespace) -> None:
    """The real model, from the site's mirrors in their order, then the public hub."""
    root = shared_root(args.root)
    only = next((known for known in PROTOCOLS if known == args.hub), None)
    hubs = hubs_in_order(parse_mirrors(os.environ.get(environment.HUBS, "")), os.environ, only)
    model = Repository("model", args.model, args.revision)
    started = time.perf_counter()
    came = fetch(hubs, model, root, args.model, plain_watcher(lambda line: print(line, flush=True)))
    seconds = time.perf_counter() - started
    store = of_folder(root, came.folder)
    wrong = store.verify(came.folder) if store else []
    if wrong:
        raise ProgramError(f"{wrong[0].path} {wrong[0].problem}")
    run.output("hub", came.hub.endpoint)
    run.output("commit", came.commit)
    run.output("files", came.files)
    run.output("gigabytes", round(came.bytes / 1e9, 3))
    run.output("verified", True)
    if came.bytes:
        run.metric("network_speed", came.bytes / 1e6 / seconds, "MB/s")
    print(f"{args.model}: {came.files} files, {came.bytes / 1e9:.2f} GB in {seconds:.0f} s, from {came.hub.endpoint}")
    print(f"it is {came.folder}: every file is what the hub lists")


def work(run: StepRun, args: argparse.Namespace) -> None:
    run.use_device(DeviceFacts(kind="cpu", name=cpu_model(), count=1))
    run.output("source", "hub" if args.source == "hub" else "rehearsal")
    if args.source == "hub":
        shared_root(args.root)  # before the rehearsal: a folder that cannot be written is said at once
    with tempfile.TemporaryDirectory() as scratch:
        rehearse(run, Path(scratch), args.size_mb, args.seed)
    if args.source == "hub":
        with run.phase("download"):
            download(run, args)


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("model", "Qwen/Qwen3-4B-Instruct-2507", "owner/name on the hub")
    arguments.parameter("revision", "", "a branch, tag or commit; empty: the newest")
    arguments.parameter("source", "hub", "hub: the real model; rehearsal: only what needs no network")
    arguments.parameter("hub", "", "only this kind: huggingface or modelscope; empty: both, the site's mirrors first")
    arguments.parameter("root", "", "folder to download to; empty: the site's models root")
    arguments.parameter("size_mb", 24, "of the rehearsal's model", minimum=3)
    arguments.parameter("seed", 1, "of its bytes", minimum=0)
    args = arguments.parse_args()
    if args.source not in ("hub", "rehearsal") or args.hub not in ("", *PROTOCOLS):
        arguments.error("--source is hub or rehearsal, --hub is huggingface or modelscope")
    with StepRun.from_environment("download", tutorial="scow-4", parameters=vars(args)) as run:
        work(run, args)


if __name__ == "__main__":
    run_program(main)
