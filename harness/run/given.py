"""Parameters given at submission, over the preset's: ``--set weights=random``."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import UserError
from harness.tutorial import Scalar, Tutorial

_FLAGS = {"true": True, "false": False}


def read_given(tutorial: Tutorial, words: Sequence[str]) -> dict[str, Scalar]:
    """``NAME=VALUE`` words as values of the tutorial's own types. The job hands them to every step.

    Raises:
        UserError: no ``=``, a name that is not a parameter of every step, or a value of another type.
    """
    shared = dict(tutorial.steps[0].parameters)
    for step in tutorial.steps[1:]:
        shared = {name: value for name, value in shared.items() if name in step.parameters}
    given: dict[str, Scalar] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in shared:
            valid = ", ".join(sorted(shared)) or "none"
            raise UserError(
                f"--set {word}: not NAME=VALUE with a parameter of every step of {tutorial.id}", fix=f"valid: {valid}"
            )
        given[name] = _convert(word, text, shared[name])
    return given


def _convert(word: str, text: str, original: Scalar) -> Scalar:
    try:
        if isinstance(original, bool):
            return _FLAGS[text.lower()]
        return type(original)(text)
    except (KeyError, ValueError):
        raise UserError(f"--set {word}: not a {type(original).__name__}", fix=f"the original is {original}") from None
