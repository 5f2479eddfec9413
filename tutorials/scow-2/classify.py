"""Say which of a few sentences describes a picture, without ever having been trained on such pictures (zero-shot).

CLIP turns pictures and texts into vectors of one space. The probability of a text is the softmax of the cosines,
scaled by a number the model has learned. transformers computes it, and this program a second time by hand.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    DataError,
    ModelError,
    ProgramArguments,
    StepRun,
    Throughput,
    check_model,
    choose_device,
    find_data,
    measure_windows,
    model_folder,
    run_program,
)

# isort: split
import argparse
import tempfile
from pathlib import Path

import tiny
import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
import transformers
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

FOLDERS = ["openai/clip-vit-base-patch32", "clip-vit-base-patch32", "ViT-B-32"]
FILES = ["preprocessor_config.json", "tokenizer.json"]
PICTURES = ["clip/diagram.png"]  # the original's picture, where the site has it


def find_model(weights: str, scratch: Path, seed: int, texts: list[str]) -> tuple[Path, str]:
    """The model's folder, and what it is."""
    if weights == "model":
        folder = model_folder(FOLDERS)
        if folder is None:
            raise ModelError(f"{FOLDERS[0]} is not below the models root; fetch it, or use --weights tiny or random")
        check_model(folder, ["clip"], FILES, says={"projection_dim": 512})
        return folder, "clip-vit-base-patch32"
    if weights not in ("tiny", "random"):
        raise ModelError(f"--weights is '{weights}'; valid: model, random, tiny")
    config = CLIPConfig() if weights == "random" else tiny.config()  # the class's defaults are ViT-B/32
    tiny.save(scratch / "clip", config, texts, seed)
    return scratch / "clip", "tiny-random" if weights == "tiny" else "random"


def find_picture(wanted: str) -> tuple[Image.Image, str]:
    """The picture asked for, the site's, or one that is drawn here.

    Raises:
        DataError: the file is no picture, or a broken one.
    """
    path = Path(wanted) if wanted else find_data(*PICTURES)
    if path is None:
        return tiny.draw_diagram(), "drawn"
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB"), "file" if wanted else "diagram"
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a picture, or a broken one: {error}") from error


@torch.no_grad()
def by_hand(model: CLIPModel, inputs: dict[str, Tensor]) -> Tensor:
    """Probabilities of the texts from the two towers' vectors: cosines, scaled, softmax."""
    vision = model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
    text = model.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    pictures = F.normalize(model.visual_projection(vision), dim=-1)
    texts = F.normalize(model.text_projection(text), dim=-1)
    scores = model.logit_scale.exp() * pictures @ texts.T
    powers = (scores - scores.max(dim=-1, keepdim=True).values).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def classify(run: StepRun, args: argparse.Namespace, scratch: Path) -> None:
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(torch=torch.__version__, transformers=transformers.__version__)
    texts = [text.strip() for text in args.texts.split("|") if text.strip()]
    if len(texts) < 2:
        raise DataError(f"--texts is '{args.texts}': two texts or more are needed, with | between them")
    with run.phase("load"):
        picture, data_source = find_picture(args.picture)
        folder, model_source = find_model(args.weights, scratch, args.seed, texts)
        processor = CLIPProcessor.from_pretrained(folder)
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    run.output("model_source", model_source)
    run.output("data_source", data_source)

    with run.phase("evaluate"):
        grey = Image.new("RGB", picture.size, (128, 128, 128))
        both = processor(text=texts, images=[picture, grey], return_tensors="pt", padding=True).to(device)
        with torch.no_grad():
            probabilities, of_grey = model(**both).logits_per_image.softmax(dim=-1)
        inputs = {**both, "pixel_values": both["pixel_values"][:1]}
        again = by_hand(model, inputs)[0]
    for text, probability in zip(texts, probabilities.tolist(), strict=True):
        print(f"{probability:.4f}  {text}")
    run.output("probabilities", probabilities.tolist())
    run.output("probability_first", probabilities[0].item())
    run.output("probability_sum", probabilities.sum().item())
    run.output("probability_spread", (probabilities.max() - probabilities.min()).item())
    run.output("probability_difference", (probabilities - again).abs().max().item())
    # Were the picture not looked at, a grey one would be described as it is.
    run.output("picture_matters", (probabilities - of_grey).abs().max().item())
    run.output("most_likely", texts[int(probabilities.argmax())])
    picture.save(run.output_file("picture.png"))

    # Throughput: pictures through the vision tower, in the half precision that GPUs of any age are fast at.
    half = device.type == "cuda"
    pixels = inputs["pixel_values"].repeat(args.batch_size, 1, 1, 1)
    if half:
        model, pixels = model.half(), pixels.half()
    run.output("precision", "float16" if half else "float32")
    meter = Throughput(warm_up=2, synchronize=torch.cuda.synchronize if half else lambda: None)

    @torch.no_grad()
    def encode(batches: int) -> None:
        for _ in range(batches):
            model.get_image_features(pixel_values=pixels)

    measure_windows(meter, encode, args.batch_size, windows=args.windows, seconds=args.window_seconds)
    run.throughput("encode_throughput", meter, unit="images/s")
    print(f"{model_source}: {meter.median:.1f} images/s on {facts.name}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("weights", "model", "model: the site's CLIP; random: as large; tiny: random and tiny")
    arguments.parameter("texts", "a diagram|a dog|a cat", "what may be in the picture, with | between")
    arguments.parameter("picture", "", "a picture's path; empty: the site's diagram, else one drawn here")
    arguments.parameter("batch_size", 256, "pictures at a time while timing", minimum=1)
    arguments.parameter("windows", 5, "timed windows", minimum=1)
    arguments.parameter("window_seconds", 1.0, "about so long each", minimum=0)
    arguments.parameter("seed", 1, "of random weights", minimum=0)
    args = arguments.parse_args()
    with (
        StepRun.from_environment("classify", tutorial="scow-2", parameters=vars(args)) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        classify(run, args, Path(scratch))


if __name__ == "__main__":
    run_program(main)
