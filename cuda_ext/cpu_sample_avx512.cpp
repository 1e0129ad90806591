// AVX-512: 16 samples in a register.
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#if !defined(__clang__)
// GCC takes the deliberately undefined operands inside its own intrinsics for a mistake (PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw")
#endif

namespace bindesc {
namespace avx512 {
namespace {

struct V {
  using Reg = __m512i;
  static constexpr int kLanes = 16;

  static inline Reg set1(int32_t a) { return _mm512_set1_epi32(a); }
  static inline Reg load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static inline void store(uint8_t* p, Reg a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }
  static inline Reg add(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
  static inline Reg sub(Reg a, Reg b) { return _mm512_sub_epi32(a, b); }
  static inline Reg bit_and(Reg a, Reg b) { return _mm512_and_si512(a, b); }
  static inline Reg bit_or(Reg a, Reg b) { return _mm512_or_si512(a, b); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return _mm512_srai_epi32(a, n);
  }
  template <int n>
  static inline Reg shift_left(Reg a) {
    return _mm512_slli_epi32(a, n);
  }
  static inline Reg multiply_add(Reg a, Reg b) { return _mm512_madd_epi16(a, b); }
  static inline Reg gather(const uint8_t* base, Reg offset) {
    return _mm512_i32gather_epi32(offset, base, 1);
  }
  static inline Reg spread(Reg a) {
    const __m128i order =
        _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(order));
  }
  static inline Reg product(float a, const float* b) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_set1_ps(a), _mm512_loadu_ps(b)));
  }
};

#include "cpu_sample_loop.h"

}  // namespace

void sample_patch(const SampleGrid& grid, uint8_t* out) { sample(grid, out); }
void sample_patch(const SampleRings& rings, uint8_t* out) { sample(rings, out); }

}  // namespace avx512
}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bindesc {

void sample_avx512(const SampleGrid& grid, uint8_t* out) { avx512::sample_patch(grid, out); }
void sample_avx512(const SampleRings& rings, uint8_t* out) { avx512::sample_patch(rings, out); }

}  // namespace bindesc
#endif
