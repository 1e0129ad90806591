#include "cpu_pack.h"

#include <algorithm>
#include <cstring>

namespace bindesc {
namespace {

// One code, padded to `words`, in the basis.
void to_basis(const uint8_t* code, int bytes, int words, uint16_t* out) {
  uint16_t raw[kMaxBytes / 2] = {};
  std::memcpy(raw, code, static_cast<size_t>(bytes));
  const int group = std::min(words, kGroup);
  for (int start = 0; start < words; start += group) {
    uint16_t sum = 0;
    for (int i = start; i < start + group; ++i) out[i] = sum = uint16_t(sum ^ raw[i]);
    if (group % 2 == 0) out[start + group - 1] = raw[start + group - 1];
  }
}

}  // namespace

int padded_words(int bytes) {
  int words = 1;
  while (2 * words < bytes) words *= 2;
  return words;
}

PackedBlocks::PackedBlocks(Codes train, int lanes) : lanes_(lanes) {
  const int words = padded_words(train.bytes);
  const int64_t count = (train.rows + lanes - 1) / lanes;
  words_ = make_aligned<uint16_t>(count * lanes * words);
  blocks_ = {words_.get(), count, words, static_cast<int>(train.rows - (count - 1) * lanes)};
  uint16_t basis[kMaxBytes / 2];
  for (int64_t b = 0; b < count; ++b) {
    uint16_t* block = words_.get() + b * lanes * words;
    const int used = b + 1 < count ? lanes : blocks_.tail;
    if (used < lanes) std::fill_n(block, lanes * words, uint16_t{0});
    for (int lane = 0; lane < used; ++lane) {
      to_basis(train.data + (b * lanes + lane) * train.bytes, train.bytes, words, basis);
      for (int w = 0; w < words; ++w) block[w * lanes + lane] = basis[w];
    }
  }
}

void pack_tile(Codes query, int64_t first, int rows, int words, uint32_t* out) {
  constexpr uint32_t kTwice = 0x10001;
  uint16_t basis[kMaxBytes / 2];
  for (int row = 0; row < rows; ++row) {
    to_basis(query.data + (first + row) * query.bytes, query.bytes, words, basis);
    for (int w = 0; w < words; ++w) *out++ = basis[w] * kTwice;
    *out++ = static_cast<uint32_t>(row) * kTwice;
  }
}

}  // namespace bindesc
