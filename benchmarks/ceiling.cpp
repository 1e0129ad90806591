// The ceiling of the AVX-512 kernel: the same 256-bit distances in the same loop, only summed, with
// no search for the smallest. Prints the best pairs a second of: distances only, top-2 and columns.
// Usage: ceiling N
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "../cuda_ext/cpu_avx512.cpp"
#include "../cuda_ext/cpu_pack.h"

using namespace bindesc;

static uint64_t sum_distances(const Blocks& blocks, const Tile& tile) {
  using avx512::V;
  V::Reg sum = V::set1(0);
  for (int64_t b = 0; b < blocks.count; ++b) {
    V::Reg block[16];
    for (int w = 0; w < 16; ++w) block[w] = V::load(blocks.words + (b * 16 + w) * V::kLanes);
    const uint32_t* query = tile.words;
    for (int q = 0; q < tile.rows; ++q, query += 17) {
      sum = V::add(sum, avx512::distances<16>(block, query));
    }
  }
  return V::lowest(sum);
}

int main(int argc, char** argv) {
  const int64_t n = argc > 1 ? std::atoll(argv[1]) : 5000;
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(static_cast<size_t>(n) * 32);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  const Codes codes{bytes.data(), n, 32};
  const PackedBlocks packed(codes, avx512::V::kLanes);
  std::vector<uint16_t> key(static_cast<size_t>(packed.slots()), 0xFFFF), number(key.size());
  std::vector<uint32_t> words(kTile * 17);
  std::vector<Best> best(kTile);

  volatile uint64_t sink = 0;
  const auto time = [&](auto sweep) {
    double shortest = 1e9;
    for (int repeat = 0; repeat < 15; ++repeat) {
      const auto start = std::chrono::steady_clock::now();
      for (int64_t first = 0; first < n; first += kTile) {
        const int rows = static_cast<int>(n - first < kTile ? n - first : kTile);
        pack_tile(codes, first, rows, 16, words.data());
        sweep(Tile{words.data(), rows, static_cast<uint16_t>(first / kTile)});
      }
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      shortest = taken.count() < shortest ? taken.count() : shortest;
    }
    return static_cast<double>(n) * static_cast<double>(n) / shortest;
  };
  const double ceiling = time([&](const Tile& tile) { sink = sink + sum_distances(packed.blocks(), tile); });
  const double kernel = time([&](const Tile& tile) {
    for (Best& row : best) row = {kNone, kNone};
    kAvx512.top2(packed.blocks(), tile, {key.data(), number.data()}, best.data());
  });
  std::printf("%.4g %.4g\n", ceiling, kernel);
}
