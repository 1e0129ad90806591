from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import textured, turned_by_exif
from scene import FOCAL, HEIGHT, WIDTH, centres, save_views

import bindesc
from bindesc.cli import main
from bindesc.export import load_features_npz
from bindesc.sfm import SfmSettings, describe

pycolmap = pytest.importorskip("pycolmap")

VIEWS = 7
OPTIONS = ["--descriptor", "orb", "--n-kpts", "500", "--threads", "1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene") / "photos"
    save_views(folder, VIEWS)
    return folder


@pytest.fixture(scope="module")
def finished(photos: Path) -> Path:
    """The output of one undisturbed process."""
    output = photos.parent / "finished"
    assert sfm(photos, output) == 0
    return output


def sfm(photos: Path, output: Path, *options: str) -> int:
    return main(["sfm", str(photos), "-o", str(output), *OPTIONS, *options])


def files(output: Path) -> dict[str, bytes]:
    """What the stages wrote, byte for byte."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and not path.name.startswith("database.db")
    }


def database(output: Path) -> list:
    """The contents of the database."""
    with pycolmap.Database.open(output / "database.db") as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        keypoints = [(name, opened.read_keypoints(number).tolist()) for name, number in ids.items()]
        pairs, matches = opened.read_all_matches()
        verified = [
            (pair, geometry.inlier_matches.tolist(), np.asarray(geometry.F).tolist())
            for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True)
        ]
        return [keypoints, pairs, [m.tolist() for m in matches], verified]


def assert_same(output: Path, expected: Path) -> None:
    assert database(output) == database(expected)
    assert files(output) == files(expected)


def test_pairs_are_chosen_anew_for_photos_that_were_replaced(photos: Path, tmp_path: Path) -> None:
    mixed, output = tmp_path / "mixed", tmp_path / "out"
    shutil.copytree(photos, mixed)
    options = ["--pairs", "similar:1", "--shard", "1/1"]
    assert sfm(mixed, output, *options) == 0
    before = (output / "pairs.json").read_bytes()
    assert sfm(mixed, output, *options) == 0
    assert (output / "pairs.json").read_bytes() == before
    first, *_, last = sorted(mixed.iterdir())
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    last.write_bytes(content)
    for path in (first, last):
        os.utime(path, (10**9, 10**9))
    assert sfm(mixed, output, *options) == 0
    after = (output / "pairs.json").read_bytes()
    assert after != before
    shutil.rmtree(output)
    assert sfm(mixed, output, *options) == 0
    assert (output / "pairs.json").read_bytes() == after


def test_photos_are_described_as_they_are_stored(tmp_path: Path) -> None:
    """As COLMAP reads them, which does not apply the EXIF orientation."""
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    _, jpeg = cv2.imencode(".jpg", textured())
    (folder / "a.jpg").write_bytes(turned_by_exif(jpeg.tobytes()))
    describe(folder, output, lambda: bindesc.create(nfeatures=50), SfmSettings({}))
    assert load_features_npz(output / "features" / "a.jpg.npz").image_size == (320, 240)


def test_scene_is_reconstructed(finished: Path, photos: Path) -> None:
    model = pycolmap.Reconstruction(finished / "sparse" / "0")
    assert model.num_reg_images() == VIEWS
    assert model.num_points3D() > 200
    assert model.compute_mean_reprojection_error() < 1
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    found = np.array([image.projection_center() for image in images])
    assert distance_after_alignment(found, centres(VIEWS)) < 0.02
    colors = np.array([point.color for point in model.points3D.values()])
    assert colors.std(axis=0).min() > 20
    assert (finished / "points.ply").read_bytes().startswith(b"ply")
    picture = cv2.imread(str(finished / "points.png"))
    assert picture.shape[1] > 1000 and picture.std() > 5


def distance_after_alignment(found: np.ndarray, true: np.ndarray) -> float:
    """Root mean square, as a share of the true extent, after the best similarity (Umeyama)."""
    a, b = found - found.mean(axis=0), true - true.mean(axis=0)
    u, s, v = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ v))])
    scale = np.trace(np.diag(s) @ sign) / (a**2).sum()
    residual = b - scale * a @ (u @ sign @ v).T
    return float(np.sqrt((residual**2).sum(axis=1).mean()) / np.ptp(true, axis=0).max())


def test_second_run_does_nothing_again(
    finished: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.npz")}
    assert sfm(photos, finished) == 0
    assert f"0 images described (0 keypoints), {VIEWS} already done" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.npz")} == before


# Runs the command, but stops for good in the call number CALL of MODULE.FUNCTION.
HANGING = """
import importlib, sys, time
module, function, call = sys.argv[1:4]
del sys.argv[1:4]
module = importlib.import_module(module)
original, calls = getattr(module, function), 0
def hanging(*args, **options):
    global calls
    calls += 1
    if calls == int(call):
        print("here", flush=True)
        time.sleep(600)
    return original(*args, **options)
setattr(module, function, hanging)
from bindesc.cli import main
sys.exit(main())
"""

STAGES = {
    "describe": ("bindesc.folder", "extract_resized", "4"),
    "match": ("bindesc.collection", "verify", "4"),
    "database": ("bindesc.colmap", "_write_features", "4"),
    "map": ("bindesc.colmap", "incremental_mapping", "1"),
    "colour": ("bindesc.colmap", "color_points", "1"),
    "picture": ("bindesc.sfm", "save_cloud_picture", "1"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_run_goes_on(tmp_path: Path, photos: Path, finished: Path, stage: str) -> None:
    if stage not in ("describe", "match"):
        for name in ("features", "matches"):
            shutil.copytree(finished / name, tmp_path / name)
        for name in ("pairs.json", "bindesc.json"):
            shutil.copy(finished / name, tmp_path / name)
    command = ["sfm", str(photos), "-o", str(tmp_path), *OPTIONS]
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, *STAGES[stage], *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "here\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "points.png").exists()
    assert (tmp_path / "sparse").exists() == (stage == "picture")
    assert sfm(photos, tmp_path) == 0
    assert_same(tmp_path, finished)


def test_shards_give_what_one_process_gives(
    tmp_path: Path, photos: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "bindesc", "sfm", str(photos), "-o", str(output), *OPTIONS]
    for _ in ("describe", "match"):
        shares = [subprocess.Popen([*command, "--shard", share]) for share in ("1/2", "2/2")]
        assert [share.wait() for share in shares] == [0, 0]
    assert "every share is done" in capfd.readouterr().out
    assert not (output / "database.db").exists()
    assert sfm(photos, output) == 0
    assert f"{VIEWS} already done" in capfd.readouterr().out
    assert_same(output, finished)


def test_a_share_says_what_is_left(
    tmp_path: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert sfm(photos, output, "--shard", "2/2") == 0
    assert "4 images are still to be described" in capfd.readouterr().out
    assert sfm(photos, output, "--shard", "1/2") == 0
    assert "3 images are still to be matched" in capfd.readouterr().out
    assert sfm(photos, output, "--shard", "2/2") == 0
    assert "run this without --shard to map" in capfd.readouterr().out
    assert sorted(p.name for p in output.iterdir()) == [
        "bindesc.json",
        "features",
        "matches",
        "pairs.json",
    ]


def test_other_settings_are_refused(
    finished: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files(finished)
    for options, reason in (
        (["--pairs", "sequential"], "pairs 'exhaustive', now 'sequential'"),
        (["--n-kpts", "400"], "n-kpts 500, now 400"),
        (["--descriptor", "sift"], "descriptor 'orb', now 'sift'"),
        (["--camera", "per-image"], "shared_camera True, now False"),
    ):
        assert sfm(photos, finished, *options) == 2
        assert reason in capfd.readouterr().err
    assert files(finished) == before


def test_other_photos_are_refused_once_mapped(
    tmp_path: Path, photos: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output, more = tmp_path / "out", tmp_path / "photos"
    shutil.copytree(finished, output)
    shutil.copytree(photos, more)
    assert cv2.imwrite(str(more / "view7.png"), textured())
    assert sfm(more, output) == 2
    assert "sparse: is of other photos; remove or rename it" in capfd.readouterr().err
    (output / "sparse").rename(tmp_path / "old")
    assert sfm(more, output) == 0
    assert f"{VIEWS} of 8 images" in capfd.readouterr().out


def test_output_among_the_photos_is_refused(
    photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sfm(photos, photos / "out") == 2
    assert "lies inside" in capfd.readouterr().err
    assert not (photos / "out").exists()


def test_shrunken_images_give_a_model_in_original_pixels(tmp_path: Path, photos: Path) -> None:
    assert sfm(photos, tmp_path / "out", "--resize", "360") == 0
    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
    assert model.num_reg_images() == VIEWS
    (camera,) = model.cameras.values()
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
    assert camera.mean_focal_length() == pytest.approx(FOCAL, rel=0.1)


def test_foreign_output_is_refused(
    tmp_path: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "database.db").write_bytes(b"precious")
    assert sfm(photos, tmp_path) == 2
    assert "is not empty and was not made by this command" in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["database.db"]


def test_damaged_and_odd_images_among_good_ones(
    tmp_path: Path, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "photos"
    shutil.copytree(photos, mixed)
    (mixed / "damaged.png").write_bytes((photos / "view0.png").read_bytes()[:5000])
    (mixed / "sub").mkdir()
    half = cv2.resize(cv2.imread(str(photos / "view3.png")), None, fx=0.7, fy=0.7)
    assert cv2.imwrite(str(mixed / "sub" / "smaller view.jpg"), half)
    assert cv2.imwrite(str(mixed / "black.png"), np.zeros((50, 70), np.uint8))
    assert sfm(mixed, tmp_path / "out", "--pairs", "similar:8") == 0
    out, err = capfd.readouterr()
    assert "skipped" in err and "damaged.png: truncated" in err
    assert "9 images described" in out and "1 unreadable" in out
    assert "sparse/0: 8 of 9 images" in out


def test_nothing_to_map_is_exit_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    assert cv2.imwrite(str(photos / "a.png"), textured(seed=0))
    assert sfm(photos, tmp_path / "out") == 3
    assert "1 usable image, a model needs two or more" in capfd.readouterr().err
    for seed in (1, 2):
        assert cv2.imwrite(str(photos / f"{seed}.png"), textured(seed=seed))
    assert sfm(photos, tmp_path / "out") == 3
    assert "no model: 0 of 3 pairs of images have matches that agree" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("sparse*"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--pairs", "some"], "pairs: 'some' is none of"),
        (["--pairs", "similar", "--descriptor", "sift"], "similar needs a binary descriptor"),
        (["--shard", "3/2"], "shard: '3/2' is not I/N"),
        (["--ratio", "0"], "ratio: expected above 0"),
        (["--camera-model", "EYE"], "camera model: 'EYE' is none of"),
        (["--seed", "-1"], "seed: expected 0 to"),
    ],
)
def test_unusable_options_are_exit_2(
    tmp_path: Path,
    photos: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    assert sfm(photos, tmp_path / "out", *options) == 2
    assert reason in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["pycolmap", "matplotlib.figure"])
def test_missing_package_is_one_line(
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert sfm(photos, tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "pip install bindesc[sfm]" in error
    assert not (tmp_path / "out").exists()
