"""The options of matching, checked once for the CPU and the GPU."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

MAX_K = 32  # neighbours of a query


def check_filters(
    mutual: bool, ratio: float | None, margin: int | None, max_distance: int | None
) -> dict[str, Any]:
    """Check the filters of :func:`bindesc.match`.

    Returns:
        ``mutual`` bool; ``ratio`` float in (0, 1] or None; ``margin`` and ``max_distance``, bits,
        int of at least 0 or None.

    Raises:
        TypeError: one has the wrong type; the text names it.
        ValueError: one is out of range.
    """
    if ratio is not None:
        if not isinstance(ratio, Real):
            raise TypeError(f"ratio: expected a number, got {type(ratio).__name__}")
        ratio = float(ratio)
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio: expected a number above 0, at most 1, got {ratio}")
    return {
        "mutual": bool(mutual),
        "ratio": ratio,
        "margin": None if margin is None else check_integer("margin", margin, 0),
        "max_distance": None
        if max_distance is None
        else check_integer("max_distance", max_distance, 0),
    }


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An integer argument, checked to lie in ``low`` to ``high``; the errors name it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < low or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name}: expected {limits}, got {number}")
    return number
