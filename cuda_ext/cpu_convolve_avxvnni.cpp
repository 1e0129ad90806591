// AVX-VNNI: the byte products of AVX-512 VNNI in 256 bits, for processors without AVX-512 (Alder
// Lake and later).
#include "cpu_kernels.h"

#if defined(BINDESC_AVX_VNNI)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,avxvnni")
#endif

namespace bindesc {
namespace avxvnni {
namespace {

#include "cpu_convolve_loop.h"
#include "cpu_normalise_loop.h"

struct V {
#include "cpu_convolve_bytes256.h"

  static inline Sum dot(const Sum& sum, Input input, const Weights& w) {
    return {_mm256_dpbusd_avx_epi32(sum.low, input, w.low),
            _mm256_dpbusd_avx_epi32(sum.high, input, w.high)};
  }
};

}  // namespace
}  // namespace avxvnni

void normalise_avxvnni(const uint8_t* patch, int side, float scale, uint8_t* out) {
  avxvnni::normalise(patch, side, scale, out);
}

void convolve_avxvnni(const Convolution& c, const PixelGroups& pixels, const uint8_t* in,
                      void* out) {
  avxvnni::convolve<avxvnni::V>(c, pixels, in, out);
}

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
