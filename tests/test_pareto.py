"""The benchmark of network shapes: its front, its rows and its command on small data."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from image_sets import picture, write_image_sets
from networks import calibration

from benchmarks import common, pareto
from benchmarks.common import Timing
from benchmarks.pareto_front import pareto_front
from benchmarks.pareto_networks import ORB, Times, read_network, read_networks, time_networks
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.weights import golden_patches, save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a tiny untrained network."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    torch.manual_seed(0)
    network = CompactNet(CompactConfig((8, 16), (2, 2), 256, 1.25)).eval()
    path = folder / "model.safetensors"
    save_model(path, network, command="bindesc train", calibration=calibration(golden_patches()))
    return folder


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto_front([3, 1, 2, 4], [7, 5, 5, 9]) == [1, 0, 3]
    assert pareto_front([1, 1, 1], [5, 6, 6]) == [1, 2]
    assert pareto_front([2, 1], [5, 5]) == [1]
    assert pareto_front([], []) == []
    with pytest.raises(ValueError, match=r"shorter|longer"):
        pareto_front([1], [])


def test_the_front_is_complete() -> None:
    rng = np.random.default_rng(0)
    times, values = rng.integers(0, 12, (2, 60)).tolist()
    front = pareto_front(times, values)
    assert [times[i] for i in front] == sorted(times[i] for i in front)
    for i in range(60):
        better = [
            j
            for j in range(60)
            if (times[j] < times[i] and values[j] >= values[i])
            or (times[j] <= times[i] and values[j] > values[i])
        ]
        assert (i in front) == (not better)


def test_a_model_is_a_file_or_the_folder_of_a_run(run: Path) -> None:
    network = read_network(run)
    assert network == read_network(run / "model.safetensors")
    assert (network.label, network.command) == ("tiny", "bindesc train")
    assert network.shape == "8,16 / 2,2"
    shipped, same = read_networks([run])
    assert (shipped.label, same) == ("compact", network)


def test_models_that_cannot_be_compared_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="several are called tiny"):
        read_networks([run, run])
    with pytest.raises(ValueError, match="not a compact network that is stored in integers"):
        read_network("bingan-256")
    path = tmp_path / "float.safetensors"
    save_model(path, CompactNet(CompactConfig((8,), (2,), 256)).eval())
    with pytest.raises(ValueError, match="not a compact network that is stored in integers"):
        read_network(path)
    with pytest.raises(ValueError, match="no such model file"):
        read_network(tmp_path)


def test_times_are_measured_and_the_threads_restored(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cv2.getNumThreads()
    times = time_networks([read_network(run)], picture(), 1, repeats=1)
    assert cv2.getNumThreads() == before
    assert list(times) == [ORB, "tiny"]
    assert times[ORB].network is None
    network = times["tiny"].network
    assert network is not None
    assert 0 < network.median < times["tiny"].whole.median
    # Codes that change from call to call are not timed.
    made = read_network(run)
    changing = iter(np.arange(100, dtype=np.uint8))
    monkeypatch.setattr(
        "bindesc.runtime.Runtime.codes", lambda *_: np.full((1, 32), next(changing))
    )
    with pytest.raises(AssertionError, match="differ"):
        time_networks([made], picture(), 1, repeats=1)


def test_the_table_stars_the_front(run: Path) -> None:
    networks = read_networks([run])
    slow, fast = (Timing(t, t, t, t, 1) for t in (0.02, 0.01))
    times = {
        n: {
            ORB: Times(None, fast),
            "compact": Times(slow, slow),
            "tiny": Times(fast, slow),
        }
        for n in (1, 2)
    }
    correct = {
        ORB: {"webcam_val": 5.0, "homography_pairs": 5.0},
        "compact": {"webcam_val": 9.0, "homography_pairs": 6.0},
        "tiny": {"webcam_val": 7.0, "homography_pairs": 7.0},
    }
    rows = pareto.result_rows(networks, times, correct, {"tiny": 0.5})
    assert rows[1]["front"] == ["webcam_val"]
    assert rows[2]["front"] == ["webcam_val", "homography_pairs"]
    assert rows[2]["multiply_adds"] == 16 * 16 * 9 * 8 + 8 * 8 * (9 * 8 * 16 + 16 * 256)
    table = pareto.table(rows)
    assert table["rows"][0] == [ORB, *["-"] * 5, "10.0 ms", "5.0", "5.0", "-"]
    assert table["rows"][2][4:] == ["10.0 ms", "10.0 ms", "20.0 ms", "7.0 *", "7.0 *", "50.0%"]
    assert table["header"][4:6] == ["1000 patches, 1 thread", "1000 patches, 2 threads"]


def test_the_command_writes_a_table_and_a_picture(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_image_sets(tmp_path)
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    for module in (common, pareto):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(pareto, "vga_photo", picture)
    assert pareto.main([str(run), "--repeats", "1", "--pairs", "0", "--save"]) == 0
    assert "| tiny " in capsys.readouterr().out
    document = json.loads((tmp_path / "results" / "pareto.json").read_text())
    rows = {row["label"]: row for row in document["rows"]}
    assert {"ORB", "compact", "tiny"} <= set(rows)
    assert rows["tiny"]["command"] == "bindesc train"
    assert rows["compact"]["correct"]["webcam_val"] > 100
    assert len(document["table"]["header"]) == len(document["table"]["rows"][0])
    assert cv2.imread(str(tmp_path / "results" / "pareto.png")).std() > 5


def test_bad_input_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    assert pareto.main([str(tmp_path / "no.safetensors")]) == 2
    assert "no such model file" in capsys.readouterr().err
    monkeypatch.delenv("BINDESC_DATA")
    monkeypatch.setattr("benchmarks.datasets.PROJECT", tmp_path / "a" / "b")
    assert pareto.main([str(run)]) == 0
    assert "skipped" in capsys.readouterr().err
