"""Two ways to run the same model: a vLLM server that streams to a client, and plain transformers in this process.

Both answer with the same :class:`Reply`, so their times mean the same; neither ever stands in for the other.
"""

import importlib.metadata
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.runtime import ProgramError, allocated_cores
from harness.runtime.chat_client import ChatClient, Reply
from harness.runtime.server import serving

NAME = "model"  # what the server calls the model
GREEDY = {"temperature": 0, "seed": 0}

Messages = list[dict[str, str]]


class Engine(Protocol):
    """What answers.

    Attributes:
        backend: "vllm" or "transformers".
        served_by: what the engine itself says it is.
        version: of it.
    """

    backend: str
    served_by: str
    version: str

    def chat(self, messages: Messages, max_tokens: int) -> Reply:
        """The greedy answer, up to its end."""

    def continued(self, prompt: list[int], tokens: int) -> Reply:
        """Exactly ``tokens`` tokens after ``prompt``, whether or not the model has ended."""


class Vllm:
    backend = "vllm"

    def __init__(self, url: str) -> None:
        self._client = ChatClient(url, NAME)
        # The server says who it is: another one on this port would be measured under vLLM's name.
        self.served_by = str(self._client.get("/v1/models")["data"][0]["owned_by"])
        self.version = str(self._client.get("/version")["version"])

    def chat(self, messages: Messages, max_tokens: int) -> Reply:
        return self._client.chat(messages, max_tokens, **GREEDY)

    def continued(self, prompt: list[int], tokens: int) -> Reply:
        return self._client.complete(prompt, tokens, ignore_eos=True, min_tokens=tokens, **GREEDY)


@contextmanager
def vllm(
    folder: Path, log: Path, gpus: int, dtype: str, parallel: int, longest: int, random_weights: bool
) -> Iterator[Vllm]:
    """A server on a free port, stopped at the end. ``parallel``: processes that share every layer."""
    options = ["--served-model-name", NAME, "--max-model-len", str(longest), "--tensor-parallel-size", str(parallel)]
    # the model's own sampling settings would make greedy answers less than greedy (a repetition penalty)
    options += ["--generation-config", "vllm", "--seed", "0"]
    # a prompt that was seen before is computed again: else its answer would come from other kernels, and sooner
    options += ["--no-enable-prefix-caching", "--dtype", dtype]
    if not gpus:
        options += ["--enforce-eager"]  # compiling for a CPU takes minutes
    if random_weights:
        options += ["--load-format", "dummy"]

    def command(port: int) -> list[str]:
        return ["vllm", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), *options]

    variables = {}
    if not gpus and allocated_cores() > 1:
        # threads that compute wait by spinning: without a core of its own the server sends everything at the end
        variables["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "1"
    with serving(command, log, variables=variables) as url:
        yield Vllm(url)


class Transformers:
    """One request at a time. On several GPUs the layers are dealt out, and the GPUs take turns."""

    backend = "transformers"

    def __init__(self, folder: Path, gpus: int, dtype: str) -> None:
        self.served_by = type(self).backend
        self.version = importlib.metadata.version("transformers")
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        place = {"device_map": "auto"} if gpus else {}
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **place).eval()

    def chat(self, messages: Messages, max_tokens: int) -> Reply:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._generate(prompt, max_tokens, end=self._tokenizer.eos_token_id)

    def continued(self, prompt: list[int], tokens: int) -> Reply:
        return self._generate(prompt, tokens, end=None)

    @torch.no_grad()
    def _generate(self, prompt: list[int], tokens: int, end: int | None) -> Reply:
        sent = time.perf_counter()
        given = torch.tensor([prompt], device=self._model.device)
        step, found, first = None, [], 0.0
        while len(found) < tokens and (not found or found[-1] != end):
            past = None if step is None else step.past_key_values
            step = self._model(given, past_key_values=past, use_cache=True, logits_to_keep=1)
            given = step.logits[:, -1:].argmax(-1).to(self._model.device)
            found.append(int(given))  # waits for the device, as streaming each token to somebody does
            first = first or time.perf_counter()
        text = self._tokenizer.decode(found, skip_special_tokens=True)
        return Reply(text, len(prompt), len(found), len(found), sent, first, time.perf_counter())


def check_identity(engine: Engine) -> None:
    """Raises ProgramError where what answers is not what was started."""
    if engine.served_by != engine.backend:
        raise ProgramError(f"'{engine.served_by}' answers where {engine.backend} was started")
    installed = importlib.metadata.version(engine.backend)
    if engine.version.partition("+")[0] != installed.partition("+")[0]:
        raise ProgramError(f"{engine.backend} {engine.version} answers, installed is {installed}")


def random_prompt(number: int, length: int, vocabulary: int) -> list[int]:
    """Token ids no other request shares, so that no cache of prefixes helps. The first 256 are bytes and signs."""
    source = random.Random(number)
    return [source.randrange(256, vocabulary) for _ in range(length)]
