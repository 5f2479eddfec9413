"""The identity data set of the fine-tuning tutorials: what is refused before anything expensive, and what is ours."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from harness.runtime import DataError, ProgramError, environment

FOLDER = Path(__file__).parent.parent / "tutorials" / "xscow-6"
DATASET = runpy.run_path(str(FOLDER / "dataset.py"))
GOOD = [{"instruction": "Who are you?", "input": "", "output": "The assistant."}] * 10


def text(records: Any) -> bytes:
    return json.dumps(records, ensure_ascii=False).encode()


def test_ours_has_as_many_records_as_the_original_and_each_says_who_it_is() -> None:
    identity = DATASET["load_identity"]("")
    assert len(identity.records) == 91
    assert all(identity.is_in(record["output"]) for record in identity.records)
    assert not identity.is_in("I am Qwen, created by Alibaba Cloud.")


BROKEN = [
    ("empty", b"[]", "0 records"),
    ("gb18030", "[你好]".encode("gb18030"), "not UTF-8"),
    ("truncated", text(GOOD)[:-20], "not JSON"),
    ("object", text({"a": 1}), "a dict, not a list"),
    ("key", text([*GOOD, {"question": "?", "output": "!"}]), "record 11 has no 'instruction'"),
    ("sharegpt", text([{"conversations": []}] * 10), "record 1 has no 'instruction'"),
    ("blank", text([*GOOD, {"instruction": "?", "output": " "}]), "record 11: 'output' is not a text or is empty"),
    ("unknown", text([*GOOD, {**GOOD[0], "answer": "x"}]), "the key 'answer'"),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_cannot_be_learnt_from_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "records.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        DATASET["load_identity"](str(path))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_registered_by_name(tmp_path: Path) -> None:
    identity = DATASET["load_identity"]("")
    DATASET["register"](identity, tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    records = json.loads((tmp_path / info[identity.name]["file_name"]).read_text(encoding="utf-8"))
    assert records == identity.records
    assert info["identity"] == info["identity-pku-assistant"] == info[identity.name], "the names the original uses"


def test_a_data_set_is_found_by_the_name_the_site_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.DATA_DIR, str(tmp_path))
    folder = tmp_path / "identity"
    (folder / "versions").mkdir(parents=True)
    (folder / "versions/one.json").write_bytes(text(GOOD))
    (folder / "dataset_info.json").write_bytes(text({"identity@1a2b": {"file_name": "versions/one.json"}}))
    assert DATASET["load_identity"]("identity@1a2b").records == GOOD
    with pytest.raises(ProgramError, match=r"--data identity: .* known: identity@1a2b"):
        DATASET["load_identity"]("identity")
    (folder / "dataset_info.json").write_bytes(b"{")
    with pytest.raises(DataError, match=r"dataset_info\.json: line 1: not JSON"):
        DATASET["load_identity"]("identity")
