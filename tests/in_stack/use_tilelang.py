"""Every preset of scow-14 is lowered for GPUs that are not here: its tiles fit their shared memory."""

import sys
from pathlib import Path

import tomllib

REPOSITORY = Path(sys.argv[1])
TUTORIAL = REPOSITORY / "tutorials/scow-14"
sys.path[:0] = [str(REPOSITORY), str(TUTORIAL)]

from gemm import THREADS  # noqa: E402
from kernels import Tiles, attention, attention_tiles, scaled_relu_matmul  # noqa: E402
from versus import cuda_dialect, shared_memory  # noqa: E402

# bytes that a block may have of a GPU's shared memory: the CUDA programming guide, technical specifications
LIMITS = {(7, 0): 98304, (7, 5): 65536, (8, 0): 166912, (8, 6): 101376, (8, 9): 101376, (9, 0): 232448}

tutorial = tomllib.loads((TUTORIAL / "tutorial.toml").read_text(encoding="utf-8"))
usual = {step["name"]: step["parameters"] for step in tutorial["steps"]}
presets = [preset.get("steps", {}) for preset in tutorial["presets"].values()]
seen = set()
for capability, limit in LIMITS.items():
    major, minor = capability
    target = {"kind": "cuda", "arch": f"sm_{major}{minor}" + "a" * (major == 9)}
    for preset in presets:
        gemm = usual["gemm"] | preset.get("gemm", {})
        attend = usual["attention"] | preset.get("attention", {})
        size = gemm["size"]
        tiles = Tiles(gemm["tile_rows"], gemm["tile_columns"], gemm["tile_depth"], gemm["stages"])
        length, width = attend["length"], attend["head_width"]
        asked = Tiles(attend["tile_rows"], attend["tile_keys"], width, attend["stages"])
        rows, threads = attention_tiles(asked, capability)
        if (capability, size, length) in seen:
            continue  # another number of sequences
        seen.add((capability, size, length))
        assert length % rows.rows == length % rows.columns == 0, (capability, rows)
        dialect = cuda_dialect(capability, THREADS)
        kernels = {
            "gemm": scaled_relu_matmul(dialect, size, size, size, tiles, gemm["scale"]),
            "attention": attention(cuda_dialect(capability, threads), 1, attend["heads"], length, width, rows),
        }
        for name, kernel in kernels.items():
            needed = shared_memory(kernel, target)
            assert 0 < needed <= limit, f"{name} on {major}.{minor}: {needed:,} bytes, there are {limit:,}"
