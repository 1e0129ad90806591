// Integer convolution: what a kernel computes, and the loop that all of them share.
//
// Why it is fast: a block of 16 to 48 output channels stays in registers for eight output pixels
// at a time, so that each weight that is loaded serves eight pixels and each pixel three registers;
// channels are innermost, so that a row of a 3x3 window is one run of bytes; a zero border spares
// every test for the edge; and a patch's maps are small enough for the first-level cache.
#pragma once

#include <cstdint>

namespace bindesc {

constexpr int kChannelBlock = 16;  // output channels whose weights stand together
constexpr int kPixelRows = 2;      // a pixel group is two runs ...
constexpr int kPixelRun = 4;       // ... of four pixels
constexpr int kFitSteps = 4;       // steps added up in 16 bits, if the weights are small enough

// sum over a window of uint8 inputs times int8 weights, in int32, for each output channel. The
// window is `rows` runs of 4 * steps bytes, `row_stride` bytes apart.
struct Convolution {
  const int8_t* weights;  // [channels / 16][rows * steps][16][4]
  const int32_t* bias;    // [channels]
  const int32_t* signed_bias;  // bias + 128 * sum of the weights: for inputs taken 128 lower
  // [channels]; the output is uint8 rint(max(sum + bias, 0) * multiplier), at most 255. Without
  // multipliers it is int32 sum + bias.
  const float* multiplier;
  int channels;
  int rows;
  int steps;
  int64_t row_stride;
  // How many steps of products AVX2 may add up in 16 bits, two neighbours first: kFitSteps, 1 or 0.
  int fit_steps;
};

// Where eight output pixels read and write, in bytes from the start of a map.
struct PixelGroup {
  int64_t in[kPixelRows];
  int64_t out[kPixelRows];
};

struct PixelGroups {
  const PixelGroup* groups;
  int count;
  int64_t in_step;   // from a pixel of a run to the next
  int64_t out_step;
};

constexpr int kInputZero = 128;  // what a normalised value of 0 becomes in the first layer's input

// A patch [side][side] with mean 0 and deviation 1, times `scale`, around kInputZero; `out` has a
// border. `side` is a power of two, at most 32, so that the variance is exact.
using Normalise = void (*)(const uint8_t* patch, int side, float scale, uint8_t* out);

using Convolve = void (*)(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);

}  // namespace bindesc
