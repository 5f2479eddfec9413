"""What the judge says, in both languages at once: an English text that carries its Chinese twin.

Both are made from templates with the same named parts, so neither can know a number that the other does not:

    say("too slow: {measured}", "过慢：{measured}", measured="3 images/s")
"""

from __future__ import annotations

from harness.specfile import LocalizedText


class Said(str):
    """The English text; ``zh`` is the Chinese one."""

    zh: str

    def __new__(cls, en: str, zh: str) -> Said:
        text = super().__new__(cls, en)
        text.zh = zh
        return text


def say(en: str, zh: str, **parts: object) -> Said:
    """Fill both templates; a part that is bilingual itself goes into each in its language.

    Raises:
        KeyError: a template names a part that was not given.
    """
    english = {name: part.en if isinstance(part, LocalizedText) else part for name, part in parts.items()}
    return Said(en.format(**english), zh.format(**{name: in_chinese(part) for name, part in parts.items()}))


def in_chinese(part: object) -> object:
    """The Chinese of a bilingual text; anything else is the same in both languages."""
    return part.zh if isinstance(part, (Said, LocalizedText)) else part


def same(text: object) -> Said:
    """A text that is the same in both languages: numbers, names, what a program wrote."""
    return text if isinstance(text, Said) else Said(str(text), str(text))


def why(error: Exception) -> Said:
    """What an exception says; ``raise ValueError(say(...))`` says it in both languages."""
    return same(error.args[0] if error.args else type(error).__name__)
