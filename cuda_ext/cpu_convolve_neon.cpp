// NEON. Its products are of two signed bytes: inputs are taken 128 lower, and sums start from the
// bias that makes up for it.
#include "cpu_kernels.h"

#if defined(BINDESC_ARM)
#include <arm_neon.h>

namespace bindesc {
namespace neon {
namespace {

#include "cpu_convolve_loop.h"

struct V {
#include "cpu_convolve_neon.h"

  // Two products of -128 and -127 still fit 16 bits, so that they are added up before widening.
  static inline Sum dot(Sum sum, Input x, const Weights& w) {
    for (int j = 0; j < 4; ++j) {
      const int16x8_t first = vmull_s8(vget_low_s8(w.four[j]), vget_low_s8(x));
      sum.four[j] = vpadalq_s16(sum.four[j], vpaddq_s16(first, vmull_high_s8(w.four[j], x)));
    }
    return sum;
  }
};

}  // namespace
}  // namespace neon

void convolve_neon(const Convolution& c, const PixelGroups& pixels, const uint8_t* in, void* out) {
  Convolution lower = c;
  lower.bias = c.signed_bias;
  neon::convolve<neon::V>(lower, pixels, in, out);
}

}  // namespace bindesc

#if defined(BINDESC_ARM_DOT)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace bindesc {
namespace neondot {
namespace {

#include "cpu_convolve_loop.h"

struct V {
#include "cpu_convolve_neon.h"

  static inline Sum dot(Sum sum, Input x, const Weights& w) {
    for (int j = 0; j < 4; ++j) sum.four[j] = vdotq_s32(sum.four[j], w.four[j], x);
    return sum;
  }
};

}  // namespace
}  // namespace neondot

void convolve_neondot(const Convolution& c, const PixelGroups& pixels, const uint8_t* in,
                      void* out) {
  Convolution lower = c;
  lower.bias = c.signed_bias;
  neondot::convolve<neondot::V>(lower, pixels, in, out);
}

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
#endif
