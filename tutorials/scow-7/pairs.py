"""Pairs of sentences that say the same or not: the site's MRPC, else pairs that a small grammar writes."""

import random
from pathlib import Path
from typing import NamedTuple

from harness.runtime import DataError, find_data

FOLDERS = ["glue/mrpc", "GLUE/MRPC", "MRPC", "mrpc"]
HEADER = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]  # of the tab-separated files


class Pair(NamedTuple):
    """Two sentences; ``same`` is 1 where they say the same, else 0."""

    first: str
    second: str
    same: int


def load_pairs(count: int, seed: int) -> tuple[str, list[Pair], list[Pair]]:
    """Where the pairs come from, those to learn from, and those to be judged by.

    Raises:
        DataError: the site's files are incomplete, not text, empty, or of another form.
    """
    folder = find_data(*FOLDERS)
    if folder is None:
        made = write_pairs(count, seed)
        held_out = len(made) // 5
        return "written", made[held_out:], made[:held_out]
    parts = []
    for name in ("train", "dev"):
        paths = [folder / f"{stem}.{ending}" for stem in (name, f"msr_paraphrase_{name}") for ending in ("tsv", "txt")]
        if name == "dev":  # the authors' own release has a test part instead
            paths += [folder / "msr_paraphrase_test.txt"]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise DataError(f"{paths[0]}: no such file; the data set is incomplete")
        parts.append(read_pairs(path))
    return "mrpc", parts[0], parts[1]


def read_pairs(path: Path) -> list[Pair]:
    """One tab-separated file of MRPC; quotation marks in it are text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not lines or lines[0].split("\t") != HEADER:
        raise DataError(f"{path}: not a file of MRPC: its first line is not {' '.join(HEADER)}")
    pairs = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) != len(HEADER) or cells[0] not in ("0", "1"):
            raise DataError(f"{path}: line {number} has {len(cells)} columns, or its first is neither 0 nor 1")
        pairs.append(Pair(cells[3], cells[4], int(cells[0])))
    if len({pair.same for pair in pairs}) < 2:
        raise DataError(f"{path}: {len(pairs)} pairs, none of them of one of the two kinds")
    return pairs


ACTORS = ["the company", "the bank", "the team", "the minister", "the court", "the union"]
# Each row: two ways to say one thing.
DEEDS = [
    ("bought", "purchased"), ("sold", "disposed of"), ("praised", "spoke well of"), ("blamed", "found fault with"),
    ("closed", "shut down"), ("opened", "inaugurated"),
]  # fmt: skip
THINGS = ["a factory", "the plan", "two shops", "the report", "a bridge", "the office"]


def write_pairs(count: int, seed: int) -> list[Pair]:
    """``count`` pairs, half of them paraphrases; the others differ in the deed alone, as near misses do.

    Who and what are the same in both sentences, so no word gives the answer away: the model has to learn which words
    mean the same.
    """
    source = random.Random(seed)
    pairs = []
    for number in range(count):
        who, what = source.choice(ACTORS), source.choice(THINGS)
        deed, other = source.sample(DEEDS, 2)
        same = number % 2
        first, second = source.choice(deed), source.choice(deed if same else other)
        pairs.append(Pair(f"{who} {first} {what}", f"{who} {second} {what}", same))
    source.shuffle(pairs)
    return pairs
