import argparse

import pytest

from bindesc.arguments import at_least, not_negative, positive


def test_numbers_in_range():
    assert (at_least(3)("3"), positive("1e-9"), not_negative("0"), not_negative("2.5")) == (
        3,
        1e-9,
        0,
        2.5,
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (at_least(3), "2"),
        (positive, "0"),
        (positive, "-1"),
        (positive, "nan"),
        (positive, "inf"),
        (not_negative, "-0.1"),
        (not_negative, "nan"),
        (not_negative, "inf"),
    ],
)
def test_numbers_out_of_range(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"got {text}"):
        kind(text)
