// Runs the matcher on the simulated device and compares it with a plain loop; for the sanitizers.
// Prints one line a case, and returns 0 if all results agree.
#include <algorithm>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include "../hamming_cuda.h"

namespace {

using Bytes = std::vector<uint8_t>;

struct Neighbour {
  int index = -1;
  int distance = 65535;

  bool offer(int i, int d) {
    if (d >= distance) return false;
    *this = {i, d};
    return true;
  }
};

void require(int code) {
  if (code == 0) return;
  std::fprintf(stderr, "%s\n", bindesc_cuda_error());
  std::exit(2);
}

int bits_between(const uint8_t* a, const uint8_t* b, int width) {
  int bits = 0;
  for (int i = 0; i < width; ++i) bits += __builtin_popcount(a[i] ^ b[i]);
  return bits;
}

// Device arrays are exactly as long as they must be, so that the sanitizer sees any step outside.
template <class T>
struct Device {
  T* data = nullptr;
  explicit Device(size_t count) {
    require(bindesc_cuda_allocate(0, count * sizeof(T), reinterpret_cast<void**>(&data)));
  }
  Device(const Device&) = delete;
  ~Device() { require(bindesc_cuda_free(0, data)); }
};

Bytes random_codes(std::mt19937& random, size_t rows, int width, unsigned mask) {
  Bytes codes(rows * width);
  for (uint8_t& byte : codes) byte = random() & mask;
  return codes;
}

// The codes of one case, and a copy on the device.
struct Case {
  Bytes query, train;
  Device<uint8_t> d_query, d_train;
  bindesc_pair pair;

  Case(int n, int m, int width, unsigned mask, std::mt19937 random)
      : query(random_codes(random, n, width, mask)),
        train(random_codes(random, m, width, mask)),
        d_query(query.size()),
        d_train(train.size()),
        pair{d_query.data, d_train.data, n, m} {
    require(bindesc_cuda_copy(0, d_query.data, query.data(), query.size(), nullptr));
    require(bindesc_cuda_copy(0, d_train.data, train.data(), train.size(), nullptr));
  }
};

bool agrees(int n, int m, int width, unsigned mask) {
  const Case codes(n, m, width, mask, std::mt19937(n * 31 + m * 7 + width));
  const Bytes &query = codes.query, &train = codes.train;
  const bindesc_pair& pair = codes.pair;
  std::vector<Neighbour> first(n), second(n), column(m);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < m; ++j) {
      const int d = bits_between(&query[i * width], &train[j * width], width);
      const Neighbour old = first[i];
      if (first[i].offer(j, d))
        second[i] = old;
      else
        second[i].offer(j, d);
      column[j].offer(i, d);
    }

  Device<char> workspace(bindesc_cuda_workspace(&pair, 1, 2));
  Device<int32_t> index(2 * n), column_index(m), pairs(2 * n), count(1);
  Device<uint16_t> distance(2 * n), column_distance(m), match_distance(n);
  const bindesc_nearest nearest = {index.data, distance.data, column_index.data,
                                   column_distance.data};
  require(bindesc_cuda_nearest(0, &pair, 1, width, 2, workspace.data, &nearest, nullptr));
  const bindesc_filter filter = {0.9, 1, 8 * width, 1};
  const bindesc_matches matches = {pairs.data, match_distance.data, count.data};
  require(bindesc_cuda_match(0, &pair, 1, width, &filter, workspace.data, &matches, nullptr));

  bool good = true;
  int kept = 0;
  for (int i = 0; i < n; ++i) {
    good = good && index.data[2 * i] == first[i].index &&
           distance.data[2 * i] == first[i].distance &&
           index.data[2 * i + 1] == second[i].index &&
           distance.data[2 * i + 1] == second[i].distance;
    const bool alone = second[i].index < 0;
    const bool passes = first[i].index >= 0 && column[first[i].index].index == i &&
                        (alone || (first[i].distance < 0.9 * second[i].distance &&
                                   second[i].distance - first[i].distance >= 1));
    if (!passes) continue;
    good = good && kept < count.data[0] && pairs.data[2 * kept] == i &&
           pairs.data[2 * kept + 1] == first[i].index &&
           match_distance.data[kept] == first[i].distance;
    ++kept;
  }
  for (int j = 0; j < m; ++j)
    good = good && column_index.data[j] == column[j].index &&
           column_distance.data[j] == column[j].distance;
  good = good && kept == count.data[0];
  std::printf("%d x %d, %d bytes, %d matches: %s\n", n, m, width, kept, good ? "equal" : "WRONG");
  return good;
}

// The k nearest, and all within a radius.
bool agrees_on_lists(int n, int m, int width, unsigned mask, int k, int radius) {
  const Case codes(n, m, width, mask, std::mt19937(n + m + k));
  Device<char> workspace(bindesc_cuda_workspace(&codes.pair, 1, k));
  Device<int32_t> index(n * k), column_index(m);
  Device<uint16_t> distance(n * k), column_distance(m);
  const bindesc_nearest nearest = {index.data, distance.data, column_index.data,
                                   column_distance.data};
  require(bindesc_cuda_nearest(0, &codes.pair, 1, width, k, workspace.data, &nearest, nullptr));
  Device<int64_t> offsets(n + 1), total(1);
  bindesc_neighbours within = {offsets.data, nullptr, nullptr};
  require(bindesc_cuda_radius_count(0, &codes.pair, width, radius, &within, total.data, nullptr));
  Device<int32_t> within_index(total.data[0]);
  Device<uint16_t> within_distance(total.data[0]);
  within.index = within_index.data;
  within.distance = within_distance.data;
  require(bindesc_cuda_radius_fill(0, &codes.pair, width, radius, &within, nullptr));

  bool good = offsets.data[n] == total.data[0];
  int64_t place = 0;
  for (int i = 0; i < n; ++i) {
    std::vector<std::pair<int, int>> all(m);
    for (int j = 0; j < m; ++j)
      all[j] = {bits_between(&codes.query[i * width], &codes.train[j * width], width), j};
    std::sort(all.begin(), all.end());
    for (int r = 0; r < k; ++r) {
      const auto [bits, j] = r < m ? all[r] : std::pair(65535, -1);
      good = good && index.data[i * k + r] == j && distance.data[i * k + r] == bits;
    }
    good = good && offsets.data[i] == place;
    for (int r = 0; r < m && all[r].first <= radius; ++r, ++place)
      good = good && place < total.data[0] && within_index.data[place] == all[r].second &&
             within_distance.data[place] == all[r].first;
  }
  good = good && place == total.data[0];
  std::printf("%d x %d, %d bytes, %d nearest, %d within %d bits: %s\n", n, m, width, k,
              static_cast<int>(place), radius, good ? "equal" : "WRONG");
  return good;
}

}  // namespace

int main() {
  bool good = true;
  for (const int width : {2, 30, 32, 62})
    good = agrees_on_lists(131, 43, width, 0xFF, width / 2, 4 * width) && good;
  good = agrees_on_lists(1, 1, 32, 0x00, 3, 0) && good;
  good = agrees_on_lists(270, 131, 32, 0x11, 32, 20) && good;
  good = agrees_on_lists(2, 3000, 32, 0x11, 20, 20) && good;
  for (const int width : {2, 6, 8, 10, 30, 32, 34, 62, 64})
    good = agrees(67, 43, width, 0xFF) && good;
  for (const unsigned mask : {0xFFu, 0x01u, 0x00u}) {  // random, many ties, nothing but ties
    good = agrees(1, 1, 32, mask) && good;
    good = agrees(2, 1, 32, mask) && good;
    good = agrees(1, 200, 32, mask) && good;
    good = agrees(521, 131, 32, mask) && good;
    good = agrees(300, 257, 64, mask) && good;
  }
  return good ? 0 : 1;
}
