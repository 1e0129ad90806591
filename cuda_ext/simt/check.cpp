// Runs the matcher on the simulated device and compares it with a plain loop; for the sanitizers.
// Prints one line a case, and returns 0 if all results agree.
#include <cstdio>
#include <random>
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

bool agrees(int n, int m, int width, unsigned mask) {
  std::mt19937 random(n * 31 + m * 7 + width);
  const Bytes query = random_codes(random, n, width, mask);
  const Bytes train = random_codes(random, m, width, mask);
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

  Device<uint8_t> d_query(query.size()), d_train(train.size());
  require(bindesc_cuda_copy(0, d_query.data, query.data(), query.size(), nullptr));
  require(bindesc_cuda_copy(0, d_train.data, train.data(), train.size(), nullptr));
  const bindesc_pair pair = {d_query.data, d_train.data, n, m};
  Device<char> workspace(bindesc_cuda_workspace(&pair, 1));
  Device<int32_t> index(2 * n), column_index(m), pairs(2 * n), count(1);
  Device<uint16_t> distance(2 * n), column_distance(m), match_distance(n);
  const bindesc_nearest nearest = {index.data, distance.data, column_index.data,
                                   column_distance.data};
  require(bindesc_cuda_nearest(0, &pair, 1, width, workspace.data, &nearest, nullptr));
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

}  // namespace

int main() {
  bool good = true;
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
