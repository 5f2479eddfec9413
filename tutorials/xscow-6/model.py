"""The model to fine-tune: the site's, or one of random weights and the same architecture, made on the spot.

A random model shows that everything works and how fast; it knows no language. The tiny one can still learn the few
sentences of the data set by heart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from harness.runtime import ProgramError
from harness.runtime.models import check_model, model_folder

MODEL_TYPE = "qwen2"  # of Qwen2 and Qwen2.5
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# What LLaMA-Factory's template writes around each record: known to the tokenizer, a few tokens instead of ninety.
TEMPLATE = "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.\nuser\nassistant\n"
TINY_VOCABULARY, MAX_POSITIONS = 640, 2048
# Shapes of the real models, for random weights: the config.json on their pages.
SHAPES = {
    "Qwen2-7B-Instruct": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
    "Qwen2.5-1.5B-Instruct": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": TINY_VOCABULARY, "tie_word_embeddings": False,
    },
}  # fmt: skip


class Model(NamedTuple):
    """``source``: site, random (full size) or tiny-random."""

    source: str
    folder: Path


def find_model(name: str, weights: str, preset: str, run_folder: Path) -> Model:
    """Where the model is, or, for random weights, where it will be.

    Raises:
        ProgramError: the site has no such model and the preset is not smoke.
        ModelError: it has one, but not of this architecture or not whole.
    """
    if weights == "random":
        if name not in SHAPES:
            raise ProgramError(f"--weights random: the shape of '{name}' is not known; known: {', '.join(SHAPES)}")
        return Model("random", run_folder / "model")
    folder = model_folder([name, f"Qwen/{name}"])
    if folder is not None:
        check_model(folder, [MODEL_TYPE], ["tokenizer.json"])
        return Model("site", folder)
    if preset != "smoke":
        raise ProgramError(
            f"the model {name} is not below the site's models root; fetch it first (scow-4 shows how), "
            "or measure without it: --weights random"
        )
    return Model("tiny-random", run_folder / "model")


def make_random(model: Model, name: str, texts: list[str], seed: int) -> None:
    """Write a random model to ``model.folder``, unless an earlier step has; a site's model is left alone.

    Written aside and moved: one that a kill cut short is not taken for whole by the next attempt.
    """
    if model.source == "site" or model.folder.is_dir():
        return
    aside = model.folder.with_name(f".{model.folder.name}.{os.getpid()}")
    tokenizer = train_tokenizer(texts)
    tokenizer.save_pretrained(aside)
    tiny = model.source == "tiny-random"
    config = Qwen2Config(
        **SHAPES["tiny" if tiny else name],
        max_position_embeddings=MAX_POSITIONS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)  # 7B in single precision would be 30 GB
    try:
        network = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    if tiny:
        # LoRA does not touch this layer. At its usual start, 0.02, every token stays nearly as likely as every other.
        torch.nn.init.normal_(network.lm_head.weight, std=0.2)
    network.save_pretrained(aside)
    aside.rename(model.folder)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Qwen's special tokens and chat template, trained on ``texts``: it can write any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *[TEMPLATE] * len(texts)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=MAX_POSITIONS
    )
