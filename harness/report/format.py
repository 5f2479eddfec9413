"""Numbers, names and durations as people read them. Pure."""

from __future__ import annotations

from harness.judge.verdict import RunFacts


def number(value: float) -> str:
    """Four significant digits, thousands grouped with thin spaces in the integer part: ``12 340``, ``0.9731``."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1e9 or magnitude < 1e-4:
        return f"{value:.3e}"
    if magnitude >= 1000:
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.4g}"


def quantity(value: float | None, unit: str | None) -> str:
    """A value with its unit, or a dash."""
    if value is None:
        return "–"
    return f"{number(value)} {unit}" if unit else number(value)


def fraction_text(fraction: float | None) -> str:
    """A fraction as a percentage of at most three significant digits, or a dash."""
    if fraction is None:
        return "–"
    percent = fraction * 100
    if percent >= 10:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %" if percent >= 0.01 else "< 0.01 %"


def duration(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 5 s``, ``2 h 4 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Bytes in binary units: ``14 KiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def device_label(run: RunFacts) -> str:
    """``2 × NVIDIA A100-SXM4-80GB``, ``CPU · 16 threads``, or the variant where no device is on record."""
    if run.device_kind == "cuda":
        return f"{run.device_count} × {run.device}"
    if run.device_kind == "cpu":
        plural = "" if run.device_count == 1 else "s"
        return f"CPU · {run.device_count} thread{plural}"
    return f"{(run.variant or 'device').upper()} · no device on record"


def device_column(run: RunFacts) -> str:
    """As :func:`device_label`, but one column for a CPU model however many threads a tutorial uses of it."""
    return f"CPU · {run.device}" if run.device_kind == "cpu" else device_label(run)


def shortened(digest: str | None, length: int = 12) -> str:
    """The first characters of a digest, or a dash."""
    return digest[:length] if digest else "–"
