"""What decides how fast a network trains, chosen from what the device can do, and recorded. Torch is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Speed:
    """Chosen settings.

    Attributes:
        dtype: what matrix products are computed in under :meth:`autocast`; None: single precision throughout.
        settings: all choices by name, for the result.
    """

    torch: Any
    device: Any
    dtype: Any
    settings: dict[str, object]

    def autocast(self) -> Any:
        """The context in which the forward pass and the loss are computed."""
        return self.torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def scaler(self) -> Any:
        """A gradient scaler: half precision underflows without one; with every other precision it does nothing."""
        return self.torch.amp.GradScaler(self.device.type, enabled=self.dtype is self.torch.float16)


def choose_speed(torch: Any, device: Any) -> Speed:
    """Mixed precision and TF32 where the GPU has them, kernels chosen by trying (the shapes never change), NHWC.

    bfloat16 from compute capability 8.0 on; float16 on 7.x, whose tensor cores know nothing else; single precision on
    older GPUs and on the CPU, where results are compared bit by bit.
    """
    dtype = None
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        dtype = torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else None
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = False
    settings: dict[str, object] = {
        "amp": "none" if dtype is None else str(dtype).removeprefix("torch."),
        "tf32": device.type == "cuda",
        "cudnn_benchmark": True,
        "cudnn_deterministic": False,
        "channels_last": True,
    }
    return Speed(torch, device, dtype, settings)
