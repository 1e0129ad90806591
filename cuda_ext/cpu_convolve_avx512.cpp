// AVX-512 VNNI: one instruction multiplies and adds 64 bytes.
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#if !defined(__clang__)
// GCC takes the deliberately undefined operands inside its own intrinsics for a mistake (PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512vnni")
#endif

namespace bindesc {
namespace avx512 {
namespace {

#include "cpu_convolve_loop.h"

struct V {
  static constexpr int kRows = 2;
  static constexpr int kBlocks = 3;
  using Sum = __m512i;
  using Input = __m512i;
  using Weights = __m512i;

  static inline Sum zero() { return _mm512_setzero_si512(); }
  static inline Input input(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static inline Weights weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static inline Sum dot(Sum sum, Input input, Weights weights) {
    return _mm512_dpbusd_epi32(sum, input, weights);
  }
  static inline Sum biased(Sum sum, const int32_t* bias) {
    return _mm512_add_epi32(sum, _mm512_loadu_si512(bias));
  }
  static inline void store(Sum sum, const int32_t* bias, int32_t* out) {
    _mm512_storeu_si512(out, biased(sum, bias));
  }
  static inline void store(Sum sum, const int32_t* bias, const float* multiplier, uint8_t* out) {
    const Sum positive = _mm512_max_epi32(biased(sum, bias), _mm512_setzero_si512());
    const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(positive), _mm512_loadu_ps(multiplier));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(scaled)));
  }
};

}  // namespace
}  // namespace avx512

void convolve_avx512(const Convolution& c, const PixelGroups& pixels, const uint8_t* in,
                     void* out) {
  avx512::convolve<avx512::V>(c, pixels, in, out);
}

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
