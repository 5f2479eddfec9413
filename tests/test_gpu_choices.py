"""What programs choose by the GPU they find, asked of the programs themselves; torch is a stand-in, no GPU is here."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


# -- scow-14 ---------------------------------------------------------------------------------------------------------


class FakeGraphs:
    """``torch.cuda`` of a GPU that captures: what is called under ``graph`` is remembered and replayed."""

    def __init__(self, *, fails: bool = False, forgets: bool = False) -> None:
        self.fails, self.forgets, self.replays = fails, forgets, 0
        self.captured: list[Callable[[], None]] = []
        self.capturing: list[Callable[[], None]] | None = None

    def is_initialized(self) -> bool:
        return True

    def synchronize(self) -> None:
        """All is done at once here."""

    def Stream(self) -> MagicMock:  # noqa: N802 - torch's name
        return MagicMock()

    def current_stream(self) -> MagicMock:
        return MagicMock()

    def stream(self, _stream: object) -> AbstractContextManager[None]:
        return nullcontext()

    def CUDAGraph(self) -> MagicMock:  # noqa: N802
        return MagicMock(replay=self.replay)

    @contextmanager
    def graph(self, _graph: object) -> Iterator[None]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captured = self.capturing = []
        yield
        self.capturing = None

    def launch(self, work: Callable[[], None]) -> None:
        if self.capturing is None:
            work()
        elif not self.forgets:
            self.capturing.append(work)

    def replay(self) -> None:
        self.replays += 1
        for work in self.captured:
            work()


class FakeResult:
    """A tensor of one number."""

    def __init__(self) -> None:
        self.value = 0.0

    def fill_(self, value: float) -> None:
        self.value = value

    def isnan(self) -> MagicMock:
        return MagicMock(**{"any.return_value.item.return_value": self.value != self.value})


@pytest.fixture
def versus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What both of scow-14's programs compile, check and time with."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tutorials/scow-14"))
    monkeypatch.setenv("TILELANG_CACHE_DIR", "/nonexistent")
    for name in ("torch", "tilelang", "tilelang.backend.target", "kernels", "versus"):
        monkeypatch.setitem(sys.modules, name, MagicMock(nan=math.nan))
    for name in ("kernels", "versus"):
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("versus")


@pytest.mark.parametrize(
    ("gpu", "timed_as"),
    [
        (FakeGraphs(), "graph"),
        (FakeGraphs(fails=True), "calls"),
        (FakeGraphs(forgets=True), "calls"),  # a kernel launched beside the capture: an empty graph is a fast one
    ],
)
def test_small_kernels_are_timed_without_pythons_calls(versus: Any, gpu: FakeGraphs, timed_as: str) -> None:
    versus.torch.cuda = gpu
    result, computed = FakeResult(), []

    def compute() -> FakeResult:
        gpu.launch(lambda: (computed.append(1), result.fill_(1.0)))  # type: ignore[arg-type,func-returns-value]
        return result

    run = MagicMock()
    versus.race(run, "gemm", compute, compute, flop=1e9, calls=5, windows=3)
    outputs = {call.args[0]: call.args[1] for call in run.output.call_args_list}
    assert outputs["gemm_timed_as"] == timed_as
    assert outputs["gemm_versus_torch"] > 0
    windows = 2 * (versus.WARM_UP + 3)
    assert len(computed) >= windows * 5, "every window does all of its calls"
    if timed_as == "graph":
        assert gpu.replays == 2 + windows  # one replay of each is looked at before


def test_on_a_cpu_calls_are_timed_as_they_were(versus: Any) -> None:
    versus.torch.cuda.is_initialized.return_value = False
    run, computed = MagicMock(), []
    versus.race(run, "gemm", lambda: computed.append(1), lambda: computed.append(1), flop=1e9, calls=5, windows=3)
    assert len(computed) == 2 * (versus.WARM_UP + 3) * 5
    assert ("gemm_timed_as", "calls") in [call.args for call in run.output.call_args_list]


def test_tiles_that_do_not_fit_a_gpu_are_refused_before_compiling(versus: Any) -> None:
    lowered = {"kernel": MagicMock(attrs={"dyn_shared_memory_buf": 114_688})}
    versus.tilelang.lower.return_value.device_mod.functions = lowered
    properties = MagicMock(shared_memory_per_block_optin=65_536)
    properties.name = "Quadro RTX 5000"
    versus.torch.cuda.get_device_properties.return_value = properties
    dialect = MagicMock(target="cuda")
    with pytest.raises(Exception, match=r"needs 114,688 bytes of shared memory, Quadro RTX 5000 has 65,536: choose"):
        versus.compile_kernel(MagicMock(), object(), dialect)
    assert not versus.tilelang.compile.called
    properties.shared_memory_per_block_optin = 166_912
    versus.compile_kernel(MagicMock(), object(), dialect)
    assert versus.tilelang.compile.called


def test_attention_takes_smaller_tiles_where_shared_memory_is_small(versus: Any) -> None:
    kernels = sys.modules["kernels"]
    asked = kernels.Tiles(128, 64, 128, 2)
    assert kernels.attention_tiles(asked, (9, 0)) == (asked, 256)
    assert kernels.attention_tiles(asked, None) == (asked, 256)
    assert kernels.attention_tiles(asked, (7, 5)) == (kernels.Tiles(64, 32, 128, 1), 128)
    assert kernels.attention_tiles(asked._replace(rows=64), (8, 0))[1] == 128, "a warp for every 16 rows"
