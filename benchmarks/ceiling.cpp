// The ceiling of the AVX-512 matcher: the same 256-bit distances from the same tables, with no search
// for the smallest. Prints the best pairs a second of: distances only, the whole matcher.
// Usage: ceiling N, a multiple of 512.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "../cuda_ext/cpu_pack.h"
#include "../cuda_ext/cpu_table_avx512.cpp"
#include "../cuda_ext/hamming.h"

using namespace bindesc;

__attribute__((target("avx512f,avx512bw,avx512vl"))) static void all_distances(const uint8_t* table,
                                                             const uint16_t* places, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    avx512::Reg d[kTableDigits];
    avx512::distances_to_block(table, places + row * kTablePlaces, d);
    for (avx512::Reg& digit : d) asm volatile("" : : "v"(digit));  // computed, though never used
  }
}

int main(int argc, char** argv) {
  const int64_t n = argc > 1 ? std::atoll(argv[1]) : 5120;
  std::mt19937 random(1);
  std::vector<uint8_t> queries(static_cast<size_t>(n) * 32), trains(queries.size());
  for (uint8_t& byte : queries) byte = static_cast<uint8_t>(random());
  for (uint8_t& byte : trains) byte = static_cast<uint8_t>(random());
  const auto rate = [&](auto run) {
    double shortest = 1e9;
    for (int repeat = 0; repeat < 15; ++repeat) {
      const auto start = std::chrono::steady_clock::now();
      run();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      shortest = std::min(shortest, taken.count());
    }
    return static_cast<double>(n) * static_cast<double>(n) / shortest;
  };

  constexpr int64_t kPass = 512;
  const auto planes = make_aligned<uint64_t>(int64_t{kTableBits} * kTableWords);
  const auto table = make_aligned<uint8_t>(kTableSize);
  const auto places = make_aligned<uint16_t>(n * kTablePlaces);
  const double ceiling = rate([&] {
    avx512::place(queries.data(), static_cast<int>(n), places.get());
    for (int64_t block = 0; block < n / kTableBlock; ++block) {
      avx512::slice(trains.data() + block * kTableBlock * kTableBytes, planes.get());
      avx512::build(planes.get(), table.get());
      for (int64_t first = 0; first < n; first += kPass) {
        all_distances(table.get(), places.get() + first * kTablePlaces, kPass);
      }
    }
  });

  const auto size = static_cast<size_t>(n);
  std::vector<int32_t> index(2 * size), column_index(size);
  std::vector<uint16_t> distance(2 * size), column_distance(size);
  Stop stop([] { return false; });
  const double matcher = rate([&] {
    nearest(choose_kernel(), {queries.data(), n, 32}, {trains.data(), n, 32}, 2, 1, stop,
            {index.data(), distance.data(), column_index.data(), column_distance.data()});
  });
  std::printf("%.4g %.4g\n", ceiling, matcher);
}
