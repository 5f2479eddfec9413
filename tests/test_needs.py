"""What a run needs of its site, said when it is submitted, by the command people use; no image, no scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_project import harness, make_tiny_project

from harness.runtime import ModelError, check_model, environment, model_folder, weight_bytes

MODEL = "counter"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.delenv("MODELS", raising=False)
    root = make_tiny_project(tmp_path / "project")
    path = root / "tutorials/xscow-2/tutorial.toml"
    text = path.read_text().replace('"smoke", "full"', '"smoke"')
    extra = '[presets.full]\ndescription = { en = "long", zh = "长" }\n'
    path.write_text(text.replace("[resources.cpu]", extra + "[resources.cpu]", 1))
    assert harness(root, "jobs").returncode == 0
    return root


def offer(project: Path, kind: str, folder: Path) -> None:
    """Let the site name ``folder`` as its root."""
    site = project / "sites/default.toml"
    site.write_text(site.read_text() + f'\n[storage]\n{kind} = "{folder}"\n')


def test_a_missing_model_is_refused_before_anything_else(project: Path, tmp_path: Path) -> None:
    done = harness(project, "submit", "2", "--preset", "full")
    assert done.returncode == 2
    assert "preset 'full' uses tiny/counter, and the site names no models root" in done.stderr
    assert "; fetch it: harness models fetch tiny/counter, or set MODELS to the models root" in done.stderr
    offer(project, "models", tmp_path / "models")
    done = harness(project, "submit", "2", "--preset", "full")
    assert done.returncode == 2
    assert f"{tmp_path}/models/counter is not there" in done.stderr
    assert not list((project / "runs").glob("tutorial2-*")), "nothing is written for a refused run"


def test_what_a_fallback_stands_in_for_is_said(project: Path) -> None:
    done = harness(project, "submit", "2", "--preset", "smoke")
    assert "note: xscow-2: the site names no models root; preset 'smoke' uses fingers" in done.stderr
    assert "note: xscow-2: the site names no data root; preset 'smoke' uses counting" in done.stderr
    assert "there is no image" in done.stderr, "it went on"


def test_a_model_that_is_there_is_enough_wherever_it_is_named(project: Path, tmp_path: Path) -> None:
    (tmp_path / "models/counter").mkdir(parents=True)
    (tmp_path / "models/counter/config.json").write_text("{}")
    done = harness(project, "submit", "2", "--preset", "full", env={"MODELS": str(tmp_path / "models")})
    assert "there is no image" in done.stderr
    assert "fingers" not in done.stderr
    offer(project, "models", tmp_path / "models")
    assert "there is no image" in harness(project, "submit", "2", "--preset", "full").stderr


@pytest.mark.parametrize("preset", ["smoke", "full"])
def test_half_of_it_is_refused_also_where_a_fallback_would_do(project: Path, tmp_path: Path, preset: str) -> None:
    (tmp_path / "models/counter").mkdir(parents=True)
    (tmp_path / "models/counter/config.json").touch()
    done = harness(project, "submit", "2", "--preset", preset, env={"MODELS": str(tmp_path / "models")})
    assert done.returncode == 2
    assert "counter/config.json is missing" in done.stderr


def test_a_checksum_of_a_file_that_is_none_of_the_models_is_refused(project: Path) -> None:
    path = project / "tutorials/xscow-2/tutorial.toml"
    path.write_text(
        path.read_text().replace('files = ["config.json"]', 'files = ["config.json"]\nsha256 = { "a" = "b" }')
    )
    done = harness(project, "jobs")
    assert done.returncode == 2
    assert "sha256 names 'a'; valid: config.json" in done.stderr


def without(project: Path, unless: str) -> None:
    """Let the model say with which parameters nobody looks at it, and the bench preset set the parameter to 7."""
    path = project / "tutorials/xscow-2/tutorial.toml"
    text = path.read_text().replace(
        'source = "anywhere"\nfallback = { en = "f', f'{unless}\nsource = "anywhere"\nfallback = {{ en = "f'
    )
    bench = '[presets.bench]\ndescription = { en = "short", zh = "短" }\nsteps.count = { to = 7 }\n'
    path.write_text(text.replace("[resources.cpu]", bench + "[resources.cpu]", 1))


def test_a_model_is_not_asked_for_where_the_parameters_say_so(project: Path) -> None:
    without(project, "unless = { to = 7 }")
    assert harness(project, "jobs").returncode == 0
    refused = harness(project, "submit", "2", "--preset", "full")
    assert refused.returncode == 2
    assert "names no models root" in refused.stderr
    assert "or do without: --set to=7" in refused.stderr
    for accepted in (["--preset", "full", "--set", "to=7"], ["--preset", "bench"]):
        done = harness(project, "submit", "2", *accepted)
        assert "there is no image" in done.stderr, "it went on"
    assert (
        "preset 'bench' uses tiny/counter"
        in harness(project, "submit", "2", "--preset", "bench", "--set", "to=8").stderr
    )


def test_half_a_model_is_refused_also_where_nobody_would_look_at_it(project: Path, tmp_path: Path) -> None:
    """The job would refuse it as well, after the queue."""
    without(project, "unless = { to = 7 }")
    assert harness(project, "jobs").returncode == 0
    (tmp_path / "models/counter").mkdir(parents=True)
    done = harness(project, "submit", "2", "--set", "to=7", env={"MODELS": str(tmp_path / "models")})
    assert done.returncode == 2
    assert "counter/config.json is missing" in done.stderr
    assert "do without" not in done.stderr


def test_a_parameter_that_nobody_has_is_refused(project: Path) -> None:
    for word, words in {
        "tu=7": "valid: to",
        "to": "valid: to",
        "to=much": "--set to=much: not a int; the original is 1000",
    }.items():
        done = harness(project, "submit", "2", "--set", word)
        assert done.returncode == 2
        assert words in done.stderr
    without(project, "unless = { tu = 7 }")
    assert "unless names 'tu', no parameter of any step" in harness(project, "jobs").stderr


def safetensors(path: Path, size: int = 8) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / MODEL
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    safetensors(folder / "model.safetensors")
    monkeypatch.setenv(environment.MODELS_DIR, str(tmp_path))
    return folder


def test_a_whole_model_is_found_and_accepted(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder(["owner/counter", MODEL]) == model
    assert model_folder(["other"]) is None
    assert check_model(model, ["bert"], ["config.json"]) == {"model_type": "bert"}
    monkeypatch.setenv(environment.MODELS_DIR, "/nowhere")
    with pytest.raises(ModelError, match="no folder here"):
        model_folder([MODEL])
    monkeypatch.delenv(environment.MODELS_DIR)
    assert model_folder([MODEL]) is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{", "cannot be read"),
        ("config.json", b"[]", "not a model's configuration"),
        ("config.json", b'{"model_type": "gpt2"}', "is a 'gpt2' model, this program needs bert"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        ("model.safetensors", b"\x10", "truncated"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0no", "not a safetensors file"),
        ("model.safetensors", b"<html>not found</html>", "not a safetensors file"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "holds no tensors"),
        ("extra.pt", b"PK\3\4 and no directory at the end", "truncated"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model-2.safetensors"}}', "model-2.safetensors: no s"),
        ("model.safetensors.index.json", b"{}", "holds no weight_map"),
    ],
)
def test_a_broken_model_is_one_line_that_names_the_file(model: Path, name: str, content: bytes, words: str) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        check_model(model, ["bert"])
    assert str(caught.value).startswith(str(model))


def test_the_size_of_a_model_is_that_of_the_shards_its_index_names(model: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    safetensors(model / "adapter.safetensors", 400)
    assert weight_bytes(model) > size + 400
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    assert weight_bytes(model) == size


def test_a_model_cut_short_by_one_byte_or_without_weights_is_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated"):
        check_model(model, ["bert"])
    weights.unlink()
    with pytest.raises(ModelError, match="no such file; the model is incomplete"):
        check_model(model, ["bert"])
