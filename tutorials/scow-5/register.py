"""Give a data set a version and names: check it, store it under its content's name, and tell LLaMA-Factory of it.

LLaMA-Factory looks for data sets in one folder, in its dataset_info.json. Versions are never overwritten: a name such
as `identity` leads to the newest, `identity@1a2b3c...` to the same records for ever: a training can be repeated.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, find_data, run_program

# isort: split
import argparse
import copy
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from identity import identity_records
from records import Record, as_sharegpt, check, guess, read, version

from harness.runtime.device import DeviceFacts, cpu_model
from harness.runtime.errors import DataError
from harness.runtime.files import replaced_whole, write_json

INFO = "dataset_info.json"
SITE = "identity-pku-assistant"
PASSES, WINDOWS = 200, 6  # over the records, timed: one pass takes less than a millisecond
COLUMNS: dict[str, dict[str, Any]] = {
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    },
}


def find_records(given: str) -> tuple[str, list[Record]]:
    """Where the records come from, and they: the file that was given, the site's, or our own 91."""
    path = Path(given) if given else find_data(*(f"{folder}/{SITE}.json" for folder in (SITE, "identity")))
    if path is None:
        return "own", identity_records()
    return ("given" if given else "site"), read(path)


def register(folder: Path, names: list[str], records: list[Record], form: str) -> str:
    """Store ``records`` as a new version and let ``names`` lead to it; the version.

    Many may register at once: the list of data sets is changed under a lock, and replaced whole.

    Raises:
        DataError: the folder's list of data sets cannot be read.
    """
    name = version(records)
    file = Path("versions") / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{INFO}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        try:
            info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        except FileNotFoundError:
            info = {}
        except ValueError as error:
            raise DataError(f"{folder / INFO}: not JSON: {error}; mend it first, other data sets are in it") from error
        (folder / file.parent).mkdir(exist_ok=True)
        if not (folder / file).exists():
            with replaced_whole(folder / file) as stream:
                stream.write(json.dumps(records, ensure_ascii=False, indent=1).encode("utf-8"))
        entry = {"file_name": str(file), **COLUMNS[form]}
        write_json(folder / INFO, {**info, **{key: entry for each in names for key in (each, f"{each}@{name}")}})
    return name


def load_by_name(folder: Path, name: str) -> list[Record]:
    """The records of a name, found as LLaMA-Factory finds them."""
    info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    return read(folder / info[name]["file_name"])


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
    form = guess(records)
    check(records, form, args.file or source)
    run.use_device(DeviceFacts(kind="cpu", name=cpu_model(), count=1))
    run.output("data_source", source)
    run.output("records", len(records))
    run.output("distinct_records", len({version([record]) for record in records}))

    folder = Path(args.folder) if args.folder else run.output_file(INFO).parent
    named = register(folder, names, records, form)
    if form == "alpaca":
        talks = as_sharegpt(records)
        check(talks, "sharegpt", "conversations")
        register(folder, [f"{name}-sharegpt" for name in names], talks, "sharegpt")
    again = register(folder, names, [dict(reversed(record.items())) for record in records], form)
    run.output("version", named)
    run.output("same_content_same_version", again == named)
    run.output("changed_content_new_version", version(records[1:]) != named)
    run.output("registered", sorted(name for name in names if load_by_name(folder, name) == records))
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
    arguments.parameter("folder", "", "where the data sets of all trainings lie; empty: the run's own folder")
    args = arguments.parse_args()
    if not args.names.replace(",", "").strip() or set(args.names) & set("/@ "):
        arguments.error(f"--names: '{args.names}' must hold names without '/', '@' and spaces")
    with StepRun.from_environment("register", tutorial="scow-5", parameters=vars(args)) as run:
        work(run, args)


if __name__ == "__main__":
    run_program(main)
