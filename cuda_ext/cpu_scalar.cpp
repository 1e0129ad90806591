// Portable C++ for any processor: eight lanes as a plain array.
#include "cpu_kernel.h"
#include "cpu_kernels.h"

namespace bindesc {
namespace scalar {
namespace {

struct V {
  static constexpr int kLanes = 8;
  static constexpr bool kDeep = true;
  struct Reg {
    uint16_t lane[kLanes];
  };
  using Mask = uint32_t;  // one bit a lane

  template <class Op>
  static inline Reg map(Reg a, Reg b, Op op) {
    Reg out;
    for (int i = 0; i < kLanes; ++i) out.lane[i] = uint16_t(op(a.lane[i], b.lane[i]));
    return out;
  }
  template <class Op>
  static inline Mask mask(Reg a, Reg b, Op op) {
    Mask out = 0;
    for (int i = 0; i < kLanes; ++i) out |= Mask(op(a.lane[i], b.lane[i])) << i;
    return out;
  }

  static inline Reg load(const uint16_t* p) {
    Reg out;
    for (int i = 0; i < kLanes; ++i) out.lane[i] = p[i];
    return out;
  }
  static inline void store(uint16_t* p, Reg v) {
    for (int i = 0; i < kLanes; ++i) p[i] = v.lane[i];
  }
  static inline Reg set1(uint16_t x) {
    Reg out;
    for (int i = 0; i < kLanes; ++i) out.lane[i] = x;
    return out;
  }
  static inline Reg broadcast(const uint32_t* p) { return set1(uint16_t(*p)); }
  static inline Reg iota() { return {{0, 1, 2, 3, 4, 5, 6, 7}}; }

  static inline Reg bit_xor(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x ^ y; });
  }
  static inline Reg bit_or(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x | y; });
  }
  static inline Reg bit_and(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x & y; });
  }
  static inline Reg add(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x + y; });
  }
  static inline Reg sub(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x - y; });
  }
  static inline Reg min(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x < y ? x : y; });
  }
  static inline Reg max(Reg a, Reg b) {
    return map(a, b, [](int x, int y) { return x < y ? y : x; });
  }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return map(a, a, [](int x, int) { return x >> n; });
  }

  static inline Mask less(Reg a, Reg b) {
    return mask(a, b, [](int x, int y) { return x < y; });
  }
  static inline Mask equal(Reg a, Reg b) {
    return mask(a, b, [](int x, int y) { return x == y; });
  }
  static inline Reg select(Mask m, Reg yes, Reg no) {
    for (int i = 0; i < kLanes; ++i) {
      if (m >> i & 1) no.lane[i] = yes.lane[i];
    }
    return no;
  }
  static inline uint32_t bits(Mask m) { return m; }

  static inline Reg carry(Reg a, Reg p, Reg s) {
    return bit_xor(a, bit_and(p, map(a, s, [](int x, int y) { return ~(x ^ y); })));
  }
  static inline Reg full_add(Reg a, Reg b, Reg c, Reg& sum) {
    const Reg half = bit_xor(a, b);
    sum = bit_xor(half, c);
    return bit_or(bit_and(a, b), bit_and(half, c));
  }
  static inline Reg popcount(Reg a) {
    return map(a, a, [](int x, int) {
      x -= x >> 1 & 0x5555;
      x = (x & 0x3333) + (x >> 2 & 0x3333);
      x = (x + (x >> 4)) & 0x0F0F;
      return (x + (x >> 8)) & 0x1F;
    });
  }
  static inline Reg add_counts(Reg a, Reg b) { return add(a, b); }
  static inline Reg widen(Reg a) { return a; }

  template <int n>
  static inline Reg low(int i) {
    return set1(uint16_t(i));
  }
  template <int n>
  static inline Reg key(Reg d, Reg low) {
    return map(d, low, [](int x, int y) { return x << n | y; });
  }
  static inline uint16_t lowest(Reg v) {
    uint16_t out = v.lane[0];
    for (int i = 1; i < kLanes; ++i) out = v.lane[i] < out ? v.lane[i] : out;
    return out;
  }
};

#include "cpu_sweep.h"

}  // namespace

bool usable() { return true; }

}  // namespace scalar

const Kernel kScalar{"scalar", scalar::V::kLanes, scalar::usable, scalar::top2, scalar::within};

}  // namespace bindesc
