// Log-polar patches out of an image pyramid: rings of samples around a keypoint.
//
// A ring's radius is a fixed multiple of that of the ring inside it, so that the centre is seen
// finely and what lies far out coarsely; turning a keypoint moves its patch along the rings, and
// another size moves it across them. Rings whose samples lie far apart are read from higher levels.
// How many levels higher than the inmost depends on the ring alone, so that a keypoint of twice the
// size, in an image of twice the size, has the same patch.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu_sample.h"
#include "cpu_sample_grid.h"

namespace bindesc {

constexpr int kRings = 32;
constexpr double kInnerRadius = 0.05;  // of the first ring, over that of the last
constexpr int kLastRadius = 24;        // of the last ring, in what pixels of the lowest level are near

// Where to cut patches. `affine` [count][2][3] maps the unit circle, which becomes the last ring,
// as (x, y, 1) to the image; the centre of its first pixel is (0, 0).
struct LogPolarPlaces {
  const float* affine;
  int64_t count;
};

// How many levels the patch at `affine` can make use of.
int log_polar_levels(const float* affine);

// Writes kRings x kDirections samples of the patch at `affine`, the first of a ring in the direction of
// -pi (1 - 1 / kDirections). A pixel i of a level is centred on pixel 2 i of the one before. Outside
// of its level an image is mirrored, without repeating the outermost pixel. There must be a level,
// and every image must have pixels.
void sample_log_polar(const Kernel& kernel, const std::vector<Image>& levels, const float* affine,
                      uint8_t* out);

// The same of all places, [count][kRings][kDirections], on several threads. False if stopped.
bool sample_log_polar(const Kernel& kernel, const std::vector<Image>& levels,
                      const LogPolarPlaces& places, int threads, Stop& stop, uint8_t* out);

}  // namespace bindesc
