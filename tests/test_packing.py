import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bindesc.packing import majority_codes, pack_bits, unpack_bits

CODES = st.integers(0, 5).flatmap(
    lambda n: st.integers(1, 9).flatmap(lambda b: arrays(np.uint8, (n, b)))
)


@given(CODES)
def test_unpacking_is_the_inverse(codes):
    assert (pack_bits(unpack_bits(codes)) == codes).all()


def test_the_first_bit_is_the_most_significant():
    bits = np.zeros((1, 16), bool)
    bits[0, 0] = bits[0, 15] = True
    assert pack_bits(bits).tolist() == [[128, 1]]


@pytest.mark.parametrize("bits", [np.zeros((2, 7), bool), np.full((1, 8), 2), np.zeros((1, 8))])
def test_what_cannot_be_packed_is_refused(bits):
    with pytest.raises(ValueError, match="bits:"):
        pack_bits(bits)


@pytest.mark.parametrize("codes", [np.uint8(3), np.zeros((2, 2), np.int32)])
def test_what_cannot_be_unpacked_is_refused(codes):
    with pytest.raises(ValueError, match="codes:"):
        unpack_bits(codes)


def test_majority_of_each_bit_and_cluster():
    rng = np.random.default_rng(0)
    codes, label = rng.integers(0, 256, (50, 4), np.uint8), rng.choice([1, 4, 7], 50)
    used, medians = majority_codes(codes, label)
    assert used.tolist() == [1, 4, 7]
    for cluster, median in zip(used, medians, strict=True):
        bits = np.unpackbits(codes[label == cluster], axis=1)
        assert (np.unpackbits(median) == (2 * bits.sum(0) >= len(bits))).all()
