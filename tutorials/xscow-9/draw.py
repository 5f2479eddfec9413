"""Draw pictures from a sentence with Stable Diffusion 3: noise, made a little less noisy many times, then decoded."""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, choose_device, read_prompt, run_program

# isort: split
import argparse
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from sd3 import find_model, full_size, load, read_prompts

SOURCES = {"site": "site", "tiny": "tiny-random", "random": "full-random"}


def first_noise(pipeline: StableDiffusion3Pipeline, size: int, seed: int, device: torch.device) -> torch.Tensor:
    """The noise a picture begins as. Drawn on the CPU in single precision: the same on every device."""
    side, channels = size // pipeline.vae_scale_factor, pipeline.transformer.config.in_channels
    noise = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return noise.to(device, pipeline.transformer.dtype)


def denoise(
    pipeline: StableDiffusion3Pipeline, told: dict[str, Any], noise: torch.Tensor, args: argparse.Namespace
) -> torch.Tensor:
    """``args.steps`` steps from noise to a latent picture, an eighth as wide and high as the picture."""
    return pipeline(
        **told, latents=noise, num_inference_steps=args.steps, guidance_scale=args.guidance,
        height=args.size, width=args.size, output_type="latent",
    ).images  # fmt: skip


@torch.no_grad()
def denoise_by_hand(
    pipeline: StableDiffusion3Pipeline, told: dict[str, Any], latent: torch.Tensor, args: argparse.Namespace
) -> torch.Tensor:
    """The same in a few lines: the transformer says which way the picture lies, a step goes a part of that way.

    Guidance goes further than the prompt says, away from what the negative prompt says.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(args.steps, device=latent.device)
    for time, now, then in zip(scheduler.timesteps, scheduler.sigmas[:-1], scheduler.sigmas[1:], strict=True):
        wanted, unwanted = (
            pipeline.transformer(
                hidden_states=latent, timestep=time.expand(1), encoder_hidden_states=told[f"{kind}prompt_embeds"],
                pooled_projections=told[f"{kind}pooled_prompt_embeds"], return_dict=False,
            )[0]
            for kind in ("", "negative_")
        )  # fmt: skip
        direction = unwanted + args.guidance * (wanted - unwanted)
        latent = (latent.float() + (then - now) * direction.float()).to(direction.dtype)
    return latent


@torch.no_grad()
def decode(pipeline: StableDiffusion3Pipeline, latent: torch.Tensor) -> torch.Tensor:
    """The picture as bytes, of shape (height, width, 3), on the CPU."""
    vae = pipeline.vae
    pixels = vae.decode(latent / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0][0]
    return ((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0)


def draw(run: StepRun, args: argparse.Namespace) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(torch=torch.__version__, diffusers=diffusers.__version__, transformers=transformers.__version__)
    torch.backends.cudnn.benchmark = False  # a race between kernels has another winner every day: other last digits
    # The tiny model is there to compare two ways of computing: exactly, also where TF32 would be quicker.
    torch.backends.cudnn.allow_tf32 = args.weights != "tiny"
    dtype = torch.float16 if device.type == "cuda" and args.weights != "tiny" else torch.float32
    run.output("precision", str(dtype).removeprefix("torch."))
    run.output("model_source", SOURCES[args.weights])
    prompt = read_prompt(Path(args.prompt_file)) if args.prompt_file else args.prompt
    with run.phase("load"), tempfile.TemporaryDirectory(prefix="sd3-") as scratch:
        folder = find_model(args.weights, args.model, Path(scratch))
        pipeline = full_size(dtype, device, args.seed) if folder is None else load(folder, dtype)
    with run.phase("read_prompts"):
        told = read_prompts(pipeline, prompt, args.negative_prompt, device)
        pipeline.transformer.to(device)
        pipeline.vae.to(device)

    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    seen: list[torch.Tensor] = []
    for number in range(args.images):
        noise = first_noise(pipeline, args.size, args.seed + number, device)
        with meter.window(units=args.steps):
            latent = denoise(pipeline, told, noise, args)
        with run.phase("decode"):
            seen.append(decode(pipeline, latent))
            Image.fromarray(seen[-1].numpy()).save(run.output_file(f"{number}.png"))
        print(f"{number}.png: seed {args.seed + number}, {meter.last.rate:.2f} steps per second", flush=True)
    run.throughput("denoising_speed", meter, unit="it/s")

    with run.phase("again"):  # the first once more, after all others: only its seed may matter
        noise = first_noise(pipeline, args.size, args.seed, device)
        again = decode(pipeline, denoise(pipeline, told, noise, args))
        run.output("same_seed_same_picture", torch.equal(again, seen[0]))
        if args.weights == "tiny":  # in half precision over 70 steps two ways of rounding drift apart
            latent, by_hand = denoise(pipeline, told, noise, args), denoise_by_hand(pipeline, told, noise, args)
            run.output("difference_by_hand", (latent - by_hand).abs().max().item())
    print(f"{args.images} pictures, {meter.median:.2f} steps per second, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    # The original asks for a portrait of Einstein and names what pictures should not have; these words are ours.
    arguments.parameter(
        "prompt",
        "A portrait photograph of Albert Einstein, smiling, in front of a blackboard full of equations, soft light",
        "what to draw",
    )
    arguments.parameter(
        "negative_prompt",
        "blurry, low quality, deformed hands, extra fingers, text, watermark",
        "what not to draw",
    )
    arguments.parameter("prompt_file", "", "a UTF-8 text file with the prompt; wins over --prompt")
    arguments.parameter("images", 10, "pictures, each from a seed of its own", minimum=2)
    arguments.parameter("size", 1024, "width and height in pixels, a multiple of 16", minimum=16)
    arguments.parameter("steps", 70, "from noise to picture", minimum=1)
    arguments.parameter("guidance", 7.0, "how much further to go than the prompt says", minimum=1.01)
    arguments.parameter("seed", 0, "of the first picture; the next ones count on", minimum=0)
    arguments.parameter("weights", "site", "site: the site's model; tiny, random: see sd3.py")
    arguments.parameter("model", "", "folder of the model; empty: look below the site's models root")
    args = arguments.parse_args()
    if args.weights not in SOURCES:
        arguments.error(f"--weights: '{args.weights}' is none of {', '.join(SOURCES)}")
    if args.size % 16:
        arguments.error(f"--size: {args.size} is no multiple of 16")
    with StepRun.from_environment("draw", tutorial="xscow-9", parameters=vars(args)) as run:
        draw(run, args)


if __name__ == "__main__":
    run_program(main)
