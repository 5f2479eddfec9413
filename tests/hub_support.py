"""A real hub on loopback, speaking both protocols, and a project whose tutorial wants a model from it."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from tiny_project import REPOSITORY, make_tiny_project

from harness.cli.main import main

sys.path.insert(0, str(REPOSITORY / "tutorials/scow-4"))
from tiny_hub import TinyHub

NAME = "tiny/counter"
WEIGHTS = random.Random(1).randbytes(3_000_000)
FILES = {
    "config.json": b'{"model_type": "counter"}',
    "tokenizer/vocab.txt": "one\ntwo\n三\n".encode(),
    "empty": b"",
    "model.safetensors": WEIGHTS,
    "copy of the model.safetensors": WEIGHTS,
    "onnx/model.onnx": b"nobody needs it" * 10_000,
}
WANTED = {path: data for path, data in FILES.items() if not path.startswith("onnx/")}


@pytest.fixture
def hub() -> Iterator[TinyHub]:
    with TinyHub({NAME: FILES, "tiny/numbers": {"a.txt": b"1", "b.txt": b"2"}}).running() as running:
        yield running


@pytest.fixture
def supplied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its site's storage is ``models`` and ``data`` beside it; no public hub is ever asked."""
    for variable in ("DATA", "MODELS", "HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    root = make_tiny_project(tmp_path / "project")
    tutorial = root / "tutorials/xscow-2/tutorial.toml"
    text = tutorial.read_text().replace('name = "tiny/counter"', 'name = "tiny/counter"\nignore = ["onnx/*"]')
    tutorial.write_text(text.replace('fallback_presets = ["smoke", "full"]', 'fallback_presets = ["smoke"]'))
    site(root)
    return root


def site(root: Path, **mirrors: list[str]) -> None:
    """Write the project's site."""
    lines = ['name = "default"', '[title]\nen = "here"\nzh = "此处"', "[storage]"]
    lines += [f'models = "{root.parent / "models"}"', f'data = "{root.parent / "data"}"', "[mirrors]"]
    lines += [f"{kind} = {addresses}" for kind, addresses in mirrors.items()]
    (root / "sites/default.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_here(root: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The ``harness`` command as :func:`tiny_project.harness` runs it, without the second that its start takes."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    before, handler = Path.cwd(), signal.getsignal(signal.SIGTERM)
    os.chdir(root)
    try:
        with (
            mock.patch.dict(os.environ, env or {}),
            mock.patch.object(sys, "argv", ["harness", *arguments]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        os.chdir(before)
        signal.signal(signal.SIGTERM, handler)
    return subprocess.CompletedProcess(list(arguments), status, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, links followed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
