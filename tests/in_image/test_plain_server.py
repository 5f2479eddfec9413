"""The server of plain transformers (tutorials/xscow-8/plain_server.py), run by the vllm image's own Python.

    apptainer exec --bind "$PWD:/mnt" --pwd /mnt/tests/in_image IMAGE python -m unittest -v test_plain_server

It serves a tiny model to the client that measures it; what its answers must be, ``generate`` of transformers says.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from test_programs import ROOT

sys.path.insert(0, str(ROOT / "tutorials/xscow-7"))
sys.path.insert(0, str(ROOT / "tutorials/xscow-8"))

import transformers
from engines import NAME, check_identity, cores_of_each, generated, plain
from tiny_qwen2 import VOCABULARY, save_tiny_qwen2

from harness.runtime import ProgramError

LEARNED = "naïve: 你好，世界 — a word."  # characters of one, two and three bytes; most bytes are a token each
HELLO = [{"role": "user", "content": "hello"}]
ONE_TOKEN = {"model": NAME, "prompt": [300], "max_tokens": 1, "temperature": 0, "stream": True}
UNKNOWN = [{"role": "user", "content": "What is a word?"}]


class Served(unittest.TestCase):
    """One server for all cases: its start is most of the time."""

    @classmethod
    def setUpClass(cls) -> None:
        scratch = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = scratch / "model"
        save_tiny_qwen2(cls.model, [[*HELLO, {"role": "assistant", "content": LEARNED}]])
        cls.engine = cls.enterClassContext(plain(cls.model, scratch / "log", 0, "float32"))
        port = (scratch / "log").read_text().partition("running on http://127.0.0.1:")[2].split()[0]
        cls.url = f"http://127.0.0.1:{port}"

    def request(self, path: str, body: dict[str, Any]) -> urllib.request.Request:
        """As somebody else's program sends it."""
        return urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def test_it_says_who_it_is(self) -> None:
        self.assertEqual((self.engine.backend, self.engine.served_by), ("transformers", "transformers"))
        self.assertEqual(self.engine.version, transformers.__version__)
        check_identity(self.engine)
        self.engine.served_by = "vllm"
        with self.assertRaisesRegex(ProgramError, "'vllm' answers where transformers was started"):
            check_identity(self.engine)
        self.engine.served_by = "transformers"

    def test_it_answers_as_generate_does_and_streams_each_token(self) -> None:
        right = generated(self.model, [HELLO, UNKNOWN], 60, 0, "float32")
        replies = [self.engine.chat(messages, 60) for messages in (HELLO, UNKNOWN)]
        self.assertEqual([reply.text for reply in replies], right)
        self.assertEqual(right[0], LEARNED)
        for reply in replies:
            self.assertEqual(reply.pieces, reply.output_tokens)
            self.assertNotIn("\ufffd", reply.text)
        self.assertLess(replies[0].output_tokens, 60, "it ends where the model ends")

    def test_the_tokens_are_counted_as_the_tokenizer_counts_them(self) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.model)
        prompt = tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
        reply = self.engine.chat(HELLO, 60)
        self.assertEqual(reply.prompt_tokens, len(tokenizer.encode(prompt, add_special_tokens=False)))
        end = 1  # the token that says so
        self.assertEqual(reply.output_tokens, len(tokenizer.encode(LEARNED, add_special_tokens=False)) + end)

    def test_as_many_tokens_as_asked_for_whether_or_not_the_model_has_ended(self) -> None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.model)
        prompt = tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer.encode(prompt, add_special_tokens=False)
        reply = self.engine.continued(tokens, 60)
        self.assertEqual((reply.prompt_tokens, reply.output_tokens, reply.pieces), (len(tokens), 60, 60))
        self.assertTrue(reply.text.startswith(LEARNED))

    def test_requests_at_once_wait_for_each_other_and_get_their_own_answers(self) -> None:
        answers: dict[int, str] = {}

        def ask(number: int) -> None:
            answers[number] = self.engine.chat(HELLO if number % 2 else UNKNOWN, 60).text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        right = [self.engine.chat(messages, 60).text for messages in (UNKNOWN, HELLO)]
        self.assertEqual(answers, {number: right[number % 2] for number in range(6)})

    def test_nothing_is_computed_for_a_client_that_has_left(self) -> None:
        whole = self.engine.continued([300], 500)
        asked = {**ONE_TOKEN, "max_tokens": 500, "ignore_eos": True}
        with urllib.request.urlopen(self.request("/v1/completions", asked), timeout=60) as answer:
            self.assertIn(b"choices", answer.readline())
        reply = self.engine.chat(HELLO, 60)
        self.assertEqual(reply.text, LEARNED)
        self.assertLess(reply.ttft, (whole.last - whole.sent) / 2)

    def test_what_it_cannot_do_is_refused(self) -> None:
        with urllib.request.urlopen(self.request("/v1/completions", ONE_TOKEN), timeout=60) as answer:
            self.assertTrue(answer.read().endswith(b"\n\ndata: [DONE]\n\n"))
        for wrong, status in (
            ({"temperature": 0.7}, 422),
            ({"top_p": 0.9}, 422),
            ({"stream": False}, 422),
            ({"max_tokens": 0}, 422),
            ({"prompt": []}, 422),
            ({"model": "another"}, 404),
            ({"prompt": [VOCABULARY]}, 400),
            ({"prompt": [-1]}, 400),
            ({"max_tokens": 512}, 400),
        ):
            with self.subTest(wrong=wrong), self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(self.request("/v1/completions", {**ONE_TOKEN, **wrong}), timeout=60)
            self.assertEqual(refused.exception.code, status)
            refused.exception.close()


class Cores(unittest.TestCase):
    """What vLLM's processes are bound to on a CPU."""

    def test_each_process_has_cores_of_its_own_and_the_server_one_if_there_is_one(self) -> None:
        for parallel, cores, bound in (
            (2, [0, 1], "0|1"),
            (2, [4, 6, 7], "4|6"),
            (2, [0, 1, 2, 3, 4], "0,1|2,3"),
            (3, [0, 1, 2, 3], "0|1|2"),
        ):
            self.assertEqual(cores_of_each(parallel, cores), {"VLLM_CPU_OMP_THREADS_BIND": bound})

    def test_one_process_is_bound_by_vllm_itself(self) -> None:
        self.assertEqual(cores_of_each(1, [0, 1]), {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"})
        self.assertEqual(cores_of_each(1, [5]), {})

    def test_fewer_cores_than_processes_are_refused(self) -> None:
        with self.assertRaisesRegex(ProgramError, "--tensor-parallel 2 needs as many CPU cores, the job has 1"):
            cores_of_each(2, [0])


if __name__ == "__main__":
    unittest.main()
