"""Python tracebacks in a log, also where the ranks of a distributed program write into one file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Raised:
    """An exception whose traceback was printed, or that result.json names.

    Attributes:
        type: name of its class, without the module.
        message: what it said: its first line, for some types the next ones too, joined by blanks.
        index: index of its line in the log, None where only result.json tells of it.
        chain: exceptions of one chain ("During handling of …") share this number; -1: told by result.json.
    """

    type: str
    message: str
    index: int | None
    chain: int

    def is_same_as(self, other: Raised) -> bool:
        """Whether two witnesses speak of one exception: same type, and one text begins like the other."""
        mine, theirs = " ".join(self.message.split())[:80], " ".join(other.message.split())[:80]
        return self.type == other.type and (mine.startswith(theirs) or theirs.startswith(mine))


START = "Traceback (most recent call last):"
_LINKS = ("During handling of the above exception", "The above exception was the direct cause")

# Who speaks, where several write into one log: torch's rank, srun --label, torchrun --log, a vLLM process, a logger.
_SPEAKER = re.compile(
    r"""^(?P<who>
        \[(?:rank|default)\d+\]:\ ?
      | \d{1,4}:\ (?=\S|\ )
      | \((?:\w+\ )+pid=\d+\)\ (?:(?:ERROR|CRITICAL)\ [\d-]+\ [\d:]+\ \[[^\]]+\]\ ?)?
      | (?:ERROR|CRITICAL)\ [\d-]+\ [\d:]+\ \[[^\]]+\]\ ?
    )""",
    re.VERBOSE,
)
_EXCEPTION = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:: ?(?P<message>.*))?$")
_TIME = re.compile(r"[\d-]+ [\d:]+")

# Nothing tells a message's second line from the program's next output, so only these have one: what NCCL says last.
_SEVERAL_LINES = frozenset({"DistBackendError"})
MESSAGE_LINES = 6


def split_speaker(text: str) -> tuple[str, str]:
    """(who, what was said). A vLLM worker's log time does not make it another speaker."""
    match = _SPEAKER.match(text)
    return (_TIME.sub("", match["who"]), text[match.end() :]) if match else ("", text)


def parse_tracebacks(texts: Sequence[str]) -> tuple[tuple[Raised, ...], frozenset[int]]:
    """(exceptions in log order, indices of the lines that belong to tracebacks).

    Each speaker's lines are read by themselves, so tracebacks of two ranks may be interleaved line by line where the
    ranks name themselves. May be wrong where they do not: the broken traceback is then not recognised.
    """
    streams: dict[str, list[tuple[int, str]]] = {}
    for index, text in enumerate(texts):
        who, said = split_speaker(text)
        streams.setdefault(who, []).append((index, said))
    found: list[Raised] = []
    quoted: set[int] = set()
    chain = 0
    for stream in streams.values():
        position = 0
        linked = False
        while position < len(stream):
            index, said = stream[position]
            if said.startswith(_LINKS):
                linked = True
                quoted.add(index)
            elif said.rstrip().endswith(START):
                chain += 0 if linked and chain else 1
                linked = False
                exception, position = _one(stream, position, chain, quoted)
                if exception is not None:
                    found.append(exception)
                continue
            elif said.strip():
                linked = False
            position += 1
    return tuple(sorted(found, key=lambda exception: exception.index or 0)), frozenset(quoted)


def _one(stream: Sequence[tuple[int, str]], start: int, chain: int, quoted: set[int]) -> tuple[Raised | None, int]:
    """The exception whose traceback starts at ``start``, and where to read on."""
    quoted.add(stream[start][0])
    position = start + 1
    while position < len(stream) and (stream[position][1].startswith((" ", "\t")) or not stream[position][1]):
        quoted.add(stream[position][0])
        position += 1
    if position == len(stream):
        return None, position  # cut short: nobody knows what it was
    index, said = stream[position]
    match = _EXCEPTION.match(said)
    if match is None:
        return None, position
    quoted.add(index)
    kind = match["type"].rpartition(".")[2]
    message = [match["message"] or ""]
    position += 1
    while position < len(stream) and kind in _SEVERAL_LINES and len(message) < MESSAGE_LINES:
        following, text = stream[position]
        if not text.strip() or text.startswith((START, *_LINKS)) or _OTHERS.match(text):
            break
        message.append(text.strip())
        quoted.add(following)
        position += 1
    return Raised(kind, " ".join(message).strip(), index, chain), position


# Speakers who begin a line of their own right after an exception's message.
_OTHERS = re.compile(
    r"^(?:slurmstepd|srun|error|INFO|WARNING|FATAL|ERROR)[:\s]|^\[|^[WEF]\d{4} |^\S+/job\.sh: line|^run: "
)
