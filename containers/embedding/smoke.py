"""Shows that this image's libraries load and compute; a few seconds on a CPU, no downloads, writes nothing."""

import FlagEmbedding
import sentence_transformers
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = torch.tensor([[0, 5, 6, 2]])

assert FlagEmbedding.BGEM3FlagModel
assert FlagEmbedding.FlagReranker
assert sentence_transformers.SentenceTransformer

with torch.no_grad():
    encoder = XLMRobertaModel(XLMRobertaConfig(vocab_size=32, **TINY)).eval()
    assert encoder(TOKENS).last_hidden_state.shape == (1, 4, 64)

    classifier = BertForSequenceClassification(BertConfig(vocab_size=32, num_labels=2, **TINY)).eval()
    assert classifier(TOKENS).logits.isfinite().all()

    # Without torchvision transformers takes the image processor that works with pillow.
    sizes = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    pixels = CLIPImageProcessor(**sizes)(Image.new("RGB", (96, 80), "white"), return_tensors="pt").pixel_values
    text = {"vocab_size": 32, "eos_token_id": 2, "bos_token_id": 0, **TINY}
    vision = {"image_size": 64, "patch_size": 32, **TINY}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
    assert clip(input_ids=TOKENS, pixel_values=pixels).logits_per_image.shape == (1, 1)
