"""Give a data set a version and names: check it, store it under its content's name, and tell LLaMA-Factory of it.

LLaMA-Factory looks for data sets in one folder, in its dataset_info.json. Versions are never overwritten: a name such
as `identity` leads to the newest, `identity@1a2b3c...` to the same records for ever: a training can be repeated.
In the site's data root the newest also lies as NAME/NAME.json, where the fine-tuning tutorials look by themselves.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, find_data, run_program

# isort: split
import argparse
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from identity import identity_records
from records import Record, as_sharegpt, check, guess, read, version
from registry import INFO, VERSIONS, check_names, load_by_name, register, registered, show

from harness.runtime.data import data_root
from harness.runtime.device import DeviceFacts, cpu_model
from harness.runtime.errors import DataError
from harness.runtime.files import write_json

SITE = "identity-pku-assistant"
PASSES, WINDOWS = 200, 6  # over the records, timed: one pass takes less than a millisecond


def find_records(given: str) -> tuple[str, list[Record]]:
    """Where the records come from, and they: the file that was given, the site's, or our own 91."""
    path = Path(given) if given else find_data(*(f"{folder}/{SITE}.json" for folder in (SITE, "identity")))
    if path is None:
        return "own", identity_records()
    return ("given" if given else "site"), read(path)


def find_folder(given: str, of_the_run: Path) -> tuple[str, Path]:
    """Where to register: the folder that was given, below the site's data root where we may write; else the run's."""
    if not given:
        return "run", of_the_run
    root = data_root()
    if root is None or not os.access(root, os.W_OK):
        print(f"note: {root or 'no data root'} cannot be written, so nobody else sees this; set DATA to your own")
        return "run", of_the_run
    return "site", root / given


def refusals(records: list[Record], form: str) -> list[str]:
    """What the check says of copies of these records, each spoilt in one place: it must find every one."""
    texts = ("instruction", "output") if form == "alpaca" else ("conversations",)
    spoil: list[Callable[[Record], Any]] = [lambda record, key=key: record.pop(key) for key in texts]
    spoil += [lambda record, key=key: record.update({key: ""}) for key in texts]
    spoil += [lambda record, key=key: record.update({key: 7}) for key in texts]
    said = []
    for number, change in enumerate(spoil):
        spoilt = copy.deepcopy(records)
        change(spoilt[number * 7 % len(spoilt)])
        try:
            check(spoilt, form, "spoilt")
        except DataError as error:
            said.append(str(error))
    return said


def work(run: StepRun, args: argparse.Namespace) -> None:
    names = [name.strip() for name in args.names.split(",") if name.strip()]
    source, records = find_records(args.file)
    form = guess(records, args.file or source)
    check(records, form, args.file or source)
    run.use_device(DeviceFacts(kind="cpu", name=cpu_model(), count=1))
    run.output("data_source", source)
    run.output("records", len(records))
    run.output("distinct_records", len({version([record]) for record in records}))

    own = run.output_file(INFO)
    place, folder = find_folder(args.folder, own.parent)
    talks_names = [f"{name}-sharegpt" for name in names] if form == "alpaca" else []
    check_names(folder, names, talks_names)
    named = register(folder, names, records, form)
    if form == "alpaca":
        talks = as_sharegpt(records)
        check(talks, "sharegpt", "conversations")
        register(folder, talks_names, talks, "sharegpt")
    if place == "site":
        write_json(
            own,
            {
                name: entry
                for name, entry in registered(folder).items()
                if name.partition("@")[0] in names + talks_names
            },
        )
        for name in names if form == "alpaca" else []:
            show(folder.parent, name, folder / VERSIONS / f"{named}.json")
    run.output("registered_in", place)
    again = register(folder, names, [dict(reversed(record.items())) for record in records], form)
    run.output("version", named)
    run.output("same_content_same_version", again == named)
    run.output("changed_content_new_version", version(records[1:]) != named)
    found = sorted(name for name in names if load_by_name(folder, name) == records)
    run.output("names_given", args.names)
    run.output("registered", found)
    run.output("found_by_every_name", found == sorted(set(names)))
    run.output("kept_versions", all(load_by_name(folder, f"{name}@{named}") == records for name in names))
    said = refusals(records, form)
    run.output("refusals", said)
    run.output("refused", len(said))

    meter = Throughput(warm_up=1)
    for _ in range(1 + WINDOWS):
        with meter.window(units=PASSES * len(records)):
            for _ in range(PASSES):
                check(records, form, source)
                version(records)
    run.throughput("checking_speed", meter, unit="records/s")
    print(f"{len(records)} {form} records ({source}) are version {named}: {', '.join(names)} in {folder / INFO}")
    print(f"use them: llamafactory-cli train --dataset_dir {folder} --dataset {names[0]}@{named} ...")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("names", "identity,identity-pku-assistant", "under which the data set is known, by commas")
    arguments.parameter("file", "", "JSON file of alpaca or sharegpt records; empty: the site's, else our own 91")
    arguments.parameter(
        "folder", "datasets", "of all trainings' data sets, below the site's data root; empty: the run's own"
    )
    args = arguments.parse_args()
    if not args.names.replace(",", "").strip() or set(args.names) & set("/@ "):
        arguments.error(f"--names: '{args.names}' must hold names without '/', '@' and spaces")
    with StepRun.from_environment("register", tutorial="scow-5", parameters=vars(args)) as run:
        work(run, args)


if __name__ == "__main__":
    run_program(main)
