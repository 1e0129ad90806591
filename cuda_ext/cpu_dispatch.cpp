// Which kernel a call uses.
#include <cstdlib>
#include <stdexcept>

#include "cpu_kernels.h"
#include "hamming.h"

namespace bindesc {
namespace {

const Kernel* const kKernels[] = {
#if defined(BINDESC_X86)
    &kAvx512,
#if defined(BINDESC_AVX_VNNI)
    &kAvxVnni,
#endif
    &kAvx2,
#elif defined(BINDESC_ARM)
#if defined(BINDESC_ARM_DOT)
    &kNeonDot,
#endif
    &kNeon,
#endif
    &kScalar,
};

}  // namespace

std::vector<Isa> isas() {
  std::vector<Isa> found;
  for (const Kernel* kernel : kKernels) found.push_back({kernel->name, kernel->usable()});
  return found;
}

const char* kernel_name(const Kernel& kernel) { return kernel.name; }

const Kernel& choose_kernel() {
  const char* wanted = std::getenv("BINDESC_ISA");
  const std::string name = wanted ? wanted : "";
  std::string usable;
  for (const Kernel* kernel : kKernels) {
    if (!kernel->usable()) continue;
    if (name.empty() || name == kernel->name) return *kernel;
    usable += (usable.empty() ? "" : ", ") + std::string(kernel->name);
  }
  throw std::invalid_argument("BINDESC_ISA: \"" + name + "\" is not usable here; usable: " + usable);
}

}  // namespace bindesc
