#include "cpu_sample.h"

#include <algorithm>

#include "cpu_kernels.h"
#include "cpu_parallel.h"
#include "cpu_sample_point.h"

namespace bindesc {
namespace {

// The coordinates of one patch's samples; see SampleGrid.
class Coordinates {
 public:
  explicit Coordinates(int side)
      : side_(side),
        wide_((side + kSampleLanes - 1) / kSampleLanes * kSampleLanes),
        narrow_(static_cast<size_t>(2 * (wide_ + side))) {
    for (auto* axis : {&column_, &row_}) {
      for (std::vector<int64_t>& values : *axis) values.resize(static_cast<size_t>(side));
    }
  }

  // Products of a float and a half-integer of at most 11 bits are exact in double, so that a
  // fused multiply-add makes no difference.
  void set(const float* affine) {
    for (int axis = 0; axis < 2; ++axis, affine += 3) {
      for (int i = 0; i < side_; ++i) {
        const double offset = i - (side_ - 1) * 0.5;
        const auto at = static_cast<size_t>(i);
        column_[axis][at] = fixed(affine[0] * offset);
        row_[axis][at] = fixed(affine[1] * offset + affine[2]) + kHalfWeight;
      }
    }
  }

  // Whether a kernel may read what all samples need.
  bool inside(const Image& image) const {
    constexpr int64_t kWidest = INT16_MAX;
    return image.width <= kWidest && image.height <= kWidest && lies(0, image.width - 2) &&
           lies(1, image.height - 3);  // the last row's words would reach over the end
  }

  SampleGrid grid(const Image& image) {
    int32_t* out = narrow_.data();
    int32_t* start[4];
    for (int axis = 0; axis < 2; ++axis) {
      start[axis] = out;
      out = std::copy(column_[axis].begin(), column_[axis].end(), out);
      out = std::fill_n(out, wide_ - side_, static_cast<int32_t>(column_[axis].back()));
      start[2 + axis] = out;
      out = std::copy(row_[axis].begin(), row_[axis].end(), out);
    }
    return {image.data, static_cast<int>(image.width), start[0], start[1], start[2], start[3],
            side_};
  }

  // Any patch, sample by sample.
  void sample_each(const Image& image, uint8_t* out) const {
    for (size_t v = 0; v < row_[0].size(); ++v) {
      for (size_t u = 0; u < column_[0].size(); ++u) {
        *out++ = sample_mirrored(image, column_[0][u] + row_[0][v], column_[1][u] + row_[1][v]);
      }
    }
  }

 private:
  bool lies(int axis, int64_t highest) const {
    const auto [low_u, high_u] = std::minmax(column_[axis].front(), column_[axis].back());
    const auto [low_v, high_v] = std::minmax(row_[axis].front(), row_[axis].back());
    return low_u + low_v >= 0 && (high_u + high_v) >> kPointBits <= highest;
  }

  int side_, wide_;
  std::vector<int64_t> column_[2], row_[2];  // of x and y
  std::vector<int32_t> narrow_;              // the same for a kernel
};

}  // namespace

bool sample_patches(const Kernel& kernel, const std::vector<Image>& levels,
                    const PatchPlaces& places, int threads, Stop& stop, uint8_t* out) {
  return parallel_groups<Coordinates>(
      places.count, kTaskPatches, threads, stop, [&] { return Coordinates(places.side); },
      [&](Coordinates& coordinates, int64_t first, int some) {
        for (int64_t i = first; i < first + some; ++i) {
          const Image& image = levels[static_cast<size_t>(places.level[i])];
          uint8_t* patch = out + i * places.side * places.side;
          coordinates.set(places.affine + 6 * i);
          if (coordinates.inside(image)) {
            kernel.sample(coordinates.grid(image), patch);
          } else {
            coordinates.sample_each(image, patch);
          }
        }
      });
}

}  // namespace bindesc
