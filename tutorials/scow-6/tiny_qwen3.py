"""A Qwen3 of a megabyte that has learned a few conversations by heart, as :mod:`tiny_qwen2` has it.

Qwen3 differs from Qwen2 in what a checkpoint holds: heads whose width is set on its own, norms of queries and keys,
no biases; and, as the published 4B model, one matrix for the embedding and the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiny_qwen2 import SHAPE, Messages, learn_by_heart

HEAD_DIM = 32  # vLLM on CPUs wants heads of 32 or more


def save_tiny_qwen3(folder: Path, conversations: Sequence[Messages], *, seed: int = 1) -> float:
    """Write to ``folder`` a model that knows ``conversations`` by heart; the mean loss it ended with.

    Raises:
        RuntimeError: it did not learn them.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**SHAPE, head_dim=HEAD_DIM, tie_word_embeddings=True)
    return learn_by_heart(folder, conversations, config, Qwen3ForCausalLM, seed)
