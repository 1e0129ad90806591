// The kernels of this build, one a file cpu_<isa>.cpp.
#pragma once

#include "cpu_kernel.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define BINDESC_X86 1
#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define BINDESC_AVX_VNNI 1
#endif
#elif defined(__aarch64__)
#define BINDESC_ARM 1
#if defined(__ARM_FEATURE_DOTPROD) || (defined(__clang__) && __clang_major__ >= 16) || \
    (!defined(__clang__) && __GNUC__ >= 8)
#define BINDESC_ARM_DOT 1
#endif
#endif

namespace bindesc {

extern const Kernel kScalar;
void normalise_scalar(const uint8_t* patch, int side, float scale, uint8_t* out);
void convolve_scalar(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);
void sample_scalar(const SampleGrid&, uint8_t* out);
void sample_scalar(const SampleRings&, uint8_t* out);
#if defined(BINDESC_X86)
extern const Kernel kAvx2;
extern const Kernel kAvx512;
extern const TableKernel kTableAvx512;
#if defined(BINDESC_AVX_VNNI)
extern const Kernel kAvxVnni;
void normalise_avxvnni(const uint8_t* patch, int side, float scale, uint8_t* out);
void convolve_avxvnni(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);
#endif
void normalise_avx2(const uint8_t* patch, int side, float scale, uint8_t* out);
void convolve_avx2(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);
void normalise_avx512(const uint8_t* patch, int side, float scale, uint8_t* out);
void convolve_avx512(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);
void sample_avx2(const SampleGrid&, uint8_t* out);
void sample_avx2(const SampleRings&, uint8_t* out);
void sample_avx512(const SampleGrid&, uint8_t* out);
void sample_avx512(const SampleRings&, uint8_t* out);
#elif defined(BINDESC_ARM)
extern const Kernel kNeon;
void convolve_neon(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);
void sample_neon(const SampleGrid&, uint8_t* out);
void sample_neon(const SampleRings&, uint8_t* out);
#if defined(BINDESC_ARM_DOT)
extern const Kernel kNeonDot;
void convolve_neondot(const Convolution&, const PixelGroups&, const uint8_t* in, void* out);
#endif
#endif

}  // namespace bindesc
