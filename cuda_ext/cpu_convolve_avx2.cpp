// AVX2. Its product of bytes adds two by two into 16 bits, where it saturates. It is taken for layers
// whose weights never do that; for others, which models of before have, bytes are widened first.
// Most layers' weights are so small that four such products fit, so that the step to 32 bits, which
// takes as long as a product, is made once for 16 inputs.
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

  static inline void dot_window(const Convolution& c, Sum* sum, const uint8_t* in, int64_t pixel,
                                const int8_t* weights) {
    dot_half<&Sum::low>(c, sum, in, pixel, weights);
    dot_half<&Sum::high>(c, sum, in, pixel, weights + 2 * kChannelBlock);
  }

  // Of eight channels, so that the sums in 16 and in 32 bits stay in registers.
  template <__m256i Sum::*kHalf>
  static inline void dot_half(const Convolution& c, Sum* sum, const uint8_t* in, int64_t pixel,
                              const int8_t* weights) {
    __m256i total[kPixelRun];
    for (int i = 0; i < kPixelRun; ++i) total[i] = sum[i].*kHalf;
    for (int row = 0; row < c.rows; ++row) {
      const uint8_t* run = in + row * c.row_stride;
      for (int k = 0; k < c.steps; k += kFitSteps) {
        __m256i products[kPixelRun];
        for (int j = 0; j < kFitSteps; ++j, run += 4, weights += 4 * kChannelBlock) {
          const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
          for (int i = 0; i < kPixelRun; ++i) {
            const __m256i two = _mm256_maddubs_epi16(input(run + i * pixel), w);
            products[i] = j ? _mm256_add_epi16(products[i], two) : two;
            // Here the compiler would rather add in another order, for which registers do not suffice.
            __asm__("" : "+x"(products[i]));
          }
        }
        const __m256i one = _mm256_set1_epi16(1);
        for (int i = 0; i < kPixelRun; ++i) {
          total[i] = _mm256_add_epi32(total[i], _mm256_madd_epi16(products[i], one));
        }
      }
    }
    for (int i = 0; i < kPixelRun; ++i) sum[i].*kHalf = total[i];
  }
};

}  // namespace
}  // namespace avx2

void normalise_avx2(const uint8_t* patch, int side, float scale, uint8_t* out) {
  avx2::normalise(patch, side, scale, out);
}

void convolve_avx2(const Convolution& c, const PixelGroups& pixels, const uint8_t* in, void* out) {
  if (c.fit_steps == kFitSteps) {
    avx2::convolve<avx2::Pairs, kFitSteps>(c, pixels, in, out);
  } else if (c.fit_steps == 1) {
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
