// AVX2. Its product of bytes adds two by two into 16 bits, where it saturates. It is taken for layers
// whose weights never do that; for others, which models of before have, bytes are widened first.
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace bindesc {
namespace avx2 {
namespace {

#include "cpu_convolve_loop.h"
#include "cpu_normalise_loop.h"

struct Widening {
  static constexpr int kRows = 1;
  static constexpr int kBlocks = 1;
  struct Sum {
    __m256i low, high;  // eight channels each
  };
  struct Input {
    __m256i even, odd;  // inputs 0 and 2, 1 and 3, as 16 bits
  };
  struct Weights {
    __m256i low_even, low_odd, high_even, high_odd;
  };

  static inline Input input(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    const __m256i all = _mm256_set1_epi32(four);
    return {_mm256_and_si256(all, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16(all, 8)};
  }
  static inline Weights weights(const int8_t* p) {
    const auto* const v = reinterpret_cast<const __m256i*>(p);
    const __m256i low = _mm256_loadu_si256(v), high = _mm256_loadu_si256(v + 1);
    return {_mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8), _mm256_srai_epi16(low, 8),
            _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8), _mm256_srai_epi16(high, 8)};
  }
  static inline Sum dot(const Sum& sum, const Input& x, const Weights& w) {
    const __m256i low =
        _mm256_add_epi32(_mm256_madd_epi16(x.even, w.low_even), _mm256_madd_epi16(x.odd, w.low_odd));
    const __m256i high = _mm256_add_epi32(_mm256_madd_epi16(x.even, w.high_even),
                                          _mm256_madd_epi16(x.odd, w.high_odd));
    return {_mm256_add_epi32(sum.low, low), _mm256_add_epi32(sum.high, high)};
  }

#include "cpu_convolve_store256.h"
};

// Half the products of `Widening`, and nothing to widen.
struct Pairs {
#include "cpu_convolve_bytes256.h"

  static inline Sum dot(const Sum& sum, Input input, const Weights& w) {
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(input, w.low), one);
    const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(input, w.high), one);
    return {_mm256_add_epi32(sum.low, low), _mm256_add_epi32(sum.high, high)};
  }
};

}  // namespace
}  // namespace avx2

void normalise_avx2(const uint8_t* patch, int side, float scale, uint8_t* out) {
  avx2::normalise(patch, side, scale, out);
}

void convolve_avx2(const Convolution& c, const PixelGroups& pixels, const uint8_t* in, void* out) {
  if (c.pairs_fit) {
    avx2::convolve<avx2::Pairs>(c, pixels, in, out);
  } else {
    avx2::convolve<avx2::Widening>(c, pixels, in, out);
  }
}

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
