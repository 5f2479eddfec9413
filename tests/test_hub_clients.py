"""The hubs' own clients read our test hub, and the folders we publish: neither is only as we imagine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_support import NAME, WANTED, contents, run_here, site
from tiny_hub import TinyHub
from tiny_project import REPOSITORY

PACKAGES = ("huggingface_hub==2.4.0", "modelscope==1.40.2")
PROTOCOLS = ("huggingface", "modelscope")


@pytest.fixture(scope="session")
def clients(cache: Path) -> Path:
    """A Python with both clients, made once; they are no part of the harness's own environment."""
    folder = cache.absolute() / "hub-clients"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        done = subprocess.run(
            [*uv, "pip", "install", "-q", "--python", str(python), *PACKAGES],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip("no package index has huggingface_hub and modelscope; `make test` runs this where one does")
        (folder / "ready").touch()
    return python


def ask(python: Path, *arguments: str, **variables: str) -> Path:
    environment = {**os.environ, **variables, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [python, REPOSITORY / "tests/hub_clients.py", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return Path(done.stdout.rpartition("found: ")[2].strip())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_real_client_downloads_the_same_from_the_test_hub(
    clients: Path, hub: TinyHub, tmp_path: Path, protocol: str
) -> None:
    endpoints = {"HF_ENDPOINT": hub.address, "MODELSCOPE_ENDPOINT": hub.address}
    home = {"HF_HOME": str(tmp_path / "hf"), "MODELSCOPE_CACHE": str(tmp_path / "ms")}
    folder = ask(clients, "download", protocol, str(tmp_path / "target"), **endpoints, **home)
    assert {path: data for path, data in contents(folder).items() if not path.startswith(".")} == WANTED


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_real_client_finds_what_we_published_without_a_network(
    clients: Path, hub: TinyHub, supplied: Path, protocol: str
) -> None:
    site(supplied, **{protocol: [hub.address]})
    assert run_here(supplied, "models", "fetch", NAME).returncode == 0
    root = supplied.parent / "models"
    caches = {"HF_HUB_CACHE": str(root / "hub"), "MODELSCOPE_CACHE": str(root / "modelscope")}
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_ENDPOINT": "http://127.0.0.1:9"}
    folder = ask(clients, "offline", protocol, **caches, **offline)
    assert contents(folder) == WANTED
    assert folder.resolve() == (root / "counter").resolve()
