// What a sampling kernel (one instruction set) reads: samples that lie inside their image.
//
// Plain data only, as in cpu_kernel.h.
#pragma once

#include <cstdint>

namespace bindesc {

constexpr int kPointBits = 16;   // binary digits after the point of a coordinate
constexpr int kWeightBits = 7;   // of an interpolation weight: 255 << 7 fits 16 bits with a sign
constexpr int kSampleLanes = 16; // columns come in multiples of this

// Sample (u, v) lies at x = column_x[u] + row_x[v], y = column_y[u] + row_y[v]. Half a step of the
// weights is already added, so that cutting digits off rounds.
struct SampleGrid {
  const uint8_t* image;
  int width;                             // of the image, below 2^15
  const int32_t *column_x, *column_y;    // side, rounded up to kSampleLanes
  const int32_t *row_x, *row_y;          // side
  int side;
};

constexpr int kDirections = 32;  // samples on a ring, a multiple of kSampleLanes

// Sample u of ring v lies at x = centre_x + rint(radius[v] * direction_x[u]), y likewise. Half a
// step of the weights is already added to the centre.
struct SampleRings {
  const uint8_t* image;
  int width;                                 // of the image, below 2^15
  const float *direction_x, *direction_y;    // kDirections
  const float* radius;                       // rings; times 2^kPointBits
  int32_t centre_x, centre_y;
  int rings;
};

// Every pixel (x, y) to (x + 3, y + 1) of a sample must be readable.
using Sample = void (*)(const SampleGrid&, uint8_t* out);
using SampleLogPolar = void (*)(const SampleRings&, uint8_t* out);

}  // namespace bindesc
