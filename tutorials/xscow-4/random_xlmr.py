"""Checkpoints of XLM-RoBERTa with random weights, tiny or as large as BAAI's M3 models; nothing is downloaded.

The real architecture and tokenizer kind, so every library loads them as it loads the real ones; what they say means
nothing. Torch, tokenizers and transformers are imported where they are used: the runtime library works without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
VOCABULARY = 96  # at most; of the tokenizer, which is trained on the spot
SIZES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 514,
    },
    # config.json of BAAI/bge-m3 and BAAI/bge-reranker-v2-m3
    "random": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "max_position_embeddings": 8194, "vocab_size": 250002,
    },
}  # fmt: skip
# Deviation of the weights. A tiny model's are large, so that texts get different scores and a mistake shows in them.
SPREAD = {"tiny": 0.3, "random": 0.02}


def save_tokenizer(folder: Path, texts: Sequence[str]) -> int:
    """Write a Unigram tokenizer trained on ``texts``, with XLM-R's special tokens; its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()  # FlagEmbedding decodes tokens and encodes the text again
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", model_max_length=512,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return len(fast)


def save_model(folder: Path, texts: Sequence[str], size: str, seed: int, *, labels: int | None = None) -> Any:
    """Write model and tokenizer to ``folder``; the configuration.

    Args:
        size: a key of :data:`SIZES`.
        labels: of a classifier (1: a reranker); None: the bare encoder.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification, XLMRobertaModel

    folder.mkdir(parents=True)
    numbers = {"vocab_size": save_tokenizer(folder, texts), **SIZES[size]}
    extra = {} if labels is None else {"num_labels": labels}
    config = XLMRobertaConfig(type_vocab_size=1, initializer_range=SPREAD[size], **numbers, **extra)
    torch.manual_seed(seed)
    model = XLMRobertaModel(config) if labels is None else XLMRobertaForSequenceClassification(config)
    model.save_pretrained(folder)
    return config
