"""scow-5: what is refused of a data set, and that what it registers is found by name by those who train on it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_project import REPOSITORY, harness

from harness.image.engine import find_engine
from harness.runtime import environment

FOLDER = REPOSITORY / "tutorials/scow-5"
ALPACA = [{"instruction": f"Who are you, {n}?", "input": "", "output": "The assistant."} for n in range(12)]
TURNS = [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "The assistant."}]


def register(run: Path, *arguments: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program as a job does."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("HARNESS_")}
    variables |= {"PYTHONPATH": str(REPOSITORY), environment.RUN_DIR: str(run), environment.VARIANT: "cpu"}
    variables[environment.DATA_DIR] = str(data) if data else ""
    command = [sys.executable, str(FOLDER / "register.py"), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def outputs(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["steps"]["register"]["outputs"]


def text(records: Any) -> bytes:
    return json.dumps(records, ensure_ascii=False).encode()


BROKEN = [
    ("empty", b"", "not JSON"),
    ("no-record", b"[]", "holds no record"),
    ("truncated", text(ALPACA)[:-30], "not JSON"),
    ("gb18030", "[你好]".encode("gb18030"), "is not UTF-8; save it again as UTF-8: iconv"),
    ("utf-16", text(ALPACA).decode().encode("utf-16"), "is not UTF-8"),
    ("no-list", b'{"a": 1}', "not a list of records"),
    ("neither", text([{"question": "?", "answer": "!"}]), "neither alpaca (instruction, output) nor sharegpt"),
    ("no-object", text(["a"]), "record 1 has no keys"),
    ("mixed", text([*ALPACA, {"conversations": TURNS}]), "record 13: 'instruction' is missing; format: alpaca"),
    ("blank", text([*ALPACA, {"instruction": "?", "output": " "}]), "record 13: 'output' is empty"),
    ("no-answer", text([{"conversations": TURNS[:1]}]), "there is no answer to learn"),
    ("order", text([{"conversations": TURNS[::-1]}]), "must be from 'human'"),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_bad_data_set_is_refused_in_one_line_and_registers_nothing(
    tmp_path: Path, content: bytes, words: str
) -> None:
    given, data = tmp_path / "given.json", tmp_path / "data"
    given.write_bytes(content)
    data.mkdir()
    done = register(tmp_path / "run", "--file", str(given), "--folder", "datasets", data=data)
    assert done.returncode == 2
    assert words in done.stderr and str(given) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(data.iterdir())


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    done = register(tmp_path / "run", "--names", "a,b,a")
    assert done.returncode == 2 and "the name 'a' is given twice" in done.stderr
    done = register(tmp_path / "run", "--names", "a,a-sharegpt")
    assert done.returncode == 2 and "the name 'a-sharegpt' is given twice" in done.stderr
    datasets = tmp_path / "data/datasets"
    datasets.mkdir(parents=True)
    (datasets / "dataset_info.json").write_text('{"identity": {"file_name": "mine.json"}}')
    done = register(tmp_path / "run", "--folder", "datasets", data=tmp_path / "data")
    assert done.returncode == 2 and "'identity' is mine.json already" in done.stderr
    (datasets / "dataset_info.json").write_text("{")
    done = register(tmp_path / "run", "--folder", "datasets", data=tmp_path / "data")
    assert done.returncode == 2 and "dataset_info.json: not JSON" in done.stderr


def test_versions_stay_and_names_lead_to_the_newest(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    first = register(tmp_path / "run-1", "--folder", "datasets", data=data)
    assert first.returncode == 0, first.stderr
    old = outputs(tmp_path / "run-1")
    assert old["registered_in"] == "site" and old["records"] == 91
    given = tmp_path / "given.json"
    given.write_bytes(b"\xef\xbb\xbf" + text(ALPACA))
    second = register(tmp_path / "run-2", "--file", str(given), "--folder", "datasets", data=data)
    assert second.returncode == 0, second.stderr
    new = outputs(tmp_path / "run-2")["version"]
    info = json.loads((data / "datasets/dataset_info.json").read_text())
    assert info["identity"] == info[f"identity@{new}"]
    kept = json.loads((data / "datasets" / info[f"identity@{old['version']}"]["file_name"]).read_text())
    assert len(kept) == 91 and new != old["version"]
    assert json.loads((data / "identity/identity.json").read_text()) == ALPACA


def test_many_register_at_once_and_none_is_lost(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), environment.DATA_DIR: str(tmp_path / "data")}
    command = [sys.executable, str(FOLDER / "register.py"), "--folder", "datasets", "--names"]
    running = [
        subprocess.Popen(
            [*command, f"set-{number}"],
            env={**variables, environment.RUN_DIR: str(tmp_path / f"run-{number}")},
            stdout=subprocess.DEVNULL,
        )
        for number in range(4)
    ]
    assert [process.wait() for process in running] == [0] * 4
    info = json.loads((tmp_path / "data/datasets/dataset_info.json").read_text())
    assert {f"set-{number}" for number in range(4)} <= set(info)


def test_the_fine_tuning_tutorials_find_it_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    assert register(tmp_path / "run", "--folder", "datasets", data=tmp_path / "data").returncode == 0
    monkeypatch.setenv(environment.DATA_DIR, str(tmp_path / "data"))
    identity = runpy.run_path(str(REPOSITORY / "tutorials/xscow-6/dataset.py"))["load_identity"]("")
    assert identity.name == "identity-pku-assistant" and len(identity.records) == 91
    assert all(identity.is_in(record["output"]) for record in identity.records)


@pytest.mark.apptainer
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_llama_factorys_own_loader_finds_it_by_name(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert register(tmp_path / "run", "--folder", "datasets", data=tmp_path / "data").returncode == 0
    done = harness(REPOSITORY, "build", "--stack", "llamafactory", env={"HARNESS_CACHE": str(cache)})
    assert done.returncode == 0, done.stderr
    engine = find_engine()
    command = [str(engine.path), "exec", *engine.run_flags(), "--cleanenv", "--containall"]
    command += ["--bind", f"{REPOSITORY / 'tests/in_stack'}:/exercises:ro", "--bind", f"{tmp_path}:/scratch"]
    command += ["--pwd", "/scratch", done.stdout.strip(), "python", "/exercises/load_by_name.py"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "loaded identity: 91" in ran.stdout and "loaded identity-pku-assistant-sharegpt: 91" in ran.stdout
