import numpy as np
import pytest

from bindesc.packing import pack_bits
from bindesc.training.scores import (
    bit_bias,
    bit_correlation,
    bootstrap_interval,
    false_positive_rate,
    pair_distances,
)


def test_distances_are_between_rows_of_one_number():
    bits = np.random.default_rng(0).random((2, 50, 256)) < 0.5
    assert (pair_distances(*map(pack_bits, bits)) == (bits[0] != bits[1]).sum(1)).all()
    assert pair_distances(np.float32([[0, 0], [3, 4]]), np.zeros((2, 2))).tolist() == [0, 5]


def test_the_threshold_is_the_distance_of_index_95_in_100():
    matched = np.random.default_rng(0).permutation(100)  # sorted: 0..99, index 95 is 95
    assert false_positive_rate(matched, [94, 95, 96, 200]) == 0.5
    assert false_positive_rate(matched, [200]) == 0
    assert false_positive_rate(matched, [94, 95, 96, 200], recall=0.0) == 0
    assert false_positive_rate([7], [7, 8]) == 0.5


def test_ties_count_as_errors():
    assert false_positive_rate([3] * 100, [3] * 10) == 1


def test_the_interval_holds_the_rate_and_shrinks_with_more_pairs():
    rng = np.random.default_rng(0)
    widths = []
    for count in (100, 10000):
        matched, unmatched = rng.normal(0, 1, count), rng.normal(2, 1, count)
        low, high = bootstrap_interval(matched, unmatched, resamples=200)
        assert low <= false_positive_rate(matched, unmatched) <= high
        assert (low, high) == bootstrap_interval(matched, unmatched, resamples=200)
        widths.append(high - low)
    # The true rate is P(2 + z <= 1.645) = 0.361.
    assert low < 0.361 < high
    assert widths[1] < widths[0] / 4


def test_fixed_and_copied_bits():
    bits = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 0, 0]], bool)
    assert bit_bias(bits) == pytest.approx(0.5 / 4)
    assert bit_correlation(bits) == pytest.approx(2 / 12)
