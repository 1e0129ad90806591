// Runs every usable kernel against a plain double loop, for the sanitizers (test_cpu_kernels.py).
// Exits with 1 and says what differed, or prints the kernels that ran.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <tuple>

#include "cpu_corners.h"
#include "cpu_describe.h"
#include "cpu_kernels.h"
#include "cpu_log_polar.h"
#include "cpu_network.h"
#include "cpu_orient.h"
#include "cpu_sample.h"
#include "cpu_suppression.h"
#include "hamming.h"

namespace {

using namespace bindesc;

constexpr int kK = 5;

struct Expected {
  std::vector<int32_t> index, column_index;
  std::vector<uint16_t> distance, column_distance;
};

int hamming(const uint8_t* a, const uint8_t* b, int bytes) {
  int sum = 0;
  for (int i = 0; i < bytes; ++i) {
    for (int x = a[i] ^ b[i]; x; x &= x - 1) ++sum;
  }
  return sum;
}

Expected plain_loop(Codes query, Codes train, int k) {
  const auto n = static_cast<size_t>(query.rows), m = static_cast<size_t>(train.rows);
  const auto width = static_cast<size_t>(k);
  Expected out{std::vector<int32_t>(n * width, kNoIndex), std::vector<int32_t>(m, kNoIndex),
               std::vector<uint16_t>(n * width, kNoDistance),
               std::vector<uint16_t>(m, kNoDistance)};
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < m; ++j) {
      int32_t index = static_cast<int32_t>(j);
      auto d = static_cast<uint16_t>(hamming(query.data + i * static_cast<size_t>(query.bytes),
                                             train.data + j * static_cast<size_t>(train.bytes),
                                             query.bytes));
      if (d < out.column_distance[j]) {
        out.column_distance[j] = d;
        out.column_index[j] = static_cast<int32_t>(i);
      }
      for (size_t rank = i * width; rank < (i + 1) * width; ++rank) {
        if (std::tie(d, index) < std::tie(out.distance[rank], out.index[rank])) {
          std::swap(d, out.distance[rank]);
          std::swap(index, out.index[rank]);
        }
      }
    }
  }
  return out;
}

void require(bool good, const Kernel& kernel, const char* what, int bytes, size_t n, size_t m) {
  if (good) return;
  std::printf("%s: %s differs at %d bytes, %zu x %zu\n", kernel.name, what, bytes, n, m);
  std::exit(1);
}

void check(const Kernel& kernel, int bytes, size_t n, size_t m, std::mt19937& random) {
  std::vector<uint8_t> queries(n * static_cast<size_t>(bytes)),
      trains(m * static_cast<size_t>(bytes));
  for (uint8_t& byte : queries) byte = static_cast<uint8_t>(random() & 3);  // few values: many ties
  for (uint8_t& byte : trains) byte = static_cast<uint8_t>(random() & 3);
  const Codes query{queries.data(), static_cast<int64_t>(n), bytes};
  const Codes train{trains.data(), static_cast<int64_t>(m), bytes};
  Stop stop([] { return false; });
  for (int k : {1, 2, kK}) {
    const Expected expected = plain_loop(query, train, k);
    Expected found{std::vector<int32_t>(expected.index.size()), std::vector<int32_t>(m),
                   std::vector<uint16_t>(expected.index.size()), std::vector<uint16_t>(m)};
    require(nearest(kernel, query, train, k, 3, stop,
                    {found.index.data(), found.distance.data(), found.column_index.data(),
                     found.column_distance.data()}),
            kernel, "finishing", bytes, n, m);
    require(found.index == expected.index, kernel, "index", bytes, n, m);
    require(found.distance == expected.distance, kernel, "distance", bytes, n, m);
    require(found.column_index == expected.column_index, kernel, "column index", bytes, n, m);
    require(found.column_distance == expected.column_distance, kernel, "column distance", bytes, n,
            m);
  }
  Neighbours near;
  require(radius(kernel, query, train, 2 * bytes, 3, stop, near), kernel, "finishing", bytes, n, m);
  for (size_t i = 0; i < n; ++i) {
    size_t count = 0;
    for (size_t j = 0; j < m; ++j) {
      count += hamming(&queries[i * static_cast<size_t>(bytes)],
                       &trains[j * static_cast<size_t>(bytes)], bytes) <= 2 * bytes;
    }
    require(near.offsets[i + 1] - near.offsets[i] == static_cast<int64_t>(count), kernel,
            "radius count", bytes, n, m);
  }
}

// Patches inside, across and far outside of the image, with three threads, against the portable
// kernel with one.
void check_sampling(const Kernel& kernel, int side, std::mt19937& random) {
  constexpr int kWidth = 90, kHeight = 70, kCount = 300;
  std::vector<uint8_t> pixels(kWidth * kHeight);
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
  std::uniform_real_distribution<float> step(-1, 1), place(-20, 110);
  std::vector<float> affine;
  for (int i = 0; i < kCount; ++i) {
    const float c = step(random), s = step(random), far = i % 10 ? 1.0f : 1e9f;
    for (float value : {c, -s, far * place(random), s, c, place(random)}) affine.push_back(value);
  }
  const std::vector<int32_t> level(kCount, 0);
  const PatchPlaces places{affine.data(), level.data(), kCount, side};
  const size_t bytes = static_cast<size_t>(kCount * side * side);
  std::vector<uint8_t> expected(bytes), found(bytes);
  Stop stop([] { return false; });
  const std::vector<Image> levels{{pixels.data(), kWidth, kHeight}};
  require(sample_patches(kScalar, levels, places, 1, stop, expected.data()) &&
              sample_patches(kernel, levels, places, 3, stop, found.data()),
          kernel, "finishing", side, kCount, 0);
  require(found == expected, kernel, "sampling", side, kCount, 0);
}

// The same for log-polar patches, on three levels.
void check_log_polar(const Kernel& kernel, std::mt19937& random) {
  constexpr int kCount = 300;
  std::vector<std::vector<uint8_t>> pixels;
  std::vector<Image> levels;
  for (int64_t width : {90, 45, 23}) {
    pixels.emplace_back(static_cast<size_t>(width * width));
    for (uint8_t& pixel : pixels.back()) pixel = static_cast<uint8_t>(random());
    levels.push_back({pixels.back().data(), width, width});
  }
  std::uniform_real_distribution<float> part(-60, 60), place(-20, 110);
  std::vector<float> affine;
  for (int i = 0; i < kCount; ++i) {
    const float far = i % 10 ? 1.0f : 1e9f;
    for (float value : {part(random), part(random), far * place(random), part(random), part(random),
                        place(random)}) {
      affine.push_back(i % 3 ? value : value / 8);
    }
  }
  const LogPolarPlaces places{affine.data(), kCount};
  const size_t bytes = static_cast<size_t>(kCount * kRings * kDirections);
  std::vector<uint8_t> expected(bytes), found(bytes);
  Stop stop([] { return false; });
  require(sample_log_polar(kScalar, levels, places, 1, stop, expected.data()) &&
              sample_log_polar(kernel, levels, places, 3, stop, found.data()),
          kernel, "finishing", kRings, kCount, 0);
  require(found == expected, kernel, "log-polar sampling", kRings, kCount, 0);
}

// Corners everywhere in images of all small shapes, which lie at the end of their memory.
void check_corners(std::mt19937& random) {
  for (int64_t width : {1, 2, 5, 40}) {
    for (int64_t height : {1, 3, 17, 40}) {
      std::vector<uint8_t> pixels(static_cast<size_t>(width * height));
      for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
      std::vector<int32_t> xy;
      for (int32_t i = 0; i < width * height; ++i) {
        xy.push_back(static_cast<int32_t>(i % width));
        xy.push_back(static_cast<int32_t>(i / width));
      }
      const Image image{pixels.data(), width, height};
      const Corners corners{xy.data(), width * height};
      std::vector<int32_t> moments(xy.size());
      disc_moments(image, corners, moments.data());
      std::vector<double> offsets(xy.size());
      subpixel_offsets(image, corners, offsets.data());
      for (double offset : offsets) require(std::abs(offset) < 1, kScalar, "corners", width, height, 0);
    }
  }
}

// Places that fall on the outermost cells of the grid, and many that are one.
void check_suppression(std::mt19937& random) {
  for (int64_t count : {0, 1, 2, 500}) {
    std::vector<float> xy;
    for (int64_t i = 0; i < 2 * count; ++i) xy.push_back(static_cast<float>(random() % 40) / 3);
    std::vector<double> radius(static_cast<size_t>(count));
    suppression_radius(xy.data(), count, radius.data());
    for (size_t i = 0; i < radius.size(); ++i) {
      require(std::isfinite(radius[i]) == (i > 0), kScalar, "suppression", static_cast<int>(i),
              radius.size(), 0);
    }
  }
}

// A network of random weights, extreme ones among them.
Network random_network(int side, bool round, std::mt19937& random) {
  constexpr int kChannels[] = {32, 48, 16};
  std::vector<std::vector<int8_t>> weights;
  std::vector<std::vector<int32_t>> bias;
  std::vector<std::vector<float>> multiplier;
  std::vector<LayerSpec> layers;
  for (int i = 0, inputs = 1; i < 3; inputs = kChannels[i++]) {
    const int channels = kChannels[i], window = i < 2 ? 3 : side / 4;
    weights.emplace_back(static_cast<size_t>(channels * window * window * inputs));
    for (int8_t& weight : weights.back()) {
      const unsigned draw = random() % 256;
      weight = static_cast<int8_t>(draw < 64 ? 127 : draw < 128 ? -127 : static_cast<int>(draw) - 128);
    }
    bias.emplace_back(static_cast<size_t>(channels));
    for (int32_t& value : bias.back()) value = static_cast<int32_t>(random() % 20001) - 10000;
    multiplier.emplace_back(static_cast<size_t>(channels), 1.0f / (64.0f * static_cast<float>(inputs)));
    layers.push_back({weights.back().data(), channels, window, window, inputs, 2,
                      bias.back().data(), i < 2 ? multiplier.back().data() : nullptr});
  }
  return Network(layers, 32, round);
}

// On noise and on flat patches, with three threads, against the portable kernel with one.
void check_network(const Kernel& kernel, bool round, std::mt19937& random) {
  constexpr int kSide = 16, kCount = 21;
  const Network network = random_network(kSide, round, random);
  std::vector<uint8_t> patches(kCount * kSide * kSide, 200);
  for (size_t i = kSide * kSide; i < patches.size(); ++i) patches[i] = static_cast<uint8_t>(random());
  const size_t outputs = static_cast<size_t>(network.outputs());
  const auto sums = [&](const Kernel& with, int threads) {
    std::vector<int32_t> all(kCount * outputs);
    Stop stop([] { return false; });
    const bool done = network.run(
        with, patches.data(), kCount, threads, stop,
        [&](int64_t first, int count, const int32_t* some) {
          std::copy(some, some + static_cast<size_t>(count) * outputs,
                    all.begin() + first * static_cast<int64_t>(outputs));
        });
    require(done, with, "finishing", kSide, kCount, 0);
    return all;
  };
  require(sums(kernel, 3) == sums(kScalar, 1), kernel, "network", kSide, kCount, outputs);
}

// In one pass, with three threads, against one step after the other.
void check_describe(const Kernel& kernel, std::mt19937& random) {
  constexpr int kWidth = 90, kCount = 21, kPatch = kRings * kDirections;
  std::vector<uint8_t> pixels(kWidth * kWidth);
  for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random());
  const std::vector<Image> levels{{pixels.data(), kWidth, kWidth}};
  std::vector<float> affine;
  bool upright[kCount];
  for (int i = 0; i < kCount; ++i) {
    const auto place = [&] { return static_cast<float>(random() % kWidth); };
    const float x = place(), y = place();
    affine.insert(affine.end(), {20, -5, x, 5, 20, y});
    upright[i] = i % 3 == 0;
  }
  const LogPolarPlaces places{affine.data(), kCount};
  const Network codes = random_network(kRings, true, random);
  const Network orientation = random_network(kRings / 2, true, random);
  std::vector<uint8_t> cut(kCount * kPatch), adapted(cut.size());
  std::vector<int32_t> steps(kCount * kAdaptationSteps);
  Stop stop([] { return false; });
  sample_log_polar(kernel, levels, places, 1, stop, cut.data());
  orient(kernel, orientation, cut.data(), upright, kCount, 1, stop, adapted.data(), steps.data());
  const int outputs = codes.outputs();
  for (const bool turns : {false, true}) {
    std::vector<uint8_t> expected(static_cast<size_t>(kCount * outputs / 8)), found = expected;
    codes.run(kernel, turns ? adapted.data() : cut.data(), kCount, 1, stop,
              [&](int64_t first, int some, const int32_t* sums) {
                pack_signs(sums, some, outputs, expected.data() + first * (outputs / 8));
              });
    const bool done =
        describe_log_polar(kernel, {&codes, turns ? &orientation : nullptr}, levels, places,
                           upright, 3, stop, found.data());
    require(done && found == expected, kernel, "one pass", turns, kCount, 0);
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  check_corners(random);
  check_suppression(random);
  for (const Isa& isa : isas()) {
    if (!isa.usable) continue;
    setenv("BINDESC_ISA", isa.name.c_str(), 1);
    const Kernel& kernel = choose_kernel();
    for (int bytes : {1, 2, 8, 16, 31, 32, 64}) {
      for (auto [n, m] : {std::pair<size_t, size_t>{0, 3}, {3, 0}, {1, 1}, {65, 33}, {131, 97}}) {
        check(kernel, bytes, n, m, random);
      }
    }
    // Enough pairs for more than one thread, and more than one run of blocks.
    check(kernel, 8, 200, 4200, random);
    // From 768 train codes on, 256 bits may be compared by tables of 512 of them.
    for (auto [n, m] : {std::pair<size_t, size_t>{64, 768}, {70, 1281}}) {
      check(kernel, 32, n, m, random);
    }
    for (int side : {1, 15, 32}) check_sampling(kernel, side, random);
    check_log_polar(kernel, random);
    for (bool round : {false, true}) check_network(kernel, round, random);
    check_describe(kernel, random);
    std::printf("%s ok\n", kernel.name);
  }
}
