#include "cpu_orient.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu_log_polar.h"
#include "cpu_parallel.h"

namespace bindesc {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kTurnSteps = 256;                         // of all round
constexpr int kColumnSteps = kTurnSteps / kDirections;  // from a column to the next
constexpr int kStretchSteps = 64;                       // of a stretch of 1
constexpr int kMostStretch = kStretchSteps / 2;
constexpr int kRingSteps = 8;  // from a ring to the next
constexpr int kFarthest = 6;   // rings that a stretch takes a point out or in, at most
constexpr int kPatch = kRings * kDirections;

// Rounded means of 2 x 2 samples.
void halve(const uint8_t* patch, uint8_t* out) {
  for (int y = 0; y < kRings; y += 2, patch += 2 * kDirections) {
    for (int x = 0; x < kDirections; x += 2) {
      const int total =
          patch[x] + patch[x + 1] + patch[x + kDirections] + patch[x + kDirections + 1];
      *out++ = static_cast<uint8_t>((total + 2) / 4);
    }
  }
}

int to_steps(double angle, double steps) {
  return static_cast<int>(std::nearbyint(angle * (steps / (2 * kPi))));
}

// Rounded, as the last digits of atan2 differ between processors.
void adaptation_steps(const int32_t* sums, bool upright, int32_t* steps) {
  const double x = sums[0], y = sums[1], z = sums[2], w = sums[3];
  const double length = std::sqrt(std::max(x * x + y * y + z * z + w * w, 1.0));
  steps[0] = upright ? 0 : to_steps(std::atan2(y, x), kTurnSteps);
  steps[1] = to_steps(std::atan2(w, z), kTurnSteps / 2);
  steps[2] = static_cast<int>(std::nearbyint(kMostStretch * std::sqrt(z * z + w * w) / length));
}

// Where a stretch takes a direction, by its strength and by the direction's angle to it.
struct Bend {
  int16_t angle;
  int16_t rings;  // how much farther out, in steps
};

struct Bends {
  Bend at[kMostStretch + 1][kTurnSteps / 2];

  Bends() {
    const double ring = -std::log(kInnerRadius) / (kRings - 1);
    for (int i = 0; i <= kMostStretch; ++i) {
      const double strength = static_cast<double>(i) / kStretchSteps;
      for (int j = 0; j < kTurnSteps / 2; ++j) {
        const double angle = j * (2 * kPi / kTurnSteps);
        const double along = (1 + strength) * std::cos(angle);
        const double across = (1 - strength) * std::sin(angle);
        const double squared = (along * along + across * across) / (1 - strength * strength);
        const double rings = std::log(squared) / 2 / ring * kRingSteps;
        at[i][j] = {static_cast<int16_t>(to_steps(std::atan2(across, along), kTurnSteps)),
                    static_cast<int16_t>(std::nearbyint(rings))};
      }
    }
  }
};

// The first half of a patch's bytes and the second, by turns: the index, y above x in its binary
// digits, is rotated by one.
void interleave(const uint8_t* from, uint8_t* to) {
  for (int i = 0; i < kPatch / 2; ++i) {
    to[2 * i] = from[i];
    to[2 * i + 1] = from[i + kPatch / 2];
  }
}

// Five rotations change x and y over. Compilers make each one a few whole-register instructions.
void transpose(const uint8_t* from, uint8_t* to) {
  static_assert(kRings == 32 && kDirections == 32);
  uint8_t other[kPatch];
  interleave(from, to);
  interleave(to, other);
  interleave(other, to);
  interleave(to, other);
  interleave(other, to);
}

// A column's samples lie in a row here, with the first and the last repeated, so that one that comes
// from between two columns and two rings is the mean of four loads, of all its rings at once.
void adapt(const uint8_t* patch, const int32_t* steps, uint8_t* out) {
  static const Bends bends;
  constexpr int kLine = kRings + 2 * kFarthest + 4;  // one is loaded beyond; a multiple of 16
  alignas(32) uint8_t columns[kDirections + 1][kLine];
  uint8_t transposed[kDirections][kRings];
  transpose(patch, transposed[0]);
  for (int x = 0; x < kDirections; ++x) {
    uint8_t* const column = columns[x];
    std::memcpy(column + kFarthest, transposed[x], kRings);
    std::memset(column, column[kFarthest], kFarthest);
    std::memset(column + kFarthest + kRings, column[kFarthest + kRings - 1], kFarthest + 4);
  }
  std::memcpy(columns[kDirections], columns[0], kLine);

  alignas(32) uint8_t adapted[kDirections][kRings];
  const int turn = steps[0], axis = steps[1];
  for (int x = 0; x < kDirections; ++x) {
    const int angle = x * kColumnSteps + kColumnSteps / 2 + turn - axis + kTurnSteps;
    const int half = angle % (kTurnSteps / 2);
    const Bend& bend = bends.at[steps[2]][half];
    const int from = bend.angle + angle - half + axis - kColumnSteps / 2 + kTurnSteps;
    const int column = from / kColumnSteps % kDirections, part = from % kColumnSteps;
    const int ring = bend.rings + kFarthest * kRingSteps;
    const int ring_part = ring % kRingSteps;
    const auto weight = [](int a, int b) { return static_cast<uint16_t>(a * b); };
    const uint16_t near_left = weight(kRingSteps - ring_part, kColumnSteps - part);
    const uint16_t near_right = weight(kRingSteps - ring_part, part);
    const uint16_t far_left = weight(ring_part, kColumnSteps - part);
    const uint16_t far_right = weight(ring_part, part);
    const uint8_t* const left = columns[column] + ring / kRingSteps;
    const uint8_t* const right = columns[column + 1] + ring / kRingSteps;
    for (int i = 0; i < kRings; ++i) {
      const auto total = static_cast<uint16_t>(left[i] * near_left + right[i] * near_right +
                                               left[i + 1] * far_left + right[i + 1] * far_right +
                                               kColumnSteps * kRingSteps / 2);
      adapted[x][i] = static_cast<uint8_t>(total / (kColumnSteps * kRingSteps));
    }
  }
  transpose(adapted[0], out);
}

}  // namespace

Orienter::Orienter(const Network& network)
    : outputs_(network.outputs()),
      worker_(network),
      halves_(static_cast<size_t>(Network::kTogether * kPatch / 4)) {}

void Orienter::run(const Kernel& kernel, const uint8_t* patches, const bool* upright, int count,
                   uint8_t* out, int32_t* steps) {
  for (int i = 0; i < count; ++i) halve(patches + i * kPatch, halves_.data() + i * kPatch / 4);
  const int32_t* sums = worker_.run(kernel, halves_.data(), count);
  for (int i = 0; i < count; ++i, sums += outputs_, steps += kAdaptationSteps) {
    adaptation_steps(sums, upright[i], steps);
    adapt(patches + i * kPatch, steps, out + i * kPatch);
  }
}

bool orient(const Kernel& kernel, const Network& network, const uint8_t* patches,
            const bool* upright, int64_t count, int threads, Stop& stop, uint8_t* out,
            int32_t* steps) {
  return parallel_groups<Orienter>(
      count, Network::kTogether, threads, stop, [&] { return Orienter(network); },
      [&](Orienter& orienter, int64_t first, int some) {
        orienter.run(kernel, patches + first * kPatch, upright + first, some, out + first * kPatch,
                     steps + first * kAdaptationSteps);
      });
}

}  // namespace bindesc
