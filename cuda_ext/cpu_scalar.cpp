// Portable C++ for any processor: four lanes in a 64-bit integer.
#include "cpu_kernel.h"
#include "cpu_kernels.h"

namespace bindesc {
namespace scalar {
namespace {

constexpr uint64_t kOnes = 0x0001000100010001;

struct V {
  using Reg = uint64_t;
  using Mask = uint64_t;  // 0xFFFF in the lanes that are true
  static constexpr int kLanes = 4;
  static constexpr bool kDeep = true;

  static inline uint64_t lane(Reg v, int i) { return v >> (16 * i) & 0xFFFF; }
  static inline Reg load(const uint16_t* p) {
    return p[0] | uint64_t{p[1]} << 16 | uint64_t{p[2]} << 32 | uint64_t{p[3]} << 48;
  }
  static inline void store(uint16_t* p, Reg v) {
    for (int i = 0; i < kLanes; ++i) p[i] = uint16_t(lane(v, i));
  }
  static inline Reg set1(uint16_t x) { return x * kOnes; }
  static inline Reg broadcast(const uint32_t* p) { return set1(uint16_t(*p)); }
  static inline Reg iota() { return 0x0003000200010000; }

  static inline Reg bit_xor(Reg a, Reg b) { return a ^ b; }
  static inline Reg bit_or(Reg a, Reg b) { return a | b; }
  // No sum or difference that the sweep uses leaves its lane.
  static inline Reg add(Reg a, Reg b) { return a + b; }
  static inline Reg sub(Reg a, Reg b) { return a - b; }
  static inline Reg min(Reg a, Reg b) { return select(less(a, b), a, b); }
  static inline Reg max(Reg a, Reg b) { return select(less(a, b), b, a); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return a >> n & set1(uint16_t(0xFFFF >> n));
  }

  // The borrow of a - b, lane by lane: computed on the lower 15 bits, then with the top bits.
  static inline Mask less(Reg a, Reg b) {
    constexpr uint64_t kTop = 0x8000 * kOnes;
    const Reg difference = (a | kTop) - (b & ~kTop);
    const Reg borrow = ((~a & b) | (~(a ^ b) & ~difference)) & kTop;
    return (borrow >> 15) * 0xFFFF;
  }
  static inline Mask equal(Reg a, Reg b) { return ~(less(a, b) | less(b, a)); }
  static inline Reg select(Mask m, Reg yes, Reg no) { return (yes & m) | (no & ~m); }
  static inline uint32_t bits(Mask m) {
    uint32_t out = 0;
    for (int i = 0; i < kLanes; ++i) out |= uint32_t(lane(m, i) & 1) << i;
    return out;
  }

  static inline Reg carry(Reg a, Reg p, Reg s) { return a ^ (p & ~(a ^ s)); }
  static inline Reg full_add(Reg a, Reg b, Reg c, Reg& sum) {
    const Reg half = a ^ b;
    sum = half ^ c;
    return (a & b) | (half & c);
  }
  static inline Reg popcount(Reg a) {
    a -= a >> 1 & 0x5555 * kOnes;
    a = (a & 0x3333 * kOnes) + (a >> 2 & 0x3333 * kOnes);
    a = (a + (a >> 4)) & 0x0F0F * kOnes;
    return (a + (a >> 8)) & 0x1F * kOnes;
  }
  static inline Reg add_counts(Reg a, Reg b) { return a + b; }
  static inline Reg widen(Reg a) { return a; }

  template <int n>
  static inline Reg low(int i) {
    return set1(uint16_t(i));
  }
  template <int n>
  static inline Reg key(Reg d, Reg low) {
    return d << n | low;
  }
  static inline uint16_t lowest(Reg v) {
    uint64_t out = lane(v, 0);
    for (int i = 1; i < kLanes; ++i) out = lane(v, i) < out ? lane(v, i) : out;
    return uint16_t(out);
  }
};

#include "cpu_sweep.h"

}  // namespace

bool usable() { return true; }

}  // namespace scalar

const Kernel kScalar{"scalar", scalar::V::kLanes, scalar::usable, scalar::top2,
                     scalar::within, normalise_scalar, convolve_scalar, sample_scalar,
                     sample_scalar, nullptr};

}  // namespace bindesc
