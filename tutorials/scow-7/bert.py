"""The BERT to fine-tune: the site's, or one of random weights and the same architecture, as large or tiny."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from harness.runtime import ModelError, check_model, model_folder

FOLDERS = ["google-bert/bert-base-uncased", "bert-base-uncased"]
FILES = ["vocab.txt"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
# From nothing, a tiny BERT learns only without dropout and with weights that tell the words apart from the beginning.
TINY_START = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}


def load_model(weights: str, seed: int, texts: list[str]) -> tuple[str, Any, Any]:
    """What the model is, its tokenizer, and the model with a new head for two classes.

    Args:
        weights: model, the site's; random, as large; tiny.
        seed: of the head, and of random weights.
        texts: what the tokenizer of random weights is made from.

    Raises:
        ModelError: the site has no such model, or another of that name; or ``weights`` is something else.
    """
    if weights == "model":
        folder = model_folder(FOLDERS)
        if folder is None:
            raise ModelError(f"{FOLDERS[0]} is not below the models root; fetch it, or use --weights tiny or random")
        check_model(folder, ["bert"], FILES, says={"hidden_size": 768, "num_hidden_layers": 12})
        torch.manual_seed(seed)
        model = BertForSequenceClassification.from_pretrained(folder, num_labels=2)
        return "bert-base-uncased", AutoTokenizer.from_pretrained(folder), model
    if weights not in ("tiny", "random"):
        raise ModelError(f"--weights is '{weights}'; valid: model, random, tiny")
    tokenizer = train_tokenizer(texts)
    # the defaults are bert-base
    sizes = {"vocab_size": len(tokenizer), **TINY, **TINY_START} if weights == "tiny" else {}
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(num_labels=2, **sizes))
    return "tiny-random" if weights == "tiny" else "random", tokenizer, model


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of BERT's kind, made from the texts at hand."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names,
    )  # fmt: skip
