// What the pixels around corners say. Whole pixels only; outside an image it is mirrored, without
// repeating the outermost pixel. All sums are of whole numbers, so every processor agrees.
#pragma once

#include <cstdint>

#include "cpu_sample.h"

namespace bindesc {

// Corners at `xy` [count][2].
struct Corners {
  const int32_t* xy;
  int64_t count;
};

// Writes [count][2]: the sums of brightness times x, and times y, from the corner, over a disc that
// is 31 pixels across.
void disc_moments(const Image& image, const Corners& corners, int32_t* out);

// Writes [count][2]: bindesc.corners.subpixel_offsets.
void subpixel_offsets(const Image& image, const Corners& corners, double* out);

}  // namespace bindesc
