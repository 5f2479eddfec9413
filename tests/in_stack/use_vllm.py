"""vLLM answers with a tiny Qwen2; its command finds its platform."""

from pathlib import Path
from subprocess import run

import tiny_qwen2
from vllm import LLM, SamplingParams

if __name__ == "__main__":  # the engine starts a process that imports this file
    model = tiny_qwen2.save(Path("qwen2").absolute(), hidden=128)
    llm = LLM(str(model), dtype="float32", enforce_eager=True, max_model_len=128)
    [answer] = llm.chat([{"role": "user", "content": "Who are you?"}], SamplingParams(max_tokens=8, ignore_eos=True))
    assert len(answer.outputs[0].token_ids) == 8
    run(["vllm", "serve", "--help"], check=True, capture_output=True)
