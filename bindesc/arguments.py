"""Types of command-line arguments that several commands share, for ``argparse``."""

from __future__ import annotations

import argparse


def at_least_1(text: str) -> int:
    """A whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


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
