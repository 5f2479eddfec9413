"""Attention as one TileLang kernel that never stores the scores, checked against torch and timed against it."""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, run_program

# isort: split
import argparse

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from kernels import Tiles, attention, attention_tiles
from versus import choose_dialect, compile_kernel, need_multiple, race, worst_error

THREADS = 256  # of each tile at most: eight warps; on Hopper two groups of four, 64 rows each


def attend(run: StepRun, args: argparse.Namespace) -> None:
    device, dtype, dialect = choose_dialect(run, THREADS)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    asked = Tiles(args.tile_rows, args.tile_keys, args.head_width, args.stages)
    tiles, threads = attention_tiles(asked, capability)
    need_multiple("length", args.length, "tile_rows", tiles.rows)
    need_multiple("length", args.length, "tile_keys", tiles.columns)
    run.output("tiles", tiles._asdict())
    if dialect.threads is not None:
        dialect = dialect._replace(threads=threads)
    shape = (args.batch, args.heads, args.length, args.head_width)
    kernel = compile_kernel(run, attention(dialect, *shape, tiles), dialect)

    torch.manual_seed(args.seed)
    # Three times as large as usual: the softmax is far from even, and the largest score changes as blocks pass by.
    q = 3 * torch.randn(shape, dtype=dtype, device=device)
    k, v = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
    result = torch.full_like(q, torch.nan)  # what the kernel does not write is seen

    def ours() -> torch.Tensor:
        kernel(q, k, v, result)
        return result

    def torchs() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    torch.set_float32_matmul_precision("highest")  # the reference: no shortcuts, and the scores are stored
    scores = q[:1].float() @ k[:1].float().transpose(-1, -2) / args.head_width**0.5
    reference = scores.softmax(-1) @ v[:1].float()
    error = worst_error(ours()[:1], reference)
    run.output("attention_error", error)
    run.output("attention_torch_error", worst_error(torchs()[:1], reference))
    # The other items of the batch against torch's own kernel; the table of scores of all would not fit.
    run.output("attention_difference", worst_error(result, torchs()))
    run.output("mean_of_largest_weight", scores.softmax(-1).amax(-1).mean().item())
    print(f"{' x '.join(map(str, shape))} in {dialect.dtype}: worst error {error:.1e}")
    flop = 4 * args.batch * args.heads * args.length**2 * args.head_width
    race(run, "attention", ours, torchs, flop, args.calls, args.windows)


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("batch", 8, "sequences", minimum=1)
    arguments.parameter("heads", 16, "of each sequence", minimum=1)
    arguments.parameter("length", 2048, "tokens of a sequence", minimum=1)
    arguments.parameter("head_width", 128, "numbers by which a head describes a token", minimum=1)
    arguments.parameter("tile_rows", 128, "queries of a tile of the result", minimum=1)
    arguments.parameter("tile_keys", 64, "keys that are fetched at once", minimum=1)
    arguments.parameter("stages", 2, "blocks of keys that are fetched ahead", minimum=1)
    arguments.parameter("calls", 10, "calls that make one timed window", minimum=1)
    arguments.parameter("windows", 9, "timed windows after the warm-up", minimum=3)
    arguments.parameter("seed", 1, "of the inputs", minimum=0)
    args = arguments.parse_args()
    with StepRun.from_environment("attention", tutorial="scow-14", parameters=vars(args)) as run:
        attend(run, args)


if __name__ == "__main__":
    run_program(main)
