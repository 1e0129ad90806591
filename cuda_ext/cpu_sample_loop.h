// The loop that every instruction set shares. Included by cpu_sample_<isa>.cpp inside its namespace
// and its target region, after it has defined `struct V`.
//
// V works on 32-bit lanes, a sample each:
//   Reg, kLanes, set1, load(const int32_t*), add, shift_right<n>, shift_left<n>, bit_and, bit_or, sub
//   multiply_add(a, b): the products of the lower and of the upper 16 bits, with a sign, added up
//   gather(const uint8_t* base, offsets): four bytes each, of which the upper two do not matter
//   spread(a): the lowest two bytes to the lower and upper 16 bits
//   store(uint8_t*, reg): the lowest byte of each lane
//   product(float a, const float* b): a * b, rounded to the nearest integer, ties to even
//
// Why it is fast: one load brings two neighbouring pixels, and both directions of the interpolation
// are one multiply-add each, of two 16-bit halves.

// 2^7 - f and f in the two halves, where f are the fraction's digits.
inline V::Reg weights(V::Reg coordinate) {
  constexpr int kOne = 1 << kWeightBits;
  const V::Reg f =
      V::bit_and(V::shift_right<kPointBits - kWeightBits>(coordinate), V::set1(kOne - 1));
  return V::add(V::sub(V::shift_left<16>(f), f), V::set1(kOne));
}

inline V::Reg interpolate(const uint8_t* image, int width, V::Reg x, V::Reg y) {
  const V::Reg offset =
      V::add(V::multiply_add(V::shift_right<kPointBits>(y), V::set1(width)),
             V::shift_right<kPointBits>(x));
  const V::Reg across = weights(x);
  const V::Reg upper = V::multiply_add(V::spread(V::gather(image, offset)), across);
  const V::Reg lower =
      V::multiply_add(V::spread(V::gather(image + width, offset)), across);
  const V::Reg sum = V::multiply_add(V::bit_or(upper, V::shift_left<16>(lower)), weights(y));
  return V::shift_right<2 * kWeightBits>(V::add(sum, V::set1(1 << (2 * kWeightBits - 1))));
}

void sample(const SampleGrid& grid, uint8_t* out) {
  const int whole = grid.side - grid.side % V::kLanes;
  for (int v = 0; v < grid.side; ++v, out += grid.side) {
    const V::Reg row_x = V::set1(grid.row_x[v]), row_y = V::set1(grid.row_y[v]);
    const auto at = [&](int u) {
      return interpolate(grid.image, grid.width, V::add(row_x, V::load(grid.column_x + u)),
                         V::add(row_y, V::load(grid.column_y + u)));
    };
    for (int u = 0; u < whole; u += V::kLanes) V::store(out + u, at(u));
    if (whole < grid.side) {
      uint8_t last[V::kLanes];
      V::store(last, at(whole));
      __builtin_memcpy(out + whole, last, static_cast<unsigned>(grid.side - whole));
    }
  }
}

void sample(const SampleRings& rings, uint8_t* out) {
  const V::Reg centre_x = V::set1(rings.centre_x), centre_y = V::set1(rings.centre_y);
  for (int v = 0; v < rings.rings; ++v) {
    const float radius = rings.radius[v];
    for (int u = 0; u < kDirections; u += V::kLanes, out += V::kLanes) {
      const V::Reg x = V::add(centre_x, V::product(radius, rings.direction_x + u));
      const V::Reg y = V::add(centre_y, V::product(radius, rings.direction_y + u));
      V::store(out, interpolate(rings.image, rings.width, x, y));
    }
  }
}
