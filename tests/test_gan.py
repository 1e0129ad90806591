import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from pictures import textured

from bindesc.cli import main
from bindesc.image import read_image
from bindesc.models.bingan import BinGanConfig
from bindesc.runtime import Runtime
from bindesc.training import gan, gan_step, validation
from bindesc.training.gan import SAMPLES, WEIGHTS, draw_batch, train, validate
from bindesc.training.gan_step import Gan, GanConfig
from bindesc.training.patch_images import PatchSettings, build_patches, cut_patches, open_held_out
from bindesc.training.run import CHECKPOINT, CURVES, LOG
from bindesc.weights import WeightsError, load_model

CONFIG = GanConfig(
    model=BinGanConfig(narrow=8, wide=8, bits=16, pooled=8), generator_width=16, batch=8
)
FILES = {WEIGHTS, CHECKPOINT, LOG, CURVES, SAMPLES}


@pytest.fixture(scope="module")
def patches():
    photos = [cv2.cvtColor(textured(300, 300, seed), cv2.COLOR_BGR2GRAY) for seed in range(4)]
    return np.concatenate([cut_patches(photo, PatchSettings(per_photo=40)) for photo in photos])


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def changed(network, before):
    after = network.state_dict()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


# Batches.


def test_a_pass_shows_every_patch_once():
    first = [draw_batch(20, 5, 0, step) for step in range(4)]
    second = [draw_batch(20, 5, 0, step) for step in range(4, 8)]
    assert sorted(np.concatenate(first)) == list(range(20))
    assert sorted(np.concatenate(second)) == list(range(20))
    assert not all((a == b).all() for a, b in zip(first, second, strict=True))
    assert not (draw_batch(20, 5, 1, 0) == first[0]).all()


def test_the_incomplete_batch_of_a_pass_is_left_out():
    assert [len(draw_batch(23, 5, 0, step)) for step in range(6)] == [5] * 6


# Steps.


def test_each_step_changes_its_own_network(patches):
    trainer = Gan(CONFIG)
    trainer.initialise(patches, discriminator=True)
    discriminator, generator = weights(trainer.discriminator), weights(trainer.generator)
    losses = trainer.discriminator_step(patches[:8])
    assert set(losses) == {"D", "DMR", "ME", "MAC"}
    assert "trunk.1.weight" in changed(trainer.discriminator, discriminator)
    moved = changed(trainer.generator, generator)
    assert all("running" in key or "batches" in key for key in moved)

    discriminator, generator = weights(trainer.discriminator), weights(trainer.generator)
    trainer.generator_step(patches[:8])
    assert not changed(trainer.discriminator, discriminator)
    assert "layers.0.weight" in changed(trainer.generator, generator)
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


@pytest.mark.parametrize(
    ("name", "regulariser"),
    [
        ("lambda_dmr", "distance_matching"),
        ("lambda_bre", "marginal_entropy"),
        ("lambda_bre", "activation_correlation"),
    ],
)
def test_a_weight_of_zero_leaves_a_regulariser_out(patches, monkeypatch, name, regulariser):
    """With a weight of zero it does not matter what the regulariser is, otherwise it does."""
    original = getattr(gan_step, regulariser)
    after = []
    for weight in (0.0, 0.5):
        for factor in (1, 3):
            with monkeypatch.context() as patch:
                patch.setattr(gan_step, regulariser, lambda *a, k=factor: k * original(*a))
                trainer = Gan(replace(CONFIG, **{name: weight}))
                trainer.initialise(patches, discriminator=True)
                for _ in range(2):
                    trainer.discriminator_step(patches[:8])
            after.append(trainer.discriminator.trunk[1].weight.detach())
    assert torch.equal(after[0], after[1])
    assert not torch.equal(after[2], after[3])


def test_bfloat16_computes_nearly_the_same(patches):
    losses = []
    for bfloat16 in (False, True):
        trainer = Gan(replace(CONFIG, bfloat16=bfloat16))
        trainer.initialise(patches, discriminator=True)
        losses.append(trainer.discriminator_step(patches[:8]) | trainer.generator_step(patches[:8]))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1, abs=0.05)


def test_initialisation_fits_the_data(patches):
    trainer = Gan(CONFIG)
    trainer.discriminator.eval()
    trainer.initialise(patches, discriminator=True)
    with torch.no_grad():
        logits = trainer.discriminator.layers(trainer.to_images(patches)).logits
    assert logits.mean(0).abs().max() < 0.01
    assert torch.allclose(logits.std(0), torch.tensor(0.1), rtol=0.1)


def test_three_channels(patches, tmp_path):
    colour = np.stack([patches, 255 - patches, patches // 2], axis=3)
    config = replace(CONFIG, model=replace(CONFIG.model, inputs=3))
    images = Gan(config).to_images(colour)
    assert images.shape == (len(patches), 3, 32, 32)
    assert torch.allclose(images[:, 0], -images[:, 1], atol=1e-6)
    train(colour, tmp_path / "run", config, steps=2)
    assert read_image(tmp_path / "run" / SAMPLES).shape == (256, 512, 3)
    assert Runtime(tmp_path / "run" / WEIGHTS).describe(patches).shape == (len(patches), 2)


def test_validation_knows_fixed_and_copied_bits(monkeypatch):
    bits = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]], np.float32)
    trainer = Gan(CONFIG)

    def layers(_):
        class Out:
            f = torch.from_numpy(np.concatenate([bits, bits[:, 2:]], axis=1))

        return Out

    monkeypatch.setattr(trainer.discriminator, "layers", layers)
    scores = validate(trainer, np.zeros((4, 32, 32), np.uint8))
    assert scores["bit_bias"] == pytest.approx(0.5 / 4)
    assert scores["bit_correlation"] == pytest.approx(2 / 12)


# The loop.


def test_a_run_learns_and_leaves_its_files(patches, tmp_path):
    config = replace(CONFIG, learning_rate=3e-3)
    line = train(patches, tmp_path / "run", config, steps=60)
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
    assert set(line) == {"D", "DMR", "ME", "MAC", "G", "bit_bias", "bit_correlation"}
    trainer = Gan(config)
    trainer.initialise(patches, discriminator=True)
    assert line["D"] < trainer.discriminator_step(patches[:8])["D"]
    assert read_image(tmp_path / "run" / SAMPLES).shape[:2] == (256, 512)
    runtime = Runtime(tmp_path / "run" / WEIGHTS)
    assert runtime.descriptor_bytes == 2
    assert runtime.verify()


def test_training_resumes_bit_for_bit(patches, tmp_path, monkeypatch, one_thread):
    train(patches, tmp_path / "whole", CONFIG, steps=6)

    def stop_at_three(count, batch, seed, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw_batch(count, batch, seed, step)

    with monkeypatch.context() as patch:
        patch.setattr(gan, "draw_batch", stop_at_three)
        train(patches, tmp_path / "halves", CONFIG, steps=6)
    train(patches, tmp_path / "halves", CONFIG, steps=6, resume=True)
    states = [
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "halves")
    ]
    assert states[0]["step"] == states[1]["step"] == 6
    for part in ("discriminator", "generator"):
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), key
        first, second = (state[part + "_adam"]["state"] for state in states)
        assert all(torch.equal(first[i]["exp_avg"], second[i]["exp_avg"]) for i in first)
    assert torch.equal(states[0]["random"], states[1]["random"])
    lines = (tmp_path / "halves" / LOG).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3, 6]


def test_a_run_is_not_overwritten(patches, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        train(patches, tmp_path / "run", CONFIG, steps=1, resume=True)
    train(patches, tmp_path / "run", CONFIG, steps=1)
    with pytest.raises(FileExistsError, match="--resume"):
        train(patches, tmp_path / "run", CONFIG, steps=1)
    with pytest.raises(ValueError, match="another configuration"):
        train(patches, tmp_path / "run", replace(CONFIG, lambda_dmr=0.0), steps=1, resume=True)


def test_training_starts_from_a_model(patches, tmp_path):
    train(patches, tmp_path / "first", CONFIG, steps=2)
    still = replace(CONFIG, learning_rate=0.0)
    train(patches, tmp_path / "second", still, steps=1, initial=str(tmp_path / "first" / WEIGHTS))
    first, second = (load_model(tmp_path / n / WEIGHTS)[0] for n in ("first", "second"))
    assert not changed(first, weights(second))


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(patches, tmp_path, monkeypatch):
    train(patches, tmp_path / "run", CONFIG, steps=2)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    monkeypatch.setattr(gan_step, "marginal_entropy", lambda f: f.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match="step 2"):
        train(patches, tmp_path / "run", CONFIG, steps=9, resume=True)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_a_weight_that_is_not_finite_is_not_saved(patches, tmp_path, monkeypatch):
    train(patches, tmp_path / "run", CONFIG, steps=2)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    step = Gan.generator_step

    def poisoned(self, batch):
        losses = step(self, batch)
        self.generator.layers[0].weight.data[0, 0] = float("inf")
        return losses

    monkeypatch.setattr(Gan, "generator_step", poisoned)
    with pytest.raises(FloatingPointError, match="weight"):
        train(patches, tmp_path / "run", CONFIG, steps=3, resume=True)
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:5], "5 patches, a batch of 8"),
        (lambda p: p[:, :, :31], "expected"),
        (lambda p: p.astype(np.float32), "expected"),
        (lambda p: np.stack([p] * 3, axis=3), "expected"),
    ],
)
def test_patches_that_do_not_fit_are_refused(patches, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(change(patches), tmp_path / "run", CONFIG, steps=1)
    assert not (tmp_path / "run").exists()


def test_an_end_is_needed(patches, tmp_path):
    with pytest.raises(ValueError, match="one of the two"):
        train(patches, tmp_path / "run", CONFIG)


def test_minutes_end_a_run(patches, tmp_path):
    start = time.monotonic()
    train(patches, tmp_path / "run", CONFIG, minutes=0.01)
    assert 0.6 <= time.monotonic() - start < 20
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["step"] > 0


# Held-out pairs.


@pytest.fixture
def held_out(patches):
    """Pairs of a patch and its darker self, in one group."""
    pairs = np.stack([patches[:40], patches[:40] // 2 + 20], 1)
    xy = np.arange(80).reshape(40, 2) * 30.0
    start, end = np.array([0]), np.array([40])
    return SimpleNamespace(patches=pairs, xy=xy, start=start, end=end, seen_by=None)


def read_lines(run):
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


def test_the_best_checkpoint_is_the_model(patches, held_out, tmp_path, monkeypatch):
    """Of the checkpoints at steps 0 and 4, with accuracies as told, and the last on demand."""
    monkeypatch.setattr(gan, "draw_samples", lambda *_: None)
    models = {}
    for best, keep in ((0, "best"), (4, "best"), (4, "last")):
        told = iter([0.9, 0.1] if best == 0 else [0.1, 0.9])
        monkeypatch.setattr(
            validation, "validate", lambda *_, told=told: {"accuracy": next(told), "fpr95": 0.0}
        )
        run = tmp_path / f"{best}{keep}"
        train(patches, run, CONFIG, steps=4, held_out=held_out, keep=keep)
        assert [line["step"] for line in read_lines(run) if "accuracy" in line] == [0, 4]
        models[best, keep] = load_model(run / WEIGHTS)[0].state_dict()["code.0.weight"]
    trainer = Gan(CONFIG)
    trainer.initialise(gan.spread(patches, gan.INITIAL_SAMPLES), discriminator=True)
    first = trainer.discriminator.state_dict()["code.0.weight"]
    assert torch.allclose(models[0, "best"], first, atol=1e-3)
    assert not torch.equal(models[0, "best"], models[4, "best"])
    assert torch.equal(models[4, "last"], models[4, "best"])


def test_a_run_killed_before_its_first_validation_has_it_when_it_goes_on(
    patches, held_out, tmp_path, monkeypatch
):
    monkeypatch.setattr(gan, "draw_samples", lambda *_: None)
    monkeypatch.setattr(validation.BestModel, "offer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(patches, tmp_path, CONFIG, steps=4, held_out=held_out)
    assert (tmp_path / CHECKPOINT).exists()
    monkeypatch.undo()
    train(patches, tmp_path, CONFIG, steps=4, held_out=held_out, resume=True)
    lines = [line for line in read_lines(tmp_path) if "accuracy" in line]
    assert [line["step"] for line in lines] == [0, 4]
    train(patches, tmp_path, CONFIG, steps=4, held_out=held_out, resume=True)
    assert [line for line in read_lines(tmp_path) if "accuracy" in line][:2] == lines


def test_validation_changes_nothing_in_training(patches, held_out, tmp_path, one_thread):
    runs = {"with": {"held_out": held_out, "minutes_between_validations": 0.0}, "without": {}}
    for name, options in runs.items():
        train(patches, tmp_path / name, CONFIG, steps=5, **options)
    states = [torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in runs]
    assert torch.equal(states[0]["random"], states[1]["random"])
    for key, value in states[0]["discriminator"].items():
        assert torch.equal(value, states[1]["discriminator"][key]), key


def test_the_pca_code_is_written_and_runs(patches, tmp_path):
    train(patches, tmp_path / "run", CONFIG, steps=2, code="pca")
    network, manifest = load_model(tmp_path / "run" / WEIGHTS)
    assert manifest.architecture == "bingan-pca"
    runtime = Runtime(tmp_path / "run" / WEIGHTS)
    bits = np.unpackbits(runtime.describe(patches), axis=1)
    assert np.abs(bits.mean(0) - 0.5).mean() < 0.1
    assert runtime.verify()
    # Such a model can be trained on, too.
    still = replace(CONFIG, learning_rate=0.0)
    first = str(tmp_path / "run" / WEIGHTS)
    train(patches, tmp_path / "more", still, steps=1, initial=first)
    plain = load_model(tmp_path / "more" / WEIGHTS)[0]
    kept = {k: v for k, v in weights(network).items() if not k.startswith("components.")}
    assert not changed(plain, kept)


def test_a_pca_of_too_few_patches_is_refused_before_training(patches, tmp_path):
    with pytest.raises(ValueError, match="12 patches: a PCA needs"):
        train(patches[:12], tmp_path / "run", CONFIG, steps=1, code="pca")
    assert not (tmp_path / "run").exists()


def test_an_initial_model_must_fit(patches, tmp_path):
    with pytest.raises(WeightsError, match="compact model, wanted bingan"):
        train(patches, tmp_path / "run", CONFIG, steps=1, initial="compact")
    train(patches, tmp_path / "first", CONFIG, steps=1)
    other = replace(CONFIG, model=replace(CONFIG.model, support=2.0))
    with pytest.raises(WeightsError, match=r"wanted .*support=2.0"):
        train(
            patches, tmp_path / "other", other, steps=1, initial=str(tmp_path / "first" / WEIGHTS)
        )


# The command.


def test_the_command_needs_one_source(tmp_path, capsys):
    assert main(["train", "bingan", "--out", str(tmp_path / "run"), "--steps", "1"]) == 2
    assert "either a set" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_trains_on_photos_and_is_killed_and_goes_on(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), textured(300, 300))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "bindesc", "train", "bingan", "--images", str(photos)]
    command += ["--out", str(run), "--per-photo", "20", "--batch", "4"]
    command += ["--lambda-dmr", "0.1", "--lambda-bre", "0.02", "--support", "1.5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    endless = [*command, "--minutes", "99"]
    with subprocess.Popen(endless, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 90
        while not (run / SAMPLES).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
    before = torch.load(run / CHECKPOINT, weights_only=True)
    assert before["config"]["lambda_dmr"] == 0.1
    assert before["config"]["lambda_bre"] == 0.02
    end = before["step"] + 2
    rest = [*command, "--steps", str(end), "--resume"]
    subprocess.run(rest, env=environment, stderr=subprocess.DEVNULL, check=True, timeout=120)
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] == end
    assert {p.name for p in run.iterdir()} == FILES | {"patches"}
    _, manifest = load_model(run / WEIGHTS)
    assert manifest.architecture == "bingan"
    assert manifest.config["support"] == 1.5
    assert manifest.command.startswith("bindesc train bingan --images")


def test_the_command_goes_on_with_patches_that_are_there(tmp_path, capsys):
    """A run that ended before its first checkpoint left them."""
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    cv2.imwrite(str(photos / "0.png"), textured(300, 400, 0))
    command = ["train", "bingan", "--images", str(photos), "--out", str(run), "--steps", "0"]
    assert main([*command, "--init", "compact"]) == 2
    assert "compact is a compact model, not a BinGAN" in capsys.readouterr().err
    assert not run.exists()
    assert main([*command, "--init", "images-64"]) == 2
    settings = PatchSettings(per_photo=300, support=1.0, held_out_every=16)
    build_patches(run / "patches", settings, photos=[photos])
    before = (run / "patches" / "patches.npy").stat().st_mtime_ns
    assert main([*command, "--per-photo", "20"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(command) == 0
    assert (run / "patches" / "patches.npy").stat().st_mtime_ns == before


def test_the_command_adapts_a_model_to_photos(patches, tmp_path, capsys):
    """It keeps its shape and support, and is compared to itself on a photo that was held out."""
    config = replace(CONFIG, model=replace(CONFIG.model, support=1.5))
    train(patches, tmp_path / "first", config, steps=1)
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(2):
        cv2.imwrite(str(photos / f"{seed}.png"), textured(300, 400, seed))
    command = ["train", "bingan", "--images", str(photos), "--out", str(tmp_path / "run")]
    command += ["--init", str(tmp_path / "first" / WEIGHTS), "--steps", "2", "--batch", "8"]
    assert main([*command, "--code", "pca"]) == 0
    out = capsys.readouterr().out
    assert "held-out photos, step 0 -> " in out
    assert "accuracy" in out
    assert "FPR@95" in out
    network, manifest = load_model(tmp_path / "run" / WEIGHTS)
    assert network.config == config.model
    lines = read_lines(tmp_path / "run")
    scores = {line["step"]: line for line in lines if "accuracy" in line}
    better = scores[2]["accuracy"] > scores[0]["accuracy"]
    assert manifest.architecture == ("bingan-pca" if better else "bingan")
    first = validation.validate(
        load_model(tmp_path / "first" / WEIGHTS)[0],
        open_held_out(tmp_path / "run" / "patches"),
        np.arange(8),
    )
    assert first["accuracy"] == scores[0]["accuracy"]
