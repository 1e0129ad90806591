import numpy as np
import pytest
import torch

from bindesc.training.losses import (
    false_positives,
    hardest_triplet,
    missed_matches,
    relax_bits,
    residual_maps,
    stretch_loss,
    turn_loss,
)


def unit_rows(rng, count):
    """Two arrays ``(count, 16)``."""
    rows = rng.normal(size=(2, count, 16))
    return rows / np.linalg.norm(rows, axis=2, keepdims=True)


def turning(*angles):
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1)


def test_relaxed_bits_approach_the_sign():
    activations = torch.tensor([[0.5, -2.0, 1.0, -0.1]])
    codes = relax_bits(activations, 1000.0)
    assert torch.allclose(codes, activations.sign() / 2)


def test_the_triplet_loss_is_its_formula():
    rng = np.random.default_rng(0)
    first, second = unit_rows(rng, 6)
    negative = ~np.eye(6, dtype=bool)
    negative[0, 3] = negative[3, 0] = False
    margin = rng.uniform(0.2, 1, (6, 6))
    margin = (margin + margin.T) / 2
    expected = []
    for i in range(6):
        gaps = [
            np.linalg.norm(a - b) - margin[i, j]
            for j in range(6)
            if negative[i, j]
            for a, b in ((first[i], second[j]), (first[j], second[i]))
        ]
        expected.append(max(0, np.linalg.norm(first[i] - second[i]) - min(gaps)))
    loss = hardest_triplet(*map(torch.from_numpy, (first, second, negative, margin)))
    np.testing.assert_allclose(loss, expected)


def test_missed_matches_are_their_formula():
    rng = np.random.default_rng(0)
    first, second = unit_rows(rng, 6)
    weight = rng.uniform(0, 1, (6, 6))
    weight[0, 3] = weight[3, 0] = 0
    expected = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        own = np.exp(first[i] @ second[i] / 0.2)
        forth = sum(weight[i, j] * np.exp(first[i] @ second[j] / 0.2) for j in others)
        back = sum(weight[j, i] * np.exp(first[j] @ second[i] / 0.2) for j in others)
        p = own / (own + forth) * own / (own + back)
        expected.append(1 - p - 0.025 * np.log(p))
    loss = missed_matches(*map(torch.from_numpy, (first, second, weight)), temperature=0.2)
    np.testing.assert_allclose(loss, expected)


def test_pairs_that_are_matches_for_sure_cost_nothing():
    codes = torch.eye(4)
    assert missed_matches(codes, codes, torch.ones(4, 4)).max() < 1e-6
    assert missed_matches(codes, codes.flip(0), torch.ones(4, 4)).min() > 1


def test_false_positives_are_a_soft_share():
    rng = np.random.default_rng(0)
    first, second = unit_rows(rng, 20)
    unrelated = (rng.random((20, 20)) < 0.5) & ~np.eye(20, dtype=bool)
    thresholds = np.sort((first * second).sum(1))[:2]  # the tenth that is farthest apart
    beyond = (first @ second.T)[unrelated] - thresholds[:, None]
    arguments = [torch.from_numpy(array) for array in (first, second, unrelated)]
    smooth = false_positives(*arguments)
    assert smooth.item() == pytest.approx((1 / (1 + np.exp(-beyond / 0.06))).mean())
    sharp = false_positives(*arguments, width=1e-6)
    assert sharp.item() == pytest.approx((beyond > 0).mean(), abs=1e-6)
    none = false_positives(*arguments[:2], torch.zeros(20, 20, dtype=torch.bool))
    assert none.item() == 0


def test_some_false_positives_stand_for_many():
    rng = np.random.default_rng(1)
    first, second = (torch.from_numpy(rows) for rows in unit_rows(rng, 300))
    unrelated = ~torch.eye(300, dtype=torch.bool)
    share = false_positives(first, second, unrelated, width=1e-6).item()
    similarity = first @ second.T
    thresholds = similarity.diagonal().sort().values[:30, None]
    near = (similarity[unrelated] > thresholds).double().mean().item()
    assert share == pytest.approx(near, abs=0.01)


def test_the_loss_of_turns_is_its_formula():
    second = np.random.default_rng(0).normal(size=(5, 2, 2)) + 4 * np.eye(2)
    rest = turning(0, 0.3, np.pi, 0.2, 0)
    rest[4] @= np.diag([3, 1 / 3])  # a stretch costs nothing
    linear = np.random.default_rng(1).normal(size=(5, 2, 2)) + 4 * np.eye(2)
    first = np.linalg.inv(linear) @ (second * 1.7) @ rest  # sizes do not matter
    turn = turn_loss(residual_maps(*map(torch.from_numpy, (first, second, linear))))
    expected = [0, 1 - np.cos(0.3), 1.2, 1 - np.cos(0.2), 0]
    assert turn.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_stretch_costs_and_neither_turn_nor_size():
    angle = torch.tensor([0.3, 2.0, 0.0, -1.0, 0.5])
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([cosine, -sine, sine, cosine], 1).unflatten(1, (2, 2))
    first = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0))
    first[:, 0] *= torch.linalg.det(first).sign()[:, None]
    second = 3 * turn @ first  # of the same view, turned and at three times the size
    none = stretch_loss(residual_maps(first, second, turn))
    assert none.tolist() == pytest.approx([0] * 5, abs=1e-4)
    longer = torch.diag(torch.tensor([1.2, 1 / 1.2]))
    own = (1.2 - 1 / 1.2) ** 2
    costs = stretch_loss(residual_maps(longer @ turn, 2 * turn, turn.mT))
    assert costs.tolist() == pytest.approx([own] * 5, rel=1e-4)
    longest = torch.diag(torch.tensor([9.0, 1.0])).expand(5, 2, 2)
    assert stretch_loss(residual_maps(longest, turn, turn)).tolist() == [1] * 5


def test_the_gradient_of_the_loss():
    torch.manual_seed(0)
    activations = torch.randn(8, 12, dtype=torch.float64, requires_grad=True)
    negative = ~torch.eye(4, dtype=torch.bool)

    def loss(a):
        return hardest_triplet(*relax_bits(a, 1.5).chunk(2), negative, torch.tensor(1.0)).mean()

    assert torch.autograd.gradcheck(loss, activations)

    def of_matches(a):
        first, second = relax_bits(a, 1.5).chunk(2)
        return missed_matches(first, second, negative.double(), temperature=0.3).mean()

    assert torch.autograd.gradcheck(of_matches, activations)

    def of_false_positives(a):
        return false_positives(*relax_bits(a, 1.5).chunk(2), negative)

    assert torch.autograd.gradcheck(of_false_positives, activations)
