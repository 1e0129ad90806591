// Plain C++, for every processor.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu_kernels.h"

namespace bindesc {
namespace scalar {
namespace {

#include "cpu_convolve_loop.h"
#include "cpu_normalise_loop.h"

struct V {
  static constexpr int kRows = 1;
  static constexpr int kBlocks = 1;
  struct Sum {
    int32_t channel[kChannelBlock];
  };
  using Input = const uint8_t*;
  using Weights = const int8_t*;

  static inline Sum start(const int32_t* bias) {
    Sum sum;
    for (int c = 0; c < kChannelBlock; ++c) sum.channel[c] = bias[c];
    return sum;
  }
  static inline Input input(const uint8_t* p) { return p; }
  static inline Weights weights(const int8_t* p) { return p; }
  static inline Sum dot(Sum sum, Input x, Weights w) {
    for (int c = 0; c < kChannelBlock; ++c) {
      const int8_t* const four = w + 4 * c;
      sum.channel[c] += x[0] * four[0] + x[1] * four[1] + x[2] * four[2] + x[3] * four[3];
    }
    return sum;
  }
  static inline void store(const Sum& sum, int32_t* out) {
    for (int c = 0; c < kChannelBlock; ++c) out[c] = sum.channel[c];
  }
  template <int kStride>
  static inline void store_run(const Sum* sum, const float* multiplier, uint8_t* out,
                               int64_t step) {
    for (int i = 0; i < kPixelRun; ++i, sum += kStride, out += step) {
      for (int c = 0; c < kChannelBlock; ++c) {
        const auto positive = static_cast<float>(std::max(sum->channel[c], 0));
        out[c] = static_cast<uint8_t>(std::min(std::nearbyint(positive * multiplier[c]), 255.0f));
      }
    }
  }
};

}  // namespace
}  // namespace scalar

void normalise_scalar(const uint8_t* patch, int side, float scale, uint8_t* out) {
  scalar::normalise(patch, side, scale, out);
}

void convolve_scalar(const Convolution& c, const PixelGroups& pixels, const uint8_t* in,
                     void* out) {
  scalar::convolve<scalar::V>(c, pixels, in, out);
}

}  // namespace bindesc
