from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bindesc.training.run import Run
from bindesc.training.validation import BestModel, report, validate


class Mean(nn.Module):
    """Bit k of 16 is set if the patch's grey value has bit k."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, patches):
        value = patches.mean((1, 2, 3)).round().long()[:, None]
        return ((value >> torch.arange(16)) & 1).float() - 0.5


def pairs(values, xy):
    """Pairs of flat patches, ``(P, 2)`` grey values, in two groups of the same length."""
    values = np.asarray(values, np.uint8)
    count = len(values)
    return SimpleNamespace(
        patches=np.broadcast_to(values[:, :, None, None], (count, 2, 32, 32)).copy(),
        xy=np.asarray(xy, np.float32),
        start=np.array([0, count // 2]),
        end=np.array([count // 2, count]),
        seen_by=None,
    )


def test_the_scores_are_those_counted_by_hand():
    # The second group's first point looks like its second one; ties go to the first.
    data = pairs([[1, 1], [2, 2], [4, 8], [8, 8]], [[0, 0], [100, 0], [0, 0], [100, 0]])
    model = Mean()
    scores = validate(model, data, np.arange(2))
    assert scores["accuracy"] == 3 / 4  # 4 is as near to 8 as to 8
    # Matching distances 0, 0, 2, 0: threshold 2. Others: 2, 2, 2, 0.
    assert scores["fpr95"] == 1
    assert model.training
    assert validate(model, data, np.array([0]))["fpr95"] == 0


def test_points_close_by_are_no_negatives():
    data = pairs([[1, 1], [2, 2], [4, 4], [8, 8]], [[0, 0], [5, 0], [0, 0], [5, 0]])
    assert "fpr95" not in validate(Mean(), data, np.arange(2))


def test_the_best_model_is_kept_and_reported(tmp_path, monkeypatch):
    accuracy = iter([0.5, 0.7, 0.6, 0.7])
    saved = []
    monkeypatch.setattr(
        "bindesc.training.validation.validate",
        lambda *_: {"accuracy": next(accuracy), "fpr95": 0.25, "bit_bias": 0.1},
    )
    monkeypatch.setattr(
        "bindesc.training.validation.save_model", lambda _, network, command: saved.append(network)
    )
    data = pairs([[1, 1], [2, 2]], [[0, 0], [100, 0]])
    run = Run(tmp_path, resume=False)
    for step in (0, 10, 20):
        BestModel(tmp_path / "m.safetensors", run, data).offer(step, step)
    BestModel(tmp_path / "m.safetensors", run, data).offer(30, 30)  # as after a resume
    assert saved == [0, 10]
    assert run.read_log()[1] == {"step": 10, "accuracy": 0.7, "fpr95": 0.25}
    assert "step 0 -> 10 (best is kept): accuracy 0.500 -> 0.700" in report(tmp_path)
    assert "step 0 -> 30 (last is kept)" in report(tmp_path, "last")


@pytest.mark.parametrize("offered", [torch.nn.Linear(1, 1)])
def test_a_failed_write_leaves_no_log_line(tmp_path, offered):
    run = Run(tmp_path, resume=False)
    best = BestModel(tmp_path / "m.safetensors", run, pairs([[1, 1]] * 2, [[0, 0]] * 2))
    best._data.start = np.array([0])
    best._data.end = np.array([2])
    with pytest.raises((TypeError, RuntimeError)):
        best.offer(0, offered)
    assert run.read_log() == []
