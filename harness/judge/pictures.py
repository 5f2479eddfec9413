"""Pictures: are they there, of the right size, not blank, and different from one another."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

from harness.expectation import ImagesExpectation
from harness.judge.files import PNG_MAGIC, judged_file, png_size, recorded_file, recorded_names
from harness.judge.finding import Finding, StepOutputs
from harness.judge.said import same, say

COMPARED_AT = (64, 64)  # pixels; differences a person sees survive it, those of a lossy format do not


def judge_images(expectation: ImagesExpectation, outputs: StepOutputs) -> Finding:
    """As many pictures as asked for, each sound, of the size, with contrast, and no two alike."""
    size = f" of {expectation.width or 'any'} × {expectation.height or 'any'} pixels"
    expected = f"at least {expectation.count} pictures{size}, contrast ≥ {expectation.min_contrast:g}"
    if expectation.min_difference:
        expected += f", differing by ≥ {expectation.min_difference:g}"

    def judge() -> Finding:
        names = recorded_names(outputs, expectation.name)
        if len(names) < expectation.count:
            raise ValueError(
                say(
                    "names {count} pictures the step recorded, expected at least {least}",
                    "对应该步骤记录的 {count} 张图片，至少应有 {least} 张",
                    count=len(names),
                    least=expectation.count,
                )
            )
        small: list[tuple[str, Image.Image]] = []
        lowest = 1.0
        for name in names:
            picture = open_picture(recorded_file(outputs, name), name)
            for noun, found, wanted in (
                (say("width", "宽"), picture.width, expectation.width),
                (say("height", "高"), picture.height, expectation.height),
            ):
                if wanted is not None and found != wanted:
                    raise ValueError(
                        say(
                            "has {name} of {noun} {found}, expected {wanted}",
                            "中的 {name} {noun}为 {found}，应为 {wanted}",
                            name=name,
                            noun=noun,
                            found=found,
                            wanted=wanted,
                        )
                    )
            lowest = min(lowest, contrast(picture))
            if lowest < expectation.min_contrast:
                raise ValueError(
                    say(
                        "has {name} with a contrast of {lowest}, expected {wanted}: it is blank",
                        "中的 {name} 对比度为 {lowest}，应为 {wanted}：是空白图片",
                        name=name,
                        lowest=f"{lowest:.3g}",
                        wanted=f"{expectation.min_contrast:g}",
                    )
                )
            small.append((name, picture.resize(COMPARED_AT)))
        least = _least_difference(small, expectation.min_difference) if expectation.min_difference else None
        differs = (
            same("") if least is None else say(", least difference {least}", "，最小差异 {least}", least=f"{least:.3g}")
        )
        message = say(
            "{name}: {count} pictures, least contrast {lowest}{differs}",
            "{name}：{count} 张图片，最低对比度 {lowest}{differs}",
            name=expectation.name,
            count=len(names),
            lowest=f"{lowest:.3g}",
            differs=differs,
        )
        return Finding("pass", message, len(names))

    return judged_file(expectation.name, expected, judge)


def open_picture(path: Path, name: str) -> Image.Image:
    """The picture in RGB, wholly decoded.

    Raises:
        ValueError: not a picture Pillow knows, cut short, or absurdly large.
    """
    with path.open("rb") as stream:
        is_png = stream.read(8) == PNG_MAGIC
    if is_png:
        png_size(path)  # Pillow shows a PNG whose last bytes are missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                decoded: Image.Image = picture.convert("RGB")
                return decoded
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        text = say(
            "has {name}, which is no whole picture: {error}",
            "中的 {name} 不是完整的图片：{error}",
            name=name,
            error=error,
        )
        raise ValueError(text) from error


def contrast(picture: Image.Image) -> float:
    """Standard deviation of the grey values over their range: 0 for one colour, 0.5 for half black, half white."""
    return float(ImageStat.Stat(picture.convert("L")).stddev[0]) / 255


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two RGB pictures of one size, over the range of a value: 0 to 1."""
    means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return float(sum(means)) / len(means) / 255


def _least_difference(pictures: list[tuple[str, Image.Image]], wanted: float) -> float:
    least = 1.0
    for index, (name, picture) in enumerate(pictures):
        for other_name, other in pictures[:index]:
            found = difference(picture, other)
            if found < wanted:
                raise ValueError(
                    say(
                        "has {other} and {name}, which differ by {found} only, expected {wanted}",
                        "中的 {other} 与 {name} 只相差 {found}，应为 {wanted}",
                        other=other_name,
                        name=name,
                        found=f"{found:.3g}",
                        wanted=f"{wanted:g}",
                    )
                )
            least = min(least, found)
    return least
