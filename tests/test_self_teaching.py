import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import calibration
from pair_sets import TURNING

from bindesc.cli import main
from bindesc.models.compact import CompactNet
from bindesc.models.orientation import OrientationNet, adapt_patches, frames
from bindesc.training.metric import WEIGHTS
from bindesc.training.pairs import open_pairs
from bindesc.training.run import read_log
from bindesc.training.self_teaching import (
    SelfTeachingConfig,
    answer_loss,
    draw_patches,
    steady_outputs,
    steady_turns,
    train,
)
from bindesc.weights import golden_patches, load_model, save_model

pytest_plugins = ["pair_sets"]

SHORT = SelfTeachingConfig(steps=6, batch=32, patches=200, warmup=2, held_out_every=3)


def turning_network(trust):
    torch.manual_seed(1)
    network = OrientationNet((8, 8, 8)).eval()
    torch.nn.init.normal_(network.scores.weight, std=0.3)
    torch.nn.init.constant_(network.trust, trust)
    return network.requires_grad_(False)


def patches():
    return torch.from_numpy(golden_patches()[:40, None])


def turned(outputs, columns):
    """By complex numbers."""
    parts = torch.view_as_complex(outputs.unflatten(1, (2, 2)).contiguous())
    angle = columns * 2 * math.pi / 32
    powers = torch.polar(torch.ones(2), torch.tensor([angle, 2 * angle]))
    return torch.view_as_real(parts * powers).flatten(1)


@pytest.mark.parametrize("columns", [1, 2, 3, 9, -5])
def test_steady_outputs_turn_with_the_patch(columns):
    network, x = turning_network(0.0), patches().float()
    moved = steady_outputs(network, x.roll(columns, 3))
    torch.testing.assert_close(moved, turned(steady_outputs(network, x), columns))
    # One look does not.
    assert (network(x.roll(columns, 3)) - turned(network(x), columns)).abs().max() > 0.1


def test_steady_outputs_turn_over_with_the_patch():
    network, x = turning_network(0.0), patches().float()
    signs = torch.tensor([1, -1, 1, -1])
    over = steady_outputs(network, x.flip(3))
    torch.testing.assert_close(over, signs * steady_outputs(network, x))
    assert (network(x.flip(3)) - signs * network(x)).abs().max() > 0.1


def test_the_detector_is_trusted_as_at_one_look():
    x = patches().float()
    without, trusted = (steady_outputs(turning_network(trust), x) for trust in (0.0, 5.0))
    torch.testing.assert_close(trusted, without + torch.tensor([5.0, 0, 0, 0]))


def test_a_second_look_turns_further():
    network, x = turning_network(3.0), patches().float()
    first = steady_outputs(network, x)
    second = steady_outputs(network, adapt_patches(x, frames(first)).round())

    def angle(outputs):
        return torch.atan2(outputs[:, 1], outputs[:, 0])

    rest = angle(steady_turns(network, x)) - angle(first) - angle(second)
    whole = rest / (2 * math.pi)
    torch.testing.assert_close(whole, whole.round(), atol=1e-5, rtol=0)
    assert angle(second).abs().max() > 0.1


def test_turns_go_along_with_what_is_drawn():
    network = turning_network(0.0)
    turns = steady_outputs(network, patches().float())[:, :2]
    drawn = []
    for step in range(12):
        seen, wanted = draw_patches(patches(), turns, SHORT, step)
        assert seen.shape == (32, 1, 32, 32)
        assert seen.dtype == torch.uint8
        torch.testing.assert_close(steady_outputs(network, seen.float())[:, :2], wanted)
        drawn.append(seen)
        assert torch.equal(seen, draw_patches(patches(), turns, SHORT, step)[0])
    assert len({tensor.numpy().tobytes() for tensor in drawn}) == len(drawn)


def test_the_loss_of_answers():
    given = torch.tensor([[7.0, 0, 0, 0], [0, 2, 0, 0], [-1, 0, 0, 0], [6, 0, 0, 8]])
    turns = torch.tensor([[2.0, 0], [2, 0], [2, 0], [9, 0]])
    before = torch.tensor([[-1.0, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0], [3, 0, 4, 0]])
    rows = zip(given, turns, before, strict=True)
    each = [answer_loss(*(row[None] for row in each), 0.5).item() for each in rows]
    # as wanted, a quarter turn, half a turn at the limit, and stretches of 0.8 across
    assert each == pytest.approx([0, 1, 1.2, 0.5 * 2 * 0.64])
    assert answer_loss(given, turns, before, 0.5).item() == pytest.approx(np.mean(each))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(4)
    network = CompactNet(TURNING)
    torch.nn.init.normal_(network.orientation.scores.weight, std=0.3)
    path = tmp_path_factory.mktemp("models") / WEIGHTS
    save_model(path, network, calibration=calibration(golden_patches()))
    return str(path)


def test_a_network_comes_nearer_to_its_steady_turns(seen, model, tmp_path):
    command = ["train", "orientation", str(seen), "--out", str(tmp_path / "run"), "--steps", "400"]
    assert main([*command, "--init", model, "--batch", "64", "--learning-rate", "5e-3"]) == 0
    before, after = (load_model(path)[0].eval() for path in (model, tmp_path / "run" / WEIGHTS))
    seen_patches = torch.tensor(open_pairs(seen).patches).flatten(0, 1)[:, None].float()
    wanted = steady_turns(before.orientation, seen_patches)
    stretched = before.orientation(seen_patches).detach()
    with torch.no_grad():
        old, new = (
            answer_loss(network.orientation(seen_patches), wanted, stretched, 1.0)
            for network in (before, after)
        )
    assert new < 0.7 * old
    for old, new in zip(before.layers.parameters(), after.layers.parameters(), strict=True):
        assert torch.equal(old, new)  # the codes
    assert {"accuracy", "fpr95", "loss"} <= set(read_log(tmp_path / "run")[-1])


def test_teaching_resumes_bit_for_bit(seen, model, tmp_path, monkeypatch):
    def stop_at_three(patches, turns, config, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw_patches(patches, turns, config, step)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scores = train(seen, tmp_path / "whole", SHORT, initial=model)
        with monkeypatch.context() as patch:
            patch.setattr("bindesc.training.self_teaching.draw_patches", stop_at_three)
            train(seen, tmp_path / "halves", SHORT, initial=model)
        assert read_log(tmp_path / "halves")[-1]["step"] == 3
        assert train(seen, tmp_path / "halves", SHORT, initial=model, resume=True) == scores
    finally:
        torch.set_num_threads(threads)
    whole, halves = (load_model(tmp_path / name / WEIGHTS)[0] for name in ("whole", "halves"))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[key])
    with pytest.raises(ValueError, match="another configuration"):
        train(seen, tmp_path / "whole", replace(SHORT, batch=16), initial=model, resume=True)
    with pytest.raises(ValueError, match="another configuration"):
        train(seen, tmp_path / "whole", SHORT, initial="compact", resume=True)


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        ("seen", "tiny", "tiny: has no orientation network"),
        ("seen", "images-16", "images-16: has no orientation network"),
        ("wide", "compact", "needs a set that was made with --model"),
    ],
)
def test_what_cannot_be_taught(given, model, message, request, tmp_path, capsys):
    path = str(request.getfixturevalue(given))
    command = ["train", "orientation", path, "--init", model, "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
