"""Two kernels in TileLang: a matrix product with its activation, and attention. One source for CPUs and for GPUs.

A kernel says what one *tile* of the result is made of; all tiles are computed by copies of the same few lines. Blocks
of the inputs are copied to memory near the arithmetic units ("shared" on a GPU, a local array on a CPU), multiplied
there, and only the finished tile goes back. That is the whole secret of a fast kernel: each number that was fetched
from afar is used many times.
"""

# No postponed annotations here: TileLang reads the shapes in a kernel's signature when it is made.
import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Dialect(NamedTuple):
    """How TileLang is spoken to on one kind of device.

    Attributes:
        language: the module with its words, ``T`` by custom.
        target: what the compiler writes: CUDA C++ for nvcc, or C for g++.
        dtype: of the inputs and the result; sums are always float32.
        threads: of each tile; a CPU computes a tile in one thread.
        block: allocates memory for a block of an input: a GPU's shared memory, a CPU's stack.
        registers: allocates memory for the tile itself: a GPU's registers, each thread its part; a CPU's stack.
        operand: allocates memory for a product's factor that was itself computed here: ``registers``; on GPUs before
            compute capability 8.0, whose tensor cores want it laid out differently, ``block``.
        each: a loop over all indices, in any order: the threads' work on a GPU.
        options: for the compiler.
    """

    language: Any
    target: str
    dtype: str
    threads: int | None
    block: Callable[..., Any]
    registers: Callable[..., Any]
    operand: Callable[..., Any]
    each: Callable[..., Any]
    options: list[str]

    @property
    def launch(self) -> dict[str, int]:
        return {} if self.threads is None else {"threads": self.threads}


class Tiles(NamedTuple):
    """Rows and columns of a tile of the result, steps of the sum fetched at once, and blocks fetched ahead."""

    rows: int
    columns: int
    depth: int
    stages: int


def attention_tiles(asked: Tiles, capability: tuple[int, int] | None) -> tuple[Tiles, int]:
    """(tiles, threads of each) for :func:`attention` on a GPU of this compute capability; None: on a CPU.

    Blocks of 128 rows and 64 keys of width 128 take 112 KiB of shared memory before 8.0, where the weights are in it as
    well. Volta has 96 KiB and Turing 64: half the rows, half the keys, nothing fetched ahead. A warp owns 16 rows, as
    many as tensor cores multiply at once: more warps than that would share rows, which TileLang refuses.
    """
    tiles = asked
    if capability is not None and capability < (8, 0):
        tiles = Tiles(min(asked.rows, 64), min(asked.columns, 32), asked.depth, 1)
    return tiles, max(32, min(256, tiles.rows // 16 * 32))


def scaled_relu_matmul(dialect: Dialect, m: int, n: int, k: int, tiles: Tiles, scale: float) -> Any:
    """``max(scale * A @ B, 0)``: A is (m, k), B is (k, n). The activation costs nothing: the tile is still at hand."""
    T, dtype = dialect.language, dialect.dtype  # noqa: N806 - the name all of TileLang's texts use
    rows, columns, depth, stages = tiles

    @T.prim_func
    def kernel(A: T.Tensor((m, k), dtype), B: T.Tensor((k, n), dtype), C: T.Tensor((m, n), dtype)):  # noqa: N803
        with T.Kernel(n // columns, m // rows, **dialect.launch) as (x, y):
            a = dialect.block((rows, depth), dtype)
            b = dialect.block((depth, columns), dtype)
            tile = dialect.registers((rows, columns), "float32")
            T.clear(tile)
            # While one block is multiplied the next ones are already on their way.
            for step in T.Pipelined(k // depth, num_stages=stages):
                T.copy(A[y * rows, step * depth], a)
                T.copy(B[step * depth, x * columns], b)
                T.gemm(a, b, tile)
            for i, j in dialect.each(rows, columns):
                tile[i, j] = T.max(tile[i, j] * scale, 0.0)
            T.copy(tile, C[y * rows, x * columns])

    return kernel


def attention(dialect: Dialect, batch: int, heads: int, length: int, width: int, tiles: Tiles) -> Any:
    """``softmax(Q @ K^T / sqrt(width)) @ V`` of each head, all of shape (batch, heads, length, width).

    The table of length x length scores is never stored (Dao et al., 2022). Blocks of keys pass by; each row keeps the
    largest score seen so far and the sum of exponentials under it, and rescales both when a larger one comes.
    """
    T, dtype = dialect.language, dialect.dtype  # noqa: N806
    rows, keys, _, stages = tiles
    shape = (batch, heads, length, width)
    to_log2 = math.log2(math.e) / math.sqrt(width)  # GPUs have an instruction for 2^x, none for e^x
    policy = T.GemmWarpPolicy.FullRow  # a warp owns whole rows: what it reduces over stays with it

    @T.prim_func
    def kernel(Q: T.Tensor(shape, dtype), K: T.Tensor(shape, dtype), V: T.Tensor(shape, dtype),  # noqa: N803
               O: T.Tensor(shape, dtype)):  # noqa: N803, E741 # fmt: skip
        with T.Kernel(length // rows, heads, batch, **dialect.launch) as (x, head, item):
            q = dialect.block((rows, width), dtype)
            k = dialect.block((keys, width), dtype)
            v = dialect.block((keys, width), dtype)
            scores = dialect.registers((rows, keys), "float32")
            weights = dialect.operand((rows, keys), dtype)
            tile = dialect.registers((rows, width), "float32")
            largest = dialect.registers((rows,), "float32")
            before = dialect.registers((rows,), "float32")
            shrink = dialect.registers((rows,), "float32")
            block_sum = dialect.registers((rows,), "float32")
            total = dialect.registers((rows,), "float32")
            T.copy(Q[item, head, x * rows : (x + 1) * rows, :], q)
            T.clear(tile)
            T.clear(total)
            T.fill(largest, -1e30)  # not infinity: infinity - infinity is no number
            for step in T.Pipelined(length // keys, num_stages=stages):
                T.copy(K[item, head, step * keys : (step + 1) * keys, :], k)
                T.clear(scores)
                T.gemm(q, k, scores, transpose_B=True, policy=policy)
                T.copy(largest, before)
                T.reduce_max(scores, largest, dim=1, clear=False)
                for i in dialect.each(rows):
                    shrink[i] = T.exp2((before[i] - largest[i]) * to_log2)
                for i, j in dialect.each(rows, keys):
                    scores[i, j] = T.exp2((scores[i, j] - largest[i]) * to_log2)
                T.reduce_sum(scores, block_sum, dim=1)
                for i in dialect.each(rows):
                    total[i] = total[i] * shrink[i] + block_sum[i]
                for i, j in dialect.each(rows, width):
                    tile[i, j] = tile[i, j] * shrink[i]
                T.copy(scores, weights)
                T.copy(V[item, head, step * keys : (step + 1) * keys, :], v)
                T.gemm(weights, v, tile, policy=policy)
            for i, j in dialect.each(rows, width):
                tile[i, j] = tile[i, j] / total[i]
            T.copy(tile, O[item, head, x * rows : (x + 1) * rows, :])

    return kernel
