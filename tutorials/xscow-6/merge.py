"""Add the adapter to the weights of its model (LLaMA-Factory's export), and show that nothing else changed.

The model with its adapter beside it and the merged model must say the same: both compute the logits of a few texts.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, ProgramError, StepRun, choose_device, run_program

# isort: split
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from factory import (
    ADAPTER,
    MERGED,
    common_parameters,
    inference_settings,
    is_for_another,
    precision,
    prepare,
    write_settings,
)
from llamafactory.extras.env import VERSION
from llamafactory.train.tuner import export_model
from peft import PeftModel
from transformers import AutoTokenizer, Qwen2ForCausalLM

COMPARED_RECORDS = 4
MAX_TOKENS = 64


@torch.no_grad()
def logits(network: torch.nn.Module, tokens: list[list[int]], device: torch.device) -> np.ndarray:
    """The scores after each token of each text: (all tokens, vocabulary), float32."""
    network.to(device).eval()
    rows = [network(input_ids=torch.tensor([text], device=device)).logits[0].float().cpu() for text in tokens]
    return torch.cat(rows).numpy()


def merge(run: StepRun, args: argparse.Namespace, device: torch.device) -> None:
    adapter, merged = run.folder / ADAPTER, run.folder / MERGED
    if not (adapter / "adapter_model.safetensors").is_file():
        raise ProgramError(f"{adapter} holds no adapter; run the step finetune first")
    with run.phase("load"):
        model, identity = prepare(run, args)
        dtype = precision(device, model.source)
        tokenizer = AutoTokenizer.from_pretrained(model.folder)
        texts = identity.texts()[: 2 * COMPARED_RECORDS]
        tokens = [tokenizer(text)["input_ids"][:MAX_TOKENS] for text in texts]
    with run.phase("compare"):
        network = Qwen2ForCausalLM.from_pretrained(model.folder).to(dtype)
        base = logits(network, tokens, device)
        beside = logits(PeftModel.from_pretrained(network, str(adapter)), tokens, device)
        del network
    with run.phase("merge"):
        settings = {
            **inference_settings(model, model.folder, args.template, device),
            "adapter_name_or_path": str(adapter),
            "finetuning_type": "lora",
            "export_dir": str(merged),
            "export_size": args.export_size,
            "export_device": "cpu",  # a GPU that has just held the model may be full
        }
        write_settings(run.output_file("merge.yaml"), settings)
        export_model(settings)
    with run.phase("compare"):
        together = logits(Qwen2ForCausalLM.from_pretrained(merged).to(dtype), tokens, device)
    np.save(run.output_file("logits_adapter.npy"), beside)
    np.save(run.output_file("logits_merged.npy"), together)
    run.output("logits_difference", float(np.abs(beside - together).max()))
    run.output("logits_moved_by_training", float(np.abs(beside - base).max()))
    run.output("same_next_token", float((beside.argmax(1) == together.argmax(1)).mean()))
    run.output("precision", str(dtype).removeprefix("torch."))
    # The mean over all steps of the training, which LLaMA-Factory writes at its end and the originals' screens show.
    trained = json.loads((adapter / "train_results.json").read_text(encoding="utf-8"))
    run.output("mean_train_loss", trained["train_loss"])
    run.output("shards", len(shards(merged)))
    largest = max(file.stat().st_size for file in shards(merged))
    run.output("largest_shard_of_limit", largest / 1e9 / args.export_size)
    difference = np.abs(beside - together).max()
    print(f"merged model in {merged}: its logits differ by {difference:.2g} at most")


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def main() -> None:
    arguments = ProgramArguments(__doc__)
    common_parameters(arguments)
    arguments.parameter("export_size", 2, "largest file of the merged model, GB", minimum=1)
    args = arguments.parse_args()
    if is_for_another():
        return
    with StepRun.from_environment("merge", tutorial="xscow-6", parameters=vars(args)) as run:
        device, facts = choose_device(torch, run.gpus_requested)
        run.use_device(facts)
        run.versions(torch=torch.__version__, llamafactory=VERSION)
        merge(run, args, device)


if __name__ == "__main__":
    run_program(main)
