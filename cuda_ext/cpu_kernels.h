// The kernels of this build, one a file cpu_<isa>.cpp.
#pragma once

#include "cpu_kernel.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define BINDESC_X86 1
#elif defined(__aarch64__)
#define BINDESC_ARM 1
#endif

namespace bindesc {

extern const Kernel kScalar;
#if defined(BINDESC_X86)
extern const Kernel kAvx2;
extern const Kernel kAvx512;
#elif defined(BINDESC_ARM)
extern const Kernel kNeon;
#endif

}  // namespace bindesc
