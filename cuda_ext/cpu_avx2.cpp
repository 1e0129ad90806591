// AVX2, also for processors with AVX-VNNI. It counts bits by table, which is slow, so carries are
// added up first (kDeep).
#include "cpu_kernel.h"
#include "cpu_kernels.h"

#if defined(BINDESC_X86)
#include <cpuid.h>
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
  using Mask = __m256i;
  static constexpr int kLanes = 16;
  static constexpr bool kDeep = true;

  static inline Reg load(const uint16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static inline void store(uint16_t* p, Reg v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static inline Reg set1(uint16_t x) { return _mm256_set1_epi16(int16_t(x)); }
  static inline Reg broadcast(const uint32_t* p) { return _mm256_set1_epi32(int32_t(*p)); }
  static inline Reg iota() {
    return _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }

  static inline Reg bit_xor(Reg a, Reg b) { return _mm256_xor_si256(a, b); }
  static inline Reg bit_or(Reg a, Reg b) { return _mm256_or_si256(a, b); }
  static inline Reg add(Reg a, Reg b) { return _mm256_add_epi16(a, b); }
  static inline Reg sub(Reg a, Reg b) { return _mm256_sub_epi16(a, b); }
  static inline Reg min(Reg a, Reg b) { return _mm256_min_epu16(a, b); }
  static inline Reg max(Reg a, Reg b) { return _mm256_max_epu16(a, b); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return _mm256_srli_epi16(a, n);
  }

  static inline Mask equal(Reg a, Reg b) { return _mm256_cmpeq_epi16(a, b); }
  // a < b without a sign: b is not min(a, b).
  static inline Mask less(Reg a, Reg b) {
    return _mm256_andnot_si256(equal(min(a, b), b), _mm256_set1_epi16(-1));
  }
  static inline Reg select(Mask m, Reg yes, Reg no) { return _mm256_blendv_epi8(no, yes, m); }
  static inline uint32_t bits(Mask m) {
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    return uint32_t(_mm_movemask_epi8(bytes));
  }

  // p ? ~s : a for p = a ^ b, s = a ^ b ^ c.
  static inline Reg carry(Reg a, Reg p, Reg s) {
    return bit_xor(a, _mm256_andnot_si256(bit_xor(a, s), p));
  }
  static inline Reg full_add(Reg a, Reg b, Reg c, Reg& sum) {
    const Reg half = bit_xor(a, b);
    sum = bit_xor(half, c);
    return bit_or(_mm256_and_si256(a, b), _mm256_and_si256(half, c));
  }
  // Counts are bytes.
  static inline Reg popcount(Reg a) {
    const Reg table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                       1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const Reg nibble = _mm256_set1_epi8(15);
    const Reg high = _mm256_and_si256(_mm256_srli_epi16(a, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(a, nibble)),
                           _mm256_shuffle_epi8(table, high));
  }
  static inline Reg add_counts(Reg a, Reg b) { return _mm256_add_epi8(a, b); }
  static inline Reg widen(Reg a) { return _mm256_maddubs_epi16(a, _mm256_set1_epi8(1)); }

  template <int n>
  static inline Reg low(int i) {
    return set1(uint16_t(i));
  }
  template <int n>
  static inline Reg key(Reg d, Reg low) {
    return bit_or(_mm256_slli_epi16(d, n), low);
  }
  static inline uint16_t lowest(Reg v) {
    const __m128i half = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return uint16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(half)));
  }
};

#include "cpu_sweep.h"

}  // namespace
}  // namespace avx2

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace bindesc {

static bool usable() { return __builtin_cpu_supports("avx2"); }

const Kernel kAvx2{"avx2", avx2::V::kLanes, usable, avx2::top2,
                   avx2::within, normalise_avx2, convolve_avx2, sample_avx2, sample_avx2, nullptr};

#if defined(BINDESC_AVX_VNNI)
static bool has_avx_vnni() {  // not every compiler's __builtin_cpu_supports knows it
  unsigned a, b, c, d;
  return usable() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

const Kernel kAvxVnni{"avxvnni",    avx2::V::kLanes,  has_avx_vnni, avx2::top2,
                      avx2::within, normalise_avxvnni, convolve_avxvnni, sample_avx2, sample_avx2, nullptr};
#endif

}  // namespace bindesc
#endif
