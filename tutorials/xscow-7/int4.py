"""What a GPTQ checkpoint holds, taken apart by hand: the judge of the kernels that compute with it.

A layer of n inputs and m outputs is stored as

- ``qweight`` int32 (n / 8, m): eight weights of 4 bits in each number, those of eight consecutive inputs;
- ``scales`` (groups, m) and ``qzeros`` int32 (groups, m / 8): one scale and one zero per output and group of inputs;
- ``g_idx`` (n,): the group of each input.

A weight is ``scale x (q - zero)``. The older of two formats, "gptq", stores each zero less one.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

BITS = 4
SHIFTS = torch.arange(0, 32, BITS, dtype=torch.int32)


def unpack(packed: Tensor) -> Tensor:
    """(a, b) int32 -> (a, 8, b) values from 0 to 15; the lowest bits come first."""
    return (packed.unsqueeze(1) >> SHIFTS.view(1, -1, 1)) & (2**BITS - 1)


def dequantize(parts: dict[str, Tensor], zero_offset: int) -> Tensor:
    """The layer's weights, (outputs, inputs) as torch.nn.Linear has them.

    The product is rounded to the scales' own type, float16, as kernels that unpack to float16 do.
    """
    quantized = unpack(parts["qweight"]).flatten(0, 1)
    zeros = unpack(parts["qzeros"].T.contiguous()).flatten(0, 1).T + zero_offset
    group = parts["g_idx"].long()
    scales = parts["scales"]
    return ((quantized - zeros[group]).to(scales.dtype) * scales[group]).float().T.contiguous()


def read_tensors(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """The checkpoint's tensors whose names begin with ``prefix``."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    return found


def plain_weights(tensors: dict[str, Tensor], zero_offset: int) -> dict[str, Tensor]:
    """The same weights without quantisation: float32, under the names a plain model has for them."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            parts = {key: tensors[f"{layer}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")}
            plain[f"{layer}.weight"] = dequantize(parts, zero_offset)
        elif part not in ("qzeros", "scales", "g_idx"):
            plain[name] = tensor.float()
    return plain


def quantized_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a loaded model that compute with packed weights."""
    # some kernels repack the weights under another name; all remember what they were made from
    return {name: module for name, module in model.named_modules() if hasattr(module, "group_size")}


@torch.no_grad()
def kernel_error(model: nn.Module, folder: Path, block: str, zero_offset: int) -> float:
    """How far the kernels of one block are from a float32 product with the dequantised weights.

    The largest difference over the largest value, of all layers whose names begin with ``block``.

    Raises:
        ValueError: there is no such layer, or the checkpoint does not have its weights: nothing was compared.
    """
    plain = plain_weights(read_tensors(folder, block), zero_offset)
    layers = {name: layer for name, layer in quantized_layers(model).items() if name.startswith(block)}
    if not layers or not all(f"{name}.weight" in plain for name in layers):
        raise ValueError(
            f"{folder}: its tensors below {block} are not those of the model's {len(layers)} packed layers"
        )
    source = torch.Generator().manual_seed(0)
    worst = 0.0
    for name, layer in layers.items():
        weight = plain[f"{name}.weight"]
        example = next(model.parameters())
        inputs = torch.randn(4, weight.shape[1], generator=source)
        expected = nn.functional.linear(inputs, weight, plain.get(f"{name}.bias"))
        computed = layer(inputs.to(example.device, example.dtype)).float().cpu()
        worst = max(worst, ((computed - expected).abs().max() / expected.abs().max()).item())
    return worst
