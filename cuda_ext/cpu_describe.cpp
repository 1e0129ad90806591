#include "cpu_describe.h"

#include <optional>

#include "cpu_orient.h"
#include "cpu_parallel.h"

namespace bindesc {
namespace {

constexpr int kPatch = kRings * kDirections;
constexpr int kTogether = Network::kTogether;

struct Worker {
  Network::Worker codes;
  std::optional<Orienter> orienter;
  std::vector<uint8_t> cut, adapted;
  int32_t steps[kTogether * kAdaptationSteps];

  explicit Worker(const Networks& networks)
      : codes(*networks.codes), cut(size_t{kTogether} * kPatch), adapted(cut.size()) {
    if (networks.orientation) orienter.emplace(*networks.orientation);
  }
};

}  // namespace

bool describe_log_polar(const Kernel& kernel, const Networks& networks,
                        const std::vector<Image>& levels, const LogPolarPlaces& places,
                        const bool* upright, int threads, Stop& stop, uint8_t* codes) {
  const int outputs = networks.codes->outputs();
  return parallel_groups<Worker>(
      places.count, kTogether, threads, stop, [&] { return Worker(networks); },
      [&](Worker& worker, int64_t first, int some) {
        for (int i = 0; i < some; ++i) {
          sample_log_polar(kernel, levels, places.affine + 6 * (first + i),
                           worker.cut.data() + i * kPatch);
        }
        const uint8_t* patches = worker.cut.data();
        if (worker.orienter) {
          worker.orienter->run(kernel, patches, upright + first, some, worker.adapted.data(),
                               worker.steps);
          patches = worker.adapted.data();
        }
        const int32_t* sums = worker.codes.run(kernel, patches, some);
        pack_signs(sums, some, outputs, codes + first * (outputs / 8));
      });
}

}  // namespace bindesc
