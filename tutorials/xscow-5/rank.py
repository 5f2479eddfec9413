"""Say how relevant passages are to a question, with a cross-encoder that reads both at once.

A reranker's score is one number per pair; the logistic function makes it a relevance from 0 to 1. FlagEmbedding
computes it, and plain transformers a second time.
"""

# First: this import marks the moment the program began.
from random_xlmr import save_model

from harness.runtime import (
    DataError,
    ModelError,
    ProgramArguments,
    StepRun,
    Throughput,
    check_model,
    choose_device,
    measure_windows,
    model_folder,
    run_program,
)

# isort: split
import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from FlagEmbedding import FlagReranker
from transformers import AutoModelForSequenceClassification, AutoTokenizer

FOLDERS = ["BAAI/bge-reranker-v2-m3", "bge-reranker-v2-m3"]
FILES = ["tokenizer.json"]
# bge-m3 is as large, and has no head that ranks: it would get a random one.
SAYS = {"architectures": ["XLMRobertaForSequenceClassification"], "hidden_size": 1024, "num_hidden_layers": 24}


def find_model(weights: str, scratch: Path, seed: int, pairs: list[tuple[str, str]]) -> tuple[Path, str]:
    """The model's folder, and what it is."""
    if weights == "model":
        folder = model_folder(FOLDERS)
        if folder is None:
            raise ModelError(f"{FOLDERS[0]} is not below the models root; fetch it, or use --weights tiny or random")
        check_model(folder, ["xlm-roberta"], FILES, says=SAYS)
        return folder, "bge-reranker-v2-m3"
    if weights not in ("tiny", "random"):
        raise ModelError(f"--weights is '{weights}'; valid: model, random, tiny")
    folder = scratch / "reranker"
    save_model(folder, [text for pair in pairs for text in pair], weights, seed, labels=1)
    return folder, "tiny-random" if weights == "tiny" else "random"


@torch.no_grad()
def plain_scores(folder: Path, pairs: list[tuple[str, str]], device: torch.device, max_length: int) -> list[float]:
    """The pairs' scores through transformers alone: question and passage as one text, one number out of it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    questions, passages = zip(*pairs, strict=True)
    inputs = tokenizer(
        list(questions), list(passages), padding=True, truncation=True, max_length=max_length,
        return_token_type_ids=False, return_tensors="pt",
    )  # fmt: skip
    return model(**inputs.to(device)).logits.squeeze(-1).tolist()


def pairs_of(given: str) -> list[tuple[str, str]]:
    """The pairs of the parameter: ``question=passage``, with | between pairs."""
    pairs = [tuple(part.strip() for part in pair.split("=", 1)) for pair in given.split("|")]
    if len(pairs) < 2 or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise DataError(f"--pairs is '{given}': two or more of question=passage are needed, with | between them")
    return [(question, passage) for question, passage in pairs]


def rank(run: StepRun, args: argparse.Namespace, scratch: Path) -> None:
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(torch=torch.__version__, transformers=transformers.__version__, FlagEmbedding=version("FlagEmbedding"))
    pairs = pairs_of(args.pairs)
    half = device.type == "cuda" and args.precision == "float16"
    with run.phase("load"):
        folder, source = find_model(args.weights, scratch, args.seed, pairs)
        reranker = FlagReranker(str(folder), devices=str(device), use_fp16=half)
    run.output("model_source", source)
    run.output("precision", "float16" if half else "float32")

    with run.phase("evaluate"):
        scores = reranker.compute_score(pairs, batch_size=args.batch_size, max_length=args.max_length)
        relevances = reranker.compute_score(
            pairs, batch_size=args.batch_size, max_length=args.max_length, normalize=True
        )
        by_hand = plain_scores(folder, pairs, device, args.max_length)
    normalised = torch.tensor(by_hand).sigmoid().tolist()
    table = []
    for number, (pair, score, relevance) in enumerate(zip(pairs, scores, relevances, strict=True), start=1):
        run.output(f"score_{number}", score)
        run.output(f"relevance_{number}", relevance)
        table.append({"question": pair[0], "passage": pair[1], "score": score, "relevance": relevance})
        print(f"{relevance:.6f}  {pair[0]} | {pair[1]}")
    run.output("score_difference", largest(scores, by_hand))
    run.output("relevance_difference", largest(relevances, normalised))
    run.output("score_spread", max(scores) - min(scores))
    run.output_file("scores.json").write_text(json.dumps(table, indent=2, ensure_ascii=False), encoding="utf-8")
    print(f"largest difference from plain transformers: {largest(scores, by_hand):.2g} of the scores")

    question, passage = pairs[-1]
    repeats = 1 + args.tokens // 16  # the passage has more tokens than that; what is longer is cut at --tokens
    batch = [(question, " ".join([passage] * repeats))] * args.batch_size
    meter = Throughput(warm_up=2, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)

    def score(batches: int) -> None:
        reranker.compute_score(batch * batches, batch_size=args.batch_size, max_length=args.tokens)

    measure_windows(meter, score, args.batch_size, windows=args.windows, seconds=args.window_seconds)
    run.throughput("rank_throughput", meter, unit="pairs/s")
    print(f"{source}: {meter.median:.1f} pairs of {args.tokens} tokens per second on {facts.name}")


def largest(some: list[float], others: list[float]) -> float:
    """The largest difference of two equally long lists."""
    return max(abs(one - other) for one, other in zip(some, others, strict=True))


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("weights", "model", "model: the site's reranker; random: as large; tiny: random and tiny")
    # The model card's pairs: one alone, then one question with a useless and with a good passage.
    arguments.parameter(
        "pairs",
        "query=passage|what is panda?=hi|what is panda?=The giant panda (Ailuropoda melanoleuca), sometimes called a "
        "panda bear or simply panda, is a bear species endemic to China.",
        "question=passage, with | between pairs",
    )
    arguments.parameter("precision", "float16", "of the library on GPUs, or float32; CPUs compute in float32")
    arguments.parameter("max_length", 1024, "tokens of a pair that count", minimum=8)
    arguments.parameter("batch_size", 32, "pairs at a time", minimum=1)
    arguments.parameter("tokens", 128, "length of the pairs whose scoring is timed", minimum=16)
    arguments.parameter("windows", 5, "timed windows", minimum=1)
    arguments.parameter("window_seconds", 1.0, "about so long each", minimum=0)
    arguments.parameter("seed", 1, "of random weights", minimum=0)
    args = arguments.parse_args()
    if args.precision not in ("float16", "float32"):
        arguments.error(f"--precision: '{args.precision}' is neither float16 nor float32")
    with (
        StepRun.from_environment("rank", tutorial="xscow-5", parameters=vars(args)) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        rank(run, args, Path(scratch))


if __name__ == "__main__":
    run_program(main)
