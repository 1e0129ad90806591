"""Types of command-line arguments that several commands share, for ``argparse``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """The type of whole numbers that are not below ``least``."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return value

    return whole_number


def positive(text: str) -> float:
    """The type of finite numbers above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def not_negative(text: str) -> float:
    """The type of finite numbers from 0 on."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text}")
    return value


def torch_device(text: str) -> str:
    """A torch device that is there; torch is imported only if it is not the CPU."""
    if text == "cpu":
        return text
    import torch

    try:
        device = torch.device(text)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError(f"{text}: torch finds no GPU here")
        torch.zeros(1, device=device).cpu()  # some can be named, but not used
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(str(error).split("\n")[0]) from None
    return text
