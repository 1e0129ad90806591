// The loop that every instruction set shares. Included by cpu_<isa>.cpp inside its namespace and
// its target region, after it has defined `struct V`, so each gets its own copy.
//
// V works on registers of 16-bit lanes, one train code a lane:
//   Reg, Mask, kLanes, kDeep (adding carries costs less than counting them)
//   load, store, set1, broadcast(const uint32_t*), bit_xor, bit_or, add, sub, min, max,
//   shift_right<n>
//   less, equal: Mask;  select(mask, yes, no);  bits(Mask): one bit a lane
//   carry(a, p, s): p ? ~s : a, the carry of a + b + c for p = a ^ b, s = a ^ b ^ c
//   full_add(a, b, c, sum&): returns the carry
//   popcount, add_counts, widen: counts in the ISA's own lanes, then in 16-bit lanes
//   low<n>(i), key<n>(d, low): d << n | i
//   iota, lowest(reg): the smallest lane
//
// Per pair of a query and a block it does: 16 xor and 7 carries (256 bits), 9 counts and their
// sum, one key, the rows' two smallest keys and the columns' smallest.

template <int kCount>
inline V::Reg count_all(const V::Reg* v) {
  if constexpr (kCount == 1) {
    return V::popcount(v[0]);
  } else if constexpr (kCount == 2 || !V::kDeep) {
    V::Reg sum = V::popcount(v[0]);
    for (int i = 1; i < kCount; ++i) sum = V::add_counts(sum, V::popcount(v[i]));
    return sum;
  } else {
    constexpr int kCarries = (kCount - 1) / 2;
    V::Reg carry[kCarries];
    V::Reg sum = v[0];
    for (int i = 0; i < kCarries; ++i) {
      carry[i] = V::full_add(sum, v[2 * i + 1], v[2 * i + 2], sum);
    }
    V::Reg twos = count_all<kCarries>(carry);
    V::Reg total = V::add_counts(V::add_counts(twos, twos), V::popcount(sum));
    if constexpr (kCount % 2 == 0) total = V::add_counts(total, V::popcount(v[kCount - 1]));
    return total;
  }
}

// Distances of one query to the codes of a block. In the basis of cpu_pack.h the words of a group
// are prefix sums p[i] = x[0] ^ ... ^ x[i] of the differing bits x, so the sums of a chain of full
// adders are already there and only the carries are computed.
template <int kWords>
inline V::Reg distances(const V::Reg* block, const uint32_t* query) {
  if constexpr (kWords > kGroup) {
    return V::add(distances<kGroup>(block, query),
                  distances<kWords - kGroup>(block + kGroup, query + kGroup));
  } else {
    constexpr int kCarries = (kWords - 1) / 2;
    V::Reg even = V::bit_xor(block[0], V::broadcast(query));
    V::Reg carry[kCarries + 1];
    for (int i = 0; i < kCarries; ++i) {
      const V::Reg odd = V::bit_xor(block[2 * i + 1], V::broadcast(query + 2 * i + 1));
      const V::Reg next = V::bit_xor(block[2 * i + 2], V::broadcast(query + 2 * i + 2));
      carry[i] = V::carry(even, odd, next);
      even = next;
    }
    V::Reg total = V::popcount(even);
    if constexpr (kWords % 2 == 0) {
      const V::Reg last = V::bit_xor(block[kWords - 1], V::broadcast(query + kWords - 1));
      total = V::add_counts(total, V::popcount(last));
    }
    if constexpr (kCarries > 0) {
      const V::Reg twos = count_all<kCarries>(carry);
      total = V::add_counts(total, V::add_counts(twos, twos));
    }
    return V::widen(total);
  }
}

// Rows' two smallest keys, lane by lane; the index of a key is the block within a run.
template <int kWords>
struct Top2Rows {
  static constexpr int kBits = index_bits(kWords);
  Best* best;
  int rows;
  V::Reg first[kTile], second[kTile];

  inline void start() {
    for (int q = 0; q < rows; ++q) first[q] = second[q] = V::set1(0xFFFF);
  }

  template <bool kTail>
  inline void update(int q, V::Reg, V::Reg key, int64_t, V::Reg unused, uint32_t) {
    if constexpr (kTail) key = V::bit_or(key, unused);
    const V::Reg old = first[q];
    second[q] = V::min(second[q], V::max(old, key));
    first[q] = V::min(old, key);
  }

  // The smallest key over the lanes, the lowest lane first; the codes before `base` are done.
  static inline uint64_t smallest(V::Reg keys, int64_t base, int& lane) {
    const uint16_t key = V::lowest(keys);
    lane = __builtin_ctz(V::bits(V::equal(keys, V::set1(key))));
    if (key == 0xFFFF) return kNone;
    const int64_t block = key & ((1 << kBits) - 1);
    return uint64_t(key >> kBits) << 32 | uint64_t(base + block * V::kLanes + lane);
  }

  inline void finish(int64_t first_block) {
    const int64_t base = first_block * V::kLanes;
    for (int q = 0; q < rows; ++q) {
      int lane, other;
      const uint64_t one = smallest(first[q], base, lane);
      // The runner-up is the winner's own second or another lane's first.
      const V::Mask winner = V::equal(V::iota(), V::set1(uint16_t(lane)));
      const uint64_t two = smallest(V::select(winner, second[q], first[q]), base, other);
      Best& row = best[q];
      if (one < row.first) {
        row.second = row.first < two ? row.first : two;
        row.first = one;
      } else if (one < row.second) {
        row.second = one;
      }
    }
  }
};

// Reports the codes nearer than each row's limit.
struct LimitRows {
  const Hits* hits;

  inline void start() {}
  inline void finish(int64_t) {}

  template <bool kTail>
  inline void update(int q, V::Reg d, V::Reg, int64_t block, V::Reg, uint32_t used) {
    uint32_t lanes = V::bits(V::less(d, V::set1(hits->limit[q])));
    if constexpr (kTail) lanes &= used;
    if (__builtin_expect(lanes != 0, 0)) {
      uint16_t distance[V::kLanes];
      V::store(distance, d);
      hits->report(hits->context, q, block * V::kLanes, distance, lanes);
    }
  }
};

template <int kWords, bool kTail, class Rows>
inline void sweep_block(const Blocks& blocks, const Tile& tile, const Columns& columns,
                        int64_t index, int index_in_run, Rows& rows) {
  constexpr int kBits = index_bits(kWords);
  V::Reg block[kWords];
  const uint16_t* words = blocks.words + index * kWords * V::kLanes;
  for (int w = 0; w < kWords; ++w) block[w] = V::load(words + w * V::kLanes);

  const V::Reg unused =
      kTail ? V::select(V::less(V::iota(), V::set1(uint16_t(blocks.tail))), V::set1(0), V::set1(0xFFFF))
            : V::set1(0);
  const uint32_t used = uint32_t((uint64_t{1} << blocks.tail) - 1);
  const V::Reg low = V::low<kBits>(index_in_run);
  V::Reg nearest = V::set1(0xFFFF);
  const uint32_t* query = tile.words;
  for (int q = 0; q < tile.rows; ++q, query += kWords + 1) {
    const V::Reg d = distances<kWords>(block, query);
    const V::Reg key = V::key<kBits>(d, low);
    rows.template update<kTail>(q, d, key, index, unused, used);
    // index_in_run is the same for all rows, so it may stay in the key until the end.
    nearest = V::min(nearest, V::add(key, V::broadcast(query + kWords)));
  }
  nearest = V::sub(nearest, V::set1(uint16_t(index_in_run)));

  uint16_t* key = columns.key + index * V::kLanes;
  uint16_t* number = columns.tile + index * V::kLanes;
  const V::Reg old = V::load(key);
  const V::Mask better =
      V::less(V::shift_right<kBits>(nearest), V::shift_right<kBits>(old));
  V::store(key, V::select(better, nearest, old));
  V::store(number, V::select(better, V::set1(tile.number), V::load(number)));
}

// Blocks go in runs as long as the index of a key allows.
template <int kWords, class Rows>
void sweep(const Blocks& blocks, const Tile& tile, const Columns& columns, Rows& rows) {
  constexpr int64_t kRun = 1 << index_bits(kWords);
  const int64_t full = blocks.tail == V::kLanes ? blocks.count : blocks.count - 1;
  for (int64_t first = 0; first < blocks.count; first += kRun) {
    const int64_t end = first + kRun < blocks.count ? first + kRun : blocks.count;
    rows.start();
    for (int64_t b = first; b < end; ++b) {
      const int in_run = int(b - first);
      if (b < full) {
        sweep_block<kWords, false>(blocks, tile, columns, b, in_run, rows);
      } else {
        sweep_block<kWords, true>(blocks, tile, columns, b, in_run, rows);
      }
    }
    rows.finish(first);
  }
}

template <int kWords>
void top2_words(const Blocks& blocks, const Tile& tile, const Columns& columns, Best* best) {
  Top2Rows<kWords> rows;
  rows.best = best;
  rows.rows = tile.rows;
  sweep<kWords>(blocks, tile, columns, rows);
}

void top2(const Blocks& blocks, const Tile& tile, const Columns& columns, Best* best) {
  switch (blocks.words_per_code) {
    case 1: return top2_words<1>(blocks, tile, columns, best);
    case 2: return top2_words<2>(blocks, tile, columns, best);
    case 4: return top2_words<4>(blocks, tile, columns, best);
    case 8: return top2_words<8>(blocks, tile, columns, best);
    case 16: return top2_words<16>(blocks, tile, columns, best);
    case 32: return top2_words<32>(blocks, tile, columns, best);
  }
}

void within(const Blocks& blocks, const Tile& tile, const Columns& columns, const Hits& hits) {
  LimitRows rows{&hits};
  switch (blocks.words_per_code) {
    case 1: return sweep<1>(blocks, tile, columns, rows);
    case 2: return sweep<2>(blocks, tile, columns, rows);
    case 4: return sweep<4>(blocks, tile, columns, rows);
    case 8: return sweep<8>(blocks, tile, columns, rows);
    case 16: return sweep<16>(blocks, tile, columns, rows);
    case 32: return sweep<32>(blocks, tile, columns, rows);
  }
}
