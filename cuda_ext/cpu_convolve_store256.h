// How sums in two 256-bit registers become output; members of the vector types of AVX2 and AVX-VNNI.

  static inline __m256i biased(__m256i sum, const int32_t* bias) {
    return _mm256_add_epi32(sum, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bias)));
  }
  static inline void store(const Sum& sum, const int32_t* bias, int32_t* out) {
    auto* const v = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(v, biased(sum.low, bias));
    _mm256_storeu_si256(v + 1, biased(sum.high, bias + 8));
  }
  static inline __m256i scaled(__m256i sum, const int32_t* bias, const float* multiplier) {
    const __m256i positive = _mm256_max_epi32(biased(sum, bias), _mm256_setzero_si256());
    return _mm256_cvtps_epi32(
        _mm256_mul_ps(_mm256_cvtepi32_ps(positive), _mm256_loadu_ps(multiplier)));
  }
  static inline void store(const Sum& sum, const int32_t* bias, const float* multiplier,
                           uint8_t* out) {
    // Packing works within 128-bit halves; the permutation brings the channels into order.
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(scaled(sum.low, bias, multiplier),
                            scaled(sum.high, bias + 8, multiplier + 8)),
        0xD8);
    const __m256i limited = _mm256_min_epu16(words, _mm256_set1_epi16(0xFF));
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(out),
        _mm_packus_epi16(_mm256_castsi256_si128(limited), _mm256_extracti128_si256(limited, 1)));
  }
