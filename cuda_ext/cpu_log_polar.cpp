#include "cpu_log_polar.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <variant>

#include "cpu_kernels.h"
#include "cpu_parallel.h"
#include "cpu_sample_point.h"

namespace bindesc {
namespace {

constexpr int kMostLevels = 30;
constexpr double kPi = 3.14159265358979323846;

// The level whose pixels come closest to a distance, in pixels.
int nearest_level(double distance) {
  int level = 0;
  for (double limit = std::sqrt(2.0); level < kMostLevels && distance > limit; limit *= 2) ++level;
  return level;
}

// The same for all patches, in float: a product of two is exact in double, so that a fused
// multiply-add makes no difference.
struct Pattern {
  std::array<float, kDirections> cosine, sine;
  std::array<float, kRings> radius;
  std::array<int, kRings> level;  // above that of the first ring

  Pattern() {
    for (int u = 0; u < kDirections; ++u) {
      const double angle = (u + 0.5) * 2 * kPi / kDirections - kPi;
      cosine[static_cast<size_t>(u)] = static_cast<float>(std::cos(angle));
      sine[static_cast<size_t>(u)] = static_cast<float>(std::sin(angle));
    }
    const double growth = -std::log(kInnerRadius) / (kRings - 1);
    const double share = std::sqrt(2 * kPi / kDirections * growth);
    for (int v = 0; v < kRings; ++v) {
      const double distance = std::exp(growth * (v - (kRings - 1)));
      radius[static_cast<size_t>(v)] = static_cast<float>(distance);
      // The mean distance of samples, along the ring and across.
      level[static_cast<size_t>(v)] = nearest_level(kLastRadius * distance * share);
    }
  }
};

const Pattern& pattern() {
  static const Pattern made;
  return made;
}

// The level of the first ring. A stretched circle counts as the round one of its area.
int first_level(const float* affine) {
  const double area = double{affine[0]} * affine[4] - double{affine[1]} * affine[3];
  return nearest_level(std::sqrt(std::abs(area)) / kLastRadius);
}

// Where the samples of one patch lie.
class Rings {
 public:
  explicit Rings(const float* affine) : level_(first_level(affine)) {
    for (int axis = 0; axis < 2; ++axis) {
      const float a = affine[3 * axis], b = affine[3 * axis + 1];
      centre_[axis] = affine[3 * axis + 2];
      for (size_t u = 0; u < kDirections; ++u) {
        direction_[axis][u] = static_cast<float>(double{a} * pattern().cosine[u] +
                                                 double{b} * pattern().sine[u]);
        reach_[axis] = std::max(reach_[axis], std::abs(direction_[axis][u]));
      }
    }
  }

  void sample(const Kernel& kernel, const std::vector<Image>& levels, uint8_t* out) const {
    const auto level_at = [&](int ring) {
      return std::min(level_ + pattern().level[static_cast<size_t>(ring)],
                      static_cast<int>(levels.size()) - 1);
    };
    for (int first = 0, end; first < kRings; first = end) {  // rings on one level
      const int level = level_at(first);
      for (end = first + 1; end < kRings && level_at(end) == level;) ++end;
      sample_level(kernel, levels[static_cast<size_t>(level)], level, first, end,
                   out + first * kDirections);
    }
  }

 private:
  void sample_level(const Kernel& kernel, const Image& image, int level, int first, int end,
                    uint8_t* out) const {
    const float scale = std::ldexp(1.0f, -level);
    float radius[kRings];
    for (int v = first; v < end; ++v) {
      radius[v - first] = pattern().radius[static_cast<size_t>(v)] * scale * (1 << kPointBits);
    }
    const double x = centre_[0] * double{scale}, y = centre_[1] * double{scale};
    const int64_t centre[2] = {fixed(x) + kHalfWeight, fixed(y) + kHalfWeight};
    const double farthest = pattern().radius[static_cast<size_t>(end - 1)] * double{scale};
    if (inside(x, reach_[0] * farthest, image.width - 2) &&
        inside(y, reach_[1] * farthest, image.height - 3) &&  // the last row's words reach over
        image.width <= INT16_MAX && image.height <= INT16_MAX) {
      kernel.sample_log_polar({image.data, static_cast<int>(image.width), direction_[0].data(),
                               direction_[1].data(), radius, static_cast<int32_t>(centre[0]),
                               static_cast<int32_t>(centre[1]), end - first},
                              out);
      return;
    }
    for (int v = 0; v < end - first; ++v) {
      for (size_t u = 0; u < kDirections; ++u) {
        const auto place = [&](int axis) {
          const float offset = radius[v] * direction_[axis][u];
          constexpr double kLimit = kFarthest * (1 << kPointBits);
          const double near = offset < kLimit ? (offset > -kLimit ? offset : -kLimit) : kLimit;
          return centre[axis] + static_cast<int64_t>(std::nearbyint(near));
        };
        *out++ = sample_mirrored(image, place(0), place(1));
      }
    }
  }

  // Whether a kernel may read what samples up to `reach` from `centre` need, a pixel to spare.
  static bool inside(double centre, double reach, int64_t highest) {
    return centre - reach >= 1 && centre + reach <= static_cast<double>(highest - 1);
  }

  int level_;
  double centre_[2];
  float reach_[2] = {0, 0};
  std::array<float, kDirections> direction_[2];
};

}  // namespace

int log_polar_levels(const float* affine) {
  return 1 + first_level(affine) + pattern().level.back();
}

void sample_log_polar(const Kernel& kernel, const std::vector<Image>& levels, const float* affine,
                      uint8_t* out) {
  Rings(affine).sample(kernel, levels, out);
}

bool sample_log_polar(const Kernel& kernel, const std::vector<Image>& levels,
                      const LogPolarPlaces& places, int threads, Stop& stop, uint8_t* out) {
  const auto none = [] { return std::monostate(); };
  return parallel_groups<std::monostate>(
      places.count, kTaskPatches, threads, stop, none,
      [&](std::monostate, int64_t first, int some) {
        for (int64_t i = first; i < first + some; ++i) {
          sample_log_polar(kernel, levels, places.affine + 6 * i, out + i * kRings * kDirections);
        }
      });
}

}  // namespace bindesc
