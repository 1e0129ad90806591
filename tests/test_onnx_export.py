import cv2
import numpy as np
import pytest
import torch
from networks import calibration

from bindesc.cli import main
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.onnx_export import export_onnx
from bindesc.weights import WeightsError, golden_patches, load_model, save_model


@pytest.mark.parametrize("count", [1, 7])
def test_opencv_computes_the_same_activations(tmp_path, count):
    path = tmp_path / "compact.onnx"
    export_onnx("compact", path)
    patches = golden_patches()[:count, None].astype(np.float32)
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(patches)
    with torch.no_grad():
        expected = load_model("compact")[0].describe(torch.from_numpy(patches)).numpy()
    assert np.abs(network.forward() - expected).max() < 1e-3


def test_a_model_of_whole_images_takes_colour(tmp_path):
    path = tmp_path / "images.onnx"
    export_onnx("images-64", path)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.float32)
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(images)
    with torch.no_grad():
        expected = load_model("images-64")[0](torch.from_numpy(images)).numpy()
    assert np.abs(network.forward() - expected).max() < 1e-3


def test_an_orientation_is_a_file_of_its_own(tmp_path):
    torch.manual_seed(0)
    config = CompactConfig((16, 16), (2, 2), log_polar=True, orientation=(16, 16))
    network = CompactNet(config)
    torch.nn.init.normal_(network.orientation.scores.weight)
    model, path = tmp_path / "turns.safetensors", tmp_path / "turns.onnx"
    save_model(model, network, calibration=calibration(golden_patches()))
    written = export_onnx(model, path)
    assert written == [path, tmp_path / "turns.orientation.onnx"]
    patches = torch.from_numpy(golden_patches()[:5, None]).float()
    opencv = cv2.dnn.readNetFromONNX(str(written[1]))
    opencv.setInput(torch.nn.functional.avg_pool2d(patches, 2).numpy())
    with torch.no_grad():
        expected = load_model(model)[0].orientation(patches).numpy()
    assert np.abs(opencv.forward() - expected).max() < 1e-3


def test_the_command_writes_the_file(tmp_path, capsys):
    path = tmp_path / "out.onnx"
    assert main(["export", "compact", "--onnx", str(path)]) == 0
    assert path.stat().st_size > 5e5
    orientation = tmp_path / "out.orientation.onnx"
    assert capsys.readouterr().out == f"wrote {path}\nwrote {orientation}\n"


def test_an_unknown_model_leaves_no_file(tmp_path):
    with pytest.raises(WeightsError, match="neither a shipped model"):
        export_onnx("huge", tmp_path / "out.onnx")
    assert main(["export", "huge", "--onnx", str(tmp_path / "out.onnx")]) == 2
    assert list(tmp_path.iterdir()) == []
