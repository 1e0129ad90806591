// AVX2: eight samples in a register.
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace bindesc {
namespace avx2 {
namespace {

struct V {
  using Reg = __m256i;
  static constexpr int kLanes = 8;

  static inline Reg set1(int32_t a) { return _mm256_set1_epi32(a); }
  static inline Reg load(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static inline void store(uint8_t* p, Reg a) {
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  static inline Reg add(Reg a, Reg b) { return _mm256_add_epi32(a, b); }
  static inline Reg sub(Reg a, Reg b) { return _mm256_sub_epi32(a, b); }
  static inline Reg bit_and(Reg a, Reg b) { return _mm256_and_si256(a, b); }
  static inline Reg bit_or(Reg a, Reg b) { return _mm256_or_si256(a, b); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return _mm256_srai_epi32(a, n);
  }
  template <int n>
  static inline Reg shift_left(Reg a) {
    return _mm256_slli_epi32(a, n);
  }
  static inline Reg multiply_add(Reg a, Reg b) { return _mm256_madd_epi16(a, b); }
  static inline Reg gather(const uint8_t* base, Reg offset) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(base), offset, 1);
  }
  static inline Reg spread(Reg a) {
    const __m128i order =
        _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    return _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(order));
  }
  static inline Reg product(float a, const float* b) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_set1_ps(a), _mm256_loadu_ps(b)));
  }
};

#include "cpu_sample_loop.h"

}  // namespace

void sample_patch(const SampleGrid& grid, uint8_t* out) { sample(grid, out); }
void sample_patch(const SampleRings& rings, uint8_t* out) { sample(rings, out); }

}  // namespace avx2
}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bindesc {

void sample_avx2(const SampleGrid& grid, uint8_t* out) { avx2::sample_patch(grid, out); }
void sample_avx2(const SampleRings& rings, uint8_t* out) { avx2::sample_patch(rings, out); }

}  // namespace bindesc
#endif
