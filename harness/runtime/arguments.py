"""The arguments of a tutorial program: the step's parameters, each ``--key value`` (a bool: ``--key`` or nothing)."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


class ProgramArguments(argparse.ArgumentParser):
    """An argument parser whose parameters know their type, default and smallest value.

    ``--batch-size`` and ``--batch_size`` are both accepted. Errors are argparse's: one line and exit status 2.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def parameter(
        self, name: str, default: bool | int | float | str, help_text: str, *, minimum: float | None = None
    ) -> None:
        """Declare one parameter; its type is that of ``default``."""
        flags = list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))
        if isinstance(default, bool):
            if default:
                raise ValueError(f"parameter '{name}': a bool is off unless its flag is given")
            self.add_argument(*flags, dest=name, action="store_true", help=help_text)
        elif isinstance(default, str):
            self.add_argument(*flags, dest=name, default=default, help=help_text)
        else:
            self.add_argument(*flags, dest=name, type=_number(type(default), minimum), default=default, help=help_text)


def _number(kind: type[int] | type[float], minimum: float | None) -> Callable[[str], int | float]:
    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not {_NOUNS[kind]}") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"'{text}' is not finite")
        if minimum is not None and value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum:g}")
        return value

    return convert


_NOUNS = {int: "a whole number", float: "a number"}
