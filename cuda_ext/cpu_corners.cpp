#include "cpu_corners.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "cpu_mirror.h"

namespace bindesc {
namespace {

// `kCount` kernels of kSide x kSide whole weights.
template <int kCount, int kSide>
struct Kernels {
  static constexpr int kRadius = kSide / 2;
  std::array<std::array<int16_t, kSide * kSide>, kCount> weights{};

  int16_t& at(int kernel, int x, int y) {
    const int index = (y + kRadius) * kSide + x + kRadius;
    return weights[static_cast<size_t>(kernel)][static_cast<size_t>(index)];
  }

  // Calls take(i, sums) for each corner.
  template <class Take>
  void correlate(const Image& image, const Corners& corners, const Take& take) const {
    std::array<int16_t, kSide * kSide> window;
    for (int64_t i = 0; i < corners.count; ++i) {
      const int64_t left = int64_t{corners.xy[2 * i]} - kRadius;
      const int64_t top = int64_t{corners.xy[2 * i + 1]} - kRadius;
      const bool inside = left >= 0 && left + kSide <= image.width;
      int16_t* line = window.data();
      for (int v = 0; v < kSide; ++v, line += kSide) {
        const uint8_t* pixels = image.data + mirrored(top + v, image.height) * image.width;
        if (inside) {
          std::copy_n(pixels + left, kSide, line);
        } else {
          for (int u = 0; u < kSide; ++u) line[u] = pixels[mirrored(left + u, image.width)];
        }
      }
      std::array<int32_t, kCount> sums{};
      for (size_t k = 0; k < kCount; ++k) {
        // 16-bit products: one instruction takes at least eight of them.
        for (size_t j = 0; j < window.size(); ++j) sums[k] += window[j] * weights[k][j];
      }
      take(i, sums);
    }
  }
};

constexpr int kDiscRadius = 15;
constexpr int kFitRadius = 4;  // 3 of the wider blur, and 1 of the derivatives

Kernels<2, 2 * kDiscRadius + 1> disc() {
  Kernels<2, 2 * kDiscRadius + 1> kernels;
  for (int y = -kDiscRadius; y <= kDiscRadius; ++y) {
    for (int x = -kDiscRadius; x <= kDiscRadius; ++x) {
      if (x * x + y * y > kDiscRadius * kDiscRadius) continue;
      kernels.at(0, x, y) = static_cast<int16_t>(x);
      kernels.at(1, x, y) = static_cast<int16_t>(y);
    }
  }
  return kernels;
}

// The difference of two blurs by binomial coefficients, of 4 and 6, times 4096.
int blur_difference(int x, int y) {
  constexpr int kNarrow[] = {6, 4, 1, 0}, kWide[] = {20, 15, 6, 1};
  x = std::abs(x);
  y = std::abs(y);
  return x > 3 || y > 3 ? 0 : 16 * kNarrow[x] * kNarrow[y] - kWide[x] * kWide[y];
}

// Its derivatives from 3 x 3 pixels: 2 d/dx, 2 d/dy, d2/dx2, d2/dy2, 4 d2/dxdy.
Kernels<5, 2 * kFitRadius + 1> derivatives() {
  Kernels<5, 2 * kFitRadius + 1> kernels;
  for (int y = -kFitRadius; y <= kFitRadius; ++y) {
    for (int x = -kFitRadius; x <= kFitRadius; ++x) {
      const auto at = [=](int dx, int dy) { return blur_difference(x - dx, y - dy); };
      const int values[] = {at(1, 0) - at(-1, 0), at(0, 1) - at(0, -1),
                            at(1, 0) + at(-1, 0) - 2 * at(0, 0),
                            at(0, 1) + at(0, -1) - 2 * at(0, 0),
                            at(1, 1) + at(-1, -1) - at(1, -1) - at(-1, 1)};
      for (int k = 0; k < 5; ++k) kernels.at(k, x, y) = static_cast<int16_t>(values[k]);
    }
  }
  return kernels;
}

}  // namespace

void disc_moments(const Image& image, const Corners& corners, int32_t* out) {
  static const auto kernels = disc();
  kernels.correlate(image, corners, [out](int64_t i, const auto& sums) {
    std::copy(sums.begin(), sums.end(), out + 2 * i);
  });
}

void subpixel_offsets(const Image& image, const Corners& corners, double* out) {
  static const auto kernels = derivatives();
  kernels.correlate(image, corners, [out](int64_t i, const auto& sums) {
    const double dx = sums[0] / 2.0, dy = sums[1] / 2.0, dxy = sums[4] / 4.0;
    const double dxx = sums[2], dyy = sums[3], determinant = dxx * dyy - dxy * dxy;
    double x = 0, y = 0;
    if (determinant > 0) {
      x = (dxy * dy - dyy * dx) / determinant;
      y = (dxy * dx - dxx * dy) / determinant;
    }
    const double shorten = 1 / std::sqrt(1 + x * x + y * y);
    out[2 * i] = x * shorten;
    out[2 * i + 1] = y * shorten;
  });
}

}  // namespace bindesc
