"""A Qwen2 of a megabyte that has learned a few conversations by heart: the real architecture, nothing downloaded.

Having learned something, it answers the same whether its weights are stored in 16 or 4 bits and whichever program
runs it, as long as that program is right. A random model's answers would hang on the last digit.

Torch, tokenizers and transformers are imported where they are used: the runtime library imports without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Messages = Sequence[dict[str, str]]

END, PAD = "<|im_end|>", "<|endoftext|>"
VOCABULARY = 352
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None,
}  # fmt: skip
LEARNED = 0.02  # the mean loss at which every answer is known by heart
MAX_STEPS = 600


def save_tokenizer(folder: Path, texts: Sequence[str]) -> Any:
    """Write a byte-level tokenizer trained on ``texts``, with Qwen's special tokens and chat template; return it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, "<|im_start|>", END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "user assistant system\n"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=512)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast


def save_tiny_qwen2(folder: Path, conversations: Sequence[Messages], *, seed: int = 1) -> float:
    """Write to ``folder`` a Qwen2 that knows ``conversations`` by heart; the mean loss it ended with.

    Two layers, four heads of 32 (vLLM on CPUs wants heads of 32 or more), float32.

    Raises:
        RuntimeError: it did not learn them.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return learn_by_heart(
        folder, conversations, Qwen2Config(**SHAPE, tie_word_embeddings=False), Qwen2ForCausalLM, seed
    )


def learn_by_heart(folder: Path, conversations: Sequence[Messages], config: Any, model_class: Any, seed: int) -> float:
    """Write to ``folder`` a ``model_class`` of shape ``config`` that knows ``conversations``; its last mean loss.

    Raises:
        RuntimeError: it did not learn them.
    """
    import torch

    tokenizer = save_tokenizer(folder, [message["content"] for talk in conversations for message in talk])
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(seed)
    model = model_class(config)
    text = [tokenizer.apply_chat_template(list(talk), tokenize=False) for talk in conversations]
    batch = tokenizer(text, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    # Questions cannot be known beforehand, so only answers count.
    labels = _answers_only(batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100), tokenizer)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(MAX_STEPS):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < LEARNED:
            break
    else:
        raise RuntimeError(f"the tiny model has not learned its conversations: loss {loss.item():.3f}")
    model.save_pretrained(folder)
    return float(loss.item())


def _answers_only(labels: Any, tokenizer: Any) -> Any:
    """``labels`` with all but the assistant's words (and the token that ends them) left out of the loss."""
    start = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    end = tokenizer.eos_token_id
    kept = labels.new_full(labels.shape, -100)
    for row, tokens in enumerate(labels.tolist()):
        answering = False
        for place, token in enumerate(tokens):
            if answering:
                kept[row, place] = token
                answering = token != end
            elif tokens[max(0, place - len(start) + 1) : place + 1] == start:
                answering = True
    return kept
