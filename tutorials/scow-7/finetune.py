"""Teach BERT to tell whether two sentences say the same: fine-tuning on MRPC, judged by accuracy and F1.

Sentences are made into tokens once, before training; batches hold pairs of similar length, so little is padding.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, StepRun, Throughput, choose_device, choose_speed, run_program

# isort: split
import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from bert import load_model
from pairs import Pair, load_pairs
from transformers import get_linear_schedule_with_warmup


class Batches:
    """Pairs as tokens, and batches of them on the device."""

    def __init__(self, pairs: list[Pair], tokenizer: Any, args: argparse.Namespace, device: torch.device) -> None:
        self.tokenizer, self.size, self.device = tokenizer, args.batch_size, device
        texts = [pair.first for pair in pairs], [pair.second for pair in pairs]
        self.rows = tokenizer(*texts, truncation=True, max_length=args.max_length)
        self.labels = [pair.same for pair in pairs]
        self.lengths = [len(ids) for ids in self.rows["input_ids"]]

    def __call__(self, source: random.Random | None) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """All of them once, shuffled by ``source``; within groups of 16 batches pairs of one length come together."""
        order = list(range(len(self.labels)))
        if source is not None:
            source.shuffle(order)
        group = 16 * self.size
        order = [i for start in range(0, len(order), group) for i in self.by_length(order[start : start + group])]
        batches = [order[start : start + self.size] for start in range(0, len(order), self.size)]
        if source is not None:
            source.shuffle(batches)
        for rows in batches:
            columns = {name: [values[i] for i in rows] for name, values in self.rows.items()}
            inputs = self.tokenizer.pad(columns, return_tensors="pt").to(self.device, non_blocking=True)
            yield inputs, torch.tensor([self.labels[i] for i in rows], device=self.device)

    def by_length(self, rows: list[int]) -> list[int]:
        return sorted(rows, key=self.lengths.__getitem__)


@torch.no_grad()
def scores(model: Any, batches: Batches, speed: Any) -> dict[str, float]:
    """Accuracy, and F1 of the class "they say the same", over all pairs at once."""
    model.eval()
    counts = torch.zeros(2, 2, device=batches.device)  # [truth, answer]
    for inputs, labels in batches(None):
        with speed.autocast():
            answers = model(**inputs).logits.argmax(-1)
        counts += torch.bincount(labels * 2 + answers, minlength=4).view(2, 2)
    (right_no, wrong_yes), (wrong_no, right_yes) = counts.tolist()
    f1 = 2 * right_yes / max(1.0, 2 * right_yes + wrong_yes + wrong_no)
    return {"accuracy": (right_no + right_yes) / sum((right_no, wrong_yes, wrong_no, right_yes)), "f1": f1}


def finetune(run: StepRun, args: argparse.Namespace) -> None:
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(torch=torch.__version__, transformers=transformers.__version__)
    speed = choose_speed(torch, device)
    run.output("settings", speed.settings)
    with run.phase("load"):
        data_source, learned, held_out = load_pairs(args.written_pairs, args.seed)
        model_source, tokenizer, model = load_model(
            args.weights, args.seed, [text for pair in learned for text in pair[:2]]
        )
        model.to(device)
        train, test = Batches(learned, tokenizer, args, device), Batches(held_out, tokenizer, args, device)
    run.output("data_source", data_source)
    run.output("model_source", model_source)
    majority = max(sum(test.labels), len(test.labels) - sum(test.labels)) / len(test.labels)
    print(f"{model_source} on {data_source}: {len(learned)} pairs to learn, {len(held_out)} to judge, {facts.name}")

    steps = args.epochs * -(-len(learned) // args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=steps)
    scaler, source = speed.scaler(), random.Random(args.seed)
    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    losses, accuracies = [], []
    for epoch in range(1, args.epochs + 1):
        total = torch.zeros((), device=device)
        model.train()
        with meter.window(units=len(learned)):
            for inputs, labels in train(source):
                with speed.autocast():
                    loss = model(**inputs, labels=labels).loss
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
                total += loss.detach() * len(labels)
        with run.phase("evaluate"):
            losses.append(total.item() / len(learned))
            judged = scores(model, test, speed)
            accuracies.append(judged["accuracy"])
        print(f"epoch {epoch}: loss {losses[-1]:.4f}, accuracy {judged['accuracy']:.4f}, F1 {judged['f1']:.4f}")
    run.throughput("train_throughput", meter, unit="pairs/s")
    run.output("train_loss", losses)
    run.output("accuracy_curve", accuracies)
    run.output("accuracy", judged["accuracy"])
    run.output("f1", judged["f1"])
    run.output("train_accuracy", scores(model, train, speed)["accuracy"])
    run.output("above_majority", judged["accuracy"] - majority)
    with run.phase("save"), tempfile.TemporaryDirectory() as scratch:
        save(run, model, tokenizer, Path(scratch))
    print(f"{meter.median:.0f} pairs/s; the model is in {run.folder}")


def save(run: StepRun, model: Any, tokenizer: Any, scratch: Path) -> None:
    """The trained model as a folder that from_pretrained reads."""
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    for path in sorted(scratch.iterdir()):
        run.output_file(f"model_trained/{path.name}").write_bytes(path.read_bytes())


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("weights", "model", "model: the site's bert-base; random: as large; tiny: random and tiny")
    arguments.parameter("epochs", 3, "the first is warm-up, not measured", minimum=2)
    arguments.parameter("batch_size", 8, "pairs per step", minimum=1)
    arguments.parameter("lr", 5e-5, "learning rate of AdamW, falling to 0", minimum=0)
    arguments.parameter("max_length", 512, "tokens of a pair that count", minimum=8)
    arguments.parameter("written_pairs", 3668, "pairs that the program writes where there is no MRPC", minimum=40)
    arguments.parameter("seed", 1, "of weights, order and written pairs", minimum=0)
    args = arguments.parse_args()
    with StepRun.from_environment("finetune", tutorial="scow-7", parameters=vars(args)) as run:
        finetune(run, args)


if __name__ == "__main__":
    run_program(main)
