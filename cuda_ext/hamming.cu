// The launcher: cuts image pairs into blocks, lays out the workspace, and checks every CUDA call.
#include "hamming_cuda.h"

#include <algorithm>

#include "cuda_calls.cuh"
#include "hamming_kernel.cuh"
#include "hamming_output.cuh"
#include "hamming_radius.cuh"
#include "hamming_rows.cuh"

namespace {

using namespace bindesc::cuda;

// More blocks even out the load between multiprocessors; fewer make the column minima cheaper.
constexpr int64_t BLOCKS_PER_MULTIPROCESSOR = 24;

int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Keys that a search for k neighbours keeps of each row: TwoNearest finds one and two.
int64_t keys_of_row(int k) { return std::max(k, 2); }

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

  Workspace(void* memory, const Totals& sum, int k)
      : nearest(static_cast<Key*>(memory)),
        second(nearest + sum.rows),
        column(nearest + keys_of_row(k) * sum.rows),
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

  // Cuts the pairs into blocks of `block_rows` queries by a chunk of train codes. Merging the lists
  // of short chunks would take longer than making them, so a chunk has at least 32 k codes.
  void fill(const bindesc_pair* pairs, int count, unsigned block_rows, int k,
            int multiprocessors) {
    batch.count = count;
    const int64_t least = quotient_up(WARP * k, THREADS);
    int64_t work = 0;  // blocks, were each chunk one tile
    for (int p = 0; p < count; ++p)
      work += quotient_up(pairs[p].n, block_rows) * quotient_up(pairs[p].m, THREADS);
    const int64_t wanted =
        quotient_up(work, multiprocessors * BLOCKS_PER_MULTIPROCESSOR);  // tiles of a chunk
    for (int p = 0; p < count; ++p) {
      const int64_t tiles = quotient_up(pairs[p].m, THREADS);
      const int64_t most = std::clamp<int64_t>(wanted, least, MAX_CHUNK / THREADS);
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

// Queries of a block: long codes leave a thread registers for two at most.
template <class Row>
constexpr int QUERIES_OF_LONG_CODES = std::min(Row::QUERIES, 2);

template <class Row>
unsigned block_rows(int width) {
  return THREADS * (width > 32 ? QUERIES_OF_LONG_CODES<Row> : Row::QUERIES);
}

template <class Row>
cudaError_t launch_search(const Slice& slice, const typename Row::Arguments& arguments,
                          cudaStream_t stream) {
  constexpr int QUERIES = Row::QUERIES;
  const auto run = [&](void (*kernel)(typename Row::Arguments)) {
    CHECK(launch(kernel, slice.blocks, THREADS, stream, arguments));
    return cudaSuccess;
  };
  if (arguments.width == 32 && slice.vectors) return run(search_kernel<8, QUERIES, true, Row>);
  if (arguments.width <= 8) return run(search_kernel<2, QUERIES, false, Row>);
  if (arguments.width <= 32) return run(search_kernel<8, QUERIES, false, Row>);
  return run(search_kernel<16, QUERIES_OF_LONG_CODES<Row>, false, Row>);
}

cudaError_t count_multiprocessors(int device, int* count) {
  CHECK(cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device));
  return cudaSuccess;
}

// Fills the workspace's keys; then(slice, first pair) enqueues what follows for each launch's pairs.
template <class Then>
cudaError_t search_all(int device, const bindesc_pair* pairs, int count, int width, int k,
                       void* memory, cudaStream_t stream, Then then) {
  const Totals sum = totals(pairs, count);
  const Workspace space(memory, sum, k);
  int multiprocessors = 0;
  if (const cudaError_t code = count_multiprocessors(device, &multiprocessors)) return code;
  const size_t bytes = (keys_of_row(k) * sum.rows + sum.columns) * sizeof(Key);
  CHECK(cudaMemsetAsync(memory, 0xFF, bytes, stream));
  Totals done;
  for (int first = 0; first < count; first += MAX_PAIRS) {
    const int some = std::min(MAX_PAIRS, count - first);
    const unsigned rows = k > 2 ? block_rows<KNearest>(width) : block_rows<TwoNearest>(width);
    Slice slice;
    slice.fill(pairs + first, some, rows, k, multiprocessors);
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
    cudaError_t code = k > 2 ? launch_search<KNearest>(slice, {batch, k}, stream)
                             : launch_search<TwoNearest>(slice, batch, stream);
    if (code == cudaSuccess) code = then(slice, first);
    if (code != cudaSuccess) return code;
  }
  return cudaSuccess;
}

// One pass of a radius search.
template <class Row>
cudaError_t search_within(int device, const bindesc_pair& pair, int width, int max_distance,
                          const bindesc_neighbours& neighbours, cudaStream_t stream) {
  int multiprocessors = 0;
  if (const cudaError_t code = count_multiprocessors(device, &multiprocessors)) return code;
  Slice slice;
  slice.fill(&pair, 1, block_rows<Row>(width), 1, multiprocessors);
  slice.batch.width = width;
  const RadiusBatch arguments = {slice.batch, static_cast<unsigned>(max_distance),
                                 reinterpret_cast<unsigned long long*>(neighbours.offsets),
                                 neighbours.index, neighbours.distance};
  return launch_search<Row>(slice, arguments, stream);
}

cudaError_t decode(const Key* keys, int64_t count, int stride, int offset, int32_t* index,
                   uint16_t* distance, cudaStream_t stream) {
  CHECK(launch(decode_kernel, quotient_up(count, GROUP), GROUP, stream, keys, count, stride, offset,
               index, distance));
  return cudaSuccess;
}

}  // namespace

extern "C" {

int64_t bindesc_cuda_workspace(const bindesc_pair* pairs, int count, int k) {
  const Totals sum = totals(pairs, count);
  return (keys_of_row(k) * sum.rows + sum.columns) * sizeof(Key) + sum.groups * sizeof(unsigned);
}

int bindesc_cuda_match(int device, const bindesc_pair* pairs, int count, int width,
                       const bindesc_filter* filter, void* workspace,
                       const bindesc_matches* matches, void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const Filter tests = {filter->ratio, filter->margin, filter->max_distance, filter->mutual};
  CHECK(cudaMemsetAsync(matches->count, 0, count * sizeof(int32_t), stream));
  return search_all(device, pairs, count, width, 2, workspace, stream,
                    [&](const Slice& slice, int first) {
                      const Matches out = {matches->pairs, matches->distance,
                                           matches->count + first};
                      CHECK(launch(count_kernel, slice.groups, GROUP, stream, slice.batch, tests));
                      CHECK(launch(emit_kernel, slice.groups, GROUP, stream, slice.batch, tests,
                                   out));
                      return cudaSuccess;
                    });
}

int bindesc_cuda_nearest(int device, const bindesc_pair* pairs, int count, int width, int k,
                         void* workspace, const bindesc_nearest* nearest, void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  cudaError_t code = search_all(device, pairs, count, width, k, workspace, stream,
                                [](const Slice&, int) { return cudaSuccess; });
  const Totals sum = totals(pairs, count);
  const Workspace space(workspace, sum, k);
  const int lists = k == 2 ? 2 : 1;  // TwoNearest keeps its keys in two arrays
  if (code == cudaSuccess)
    code = decode(space.nearest, sum.rows * k / lists, lists, 0, nearest->index,
                  nearest->distance, stream);
  if (code == cudaSuccess && lists == 2)
    code = decode(space.second, sum.rows, 2, 1, nearest->index, nearest->distance, stream);
  if (code == cudaSuccess)
    code = decode(space.column, sum.columns, 1, 0, nearest->column_index,
                  nearest->column_distance, stream);
  return code;
}

int bindesc_cuda_radius_count(int device, const bindesc_pair* pair, int width, int max_distance,
                              const bindesc_neighbours* neighbours, int64_t* total,
                              void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  CHECK(cudaMemsetAsync(neighbours->offsets, 0, (pair->n + 1) * sizeof(int64_t), stream));
  if (const cudaError_t code = search_within<CountWithin>(device, *pair, width, max_distance,
                                                          *neighbours, stream))
    return code;
  CHECK(launch(offsets_kernel, 1, GROUP, stream,
               reinterpret_cast<unsigned long long*>(neighbours->offsets + 1),
               static_cast<unsigned>(pair->n), reinterpret_cast<unsigned long long*>(total)));
  return cudaSuccess;
}

int bindesc_cuda_radius_fill(int device, const bindesc_pair* pair, int width, int max_distance,
                             const bindesc_neighbours* neighbours, void* stream_handle) {
  ON_DEVICE(device);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  if (const cudaError_t code = search_within<FillWithin>(device, *pair, width, max_distance,
                                                         *neighbours, stream))
    return code;
  CHECK(launch(sort_kernel, pair->n, THREADS, stream,
               reinterpret_cast<const unsigned long long*>(neighbours->offsets), neighbours->index,
               neighbours->distance));
  return cudaSuccess;
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
  CHECK(cudaFuncGetAttributes(&attributes, search_kernel<8, 4, true, TwoNearest>));
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
