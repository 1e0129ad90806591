// How sums in two 256-bit registers become output; members of the vector types of AVX2 and AVX-VNNI.

  static inline Sum start(const int32_t* bias) {
    const auto* const v = reinterpret_cast<const __m256i*>(bias);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
  }
  static inline void store(const Sum& sum, int32_t* out) {
    auto* const v = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(v, sum.low);
    _mm256_storeu_si256(v + 1, sum.high);
  }
  template <int kStride>
  static inline void store_run(const Sum* sum, const float* multiplier, uint8_t* out,
                               int64_t step) {
    const __m256 low = _mm256_loadu_ps(multiplier), high = _mm256_loadu_ps(multiplier + 8);
    const auto words = [&](const Sum& s) {
      return _mm256_packs_epi32(
          _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(s.low), low)),
          _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(s.high), high)));
    };
    // Packing limits to 0 and 255. It works within 128-bit halves, so that each holds half of the
    // channels of both pixels; the permutation brings them into order.
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int i = 0; i < kPixelRun; i += 2) {
      const __m256i bytes = _mm256_permutevar8x32_epi32(
          _mm256_packus_epi16(words(sum[i * kStride]), words(sum[(i + 1) * kStride])), order);
      auto* const first = reinterpret_cast<__m128i*>(out + i * step);
      auto* const second = reinterpret_cast<__m128i*>(out + (i + 1) * step);
      _mm_storeu_si128(first, _mm256_castsi256_si128(bytes));
      _mm_storeu_si128(second, _mm256_extracti128_si256(bytes, 1));
    }
  }
