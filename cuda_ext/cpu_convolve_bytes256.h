// Inputs and weights as bytes in 256-bit registers; members of the vector types of AVX2 and AVX-VNNI
// whose products are of bytes. What is left to them is `dot`.

  static constexpr int kRows = 1;
  static constexpr int kBlocks = 1;
  struct Sum {
    __m256i low, high;  // eight channels each
  };
  using Input = __m256i;
  struct Weights {
    __m256i low, high;
  };

  static inline Input input(const uint8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  static inline Weights weights(const int8_t* p) {
    const auto* const v = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
  }

#include "cpu_convolve_store256.h"
