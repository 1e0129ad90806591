"""Rounding a layer's weights so that its sums change least, within what 16 bits hold.

A weight's rounding error is made up for by the weights that are still to be rounded, as far as
their inputs go together: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", ICLR 2023, equations 2 and 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ACTIVATION = 255  # the highest activation
_RUN = 16  # neighbouring weights whose products AVX2 adds up in 16 bits, in two sums
EXACT = 2**24  # float32 holds every integer below
_SUM_LIMIT = 128  # of weights of one sign: times ACTIVATION still below 2^15
_DAMPING = 0.01  # share of the inputs' mean square that is added to each


def round_weights(
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    inputs: NDArray[np.float64],
    *,
    one_unit: bool = False,
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Weights as whole numbers times a unit.

    Args:
        weights: ``(O, R, K)``, for each of O channels R rows of a window.
        bias: ``(O,)``, in units of an input of 1.
        inputs: ``(N, R, K)`` examples of what the weights are multiplied with.
        one_unit: all channels get the same unit, so that they can be compared.

    Returns:
        ``(O, R, K)`` int8 and ``(O,)`` units. The sums of each channel stay below ``EXACT`` for any
        inputs up to ``ACTIVATION``, and those of :func:`_sums` within 16 bits.
    """
    rows, length = weights.shape[1:]
    sums = _sums(rows, length)
    flat = weights.reshape(len(weights), -1)
    member = sums[:, None] == np.arange(sums.max() + 1)
    largest = np.maximum(flat.clip(min=0) @ member, -flat.clip(max=0) @ member).max(1)
    # Three quarters of EXACT are for the products, and most of the rest for the bias.
    all_spare = np.full(len(flat), float(EXACT * 3 // 4 // ACTIVATION))
    unit = np.maximum(np.maximum(largest, 1e-12) / _SUM_LIMIT, np.abs(bias) / (EXACT / 5))
    unit = np.maximum(unit, np.abs(flat).sum(1) / (0.9 * all_spare))
    if one_unit:
        unit[:] = unit.max()

    feedback = _feedback(inputs.reshape(len(inputs), -1))
    rest = flat / unit[:, None]
    whole = np.zeros_like(rest)
    # What each sum still has room for, of negative and of positive weights.
    spare = np.full((2, len(flat), member.shape[1]), float(_SUM_LIMIT))
    for k, group in enumerate(sums):
        low, high = np.minimum(spare[:, :, group], np.minimum(all_spare, 127))
        whole[:, k] = np.clip(np.rint(rest[:, k]), -low, high)
        all_spare -= np.abs(whole[:, k])
        spare[0, :, group] += np.minimum(whole[:, k], 0)
        spare[1, :, group] -= np.maximum(whole[:, k], 0)
        rest[:, k + 1 :] -= (rest[:, k] - whole[:, k])[:, None] * feedback[k, k + 1 :]
    return whole.astype(np.int8).reshape(weights.shape), unit


def _sums(rows: int, length: int) -> NDArray[np.intp]:
    """``(rows * length,)``: the 16-bit sum that each weight's product goes into.

    AVX2 multiplies bytes and adds two neighbours; of four such pairs, all even ones of a run of 16
    are added up, and all odd ones. Rows of another length, which the first layer has, stay pairs.
    """
    index = np.arange(length)
    one_row = index // 2 if length % _RUN else index // _RUN * 2 + index // 2 % 2
    return (np.arange(rows)[:, None] * (one_row[-1] + 1) + one_row).ravel()


def _feedback(inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(K, K)``: by how much the weights after k change for an error of 1 in weight k."""
    squares = inputs.T @ inputs / len(inputs)
    squares += max(_DAMPING * np.diag(squares).mean(), 1e-12) * np.eye(len(squares))
    upper = np.linalg.cholesky(np.linalg.inv(squares)).T
    return upper / np.diag(upper)[:, None]
