import json
import pickle
import threading
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import textured_gray

import bindesc
from bindesc.image import ImageError
from bindesc.packing import unpack_bits


@pytest.fixture(scope="module")
def extractor():
    return bindesc.create(nfeatures=200)


def test_orb_can_be_replaced_in_one_line(extractor):
    keypoints, descriptors = extractor.detectAndCompute(textured_gray(240, 320), None)
    assert isinstance(keypoints, tuple)
    assert isinstance(keypoints[0], cv2.KeyPoint)
    assert descriptors.shape == (len(keypoints), 32)
    assert descriptors.dtype == np.uint8
    matches = cv2.BFMatcher(extractor.defaultNorm()).match(descriptors, descriptors)
    assert all(m.queryIdx == m.trainIdx and m.distance == 0 for m in matches)
    assert extractor.descriptorSize() == 32
    assert extractor.descriptorType() == cv2.CV_8U
    assert extractor.getDefaultName() == "Feature2D.BinDesc"
    assert not extractor.empty()


def test_detect_then_compute_is_detect_and_compute(extractor):
    image = textured_gray(240, 320)
    both, expected = extractor.detectAndCompute(image, None)
    keypoints, descriptors = extractor.compute(image, extractor.detect(image))
    assert [k.pt for k in keypoints] == [k.pt for k in both]
    assert (descriptors == expected).all()


def test_lists_of_images(extractor):
    images = [textured_gray(240, 320), np.zeros((50, 60), np.uint8), textured_gray(100, 150)]
    detected = extractor.detect(images)
    keypoints, descriptors = extractor.compute(images, detected)
    assert len(detected) == len(keypoints) == len(descriptors) == 3
    assert descriptors[1] is None
    for image, codes in zip(images, descriptors, strict=True):
        alone = extractor.detectAndCompute(image, None)[1]
        assert codes is alone or (codes == alone).all()


@pytest.mark.parametrize("detector", ["orb", "fast", "sift", cv2.ORB.create(200)])
def test_a_batch_of_unequal_images_equals_one_by_one(detector):
    extractor = bindesc.create(detector, nfeatures=200)
    images = [textured_gray(240, 320), np.zeros((50, 60), np.uint8), textured_gray(100, 150)] * 3
    for image, features in zip(images, extractor.extract_batch(images), strict=True):
        alone = extractor.extract(image)
        assert features.image_size == (image.shape[1], image.shape[0])
        assert len(features) == len(alone)
        assert (features.xy == alone.xy).all()
        assert (features.descriptors == alone.descriptors).all()
    assert len(extractor.extract_batch([])) == 0


def test_a_detector_of_your_own_works_on_one_image_at_a_time():
    class Alone:
        def __init__(self):
            self.busy = threading.Lock()

        def detect(self, image, mask):
            assert self.busy.acquire(blocking=False)
            time.sleep(0.01)
            self.busy.release()
            return cv2.FastFeatureDetector.create().detect(image, mask)

    extractor = bindesc.create(Alone(), nfeatures=50, scale_factor=5.0)
    assert all(len(f) > 20 for f in extractor.extract_batch([textured_gray(90, 90)] * 4))


def test_a_bad_image_of_a_batch_is_refused(extractor):
    with pytest.raises(ImageError):
        extractor.extract_batch([textured_gray(90, 90), np.zeros((9, 9), np.uint16)] * 2)


@pytest.mark.parametrize("image", [np.zeros((1, 1)), np.zeros((200, 300)), np.full((5, 400), 255)])
def test_no_keypoints_give_none(extractor, image):
    image = image.astype(np.uint8)
    assert extractor.detectAndCompute(image, None) == ((), None)
    assert extractor.extract(image).descriptors.shape == (0, 32)


def test_colour_alpha_and_umat_give_the_same_as_grey(extractor):
    gray = textured_gray(240, 320)
    expected = extractor.detectAndCompute(gray, None)[1]
    for image in (
        cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR),
        cv2.cvtColor(gray, cv2.COLOR_GRAY2BGRA),
        cv2.UMat(gray),
        np.asfortranarray(gray),
    ):
        assert (extractor.detectAndCompute(image, None)[1] == expected).all()


def test_any_nonzero_value_of_a_mask_is_valid(extractor):
    image = textured_gray(240, 320)
    mask = np.zeros((240, 320), np.uint8)
    mask[:, 160:] = 1
    keypoints = extractor.detect(image, mask)
    assert len(keypoints) > 0
    assert min(k.pt[0] for k in keypoints) >= 159


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint16),
        np.full((10, 10), np.nan),
        np.zeros((0, 10), np.uint8),
        np.zeros((4, 10, 10, 3), np.uint8),
        "photo.jpg",
    ],
)
def test_bad_images_are_refused(extractor, image):
    with pytest.raises((ImageError, TypeError)):
        extractor.detectAndCompute(image, None)


def test_a_mask_of_another_size_is_refused(extractor):
    with pytest.raises(ImageError, match="mask"):
        extractor.detect(textured_gray(50, 50), np.ones((50, 51), np.uint8))


def test_provided_keypoints_are_sent_to_compute(extractor):
    with pytest.raises(ValueError, match="compute"):
        extractor.detectAndCompute(textured_gray(50, 50), None, None, True)


def test_pickle_write_and_read(tmp_path, extractor):
    image = textured_gray(240, 320)
    expected = extractor.detectAndCompute(image, None)[1]
    extractor.write(tmp_path / "parameters.json")
    other = bindesc.create("fast", nfeatures=9, border="drop")
    other.read(tmp_path / "parameters.json")
    for copy in (other, pickle.loads(pickle.dumps(extractor))):
        assert copy.settings == extractor.settings
        assert (copy.detectAndCompute(image, None)[1] == expected).all()


def test_parameters_of_something_else_are_refused(tmp_path, extractor):
    for text in ("{", '{"scale": 2}', "[]"):
        (tmp_path / "parameters.json").write_text(text)
        with pytest.raises(ValueError, match=r"parameters\.json"):
            extractor.read(tmp_path / "parameters.json")


@pytest.mark.parametrize(
    "changed",
    [
        {"nfeatures": 0},
        {"nfeatures": 1 << 40},
        {"nfeatures": "9"},
        {"detector": "surf"},
        {"detector": "custom"},
        {"scale_factor": -1},
        {"scale_factor": "1"},
        {"border": "wrap"},
        {"even": "no"},
        {"subpixel": 1},
        {"model": "nonsense"},
    ],
    ids=str,
)
def test_what_cannot_be_read_changes_nothing(changed, tmp_path, extractor):
    extractor.write(tmp_path / "parameters.json")
    values = json.loads((tmp_path / "parameters.json").read_text())
    (tmp_path / "parameters.json").write_text(json.dumps(values | changed))
    other = bindesc.create("fast", nfeatures=9)
    before = other.settings
    with pytest.raises(ValueError):
        other.read(tmp_path / "parameters.json")
    assert other.settings == before
    assert len(other.detect(textured_gray(200, 200))) == 9


def test_a_wrong_count_changes_nothing(extractor):
    for count in (0, 1 << 33):
        with pytest.raises(ValueError, match="nfeatures"):
            extractor.setMaxFeatures(count)
        assert extractor.getMaxFeatures() == 200
    extractor.setMaxFeatures(np.int64(200))


@pytest.mark.parametrize("detector", ["orb", "fast", "sift"])
def test_keypoints_whose_size_says_nothing(detector):
    gray = textured_gray(200, 200)
    extractor = bindesc.create(detector)
    points = [[60.0, 70.0], [120.5, 90.25]]
    scale = extractor.settings.scale_factor
    expected = extractor.compute(gray, cv2.KeyPoint.convert(points, size=31 / scale))[1]
    for size in (0.0, 1.0, 7.9 / scale):
        keypoints = [cv2.KeyPoint(*point, size) for point in points]
        same, codes = extractor.compute(gray, keypoints)
        assert same == tuple(keypoints)
        assert (codes == expected).all()
    other = extractor.compute(gray, cv2.KeyPoint.convert(points, size=8.5 / scale))[1]
    assert (other != expected).any()


def test_no_keypoints_are_described_as_none(extractor):
    gray = textured_gray(50, 50)
    for none in (None, [], ()):
        assert extractor.compute(gray, none) == ((), None)
    with pytest.raises(ValueError, match="keypoints: 1 for 2 images"):
        extractor.compute([gray, gray], [[]])


def test_a_batch_by_a_detector_that_serves_one_thread(opencv_threads):
    opencv_threads(4)
    extractor = bindesc.create(cv2.MSER.create(), scale_factor=1.0)  # crashes in several
    images = [textured_gray(200, 200 + i) for i in range(8)]
    for image, features in zip(images, extractor.extract_batch(images), strict=True):
        assert (features.xy == extractor.extract(image).xy).all()


@pytest.mark.parametrize("detector", ["orb", "fast", "sift", cv2.ORB.create(1000)])
@pytest.mark.parametrize("even", [False, True])
def test_at_most_nfeatures_keypoints(detector, even):
    extractor = bindesc.create(detector, nfeatures=30, even=even)
    assert 0 < len(extractor.detect(textured_gray(240, 320))) <= 30
    extractor.setMaxFeatures(10)
    assert extractor.getMaxFeatures() == 10
    assert 0 < len(extractor.detect(textured_gray(240, 320))) <= 10


def test_a_fast_object_gets_an_orientation_too():
    gray = textured_gray(200, 200)
    own = bindesc.create(cv2.FastFeatureDetector.create(), nfeatures=100)
    named = bindesc.create("fast", nfeatures=100)
    assert (named.extract(gray).angle == own.extract(gray).angle).all()
    assert (named.extract(gray).descriptors == own.extract(gray).descriptors).all()


def test_a_foreign_detector_keeps_its_keypoints():
    class FasterCorners:
        def detect(self, image, mask):
            return [cv2.KeyPoint(50.4, 60.3, 7)]

    extractor = bindesc.create(FasterCorners())
    (keypoint,) = extractor.detect(textured_gray(200, 200))
    assert keypoint.angle == -1
    assert np.allclose(keypoint.pt, (50.4, 60.3))


def test_even_needs_to_know_how_many_of_an_object():
    with pytest.raises(ValueError, match=r"even: .*nfeatures"):
        bindesc.create(cv2.ORB.create(1000), even=True)
    spread = bindesc.create(cv2.ORB.create(4000), nfeatures=100, even=True)
    assert len(spread.detect(textured_gray())) == 100


def test_a_number_in_the_place_of_the_detector():
    with pytest.raises(ValueError, match="number of keypoints is nfeatures"):
        bindesc.create(1000)


@pytest.mark.parametrize("scale_factor", [0.1, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("detector", ["orb", "fast"])
def test_all_ways_to_describe_agree(detector, scale_factor):
    gray = textured_gray(200, 200)
    extractor = bindesc.create(detector, scale_factor=scale_factor)
    _, codes = extractor.detectAndCompute(gray, None)
    features = extractor.extract(gray)
    assert (features.descriptors == codes).all()
    assert (extractor.compute(gray, extractor.detect(gray))[1] == codes).all()
    again = extractor.compute(gray, features.keypoints())[1]
    assert (again == codes).all()


def test_features_as_keypoints_of_opencv():
    gray = textured_gray(200, 200)
    extractor = bindesc.create()
    for a, b in zip(extractor.detect(gray), extractor.extract(gray).keypoints(), strict=True):
        assert (a.pt, a.size, a.angle, a.response) == (b.pt, b.size, b.angle, b.response)
    assert extractor.extract(np.zeros((9, 9), np.uint8)).keypoints() == ()


def test_errors_of_a_batch_say_which_image():
    extractor = bindesc.create()
    gray = textured_gray(50, 50)
    with pytest.raises(ImageError, match=r"images\[1\]: .* NoneType; cv2.imread"):
        extractor.extract_batch([gray, None])
    with pytest.raises(ImageError, match=r"masks\[1\]: expected the image's shape"):
        extractor.extract_batch([gray, gray], [None, gray[1:]])
    with pytest.raises(ImageError, match=r"^image: "):
        extractor.extract(None)


def test_a_device_that_is_not_there_is_a_value_error():
    for device in ("cuda:77", "nowhere", "meta"):
        with pytest.raises(ValueError, match=f"device: '{device}' cannot be used"):
            bindesc.create(device=device)


def test_a_detector_object_has_its_own_limit():
    gray = np.random.default_rng(0).integers(0, 256, (240, 320)).astype(np.uint8)
    for count in (100, 900):
        detector = cv2.ORB.create(count)
        assert len(bindesc.create(detector).detect(gray)) == len(detector.detect(gray))
        assert bindesc.create(detector).getMaxFeatures() == count
    assert len(bindesc.create(detector, nfeatures=300).detect(gray)) == 300
    fast = cv2.FastFeatureDetector.create()
    assert len(bindesc.create(fast).detect(gray)) == len(fast.detect(gray)) > 500
    assert len(bindesc.create("fast").detect(gray)) == 500
    unlimited = cv2.GFTTDetector.create(0)
    found = bindesc.create(unlimited, scale_factor=1.0).detect(gray)
    assert len(found) == len(unlimited.detect(gray)) > 0


@pytest.mark.parametrize(
    "detector", ["fast", cv2.FastFeatureDetector.create()], ids=["fast", "own"]
)
def test_corners_lie_on_whole_pixels_only_on_request(detector):
    gray = textured_gray(200, 200)
    exact = bindesc.create(detector).extract(gray).xy
    whole = bindesc.create(detector, subpixel=False).extract(gray).xy
    assert (whole == np.rint(whole)).all()
    assert (exact != whole).any(axis=1).mean() > 0.8
    assert np.linalg.norm(exact - whole, axis=1).max() < 1


def test_fast_keypoints_get_an_orientation():
    keypoints = bindesc.create("fast").detect(textured_gray(200, 200))
    assert len({k.angle for k in keypoints}) > len(keypoints) // 2
    assert all(0 <= k.angle < 360 for k in keypoints)


def test_a_custom_detector_is_used_but_cannot_be_stored(tmp_path):
    extractor = bindesc.create(cv2.FastFeatureDetector.create(30))
    assert extractor.settings.scale_factor == 5.0
    with pytest.raises(ValueError, match="detector"):
        pickle.dumps(extractor)
    with pytest.raises(ValueError, match="detector"):
        extractor.write(tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detector": "surf"}, "detector"),
        ({"detector": object()}, "detector"),
        ({"detector": cv2.GFTTDetector.create()}, "scale_factor"),
        ({"model": "nonsense"}, "model"),
        ({"model": "images-64"}, "whole images"),
        ({"nfeatures": 0}, "nfeatures"),
        ({"nfeatures": 2.5}, "nfeatures"),
        ({"detector": "custom", "scale_factor": 1.0}, "detector"),
        ({"scale_factor": -1}, "scale_factor"),
        ({"border": "wrap"}, "border"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bindesc.create(**options)


def test_several_threads_get_the_same_bytes(extractor):
    images = [textured_gray(200, 200 + 10 * i) for i in range(4)]
    expected = [extractor.extract(image).descriptors for image in images]
    found = [None] * 8

    def work(i):
        found[i] = extractor.extract(images[i % 4]).descriptors

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((found[i] == expected[i % 4]).all() for i in range(8))


@settings(max_examples=20, deadline=None)
@given(turn=st.floats(0, 360))
def test_descriptors_of_carried_keypoints_survive_any_rotation(extractor, turn):
    gray = cv2.GaussianBlur(textured_gray(300, 300), (0, 0), 1.5)
    matrix = cv2.getRotationMatrix2D((149.5, 149.5), -turn, 1)
    turned = cv2.warpAffine(gray, matrix, (300, 300), flags=cv2.INTER_CUBIC)
    mask = np.zeros_like(gray)
    cv2.circle(mask, (150, 150), 90, 255, -1)
    keypoints = extractor.detect(gray, mask)
    carried = []
    for k in keypoints:
        x, y = matrix @ (*k.pt, 1)
        carried.append(cv2.KeyPoint(x, y, k.size, (k.angle + turn) % 360))
    before, after = (extractor.compute(i, k)[1] for i, k in ((gray, keypoints), (turned, carried)))
    changed = unpack_bits(before ^ after).sum(axis=1)
    assert np.median(changed) < 40
    # Far below what unrelated points are apart.
    assert np.median(changed) < 0.5 * np.median(unpack_bits(before ^ np.roll(after, 1, 0)).sum(1))
