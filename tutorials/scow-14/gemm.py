"""A matrix product with its activation in one TileLang kernel, checked against torch and timed against it."""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, run_program

# isort: split
import argparse

import torch
from kernels import Tiles, scaled_relu_matmul
from versus import choose_dialect, compile_kernel, need_multiple, race, worst_error

THREADS = 128  # of each tile: four warps of 32


def multiply(run: StepRun, args: argparse.Namespace) -> None:
    for tile in ("tile_rows", "tile_columns", "tile_depth"):
        need_multiple("size", args.size, tile, getattr(args, tile))
    device, dtype, dialect = choose_dialect(run, THREADS)
    size, tiles = args.size, Tiles(args.tile_rows, args.tile_columns, args.tile_depth, args.stages)
    kernel = compile_kernel(run, scaled_relu_matmul(dialect, size, size, size, tiles, args.scale), dialect)

    torch.manual_seed(args.seed)
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    result = torch.full_like(a, torch.nan)  # what the kernel does not write is seen

    def ours() -> torch.Tensor:
        kernel(a, b, result)
        return result

    def torchs() -> torch.Tensor:
        return torch.relu(a @ b * args.scale)

    torch.set_float32_matmul_precision("highest")  # the reference: no shortcuts
    reference = torch.relu(a.float() @ b.float() * args.scale)
    error = worst_error(ours(), reference)
    run.output("gemm_error", error)
    run.output("gemm_torch_error", worst_error(torchs(), reference))
    run.output("share_of_zeros", (result == 0).float().mean().item())
    print(f"{size} x {size} x {size} in {dialect.dtype}: worst error {error:.1e}")
    race(run, "gemm", ours, torchs, 2 * size**3, args.calls, args.windows)


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("size", 1024, "rows and columns of both matrices", minimum=1)
    arguments.parameter("tile_rows", 64, "rows of a tile of the result", minimum=1)
    arguments.parameter("tile_columns", 64, "columns of a tile of the result", minimum=1)
    arguments.parameter("tile_depth", 32, "steps of the sum that are fetched at once", minimum=1)
    arguments.parameter("stages", 3, "blocks that are fetched ahead", minimum=1)
    arguments.parameter("scale", 0.5, "the product is multiplied by it before ReLU")
    arguments.parameter("calls", 200, "calls that make one timed window", minimum=1)
    arguments.parameter("windows", 9, "timed windows after the warm-up", minimum=3)
    arguments.parameter("seed", 1, "of the matrices", minimum=0)
    args = arguments.parse_args()
    with StepRun.from_environment("gemm", tutorial="scow-14", parameters=vars(args)) as run:
        multiply(run, args)


if __name__ == "__main__":
    run_program(main)
