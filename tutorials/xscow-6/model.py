"""The model to fine-tune: the site's, or one of random weights and the same architecture, made on the spot.

A random model shows that everything works and how fast; it knows no language. The tiny one can still learn the few
sentences of the data set by heart.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from harness.runtime import ModelError, ProgramError
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
    "Qwen2.5-7B-Instruct": {
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
        ProgramError: the site has no such model and the preset is not smoke; or no room for random weights.
        ModelError: it has one, but not of this architecture or size, or not whole.
    """
    if weights == "random":
        if name not in SHAPES:
            raise ProgramError(f"--weights random: the shape of '{name}' is not known; known: {', '.join(SHAPES)}")
        if not (run_folder / "model").is_dir():
            check_room(run_folder, SHAPES[name])
        return Model("random", run_folder / "model")
    folder = model_folder([name, f"Qwen/{name}"])
    if folder is not None:
        config = check_model(folder, [MODEL_TYPE], ["tokenizer.json"])
        check_size(folder, config, SHAPES.get(name, {}))
        return Model("site", folder)
    if preset != "smoke":
        raise ProgramError(
            f"the model {name} is not below the site's models root; fetch it first (scow-4 shows how), "
            "or measure without it: --weights random"
        )
    return Model("tiny-random", run_folder / "model")


def check_size(folder: Path, config: dict[str, Any], shape: dict[str, Any]) -> None:
    """Refuse a model that is larger or smaller than its name says, before minutes of loading.

    Raises:
        ModelError: names the first number that differs.
    """
    for key in ("hidden_size", "num_hidden_layers"):
        if key in shape and config.get(key) != shape[key]:
            raise ModelError(
                f"{folder}: its {key} is {config.get(key)}, not {shape[key]}: another model than its name says"
            )


def check_room(folder: Path, shape: dict[str, Any]) -> None:
    """Say what a random model takes on disk, itself and merged, in 16 bits; 30 GB for 7B.

    Raises:
        ProgramError: ``folder``'s disk has less.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * shape["intermediate_size"]
    embeddings = (1 if shape["tie_word_embeddings"] else 2) * shape["vocab_size"] * hidden
    needed = 2 * 2 * (layers * layer + embeddings)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ProgramError(
            f"--weights random: {folder} has {free / 1e9:.1f} GB free, the model and the merged one take "
            f"{needed / 1e9:.1f} GB; make room, or choose a smaller --model"
        )
    print(f"random weights: up to {needed / 1e9:.1f} GB in {folder}; remove the run when you have judged it")


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
