import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from pair_sets import CONFIG, LOG_POLAR, TURNING

from bindesc.cli import main
from bindesc.models.compact import CompactNet
from bindesc.runtime import Runtime
from bindesc.training.blend import blend
from bindesc.training.metric import (
    WEIGHTS,
    PatchSource,
    _agreeing_frames,
    _loss,
    _start_from,
    draw_batch,
    split_groups,
    train,
)
from bindesc.training.noise import FrameNoise
from bindesc.training.pairs import build_pairs, open_pairs
from bindesc.training.precision import autocast
from bindesc.training.run import CHECKPOINT, CURVES, LOG, read_log
from bindesc.weights import WeightsError, golden_patches, load_model, save_model

pytest_plugins = ["pair_sets"]


@pytest.mark.parametrize("places", ["three", "one"])
def test_the_loss_of_matches_is_learnt(pairs, tmp_path, places):
    found = open_pairs(pairs)
    scene = found.scene if places == "three" else np.full_like(found.scene, "place")
    data = replace(found, scene=scene)
    groups = np.arange(len(found.start))
    source = PatchSource(data, torch.device("cpu"))
    torch.manual_seed(0)
    model = CompactNet(CONFIG.model)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    config = replace(CONFIG, loss="matches", noise=FrameNoise(share=0.0))
    batch = draw_batch(data, groups, config, 0)
    losses = []
    for _ in range(20):
        losses.append(_loss(model, source, batch, config, 0))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.7 * losses[0]
    assert config.false_positive_weight > 0
    without = replace(config, false_positive_weight=0.0)
    least = _loss(model, source, batch, without, 0)
    told = _loss(model, source, batch, config, 0)
    assert (told > least + 1e-4) == (places == "three")  # nothing is unrelated in one place


def test_points_that_agree_have_one_angle_and_size():
    torch.manual_seed(0)
    linear = torch.eye(2) * 1.3 + 0.4 * torch.randn(50, 2, 2)
    linear[torch.linalg.det(linear) < 0.2] = torch.tensor([[0.0, -2.0], [2.0, 0.0]])
    maps = torch.eye(2) + 0.2 * torch.randn(100, 2, 2)
    errors = torch.eye(2, 3).repeat(100, 1, 1)
    agreeing = _agreeing_frames(maps, linear, errors)
    assert torch.equal(agreeing[:50, :, :2], maps[:50])
    # What is left between the two views is a stretch: symmetric, and of determinant 1.
    left = torch.linalg.solve(agreeing[50:, :, :2], linear @ maps[:50])
    torch.testing.assert_close(left, left.mT, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.linalg.det(left), torch.ones(50))
    assert (left.diagonal(dim1=1, dim2=2) > 0).all()
    errors = torch.randn(100, 2, 3)
    moved = _agreeing_frames(maps, linear, errors)
    torch.testing.assert_close(moved[:, :, :2], agreeing[:, :, :2] @ errors[:, :, :2])
    assert torch.equal(moved[:, :, 2], errors[:, :, 2])


@pytest.mark.parametrize("kind", ["pairs", "wide", "seen"])
def test_false_positives_are_counted_among_points_that_agree(kind, request):
    data = open_pairs(request.getfixturevalue(kind))
    groups, _ = split_groups(data, 3)
    source = PatchSource(data, torch.device("cpu"))
    torch.manual_seed(0)
    network = CompactNet(CONFIG.model if kind == "pairs" else TURNING).eval()
    config = replace(CONFIG, loss="matches", orientation_weight=0.0)
    batch = draw_batch(data, groups, config, 0)
    still = batch._replace(moved=torch.eye(2, 3).expand(len(batch.row), 2, 2, 3))
    apart = still._replace(moved=still.moved + torch.tensor([[[0.0, 0, 8]], [[0.0, 0, -8]]]))

    def share(of):
        """The false positives' part of the loss."""
        none = replace(config, false_positive_weight=0.0)
        return (_loss(network, source, of, config, 0) - _loss(network, source, of, none, 0)).item()

    assert share(still) < share(batch) < share(apart)


def test_the_command_goes_on_with_the_loss_of_matches(seen, tmp_path):
    train(seen, tmp_path / "first", replace(CONFIG, model=LOG_POLAR))
    command = ["train", "compact", str(seen), "--steps", "3", "--batch-pairs", "8"]
    command += ["--batch-photos", "3", "--init", str(tmp_path / "first" / WEIGHTS)]
    assert main([*command, "--loss", "matches", "--out", str(tmp_path / "matches")]) == 0
    assert main([*command, "--out", str(tmp_path / "triplet")]) == 0
    matches, triplet = (
        load_model(tmp_path / kind / WEIGHTS)[0].layers[0].weight for kind in ("matches", "triplet")
    )
    assert not torch.equal(matches, triplet)


@pytest.mark.parametrize("kind", ["wide", "seen"])
def test_an_orientation_is_trained_with_the_code(kind, request, tmp_path):
    noise = FrameNoise(share=0.5 if kind == "wide" else 0.0)
    config = replace(CONFIG, model=TURNING, noise=noise)
    scores = train(request.getfixturevalue(kind), tmp_path / "run", config)
    assert 0 <= scores["accuracy"] <= 1
    network = load_model(tmp_path / "run" / WEIGHTS)[0]
    assert network.orientation.scores.weight.abs().amax((1, 2, 3)).min() > 0  # it starts from zero
    patches = golden_patches()
    assert (Runtime(tmp_path / "run" / WEIGHTS).adapt(patches)[1] != 0).any()


def test_the_orientation_learns_how_views_are_turned(wide, tmp_path):
    """Where the detector's angles are wrong by a known turn, it finds that turn back."""
    data = open_pairs(wide)
    groups, _ = split_groups(data, 3)
    torch.manual_seed(0)
    network = CompactNet(TURNING)
    optimiser = torch.optim.Adam(network.orientation.parameters(), 1e-2)
    source = PatchSource(data, torch.device("cpu"))
    config = replace(CONFIG, model=TURNING, noise=FrameNoise(1.0, 0.0, 0.0, 40.0), steps=40)
    losses = []
    for step in range(40):
        batch = draw_batch(data, groups, replace(config, seed=step % 2), 0)
        loss = _loss(network, source, batch, replace(config, margin=-9.0), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_only_pairs_that_turn_little_are_triplets(wide):
    data = open_pairs(wide)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = batch._replace(linear=batch.linear.clone())
    turned.linear[: len(turned.linear) // 2] = turn @ turned.linear[: len(turned.linear) // 2]
    source = PatchSource(data, torch.device("cpu"))
    torch.manual_seed(0)
    network = CompactNet(CONFIG.model)
    every, few = (
        _loss(network, source, b, replace(CONFIG, most_turn=limit), 0)
        for b, limit in ((batch, 180.0), (turned, 180.0))
    )
    assert torch.equal(every, few)
    few = _loss(network, source, turned, replace(CONFIG, most_turn=80.0), 0)
    assert not torch.equal(every, few)


def test_noise_and_log_polar_patches_need_a_wide_set(pairs, wide, tmp_path):
    for config in (replace(CONFIG, model=LOG_POLAR), replace(CONFIG, noise=FrameNoise(share=0.5))):
        with pytest.raises(ValueError, match="without --narrow"):
            train(pairs, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    train(wide, tmp_path / "run", CONFIG)  # neither of them


def test_carried_angles_do_not_teach_the_orientation(photos, seen, tmp_path, monkeypatch):
    found = open_pairs(seen)
    hard = replace(found.settings, model=str(found.seen_by), hard=1.0)
    build_pairs(photos, tmp_path / "hard", hard)
    assert not found.carried.any()
    assert open_pairs(tmp_path / "hard").carried.all()
    config = replace(CONFIG, model=TURNING, steps=1)
    monkeypatch.setattr("bindesc.training.metric.turn_loss", lambda *_: torch.tensor(1e6))
    for folder, taught in ((seen, True), (tmp_path / "hard", False)):
        train(folder, tmp_path / f"run {taught}", config)
        (line,) = read_log(tmp_path / f"run {taught}")
        assert (line["loss"] > 1e5) == taught


def test_a_set_of_log_polar_patches_is_for_any_orientation(seen, tmp_path):
    config = replace(CONFIG, model=replace(LOG_POLAR, channels=(16, 8)))
    scores = train(seen, tmp_path / "run", config)
    assert 0 <= scores["accuracy"] <= 1
    trained = load_model(tmp_path / "run" / WEIGHTS)[0]
    assert trained.orientation is None
    goes_on = replace(config, steps=1, learning_rate=0.0, weight_decay=0.0)
    train(seen, tmp_path / "again", goes_on, initial=str(tmp_path / "run" / WEIGHTS))
    again = load_model(tmp_path / "again" / WEIGHTS)[0]
    assert torch.equal(again.layers[0].weight, trained.layers[0].weight)
    command = ["train", "compact", str(seen), "--steps", "1", "--out", str(tmp_path / "third")]
    assert main([*command, "--init", str(tmp_path / "run" / WEIGHTS), "--orientation", "8"]) == 0
    third = load_model(tmp_path / "third" / WEIGHTS)[0].config
    assert third == replace(config.model, orientation=(8,))


def test_weights_are_blended_and_their_statistics_taken_anew():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, momentum=0.3))
    other = {name: torch.randn_like(value) for name, value in network.named_parameters()}
    mean = {n: 0.75 * v.detach() + 0.25 * other[n] for n, v in network.named_parameters()}
    batches = torch.randn(5, 16, 3) + 2
    network(batches[0] * 9)  # leaves statistics that must not count
    blend(network, other, 0.25, lambda i: network(batches[i]), batches=5)
    for name, value in network.named_parameters():
        assert torch.allclose(value, mean[name]), name
    with torch.no_grad():
        expected = network[0](batches).mean((0, 1))
    assert torch.allclose(network[1].running_mean, expected, atol=1e-5)
    assert network[1].momentum == 0.3


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_for_devices_that_have_it(fast, dtype, monkeypatch):
    monkeypatch.setattr("bindesc.training.precision.has_bfloat16", lambda device: fast)
    with autocast(torch.device("cpu")):
        assert torch.nn.Linear(4, 4)(torch.zeros(1, 4)).dtype == dtype


def test_a_share_of_the_initial_weights_is_kept(wide, seen, tmp_path, capsys):
    data = open_pairs(seen)
    first = load_model(data.seen_by)[0]
    config = replace(CONFIG, model=first.config)
    for name, share in (("none", 0.0), ("half", 0.5), ("all", 1.0)):
        shared = replace(config, initial_share=share)
        train(seen, tmp_path / name, shared, initial=str(data.seen_by))
    none, half, every = (load_model(tmp_path / n / WEIGHTS)[0] for n in ("none", "half", "all"))
    weight = "layers.0.weight"
    states = [model.state_dict()[weight] for model in (first, none, half, every)]
    assert torch.allclose(states[2], (states[0] + states[1]) / 2, atol=1e-3)  # files have float16
    assert torch.allclose(states[3], states[0], atol=1e-3)
    assert not torch.allclose(states[1], states[0], atol=1e-3)
    command = ["train", "compact", str(wide), "--out", str(tmp_path / "run")]
    assert main([*command, "--initial-share", "0.5"]) == 2
    assert "no model to start from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_set_is_for_networks_like_its_own(seen, tmp_path):
    with pytest.raises(ValueError, match="log_polar is True"):
        train(seen, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()


def test_an_orientation_is_added_to_a_model(wide, tmp_path):
    train(wide, tmp_path / "first", replace(CONFIG, model=LOG_POLAR))
    frozen = replace(CONFIG, steps=1, learning_rate=0.0, weight_decay=0.0)
    added = replace(frozen, model=TURNING)
    train(wide, tmp_path / "second", added, initial=str(tmp_path / "first" / WEIGHTS))
    first, second = (load_model(tmp_path / n / WEIGHTS)[0] for n in ("first", "second"))
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert not second.orientation.scores.weight.any()  # every angle stays as it is
    other = replace(added, model=replace(added.model, bits=32))
    with pytest.raises(WeightsError, match="wanted"):
        train(wide, tmp_path / "third", other, initial=str(tmp_path / "first" / WEIGHTS))


def test_a_model_grows_and_computes_the_same(wide, tmp_path):
    train(wide, tmp_path / "first", CONFIG)
    initial = tmp_path / "first" / WEIGHTS
    first = load_model(initial)[0]
    channels = tuple(n + 8 for n in CONFIG.model.channels)
    grown = CompactNet(replace(CONFIG.model, channels=channels))
    _start_from(grown, str(initial))
    patches = torch.from_numpy(golden_patches()).float()[:, None]
    assert torch.allclose(first.eval()(patches), grown.eval()(patches), atol=1e-4)
    assert grown.layers[0].weight[-8:].any(dim=(1, 2, 3)).all()  # what is new can learn
    save_model(tmp_path / "grown.safetensors", grown)
    with pytest.raises(WeightsError, match="wanted"):  # it cannot shrink
        _start_from(CompactNet(CONFIG.model), str(tmp_path / "grown.safetensors"))


def test_the_command_goes_on_from_a_model_of_any_shape(wide, tmp_path):
    command = ["train", "compact", str(wide), "--steps", "1", "--out"]
    first, second = tmp_path / "first", tmp_path / "second"
    shape = ["--channels", "8,8", "--strides", "2,2", "--orientation", "8,8", "--noise", "0.5"]
    assert main([*command, str(first), *shape]) == 0
    assert main([*command, str(second), "--init", str(first / WEIGHTS)]) == 0
    one, two = (load_model(folder / WEIGHTS)[0].config for folder in (first, second))
    assert one == two
    assert one.orientation == (8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--orientation", "16,x"], "expected positive numbers by comma, got '16,x'"),
        (["--channels", "16,0"], "--channels"),
        (["--noise", "3"], "a share lies in 0 to 1"),
        (["--batch-pairs", "0"], "expected at least 1, got 0"),
        (["--steps", "-1"], "expected at least 0, got -1"),
        (["--learning-rate", "nan"], "expected a number above 0, got nan"),
        (["--device", "nowhere"], "--device"),
        (["--device", "meta"], "--device"),
        (["--seed", "-1"], "expected at least 0, got -1"),
        (["--orientation", "8,8,8,8"], "one to three convolutions"),
        (["--channels", "16,32"], "strides: 4 for 2 channels"),
        (["--strides", "3,2,2,1"], "strides: expected 1 or 2 each"),
        (["--strides", "2,2,2,2"], "2 three times at most"),
        (["--channels", "16,32,32,64", "--strides", "1,1,1,1"], "would have 65536 inputs"),
    ],
)
def test_wrong_shapes_are_refused(wide, tmp_path, capsys, options, message):
    command = ["train", "compact", str(wide), "--out", str(tmp_path / "run"), "--steps", "1"]
    try:
        code = main([*command, *options])
    except SystemExit as error:  # how argparse refuses
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_told(wide, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind in (["compact", str(wide)], ["bingan", str(wide), "--steps", "1"]):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *kind, "--out", str(tmp_path / "run"), "--device", "cuda"])
        assert stopped.value.code == 2
        assert "cuda: torch finds no GPU here" in capsys.readouterr().err


def test_training_resumes_bit_for_bit(pairs, tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(pairs, tmp_path / "whole", CONFIG)

        class StopsAtThree:
            """Stands in for draw_batch: asks the run to stop in the third step."""

            def __call__(self, data, groups, config, step):
                if step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                return draw_batch(data, groups, config, step)

        with monkeypatch.context() as patch:
            patch.setattr("bindesc.training.metric.draw_batch", StopsAtThree())
            train(pairs, tmp_path / "halves", CONFIG)
        train(pairs, tmp_path / "halves", CONFIG, resume=True)
    finally:
        torch.set_num_threads(threads)
    whole, halves = (load_model(tmp_path / name / WEIGHTS)[0] for name in ("whole", "halves"))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[key])
    assert read_log(tmp_path / "halves")[-1] == read_log(tmp_path / "whole")[-1]
    assert {p.name for p in (tmp_path / "halves").iterdir()} == {WEIGHTS, CHECKPOINT, LOG, CURVES}


def test_a_run_is_not_overwritten(pairs, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(pairs, tmp_path / "run", CONFIG, resume=True)
    train(pairs, tmp_path / "run", CONFIG)
    with pytest.raises(FileExistsError, match="--resume"):
        train(pairs, tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match="another configuration"):
        train(pairs, tmp_path / "run", replace(CONFIG, margin=0.5), resume=True)


def test_training_starts_from_a_model(pairs, tmp_path):
    train(pairs, tmp_path / "first", CONFIG)
    frozen = replace(CONFIG, steps=1, learning_rate=0.0, weight_decay=0.0)
    train(pairs, tmp_path / "second", frozen, initial=str(tmp_path / "first" / WEIGHTS))
    first, second = (load_model(tmp_path / n / WEIGHTS)[0] for n in ("first", "second"))
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)


def test_a_loss_that_is_not_finite_stops_the_run(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bindesc.training.metric.hardest_triplet",
        lambda first, *_: first.sum(1) * float("nan"),
    )
    with pytest.raises(FloatingPointError, match="step 0"):
        train(pairs, tmp_path / "run", CONFIG)
    assert not (tmp_path / "run" / WEIGHTS).exists()


def test_weights_that_are_not_finite_are_not_saved(pairs, tmp_path):
    with pytest.raises(FloatingPointError, match="the weights are not finite after 1 steps"):
        train(pairs, tmp_path / "run", replace(CONFIG, steps=1, learning_rate=math.inf))
    assert [path.name for path in (tmp_path / "run").iterdir()] == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"], ids=["empty", "cut", "text"])
def test_a_damaged_checkpoint_is_named(pairs, tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: is damaged"):
        train(pairs, tmp_path, CONFIG, resume=True)


def test_a_truncated_or_incomplete_checkpoint_is_named(pairs, tmp_path):
    train(pairs, tmp_path, CONFIG)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"checkpoint\.pt: is damaged"):
            train(pairs, tmp_path, CONFIG, resume=True)
    state = torch.load(BytesIO(whole), weights_only=True)
    state["model"].popitem()
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: is damaged"):
        train(pairs, tmp_path, CONFIG, resume=True)


def test_a_damaged_log_is_named(pairs, tmp_path):
    train(pairs, tmp_path, CONFIG)
    (tmp_path / LOG).write_text("text\n")
    with pytest.raises(ValueError, match=r"log\.jsonl: is damaged"):
        train(pairs, tmp_path, CONFIG, resume=True)


def test_a_line_of_the_log_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / LOG).write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_killed_run_goes_on(pairs, tmp_path):
    command = [sys.executable, "-m", "bindesc", "train", "compact", str(pairs)]
    command += ["--out", str(tmp_path / "run"), "--channels", "8,8", "--strides", "2,2"]
    command += ["--steps", "100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        log = tmp_path / "run" / LOG
        deadline = time.monotonic() + 60
        while not (tmp_path / "run").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    before = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["step"]
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [before]
    with subprocess.Popen([*command, "--resume"], env=environment, stderr=-3) as process:
        time.sleep(5)
        process.kill()
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["step"] == before
