#include "cpu_parallel.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>

namespace bindesc {
namespace {

constexpr std::chrono::milliseconds kPollEvery{50};

}  // namespace

bool Stop::requested() {
  if (flag_.load(std::memory_order_relaxed)) return true;
  if (std::this_thread::get_id() != owner_) return false;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < kPollEvery) return false;
  last_ = now;
  if (poll_()) flag_.store(true, std::memory_order_relaxed);
  return flag_.load(std::memory_order_relaxed);
}

bool parallel_for(int64_t count, int threads, Stop& stop,
                  const std::function<void(int64_t, int)>& task) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> stopped{false};
  std::mutex mutex;
  std::condition_variable ended;
  int running = 0;
  std::exception_ptr error;

  const auto work = [&](int worker) {
    try {
      for (int64_t i; (i = next.fetch_add(1)) < count;) {
        if (stop.requested()) {
          stopped = true;
          return;
        }
        task(i, worker);
      }
    } catch (...) {
      next = count;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
    }
  };

  std::vector<std::thread> helpers;
  if (threads > 1) helpers.reserve(static_cast<size_t>(threads - 1));
  for (int worker = 1; worker < threads && worker < count; ++worker) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      ++running;
    }
    try {
      helpers.emplace_back([&, worker] {
        work(worker);
        const std::lock_guard<std::mutex> lock(mutex);
        --running;
        ended.notify_one();
      });
    } catch (const std::system_error&) {  // no more threads to be had: go on with fewer
      const std::lock_guard<std::mutex> lock(mutex);
      --running;
      break;
    }
  }
  work(0);
  {
    std::unique_lock<std::mutex> lock(mutex);
    while (!ended.wait_for(lock, kPollEvery, [&] { return running == 0; })) {
      lock.unlock();
      stop.requested();
      lock.lock();
    }
  }
  for (std::thread& helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
  return !stopped;
}

}  // namespace bindesc
