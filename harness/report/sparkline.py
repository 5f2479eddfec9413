"""Raw samples as a small inline SVG drawing."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.judge.numbers import finite

WIDTH, HEIGHT, MARGIN = 120.0, 28.0, 3.0
MAX_POINTS = 120


def sparkline(samples: Sequence[float], *, floor: float | None = None) -> Markup:
    """An SVG line through the samples in their order, scaled from 0, with the floor as a dashed line where it fits.

    From 0, so that the noise of a steady rate looks as small as it is. Empty for fewer than two samples.
    """
    values = [value for value in samples if finite(value) is not None]
    if len(values) < 2:
        return Markup("")
    points = _thinned(values)
    low, high = min(0.0, *points), max(points)
    if high <= low:
        return Markup("")

    def height(value: float) -> float:
        return HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    step = (WIDTH - 2 * MARGIN) / (len(points) - 1)
    path = " ".join(f"{MARGIN + index * step:.1f},{height(value):.1f}" for index, value in enumerate(points))
    last_x, last_y = path.split(" ")[-1].split(",")
    guide = ""
    if floor is not None and low < floor <= high:
        level = f"{height(floor):.1f}"
        guide = f'<line class="floor" x1="0" x2="{WIDTH:g}" y1="{level}" y2="{level}"/>'
    label = f"{len(values)} samples, {min(values):.4g} to {max(values):.4g}"
    # Numbers only, formatted here: nothing of a run's text enters this markup.
    return Markup(
        f'<svg class="spark" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{guide}"
        f'<polyline points="{path}"/><circle cx="{last_x}" cy="{last_y}" r="2.2"/></svg>'
    )


def _thinned(values: Sequence[float]) -> list[float]:
    """At most ``MAX_POINTS`` of them, evenly spaced, the last one included."""
    if len(values) <= MAX_POINTS:
        return list(values)
    stride = (len(values) - 1) / (MAX_POINTS - 1)
    return [values[round(index * stride)] for index in range(MAX_POINTS)]
