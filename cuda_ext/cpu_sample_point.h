// Coordinates in fixed point, and one sample at such a place, for images of any size.
#pragma once

#include <cstdint>

#include "cpu_mirror.h"
#include "cpu_sample.h"
#include "cpu_sample_grid.h"

namespace bindesc {

constexpr double kFarthest = 1 << 30;  // pixels; a place beyond is taken for this one
constexpr int64_t kHalfWeight = 1 << (kPointBits - kWeightBits - 1);

inline int64_t fixed(double pixels) {
  // Written so that a value that is not a number passes neither comparison.
  const double near = pixels < kFarthest ? (pixels > -kFarthest ? pixels : -kFarthest) : kFarthest;
  // Rounds by cutting a positive number, one instruction; llrint() would be a call.
  constexpr double kPositive = kFarthest * (1 << kPointBits);
  return static_cast<int64_t>(near * (1 << kPointBits) + (kPositive + 0.5)) -
         static_cast<int64_t>(kPositive);
}

// What a kernel computes; (x, y) holds kHalfWeight already.
inline uint8_t sample_mirrored(const Image& image, int64_t x, int64_t y) {
  constexpr int kOne = 1 << kWeightBits;
  const int fx = static_cast<int>(x >> (kPointBits - kWeightBits)) & (kOne - 1);
  const int fy = static_cast<int>(y >> (kPointBits - kWeightBits)) & (kOne - 1);
  const auto across = [&](int64_t line) {
    const uint8_t* pixels = image.data + mirrored(line, image.height) * image.width;
    return pixels[mirrored(x >> kPointBits, image.width)] * (kOne - fx) +
           pixels[mirrored((x >> kPointBits) + 1, image.width)] * fx;
  };
  const int64_t line = y >> kPointBits;
  const int sum = across(line) * (kOne - fy) + across(line + 1) * fy;
  return static_cast<uint8_t>((sum + kOne * kOne / 2) / (kOne * kOne));
}

}  // namespace bindesc
