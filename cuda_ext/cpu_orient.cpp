#include "cpu_orient.h"

#include <cmath>
#include <cstring>

#include "cpu_log_polar.h"

namespace bindesc {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kColumnSteps = kTurnSteps / kDirections;  // from a column to the next
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

// Rounded, as the last digits of atan2 differ between processors.
int turn_steps(int32_t x, int32_t y) {
  return static_cast<int>(std::nearbyint(std::atan2(y, x) * (kTurnSteps / (2 * kPi))));
}

void turn(const uint8_t* patch, int steps, uint8_t* out) {
  const int whole = (steps + kTurnSteps) % kTurnSteps;
  const int column = whole / kColumnSteps, part = whole % kColumnSteps;
  for (int ring = 0; ring < kRings; ++ring) {
    uint8_t twice[2 * kDirections];  // so that no column needs to go round
    std::memcpy(twice, patch + ring * kDirections, kDirections);
    std::memcpy(twice + kDirections, patch + ring * kDirections, kDirections);
    const uint8_t* const from = twice + column;
    for (int x = 0; x < kDirections; ++x) {
      const int total = from[x] * (kColumnSteps - part) + from[x + 1] * part + kColumnSteps / 2;
      out[ring * kDirections + x] = static_cast<uint8_t>(total / kColumnSteps);
    }
  }
}

}  // namespace

bool orient(const Kernel& kernel, const Network& network, const uint8_t* patches,
            const bool* upright, int64_t count, int threads, Stop& stop, uint8_t* out,
            int32_t* steps) {
  const auto halves = [&](int64_t first, int some, uint8_t* buffer) -> const uint8_t* {
    for (int i = 0; i < some; ++i) halve(patches + (first + i) * kPatch, buffer + i * kPatch / 4);
    return buffer;
  };
  const auto turn_some = [&](int64_t first, int some, const int32_t* sums) {
    for (int64_t i = first; i < first + some; ++i, sums += network.outputs()) {
      steps[i] = upright[i] ? 0 : turn_steps(sums[0], sums[1]);
      turn(patches + i * kPatch, steps[i], out + i * kPatch);
    }
  };
  return network.run(kernel, Network::Input(halves), count, threads, stop, turn_some);
}

}  // namespace bindesc
