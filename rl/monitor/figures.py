"""Formats numbers and durations for people."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Formats to three significant digits; large whole numbers in full; None and nan as "-"."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ") if abs(value) < 1e7 else f"{value:.2e}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Formats seconds in the largest unit of which there are two or more."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == 0 else f"{seconds:.1f} s"
