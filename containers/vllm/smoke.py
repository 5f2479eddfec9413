"""Shows that this image's libraries load and compute; a few seconds on a CPU, no downloads, writes nothing."""

from importlib.metadata import version

import torch
import torchvision
from vllm import LLM, SamplingParams, _custom_ops
from vllm.platforms import current_platform

assert torchvision.__version__
assert LLM
assert SamplingParams(max_tokens=1).max_tokens == 1
assert "cpu" in version("vllm"), "the command `vllm` finds its platform by this"
assert current_platform.is_cpu()

# One of vLLM's own compiled kernels against the formula.
torch.manual_seed(0)
values, weights, small = torch.randn(4, 64), torch.rand(64), 1e-6
result = torch.empty_like(values)
_custom_ops.rms_norm(result, values, weights, small)
torch.testing.assert_close(result, values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + small) * weights)
