// bindesc for C++ programs: codes of keypoints, their matching, and corners between the pixels.
//
// It needs nothing but this library and a model file, which `bindesc export compact --cpp FILE`
// writes. The codes are those of Python's `compute`, byte for byte.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hamming.h"

namespace bindesc {

// 8-bit grey pixels. The centre of the first one is (0, 0). Not owned.
struct GrayImage {
  const uint8_t* data;
  int64_t width, height;
  int64_t row_bytes;  // from one row to the next, at least `width`
};

// A keypoint as OpenCV's detectors give it.
struct KeyPoint {
  float x, y;   // pixels
  float size;   // diameter, pixels
  float angle;  // degrees, clockwise; negative means upright
};

// The side of the described patch over KeyPoint::size, by what each detector reports as size: 31
// pixels for ORB's finest level, but 7 for a FAST corner, whose patch should be as large.
constexpr double kOrbScale = 1.0, kFastScale = 5.0, kAkazeScale = 5.0, kSiftScale = 6.75;

// Describes keypoints. compute() may be called from several threads at a time. One that was moved
// from must not be used.
class Extractor {
 public:
  // Throws std::runtime_error if `model` cannot be read, is damaged, or of another version.
  explicit Extractor(const std::string& model);
  ~Extractor();
  Extractor(Extractor&&) noexcept;
  Extractor& operator=(Extractor&&) noexcept;

  int bytes() const;  // of a code: 32

  // The codes of keypoints, bytes() each, in their order. One whose patch would be less than 8
  // pixels wide is taken for one of ORB's finest level, 31 pixels. `threads` 0 is one for each
  // core. Throws std::invalid_argument if the image has no pixels, or a keypoint has a value that
  // is not finite or no size.
  std::vector<uint8_t> compute(const GrayImage& image, const std::vector<KeyPoint>& keypoints,
                               double scale = kOrbScale, int threads = 0) const;

  // The same of others that have `pt.x`, `pt.y`, `size` and `angle`, such as cv::KeyPoint.
  template <class Other>
  std::vector<uint8_t> compute(const GrayImage& image, const std::vector<Other>& keypoints,
                               double scale = kOrbScale, int threads = 0) const {
    std::vector<KeyPoint> plain;
    for (const Other& k : keypoints) plain.push_back({k.pt.x, k.pt.y, k.size, k.angle});
    return compute(image, plain, scale, threads);
  }

 private:
  struct Model;
  std::unique_ptr<const Model> model_;
};

// The nearest neighbours that pass the filters, see hamming.h. Throws std::invalid_argument if the
// codes differ in width.
Matches match(Codes query, Codes train, const Filters& filters = {}, int threads = 0);

using Pixel = std::array<int32_t, 2>;  // x, y

// How far corners lie from the whole pixels where a detector found them in this image (ORB: in this
// level of its pyramid), less than a pixel in all: {x, y} each.
std::vector<std::array<double, 2>> subpixel_offsets(const GrayImage& image,
                                                    const std::vector<Pixel>& corners);

// The orientation that ORB gives to corners, for those of a detector that gives none, such as FAST:
// the direction to the centroid of brightness of a disc 31 pixels across. Degrees, 0 to 360.
std::vector<float> intensity_centroid(const GrayImage& image, const std::vector<Pixel>& corners);

// The place in an image, along one axis, of a place in a level of its pyramid; their sides are in
// pixels. Resizing makes the images' outlines coincide, not the centres of their first pixels: to
// multiply by a level's nominal scale, as ORB does, is up to 3 pixels off.
inline double from_level(double place, int64_t level_side, int64_t image_side) {
  const double scale = static_cast<double>(image_side) / static_cast<double>(level_side);
  return (place + 0.5) * scale - 0.5;
}

}  // namespace bindesc
