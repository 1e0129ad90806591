// Python's view of the CPU core: checks arguments, releases the GIL, calls; no arithmetic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "cpu_corners.h"
#include "cpu_database.h"
#include "cpu_describe.h"
#include "cpu_log_polar.h"
#include "cpu_network.h"
#include "cpu_orient.h"
#include "cpu_sample.h"
#include "cpu_suppression.h"
#include "hamming.h"

namespace nb = nanobind;
using namespace bindesc;

namespace {

using CodeArray = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T, size_t kAxes>
using Array = nb::ndarray<nb::numpy, T, nb::ndim<kAxes>, nb::c_contig>;

Codes codes(const CodeArray& array, const char* name) {
  const auto rows = static_cast<int64_t>(array.shape(0));
  const auto bytes = static_cast<int64_t>(array.shape(1));
  if (bytes < 1 || bytes > kMaxBytes) {
    throw std::invalid_argument(std::string(name) + ": 1 to " + std::to_string(kMaxBytes) +
                                " bytes a row, got " + std::to_string(bytes));
  }
  if (rows > INT32_MAX) {
    throw std::invalid_argument(std::string(name) + ": at most 2147483647 rows, got " +
                                std::to_string(rows));
  }
  return {array.data(), rows, static_cast<int>(bytes)};
}

// Not for a structured binding: until C++20 lambdas cannot capture one, and clang refuses it.
std::pair<Codes, Codes> code_pair(const CodeArray& query, const CodeArray& train) {
  const Codes q = codes(query, "query"), t = codes(train, "train");
  if (q.bytes != t.bytes) {
    throw std::invalid_argument("train: " + std::to_string(t.bytes) + " bytes a row, but query has " +
                                std::to_string(q.bytes));
  }
  return {q, t};
}

void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    throw std::invalid_argument(std::string(name) + ": " + std::to_string(low) + " to " +
                                std::to_string(high) + ", got " + std::to_string(value));
  }
}

// Runs `call(stop)` without the GIL; it returns false if stopped, which a pending Python signal
// (Ctrl-C) does, and then that signal's exception is raised.
template <class Call>
void without_gil(const Call& call) {
  bool finished;
  {
    nb::gil_scoped_release release;
    Stop stop([] {
      nb::gil_scoped_acquire acquire;
      return PyErr_CheckSignals() != 0;
    });
    finished = call(stop);
  }
  if (!finished) throw nb::python_error();
}

// An array that owns a vector's memory.
template <class T, size_t kAxes>
Array<T, kAxes> to_array(std::vector<T>&& values, const size_t (&shape)[kAxes]) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owner->data();
  nb::capsule capsule(owner.release(),
                      [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Array<T, kAxes>(data, kAxes, shape, capsule);
}

nb::tuple matches_tuple(Matches&& found) {
  const size_t count = found.distance.size();
  return nb::make_tuple(to_array<int32_t, 2>(std::move(found.pairs), {count, 2}),
                        to_array<uint16_t, 1>(std::move(found.distance), {count}));
}

using ImageArray = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using PointArray = nb::ndarray<const int32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using AffineArray = nb::ndarray<const float, nb::shape<-1, 2, 3>, nb::c_contig, nb::device::cpu>;
using LevelArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Image to_image(const ImageArray& image, const char* name) {
  if (image.size() == 0) {
    throw std::invalid_argument(std::string(name) + ": an image without pixels");
  }
  return {image.data(), static_cast<int64_t>(image.shape(1)),
          static_cast<int64_t>(image.shape(0))};
}

std::vector<Image> to_images(const std::vector<ImageArray>& levels) {
  std::vector<Image> images;
  for (const ImageArray& image : levels) images.push_back(to_image(image, "levels"));
  return images;
}

// Two values for each corner by `measure`, a function of cpu_corners.h.
template <class T, void (*measure)(const Image&, const Corners&, T*)>
Array<T, 2> py_corners(const ImageArray& image, const PointArray& xy) {
  const Image pixels = to_image(image, "image");
  const size_t count = xy.shape(0);
  std::vector<T> values(2 * count);
  {
    nb::gil_scoped_release release;
    measure(pixels, {xy.data(), static_cast<int64_t>(count)}, values.data());
  }
  return to_array<T, 2>(std::move(values), {count, 2});
}

using PlaceArray = nb::ndarray<const float, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;

Array<double, 1> py_suppression_radius(const PlaceArray& xy) {
  const size_t count = xy.shape(0);
  const bool finite = std::all_of(xy.data(), xy.data() + 2 * count,
                                  [](float value) { return std::isfinite(value); });
  if (!finite) throw std::invalid_argument("xy: every value must be finite");
  std::vector<double> radius(count);
  {
    nb::gil_scoped_release release;
    suppression_radius(xy.data(), static_cast<int64_t>(count), radius.data());
  }
  return to_array<double, 1>(std::move(radius), {count});
}

Array<uint8_t, 3> py_sample(const std::vector<ImageArray>& levels, const AffineArray& affine,
                            const LevelArray& level, int side, int threads) {
  check_range("side", side, 1, kMaxPatchSide);
  check_range("threads", threads, 1, INT32_MAX);
  const std::vector<Image> images = to_images(levels);
  const size_t count = affine.shape(0), width = static_cast<size_t>(side);
  check_range("level: the length", static_cast<int64_t>(level.shape(0)),
              static_cast<int64_t>(count), static_cast<int64_t>(count));
  for (size_t i = 0; i < count; ++i) {
    check_range("level", level.data()[i], 0, static_cast<int64_t>(levels.size()) - 1);
  }
  const Kernel& kernel = choose_kernel();
  std::vector<uint8_t> patches(count * width * width);
  const PatchPlaces places{affine.data(), level.data(), static_cast<int64_t>(count), side};
  without_gil([&](Stop& stop) {
    return sample_patches(kernel, images, places, threads, stop, patches.data());
  });
  return to_array<uint8_t, 3>(std::move(patches), {count, width, width});
}

Array<uint8_t, 3> py_sample_log_polar(const std::vector<ImageArray>& levels,
                                      const AffineArray& affine, int threads) {
  check_range("threads", threads, 1, INT32_MAX);
  check_range("levels: the length", static_cast<int64_t>(levels.size()), 1, INT32_MAX);
  const std::vector<Image> images = to_images(levels);
  const Kernel& kernel = choose_kernel();
  const size_t count = affine.shape(0);
  std::vector<uint8_t> patches(count * kRings * kDirections);
  without_gil([&](Stop& stop) {
    return sample_log_polar(kernel, images, {affine.data(), static_cast<int64_t>(count)}, threads,
                            stop, patches.data());
  });
  return to_array<uint8_t, 3>(std::move(patches), {count, kRings, kDirections});
}

int py_log_polar_levels(const AffineArray& affine) {
  int levels = 1;
  for (size_t i = 0; i < affine.shape(0); ++i) {
    levels = std::max(levels, log_polar_levels(affine.data() + 6 * i));
  }
  return levels;
}

nb::tuple py_nearest(const CodeArray& query, const CodeArray& train, int k, int threads) {
  const auto codes = code_pair(query, train);
  const Codes &q = codes.first, &t = codes.second;
  check_range("k", k, 1, kMaxK);
  check_range("threads", threads, 1, INT32_MAX);
  const Kernel& kernel = choose_kernel();
  const auto n = static_cast<size_t>(q.rows), m = static_cast<size_t>(t.rows);
  const auto width = static_cast<size_t>(k);
  std::vector<int32_t> index(n * width), column_index(m);
  std::vector<uint16_t> distance(n * width), column_distance(m);
  without_gil([&](Stop& stop) {
    return nearest(kernel, q, t, k, threads, stop,
                   {index.data(), distance.data(), column_index.data(), column_distance.data()});
  });
  return nb::make_tuple(to_array<int32_t, 2>(std::move(index), {n, width}),
                        to_array<uint16_t, 2>(std::move(distance), {n, width}),
                        to_array<int32_t, 1>(std::move(column_index), {m}),
                        to_array<uint16_t, 1>(std::move(column_distance), {m}));
}

void py_database(Database* self, const CodeArray& array) {
  const Codes packed = codes(array, "codes");
  const Kernel& kernel = choose_kernel();
  nb::gil_scoped_release release;
  new (self) Database(kernel, packed);
}

nb::tuple py_database_nearest(const Database& database, const CodeArray& query, int k,
                              int threads) {
  const Codes q = codes(query, "query");
  check_range("query: bytes a row", q.bytes, database.bytes(), database.bytes());
  check_range("k", k, 1, kMaxDatabaseK);
  check_range("threads", threads, 1, INT32_MAX);
  const auto n = static_cast<size_t>(q.rows), width = static_cast<size_t>(k);
  std::vector<int32_t> index(n * width);
  std::vector<uint16_t> distance(n * width);
  without_gil([&](Stop& stop) {
    return database.nearest(q, k, threads, stop, index.data(), distance.data());
  });
  return nb::make_tuple(to_array<int32_t, 2>(std::move(index), {n, width}),
                        to_array<uint16_t, 2>(std::move(distance), {n, width}));
}

nb::tuple py_radius(const CodeArray& query, const CodeArray& train, int64_t max_distance,
                    int threads) {
  const auto codes = code_pair(query, train);
  const Codes &q = codes.first, &t = codes.second;
  check_range("max_distance", max_distance, 0, INT32_MAX);
  check_range("threads", threads, 1, INT32_MAX);
  const Kernel& kernel = choose_kernel();
  Neighbours found;
  without_gil(
      [&](Stop& stop) { return radius(kernel, q, t, max_distance, threads, stop, found); });
  const size_t rows = found.offsets.size(), count = found.index.size();
  return nb::make_tuple(to_array<int64_t, 1>(std::move(found.offsets), {rows}),
                        to_array<int32_t, 1>(std::move(found.index), {count}),
                        to_array<uint16_t, 1>(std::move(found.distance), {count}));
}

nb::tuple py_match(const CodeArray& query, const CodeArray& train, bool mutual, double ratio,
                   int64_t margin, int64_t max_distance, int threads) {
  const auto codes = code_pair(query, train);
  const Codes &q = codes.first, &t = codes.second;
  check_range("threads", threads, 1, INT32_MAX);
  const Kernel& kernel = choose_kernel();
  const Filters filters{mutual, ratio, margin, max_distance};
  Matches found;
  without_gil([&](Stop& stop) { return match(kernel, q, t, filters, threads, stop, found); });
  return matches_tuple(std::move(found));
}

nb::list py_match_pairs(const std::vector<std::pair<CodeArray, CodeArray>>& pairs, bool mutual,
                        double ratio, int64_t margin, int64_t max_distance, int threads) {
  std::vector<std::pair<Codes, Codes>> inputs;
  for (const auto& [query, train] : pairs) inputs.push_back(code_pair(query, train));
  check_range("threads", threads, 1, INT32_MAX);
  const Kernel& kernel = choose_kernel();
  const Filters filters{mutual, ratio, margin, max_distance};
  std::vector<Matches> found;
  without_gil(
      [&](Stop& stop) { return match_pairs(kernel, inputs, filters, threads, stop, found); });
  nb::list out;
  for (Matches& matches : found) out.append(matches_tuple(std::move(matches)));
  return out;
}

using PatchArray =
    nb::ndarray<const uint8_t, nb::shape<-1, -1, -1>, nb::c_contig, nb::device::cpu>;

void check_patches(const Network& network, const PatchArray& patches) {
  const auto side = static_cast<size_t>(network.side());
  if (patches.shape(1) != side || patches.shape(2) != side) {
    const std::string wanted = std::to_string(side);
    throw std::invalid_argument("patches: expected (N, " + wanted + ", " + wanted + ")");
  }
}
template <class T, size_t kAxes>
using Input = nb::ndarray<const T, nb::ndim<kAxes>, nb::c_contig, nb::device::cpu>;
// weights (channels, height, width, inputs), bias, multiplier (None in the last layer), stride
using LayerTuple =
    std::tuple<Input<int8_t, 4>, Input<int32_t, 1>, std::optional<Input<float, 1>>, int>;

void py_network(Network* self, const std::vector<LayerTuple>& layers, float input_scale,
                bool round) {
  std::vector<LayerSpec> specs;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& [weights, bias, multiplier, stride] = layers[i];
    const std::string name = "layers[" + std::to_string(i) + "]";
    for (size_t axis = 0; axis < 4; ++axis) {
      check_range(name.c_str(), static_cast<int64_t>(weights.shape(axis)), 1, 4096);
    }
    if (bias.shape(0) != weights.shape(0) || (multiplier && multiplier->shape(0) != bias.shape(0))) {
      throw std::invalid_argument(name + ": one bias and multiplier a channel");
    }
    if (multiplier.has_value() == (i + 1 == layers.size())) {
      throw std::invalid_argument(name + ": every layer but the last has multipliers");
    }
    specs.push_back({weights.data(), static_cast<int>(weights.shape(0)),
                     static_cast<int>(weights.shape(1)), static_cast<int>(weights.shape(2)),
                     static_cast<int>(weights.shape(3)), stride, bias.data(),
                     multiplier ? multiplier->data() : nullptr});
  }
  new (self) Network(specs, input_scale, round);
}

Array<int32_t, 2> py_activations(const Network& network, const PatchArray& patches, int threads) {
  check_patches(network, patches);
  check_range("threads", threads, 1, INT32_MAX);
  const size_t rows = patches.shape(0), outputs = static_cast<size_t>(network.outputs());
  std::vector<int32_t> sums(rows * outputs);
  const Kernel& kernel = choose_kernel();
  without_gil([&](Stop& stop) {
    const auto store = [&](int64_t first, int count, const int32_t* some) {
      const auto width = static_cast<int64_t>(outputs);
      std::copy_n(some, count * width, sums.data() + first * width);
    };
    return network.run(kernel, patches.data(), static_cast<int64_t>(rows), threads, stop, store);
  });
  return to_array<int32_t, 2>(std::move(sums), {rows, outputs});
}

using FlagArray = nb::ndarray<const bool, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void check_orientation(const Network& network) {
  if (network.side() != kRings / 2 || !network.round()) {
    throw std::invalid_argument("orientation: not an orientation network");
  }
}

nb::tuple py_adapt(const Network& network, const PatchArray& patches, const FlagArray& upright,
                  int threads) {
  const size_t rows = patches.shape(0);
  check_orientation(network);
  if (patches.shape(1) != kRings || patches.shape(2) != kDirections) {
    throw std::invalid_argument("patches: expected (N, 32, 32)");
  }
  const auto count = static_cast<int64_t>(rows);
  check_range("upright: the length", static_cast<int64_t>(upright.shape(0)), count, count);
  check_range("threads", threads, 1, INT32_MAX);
  std::vector<uint8_t> adapted(rows * kRings * kDirections);
  std::vector<int32_t> steps(rows * kAdaptationSteps);
  const Kernel& kernel = choose_kernel();
  without_gil([&](Stop& stop) {
    return orient(kernel, network, patches.data(), upright.data(), count, threads, stop,
                  adapted.data(), steps.data());
  });
  return nb::make_tuple(to_array<uint8_t, 3>(std::move(adapted), {rows, kRings, kDirections}),
                        to_array<int32_t, 2>(std::move(steps), {rows, kAdaptationSteps}));
}

Array<uint8_t, 2> py_describe(const Network& network, const PatchArray& patches, int threads) {
  check_patches(network, patches);
  check_range("threads", threads, 1, INT32_MAX);
  const size_t rows = patches.shape(0), bytes = static_cast<size_t>(network.outputs() / 8);
  std::vector<uint8_t> codes(rows * bytes);
  const Kernel& kernel = choose_kernel();
  without_gil([&](Stop& stop) {
    const auto pack = [&](int64_t first, int count, const int32_t* sums) {
      pack_signs(sums, count, network.outputs(),
                 codes.data() + first * static_cast<int64_t>(bytes));
    };
    return network.run(kernel, patches.data(), static_cast<int64_t>(rows), threads, stop, pack);
  });
  return to_array<uint8_t, 2>(std::move(codes), {rows, bytes});
}

Array<uint8_t, 2> py_describe_log_polar(const Network& network, const Network* orientation,
                                        const std::vector<ImageArray>& levels,
                                        const AffineArray& affine, const FlagArray& upright,
                                        int threads) {
  if (network.side() != kRings || !network.round()) {
    throw std::invalid_argument("network: not of log-polar patches");
  }
  if (orientation) check_orientation(*orientation);
  const size_t rows = affine.shape(0), bytes = static_cast<size_t>(network.outputs() / 8);
  const auto count = static_cast<int64_t>(rows);
  check_range("upright: the length", static_cast<int64_t>(upright.shape(0)), count, count);
  check_range("threads", threads, 1, INT32_MAX);
  check_range("levels: the length", static_cast<int64_t>(levels.size()), 1, INT32_MAX);
  const std::vector<Image> images = to_images(levels);
  const Kernel& kernel = choose_kernel();
  std::vector<uint8_t> codes(rows * bytes);
  without_gil([&](Stop& stop) {
    return describe_log_polar(kernel, {&network, orientation}, images, {affine.data(), count},
                              upright.data(), threads, stop, codes.data());
  });
  return to_array<uint8_t, 2>(std::move(codes), {rows, bytes});
}

}  // namespace

NB_MODULE(_cpu, m) {
  nb::set_leak_warnings(false);  // a thread that ends with the process may still hold a network
  m.doc() =
      "The CPU core: exact Hamming neighbours of packed codes (see bindesc.matching) and the "
      "integer network (see bindesc.models.integer).";
  nb::class_<Network>(m, "Network", "A network of bindesc.models.integer, ready to run.")
      .def("__init__", &py_network, nb::arg("layers"), nb::arg("input_scale"),
           nb::arg("round") = false,
           "layers: (weights (O, H, W, I) int8, bias (O,) int32, multiplier (O,) float32 or None, "
           "stride) each; round: rows go round.")
      .def("describe", &py_describe, nb::arg("patches").noconvert(), nb::arg("threads"),
           "(N, S, S) uint8 to packed codes, (N, outputs / 8) uint8: bit = output >= 0.")
      .def("activations", &py_activations, nb::arg("patches").noconvert(), nb::arg("threads"),
           "(N, S, S) uint8 to (N, outputs) int32.")
      .def("adapt", &py_adapt, nb::arg("patches").noconvert(), nb::arg("upright").noconvert(),
           nb::arg("threads"),
           "Of an orientation network: (N, 32, 32) uint8 log-polar patches, turned but for the "
           "upright ones and stretched, and how, (N, 3) int32.");
  nb::class_<Database>(m, "Database", "Codes packed once, to be searched many times.")
      .def("__init__", &py_database, nb::arg("codes").noconvert(), "codes: (M, B) uint8, copied.")
      .def("nearest", &py_database_nearest, nb::arg("query").noconvert(), nb::arg("k"),
           nb::arg("threads"), "(index, distance), (N, k) each, of reference.Nearest.");
  m.def("nearest", &py_nearest, nb::arg("query").noconvert(), nb::arg("train").noconvert(), nb::arg("k"),
        nb::arg("threads"),
        "(index, distance, column_index, column_distance) of reference.Nearest.");
  m.def("radius", &py_radius, nb::arg("query").noconvert(), nb::arg("train").noconvert(), nb::arg("max_distance"),
        nb::arg("threads"), "(offsets, index, distance) of matching.Neighbours.");
  m.def("match", &py_match, nb::arg("query").noconvert(), nb::arg("train").noconvert(), nb::arg("mutual"),
        nb::arg("ratio"), nb::arg("margin"), nb::arg("max_distance"), nb::arg("threads"),
        "(pairs, distance) of types.Matches; a negative value switches a filter off.");
  m.def("match_pairs", &py_match_pairs, nb::arg("pairs"), nb::arg("mutual"), nb::arg("ratio"),
        nb::arg("margin"), nb::arg("max_distance"), nb::arg("threads"),
        "match() of each (query, train) pair.");
  m.def("isa", [] { return std::string(kernel_name(choose_kernel())); },
        "The instruction set that a call made now would use.");
  m.def(
      "isas",
      [] {
        nb::dict out;
        for (const Isa& isa : isas()) out[isa.name.c_str()] = isa.usable;
        return out;
      },
      "The instruction sets in this build, the fastest first, and whether they run here.");
  m.def("disc_moments", &py_corners<int32_t, disc_moments>, nb::arg("image").noconvert(),
        nb::arg("xy").noconvert(),
        "Sums of brightness times x, and times y, over the discs of corners.intensity_centroid: "
        "(N, 2) int32.");
  m.def("subpixel_offsets", &py_corners<double, subpixel_offsets>, nb::arg("image").noconvert(),
        nb::arg("xy").noconvert(), "corners.subpixel_offsets at (N, 2) int32 pixels.");
  m.def("suppression_radius", &py_suppression_radius, nb::arg("xy").noconvert(),
        "detectors.suppression_radius.");
  m.def("sample", &py_sample, nb::arg("levels").noconvert(), nb::arg("affine").noconvert(),
        nb::arg("level").noconvert(), nb::arg("side"), nb::arg("threads"),
        "The patches of patches.extract_patches: (N, side, side) uint8 from the levels of a pyramid.");
  m.def("sample_log_polar", &py_sample_log_polar, nb::arg("levels").noconvert(),
        nb::arg("affine").noconvert(), nb::arg("threads"),
        "The patches of log_polar: (N, rings, directions) uint8 from the levels of a pyramid.");
  m.def("describe_log_polar", &py_describe_log_polar, nb::arg("network"),
        nb::arg("orientation").none(), nb::arg("levels").noconvert(), nb::arg("affine").noconvert(),
        nb::arg("upright").noconvert(), nb::arg("threads"),
        "What sample_log_polar, adapt (if there is an orientation network) and describe make: "
        "(N, outputs / 8) uint8.");
  m.def("log_polar_levels", &py_log_polar_levels, nb::arg("affine").noconvert(),
        "How many levels the patches at affine (N, 2, 3) can make use of.");
}
