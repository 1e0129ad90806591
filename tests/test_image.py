from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import png_header, textured, turned_by_exif

from bindesc.image import _LOGGING, ImageError, check_mask, read_image, resize_to, to_gray

SUFFIXES = ("jpg", "png", "tiff", "webp", "bmp", "ppm")


def written(path: Path, image: np.ndarray, *flags: int) -> Path:
    assert cv2.imwrite(str(path), image, flags)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reads_colour_and_grey_in_every_format(tmp_path: Path, suffix: str) -> None:
    image = textured()
    pixels = read_image(written(tmp_path / f"a.{suffix}", image))
    assert pixels.shape == image.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - image).mean() < (4 if suffix in ("jpg", "webp") else 1e-9)
    if suffix != "webp":  # which has no grey
        grey = written(tmp_path / f"grey.{suffix}".replace("ppm", "pgm"), image[:, :, 0])
        assert read_image(grey).shape == image.shape[:2]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused_silently(
    tmp_path: Path, suffix: str, kept: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / f"a.{suffix}", textured())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ImageError, match=r"a\.\w+: .*(truncated|damaged)"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_refused_silently_in_several_threads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good, bad = (written(tmp_path / f"{name}.png", textured(400, 400)) for name in ("good", "bad"))
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 255
    bad.write_bytes(data)
    level = _LOGGING.getLogLevel()

    def read(path: Path) -> bool:
        try:
            return read_image(path).size > 0
        except ImageError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, [good, bad] * 20)) == [True, False] * 20
    assert capfd.readouterr() == ("", "")
    assert _LOGGING.getLogLevel() == level


def test_every_cut_of_a_jpeg_is_refused(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jpg",
        textured(32, 32),
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        1,
        cv2.IMWRITE_JPEG_RST_INTERVAL,
        2,
    )
    data = path.read_bytes()
    assert read_image(path).shape == (32, 32, 3)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError):
            read_image(path)


def test_png_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", textured())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="checksum"):
        read_image(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("a text file\n")
    (tmp_path / "empty.png").touch()
    for name, reason in (
        ("missing.jpg", "no such file"),
        ("", "is a folder"),
        ("text.jpg", "not an image in a known format"),
        ("empty.png", "is empty"),
        ("empty.png/below.png", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=reason) as error:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_promise_of_too_many_pixels_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(30_000, 20_000))
    tracemalloc.start()
    with pytest.raises(ImageError, match="30000 x 20000 pixels"):
        read_image(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    small = written(tmp_path / "small.png", textured(100, 200))
    assert read_image(small, max_pixels=20_000).shape == (100, 200, 3)
    with pytest.raises(ImageError, match="limit of 19,999 pixels"):
        read_image(small, max_pixels=19_999)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled_to_8(tmp_path: Path, suffix: str) -> None:
    image = textured()
    path = written(tmp_path / f"a.{suffix}", image.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), image)


def test_16_bits_of_narrow_range_are_refused(tmp_path: Path) -> None:
    thermal = textured()[:, :, 0].astype(np.uint16) + 7000
    with pytest.raises(ImageError, match="16-bit values that span only 7"):
        read_image(written(tmp_path / "thermal.png", thermal))


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tiff", textured().astype(np.float32) / 255)
    with pytest.raises(ImageError, match="float32 pixels"):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "white"),
    [("P5", white) for white in (15, 100, 255, 1023, 4095, 65535)]
    + [("P2", white) for white in (255, 1023, 4095, 65535)],
)
def test_values_of_a_pgm_are_of_what_its_header_calls_white(
    tmp_path: Path, white: int, kind: str
) -> None:
    values = np.linspace(0, white, 300).round().astype(int).reshape(10, 30)
    data = f"{kind}\n# of a camera\n30 10\n{white}\n".encode()
    if kind == "P5":
        data += values.astype(np.uint8 if white < 256 else ">u2").tobytes()
    else:
        data += "\n".join(map(str, values.ravel())).encode() + b"\n\n"
    (tmp_path / "a.pgm").write_bytes(data)
    expected = values * 255 / white
    assert np.abs(read_image(tmp_path / "a.pgm") - expected).max() <= 0.5


@pytest.mark.parametrize("kind", [b"P1", b"P4"])
def test_pixels_of_a_bitmap_are_not_taken_for_numbers(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.pbm"
    pixels = b"1" * 640 * 480 + b"\n\n" if kind == b"P1" else b"3" * 80 * 480
    path.write_bytes(kind + b"\n640 480\n" + pixels)
    assert read_image(path).shape[:2] == (480, 640)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = textured(60, 100)
    path = written(tmp_path / "a.jpg", image, cv2.IMWRITE_JPEG_QUALITY, 100)
    path.write_bytes(turned_by_exif(path.read_bytes()))
    pixels = read_image(path)
    assert pixels.shape == (100, 60, 3)
    assert np.abs(pixels.astype(int) - np.rot90(image, -1)).mean() < 8
    assert (read_image(path, oriented=False) == np.rot90(pixels)).all()


def test_to_gray_accepts_what_opencv_accepts() -> None:
    image = textured()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    alpha = np.dstack([image, grey])
    for accepted in (
        image,
        alpha,
        grey,
        grey[:, :, None],
        cv2.UMat(image),
        np.asfortranarray(image),
    ):
        result = to_gray(accepted)
        np.testing.assert_array_equal(result, grey)
        assert result.flags.c_contiguous
    assert np.shares_memory(to_gray(grey), grey)
    assert to_gray(np.zeros((1, 1), np.uint8)).shape == (1, 1)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 4), np.float32), "expected uint8 values in 0..255, got float32"),
        (np.full((4, 4), np.nan), "got float64"),
        (np.zeros((4, 4), np.uint16), "got uint16"),
        (np.zeros((4, 4), np.bool_), "got bool"),
        (np.zeros((4, 4, 2), np.uint8), r"got \(4, 4, 2\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got \(1, 4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), "has no pixels"),
        (None, "expected an array, got NoneType"),
        ([[1, 2]], "expected an array, got list"),
    ],
)
def test_to_gray_names_the_argument_and_the_reason(image: object, reason: str) -> None:
    with pytest.raises(ImageError, match="^frame: .*" + reason):
        to_gray(image, "frame")


def test_any_nonzero_of_a_mask_is_valid() -> None:
    grey = np.zeros((3, 4), np.uint8)
    valid = np.zeros((3, 4), np.bool_)
    valid[1, 2] = True
    expected = np.where(valid, 255, 0)
    masks = (valid, valid.astype(np.uint8), valid * 7, valid[:, :, None], -valid.astype(np.int64))
    for mask in (*masks, cv2.UMat(valid.astype(np.uint8))):
        result = check_mask(mask, grey)
        assert result is not None
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected)
    assert check_mask(None, grey) is None


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.ones((4, 3), np.uint8), r"expected the image's shape \(3, 4\), got \(4, 3\)"),
        (np.ones((3, 4, 3), np.uint8), r"got \(3, 4, 3\)"),
        (np.full((3, 4), np.nan), "expected bool or integers, got float64"),
        (1, "expected an array, got int"),
    ],
)
def test_unusable_mask_is_refused(mask: object, reason: str) -> None:
    with pytest.raises(ImageError, match="^mask: .*" + reason):
        check_mask(mask, np.zeros((3, 4), np.uint8))


def test_resize_only_shrinks() -> None:
    image = textured(120, 200)
    assert resize_to(image, 200) is image
    assert resize_to(image, 1000) is image
    assert resize_to(image, 100).shape == (60, 100, 3)
    assert resize_to(image[:, :, 0], 50).shape == (30, 50)
    assert resize_to(np.zeros((1, 500), np.uint8), 10).shape == (1, 10)
    with pytest.raises(ImageError, match="long_side: expected at least 1"):
        resize_to(image, 0)
