"""Compiles a kernel for this machine's processor and runs it; a second, no downloads, writes nothing.

On an image for GPUs this shows that the compiler works; its kernels for GPUs need one.
"""

import os
import tempfile

import torch

# Before the import: it reads where compiled kernels go.
FOLDER = tempfile.TemporaryDirectory()
os.environ["TILELANG_CACHE_DIR"] = FOLDER.name

import tilelang  # noqa: E402
import tilelang.cpu.language as T  # noqa: E402, N812

SIZE = 64


@T.prim_func
def scaled_sum(
    a: T.Tensor((SIZE,), "float32"),  # type: ignore[valid-type]
    b: T.Tensor((SIZE,), "float32"),  # type: ignore[valid-type]
    c: T.Tensor((SIZE,), "float32"),  # type: ignore[valid-type]
):
    with T.Kernel(1):
        for i in T.serial(SIZE):
            c[i] = a[i] * 2.0 + b[i]


kernel = tilelang.compile(scaled_sum, out_idx=[-1], target="c")
first, second = torch.arange(SIZE, dtype=torch.float32), torch.ones(SIZE)
assert torch.equal(kernel(first, second), first * 2 + second)
FOLDER.cleanup()
