"""Why a stage, or a tutorial's layer, would be built: what moved since the nearest build that is remembered."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.image.stages import ChainRecord, LayerParts, Stage, StageParts, StageStore

SHOWN_WORDS = 12


@dataclass(frozen=True)
class StageNote:
    """A stage in words.

    Attributes:
        title: its instruction that does the work.
        state: ``cached``, or ``build``.
        moved: what moved its key, a line each; of a stage whose key did not move, why it must be built all the same.
    """

    title: str
    key: str
    state: Literal["cached", "build"]
    moved: tuple[str, ...]


def explain_stages(stages: Sequence[Stage], store: StageStore, name: str) -> list[StageNote]:
    """A note for each stage of a chain, from the first on."""
    records = store.records(name)
    # Of those that share as many stages the longest (a build that failed remembers less), then the newest.
    nearest = max(records, key=lambda record: (_common(stages, record), len(record.stages)), default=None)
    built = store.built(stages)
    notes = []
    for number, stage in enumerate(stages):
        moved: tuple[str, ...] = ()
        if number >= built:
            before = nearest.stages[number] if nearest and number < len(nearest.stages) else None
            moved = tuple(_moved(before, stage.parts, number)) if nearest else ("it was never built here",)
        notes.append(StageNote(_title(stage.parts), stage.key, "cached" if number < built else "build", moved))
    return notes


def explain_layer(before: LayerParts | None, now: LayerParts) -> list[str]:
    """What moved in a tutorial's own layer since an image of it was built."""
    if before is None:
        return ["how the published image was built is not remembered here"]
    lines = []
    if before.stack_key != now.stack_key:
        lines.append("its stack's image is another one")
    lines += _changed_files(before.files, now.files)
    for section in sorted({*before.sections, *now.sections}):
        old, new = before.sections.get(section, ""), now.sections.get(section, "")
        if old != new:
            lines.append(f"%{section}: {_words(old, new)}")
    if before.compression != now.compression:
        lines.append(f"compression: {before.compression} -> {now.compression}")
    return lines


def _common(stages: Sequence[Stage], record: ChainRecord) -> int:
    count = 0
    for stage, parts in zip(stages, record.stages, strict=False):
        if stage.key != parts.key:
            break
        count += 1
    return count


def _moved(before: StageParts | None, now: StageParts, number: int) -> list[str]:
    if before is None:
        return ["it was never built here"]
    if before.key == now.key:
        return ["nothing moved, but its image is not in the cache any more"]
    lines = _changed_lines(before.origins, now.origins) + _changed_files(before.files, now.files)
    if not lines and before.recipe != now.recipe:
        lines.append(f"it is written another way: {_words(before.recipe, now.recipe)}")
    for tool in sorted({*before.tools, *now.tools}):
        if before.tools.get(tool) != now.tools.get(tool):
            lines.append(f"{tool}: {before.tools.get(tool, 'none')} -> {now.tools.get(tool, 'none')}")
    if before.compression != now.compression:
        lines.append(f"compression: {_words(before.compression, now.compression)}")
    if before.parent != now.parent:
        lines.append("the stage below moved" if number else f"base image: {before.parent} -> {now.parent}")
    return lines


def _changed_lines(before: Sequence[tuple[str, str]], now: Sequence[tuple[str, str]]) -> list[str]:
    old, new = [text for _, text in before], [text for _, text in now]
    lines = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "replace" and b - a == d - c:
            lines += [f"{now[c + i][0]}: {_words(old[a + i], new[c + i])}" for i in range(d - c)]
        elif kind != "equal":
            lines += [f"{where}: new: {_short(text)}" for where, text in now[c:d]]
            lines += [f"{where} then: gone: {_short(text)}" for where, text in before[a:b]]
    return lines


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    lines = []
    for path in sorted({*before, *now}):
        if path not in before:
            lines.append(f"{path}: new file")
        elif path not in now:
            lines.append(f"{path}: no longer copied")
        elif before[path].removesuffix(" +x") != now[path].removesuffix(" +x"):
            lines.append(f"{path}: changed")
        elif before[path] != now[path]:
            lines.append(f"{path}: {'executable now' if now[path].endswith('+x') else 'no longer executable'}")
    return lines


def _words(before: str, now: str) -> str:
    """The words that went and that came; the instruction's own first word in front."""
    old, new = before.split(), now.split()
    gone: list[str] = []
    came: list[str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            gone += old[a:b]
            came += new[c:d]
    lead = f"{new[0]} … " if new and new[0] not in came else ""
    if gone and came:
        return f"{lead}{_first(gone)} -> {_first(came)}"
    return lead + (f"+ {_first(came)}" if came else f"- {_first(gone)}" if gone else "blanks")


def _first(words: Sequence[str]) -> str:
    return " ".join(words[:SHOWN_WORDS]) + (" …" if len(words) > SHOWN_WORDS else "")


def _short(text: str) -> str:
    return _first(text.split())


def _title(parts: StageParts) -> str:
    texts = [text for _, text in parts.origins]
    runs = [text for text in texts if text.upper().startswith("RUN ")]
    return _short((runs or texts or [""])[0])
