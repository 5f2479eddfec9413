"""A page as a real browser sees it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; scripts/install-packages test installs it, as `make test` does"
)


def page_source(address: str, profile: Path, *, budget_ms: int) -> str:
    """The page's document after its scripts have run for ``budget_ms`` of the browser's own time."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
        *(f"--user-data-dir={profile}", f"--virtual-time-budget={budget_ms}", "--dump-dom", address),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
