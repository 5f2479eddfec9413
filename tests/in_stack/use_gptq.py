"""GPTQModel quantises a tiny Qwen2 to 4 bits; transformers loads the result and generates with it."""

from pathlib import Path

import tiny_qwen2
import torch
from gptqmodel import GPTQModel, QuantizeConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

plain = tiny_qwen2.save(Path("qwen2"))
small = Path("qwen2-int4")
settings = QuantizeConfig(bits=4, group_size=32, desc_act=False, offload_to_disk=False)
model = GPTQModel.load(str(plain), settings)
model.quantize([f"Who are you? I am assistant number {number}. " * 4 for number in range(32)], batch_size=1)
model.save(str(small))

loaded = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
assert any("qweight" in name for name, _ in loaded.named_buffers()), "the layers are quantised"
tokens = AutoTokenizer.from_pretrained(small)("Who are you?", return_tensors="pt")
assert loaded.generate(**tokens, max_new_tokens=8, min_new_tokens=8).shape[1] == tokens.input_ids.shape[1] + 8
