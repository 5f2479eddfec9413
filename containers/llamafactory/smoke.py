"""Shows that this image's libraries load and compute; a few seconds on a CPU, no downloads, writes nothing."""

import peft
import torch
import torchaudio
import torchvision
from llamafactory.extras.env import VERSION
from llamafactory.train.tuner import export_model, run_exp
from transformers import Qwen2Config, Qwen2ForCausalLM

assert VERSION
assert run_exp
assert export_model
assert torchaudio.__version__

# The model that the tutorials train, tiny and random: one step of LoRA on all its linear layers.
MODEL = Qwen2ForCausalLM(
    Qwen2Config(
        vocab_size=352,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
)
adapted = peft.get_peft_model(MODEL, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
tokens = torch.randint(0, 352, (2, 16))
adapted(input_ids=tokens, labels=tokens).loss.backward()
changed = [p.grad for n, p in adapted.named_parameters() if "lora_B" in n]
assert changed
assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in changed)

assert torchvision.transforms.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)
