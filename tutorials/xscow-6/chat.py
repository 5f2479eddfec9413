"""Ask a model who it is, through LLaMA-Factory's own chat engine.

The step chat_before asks the model as it came, chat_after the one that was fine-tuned and merged.
"""

# First: this import marks the moment the program began.
from harness.runtime import ProgramArguments, ProgramError, StepRun, choose_device, keep_first_gpu, run_program

keep_first_gpu()  # LLaMA-Factory would share a model out among all

# isort: split
import argparse

import torch
from factory import MERGED, common_parameters, inference_settings, is_for_another, precision, prepare
from llamafactory.chat import ChatModel
from llamafactory.extras.env import VERSION

AFTER = "chat_after"  # the step that asks the merged model; any other asks the base model


def ask(run: StepRun, args: argparse.Namespace, device: torch.device) -> None:
    questions = [question.strip() for question in args.questions.split("|") if question.strip()]
    if not questions:
        raise ProgramError("--questions is empty: give one or more, with | between them")
    with run.phase("load"):
        model, identity = prepare(run, args)
        folder = run.folder / MERGED if run.step == AFTER else model.folder
        if not (folder / "config.json").is_file():
            raise ProgramError(f"{folder} holds no model; run the steps finetune and merge first")
        chat = ChatModel(
            {
                **inference_settings(model, folder, args.template, device),
                "max_new_tokens": args.max_new_tokens,
                "do_sample": False,  # the same answer each time
            }
        )
    answers: list[str] = []
    tokens = 0
    with run.phase("chat"):
        for question in questions:
            (response,) = chat.chat([{"role": "user", "content": question}])
            tokens += response.response_length
            answers.append(response.response_text.strip())
            print(f"> {question}\n{answers[-1]}\n", flush=True)
    run.output("answers", answers)
    run.output("answer_tokens", tokens)
    run.output("conversation", "\n".join(f"{q} {a}" for q, a in zip(questions, answers, strict=True)))
    run.output("answers_with_identity", sum(map(identity.is_in, answers)))
    run.output("precision", str(precision(device, model.source)).removeprefix("torch."))


def main() -> None:
    arguments = ProgramArguments(__doc__)
    common_parameters(arguments)
    arguments.parameter("questions", "你是谁？|Who are you?", "asked one by one, with | between them")
    arguments.parameter("max_new_tokens", 512, "length of an answer, at most", minimum=1)
    args = arguments.parse_args()
    if is_for_another():
        return
    with StepRun.from_environment("chat_before", tutorial="xscow-6", parameters=vars(args)) as run:
        device, facts = choose_device(torch, run.gpus_requested and 1)
        run.use_device(facts)
        run.versions(torch=torch.__version__, llamafactory=VERSION)
        ask(run, args, device)


if __name__ == "__main__":
    run_program(main)
