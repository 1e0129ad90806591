"""Types of command-line arguments that several commands share, for ``argparse``."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """The type of whole numbers that are not below ``least``."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return value

    return whole_number


def torch_device(text: str) -> str:
    """A torch device that is there; torch is imported only if it is not the CPU."""
    if text == "cpu":
        return text
    import torch

    try:
        kind = torch.device(text).type
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error).split("\n")[0]) from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"{text}: torch finds no GPU here")
    return text
