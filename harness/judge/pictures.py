"""Pictures: are they there, of the right size, not blank, and different from one another."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

from harness.expectation import ImagesExpectation
from harness.judge.files import PNG_MAGIC, judged_file, png_size, recorded_file, recorded_names
from harness.judge.finding import Finding, StepOutputs

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
            raise ValueError(f"names {len(names)} pictures the step recorded, expected at least {expectation.count}")
        small: list[tuple[str, Image.Image]] = []
        lowest = 1.0
        for name in names:
            picture = open_picture(recorded_file(outputs, name), name)
            for noun, found, wanted in (
                ("width", picture.width, expectation.width),
                ("height", picture.height, expectation.height),
            ):
                if wanted is not None and found != wanted:
                    raise ValueError(f"has {name} of {noun} {found}, expected {wanted}")
            lowest = min(lowest, contrast(picture))
            if lowest < expectation.min_contrast:
                raise ValueError(
                    f"has {name} with a contrast of {lowest:.3g}, expected {expectation.min_contrast:g}: it is blank"
                )
            small.append((name, picture.resize(COMPARED_AT)))
        least = _least_difference(small, expectation.min_difference) if expectation.min_difference else None
        differs = "" if least is None else f", least difference {least:.3g}"
        message = f"{expectation.name}: {len(names)} pictures, least contrast {lowest:.3g}{differs}"
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
        raise ValueError(f"has {name}, which is no whole picture: {error}") from error


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
                raise ValueError(f"has {other_name} and {name}, which differ by {found:.3g} only, expected {wanted:g}")
            least = min(least, found)
    return least
