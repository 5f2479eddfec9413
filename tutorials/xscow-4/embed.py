"""Compare questions with passages in four ways: dense, lexical, multi-vector (ColBERT) and weighted.

bge-m3 does all in one forward pass. FlagEmbedding computes the scores; the same numbers are computed a second time
here, from the hidden states that plain transformers gives, so that one sees what the library does.
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
import torch.nn.functional as F  # noqa: N812 - its name everywhere
import transformers
from FlagEmbedding import BGEM3FlagModel
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

FOLDERS = ["BAAI/bge-m3", "bge-m3"]
FILES = ["colbert_linear.pt", "sparse_linear.pt", "tokenizer.json"]
KINDS = {"dense": "dense", "sparse": "lexical", "colbert": "colbert", "colbert+sparse+dense": "weighted"}


def find_model(weights: str, scratch: Path, seed: int, texts: list[str]) -> tuple[Path, str]:
    """The model's folder, and what it is."""
    if weights == "model":
        folder = model_folder(FOLDERS)
        if folder is None:
            raise ModelError(f"{FOLDERS[0]} is not below the models root; fetch it, or use --weights tiny or random")
        check_model(folder, ["xlm-roberta"], FILES, says={"hidden_size": 1024, "num_hidden_layers": 24})
        return folder, "bge-m3"
    if weights not in ("tiny", "random"):
        raise ModelError(f"--weights is '{weights}'; valid: model, random, tiny")
    folder = scratch / "bge-m3"
    hidden = save_model(folder, texts, weights, seed).hidden_size
    for name, width in (("colbert_linear", hidden), ("sparse_linear", 1)):
        torch.save(torch.nn.Linear(hidden, width).state_dict(), folder / f"{name}.pt")
    return folder, "tiny-random" if weights == "tiny" else "random"


class Plain:
    """bge-m3 by hand: XLM-R, and one linear layer each for the lexical weights and the ColBERT vectors."""

    def __init__(self, folder: Path, device: torch.device, max_length: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.device, self.max_length = device, max_length
        self.heads = {}
        for name in ("colbert_linear", "sparse_linear"):
            state = torch.load(folder / f"{name}.pt", map_location=device, weights_only=True)
            self.heads[name] = {key: value.float() for key, value in state.items()}

    @torch.no_grad()
    def encode(self, text: str) -> tuple[Tensor, dict[int, float], Tensor]:
        """The text's vector, the weight of each of its tokens, and a vector for each token after <s>."""
        inputs = self.tokenizer(text, truncation=True, max_length=self.max_length, return_tensors="pt")
        ids = inputs.pop("input_ids")[0]
        hidden = self.model(input_ids=ids[None].to(self.device)).last_hidden_state[0]
        dense = F.normalize(hidden[0], dim=-1)
        importance = F.relu(self.head("sparse_linear", hidden)).squeeze(-1)
        weights: dict[int, float] = {}
        for token, weight in zip(ids.tolist(), importance.tolist(), strict=True):
            if token not in self.tokenizer.all_special_ids:
                weights[token] = max(weight, weights.get(token, 0.0))  # a token counts once, as much as it ever does
        vectors = F.normalize(self.head("colbert_linear", hidden[1:]), dim=-1)
        return dense, weights, vectors

    def head(self, name: str, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.heads[name]["weight"], self.heads[name]["bias"])

    def scores(self, question: str, passage: str, shares: list[float]) -> dict[str, float]:
        dense_q, weights_q, vectors_q = self.encode(question)
        dense_p, weights_p, vectors_p = self.encode(passage)
        dense = (dense_q @ dense_p).item()
        lexical = sum(weight * weights_p.get(token, 0.0) for token, weight in weights_q.items())
        colbert = (vectors_q @ vectors_p.T).max(dim=1).values.mean().item()  # each token finds its best match
        parts = zip(shares, (dense, lexical, colbert), strict=True)
        weighted = sum(share * score for share, score in parts) / sum(shares)
        return {"dense": dense, "lexical": lexical, "colbert": colbert, "weighted": weighted}


def texts_of(given: str, name: str) -> list[str]:
    """The texts of a parameter, which has | between them."""
    texts = [text.strip() for text in given.split("|") if text.strip()]
    if not texts:
        raise DataError(f"--{name} is empty: give one text or more, with | between them")
    return texts


def embed(run: StepRun, args: argparse.Namespace, scratch: Path) -> None:
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(torch=torch.__version__, transformers=transformers.__version__, FlagEmbedding=version("FlagEmbedding"))
    shares = [args.dense_share, args.lexical_share, args.colbert_share]
    if sum(shares) <= 0:
        raise ModelError("--dense-share, --lexical-share and --colbert-share must not all be 0")
    questions, passages = texts_of(args.questions, "questions"), texts_of(args.passages, "passages")
    pairs = [(question, passage) for question in questions for passage in passages]
    half = device.type == "cuda" and args.precision == "float16"
    with run.phase("load"):
        folder, source = find_model(args.weights, scratch, args.seed, questions + passages)
        m3 = BGEM3FlagModel(str(folder), devices=str(device), use_fp16=half)
    run.output("model_source", source)
    run.output("precision", "float16" if half else "float32")

    with run.phase("evaluate"):
        by_library = m3.compute_score(
            pairs, batch_size=args.batch_size, max_query_length=args.max_length, max_passage_length=args.max_length,
            weights_for_different_modes=shares,
        )  # fmt: skip
        plain = Plain(folder, device, args.max_length)
        by_hand = [plain.scores(*pair, shares) for pair in pairs]
        del plain
    differences = dict.fromkeys(KINDS.values(), 0.0)
    table = []
    for number, pair in enumerate(pairs):
        place = f"{number // len(passages) + 1}_{number % len(passages) + 1}"  # question 1 and passage 2: 1_2
        row: dict[str, object] = {"question": pair[0], "passage": pair[1]}
        for key, kind in KINDS.items():
            score = by_library[key][number]
            row[kind] = score
            run.output(f"{kind}_{place}", score)
            differences[kind] = max(differences[kind], abs(score - by_hand[number][kind]))
        table.append(row)
        print(f"{place}: " + ", ".join(f"{kind} {row[kind]:.4f}" for kind in KINDS.values()))
    for kind, difference in differences.items():
        run.output(f"{kind}_difference", difference)
    run.output("lexical_sum", sum(by_library["sparse"]))
    run.output_file("scores.json").write_text(json.dumps(table, indent=2, ensure_ascii=False), encoding="utf-8")
    print("largest difference from plain transformers:", differences)

    repeats = 1 + args.tokens // 16  # a passage has more tokens than that; what is longer is cut at --tokens
    texts = [" ".join([passage] * repeats) for passage in passages] * args.batch_size
    meter = Throughput(warm_up=2, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)

    def encode(batches: int) -> None:
        some = texts[: args.batch_size] * batches
        m3.encode(some, batch_size=args.batch_size, max_length=args.tokens, return_dense=True)

    measure_windows(meter, encode, args.batch_size, windows=args.windows, seconds=args.window_seconds)
    run.throughput("encode_throughput", meter, unit="texts/s")
    print(f"{source}: {meter.median:.1f} texts of {args.tokens} tokens per second on {facts.name}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("weights", "model", "model: the site's bge-m3; random: as large; tiny: random and tiny")
    # The pairs of the model card, spelt as there.
    arguments.parameter("questions", "What is BGE M3?|Defination of BM25", "with | between them")
    arguments.parameter(
        "passages",
        "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector interaction.|"
        "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query terms appearing in "
        "each document",
        "with | between them; each is compared with each question",
    )
    arguments.parameter("precision", "float16", "of the library on GPUs, or float32; CPUs compute in float32")
    arguments.parameter("max_length", 8192, "tokens of a text that count", minimum=8)
    arguments.parameter("batch_size", 12, "texts at a time", minimum=1)
    arguments.parameter("dense_share", 0.4, "of the weighted score", minimum=0)
    arguments.parameter("lexical_share", 0.2, "of the weighted score", minimum=0)
    arguments.parameter("colbert_share", 0.4, "of the weighted score", minimum=0)
    arguments.parameter("tokens", 128, "length of the texts whose encoding is timed", minimum=8)
    arguments.parameter("windows", 5, "timed windows", minimum=1)
    arguments.parameter("window_seconds", 1.0, "about so long each", minimum=0)
    arguments.parameter("seed", 1, "of random weights", minimum=0)
    args = arguments.parse_args()
    if args.precision not in ("float16", "float32"):
        arguments.error(f"--precision: '{args.precision}' is neither float16 nor float32")
    with (
        StepRun.from_environment("embed", tutorial="xscow-4", parameters=vars(args)) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        embed(run, args, Path(scratch))


if __name__ == "__main__":
    run_program(main)
