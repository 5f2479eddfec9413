"""Getting hold of a Stable Diffusion 3: the site's, a tiny one, or the full size with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging
from tiny_sd3 import VAE_FACTS, save_tiny_sd3

from harness.runtime.errors import ModelError, ProgramError
from harness.runtime.models import check_weights, model_folder

FOLDERS = [
    "stable-diffusion-3-medium-diffusers",
    "stabilityai/stable-diffusion-3-medium-diffusers",
    "AI-ModelScope/stable-diffusion-3-medium-diffusers",
]
PIPELINE = "StableDiffusion3Pipeline"
CONFIGURED = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
# Of SD3-medium, from its model card and its transformer's and VAE's published configurations.
FULL_TRANSFORMER = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "pos_embed_max_size": 192, "attention_head_dim": 64, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
}  # fmt: skip
FULL_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 1024,
}  # fmt: skip
PROMPT_TOKENS = 77 + 256  # what the two CLIPs and the T5 say about a prompt, one after the other


def find_model(weights: str, folder: str, scratch: Path) -> Path | None:
    """The folder to load from, checked; None where ``weights`` is random.

    Raises:
        ModelError: the site has no such model, or it is damaged or another one: said before minutes of loading.
    """
    if weights == "random":
        return None
    if weights == "tiny":
        logging.disable_progress_bar()
        save_tiny_sd3(scratch / "tiny-sd3", seed=0)
        return scratch / "tiny-sd3"
    found = Path(folder) if folder else model_folder(FOLDERS)
    if found is None:
        raise ModelError(
            f"no {FOLDERS[0]} below the site's models root; fetch it, name its folder with --model, "
            "or draw nothing with --weights random (full size) or tiny"
        )
    check_folder(found)
    return found


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no whole Stable Diffusion 3; reads a few kilobytes.

    Raises:
        ModelError: names the file.
    """
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except FileNotFoundError:
        raise ModelError(f"{index}: no such file; not a model in the layout of diffusers") from None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{index}: cannot be read: {error}") from error
    if kind != PIPELINE:
        raise ModelError(f"{folder}: is a '{kind}', this program needs a {PIPELINE}")
    for part in CONFIGURED:
        weights = sorted((folder / part).glob("*.safetensors"))
        if not (folder / part / "config.json").is_file() or not weights:
            raise ModelError(f"{folder / part}: no config.json with *.safetensors beside it; the model is incomplete")
        for path in weights:
            check_weights(path)
    for part in TOKENIZERS:
        if not any((folder / part / name).is_file() for name in ("tokenizer.json", "vocab.json", "spiece.model")):
            raise ModelError(f"{folder / part}: no vocabulary in it; the model is incomplete")


def load(folder: Path, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The model of ``folder``, on the CPU.

    Raises:
        ModelError: the files are whole, and still not what they should be.
    """
    try:
        pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder}: cannot be loaded: {str(error).splitlines()[0]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def full_size(dtype: torch.dtype, device: torch.device, seed: int) -> StableDiffusion3Pipeline:
    """Transformer and decoder of the real size with random weights, for measuring; it cannot read a prompt.

    Random, never zero: a GPU multiplies zeros with less power, and faster.
    """
    torch.manual_seed(seed)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            transformer, vae = SD3Transformer2DModel(**FULL_TRANSFORMER), AutoencoderKL(**FULL_VAE, **VAE_FACTS)
    finally:
        torch.set_default_dtype(usual)
    none = dict.fromkeys(
        ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = StableDiffusion3Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **none)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_prompts(
    pipeline: StableDiffusion3Pipeline, prompt: str, negative: str, device: torch.device
) -> dict[str, Any]:
    """What the transformer is told, once for all pictures; the text encoders leave the GPU again, 11 GB of 16."""
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    config = pipeline.transformer.config
    if pipeline.tokenizer is None:
        shapes = [(1, PROMPT_TOKENS, config.joint_attention_dim)] * 2 + [(1, config.pooled_projection_dim)] * 2
        values = [torch.randn(shape, dtype=pipeline.transformer.dtype, device=device) for shape in shapes]
        return dict(zip(names, values, strict=True))
    if len(prompt.strip()) == 0:
        raise ProgramError("--prompt is empty: say what to draw")
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3)
    for encoder in encoders:
        encoder.to(device)
    with torch.no_grad():
        values = pipeline.encode_prompt(prompt, None, None, device=device, negative_prompt=negative)
    for encoder in encoders:
        encoder.to("cpu")
    return dict(zip(names, values, strict=True))
