"""A CLIP with random weights, and a diagram to look at: for where the site has neither."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

START, END = "<|startoftext|>", "<|endoftext|>"


def config() -> CLIPConfig:
    """Two layers of 64 in each tower, pictures of 64 x 64 in patches of 32."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": 512, "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1, **sizes}
    vision = {"image_size": 64, "patch_size": 32, **sizes}
    # Large weights: different texts must get different probabilities, or two wrong ones would agree.
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=32, initializer_factor=4.0)


def save(folder: Path, config: CLIPConfig, texts: Sequence[str], seed: int) -> None:
    """Write model, tokenizer and image processor to ``folder``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512, special_tokens=[START, END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 0), (END, 1)]
    )
    # CLIP's text vector is that of the end token, which its configuration must name.
    config.text_config.bos_token_id, config.text_config.eos_token_id, config.text_config.pad_token_id = 0, 1, 1
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END, model_max_length=77
    )
    fast.save_pretrained(folder)
    size = config.vision_config.image_size
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(folder)
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)


def draw_diagram() -> Image.Image:
    """Three boxes with arrows between them, on white."""
    picture = Image.new("RGB", (480, 240), "white")
    pen = ImageDraw.Draw(picture)
    for left, colour, name in ((20, "#cde", "image"), (180, "#dec", "encoder"), (340, "#edc", "vector")):
        pen.rectangle((left, 80, left + 120, 160), fill=colour, outline="black", width=2)
        pen.text((left + 36, 112), name, fill="black")
    for left in (140, 300):
        pen.line((left, 120, left + 40, 120), fill="black", width=2)
        pen.polygon(((left + 40, 120), (left + 30, 114), (left + 30, 126)), fill="black")
    return picture
