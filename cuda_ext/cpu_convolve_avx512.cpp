// AVX-512 VNNI: one instruction multiplies and adds 64 bytes.
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#if !defined(__clang__)
// GCC takes the deliberately undefined operands inside its own intrinsics for a mistake (PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cmath>
#include <cstring>

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
#include "cpu_normalise_loop.h"

struct V {
  static constexpr int kRows = 2;
  static constexpr int kBlocks = 3;
  using Sum = __m512i;
  using Input = __m512i;
  using Weights = __m512i;

  static inline Sum start(const int32_t* bias) { return _mm512_loadu_si512(bias); }
  static inline Input input(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  static inline Weights weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static inline Sum dot(Sum sum, Input input, Weights weights) {
    return _mm512_dpbusd_epi32(sum, input, weights);
  }
  static inline void store(Sum sum, int32_t* out) { _mm512_storeu_si512(out, sum); }
  template <int kStride>
  static inline void store_run(const Sum* sum, const float* multiplier, uint8_t* out,
                               int64_t step) {
    const __m512 factor = _mm512_loadu_ps(multiplier);
    const auto scaled = [&](int i) {
      return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[i * kStride]), factor));
    };
    // Packing limits to 0 and 255. It works within 128-bit lanes, so that each holds four channels
    // of the first pixel, then of the second ...; the permutation makes each lane a pixel.
    const __m512i lanes =
        _mm512_packus_epi16(_mm512_packs_epi32(scaled(0), scaled(1)),
                            _mm512_packs_epi32(scaled(2), scaled(3)));
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, lanes);
    const auto put = [&](int i, __m128i pixel) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * step), pixel);
    };
    put(0, _mm512_castsi512_si128(bytes));
    put(1, _mm512_extracti32x4_epi32(bytes, 1));
    put(2, _mm512_extracti32x4_epi32(bytes, 2));
    put(3, _mm512_extracti32x4_epi32(bytes, 3));
  }
};

}  // namespace
}  // namespace avx512

void normalise_avx512(const uint8_t* patch, int side, float scale, uint8_t* out) {
  avx512::normalise(patch, side, scale, out);
}

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
