"""Two servers of the same model, vLLM and plain transformers: started here, asked and measured by one client.

Each says itself who it is; neither ever stands in for the other.
"""

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from harness.runtime import ProgramError
from harness.runtime.chat_client import ChatClient, Reply
from harness.runtime.server import serving

NAME = "model"  # what a server calls the model
GREEDY = {"temperature": 0, "seed": 0}

Messages = list[dict[str, str]]


class Engine:
    """What answers.

    Attributes:
        backend: what was started: "vllm" or "transformers".
        served_by: what the server says it is: another one on this port would be measured under this one's name.
        version: of it, as it says.
    """

    def __init__(self, backend: str, url: str) -> None:
        self.backend = backend
        self._client = ChatClient(url, NAME)
        self.served_by = str(self._client.get("/v1/models")["data"][0]["owned_by"])
        self.version = str(self._client.get("/version")["version"])

    def chat(self, messages: Messages, max_tokens: int) -> Reply:
        """The greedy answer, up to its end."""
        return self._client.chat(messages, max_tokens, **GREEDY)

    def continued(self, prompt: list[int], tokens: int) -> Reply:
        """Exactly ``tokens`` tokens after ``prompt``, whether or not the model has ended."""
        return self._client.complete(prompt, tokens, ignore_eos=True, **GREEDY)


@contextmanager
def vllm(
    folder: Path, log: Path, gpus: int, dtype: str, parallel: int, longest: int, random_weights: bool
) -> Iterator[Engine]:
    """vLLM's own server, stopped at the end. ``parallel``: processes that share every layer."""
    options = ["--served-model-name", NAME, "--max-model-len", str(longest), "--tensor-parallel-size", str(parallel)]
    # the model's own sampling settings would make greedy answers less than greedy (a repetition penalty)
    options += ["--generation-config", "vllm", "--seed", "0"]
    # a prompt that was seen before is computed again: else its answer would come from other kernels, and sooner
    options += ["--no-enable-prefix-caching", "--dtype", dtype]
    variables: dict[str, str] = {}
    if not gpus:
        # Compiling for a CPU takes minutes. The option says so of the model; vocabularies that are shared by several
        # processes are looked up by a function that is compiled all the same, if torch is not told.
        options += ["--enforce-eager"]
        variables = {"TORCH_COMPILE_DISABLE": "1", **cores_of_each(parallel, sorted(os.sched_getaffinity(0)))}
    if random_weights:
        options += ["--load-format", "dummy"]

    def command(port: int) -> list[str]:
        return ["vllm", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), *options]

    try:
        with serving(command, log, variables=variables) as url:
            yield Engine("vllm", url)
    finally:
        remove_shared(log)


def remove_shared(log: Path) -> None:
    """Remove what vLLM's processes met in: they are stopped before they do, and it is 4 MiB of the node's memory each.

    Args:
        log: the server's, which says what they called it.
    """
    text = log.read_text(encoding="utf-8", errors="replace")
    for meeting in {Path(found) for found in re.findall(r"distributed_init_method=file://(/\S+)", text)}:
        for left in (meeting, *Path("/dev/shm").glob(f"{meeting.name}-*")):
            left.unlink(missing_ok=True)


@contextmanager
def plain(folder: Path, log: Path, gpus: int, dtype: str) -> Iterator[Engine]:
    """``plain_server.py``, stopped at the end."""
    program = str(Path(__file__).with_name("plain_server.py"))
    options = ["--name", NAME, "--gpus", str(gpus), "--dtype", dtype]

    def command(port: int) -> list[str]:
        return [sys.executable, program, str(folder), "--port", str(port), *options]

    with serving(command, log) as url:
        yield Engine("transformers", url)


def cores_of_each(parallel: int, cores: list[int]) -> dict[str, str]:
    """vLLM's settings on a CPU: which of ``cores`` each of its ``parallel`` processes computes on.

    Threads that compute wait by spinning: without a core of its own the server sends everything at the end. So it keeps
    one, where there are more than the processes need.

    Raises:
        ProgramError: fewer cores than processes. They would wait for each other on the same one.
    """
    if parallel == 1:
        return {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"} if len(cores) > 1 else {}
    if parallel > len(cores):
        raise ProgramError(f"--tensor-parallel {parallel} needs as many CPU cores, the job has {len(cores)}")
    each = max(1, (len(cores) - 1) // parallel)
    shares = [cores[rank * each : (rank + 1) * each] for rank in range(parallel)]
    # vLLM itself would give each process a NUMA node, and start none where there are fewer nodes than processes
    return {"VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, share)) for share in shares)}


def check_identity(engine: Engine) -> None:
    """Raises ProgramError where what answers is not what was started."""
    if engine.served_by != engine.backend:
        raise ProgramError(f"'{engine.served_by}' answers where {engine.backend} was started")
    installed = importlib.metadata.version(engine.backend)
    if engine.version.partition("+")[0] != installed.partition("+")[0]:
        raise ProgramError(f"{engine.backend} {engine.version} answers, installed is {installed}")


def generated(folder: Path, talks: list[Messages], max_tokens: int, gpus: int, dtype: str) -> list[str]:
    """The answers of transformers' own ``generate``, in this process: every server's are held against them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    place = {"device_map": "auto"} if gpus else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **place)
    end = tokenizer.eos_token_id
    # in place of the model's own, which would make greedy answers less than greedy (as in vllm above)
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    answers = []
    for messages in talks:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given = tokenizer(text, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
        both = model.generate(**given.to(model.device), max_new_tokens=max_tokens)[0]
        answers.append(tokenizer.decode(both[given.input_ids.shape[1] :], skip_special_tokens=True))
    return answers
