// Portable C++ for any processor: one sample at a time.
#include "cpu_kernels.h"

namespace bindesc {
namespace scalar {
namespace {

struct V {
  using Reg = int32_t;
  static constexpr int kLanes = 1;

  static inline Reg set1(int32_t a) { return a; }
  static inline Reg load(const int32_t* p) { return *p; }
  static inline void store(uint8_t* p, Reg a) { *p = static_cast<uint8_t>(a); }
  static inline Reg add(Reg a, Reg b) { return a + b; }
  static inline Reg sub(Reg a, Reg b) { return a - b; }
  static inline Reg bit_and(Reg a, Reg b) { return a & b; }
  static inline Reg bit_or(Reg a, Reg b) { return a | b; }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return a >> n;
  }
  template <int n>
  static inline Reg shift_left(Reg a) {
    return static_cast<Reg>(static_cast<uint32_t>(a) << n);
  }
  static inline Reg multiply_add(Reg a, Reg b) {
    return static_cast<int16_t>(a) * static_cast<int16_t>(b) + (a >> 16) * (b >> 16);
  }
  static inline Reg gather(const uint8_t* base, Reg offset) {
    return base[offset] | base[offset + 1] << 8;
  }
  static inline Reg spread(Reg a) { return (a & 0xFF) | (a & 0xFF00) << 8; }
  static inline Reg product(float a, const float* b) {
    return static_cast<Reg>(__builtin_nearbyintf(a * *b));
  }
};

#include "cpu_sample_loop.h"

}  // namespace
}  // namespace scalar

void sample_scalar(const SampleGrid& grid, uint8_t* out) { scalar::sample(grid, out); }
void sample_scalar(const SampleRings& rings, uint8_t* out) { scalar::sample(rings, out); }

}  // namespace bindesc
