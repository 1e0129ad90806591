#include "cpu_suppression.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace bindesc {
namespace {

// The points so far, in square cells of which there are about as many as points in the end: the
// nearest of i points is some sqrt(N / i) cells away, so all searches visit O(N log N) cells. That is
// for points that are spread, as keypoints are: a cell that holds most of them makes it O(N^2).
class Grid {
 public:
  Grid(const float* xy, int64_t count) : xy_(xy), next_(static_cast<size_t>(count)) {
    double side[2];
    for (int axis = 0; axis < 2; ++axis) {
      double low = xy[axis], high = low;
      for (int64_t i = 1; i < count; ++i) {
        low = std::min<double>(low, xy[2 * i + axis]);
        high = std::max<double>(high, xy[2 * i + axis]);
      }
      start_[axis] = low;
      side[axis] = high - low;
    }
    const auto number = static_cast<double>(count);
    cell_ = std::max(std::sqrt(side[0] / number * side[1]), std::max(side[0], side[1]) / number);
    if (!(cell_ > 0)) cell_ = 1;  // all points are one
    for (int axis = 0; axis < 2; ++axis) cells_[axis] = static_cast<int64_t>(side[axis] / cell_) + 1;
    first_.assign(static_cast<size_t>(cells_[0] * cells_[1]), -1);
  }

  void add(int64_t i) {
    int64_t& first = first_[index(place(i, 0), place(i, 1))];
    next_[static_cast<size_t>(i)] = first;
    first = i;
  }

  // From point `i` to the nearest that was added; infinite if none was.
  double distance(int64_t i) const {
    const int64_t column = place(i, 0), row = place(i, 1);
    const int64_t farthest = std::max({column, cells_[0] - 1 - column, row, cells_[1] - 1 - row});
    double best = std::numeric_limits<double>::infinity();  // squared
    for (int64_t ring = 0; ring <= farthest; ++ring) {
      // Nothing nearer is left, but for a point that rounding put into the next cell.
      const double passed = (static_cast<double>(ring - 1) - 1e-6) * cell_;
      if (ring > 1 && best <= passed * passed) break;
      for (int64_t y = std::max<int64_t>(row - ring, 0);
           y <= std::min(row + ring, cells_[1] - 1); ++y) {
        const bool whole = y == row - ring || y == row + ring || ring == 0;
        for (int64_t x = column - ring; x <= column + ring; x += whole ? 1 : 2 * ring) {
          if (x >= 0 && x < cells_[0]) look(i, index(x, y), best);
        }
      }
    }
    return std::sqrt(best);
  }

 private:
  int64_t place(int64_t i, int axis) const {
    return static_cast<int64_t>((xy_[2 * i + axis] - start_[axis]) / cell_);
  }

  size_t index(int64_t x, int64_t y) const { return static_cast<size_t>(y * cells_[0] + x); }

  void look(int64_t i, size_t cell, double& best) const {
    for (int64_t j = first_[cell]; j >= 0 && best > 0; j = next_[static_cast<size_t>(j)]) {
      const double dx = static_cast<double>(xy_[2 * i]) - xy_[2 * j];
      const double dy = static_cast<double>(xy_[2 * i + 1]) - xy_[2 * j + 1];
      best = std::min(best, dx * dx + dy * dy);
    }
  }

  const float* xy_;
  double start_[2], cell_;
  int64_t cells_[2];
  std::vector<int64_t> first_, next_;  // a cell's newest point, and a point's elder; -1: none
};

}  // namespace

void suppression_radius(const float* xy, int64_t count, double* out) {
  if (!count) return;
  Grid grid(xy, count);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = grid.distance(i);
    grid.add(i);
  }
}

}  // namespace bindesc
