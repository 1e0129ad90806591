// AVX-512 with VPOPCNTW (BITALG), VPSHLDW (VBMI2) and VNNI: Ice Lake and Zen 4 onwards.
#include "cpu_kernel.h"
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#if !defined(__clang__)
// GCC takes the deliberately undefined operands inside its own intrinsics for a mistake (PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512bitalg,avx512vbmi2"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bitalg,avx512vbmi2")
#endif

namespace bindesc {
namespace avx512 {
namespace {

struct V {
  using Reg = __m512i;
  using Mask = __mmask32;
  static constexpr int kLanes = 32;
  static constexpr bool kDeep = false;

  static inline Reg load(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static inline void store(uint16_t* p, Reg v) { _mm512_storeu_si512(p, v); }
  static inline Reg set1(uint16_t x) { return _mm512_set1_epi16(int16_t(x)); }
  static inline Reg broadcast(const uint32_t* p) { return _mm512_set1_epi32(int32_t(*p)); }
  static inline Reg iota() {
    const Reg bytes = _mm512_cvtepi8_epi16(
        _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
                         21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31));
    return bytes;
  }

  static inline Reg bit_xor(Reg a, Reg b) { return _mm512_xor_si512(a, b); }
  static inline Reg bit_or(Reg a, Reg b) { return _mm512_or_si512(a, b); }
  static inline Reg add(Reg a, Reg b) { return _mm512_add_epi16(a, b); }
  static inline Reg sub(Reg a, Reg b) { return _mm512_sub_epi16(a, b); }
  static inline Reg min(Reg a, Reg b) { return _mm512_min_epu16(a, b); }
  static inline Reg max(Reg a, Reg b) { return _mm512_max_epu16(a, b); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return _mm512_srli_epi16(a, n);
  }

  static inline Mask less(Reg a, Reg b) { return _mm512_cmplt_epu16_mask(a, b); }
  static inline Mask equal(Reg a, Reg b) { return _mm512_cmpeq_epu16_mask(a, b); }
  static inline Reg select(Mask m, Reg yes, Reg no) { return _mm512_mask_blend_epi16(m, no, yes); }
  static inline uint32_t bits(Mask m) { return m; }

  // p ? ~s : a, bit by bit; the index into the table is a << 2 | p << 1 | s.
  static inline Reg carry(Reg a, Reg p, Reg s) { return _mm512_ternarylogic_epi32(a, p, s, 0x74); }
  static inline Reg full_add(Reg a, Reg b, Reg c, Reg& sum) {
    const Reg majority = _mm512_ternarylogic_epi32(a, b, c, 0xE8);
    sum = _mm512_ternarylogic_epi32(a, b, c, 0x96);
    return majority;
  }
  static inline Reg popcount(Reg a) { return _mm512_popcnt_epi16(a); }
  static inline Reg add_counts(Reg a, Reg b) { return _mm512_add_epi16(a, b); }
  static inline Reg widen(Reg a) { return a; }

  template <int n>
  static inline Reg low(int i) {
    return set1(uint16_t(i << (16 - n)));
  }
  template <int n>
  static inline Reg key(Reg d, Reg low) {
    return _mm512_shldi_epi16(d, low, n);
  }
  static inline uint16_t lowest(Reg v) {
    const __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i quarter =
        _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return uint16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(quarter)));
  }
};

#include "cpu_sweep.h"

}  // namespace
}  // namespace avx512

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bindesc {

static bool usable() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512vbmi2") &&
         __builtin_cpu_supports("avx512vnni");
}

const Kernel kAvx512{"avx512", avx512::V::kLanes, usable, avx512::top2,
                     avx512::within, normalise_avx512, convolve_avx512, sample_avx512, sample_avx512,
                     &kTableAvx512};

}  // namespace bindesc
#endif
