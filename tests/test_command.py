"""The exit codes of the commands that read data."""

from __future__ import annotations

import pytest

from benchmarks import tilt
from benchmarks.command import command
from benchmarks.datasets import DataMissingError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (None, 0, ""),
        (DataMissingError("no data: there"), 0, "name: skipped, no data: there\n"),
        (FileNotFoundError("there"), 2, "name: there\n"),
        (ValueError("unusable"), 2, "name: unusable\n"),
    ],
)
def test_ends(capsys, error, code, told) -> None:
    @command("name")
    def main() -> None:
        if error is not None:
            raise error

    assert main() == code
    assert capsys.readouterr().err == told


def test_a_mistake_of_the_program_is_no_bad_input() -> None:
    @command("name")
    def main() -> None:
        raise IndexError

    with pytest.raises(IndexError):
        main()


def test_arguments_are_passed_on() -> None:
    seen = []

    @command("name")
    def main(arguments: list[str], more: int = 0) -> None:
        seen.append((arguments, more))

    assert main(["--save"], more=3) == 0
    assert seen == [(["--save"], 3)]


def test_a_model_that_is_not_there(capsys) -> None:
    assert tilt.main(["--model", "nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err
