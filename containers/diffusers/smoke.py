"""Shows that this image's libraries load and compute; a few seconds on a CPU, no downloads, writes nothing."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

assert CLIPTokenizerFast
assert T5TokenizerFast

torch.manual_seed(0)
CLIP = CLIPTextConfig(
    vocab_size=32,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    projection_dim=32,
    eos_token_id=2,
    bos_token_id=0,
)
PIPELINE = StableDiffusion3Pipeline(
    transformer=SD3Transformer2DModel(
        sample_size=32,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=96,
    ),
    scheduler=FlowMatchEulerDiscreteScheduler(),
    vae=AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    ),
    text_encoder=CLIPTextModelWithProjection(CLIP),
    tokenizer=None,
    text_encoder_2=CLIPTextModelWithProjection(CLIP),
    tokenizer_2=None,
    text_encoder_3=T5EncoderModel(T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
    tokenizer_3=None,
)
PIPELINE.set_progress_bar_config(disable=True)
image = PIPELINE(
    prompt_embeds=torch.randn(1, 8, 32),
    pooled_prompt_embeds=torch.randn(1, 64),
    guidance_scale=1.0,
    num_inference_steps=2,
    height=64,
    width=64,
).images[0]
assert image.size == (64, 64)
