"""A Stable Diffusion 3 of 0.16 million random weights: the real architecture, made in a second, drawing nothing."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

END = "<|endoftext|>"
VAE_FACTS = {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False}


def clip_tokenizer() -> CLIPTokenizer:
    """Splits into bytes, each alone and at the end of a word."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", END]
    tokenizer = CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], pad_token=END)
    tokenizer.model_max_length = 77
    if len(tokenizer) != len(tokens):
        raise RuntimeError(f"the tokenizer was made with {len(tokenizer)} tokens instead of {len(tokens)}")
    return tokenizer


def clip(vocabulary: int) -> CLIPTextModelWithProjection:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=vocabulary, projection_dim=32, **sizes, **ends))


def t5_tokenizer() -> T5Tokenizer:
    """Splits into printable ASCII characters."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *map(chr, range(33, 127))]
    return T5Tokenizer(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0)


def save_tiny_sd3(folder: Path, seed: int) -> None:
    """Write the model to ``folder`` as a hub would hold it, so that it is loaded like the real one."""
    torch.manual_seed(seed)
    tokenizers = [clip_tokenizer(), clip_tokenizer(), t5_tokenizer()]
    vocabulary = len(tokenizers[2])
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=32, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
            num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64,
            pos_embed_max_size=96,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(4, 8, 8, 8), latent_channels=4, norm_num_groups=1, **VAE_FACTS,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=clip(len(tokenizers[0])), tokenizer=tokenizers[0],
        text_encoder_2=clip(len(tokenizers[1])), tokenizer_2=tokenizers[1],
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        ), tokenizer_3=tokenizers[2],
    ).save_pretrained(folder)  # fmt: skip
