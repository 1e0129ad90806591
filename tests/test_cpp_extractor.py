"""The C++ library: the same codes as Python's, whatever the image and the keypoints."""

import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from networks import calibration

import bindesc
from bindesc.cli import main
from bindesc.corners import subpixel_offsets
from bindesc.cpp_export import export_cpp
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.weights import WeightsError, golden_patches, save_model

ROOT = Path(__file__).parents[1]
CMAKE = shutil.which("cmake") or Path(sys.executable).with_name("cmake")


HAS_OPENCV = (
    shutil.which("pkg-config")
    and subprocess.run(["pkg-config", "--exists", "opencv4"]).returncode == 0
)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The folder with the drivers and the example, built as the README says."""
    folder = tmp_path_factory.mktemp("cpp")
    drivers = ["cpp_extractor", *(["cpp_opencv"] if HAS_OPENCV else [])]
    opencv = "find_package(OpenCV REQUIRED)\n" if HAS_OPENCV else ""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(drivers LANGUAGES CXX)\n"
        "add_compile_options(-Wall -Wextra -Werror -Wconversion -Wshadow)\n"
        f'add_subdirectory("{ROOT / "cuda_ext"}" bindesc)\n{opencv}'
        + "".join(
            f'add_executable({driver} "{ROOT / "tests" / driver}.cpp")\n'
            f"target_link_libraries({driver} PRIVATE bindesc ${{OpenCV_LIBS}})\n"
            for driver in drivers
        )
    )
    call(CMAKE, "-S", folder, "-B", folder / "build", f"-DBINDESC_EXAMPLE={bool(HAS_OPENCV)}")
    call(CMAKE, "--build", folder / "build", "-j", "2")
    return folder / "build"


@pytest.fixture(scope="module")
def program(build):
    return build / "cpp_extractor"


@pytest.fixture(scope="module", params=["compact", "tiny", "square"])
def model(request, tmp_path_factory):
    """A model by name or path, and its file for C++."""
    folder = tmp_path_factory.mktemp("model")
    name = request.param if request.param != "square" else save_square(folder)
    export_cpp(name, folder / "model.bindesc")
    return name, folder / "model.bindesc"


def save_square(folder):
    """A model that sees square patches."""
    torch.manual_seed(0)
    network = CompactNet(CompactConfig((16, 16), (2, 2), support=1.25))
    path = folder / "square.safetensors"
    save_model(path, network, calibration=calibration(golden_patches()))
    return path


def call(*command):
    assert shutil.which(str(command[0])), f"{command[0]} is missing"
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def describe(program, model, image, keypoints, scale=1.0, threads=2, pad=0):
    """Codes, the number of matches, and the sum of the corners' offsets."""
    folder = model.parent
    height, width = image.shape
    rows = np.pad(image, ((0, 0), (0, pad)), constant_values=77)
    data = np.array([[*k.pt, k.size, k.angle] for k in keypoints], "<f4").tobytes()
    header = struct.pack("<4q", width, height, width + pad, len(keypoints))
    (folder / "input").write_bytes(header + rows.tobytes() + data)
    command = program, model, folder / "input", folder / "output", scale, threads
    matches, total = call(*command).splitlines()
    codes = np.frombuffer((folder / "output").read_bytes(), np.uint8).reshape(-1, 32)
    return codes, int(matches.split()[0]), float(total)


@pytest.mark.parametrize(("detector", "scale"), [("orb", 1.0), ("fast", 5.0), ("sift", 6.75)])
def test_codes_are_those_of_python(program, model, detector, scale):
    name, path = model
    image = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2GRAY)[:, :401]
    extractor = bindesc.create(detector, name, 2000)
    keypoints, expected = extractor.detectAndCompute(image, None)
    codes, matches, total = describe(program, path, image, keypoints, scale, pad=5)
    assert len(codes) > 200 and (codes == expected).all()
    assert matches == len(np.unique(codes, axis=0))
    corners = np.array([k.pt for k in keypoints], np.float32).astype(np.int32)
    offsets = subpixel_offsets(image, corners)
    assert total == pytest.approx((offsets * [1, 2]).sum(), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (7, 90), (33, 32), (240, 5)])
def test_any_image_and_keypoints(program, model, shape):
    name, path = model
    rng = np.random.default_rng(shape[0])
    image = rng.integers(0, 256, shape).astype(np.uint8)
    xy = rng.uniform(-50, 150, (400, 2))
    size = np.exp(rng.uniform(-3, 8, 400))
    angle = np.where(rng.random(400) < 0.2, -1, rng.uniform(0, 360, 400))
    keypoints = [cv2.KeyPoint(*place, s, a) for place, s, a in zip(xy, size, angle, strict=True)]
    _, expected = bindesc.create(model=name).compute(image, keypoints)
    for threads in (1, 3):
        codes, _, _ = describe(program, path, image, keypoints, threads=threads)
        assert (codes == expected).all()


def test_sizes_where_the_level_changes(program, model):
    name, path = model
    image = np.random.default_rng(0).integers(0, 256, (700, 700)).astype(np.uint8)
    edges = np.float32([48 * 2**0.5 * 2**k / 1.875 for k in range(3)])
    sizes = [step for edge in edges for step in (np.nextafter(edge, 0), edge, edge * (1 + 1e-6))]
    angles = np.arange(0, 360, 7.5)
    for size in sizes:
        keypoints = [cv2.KeyPoint(350, 340, float(size), angle) for angle in angles]
        _, expected = bindesc.create(model=name).compute(image, keypoints)
        assert (describe(program, path, image, keypoints)[0] == expected).all()


def test_more_keypoints_than_are_held_at_a_time(program, model):
    name, path = model
    image = cv2.cvtColor(skimage.data.chelsea(), cv2.COLOR_RGB2GRAY)
    rng = np.random.default_rng(0)
    places = rng.uniform(0, image.shape[::-1], (9000, 2))
    keypoints = [cv2.KeyPoint(x, y, 31, 30) for x, y in places]
    _, expected = bindesc.create(model=name).compute(image, keypoints)
    codes, _, _ = describe(program, path, image, keypoints, threads=0)
    assert (codes == expected).all()


def test_the_installed_library_goes_into_a_shared_one(build, model, tmp_path):
    """As ORB-SLAM's, whose flags name an older standard too."""
    call(CMAKE, "--install", build / "bindesc", "--prefix", tmp_path / "prefix")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(slam LANGUAGES CXX)\n"
        "find_package(bindesc REQUIRED)\n"
        f'add_library(slam SHARED "{ROOT / "tests" / "cpp_extractor.cpp"}")\n'
        "target_link_libraries(slam PRIVATE bindesc::bindesc)\n"
        'file(WRITE main.cpp "")\n'
        "add_executable(program main.cpp)\n"
        "target_link_libraries(program PRIVATE -Wl,--no-as-needed slam)\n"
    )
    out = tmp_path / "build"
    flags = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", "-DCMAKE_CXX_FLAGS=-std=c++11"
    call(CMAKE, "-S", tmp_path, "-B", out, *flags)
    call(CMAKE, "--build", out)
    keypoints = [cv2.KeyPoint(20, 20, 31, 0)]
    image = np.arange(1600, dtype=np.uint8).reshape(40, 40)
    codes, _, _ = describe(out / "program", model[1], image, keypoints)
    expected = describe(build / "cpp_extractor", model[1], image, keypoints)[0]
    assert (codes == expected).all()


def test_no_keypoints(program, model):
    codes, matches, total = describe(program, model[1], np.zeros((9, 9), np.uint8), [])
    assert codes.shape == (0, 32) and matches == 0 and total == 0


needs_opencv = pytest.mark.skipif(not HAS_OPENCV, reason="no OpenCV for C++ (libopencv-dev)")


ORB = {
    "nfeatures": 500,
    "scaleFactor": 1.2,
    "nlevels": 8,
    "edgeThreshold": 31,
    "firstLevel": 0,
    "scoreType": cv2.ORB_HARRIS_SCORE,
    "patchSize": 31,
    "fastThreshold": 20,
}


def run_opencv(build, path, folder, pixels, mask=None, subpixel=True, **orb):
    """Places, sizes and angles, and codes."""
    image, mask_file, out = folder / "image.png", folder / "mask.png", folder / "out"
    cv2.imwrite(str(image), pixels)
    if mask is not None:
        cv2.imwrite(str(mask_file), mask)
    options = (ORB | orb).values()
    mask_text = "" if mask is None else mask_file
    call(build / "cpp_opencv", path, image, mask_text, int(subpixel), out, *options)
    return np.frombuffer(out.read_bytes(), np.dtype([("place", "<f4", 4), ("code", "u1", 32)]))


@needs_opencv
@pytest.mark.parametrize(
    "orb",
    [
        {"nfeatures": 1500},
        {"nfeatures": 7},
        {"nfeatures": 1000, "scoreType": cv2.ORB_FAST_SCORE},
        {"scaleFactor": 1.5, "nlevels": 4, "fastThreshold": 7},
        {"firstLevel": 2, "edgeThreshold": 19},
        {"patchSize": 23, "nlevels": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_opencv_interface_gives_what_python_gives(build, model, tmp_path, orb, masked):
    name, path = model
    pixels = skimage.data.astronaut()[3:, :-6, ::-1]
    mask = None
    if masked:
        mask = np.random.default_rng(0).integers(0, 3, pixels.shape[:2]).astype(np.uint8)
        mask[:200] = 1
    for subpixel in (True, False):
        found = run_opencv(build, path, tmp_path, pixels, mask, subpixel, **orb)
        detector = bindesc.create(cv2.ORB.create(**(ORB | orb)), name, subpixel=subpixel)
        keypoints, codes = detector.detectAndCompute(pixels, mask)
        places = np.array([[*k.pt, k.size, k.angle] for k in keypoints], np.float32)
        assert len(places) > 5 and (found["place"] == places).all()
        assert (found["code"] == codes).all()


@needs_opencv
@pytest.mark.parametrize("subpixel", [True, False])
@pytest.mark.parametrize("count", [300, 100_000])
def test_opencv_interface_gives_the_corners_of_fast(build, model, tmp_path, subpixel, count):
    name, path = model
    pixels = skimage.data.astronaut()[3:, :-6, ::-1]
    orb = {"nfeatures": count, "nlevels": 0, "fastThreshold": 10}
    found = run_opencv(build, path, tmp_path, pixels, subpixel=subpixel, **orb)
    fast = cv2.FastFeatureDetector.create(10)
    detector = bindesc.create(fast, name, count, subpixel=subpixel)
    keypoints, codes = detector.detectAndCompute(pixels, None)
    places = np.array([[*k.pt, k.size, k.angle] for k in keypoints], np.float32)
    assert len(places) >= 300 and (found["place"] == places).all()
    assert (found["code"] == codes).all()


@needs_opencv
@pytest.mark.parametrize("side", [1, 7, 64])
def test_opencv_interface_of_images_without_keypoints(build, model, tmp_path, side):
    assert len(run_opencv(build, model[1], tmp_path, np.zeros((side, side), np.uint8))) == 0


@needs_opencv
def test_opencv_interface_refuses_what_it_cannot_use(build, model, tmp_path):
    out = tmp_path / "out"
    options = "1", out, *map(str, ORB.values())
    cv2.imwrite(str(tmp_path / "a.png"), skimage.data.astronaut())
    cv2.imwrite(str(tmp_path / "mask.png"), np.ones((10, 10), np.uint8))
    wrong = refuse(
        build / "cpp_opencv", model[1], tmp_path / "a.png", tmp_path / "mask.png", *options
    )
    assert "mask: expected CV_8UC1 of the image's size" in wrong
    call(build / "cpp_opencv", model[1], tmp_path / "missing", "", *options)  # an empty image
    assert out.read_bytes() == b""


@needs_opencv
def test_the_example_matches_two_photos(build, model, tmp_path):
    photo = skimage.data.astronaut()[..., ::-1]
    turned = cv2.warpAffine(photo, cv2.getRotationMatrix2D((256, 256), 20, 0.9), (512, 512))
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path, image in zip(paths, (photo, turned), strict=True):
        cv2.imwrite(str(path), image)
    lines = call(build / "bindesc" / "example", model[1], *paths, tmp_path / "out.png").splitlines()
    assert int(lines[3].split()[0]) > 300
    assert cv2.imread(str(tmp_path / "out.png")).shape == (512, 1024, 3)


def refuse(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr


def test_damaged_and_missing_files_are_refused(program, tmp_path):
    path = tmp_path / "model"
    export_cpp("tiny", path)
    whole = path.read_bytes()
    describe(program, path, np.zeros((9, 9), np.uint8), [])
    rest = tmp_path / "input", tmp_path / "output", "1", "1"

    assert "cannot be read" in refuse(program, tmp_path / "missing", *rest)
    assert str(tmp_path) in refuse(program, tmp_path, *rest)
    for end in (0, 7, 8, 11, 40, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert str(path) in refuse(program, path, *rest)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    path.write_bytes(changed)
    assert "damaged" in refuse(program, path, *rest)
    path.write_bytes(b"bindesc1" + whole[8:])
    assert "this version" in refuse(program, path, *rest)


@pytest.mark.parametrize("cut", [20, 40, 1000])
def test_what_does_not_fit_is_refused_too(program, tmp_path, cut):
    path = tmp_path / "model"
    export_cpp("tiny", path)
    describe(program, path, np.zeros((9, 9), np.uint8), [])
    whole = path.read_bytes()[:-4]
    rest = tmp_path / "input", tmp_path / "output", "1", "1"
    for data in (whole[:cut], whole[:20] + b"\xff" * 8 + whole[28:], whole + b"\0" * cut):
        path.write_bytes(data + struct.pack("<I", zlib.crc32(data)))
        assert str(path) in refuse(program, path, *rest)


def test_wrong_images_and_keypoints_are_refused(program, model):
    _, path = model
    describe(program, path, np.zeros((9, 9), np.uint8), [cv2.KeyPoint(1, 1, 31, 0)])
    source, out = path.parent / "input", path.parent / "output"
    whole = source.read_bytes()
    assert "scale" in refuse(program, path, source, out, "0", "1")
    assert "threads" in refuse(program, path, source, out, "1", "-1")
    source.write_bytes(struct.pack("<4q", 0, 9, 9, 1) + whole[32:])
    assert "image" in refuse(program, path, source, out, "1", "1")
    source.write_bytes(struct.pack("<4q", 9, 9, 8, 1) + whole[32:])
    assert "image" in refuse(program, path, source, out, "1", "1")
    for values in ((np.nan, 1, 31, 0), (1, np.inf, 31, 0), (1, 1, -31, 0), (1, 1, 31, np.nan)):
        source.write_bytes(whole[:-16] + struct.pack("<4f", *values))
        assert "keypoints" in refuse(program, path, source, out, "1", "1")


def test_the_command_writes_the_file(tmp_path, capsys):
    path, expected = tmp_path / "compact.bindesc", tmp_path / "expected"
    assert main(["export", "compact", "--cpp", str(path)]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    export_cpp("compact", expected)
    assert path.read_bytes() == expected.read_bytes() and path.stat().st_size < 5e5


def test_the_command_writes_nothing_of_a_model_that_it_cannot_write_all_of(tmp_path, capsys):
    files = "--onnx", str(tmp_path / "a.onnx"), "--cpp", str(tmp_path / "b")
    assert main(["export", "bingan-256", *files]) == 2
    assert "floating point" in capsys.readouterr().err
    assert main(["export", "compact"]) == 2
    assert "--onnx or --cpp" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_floating_point_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="floating point"):
        export_cpp("bingan-256", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
