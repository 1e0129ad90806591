// Tables of partial distances with AVX-512 (F and BW): the kernel of cpu_table.h.
#include "cpu_kernels.h"
#include "cpu_table.h"

#if defined(BINDESC_X86)
#if !defined(__clang__)
// GCC takes the deliberately undefined operands inside its own intrinsics for a mistake (PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl")
#endif

#define BINDESC_INLINE inline __attribute__((always_inline))

namespace bindesc {
namespace avx512 {
namespace {

using Reg = __m512i;
constexpr int kPlane = 64;  // bytes

// Which bits make a triple, chosen so that `place` needs no bit-by-bit work: bit i of the first three
// 64-bit words, then the fourth word's bits i, i + 21 and i + 42; its bit 63 is left over.
constexpr int kThird = 21;
constexpr int plane_of(int triple, int member) {
  return triple < 64 ? 64 * member + triple : 192 + kThird * member + (triple - 64);
}

BINDESC_INLINE Reg full_add(Reg a, Reg b, Reg c, Reg& sum) {
  const Reg majority = _mm512_ternarylogic_epi32(a, b, c, 0xE8);
  sum = _mm512_ternarylogic_epi32(a, b, c, 0x96);
  return majority;
}

// Numbers to be added wait two a digit; the third makes a full adder. How many wait is known when
// this is compiled: two bits a digit in `state`.
using Waiting = Reg[kTableDigits][2];

constexpr int waiting(uint64_t state, int digit) { return int(state >> (2 * digit)) & 3; }

constexpr uint64_t after_add(uint64_t state, int digit) {
  const uint64_t one = uint64_t{1} << (2 * digit);
  return waiting(state, digit) < 2 ? state + one : after_add(state - one, digit + 1);
}

template <uint64_t kState, int kDigit>
BINDESC_INLINE void add(Waiting& wait, Reg x) {
  constexpr int kCount = waiting(kState, kDigit);
  if constexpr (kCount < 2) {
    wait[kDigit][kCount] = x;
  } else {
    Reg sum;
    const Reg carry = full_add(wait[kDigit][0], wait[kDigit][1], x, sum);
    wait[kDigit][0] = sum;
    add<kState, kDigit + 1>(wait, carry);
  }
}

// Adds what the table has for the triples from kTriple on, and for the bit left over.
template <int kTriple, uint64_t kState>
BINDESC_INLINE void add_triples(const uint8_t* table, const uint16_t* place, Waiting& wait) {
  const uint8_t* entry = table + kTriple * kTableStride + place[kTriple];
  add<kState, 0>(wait, _mm512_load_si512(entry));
  if constexpr (kTriple < kTableTriples) {
    constexpr uint64_t kNext = after_add(kState, 0);
    add<kNext, 1>(wait, _mm512_load_si512(entry + kPlane));
    add_triples<kTriple + 1, after_add(kNext, 1)>(table, place, wait);
  }
}

// Two numbers wait at digit 0 and one at each of the others but the last.
template <int kDigit>
BINDESC_INLINE void add_carries(const Waiting& wait, Reg carry, Reg* d) {
  if constexpr (kDigit == kTableDigits - 1) {
    d[kDigit] = carry;
  } else {
    d[kDigit] = _mm512_xor_si512(wait[kDigit][0], carry);
    add_carries<kDigit + 1>(wait, _mm512_and_si512(wait[kDigit][0], carry), d);
  }
}

BINDESC_INLINE void distances_to_block(const uint8_t* table, const uint16_t* place, Reg* d) {
  Waiting wait;
  add_triples<0, 0>(table, place, wait);
  d[0] = _mm512_xor_si512(wait[0][0], wait[0][1]);
  add_carries<1>(wait, _mm512_and_si512(wait[0][0], wait[0][1]), d);
}

// One more digit of a < b, from the lowest on: the borrow of a - b.
BINDESC_INLINE Reg less(Reg a, Reg b, Reg borrow) {
  return _mm512_ternarylogic_epi32(a, b, borrow, 0x8E);
}

// Numbers of so many digits, one a bit of the registers, to 512 integers.
BINDESC_INLINE void expand(const Reg* digits, int count, uint16_t* out) {
  alignas(64) uint32_t bits[kTableDigits][kTableBlock / 32];
  for (int i = 0; i < count; ++i) _mm512_store_si512(bits[i], digits[i]);
  for (int part = 0; part < kTableBlock / 32; ++part) {
    Reg sum = _mm512_setzero_si512();
    for (int i = 0; i < count; ++i) {
      sum = _mm512_or_si512(sum, _mm512_maskz_set1_epi16(bits[i][part], short(1 << i)));
    }
    _mm512_storeu_si512(out + 32 * part, sum);
  }
}

void set_limit(TableRow& row) {
  const Reg bits = _mm512_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128, 256, 0, 0, 0, 0, 0, 0, 0);
  const Reg distance = _mm512_set1_epi32(int(row.second >> 32));
  const __mmask16 set = _mm512_test_epi32_mask(distance, bits);
  _mm512_mask_store_epi32(row.limit, (1 << kTableDigits) - 1, _mm512_maskz_set1_epi32(set, -1));
}

// Queries pass in batches: which of them have new neighbours is only looked at when all have passed.
// A branch on each as it comes would be mispredicted too often, with the next one's work half done.
constexpr int kBatch = 8;
constexpr int kBatchDigits = 3;
constexpr int kNumberDigits = 9;  // of a query within a pass

using Digits = uint64_t[kTableDigits][kTableWords];

// Digits of the queries of a batch, each 0 or ~0 in 32 bits.
alignas(64) constexpr uint32_t kNumbers[kBatch][kBatchDigits] = {
    {0, 0, 0}, {~0u, 0, 0}, {0, ~0u, 0}, {~0u, ~0u, 0},
    {0, 0, ~0u}, {~0u, 0, ~0u}, {0, ~0u, ~0u}, {~0u, ~0u, ~0u}};

BINDESC_INLINE Reg choose(Reg mask, Reg yes, Reg no) {
  return _mm512_ternarylogic_epi32(mask, yes, no, 0xCA);
}

// Which queries of a pass are the nearest of a block's codes.
struct Found {
  Digits number;                // of a query in the pass
  uint64_t batch[kTableWords];  // codes with a new one in this batch
  uint64_t pass[kTableWords];   // and in this pass

  BINDESC_INLINE void end_batch(int first) {
    const Reg in_batch = _mm512_load_si512(batch);
    for (int i = kBatchDigits; i < kNumberDigits; ++i) {
      const Reg digit = _mm512_set1_epi32(-(first >> i & 1));
      _mm512_store_si512(number[i], choose(in_batch, digit, _mm512_load_si512(number[i])));
    }
    _mm512_store_si512(pass, _mm512_or_si512(in_batch, _mm512_load_si512(pass)));
    _mm512_store_si512(batch, _mm512_setzero_si512());
  }

  BINDESC_INLINE void store(int32_t first_query, int32_t* index) const {
    alignas(64) uint16_t numbers[kTableBlock];
    alignas(64) __mmask16 replace[kTableBlock / 16];
    Reg digits[kNumberDigits];
    for (int i = 0; i < kNumberDigits; ++i) digits[i] = _mm512_load_si512(number[i]);
    expand(digits, kNumberDigits, numbers);
    _mm512_store_si512(replace, _mm512_load_si512(pass));
    for (int part = 0; part < kTableBlock / 16; ++part) {
      const __m256i in_pass =
          _mm256_load_si256(reinterpret_cast<const __m256i*>(numbers + 16 * part));
      const Reg query = _mm512_add_epi32(_mm512_cvtepu16_epi32(in_pass),
                                         _mm512_set1_epi32(first_query));
      _mm512_mask_storeu_epi32(index + 16 * part, replace[part], query);
    }
  }
};

// The distances of a batch of queries to the codes of a block.
struct Batch {
  Digits digits[kBatch];
  uint64_t nearer[kBatch][kTableWords];  // codes that are nearer than the second neighbour
  uint64_t words;                        // which words of `nearer` are not 0

  // Takes the nearer codes of all queries, in one loop without a branch that depends on where they
  // are: mispredicted branches would cost more than the work.
  BINDESC_INLINE void improve(TableRow* rows, int64_t first_train) {
    while (words) {
      const int place = __builtin_ctzll(words), query = place / kTableWords;
      const int word = place % kTableWords;
      uint64_t& codes = nearer[query][word];
      const int bit = __builtin_ctzll(codes);
      codes &= codes - 1;
      words ^= uint64_t{codes == 0} << place;
      uint64_t distance = 0;
      for (int i = 0; i < kTableDigits; ++i) distance |= (digits[query][i][word] >> bit & 1) << i;
      const uint64_t found = distance << 32 | uint64_t(first_train + 64 * word + bit);
      TableRow& row = rows[query];
      const uint64_t loser = row.first < found ? found : row.first;
      row.first = row.first < found ? row.first : found;
      row.second = row.second < loser ? row.second : loser;
      set_limit(row);
    }
  }
};
static_assert(kBatch * kTableWords == 64);

void pass(const TablePass& pass) {
  TableColumns& columns = *pass.columns;
  alignas(64) Batch batch;
  alignas(64) Found found = {};
  const uint16_t* place = pass.places;
  for (int first = 0; first < pass.rows; first += kBatch) {
    const int count = pass.rows - first < kBatch ? pass.rows - first : kBatch;
    batch.words = 0;
    for (int query = 0; query < count; ++query, place += kTablePlaces) {
      Reg d[kTableDigits];
      distances_to_block(pass.table, place, d);
      const uint32_t* limit = pass.row[first + query].limit;
      Reg nearer = _mm512_setzero_si512(), better = nearer;
      for (int i = 0; i < kTableDigits; ++i) {
        _mm512_store_si512(batch.digits[query][i], d[i]);
        nearer = less(d[i], _mm512_set1_epi32(int(limit[i])), nearer);
        better = less(d[i], _mm512_load_si512(columns.digits[i]), better);
      }
      _mm512_store_si512(batch.nearer[query], nearer);
      const uint64_t words = _mm512_test_epi64_mask(nearer, nearer);
      batch.words |= words << (kTableWords * query);
      for (int i = 0; i < kTableDigits; ++i) {
        const Reg old = _mm512_load_si512(columns.digits[i]);
        _mm512_store_si512(columns.digits[i], choose(better, d[i], old));
      }
      for (int i = 0; i < kBatchDigits; ++i) {
        const Reg digit = _mm512_set1_epi32(int(kNumbers[query][i]));
        const Reg old = _mm512_load_si512(found.number[i]);
        _mm512_store_si512(found.number[i], choose(better, digit, old));
      }
      _mm512_store_si512(found.batch, _mm512_or_si512(better, _mm512_load_si512(found.batch)));
    }
    found.end_batch(first);
    batch.improve(pass.row + first, pass.first_train);
  }
  found.store(pass.first_query, columns.index);
}

// Transposes 64 codes, four matrices of 64 x 64 bits side by side: word w of row i becomes bit i of
// the codes' word w.
void transpose(__m256i* row) {
  const __m256i masks[] = {
      _mm256_set1_epi64x(0x00000000FFFFFFFF), _mm256_set1_epi64x(0x0000FFFF0000FFFF),
      _mm256_set1_epi64x(0x00FF00FF00FF00FF), _mm256_set1_epi64x(0x0F0F0F0F0F0F0F0F),
      _mm256_set1_epi64x(0x3333333333333333), _mm256_set1_epi64x(0x5555555555555555)};
  const __m256i* mask = masks;
  for (int step = 32; step; step /= 2, ++mask) {
    const __m128i shift = _mm_cvtsi32_si128(step);
    for (int start = 0; start < 64; start += 2 * step) {
      for (int i = start; i < start + step; ++i) {
        const __m256i a = row[i], b = row[i + step];
        const __m256i swap =
            _mm256_and_si256(_mm256_xor_si256(_mm256_srl_epi64(a, shift), b), *mask);
        row[i + step] = _mm256_xor_si256(b, swap);
        row[i] = _mm256_xor_si256(a, _mm256_sll_epi64(swap, shift));
      }
    }
  }
}

void slice(const uint8_t* codes, uint64_t* planes) {
  for (int word = 0; word < kTableWords; ++word) {
    __m256i row[64];
    for (int i = 0; i < 64; ++i) {
      const uint8_t* code = codes + (64 * word + i) * kTableBytes;
      row[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(code));
    }
    transpose(row);
    for (int i = 0; i < 64; ++i) {
      alignas(32) uint64_t part[4];
      _mm256_store_si256(reinterpret_cast<__m256i*>(part), row[i]);
      for (int w = 0; w < 4; ++w) planes[(64 * w + i) * kTableWords + word] = part[w];
    }
  }
}

// The digits of a' + b' + c', where a' is a or, for a query bit of 1, its complement.
template <int kPattern>
BINDESC_INLINE void build_entries(const Reg (&x)[3], uint8_t* entry) {
  const Reg flip = _mm512_set1_epi32(-1);
  const Reg a = kPattern & 1 ? _mm512_xor_si512(x[0], flip) : x[0];
  const Reg b = kPattern & 2 ? _mm512_xor_si512(x[1], flip) : x[1];
  const Reg c = kPattern & 4 ? _mm512_xor_si512(x[2], flip) : x[2];
  Reg sum;
  const Reg carry = full_add(a, b, c, sum);
  _mm512_store_si512(entry, sum);
  _mm512_store_si512(entry + kPlane, carry);
  if constexpr (kPattern < 7) build_entries<kPattern + 1>(x, entry + 2 * kPlane);
}

void build(const uint64_t* planes, uint8_t* table) {
  for (int triple = 0; triple < kTableTriples; ++triple) {
    Reg x[3];
    for (int i = 0; i < 3; ++i) x[i] = _mm512_load_si512(planes + plane_of(triple, i) * kTableWords);
    build_entries<0>(x, table + triple * kTableStride);
  }
  uint8_t* last = table + kTableTriples * kTableStride;
  const Reg x = _mm512_load_si512(planes + (kTableBits - 1) * kTableWords);
  _mm512_store_si512(last, x);
  _mm512_store_si512(last + kPlane, _mm512_xor_si512(x, _mm512_set1_epi32(-1)));
}

// Patterns 0 to 7, a byte each, to places: 2 * kPlane = 128 bytes a pattern.
BINDESC_INLINE void store_places(Reg patterns, uint16_t* out) {
  const Reg low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(patterns));
  const Reg high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(patterns, 1));
  _mm512_store_si512(out, _mm512_slli_epi16(low, 7));
  _mm512_store_si512(out + 32, _mm512_slli_epi16(high, 7));
}

BINDESC_INLINE Reg patterns(uint64_t a, uint64_t b, uint64_t c) {
  const Reg ab = _mm512_or_si512(_mm512_maskz_set1_epi8(a, 1), _mm512_maskz_set1_epi8(b, 2));
  return _mm512_or_si512(ab, _mm512_maskz_set1_epi8(c, 4));
}

void place(const uint8_t* queries, int rows, uint16_t* places) {
  constexpr uint64_t kMask = (uint64_t{1} << kThird) - 1;
  for (int row = 0; row < rows; ++row, queries += kTableBytes, places += kTablePlaces) {
    uint64_t word[4];
    __builtin_memcpy(word, queries, sizeof word);
    store_places(patterns(word[0], word[1], word[2]), places);
    const uint64_t last = word[3];
    const Reg rest = patterns(last & kMask, last >> kThird & kMask, last >> (2 * kThird) & kMask);
    const Reg low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(rest));
    _mm512_store_si512(places + 64, _mm512_slli_epi16(low, 7));
    places[kTableTriples] = uint16_t((last >> 63) * kPlane);
  }
}

void distances(const TableColumns& columns, uint16_t* out) {
  Reg digits[kTableDigits];
  for (int i = 0; i < kTableDigits; ++i) digits[i] = _mm512_load_si512(columns.digits[i]);
  expand(digits, kTableDigits, out);
}

}  // namespace
}  // namespace avx512

const TableKernel kTableAvx512{avx512::slice,     avx512::build, avx512::place,
                               avx512::set_limit, avx512::pass,  avx512::distances};

}  // namespace bindesc

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
