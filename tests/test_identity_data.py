"""The identity data set of the fine-tuning tutorials: what is refused before anything expensive, and what is ours."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.runtime import DataError, ProgramError, environment

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tutorials" / "xscow-6"
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


def registered(data: Path, *arguments: str) -> str:
    """Run scow-5 as a job does, below the data root ``data``; the version it gave."""
    data.mkdir(exist_ok=True)
    run = data.with_name(f"run-{len(list(data.parent.iterdir()))}")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("HARNESS_")}
    variables |= {"PYTHONPATH": str(ROOT), environment.RUN_DIR: str(run), environment.DATA_DIR: str(data)}
    program = ROOT / "tutorials/scow-5/register.py"
    subprocess.run([sys.executable, str(program), *arguments], env=variables, check=True, capture_output=True)
    step = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]["register"]
    return str(step["outputs"]["version"])


def test_what_scow_5_registers_is_found_by_name_and_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, given = tmp_path / "data", tmp_path / "mine.json"
    first = registered(data)
    given.write_bytes(text(GOOD))
    second = registered(data, "--names", "mine,identity", "--file", str(given))
    monkeypatch.setenv(environment.DATA_DIR, str(data))
    load = DATASET["load_identity"]
    assert load(f"identity@{first}").name == "identity-pku-assistant"
    assert len(load(f"identity@{first}").records) == 91
    for name in ("mine", f"mine@{second}", "identity", str(given)):
        assert load(name).records == GOOD
        assert load(name).name == "other", "a student's own set is not judged by somebody else's name"
        assert not load(name).is_in("北京大学")
    with pytest.raises(ProgramError, match=r"--data theirs: .* known: identity, identity@"):
        load("theirs")
    with pytest.raises(DataError, match=r"'identity-sharegpt' is in the format sharegpt"):
        load("identity-sharegpt")
    (data / "datasets/dataset_info.json").write_bytes(b"{")
    with pytest.raises(DataError, match=r"dataset_info\.json: line 1: not JSON"):
        load("identity")


def test_a_set_registered_as_identity_alone_is_used_and_does_not_stop_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    registered(data, "--names", "identity")
    monkeypatch.setenv(environment.DATA_DIR, str(data))
    assert DATASET["load_identity"]("").name == "identity-pku-assistant"
    for stem in ("tutorial6", "tutorial11", "scow-5"):
        job = (ROOT / f"jobs/{stem}.apptainer.cpu.job").read_text(encoding="utf-8")
        (check,) = (line for line in job.splitlines() if line.startswith("job_check_data "))
        script = f'. jobs/lib/job.sh; PRESET=full DATA_ROOT="{data}"; {check}'
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
