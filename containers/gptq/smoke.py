"""Shows that this image's libraries load and compute; a few seconds on a CPU, no downloads, writes nothing."""

import optimum.gptq
import pcre
import torch
from gptqmodel import GPTQModel
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from transformers import GPTQConfig
from transformers.utils import is_gptqmodel_available, is_optimum_available

assert GPTQModel.load
assert GPTQConfig
assert optimum.gptq.GPTQQuantizer
assert is_gptqmodel_available()
assert is_optimum_available()
assert pcre.compile("a+").match("aa"), "compiled while the image was built"

# A layer whose weights are multiples of its scale survives packing to 4 bits as it is.
SIZE, GROUP, SCALE, ZERO = 64, 32, 0.25, 8
torch.manual_seed(0)
linear = torch.nn.Linear(SIZE, SIZE, bias=False)
with torch.no_grad():
    linear.weight.copy_(torch.randint(-7, 8, (SIZE, SIZE)) * SCALE)
packed = TorchLinear(
    bits=4, group_size=GROUP, sym=True, desc_act=False, in_features=SIZE, out_features=SIZE, register_buffers=True
)
shape = (SIZE, SIZE // GROUP)
packed.pack_original(linear, torch.full(shape, SCALE), torch.full(shape, float(ZERO)), torch.arange(SIZE) // GROUP)
torch.testing.assert_close(packed.dequantize_weight().T.float(), linear.weight.detach())
