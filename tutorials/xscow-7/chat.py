"""Chat with a model of 72 billion parameters on one GPU: its weights are stored in 4 bits each (GPTQ).

One answer, then a conversation in which the model must remember what it was told. Before that, the kernels that
compute with packed weights are compared with float32 products of the same weights unpacked by hand: a kernel that is
wrong, or a slow one chosen silently, does not go unnoticed.
"""

# First: this import marks the moment the program began.
from harness.runtime import (
    ProgramArguments,
    ProgramError,
    StepRun,
    Throughput,
    choose_device,
    read_prompt,
    run_program,
    weight_bytes,
)  # fmt: skip

# isort: split
import argparse
import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig, Qwen2ForCausalLM
from weights import find_weights

WEIGHTS = ("real", "tiny", "random")


def choose_kernel(device: torch.device, asked: str) -> str:
    """What the library is to compute with: Marlin where it is fast, unless something else was asked for.

    Left alone the library takes Machete on Hopper, whose sources it downloads: compute nodes reach no such place.
    """
    if asked == "auto" and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "marlin"
    return asked


def load(folder: Path, device: torch.device, kernel: str) -> nn.Module:
    # CPUs compute in float32; the model was published in float16, also for GPUs that know bfloat16
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu":
        torch.compiler.set_stance("force_eager")  # compiling takes minutes here, and the tiny model milliseconds
    choice = GPTQConfig(bits=4, backend=choose_kernel(device, kernel))
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": device}, quantization_config=choice
    ).eval()


class Chat:
    """A model that answers greedily: the same words every time."""

    def __init__(self, model: nn.Module, tokenizer: Any, new_tokens: int) -> None:
        self.model, self.tokenizer, self.new_tokens = model, tokenizer, new_tokens

    def prompt(self, messages: list[dict[str, str]]) -> Tensor:
        """Token ids (1, n) of the messages, as the model wants to see them, up to where it is to go on."""
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        device = next(self.model.parameters()).device
        return self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids.to(device)

    @torch.no_grad()
    def answer(self, messages: list[dict[str, str]]) -> str:
        tokens = self.prompt(messages)
        everything = self.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=self.new_tokens, do_sample=False,
            temperature=None, top_p=None, top_k=None,
        )  # fmt: skip
        return self.tokenizer.decode(everything[0, tokens.shape[1] :], skip_special_tokens=True).strip()

    def converse(self, turns: list[str]) -> tuple[list[dict[str, str]], list[int]]:
        """(all messages, tokens of each prompt): what was said before is part of every prompt."""
        messages: list[dict[str, str]] = []
        lengths = []
        for said in turns:
            messages.append({"role": "user", "content": said})
            lengths.append(self.prompt(messages).shape[1])
            messages.append({"role": "assistant", "content": self.answer(messages)})
            print(f"user: {said}\nassistant: {messages[-1]['content']}", flush=True)
        return messages, lengths


@torch.no_grad()
def decode(model: nn.Module, tokens: Tensor, windows: int, tokens_per_window: int) -> Throughput:
    """Generate token by token, whatever the model wants to say, also after it has ended; time the tokens."""
    meter = Throughput(warm_up=1, synchronize=torch.cuda.synchronize if tokens.is_cuda else lambda: None)
    step = model(tokens, use_cache=True, logits_to_keep=1)
    for _ in range(windows):
        with meter.window(units=tokens_per_window):
            for _ in range(tokens_per_window):
                token = step.logits[:, -1:].argmax(-1)  # stays on the device: the next step does not wait for us
                step = model(token, past_key_values=step.past_key_values, use_cache=True)
    return meter


@torch.no_grad()
def check_kernels(run: StepRun, model: nn.Module, folder: Path, tokens: Tensor, plain: Path | None) -> None:
    """Record which kernels compute, and how far they are from the weights unpacked by hand."""
    from int4 import kernel_error, plain_weights, quantized_layers, read_tensors

    layers = quantized_layers(model)
    if not layers:
        raise ProgramError(f"{folder}: loaded, but no layer computes with packed weights")
    kernels = sorted({type(layer).__name__ for layer in layers.values()})
    print(f"{len(layers)} layers of 4 bits, computed by {', '.join(kernels)}")
    run.output("kernels", kernels)
    run.output("kernel", kernels[0])
    run.output("kernel_count", len(kernels))
    run.output("quantized_layers", len(layers))
    run.output("layers_per_block", len(layers) / model.config.num_hidden_layers)
    zero_offset = 0 if model.config.to_dict()["quantization_config"].get("checkpoint_format") == "gptq_v2" else 1
    run.output("kernel_error", kernel_error(model, folder, "model.layers.0.", zero_offset))
    if plain is None:
        return  # 72 billion weights in float32 are 290 GB: one block must stand for all
    weights = plain_weights(read_tensors(folder), zero_offset)
    dequantized, original = (Qwen2ForCausalLM.from_pretrained(plain, dtype=torch.float32).eval() for _ in range(2))
    dequantized.load_state_dict(weights)
    scores = [network(tokens.to(network.device)).logits.float().cpu() for network in (model, dequantized, original)]
    run.output("logits_difference", (scores[0] - scores[1]).abs().max().item())
    run.output("quantization_error", ((scores[1] - scores[2]).norm() / scores[2].norm()).item())


def chat(run: StepRun, args: argparse.Namespace, scratch: Path) -> None:
    turns = [turn.strip() for turn in args.turns.split("|") if turn.strip()]
    if len(turns) < 2:
        raise ProgramError(f"--turns is '{args.turns}': two or more are needed, with | between them")
    if args.question_file:
        args.question = read_prompt(Path(args.question_file))
    device, facts = choose_device(torch, run.gpus_requested)
    run.use_device(facts)
    run.versions(
        torch=torch.__version__, **{name: importlib.metadata.version(name) for name in ("transformers", "gptqmodel")}
    )
    run.output("computed_on", device.type)
    run.output("model_source", {"real": "real", "tiny": "tiny-trained", "random": "random"}[args.weights])
    with run.phase("prepare"):
        folder, plain = find_weights(args.weights, args.model, args.question, args.seed, scratch)
    run.output("weight_gb", weight_bytes(folder) / 1e9)
    with run.phase("load"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        bot = Chat(load(folder, device, args.kernel), tokenizer, args.new_tokens)
    messages = [{"role": "user", "content": args.question}]
    tokens = bot.prompt(messages)
    with run.phase("check"):
        check_kernels(run, bot.model, folder, tokens, plain)
    with run.phase("chat"):
        answer = bot.answer(messages)
        print(f"user: {args.question}\nassistant: {answer}", flush=True)
        history, lengths = bot.converse(turns)
        alone = bot.answer([{"role": "user", "content": turns[1]}])
        again = bot.answer(messages)
    run.output("answer", answer)
    run.output("same_answer_again", again == answer)
    run.output("answers", [message["content"] for message in history[1::2]])
    run.output("second_answer", history[3]["content"])
    run.output("second_answer_alone", alone)
    run.output("prompt_tokens", lengths)
    spoken = "".join(f"{message['role']}: {message['content']}\n" for message in history)
    run.output_file("conversation.txt").write_text(spoken, encoding="utf-8")
    meter = decode(bot.model, tokens, args.windows, args.window_tokens)
    run.throughput("decode_throughput", meter, unit="tokens/s")
    if device.type == "cuda":
        run.output("peak_memory_gb", torch.cuda.max_memory_allocated() / 1e9)
    print(f"{meter.median:.1f} tokens/s, files in {run.folder}")


def main() -> None:
    arguments = ProgramArguments(__doc__)
    arguments.parameter("weights", "real", "real: the site's model; tiny: made here; random: full size, says nothing")
    arguments.parameter("model", "", "the model's folder; empty: looked for below the site's models root")
    arguments.parameter("question", "Give me a short introduction to large language models.", "asked first")
    arguments.parameter("question_file", "", "a UTF-8 text file with the question; wins over --question")
    arguments.parameter(
        "turns", "My name is Ada.|What is my name?|Thank you.", "said after that, with | between; the second alone too"
    )
    arguments.parameter("kernel", "auto", "for packed weights: auto (Marlin on GPUs from 8.0 on), torch, marlin, …")
    arguments.parameter("new_tokens", 512, "an answer's longest length", minimum=1)
    arguments.parameter("windows", 6, "of timed decoding; the first is warm-up", minimum=2)
    arguments.parameter("window_tokens", 64, "tokens generated in each of them", minimum=1)
    arguments.parameter("seed", 1, "of tiny and random weights", minimum=0)
    args = arguments.parse_args()
    if args.weights not in WEIGHTS:
        arguments.error(f"--weights: '{args.weights}' is none of {', '.join(WEIGHTS)}")
    run = StepRun.from_environment("chat", tutorial="xscow-7", parameters=vars(args))
    with run, tempfile.TemporaryDirectory() as scratch:
        chat(run, args, Path(scratch))


if __name__ == "__main__":
    run_program(main)
