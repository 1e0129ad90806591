// NEON: four samples in a register.
#include "cpu_kernels.h"

#if defined(BINDESC_ARM)
#include <arm_neon.h>

namespace bindesc {
namespace neon {
namespace {

struct V {
  using Reg = int32x4_t;
  static constexpr int kLanes = 4;

  static inline Reg set1(int32_t a) { return vdupq_n_s32(a); }
  static inline Reg load(const int32_t* p) { return vld1q_s32(p); }
  static inline void store(uint8_t* p, Reg a) {
    const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(a));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
    __builtin_memcpy(p, &four, 4);
  }
  static inline Reg add(Reg a, Reg b) { return vaddq_s32(a, b); }
  static inline Reg sub(Reg a, Reg b) { return vsubq_s32(a, b); }
  static inline Reg bit_and(Reg a, Reg b) { return vandq_s32(a, b); }
  static inline Reg bit_or(Reg a, Reg b) { return vorrq_s32(a, b); }
  template <int n>
  static inline Reg shift_right(Reg a) {
    return vshrq_n_s32(a, n);
  }
  template <int n>
  static inline Reg shift_left(Reg a) {
    return vshlq_n_s32(a, n);
  }
  static inline Reg multiply_add(Reg a, Reg b) {
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
  }
  static inline Reg gather(const uint8_t* base, Reg offset) {
    int32_t four[kLanes];  // NEON has no gather; two bytes of each are enough
    for (int i = 0; i < kLanes; ++i) {
      uint16_t pair;
      __builtin_memcpy(&pair, base + offset[i], 2);
      four[i] = pair;
    }
    return vld1q_s32(four);
  }
  static inline Reg spread(Reg a) {
    constexpr uint8_t kOrder[16] = {0, 255, 1, 255, 4,  255, 5,  255,
                                    8, 255, 9, 255, 12, 255, 13, 255};
    return vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(a), vld1q_u8(kOrder)));
  }
  static inline Reg product(float a, const float* b) {
    return vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(b), a));
  }
};

#include "cpu_sample_loop.h"

}  // namespace
}  // namespace neon

void sample_neon(const SampleGrid& grid, uint8_t* out) { neon::sample(grid, out); }
void sample_neon(const SampleRings& rings, uint8_t* out) { neon::sample(rings, out); }

}  // namespace bindesc
#endif
