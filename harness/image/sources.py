"""Which of several registries an image is taken from."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.image.process import LineCallback
from harness.image.reference import ImageReference
from harness.image.registry import (
    DigestMismatchError,
    ImageNotFoundError,
    RegistryError,
    RegistryTroubleError,
    RegistryUnreachableError,
    probe,
)
from harness.runtime.retry import RetryPolicy

Answer = str | RegistryError | None
"""A digest, a refusal, or nothing yet."""

SILENCE_S = 10.0
"""Seconds, all together, in which registries that did not answer in time are asked again."""


@dataclass(frozen=True)
class Choice:
    """What was found.

    Attributes:
        digest: of the image's manifest or index; empty where no registry has it.
        sources: the chosen registry first, then those that may have the same image, in their order.
        refusals: what the others said.
    """

    digest: str
    sources: tuple[ImageReference, ...]
    refusals: tuple[RegistryError, ...]


def choose_source(
    candidates: Sequence[ImageReference], timeout_s: float, policy: RetryPolicy, say: LineCallback
) -> Choice:
    """Ask all candidates at once and take the first in their order that has the image.

    Where none has it, those that answered and failed (overloaded, broken off) are asked again, in their order, as
    ``policy`` allows; then, for :data:`SILENCE_S`, those whose name is known and that did not answer in time. One that
    refuses the connection, or whose name nobody knows, is asked once: that is what being offline looks like.
    """
    say(f"{candidates[-1].name}: asking {', '.join(c.registry for c in candidates)}")
    answers = _ask_all(candidates, timeout_s, say)
    if not any(isinstance(answer, str) for answer in answers):
        answers = _ask_again(candidates, answers, timeout_s, policy, say)
    if not any(isinstance(answer, str) for answer in answers):
        answers = _ask_silent_again(candidates, answers, timeout_s, policy, say)
    digest = next((answer for answer in answers if isinstance(answer, str)), "")
    having, hoping = [], []
    for candidate, answer in zip(candidates, answers, strict=True):
        if answer == digest:
            having.append(candidate)
        elif isinstance(answer, str):  # a tag that this mirror has not moved yet, or has moved already
            say(f"{candidate.registry}: no: has {answer} where {having[0].registry} has {digest}")
        elif not isinstance(answer, (ImageNotFoundError, DigestMismatchError)):
            hoping.append(candidate)
    refusals = tuple(answer for answer in answers if isinstance(answer, RegistryError))
    return Choice(digest, (*having, *hoping) if digest else (), refusals)


def _ask_all(candidates: Sequence[ImageReference], timeout_s: float, say: LineCallback) -> list[Answer]:
    """The answers up to the first candidate in order that has the image; of the later ones, those in by then."""
    answers: list[Answer] = [None] * len(candidates)

    def ask(position: int) -> None:
        answers[position] = _ask(candidates[position], timeout_s)

    threads = [
        threading.Thread(target=ask, args=(position,), daemon=True, name="registry-probe")
        for position in range(len(candidates))
    ]
    for thread in threads:
        thread.start()
    for position, thread in enumerate(threads):
        thread.join()
        answer = answers[position]
        if isinstance(answer, str):
            break
        if answer is not None:
            say(f"{candidates[position].registry}: no: {answer.what}")
    return list(answers)


def _ask(candidate: ImageReference, timeout_s: float) -> str | RegistryError:
    try:
        return probe(candidate, timeout_s)
    except RegistryError as error:
        return error


def _ask_again(
    candidates: Sequence[ImageReference],
    answers: Sequence[Answer],
    timeout_s: float,
    policy: RetryPolicy,
    say: LineCallback,
) -> list[Answer]:
    """The answers after asking the troubled ones again, until the first of them has the image."""
    latest = list(answers)
    for position, candidate in enumerate(candidates):
        failures = 1
        while isinstance(answer := latest[position], RegistryTroubleError):
            if policy.gives_up(failures, answer.retry_after_s):
                say(f"{candidate.registry}: giving up: {answer.what}")
                break
            pause_s = policy.pause(failures, answer.retry_after_s)
            say(f"{candidate.registry}: asking again in {pause_s:.1f} s: {answer.what}")
            time.sleep(pause_s)
            latest[position] = _ask(candidate, timeout_s)
            failures += 1
        if isinstance(latest[position], str):
            break
    return latest


def _ask_silent_again(
    candidates: Sequence[ImageReference],
    answers: Sequence[Answer],
    timeout_s: float,
    policy: RetryPolicy,
    say: LineCallback,
) -> list[Answer]:
    """The answers after asking the silent ones again, all at once, until one of them has the image."""
    latest = list(answers)
    deadline = time.monotonic() + SILENCE_S
    failures = 1
    while silent := [n for n, a in enumerate(latest) if isinstance(a, RegistryUnreachableError) and a.is_silent]:
        pause_s = policy.pause(failures)
        left_s = deadline - time.monotonic() - pause_s
        if policy.gives_up(failures) or left_s <= 0:
            break
        asked = [candidates[n] for n in silent]
        say(f"{asked[0].name}: asking {', '.join(c.registry for c in asked)} again in {pause_s:.1f} s: no answer yet")
        time.sleep(pause_s)
        for n, answer in zip(silent, _ask_all(asked, min(timeout_s, left_s), say), strict=True):
            latest[n] = latest[n] if answer is None else answer
        failures += 1
        if any(isinstance(answer, str) for answer in latest):
            break
    return latest
