"""Plain transformers behind the interface that OpenAI made common: one request at a time, one forward pass per token.

So the client that measures vLLM measures this too, in the same way. Transformers brings a server of its own,
``transformers serve``, of which what is measured here cannot be had: in 5.19 it refuses token ids as a prompt (400) and
``ignore_eos`` (422), so no request gets exactly so many tokens; it ends no stream with [DONE], and does not say which
version it is. In 4.57, which the CUDA image holds, it has no /v1/completions at all.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from harness.runtime import allocated_cores, choose_device

HALF_A_CHARACTER = "\ufffd"  # how a text ends whose last token is only a part of a character


class Request(BaseModel):
    """What a request may say. Anything else is refused, not passed over: the answer would not be what was asked for."""

    model_config = ConfigDict(extra="forbid")

    model: str
    max_tokens: int = Field(ge=1)
    stream: Literal[True]
    stream_options: dict[str, bool] = {}  # usage is always sent
    temperature: float = Field(ge=0, le=0)  # the likeliest token, always
    seed: int = 0  # nothing is drawn
    ignore_eos: bool = False


class Completion(Request):
    prompt: list[int] = Field(min_length=1)


class Chat(Request):
    messages: list[dict[str, str]] = Field(min_length=1)


class Model:
    """A model and its tokenizer. On several GPUs the layers are dealt out, and the GPUs take turns."""

    def __init__(self, folder: Path, gpus: int, dtype: str) -> None:
        place = {"device_map": "auto"} if gpus else {}
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(folder, dtype=getattr(torch, dtype), **place).eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def complaint(self, prompt: list[int], tokens: int) -> str | None:
        """Why ``tokens`` tokens after ``prompt`` cannot be; None where they can."""
        config = self._model.config
        if not all(0 <= token < config.vocab_size for token in prompt):
            return f"the prompt has tokens that are none of the model's {config.vocab_size}"
        if len(prompt) + tokens > config.max_position_embeddings:
            return f"{len(prompt)} + {tokens} tokens are more than the model's {config.max_position_embeddings}"
        return None

    @torch.inference_mode()
    def answer(self, prompt: list[int], tokens: int, ignore_end: bool) -> Iterator[str]:
        """What each new token adds to the text: nothing, where it is a part of a character or says no more."""
        end = None if ignore_end else self._tokenizer.eos_token_id
        given, past = torch.tensor([prompt], device=self._model.device), None
        found: list[int] = []
        said, done = "", False
        while not done:
            step = self._model(given, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, given = step.past_key_values, step.logits[:, -1:].argmax(-1).to(self._model.device)
            found.append(int(given))  # waits for the device
            done = len(found) == tokens or found[-1] == end
            text = self._tokenizer.decode(found, skip_special_tokens=True)
            if text.endswith(HALF_A_CHARACTER) and not done:
                text = said
            yield text[len(said) :]
            said = text


def application(model: Model, name: str) -> FastAPI:
    """The server's addresses, and what each of them answers."""
    app = FastAPI()
    turn = asyncio.Lock()
    # Always the same thread: every one that calls torch gets helpers of its own, which would compete for the cores.
    worker = ThreadPoolExecutor(1)

    async def events(asked: Request, prompt: list[int], choice: Callable[[str], dict[str, Any]]) -> AsyncIterator[str]:
        async with turn:
            count, pieces = 0, model.answer(prompt, asked.max_tokens, asked.ignore_eos)
            step = asyncio.get_running_loop().run_in_executor
            while (piece := await step(worker, next, pieces, None)) is not None:
                count += 1
                yield event([{"index": 0, **choice(piece)}])
        counted = {"prompt_tokens": len(prompt), "completion_tokens": count, "total_tokens": len(prompt) + count}
        yield event([], usage=counted)
        yield "data: [DONE]\n\n"

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps({'model': name, 'choices': choices, **more})}\n\n"

    def streamed(asked: Request, prompt: list[int], choice: Callable[[str], dict[str, Any]]) -> StreamingResponse:
        if asked.model != name:
            raise HTTPException(404, f"no model '{asked.model}' here, only '{name}'")
        if complaint := model.complaint(prompt, asked.max_tokens):
            raise HTTPException(400, complaint)
        return StreamingResponse(events(asked, prompt, choice), media_type="text/event-stream")

    @app.post("/v1/completions")
    async def complete(asked: Completion) -> StreamingResponse:
        return streamed(asked, asked.prompt, lambda piece: {"text": piece})

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat) -> StreamingResponse:
        return streamed(asked, model.prompt(asked.messages), lambda piece: {"delta": {"content": piece}})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "transformers"}]}

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": transformers.__version__}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("folder", type=Path, help="the model")
    parser.add_argument("--name", required=True, help="what requests call it")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0, help="to deal the layers out to; 0: the CPU computes")
    parser.add_argument("--dtype", default="float32", help="what is computed in: float32, bfloat16, float16")
    args = parser.parse_args()
    # All GPUs, or an error. On a CPU one core is left to those who send and receive, as it is with vLLM: threads that
    # compute wait by spinning, and the others would wait for them.
    choose_device(torch, args.gpus, max_threads=max(1, allocated_cores() - 1))
    uvicorn.run(application(Model(args.folder, args.gpus, args.dtype), args.name), host="127.0.0.1", port=args.port)


if __name__ == "__main__":
    main()
