// NEON (aarch64, where it is always there), and with it the products of bytes of ARMv8.2, which most
// processors since 2018 have.
#include "cpu_kernel.h"
#include "cpu_kernels.h"

#if defined(BINDESC_ARM)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bindesc {
namespace neon {
namespace {

struct V {
  using Reg = uint16x8_t;
  using Mask = uint16x8_t;
  static constexpr int kLanes = 8;
  static constexpr bool kDeep = false;

  static inline Reg load(const uint16_t* p) { return vld1q_u16(p); }
  static inline void store(uint16_t* p, Reg v) { vst1q_u16(p, v); }
  static inline Reg set1(uint16_t x) { return vdupq_n_u16(x); }
  static inline Reg broadcast(const uint32_t* p) { return vreinterpretq_u16_u32(vld1q_dup_u32(p)); }
  static inline Reg iota() {
    constexpr uint16_t kIota[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    return vld1q_u16(kIota);
  }

  static inline Reg bit_xor(Reg a, Reg b) { return veorq_u16(a, b); }
  static inline Reg bit_or(Reg a, Reg b) { return vorrq_u16(a, b); }
  static inline Reg add(Reg a, Reg b) { return vaddq_u16(a, b); }
  static inline Reg sub(Reg a, Reg b) { return vsubq_u16(a, b); }
  static inline Reg min(Reg a, Reg b) { return vminq_u16(a, b); }
  static inline Reg max(Reg a, Reg b) { return vmaxq_u16(a, b); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return vshrq_n_u16(a, n);
  }

  static inline Mask less(Reg a, Reg b) { return vcltq_u16(a, b); }
  static inline Mask equal(Reg a, Reg b) { return vceqq_u16(a, b); }
  static inline Reg select(Mask m, Reg yes, Reg no) { return vbslq_u16(m, yes, no); }
  static inline uint32_t bits(Mask m) {
    constexpr uint16_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    return vaddvq_u16(vandq_u16(m, vld1q_u16(kBits)));
  }

  static inline Reg carry(Reg a, Reg p, Reg s) { return vbslq_u16(p, vmvnq_u16(s), a); }
  static inline Reg full_add(Reg a, Reg b, Reg c, Reg& sum) {
    const Reg half = veorq_u16(a, b);
    sum = veorq_u16(half, c);
    return vbslq_u16(half, c, a);
  }
  // Counts are bytes.
  static inline Reg popcount(Reg a) {
    return vreinterpretq_u16_u8(vcntq_u8(vreinterpretq_u8_u16(a)));
  }
  static inline Reg add_counts(Reg a, Reg b) {
    return vreinterpretq_u16_u8(vaddq_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b)));
  }
  static inline Reg widen(Reg a) { return vpaddlq_u8(vreinterpretq_u8_u16(a)); }

  template <int n>
  static inline Reg low(int i) {
    return set1(uint16_t(i));
  }
  template <int n>
  static inline Reg key(Reg d, Reg low) {
    return vsliq_n_u16(low, d, n);
  }
  static inline uint16_t lowest(Reg v) { return vminvq_u16(v); }
};

#include "cpu_sweep.h"

}  // namespace

bool usable() { return true; }

#if defined(BINDESC_ARM_DOT)
bool usable_with_dot() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  return true;  // from the first Apple silicon on
#else
  return false;
#endif
}
#endif

}  // namespace neon

const Kernel kNeon{"neon", neon::V::kLanes, neon::usable, neon::top2, neon::within,
                   normalise_scalar, convolve_neon, sample_neon, sample_neon, nullptr};
#if defined(BINDESC_ARM_DOT)
const Kernel kNeonDot{"neondot", neon::V::kLanes, neon::usable_with_dot, neon::top2, neon::within,
                      normalise_scalar, convolve_neondot, sample_neon, sample_neon, nullptr};
#endif

}  // namespace bindesc
#endif
