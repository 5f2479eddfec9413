"""What serving a chat model has to do, whichever model it is: find it, start an engine, ask it, measure it.

``serve.py`` (Qwen2-72B, two GPUs) and scow-6's ``chat.py`` (Qwen3-4B, one GPU) say which model; the rest is here, so
that both are measured by the same client in the same way.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, ProgramError, StepRun, choose_device, read_prompt, run_program
from harness.runtime.chat_client import Load, Reply, measure

# isort: split
import argparse
import contextlib
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from engines import Engine, check_identity, generated, plain, vllm
from served_model import ServedModel, find_model

UNKNOWN = "What is a word?"  # nothing a tiny model was taught: its answer hangs on every weight
BACKENDS, WEIGHTS = ("vllm", "transformers"), ("real", "tiny", "random")


@contextlib.contextmanager
def open_engine(run: StepRun, args: argparse.Namespace, folder: Path, gpus: int, dtype: str) -> Iterator[Engine]:
    """The server that ``--backend`` names."""
    log = run.output_file("server.log")
    if args.backend == "transformers":
        with plain(folder, log, gpus, dtype) as engine:
            yield engine
        return
    longest = max(args.input_tokens + args.output_tokens, args.new_tokens + 128)
    with vllm(folder, log, gpus, dtype, args.tensor_parallel, longest, args.weights == "random") as engine:
        yield engine


def random_prompt(number: int, length: int, vocabulary: int) -> list[int]:
    """Token ids no other request shares, so that no cache of prefixes helps. The first 256 are bytes and signs."""
    source = random.Random(number)
    return [source.randrange(256, vocabulary) for _ in range(length)]


def measured(engine: Engine, args: argparse.Namespace, vocabulary: int, requests: int, concurrency: int) -> Load:
    """Requests of one input and one output length; the first ones, as many as run at once, are warm-up."""

    def ask(number: int) -> Reply:
        prompt = random_prompt(args.seed + 1000 * concurrency + number, args.input_tokens, vocabulary)
        reply = engine.continued(prompt, args.output_tokens)
        if (reply.prompt_tokens, reply.output_tokens) != (args.input_tokens, args.output_tokens):
            raise ProgramError(
                f"asked for {args.input_tokens} + {args.output_tokens} tokens, "
                f"the server counted {reply.prompt_tokens} + {reply.output_tokens}"
            )
        return reply

    measure(ask, concurrency, concurrency)
    return measure(lambda number: ask(concurrency + number), requests, concurrency)


def report(run: StepRun, backend: str, alone: Load, together: Load | None) -> None:
    """The headline is the rate of one answer at a time; names say which engine it was."""
    rates = [reply.rate for reply in alone.replies]
    run.metric(f"{backend}_token_rate", statistics.median(rates), "tokens/s", rates)
    for name, load in (("alone", alone), ("together", together)):
        if load is None:
            continue
        summary = load.summary()
        run.output(name, summary)
        run.output(f"{name}_pieces_per_token", summary["pieces_per_token"])
        for key, value in summary.items():
            if key.endswith("_ms"):
                run.metric(f"{backend}_{name}_{key}", value, "ms", higher_is_better=False)
        run.metric(f"{backend}_{name}_output_rate", summary["output_tokens_per_s"], "tokens/s")
        each = f"{summary['tpot_p50_ms']:.1f} ms" if "tpot_p50_ms" in summary else "sent in bunches"
        print(
            f"{name:8}: {summary['output_tokens_per_s']:.1f} tokens/s, first token {summary['ttft_p50_ms']:.0f} ms "
            f"(p99 {summary['ttft_p99_ms']:.0f}), then each {each}"
        )


def serve(model: ServedModel, run: StepRun, args: argparse.Namespace, scratch: Path) -> None:
    if args.question_file:
        args.question = read_prompt(Path(args.question_file))
    device, facts = choose_device(torch, run.gpus_requested)
    gpus = 0 if device.type == "cpu" else run.gpus_requested or torch.cuda.device_count()
    if gpus and args.tensor_parallel > gpus:
        raise ProgramError(f"--tensor-parallel {args.tensor_parallel} needs as many GPUs, the job has {gpus}")
    used = args.tensor_parallel if args.backend == "vllm" else gpus
    run.use_device(dataclasses.replace(facts, count=used) if gpus else facts)
    # two engines agree word for word in single precision; in 16 bits a near tie would fall either way
    dtype = model.gpu_dtype if gpus and args.weights != "tiny" else "float32"
    run.versions(torch=torch.__version__)
    run.output("computed_on", device.type)
    run.output("dtype", dtype)
    run.output("model_source", {"real": "real", "tiny": "tiny-trained", "random": "random"}[args.weights])
    run.output("tensor_parallel", args.tensor_parallel if args.backend == "vllm" else 1)
    with run.phase("prepare"):
        folder, config = find_model(model, args, scratch)
    messages = [{"role": "user", "content": args.question}]
    with contextlib.ExitStack() as open_until_done:
        with run.phase("load"):
            engine = open_until_done.enter_context(open_engine(run, args, folder, gpus, dtype))
        run.output("backend", engine.backend)
        run.output("served_by", engine.served_by)
        run.versions(**{engine.backend: engine.version})
        check_identity(engine)
        with run.phase("chat"):
            reply, again = engine.chat(messages, args.new_tokens), engine.chat(messages, args.new_tokens)
        print(f"{engine.backend} {engine.version}\nuser: {args.question}\nassistant: {reply.text}", flush=True)
        run.output("answer", reply.text)
        run.output("answer_tokens", reply.output_tokens)
        run.output("answer_pieces", reply.pieces)
        run.output("same_answer_again", again.text == reply.text)
        unknown = [{"role": "user", "content": UNKNOWN}]
        second = engine.chat(unknown, args.new_tokens).text
        with run.phase("measured"):
            alone = measured(engine, args, config["vocab_size"], args.requests, 1)
            # plain transformers answers one request at a time: together they would only wait for each other
            many = args.concurrency if engine.backend == "vllm" else 1
            together = measured(engine, args, config["vocab_size"], many * args.requests, many) if many > 1 else None
    report(run, engine.backend, alone, together)
    if args.compare:
        with run.phase("compare"):
            texts = generated(folder, [messages, unknown], args.new_tokens, gpus, dtype)
        run.output("plain_answer", texts[0])
        run.output("answers", [reply.text, second])
        run.output("plain_answers", texts)
        run.output("plain_answers_are_the_same", texts == [reply.text, second])


def parse_arguments(arguments: ProgramArguments) -> argparse.Namespace:
    """The arguments, those every served model has added to those the program has declared."""
    arguments.parameter("weights", "real", "real: the site's model; tiny: made here; random: full size, says nothing")
    arguments.parameter("model", "", "the model's folder; empty: looked for below the site's models root")
    arguments.parameter("backend", "vllm", "vllm, or transformers for comparison")
    arguments.parameter("question", "Give me a short introduction to large language models.", "asked first")
    arguments.parameter("question_file", "", "a UTF-8 text file with the question; wins over --question")
    arguments.parameter("new_tokens", 512, "the answer's longest length", minimum=1)
    arguments.parameter("input_tokens", 512, "of each measured request", minimum=1)
    arguments.parameter("output_tokens", 128, "of each measured request", minimum=2)
    arguments.parameter("requests", 8, "measured one by one; then so many for each that runs at once", minimum=1)
    arguments.parameter("concurrency", 16, "requests at once; 1: only one by one", minimum=1)
    arguments.parameter("compare", False, "ask transformers' own generate the same, after the server has ended")
    arguments.parameter("seed", 1, "of tiny weights and the measured prompts", minimum=0)
    args = arguments.parse_args()
    for name, valid in (("backend", BACKENDS), ("weights", WEIGHTS)):
        if getattr(args, name) not in valid:
            arguments.error(f"--{name}: '{getattr(args, name)}' is none of {', '.join(valid)}")
    if args.weights == "random" and (args.backend != "vllm" or args.compare):
        arguments.error("--weights random: made by vLLM while it loads, so plain transformers has no part in it")
    return args


def main(arguments: ProgramArguments, model: ServedModel, *, tutorial: str, step: str) -> None:
    """A whole tutorial; ``arguments`` has ``--tensor-parallel`` already, how many GPUs share every layer."""

    def program() -> None:
        args = parse_arguments(arguments)
        run = StepRun.from_environment(step, tutorial=tutorial, parameters=vars(args))
        with run, tempfile.TemporaryDirectory() as scratch:
            serve(model, run, args, Path(scratch))

    run_program(program)
