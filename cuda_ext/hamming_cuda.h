/* The CUDA matcher as a plain C library: device pointers, sizes and a stream; no Python, no libtorch.
 *
 * Every function that returns int returns 0, or a CUDA error code; bindesc_cuda_error() then names
 * the failed call and the cause. All work is enqueued on `stream` (a cudaStream_t) and, unless a
 * comment says otherwise, nothing waits for it.
 */
#ifndef BINDESC_HAMMING_CUDA_H
#define BINDESC_HAMMING_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One image pair: n query and m train codes, contiguous rows of `width` bytes at even addresses.
 * n and m may be 0 and are below 2^31. */
typedef struct {
  const void* query;
  const void* train;
  int64_t n;
  int64_t m;
} bindesc_pair;

/* A match passes if distance <= max_distance, if it is mutual or mutual is 0, and, where a second
 * neighbour exists, if distance < ratio * second (ratio >= 0) and second - distance >= margin. */
typedef struct {
  double ratio; /* negative: no ratio test */
  int32_t margin;
  int32_t max_distance;
  int32_t mutual;
} bindesc_filter;

/* Device arrays. N and M are the sums of n and m over the pairs; pair p owns the range that begins
 * after the ranges of the pairs before it. Its matches lie at the front of its range, in query
 * order, and count[p] tells how many they are. */
typedef struct {
  int32_t* pairs;     /* [N][2] query and train index, within the pair */
  uint16_t* distance; /* [N] bits */
  int32_t* count;     /* [pairs] */
} bindesc_matches;

/* Device arrays. Ties go to the lowest index; a missing neighbour is -1 at distance 65535. */
typedef struct {
  int32_t* index;            /* [N][k] the k nearest train codes, nearest first */
  uint16_t* distance;        /* [N][k] bits */
  int32_t* column_index;     /* [M] the nearest query */
  uint16_t* column_distance; /* [M] bits */
} bindesc_nearest;

/* Device arrays. The neighbours of query i are at offsets[i] to offsets[i + 1], nearest first and
 * then by index. */
typedef struct {
  int64_t* offsets;   /* [n + 1] */
  int32_t* index;     /* [offsets[n]] train codes */
  uint16_t* distance; /* [offsets[n]] bits */
} bindesc_neighbours;

/* Bytes of device memory that a search for k neighbours of these pairs needs, about
 * 8 max(k, 2) N + 8 M + N / 64 + 4 a pair; bindesc_cuda_match is a search for 2. */
int64_t bindesc_cuda_workspace(const bindesc_pair* pairs, int count, int k);

/* Width: bytes of a code, even, 2 to 64. k: 1 to 32. Workspace: 16-byte aligned, free again when the
 * work is. */
int bindesc_cuda_match(int device, const bindesc_pair* pairs, int count, int width,
                       const bindesc_filter* filter, void* workspace,
                       const bindesc_matches* matches, void* stream);
int bindesc_cuda_nearest(int device, const bindesc_pair* pairs, int count, int width, int k,
                         void* workspace, const bindesc_nearest* nearest, void* stream);

/* All train codes within a distance of each query, at most 512 bits, in two calls. The first makes
 * total[0], the number of neighbours, on the device, and in offsets what the second starts from;
 * the caller reads the total and gives the second the same arrays, with room for them all. */
int bindesc_cuda_radius_count(int device, const bindesc_pair* pair, int width, int max_distance,
                              const bindesc_neighbours* neighbours, int64_t* total, void* stream);
int bindesc_cuda_radius_fill(int device, const bindesc_pair* pair, int width, int max_distance,
                             const bindesc_neighbours* neighbours, void* stream);

int bindesc_cuda_devices(int* count);
/* Name and architecture of a device, as text; fails if the library holds no code for it. */
int bindesc_cuda_describe(int device, char* text, int size);
/* The device that a pointer belongs to; -1 if it is no device memory. */
int bindesc_cuda_device_of(const void* pointer, int* device);
int bindesc_cuda_allocate(int device, int64_t bytes, void** pointer);
int bindesc_cuda_free(int device, void* pointer);
/* Copies, in either direction, after the work on `stream`, and waits for the copy. */
int bindesc_cuda_copy(int device, void* to, const void* from, int64_t bytes, void* stream);
/* Lets `stream` wait for what is now enqueued on `other`. */
int bindesc_cuda_wait(int device, void* stream, void* other);

/* Text for the last error of the calling thread. */
const char* bindesc_cuda_error(void);

#ifdef __cplusplus
}
#endif
#endif
