// What the vector types of NEON share: sums of 16 channels in four registers.

  static constexpr int kRows = 1;
  static constexpr int kBlocks = 1;
  struct Sum {
    int32x4_t four[4];  // four channels each
  };
  using Input = int8x16_t;  // four inputs, four times over
  struct Weights {
    int8x16_t four[4];
  };

  static inline Sum start(const int32_t* bias) {
    return {{vld1q_s32(bias), vld1q_s32(bias + 4), vld1q_s32(bias + 8), vld1q_s32(bias + 12)}};
  }
  static inline Input input(const uint8_t* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, 4);
    return vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(four)), vdupq_n_u8(0x80)));
  }
  static inline Weights weights(const int8_t* p) {
    return {{vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)}};
  }
  static inline void store(const Sum& sum, int32_t* out) {
    for (int j = 0; j < 4; ++j) vst1q_s32(out + 4 * j, sum.four[j]);
  }
  template <int kStride>
  static inline void store_run(const Sum* sum, const float* multiplier, uint8_t* out,
                               int64_t step) {
    const float32x4_t factor[4] = {vld1q_f32(multiplier), vld1q_f32(multiplier + 4),
                                   vld1q_f32(multiplier + 8), vld1q_f32(multiplier + 12)};
    // Conversion limits to 0, narrowing to 255.
    const auto rounded = [&](int32x4_t s, float32x4_t f) {
      return vqmovn_u32(vcvtnq_u32_f32(vmulq_f32(vcvtq_f32_s32(s), f)));
    };
    for (int i = 0; i < kPixelRun; ++i, sum += kStride, out += step) {
      const int32x4_t* const s = sum->four;
      const uint16x8_t low = vcombine_u16(rounded(s[0], factor[0]), rounded(s[1], factor[1]));
      const uint16x8_t high = vcombine_u16(rounded(s[2], factor[2]), rounded(s[3], factor[3]));
      vst1q_u8(out, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
    }
  }
