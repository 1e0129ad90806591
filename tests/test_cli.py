from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import png_header, shifted, textured

from bindesc import weights
from bindesc.cli import main
from bindesc.models.compact import CompactNet

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model file."""
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    weights.save_model(path, CompactNet())
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder beside a folder of input files."""
    inputs, current = tmp_path / "in", tmp_path / "current"
    inputs.mkdir()
    current.mkdir()
    image = textured()
    for name, pixels in (
        ("a.png", image),
        ("b.png", shifted(image, 12, 5)),
        ("other.png", textured(seed=5)),
        ("black.png", np.zeros((100, 100), np.uint8)),
        ("one.png", np.full((1, 1), 9, np.uint8)),
        ("deep.png", image.astype(np.uint16) * 257),
        ("thermal.png", image[:, :, 0].astype(np.uint16) + 7000),
        ("float.tiff", image.astype(np.float32)),
    ):
        assert cv2.imwrite(str(inputs / name), pixels)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    (inputs / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (inputs / "text.jpg").write_text("no image\n")
    (inputs / "huge.png").write_bytes(png_header(30_000, 20_000))
    monkeypatch.chdir(current)
    return current


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_match_writes_a_picture_and_a_summary(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["match", "../in/a.png", "../in/b.png", "--descriptor", "orb"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("../in/a.png: 320 x 240 pixels, ")
    assert "orb on orb keypoints: " in lines[2]
    assert "inliers of a homography" in lines[2]
    assert lines[3:] == ["wrote matches.png"]
    assert files(here) == {"matches.png"}
    assert cv2.imread("matches.png").shape[1] == 320 + 8 + 320


def test_match_with_a_bindesc_model(
    here: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["match", "../in/a.png", "../in/b.png", "--model", str(model), "--json", "-"]
    assert main([*arguments, "--no-viz"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["descriptor"] == "bindesc"
    assert report["model"] == str(model)
    assert report["inliers"] > 100
    matrix = np.array(report["geometry"]["matrix"])
    np.testing.assert_allclose(matrix, [[1, 0, 12], [0, 1, 5], [0, 0, 1]], atol=0.5)
    assert not files(here)


def test_match_writes_every_output(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    arguments = ["match", "../in/a.png", "../in/b.png", "--descriptor", "sift"]
    outputs = ["--out", "p.jpg", "--json", "r.json", "--npz", "m.npz", "--h5", "hloc"]
    options = ["--detector", "sift", "--n-kpts", "200", "--ratio", "0.9", "--geometry", "F"]
    assert main([*arguments, *outputs, *options, "--resize", "300", "--seed", "3"]) == 0
    assert files(here) == {"p.jpg", "r.json", "m.npz", "hloc"}
    report = json.loads(Path("r.json").read_text())
    assert report["geometry"]["kind"] == "F"
    assert report["geometry"]["seed"] == 3
    assert [image["width"] for image in report["images"]] == [320, 320]
    assert all(image["keypoints"] <= 200 for image in report["images"])
    with np.load("m.npz") as arrays:
        assert (arrays["matches"] >= 0).sum() == report["matches"]
        assert arrays["inliers"].sum() == report["inliers"]
    assert Path("hloc/pairs.txt").read_text() == "a.png b.png\n"
    out = capfd.readouterr().out
    assert all(f"wrote {name}\n" in out for name in ("p.jpg", "m.npz", "hloc"))


def test_match_options_change_the_matches(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def matches(*options: str) -> int:
        images = ["../in/a.png", "../in/other.png", "--descriptor", "orb"]
        main(["match", *images, "--no-viz", "--json", "-", "--geometry", "none", *options])
        return json.loads(capfd.readouterr().out)["matches"]

    everything = matches("--no-mutual")
    mutual = matches()
    assert mutual < everything
    for option in (("--ratio", "0.8"), ("--margin", "15"), ("--max-dist", "50")):
        assert matches(*option) < mutual


@pytest.mark.parametrize("descriptor", ["bindesc", "orb"])
def test_match_with_evenly_spread_keypoints(here: Path, descriptor: str) -> None:
    command = ["match", "../in/a.png", "../in/b.png", "--n-kpts", "60", "--no-viz"]
    spread = {}
    for name, option in (("strongest", []), ("even", ["--even"])):
        output = ["--npz", f"{name}.npz", "--descriptor", descriptor]
        assert main([*command, *output, *option]) == 0
        with np.load(f"{name}.npz") as arrays:
            xy = arrays["keypoints0"]
        assert 40 < len(xy) <= 60
        nearest = np.sort(np.linalg.norm(xy[:, None] - xy, axis=2), axis=1)[:, 1]
        spread[name] = np.median(nearest)
    assert spread["even"] > 1.3 * spread["strongest"]


def test_hloc_names_are_relative_to_the_common_folder(here: Path) -> None:
    pytest.importorskip("h5py")
    for name in ("x", "y"):
        (here / name).mkdir()
        assert cv2.imwrite(f"{name}/same.png", textured())
    arguments = ["match", "x/same.png", "y/same.png", "--descriptor", "orb", "--no-viz"]
    assert main([*arguments, "--h5", "hloc"]) == 0
    assert Path("hloc/pairs.txt").read_text() == "x/same.png y/same.png\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.png", "no such file"),
        ("text.jpg", "not an image in a known format"),
        ("truncated.jpg", "truncated JPEG file"),
        ("thermal.png", "16-bit values that span only"),
        ("float.tiff", "float32 pixels"),
        ("huge.png", "30000 x 20000 pixels, more than the limit"),
        (".", "is a folder"),
    ],
)
def test_unusable_image_is_one_line_and_exit_2(
    here: Path, name: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--json", "r.json", "--npz", "m.npz", "--h5", "hloc"]
    for images in (["../in/a.png", f"../in/{name}"], [f"../in/{name}", "../in/a.png"]):
        assert main(["match", *images, "--descriptor", "orb", *outputs]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("bindesc: ../in")
        assert reason in err
        assert err.count("\n") == 1
        assert not files(here)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("black.png", "no keypoints in the second image"), ("one.png", "no keypoints in the second")],
)
@pytest.mark.parametrize("descriptor", ["bindesc", "orb", "sift"])
def test_image_without_keypoints_is_exit_3(
    here: Path,
    model: Path,
    name: str,
    reason: str,
    descriptor: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = ["match", "../in/a.png", f"../in/{name}", "--descriptor", descriptor]
    outputs = ["--json", "-", "--npz", "m.npz", "--h5", "hloc"]
    assert main([*arguments, *outputs, "--model", str(model)]) == 3
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert (report["matches"], report["inliers"]) == (0, 0)
    assert report["geometry"]["matrix"] is None
    assert reason in report["too_few"]
    assert err == f"bindesc: too few matches: {report['too_few']}\n"
    assert not files(here)


def test_unrelated_images_are_exit_3(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["match", "../in/a.png", "../in/other.png", "--descriptor", "orb"]
    assert main([*arguments, "--json", "r.json"]) == 3
    assert "no more than chance gives" in json.loads(Path("r.json").read_text())["too_few"]
    assert files(here) == {"matches.png", "r.json"}
    assert capfd.readouterr().err.count("\n") == 1


def test_16_bit_image_matches_its_8_bit_version(here: Path) -> None:
    assert main(["match", "../in/a.png", "../in/deep.png", "--descriptor", "orb"]) == 0


@pytest.mark.parametrize("option", ["--out", "--json", "--npz"])
def test_unwritable_output_is_found_before_the_work(
    here: Path, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in ("../no/file.png", "../in/a.png/file.png", "../in"):
        arguments = ["match", "../in/a.png", "../in/b.png", "--descriptor", "orb"]
        assert main([*arguments, option, path]) == 2
        assert capfd.readouterr().err.startswith(f"bindesc: cannot write {path}: ")
        assert not files(here)


def test_unwritable_hloc_folder(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    arguments = ["match", "../in/a.png", "../in/b.png", "--descriptor", "orb", "--no-viz"]
    assert main([*arguments, "--h5", "../in/a.png"]) == 2
    assert "a.png" in capfd.readouterr().err


def test_changed_weights_are_refused(
    here: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(model.read_bytes())
    data[-5] ^= 1
    path = tmp_path / "changed.safetensors"
    path.write_bytes(data)
    images = ["../in/a.png", "../in/b.png"]
    for command in (["match", *images], ["extract", "../in", "--out", "f"]):
        assert main([*command, "--model", str(path)]) == 2
        err = capfd.readouterr().err
        assert "the file was changed or damaged" in err
        assert err.count("\n") == 1
        assert not files(here)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--model", "no-such-model"], "'no-such-model' is neither a shipped model"),
        (["--device", "nonsense"], "device: 'nonsense' cannot be used"),
        (["--device", "cuda:99"], "device: 'cuda:99' cannot be used"),
        (["--descriptor", "orb", "--ransac-thr", "0"], "threshold: expected a number above 0"),
        (["--descriptor", "orb", "--seed", "-1"], "seed: expected 0 to"),
        (["--descriptor", "orb", "--ratio", "7"], "ratio: "),
        (["--descriptor", "sift", "--ratio", "7"], "ratio: "),
        (["--out", "picture.xyz"], "no image format has this suffix"),
    ],
)
def test_unusable_options_are_exit_2(
    here: Path,
    model: Path,
    options: list[str],
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    images = ["../in/a.png", "../in/b.png"]
    assert main(["match", *images, "--model", str(model), *options]) == 2
    err = capfd.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert not files(here)


@pytest.mark.parametrize("options", [["--n-kpts", "0"], ["--resize", "-3"], ["--geometry", "E"]])
def test_argparse_refuses_with_exit_2(here: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["match", "a", "b", *options])
    assert stop.value.code == 2


def test_extract_reports_resumes_and_refuses(
    here: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["extract", "../in", "--out", "features", "--model", str(model)]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert "6 images extracted" in out
    assert "0 already done, 5 unreadable\nwrote features\n" in out
    assert sum(line.startswith("skipped ") for line in err.splitlines()) == 5
    assert main(command) == 0
    assert "0 images extracted (0 keypoints), 6 already done" in capfd.readouterr().out
    assert main([*command, "--n-kpts", "50"]) == 2
    assert "other settings (n-kpts 1000, now 50)" in capfd.readouterr().err
    assert main([*command, "--even"]) == 2
    assert "other settings (even False, now True)" in capfd.readouterr().err


def test_extract_without_a_readable_image_is_exit_2(
    here: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("h5py")
    (here / "in").mkdir()
    (here / "in" / "a.jpg").write_text("text")
    assert main(["extract", "in", "--out", "f.h5", "--model", str(model)]) == 2
    assert "in: no image could be read" in capfd.readouterr().err
    assert main(["extract", "nowhere", "--out", "f.h5", "--model", str(model)]) == 2
    assert capfd.readouterr().err == "bindesc: nowhere: no such folder\n"
    assert files(here) == {"in"}


def test_demo_prints_a_table(here: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    assert main(["demo", "--out", "pictures", "--model", str(model)]) in (0, 3)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["descriptor", "matches", "inliers", "corner", "error"]
    assert lines[1].startswith("bindesc untrained ")
    assert lines[2].startswith("orb ")
    assert files(here / "pictures") == {"demo.png", "view0.png", "view1.png"}


def test_info_lists_what_is_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capfd.readouterr().out
    assert f"opencv        {cv2.__version__}" in text
    assert main(["info", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["versions"]["opencv"] == cv2.__version__
    assert list(facts["models"]) == weights.list_models()
    assert all("(checked)" in value for value in facts["models"].values())
    assert facts["opencv descriptors"]["orb"] == "ok"


def test_info_lists_the_matchers(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    matcher = json.loads(capfd.readouterr().out)["matcher"]
    assert list(matcher.values()).count("in use") == 1
    assert "scalar" in matcher
    assert matcher["cuda"]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), *sys.path]))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [["info"], ["match", "a", "b"], ["extract", "x", "--out", "y"]])
def test_missing_opencv_names_the_wheels(here: Path, command: list[str]) -> None:
    code = "import sys; sys.modules['cv2'] = None; from bindesc.cli import main; sys.exit(main())"
    result = run_python(code, *command)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for wheel in ("opencv-python,", "opencv-python-headless,", "opencv-contrib-python,"):
        assert wheel in result.stderr
    assert "pip install bindesc[opencv]" in result.stderr


def test_help_loads_neither_torch_nor_opencv() -> None:
    code = (
        "import sys; sys.argv[0] = 'bindesc'\n"
        "from bindesc.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    )
    result = run_python(code)
    assert result.stderr == ""
    for command in ("match", "extract", "demo", "info", "train", "patches"):
        assert f"    {command} " in result.stdout
    assert result.stdout.endswith("set()\n")


def test_module_and_version() -> None:
    result = run_python("import runpy; runpy.run_module('bindesc', run_name='__main__')", "info")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "versions:" in result.stdout
