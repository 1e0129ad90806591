// The launcher: cuts image pairs into blocks, lays out the workspace, and checks every CUDA call.
#include "hamming_cuda.h"

#include <algorithm>
#include <cstdio>

#include "hamming_kernel.cuh"
#include "hamming_output.cuh"

namespace {

using namespace bindesc::cuda;

// More blocks even out the load between multiprocessors; fewer make the column minima cheaper.
constexpr int64_t BLOCKS_PER_MULTIPROCESSOR = 24;
constexpr int64_t MAX_GRID = (int64_t{1} << 31) - 1;

thread_local char error_text[256] = "no error";

cudaError_t fail(cudaError_t code, const char* call) {
  std::snprintf(error_text, sizeof error_text, "%s: %s (%s)", call, cudaGetErrorString(code),
                cudaGetErrorName(code));
  cudaGetLastError();  // clears the error, which the next launch would report again
  return code;
}

#define CHECK(call)                                                             \
  do {                                                                          \
    const cudaError_t code_ = (call);                                           \
    if (code_ != cudaSuccess) return fail(code_, #call);                        \
  } while (0)

// Makes a device current for one scope.
class OnDevice {
 public:
  cudaError_t enter(int device) {
    CHECK(cudaGetDevice(&before_));
    CHECK(cudaSetDevice(device));
    entered_ = true;
    return cudaSuccess;
  }
  ~OnDevice() {
    if (entered_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool entered_ = false;
};

#define ON_DEVICE(device)                                                       \
  OnDevice on_device_;                                                          \
  if (const cudaError_t code_ = on_device_.enter(device); code_ != cudaSuccess) return code_

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, unsigned threads,
                   cudaStream_t stream, Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > MAX_GRID) return cudaErrorInvalidConfiguration;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Totals {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t groups = 0;
};

Totals totals(const bindesc_pair* pairs, int count) {
  Totals sum;
  for (int p = 0; p < count; ++p) {
    sum.rows += pairs[p].n;
    sum.columns += pairs[p].m;
    sum.groups += quotient_up(pairs[p].n, GROUP);
  }
  return sum;
}

// The workspace: the keys of all rows and columns, then the counts of all groups.
struct Workspace {
  Key* nearest;
  Key* second;
  Key* column;
  unsigned* group_count;

  Workspace(void* memory, const Totals& sum)
      : nearest(static_cast<Key*>(memory)),
        second(nearest + sum.rows),
        column(second + sum.rows),
        group_count(reinterpret_cast<unsigned*>(column + sum.columns)) {}
};

bool vectors(const bindesc_pair& pair) {
  return reinterpret_cast<uintptr_t>(pair.query) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(pair.train) % 16 == 0;
}

// One launch's image pairs as the kernels take them, and its grids.
struct Slice {
  Batch batch = {};
  int64_t blocks = 0;
  int64_t groups = 0;
  bool vectors = true;

  // Cuts the pairs into blocks of `block_rows` queries by a chunk of train codes.
  void fill(const bindesc_pair* pairs, int count, unsigned block_rows, int multiprocessors) {
    batch.count = count;
    int64_t work = 0;  // blocks, were each chunk one tile
    for (int p = 0; p < count; ++p)
      work += quotient_up(pairs[p].n, block_rows) * quotient_up(pairs[p].m, THREADS);
    const int64_t wanted =
        quotient_up(work, multiprocessors * BLOCKS_PER_MULTIPROCESSOR);  // tiles of a chunk
    for (int p = 0; p < count; ++p) {
      const int64_t tiles = quotient_up(pairs[p].m, THREADS);
      const int64_t most = std::clamp<int64_t>(wanted, 1, MAX_CHUNK / THREADS);
      const int64_t chunks = quotient_up(tiles, most);
      Pair& pair = batch.pair[p];
      pair.query = static_cast<const uint8_t*>(pairs[p].query);
      pair.train = static_cast<const uint8_t*>(pairs[p].train);
      pair.n = static_cast<unsigned>(pairs[p].n);
      pair.m = static_cast<unsigned>(pairs[p].m);
      pair.chunk = chunks ? static_cast<unsigned>(quotient_up(tiles, chunks) * THREADS) : 0;
      batch.first_block[p] = static_cast<unsigned>(blocks);
      batch.first_group[p] = static_cast<unsigned>(groups);
      if (chunks)
        blocks += quotient_up(pairs[p].n, block_rows) * quotient_up(pairs[p].m, pair.chunk);
      groups += quotient_up(pairs[p].n, GROUP);
      vectors = vectors && ::vectors(pairs[p]);
    }
  }
};

template <int WORDS, int QUERIES, bool VECTOR>
cudaError_t launch_search(const Slice& slice, cudaStream_t stream) {
  return launch(search_kernel<WORDS, QUERIES, VECTOR>, slice.blocks, THREADS, stream, slice.batch);
}

// Queries a thread keeps in registers: fewer for long codes.
unsigned block_rows(int width) { return THREADS * (width > 32 ? 2 : 4); }

cudaError_t launch_search(const Slice& slice, cudaStream_t stream) {
  const int width = slice.batch.width;
  if (width == 32 && slice.vectors) return launch_search<8, 4, true>(slice, stream);
  if (width <= 8) return launch_search<2, 4, false>(slice, stream);
  if (width <= 32) return launch_search<8, 4, false>(slice, stream);
  return launch_search<16, 2, false>(slice, stream);
}

// Fills the workspace's keys; then(slice, first pair) enqueues what follows for each launch's pairs.
template <class Then>
cudaError_t search_all(int device, const bindesc_pair* pairs, int count, int width, void* memory,
                       cudaStream_t stream, Then then) {
  const Totals sum = totals(pairs, count);
  const Workspace space(memory, sum);
  int multiprocessors = 0;
  CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const size_t bytes = (2 * sum.rows + sum.columns) * sizeof(Key);
  CHECK(cudaMemsetAsync(memory, 0xFF, bytes, stream));
  Totals done;
  for (int first = 0; first < count; first += MAX_PAIRS) {
    const int some = std::min(MAX_PAIRS, count - first);
    Slice slice;
    slice.fill(pairs + first, some, block_rows(width), multiprocessors);
    Batch& batch = slice.batch;
    batch.width = width;
    batch.nearest = space.nearest;
    batch.second = space.second;
    batch.column = space.column;
    batch.group_count = space.group_count + done.groups;
    for (int p = 0; p < some; ++p) {
      batch.pair[p].first_row = done.rows;
      batch.pair[p].first_column = done.columns;
      done.rows += pairs[first + p].n;
      done.columns += pairs[first + p].m;
    }
    done.groups += slice.groups;
    CHECK(launch_search(slice, stream));
    if (const cudaError_t code = then(slice, first); code != cudaSuccess) return code;
  }
  return cudaSuccess;
}

cudaError_t decode(const Key* keys, int64_t count, int stride, int offset, int32_t* index,
                   uint16_t* distance, cudaStream_t stream) {
  CHECK(launch(decode_kernel, quotient_up(count, GROUP), GROUP, stream, keys, count, stride, offset,
               index, distance));
  return cudaSuccess;
}

}  // namespace

extern "C" {

int64_t bindesc_cuda_workspace(const bindesc_pair* pairs, int count) {
  const Totals sum = totals(pairs, count);
  return (2 * sum.rows + sum.columns) * sizeof(Key) + sum.groups * sizeof(unsigned);
}

int bindesc_cuda_match(int device, const bindesc_pair* pairs, int count, int width,
                       const bindesc_filter* filter, void* workspace,
                       const bindesc_matches* matches, void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const Filter tests = {filter->ratio, filter->margin, filter->max_distance, filter->mutual};
  CHECK(cudaMemsetAsync(matches->count, 0, count * sizeof(int32_t), stream));
  return search_all(device, pairs, count, width, workspace, stream,
                    [&](const Slice& slice, int first) {
                      const Matches out = {matches->pairs, matches->distance,
                                           matches->count + first};
                      CHECK(launch(count_kernel, slice.groups, GROUP, stream, slice.batch, tests));
                      CHECK(launch(emit_kernel, slice.groups, GROUP, stream, slice.batch, tests,
                                   out));
                      return cudaSuccess;
                    });
}

int bindesc_cuda_nearest(int device, const bindesc_pair* pairs, int count, int width,
                         void* workspace, const bindesc_nearest* nearest, void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  cudaError_t code = search_all(device, pairs, count, width, workspace, stream,
                                [](const Slice&, int) { return cudaSuccess; });
  const Totals sum = totals(pairs, count);
  const Workspace space(workspace, sum);
  if (code == cudaSuccess)
    code = decode(space.nearest, sum.rows, 2, 0, nearest->index, nearest->distance, stream);
  if (code == cudaSuccess)
    code = decode(space.second, sum.rows, 2, 1, nearest->index, nearest->distance, stream);
  if (code == cudaSuccess)
    code = decode(space.column, sum.columns, 1, 0, nearest->column_index,
                  nearest->column_distance, stream);
  return code;
}

int bindesc_cuda_devices(int* count) {
  CHECK(cudaGetDeviceCount(count));
  return cudaSuccess;
}

int bindesc_cuda_describe(int device, char* text, int size) {
  ON_DEVICE(device);
  cudaDeviceProp properties;
  cudaFuncAttributes attributes;
  CHECK(cudaGetDeviceProperties(&properties, device));
  CHECK(cudaFuncGetAttributes(&attributes, search_kernel<8, 4, true>));
  std::snprintf(text, size, "%s (sm_%d%d, %d multiprocessors)", properties.name, properties.major,
                properties.minor, properties.multiProcessorCount);
  return cudaSuccess;
}

int bindesc_cuda_device_of(const void* pointer, int* device) {
  cudaPointerAttributes attributes;
  CHECK(cudaPointerGetAttributes(&attributes, pointer));
  const bool on_device =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  *device = on_device ? attributes.device : -1;
  return cudaSuccess;
}

int bindesc_cuda_allocate(int device, int64_t bytes, void** pointer) {
  ON_DEVICE(device);
  CHECK(cudaMalloc(pointer, bytes));
  return cudaSuccess;
}

int bindesc_cuda_free(int device, void* pointer) {
  ON_DEVICE(device);
  CHECK(cudaFree(pointer));
  return cudaSuccess;
}

int bindesc_cuda_copy(int device, void* to, const void* from, int64_t bytes, void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
  CHECK(cudaStreamSynchronize(stream));
  return cudaSuccess;
}

int bindesc_cuda_wait(int device, void* stream, void* other) {
  ON_DEVICE(device);
  cudaEvent_t event;
  CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  const cudaError_t recorded = cudaEventRecord(event, static_cast<cudaStream_t>(other));
  const cudaError_t waits = cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event, 0);
  const cudaError_t destroyed = cudaEventDestroy(event);
  if (recorded != cudaSuccess) return fail(recorded, "cudaEventRecord");
  if (waits != cudaSuccess) return fail(waits, "cudaStreamWaitEvent");
  if (destroyed != cudaSuccess) return fail(destroyed, "cudaEventDestroy");
  return cudaSuccess;
}

const char* bindesc_cuda_error(void) { return error_text; }

}  // extern "C"
