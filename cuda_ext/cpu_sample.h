// Square patches out of an image pyramid, by bilinear interpolation in integers.
//
// Coordinates have 16 binary digits after the point and interpolation weights 7, so that a sample
// is two rounds of 16-bit multiply-adds, and every instruction set and number of threads gives the
// same bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "hamming.h"

namespace bindesc {

constexpr int kMaxPatchSide = 1024;
constexpr int kTaskPatches = 64;  // that a thread takes at a time, of any kind; about 0.1 ms

// One level of a pyramid: row-major, without gaps. Not owned.
struct Image {
  const uint8_t* data;
  int64_t width, height;
};

// Where to cut patches. `affine` [count][2][3] maps the place in a patch, (u, v, 1) in samples from
// its centre, to the coordinates of its level; the centre of a level's first pixel is (0, 0).
struct PatchPlaces {
  const float* affine;
  const int32_t* level;
  int64_t count;
  int side;  // 1 to kMaxPatchSide
};

// Writes [count][side][side] samples. Outside of its level an image is mirrored, without repeating
// the outermost pixel. Each level must be valid and every image not empty. False if stopped.
bool sample_patches(const Kernel& kernel, const std::vector<Image>& levels,
                    const PatchPlaces& places, int threads, Stop& stop, uint8_t* out);

}  // namespace bindesc
