import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import pytest
import torch
from networks import calibration
from pictures import textured

from bindesc.cli import main
from bindesc.folder import FolderError
from bindesc.image import ImageError
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.patches import PatchCutter
from bindesc.runtime import Runtime
from bindesc.training.blend import blend
from bindesc.training.cli import WIDE_MARGIN, WIDE_TURN
from bindesc.training.losses import (
    false_positives,
    hardest_triplet,
    missed_matches,
    relax_bits,
    residual_maps,
    stretch_loss,
    turn_cosine,
    turn_loss,
)
from bindesc.training.metric import (
    WEIGHTS,
    MetricConfig,
    PatchSource,
    _loss,
    _start_from,
    draw_batch,
    split_groups,
    train,
)
from bindesc.training.noise import FrameNoise
from bindesc.training.pairing import Tolerance
from bindesc.training.pairs import PairSettings, build_pairs, open_pairs
from bindesc.training.patch_images import open_patches
from bindesc.training.precision import autocast
from bindesc.training.run import CHECKPOINT, CURVES, LOG, read_log
from bindesc.weights import WeightsError, golden_patches, load_model, save_model

SETTINGS = PairSettings(views=2, pairs_per_view=30, min_pairs=8, keypoints=500)
CONFIG = MetricConfig(
    model=CompactConfig(channels=(8, 8), strides=(2, 2), bits=64),
    steps=6,
    photos=3,
    pairs=8,
    warmup=2,
    held_out_every=3,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        place = folder / f"place{i // 2}"
        place.mkdir(exist_ok=True)
        cv2.imwrite(str(place / f"{i}.png"), textured(400, 500, seed=i))
    return folder


@pytest.fixture(scope="module")
def pairs(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("sets") / "pairs"
    build_pairs(photos, output, SETTINGS)
    return output


@pytest.fixture(scope="module")
def wide(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("sets") / "wide"
    settings = replace(SETTINGS, margin=WIDE_MARGIN, tolerance=Tolerance(turn=WIDE_TURN))
    build_pairs(photos, output, settings)
    return output


# Pairs.


def test_a_set_has_pairs_that_look_alike(pairs):
    data = open_pairs(pairs)
    assert data.settings == SETTINGS
    assert data.patches.shape == (data.end[-1], 2, 32, 32)
    assert (data.start[1:] == data.end[:-1]).all()
    assert len(set(data.scene)) == 3
    flat = data.patches.reshape(len(data.patches), 2, -1).astype(np.float32)
    flat = flat - flat.mean(axis=2, keepdims=True)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True) + 1e-6
    same = (flat[:, 0] * flat[:, 1]).sum(1)
    other = (flat[:, 0] * np.roll(flat[:, 1], 1, axis=0)).sum(1)
    assert np.median(same) > 0.7
    assert np.median(same) > np.median(other) + 0.25


def test_the_same_seed_gives_the_same_bytes(photos, pairs, tmp_path):
    build_pairs(photos, tmp_path / "again", SETTINGS, workers=1)
    for name in ("patches.npy", "xy.npy", "side.npy", "linear.npy", "set.json"):
        assert (tmp_path / "again" / name).read_bytes() == (pairs / name).read_bytes()


def turns(data):
    """Degrees by which the second keypoints are turned against the first ones."""
    return np.degrees(np.arctan2(data.linear[:, 1, 0], data.linear[:, 0, 0]))


def test_a_wide_set_holds_wider_patches_and_what_maps_them(wide):
    data = open_pairs(wide)
    assert data.patches.shape[2:] == (56, 56)
    assert 35 < np.abs(turns(data)).max() <= WIDE_TURN + 1e-3

    def correlation(linear):
        """Of first patches and second ones that are mapped back."""
        values = []
        for (first, second), matrix in zip(data.patches, linear, strict=True):
            centre = np.full((2, 1), 27.5)
            there = np.hstack([matrix, centre - matrix @ centre])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            back = cv2.warpAffine(second, there, (56, 56), flags=flags)
            inner = np.stack([first, back])[:, 12:44, 12:44].reshape(2, -1).astype(float)
            values.append(np.corrcoef(inner)[0, 1])
        return np.array(values)

    far = np.abs(turns(data)) > 20
    assert far.sum() > 20
    right, wrong = correlation(data.linear), correlation(np.linalg.inv(data.linear))
    assert np.median(right[far]) > 0.5
    assert np.median(right[far]) > np.median(wrong[far]) + 0.3
    values = np.linalg.svd(data.linear, compute_uv=False)
    stretched = values[:, 0] > 1.4 * values[:, 1]
    assert stretched.sum() > 20
    assert np.median(right[stretched]) > np.median(wrong[stretched]) + 0.1


def test_the_command_takes_few_pairs_a_view(photos, tmp_path, capsys):
    command = ["patches", "build", str(photos), "--out", str(tmp_path / "set"), "--views", "1"]
    assert main([*command, "--pairs", "12"]) == 0
    data = open_pairs(tmp_path / "set")
    assert set(data.end - data.start) == {12}
    with pytest.raises(SystemExit):
        main([*command, "--pairs", "-5"])
    assert "--pairs: expected at least 1, got -5" in capsys.readouterr().err


def test_unreadable_photos_are_listed(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "good.png"), textured(400, 500))
    (folder / "bad.jpg").write_text("no photo")
    cv2.imwrite(str(folder / "flat.png"), np.zeros((300, 300), np.uint8))
    cv2.imwrite(str(folder / "dot.png"), np.zeros((1, 1), np.uint8))
    summary = build_pairs(folder, tmp_path / "set", SETTINGS)
    assert set(summary["skipped"]) == {"bad.jpg", "dot.png", "flat.png"}


def test_a_folder_without_use_leaves_nothing_behind(tmp_path):
    with pytest.raises(FolderError, match="no such folder"):
        build_pairs(tmp_path / "missing", tmp_path / "set", SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="no images"):
        build_pairs(tmp_path / "empty", tmp_path / "set", SETTINGS)
    cv2.imwrite(str(tmp_path / "empty" / "flat.png"), np.zeros((300, 300), np.uint8))
    with pytest.raises(ImageError, match="enough pairs"):
        build_pairs(tmp_path / "empty", tmp_path / "set", SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_an_existing_set_is_kept(photos, pairs):
    with pytest.raises(FileExistsError, match="exists already"):
        build_pairs(photos, pairs, SETTINGS)
    assert open_pairs(pairs).settings == SETTINGS


# Losses.


def test_relaxed_bits_approach_the_sign():
    activations = torch.tensor([[0.5, -2.0, 1.0, -0.1]])
    codes = relax_bits(activations, 1000.0)
    assert torch.allclose(codes, activations.sign() / 2)


def unit_rows(rng, count):
    """Two arrays ``(count, 16)``."""
    rows = rng.normal(size=(2, count, 16))
    return rows / np.linalg.norm(rows, axis=2, keepdims=True)


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
    unrelated = rng.random((20, 20)) < 0.5
    threshold = np.sort((first * second).sum(1))[2]  # the third of 20 is the 15th percentile
    beyond = (first @ second.T)[unrelated] - threshold
    arguments = [torch.from_numpy(array) for array in (first, second, unrelated)]
    smooth = false_positives(*arguments)
    assert smooth.item() == pytest.approx((1 / (1 + np.exp(-beyond / 0.08))).mean())
    sharp = false_positives(*arguments, width=1e-6)
    assert sharp.item() == pytest.approx((beyond > 0).mean(), abs=1e-6)
    none = false_positives(*arguments[:2], torch.zeros(20, 20, dtype=torch.bool))
    assert none.item() == 0


def turning(*angles):
    cosine, sine = np.cos(angles), np.sin(angles)
    return np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1)


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


# The loop.


def test_photos_are_split_as_a_whole(pairs):
    data = open_pairs(pairs)
    training, held_out = split_groups(data, 3)
    assert not set(data.photo[training]) & set(data.photo[held_out])
    assert len(training) + len(held_out) == len(data.start)


def test_negatives_are_other_places_or_points_apart(pairs):
    data = open_pairs(pairs)
    groups, _ = split_groups(data, 3)
    batch, again = (draw_batch(data, groups, CONFIG, 0) for _ in range(2))
    assert all(map(torch.equal, batch, again))
    assert batch.patches(PatchSource(data, torch.device("cpu"))).shape == (24, 2, 32, 32)
    negative = batch.negative()
    assert (negative == negative.T).all()
    assert not negative.diagonal().any()
    assert negative.any()


def test_points_that_are_almost_the_same_need_less_margin(pairs):
    data = open_pairs(pairs)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    assert np.array_equal(batch.xy, data.xy[batch.row])
    assert np.array_equal(batch.side, data.side[batch.row])
    here, beside, larger, elsewhere = (
        batch._replace(
            group=torch.tensor([0, group]),
            xy=torch.tensor([[50.0, 50.0], [50.0 + x, 50.0]]),
            side=torch.tensor([30.0, side]),
        ).margins(0.9, (0.15, 0.25))
        for group, x, side in (
            (0, 0.0, 30.0),
            (0, 4.5, 30.0),
            (0, 0.0, 30.0 * np.e),
            (1, 0.0, 30.0),
        )
    )
    assert (here == 0).all()
    assert np.allclose(beside[0, 1], 0.9 * (1 - np.exp(-0.5)))
    assert np.allclose(larger[0, 1], 0.9 * (1 - np.exp(-8)))
    assert np.allclose(elsewhere[0, 1], 0.9)
    margins = batch.margins(1.0, (0.15, 0.25))
    assert torch.allclose(margins, margins.T)
    assert margins.min() < 0.3 < 0.9 < margins.median()


def test_mirrored_pairs_are_mapped_the_other_way(wide):
    data = open_pairs(wide)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    originals = {
        patch.tobytes(): linear
        for patch, linear in zip(data.patches[:, 0], data.linear, strict=True)
    }
    mirror = np.diag([1.0, -1.0])
    patches = batch.patches(PatchSource(data, torch.device("cpu"))).numpy()
    straight = np.array([patch.tobytes() in originals for patch in patches[:, 0]])
    assert 0 < straight.sum() < len(straight)
    for (first, _), linear, same in zip(patches, batch.linear.numpy(), straight, strict=True):
        original = originals[(first if same else first[::-1]).tobytes()]
        np.testing.assert_allclose(linear, original if same else mirror @ original @ mirror)


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


LOG_POLAR = replace(CONFIG.model, log_polar=True, support=1.25)
TURNING = replace(LOG_POLAR, orientation=(8, 8))


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


# Sets of what a network sees.


@pytest.fixture(scope="module")
def seen(photos, tmp_path_factory):
    """A set of what a network with log-polar patches sees before it turns them."""
    folder = tmp_path_factory.mktemp("sets")
    torch.manual_seed(3)
    network = CompactNet(TURNING)
    torch.nn.init.normal_(network.orientation.scores.weight, std=0.1)
    path = folder / "first.safetensors"
    save_model(path, network, calibration=calibration(golden_patches()))
    build_pairs(photos, folder / "seen", replace(SETTINGS, model=str(path), noise=0.5))
    path.unlink()  # the set has its own
    return folder / "seen"


def test_a_set_holds_what_a_network_sees(photos, seen, wide):
    data = open_pairs(seen)
    assert data.patches.shape[1:] == (2, 32, 32)
    runtime = Runtime(data.seen_by)
    assert runtime.verify()
    assert data.settings.side == 32
    assert open_pairs(wide).seen_by is None
    assert {*data.photo} == {*open_pairs(wide).photo}


def test_errors_are_drawn_when_a_set_is_built(photos, seen, tmp_path):
    settings = open_pairs(seen).settings
    model = str(open_pairs(seen).seen_by)
    for name, noise in (("exact", 0.0), ("noisy", 1.0)):
        build_pairs(photos, tmp_path / name, replace(settings, model=model, noise=noise))
    exact, noisy = (open_pairs(tmp_path / name) for name in ("exact", "noisy"))
    first = slice(0, exact.end[0])
    assert (exact.xy[first] == noisy.xy[first]).all()  # where the detector found them
    assert (exact.patches[first] != noisy.patches[first]).mean() > 0.1
    with pytest.raises(ValueError, match="when it is built"):
        train(seen, tmp_path / "run", replace(CONFIG, noise=FrameNoise(share=0.5)))


def test_hard_views_are_tilted_and_have_carried_keypoints(photos, seen, tmp_path):
    settings = open_pairs(seen).settings
    model = str(open_pairs(seen).seen_by)
    hard = replace(settings, model=model, warped=0.0, hard=1.0)
    build_pairs(photos, tmp_path / "hard", hard)
    found = open_pairs(tmp_path / "hard")
    values = np.linalg.svd(found.linear, compute_uv=False)
    ratio = values[:, 0] / values[:, 1]
    assert ratio.max() > 1.6  # exp(2 * 0.25) = 1.65 in other views, and there are few here
    np.testing.assert_allclose(values.prod(1), 1, atol=1e-3)  # carried: of the size that they have
    turn = np.degrees(np.arccos(turn_cosine(torch.from_numpy(found.linear)).numpy().clip(-1, 1)))
    assert 4 < np.sqrt((turn**2).mean()) < 25  # errors of 11 degrees, and those of a stretch
    assert (found.end - found.start).min() >= settings.min_pairs
    with pytest.raises(SystemExit):
        main(["patches", "build", str(photos), "--out", str(tmp_path / "x"), "--hard", "2"])


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


def test_mirrored_log_polar_patches_are_those_of_the_mirrored_photo(seen):
    data = open_pairs(seen)
    groups, _ = split_groups(data, 3)
    batch = draw_batch(data, groups, CONFIG, 0)
    source = PatchSource(data, torch.device("cpu"))
    patches, rows = batch.patches(source).numpy(), batch.row.numpy()
    for patch, row, mirrored in zip(patches, rows, batch.mirrored.numpy(), strict=True):
        stored = data.patches[row]
        assert (patch == (stored[..., ::-1] if mirrored else stored)).all()
    image = textured(200, 200)[..., 0]
    at = np.float32([[99.5, 99.5]]), np.float32([40]), np.float32([0])
    straight, _ = PatchCutter(np.ascontiguousarray(image)).cut_log_polar(*at)
    turned, _ = PatchCutter(np.ascontiguousarray(image[::-1])).cut_log_polar(*at)
    inner = slice(0, 18)  # these come from the image itself
    difference = np.abs(straight[0, inner, ::-1].astype(int) - turned[0, inner])
    assert difference.max() <= 1


def test_options_of_sets_that_contradict_each_other(photos, tmp_path, capsys):
    build = ["patches", "build", str(photos), "--out", str(tmp_path / "set")]
    for options, message in (
        (["--model", "compact", "--narrow"], "leave --support"),
        (["--model", "compact", "--support", "1.5"], "leave --support"),
        (["--noise", "0.5"], "goes with --model"),
        (["--model", "bingan-256"], "no compact network"),
        (["--model", "nothing"], "neither a shipped model"),
    ):
        assert main([*build, *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_bingan_wants_square_patches(seen):
    with pytest.raises(ValueError, match="what a network sees"):
        open_patches(seen)


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


def test_an_older_set_is_told(wide, tmp_path):
    shutil.copytree(wide, tmp_path / "old")
    (tmp_path / "old" / "side.npy").unlink()
    with pytest.raises(FileNotFoundError, match="an older version"):
        open_pairs(tmp_path / "old")


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


@pytest.mark.parametrize("name", ["set.json", "patches.npy", "xy.npy", "side.npy", "linear.npy"])
@pytest.mark.parametrize("content", [b"", b"{}", b"text"])
def test_a_damaged_set_is_named(pairs, tmp_path, name, content):
    copy = tmp_path / "copy"
    shutil.copytree(pairs, copy)
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{copy}: damaged"):
        open_pairs(copy)
    if name in ("set.json", "patches.npy"):
        with pytest.raises(ValueError, match=f"{copy}: damaged"):
            open_patches(copy)


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
