// Stands in for CUDA's header of the same name: the part of the language and of the runtime that the
// matcher uses, on the CPU. There are two devices; both are host memory. SIMT_FAIL=<function> makes
// the next call of that runtime function fail, for tests of the error paths.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

#include "simt.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static
#define threadIdx (simt::block().running->index)
#define blockIdx (simt::block().index)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline void __syncthreads() { simt::barrier(simt::Operation::barrier, 0); }
inline int __syncthreads_count(bool value) {
  return static_cast<int>(simt::barrier(simt::Operation::barrier_count, value));
}
inline unsigned __ballot_sync(unsigned mask, bool value) {
  return simt::arrive(simt::Operation::ballot, mask, value, 0);
}
inline unsigned __shfl_xor_sync(unsigned mask, unsigned value, unsigned lane_mask) {
  return simt::arrive(simt::Operation::exchange, mask, value, lane_mask);
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return simt::arrive(simt::Operation::minimum, mask, value, 0);
}
template <class Number>
Number atomicAdd(Number* target, Number value) {
  return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
}
inline unsigned long long atomicMin(unsigned long long* target, unsigned long long value) {
  unsigned long long old = __atomic_load_n(target, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(target, &old, value, false, __ATOMIC_RELAXED,
                                                     __ATOMIC_RELAXED)) {
  }
  return old;
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorUnknown = 999
};
enum { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
enum { cudaDevAttrMultiProcessorCount, cudaMemcpyDefault, cudaEventDisableTiming };

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
struct dim3 {
  unsigned x;
  dim3(unsigned x_ = 1) : x(x_) {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};
struct cudaPointerAttributes {
  int type, device;
};
struct cudaDeviceProp {
  char name[32];
  int major, minor, multiProcessorCount;
};
struct cudaFuncAttributes {};

namespace simt {

constexpr int DEVICES = 2;
constexpr int MULTIPROCESSORS = 1;

struct Allocation {
  size_t bytes;
  int device;
};

inline std::map<const char*, Allocation>& allocations() {
  static std::map<const char*, Allocation> all;
  return all;
}

inline int& current_device() {
  static thread_local int device = 0;
  return device;
}

inline cudaError_t outcome(const char* function) {
  const char* failing = std::getenv("SIMT_FAIL");
  if (!failing || std::strcmp(failing, function)) return cudaSuccess;
  unsetenv("SIMT_FAIL");
  return cudaErrorUnknown;
}

}  // namespace simt

inline const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorUnknown ? "unknown error" : "invalid argument";
}
inline const char* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorUnknown ? "cudaErrorUnknown" : "cudaErrorInvalidValue";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = simt::DEVICES;
  return simt::outcome("cudaGetDeviceCount");
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = simt::current_device();
  return simt::outcome("cudaGetDevice");
}
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= simt::DEVICES) return cudaErrorInvalidDevice;
  simt::current_device() = device;
  return simt::outcome("cudaSetDevice");
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  *value = simt::MULTIPROCESSORS;
  return simt::outcome("cudaDeviceGetAttribute");
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"simulated device", 0, 0, simt::MULTIPROCESSORS};
  return simt::outcome("cudaGetDeviceProperties");
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return simt::outcome("cudaFuncGetAttributes");
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const char* address = static_cast<const char*>(pointer);
  *attributes = {cudaMemoryTypeUnregistered, -1};
  auto after = simt::allocations().upper_bound(address);
  if (after != simt::allocations().begin()) {
    const auto& [base, allocation] = *--after;
    if (address < base + allocation.bytes)
      *attributes = {cudaMemoryTypeDevice, allocation.device};
  }
  return simt::outcome("cudaPointerGetAttributes");
}
inline cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t code = simt::outcome("cudaMalloc"); code != cudaSuccess) return code;
  *pointer = std::malloc(bytes);
  simt::allocations()[static_cast<char*>(*pointer)] = {bytes, simt::current_device()};
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
  simt::allocations().erase(static_cast<char*>(pointer));
  std::free(pointer);
  return simt::outcome("cudaFree");
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (bytes) std::memset(to, value, bytes);
  return simt::outcome("cudaMemsetAsync");
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, cudaStream_t) {
  if (bytes) std::memcpy(to, from, bytes);
  return simt::outcome("cudaMemcpyAsync");
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return simt::outcome("cudaStreamSynchronize");
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, int) {
  return simt::outcome("cudaEventCreateWithFlags");
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return simt::outcome("cudaEventRecord");
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return simt::outcome("cudaStreamWaitEvent");
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return simt::outcome("cudaEventDestroy"); }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  simt::launch(config->gridDim.x, config->blockDim.x, [&] { kernel(arguments...); });
  return simt::outcome("cudaLaunchKernelEx");
}
