"""Checkpoints that survive a kill at any moment. Torch comes in as an argument, not an import."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.runtime.errors import ProgramError
from harness.runtime.files import replaced_whole


class Checkpoint(NamedTuple):
    """What was saved after ``epoch`` epochs were done."""

    epoch: int
    state: dict[str, Any]


def refuse_other_parameters(path: Path, made_with: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on from ``path`` with other values than it was made with: the result would be neither's.

    Raises:
        ProgramError: names the first parameter that differs.
    """
    name = next((name for name in {**now, **made_with} if made_with.get(name) != now.get(name)), None)
    if name is not None:
        raise ProgramError(
            f"{path} was made with {name} {made_with.get(name)}, this run has {now.get(name)}; "
            "give this run another RUN_ID, or remove the folder"
        )


class Checkpoints:
    """One file per epoch in a folder; rank 0 writes, every rank reads.

    Args:
        torch: the imported torch module.
        folder: where they are; the same folder for every attempt at a run.
        parameters: what the run computes with. A checkpoint of other values is refused, not silently continued;
            how long to train (``may_differ``) is the exception.
        is_writer: whether this process writes.
        keep: how many of the newest files stay; 0: all.
    """

    def __init__(
        self,
        torch: Any,
        folder: Path,
        parameters: dict[str, Any],
        *,
        is_writer: bool,
        keep: int = 0,
        may_differ: tuple[str, ...] = ("epochs",),
    ) -> None:
        self._torch = torch
        self._folder = folder
        self._parameters = {name: value for name, value in parameters.items() if name not in may_differ}
        self._is_writer = is_writer
        self._keep = keep

    def save(self, epoch: int, **state: Any) -> None:
        """Write the state after ``epoch`` epochs; a reader sees the whole file or none. Does nothing on other ranks."""
        if not self._is_writer:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with replaced_whole(self._folder / f"epoch-{epoch:04d}.pt") as stream:
            self._torch.save({"parameters": self._parameters, "state": state}, stream)
        if self._keep:
            for _, path in self.files()[: -self._keep]:
                path.unlink()

    def files(self) -> list[tuple[int, Path]]:
        """(epoch, file) of each, oldest first."""
        if not self._folder.is_dir():
            return []
        matches = [(re.fullmatch(r"epoch-(\d+)\.pt", path.name), path) for path in self._folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in matches if match)

    def newest(self) -> Checkpoint | None:
        """The newest one, on the CPU; None where there is none. A damaged file is passed over, with a warning.

        Raises:
            ProgramError: it was made with other parameters.
        """
        for epoch, path in reversed(self.files()):
            try:
                content = self._torch.load(path, map_location="cpu", weights_only=True)
                parameters, state = content["parameters"], content["state"]
            except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
                if os.environ.get("RANK", "0") == "0":
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    print(f"warning: {path} is damaged and not used: {reason}", file=sys.stderr)  # noqa: T201
                continue
            refuse_other_parameters(path, parameters, self._parameters)
            return Checkpoint(epoch, state)
        return None
