// The loop that every instruction set shares; compilers vectorise it. Each includes it in a namespace
// of its own.

// The integer nearest to `value` in -2^22 to 2^22, ties to even: adding 1.5 * 2^23 leaves no digit
// for the fraction. Unlike std::nearbyint, it is vectorised for any processor.
static inline int32_t nearest_integer(float value) {
  const float shifted = value + 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4B400000;
}

constexpr int kMostPixels = 32 * 32;  // of a patch

static void normalise(const uint8_t* patch, int side, float scale, uint8_t* out) {
  const int pixels = side * side;
  int32_t sum = 0, squares = 0;  // at most 2^10 * 2^16
  for (int i = 0; i < pixels; ++i) {
    sum += patch[i];
    squares += patch[i] * patch[i];
  }
  // Exact: the integer has 37 bits at most, and the divisors are powers of two.
  const double variance =
      static_cast<double>(int64_t{pixels} * squares - int64_t{sum} * sum) / (double(pixels) * pixels);
  const auto factor = static_cast<float>(double{scale} / (std::sqrt(variance) + 1e-3));
  const auto mean = static_cast<float>(static_cast<double>(sum) / pixels);
  // Flat, and limited in 16 bits: a row by itself, or 32 bits, would leave vectors half empty.
  int16_t scaled[kMostPixels];
  for (int i = 0; i < pixels; ++i) {
    // No value is farther from the mean than sqrt(pixels) deviations: 2^10 is never exceeded.
    scaled[i] =
        static_cast<int16_t>(nearest_integer((static_cast<float>(patch[i]) - mean) * factor));
  }
  uint8_t flat[kMostPixels];
  for (int i = 0; i < pixels; ++i) {
    const int16_t low = scaled[i] < -127 ? -127 : scaled[i];
    flat[i] = static_cast<uint8_t>(kInputZero + (low > 127 ? 127 : low));
  }
  for (int y = 0; y < side; ++y) {
    std::memcpy(out + (y + 1) * (side + 2) + 1, flat + y * side, static_cast<size_t>(side));
  }
}
