// Runs the blocks of a CUDA kernel on the CPU, for tests. Each thread of a block is a fiber. A fiber
// runs until it reaches a barrier or a warp-wide operation, and goes on once every thread that takes
// part has arrived; a set that can never be complete aborts with a message. Which warps run first,
// and the order of the blocks, are random but repeatable.
//
// With -fsanitize=thread the fibers are threads to the sanitizer, and only __syncthreads orders
// their memory accesses: as on a GPU, a shuffle or reduction is no memory barrier. Two blocks share
// their static memory, so races between blocks are not looked for.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define SIMT_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define SIMT_UNSEEN
#endif

namespace simt {

constexpr unsigned LANES = 32;
constexpr unsigned MAX_THREADS = 256;
constexpr size_t STACK_BYTES = size_t{64} << 10;

enum class Operation { none, barrier, barrier_count, ballot, exchange, minimum };

struct Index {
  unsigned x;
};

struct Thread {
  ucontext_t context;
  char* stack;
  void* identity;  // to the sanitizer
  Index index;
  bool finished;
  Operation waiting;  // none: may run
  unsigned barriers;  // that it has reached
  unsigned mask, value, argument, result;
};

struct Block {
  Thread thread[MAX_THREADS];
  unsigned size;
  Index index;
  Index dimension;
  const std::function<void()>* body;
  ucontext_t scheduler;
  void* identity;
  Thread* running;
};

inline Block& block() {
  static Block* const only = new Block();  // one block runs at a time
  return *only;
}

[[noreturn]] inline void fail(const char* why, unsigned thread) {
  std::fprintf(stderr, "simt: %s: block %u, thread %u\n", why, block().index.x, thread);
  std::abort();
}

SIMT_UNSEEN inline void switch_context(ucontext_t& from, ucontext_t& to, void* identity) {
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(identity, __tsan_switch_to_fiber_no_sync);
#else
  (void)identity;
#endif
  swapcontext(&from, &to);
}

// Order memory accesses for the sanitizer: those before order_before() precede those after a later
// order_after() with the same tag. Barriers take turns with two tags, because a thread may reach the
// next barrier before another has left this one.
struct Tags {
  char start, finish, barrier[2];
};
inline Tags tags;

inline void order_before([[maybe_unused]] char& tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(&tag);
#endif
}

inline void order_after([[maybe_unused]] char& tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(&tag);
#endif
}

// Parks the running thread until all that take part have arrived; returns its result.
SIMT_UNSEEN inline unsigned arrive(Operation operation, unsigned mask, unsigned value,
                                   unsigned argument) {
  Block& now = block();
  Thread& self = *now.running;
  self.waiting = operation;
  self.mask = mask;
  self.value = value;
  self.argument = argument;
  switch_context(self.context, now.scheduler, now.identity);
  return self.result;
}

SIMT_UNSEEN inline unsigned barrier(Operation operation, unsigned value) {
  char& tag = tags.barrier[block().running->barriers++ % 2];
  order_before(tag);
  const unsigned result = arrive(operation, 0, value, 0);
  order_after(tag);
  return result;
}

SIMT_UNSEEN inline void thread_main() {
  order_after(tags.start);
  (*block().body)();
  order_before(tags.finish);
  Block& now = block();
  now.running->finished = true;
  switch_context(now.running->context, now.scheduler, now.identity);
}

// Releases the block's barrier if every thread has reached it.
SIMT_UNSEEN inline bool release_barrier(Block& now) {
  const Operation operation = now.thread[0].waiting;
  if (operation != Operation::barrier && operation != Operation::barrier_count) return false;
  unsigned count = 0;
  for (unsigned t = 0; t < now.size; ++t) {
    if (now.thread[t].waiting != operation) return false;
    count += now.thread[t].value != 0;
  }
  for (unsigned t = 0; t < now.size; ++t) {
    now.thread[t].result = count;
    now.thread[t].waiting = Operation::none;
  }
  return true;
}

// Completes one warp's operation if every lane that `lane` waits for waits for the same.
SIMT_UNSEEN inline bool release_lanes(Block& now, unsigned warp, unsigned lane) {
  Thread* const lanes = now.thread + warp;
  const Operation operation = lanes[lane].waiting;
  const unsigned mask = lanes[lane].mask;
  if (!(mask >> lane & 1)) fail("a lane is not in its own mask", warp + lane);
  unsigned ballot = 0, minimum = ~0u;
  for (unsigned l = 0; l < LANES; ++l) {
    if (!(mask >> l & 1)) continue;
    if (warp + l >= now.size || lanes[l].finished) fail("a lane waits for a missing lane", warp + l);
    if (lanes[l].waiting != operation || lanes[l].mask != mask) return false;
    ballot |= unsigned{lanes[l].value != 0} << l;
    minimum = lanes[l].value < minimum ? lanes[l].value : minimum;
  }
  for (unsigned l = 0; l < LANES; ++l) {
    if (!(mask >> l & 1)) continue;
    if (operation == Operation::ballot) lanes[l].result = ballot;
    if (operation == Operation::minimum) lanes[l].result = minimum;
    if (operation == Operation::exchange) {
      const unsigned source = l ^ lanes[l].argument;
      if (!(mask >> source & 1)) fail("a shuffle reads a lane outside its mask", warp + l);
      lanes[l].result = lanes[source].value;
    }
  }
  for (unsigned l = 0; l < LANES; ++l)
    if (mask >> l & 1) lanes[l].waiting = Operation::none;
  return true;
}

SIMT_UNSEEN inline bool release(Block& now) {
  bool any = release_barrier(now);
  for (unsigned t = 0; t < now.size; ++t) {
    const Operation waiting = now.thread[t].waiting;
    if (!now.thread[t].finished && waiting > Operation::barrier_count)
      any = release_lanes(now, t / LANES * LANES, t % LANES) || any;
  }
  return any;
}

SIMT_UNSEEN inline void resume(Block& now, Thread& thread) {
  now.running = &thread;
  switch_context(now.scheduler, thread.context, thread.identity);
}

SIMT_UNSEEN inline void start(Thread& thread) {
  thread.finished = false;
  thread.waiting = Operation::none;
  thread.barriers = 0;
  if (!thread.stack) thread.stack = new char[STACK_BYTES];
  getcontext(&thread.context);
  thread.context.uc_stack.ss_sp = thread.stack;
  thread.context.uc_stack.ss_size = STACK_BYTES;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, thread_main, 0);
#if defined(__SANITIZE_THREAD__)
  if (!thread.identity) thread.identity = __tsan_create_fiber(0);
#endif
}

SIMT_UNSEEN inline void run_block(Block& now, std::minstd_rand& random) {
#if defined(__SANITIZE_THREAD__)
  now.identity = __tsan_get_current_fiber();
#endif
  for (unsigned t = 0; t < now.size; ++t) {
    now.thread[t].index = {t};
    start(now.thread[t]);
  }
  for (;;) {
    unsigned ran = 0, finished = 0;
    const unsigned chosen = random() >> 4;  // the warps to run this time
    for (unsigned t = 0; t < now.size; ++t) {
      Thread& thread = now.thread[t];
      const bool ready = !thread.finished && thread.waiting == Operation::none;
      if (ready && (chosen >> t / LANES & 1)) resume(now, thread);
      ran += ready;
      finished += thread.finished;
    }
    if (finished == now.size) break;
    if (!ran && !release(now)) fail("threads wait for each other for ever", 0);
    if (ran) release(now);
  }
}

inline void launch(unsigned blocks, unsigned threads, const std::function<void()>& body) {
  static std::minstd_rand random(1);
  if (threads == 0 || threads > MAX_THREADS || threads % LANES) fail("bad block size", threads);
  std::vector<unsigned> sequence(blocks);
  std::iota(sequence.begin(), sequence.end(), 0u);
  std::shuffle(sequence.begin(), sequence.end(), random);
  Block& now = block();
  now.size = threads;
  now.dimension = {threads};
  now.body = &body;
  for (const unsigned b : sequence) {
    now.index = {b};
    order_before(tags.start);
    run_block(now, random);
    order_after(tags.finish);
  }
}

}  // namespace simt
