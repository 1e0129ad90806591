"""How the commands that read data or models end: with an exit code, and one line on what failed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from .datasets import DataMissingError

_P = ParamSpec("_P")


def command(name: str) -> Callable[[Callable[_P, None]], Callable[_P, int]]:
    """A decorator of the ``main`` of a benchmark, which then returns the exit code.

    It is 0, also where there is no data to run on, or 2 if an input is unusable (``OSError`` or
    ``ValueError``); ``name`` and the reason are written to standard error.
    """

    def decorate(main: Callable[_P, None]) -> Callable[_P, int]:
        @functools.wraps(main)
        def run(*arguments: _P.args, **named: _P.kwargs) -> int:
            try:
                main(*arguments, **named)
            except DataMissingError as error:
                print(f"{name}: skipped, {error}", file=sys.stderr)
            except (OSError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 2
            return 0

        return run

    return decorate
