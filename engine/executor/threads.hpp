// Threads that run one program together: how they wait for one another, who takes which work, and
// how they sleep between steps.
// Decides who does what; knows nothing of what is done.
//
// All threads run every operation. Waits inside a step spin, then yield: they last microseconds,
// and a thread that sleeps takes tens of them to come back. Between steps, where nobody knows how
// long it will be, threads spin a while and then sleep.

#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace {

constexpr int SPINS_BEFORE_YIELD = 4000;
constexpr int SPINS_BEFORE_SLEEP = 60000;

// Where all threads meet: what any wrote before it, all may read after it.
struct Barrier {
    std::atomic<int> arrived{0};
    std::atomic<uint32_t> round{0};

    void wait(int threads) {
        if (threads == 1) return;
        // Cannot change before this thread has arrived, so it needs no order.
        uint32_t seen = round.load(std::memory_order_relaxed);
        // Released: what this thread wrote. Acquired, by the last: what all others wrote, which its
        // own release of the next round passes on to everybody.
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            // Before the round: whoever sees the new round may arrive again at once.
            arrived.store(0, std::memory_order_relaxed);
            round.store(seen + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == seen; ++spins) {
            if (spins < SPINS_BEFORE_YIELD) _mm_pause();
            else sched_yield();
        }
    }
};

// Where thread `tid`'s stretch of `count` units begins; that of thread `threads` is their end.
inline int64_t begin_of_stretch(int64_t count, int tid, int threads) {
    return count * tid / threads;
}

// Which units of each operation are taken. Counters only hand out numbers, once each: they order no
// memory (relaxed), since barriers do that.
struct Claims {
    int threads;
    size_t operations;
    std::vector<std::atomic<int64_t>> taken;  // [threads][operations], and one for draws

    Claims(int num_threads, size_t num_operations)
        : threads(num_threads), operations(num_operations), taken(threads * operations + 1) {}

    // Only while no other thread runs.
    void reset() {
        for (auto& count : taken) count.store(0, std::memory_order_relaxed);
    }

    // The next unit of an operation whose units may go to anybody.
    int64_t next_unit(size_t operation) {
        return taken[operation].fetch_add(1, std::memory_order_relaxed);
    }

    int64_t next_draw() { return taken.back().fetch_add(1, std::memory_order_relaxed); }

    // The next of a linear's panels for this thread; num_panels when all are taken. Each thread has
    // one stretch of them, which the processor's prefetcher follows from panel to panel; who is
    // done with its own helps the others.
    int64_t next_panel(size_t operation, int64_t num_panels, int tid) {
        int from = tid;
        do {
            int64_t within = taken[from * operations + operation].fetch_add(
                1, std::memory_order_relaxed);
            int64_t panel = begin_of_stretch(num_panels, from, threads) + within;
            if (panel < begin_of_stretch(num_panels, from + 1, threads)) return panel;
            from = (from + 1) % threads;
        } while (from != tid);
        return num_panels;
    }
};

// Deals work out by weight: each piece to whoever has the least so far. Every thread deals for
// itself and all come to the same, so nobody has to tell anybody.
struct Deal {
    std::vector<int64_t> load;  // of each thread so far

    void begin(int threads) { load.assign(threads, 0); }

    int next(int64_t weight) {
        auto least = std::min_element(load.begin(), load.end());
        *least += weight;
        return int(least - load.begin());
    }
};

// The threads themselves. Thread 0 is whoever calls run(); the others wait here between jobs.
struct Pool {
    using Job = void (*)(void* owner, int tid);

    const int threads;
    const Job job;
    void* const owner;
    std::vector<pthread_t> workers;
    std::atomic<uint32_t> epoch{0};  // jobs begun; what workers wait for a change of
    std::atomic<bool> ending{false};

    Pool(int num_threads, Job what, void* whose) : threads(num_threads), job(what), owner(whose) {
        for (int tid = 1; tid < threads; ++tid) {
            pthread_t thread;
            // Without all its threads no barrier would ever open.
            if (pthread_create(&thread, nullptr, begin, new Start{this, tid}) != 0) std::abort();
            workers.push_back(thread);
        }
    }

    ~Pool() {
        ending.store(true, std::memory_order_relaxed);  // wake() releases it
        wake();
        for (pthread_t worker : workers) pthread_join(worker, nullptr);
    }

    // The job, on all threads. It must end with a barrier: this returns when thread 0 is through,
    // and by then nobody may still be at work.
    void run() {
        if (threads > 1) wake();
        job(owner, 0);
    }

  private:
    struct Start {
        Pool* pool;
        int tid;
    };

    static void* begin(void* argument) {
        Start start = *static_cast<Start*>(argument);
        delete static_cast<Start*>(argument);
        start.pool->work(start.tid);
        return nullptr;
    }

    // Releases what the job will read: a worker acquires it with the epoch. One that is about to
    // sleep is not missed, since the kernel compares the epoch once more before it lets it.
    void wake() {
        epoch.fetch_add(1, std::memory_order_release);
        call_futex(FUTEX_WAKE_PRIVATE, INT_MAX);
    }

    void work(int tid) {
        for (uint32_t seen = 0;;) {
            for (int spins = 0; epoch.load(std::memory_order_acquire) == seen; ++spins) {
                if (spins < SPINS_BEFORE_SLEEP) _mm_pause();
                else call_futex(FUTEX_WAIT_PRIVATE, int(seen));
            }
            ++seen;
            if (ending.load(std::memory_order_relaxed)) return;
            job(owner, tid);
        }
    }

    void call_futex(int operation, int value) {
        auto* word = reinterpret_cast<uint32_t*>(&epoch);
        syscall(SYS_futex, word, operation, value, nullptr, nullptr, 0);
    }
};

}  // namespace
