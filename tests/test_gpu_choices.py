"""What programs choose by the GPU they find, asked of the programs themselves; torch is a stand-in, no GPU is here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
from tiny_project import REPOSITORY


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """xscow-7's program with libraries that only remember what they were asked."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tutorials/xscow-7"))
    for name in ("torch", "transformers", "weights", "chat"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.delitem(sys.modules, "chat")
    return importlib.import_module("chat")


@pytest.mark.parametrize(
    ("kind", "capability", "asked", "taken"),
    [
        ("cuda", (9, 0), "auto", "marlin"),  # the library itself would take Machete, and download its sources
        ("cuda", (8, 0), "auto", "marlin"),
        ("cuda", (7, 5), "auto", "auto"),
        ("cuda", (9, 0), "torch", "torch"),
        ("cpu", None, "auto", "auto"),
    ],
)
def test_packed_weights_are_computed_by_a_kernel_that_needs_no_download(
    chat: Any, kind: str, capability: tuple[int, int] | None, asked: str, taken: str
) -> None:
    chat.torch.cuda.get_device_capability.return_value = capability
    chat.load(Path("model"), MagicMock(type=kind), asked)
    assert chat.GPTQConfig.call_args.kwargs == {"bits": 4, "backend": taken}
