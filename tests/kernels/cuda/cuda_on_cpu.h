// CUDA C on one CPU core, for tests: a block's threads are fibers that run in turn, blocks run one after the other.
//
// A warp's lanes meet at __syncwarp and at each shuffle, a block's threads at __syncthreads. Threads that cannot meet,
// as some have left or wait elsewhere, end the launch with an error. Lanes and warps run in ascending or descending
// order (`launch`): a kernel without races gives the same bits in both.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

struct dim3 {
    unsigned x, y, z;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) float4 {
    float x, y, z, w;
};

#define __global__
#define __device__ inline
#define __shared__ static
#define __forceinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

namespace on_cpu {

enum Wait { RUNNING, AT_SHUFFLE, AT_SYNCWARP, AT_SYNCTHREADS, DONE };
enum { STACK = 1 << 16, WARP_SIZE = 32 };

struct Thread {
    jmp_buf context;
    ucontext_t first;
    std::unique_ptr<char[]> stack;
    bool started = false;
    Wait wait = RUNNING;
    dim3 index;
    uint64_t slots[2];  // what a shuffle gives to others; two, as one lane may be a shuffle ahead
    unsigned shuffles = 0;
};

inline std::vector<std::unique_ptr<Thread>> threads;
inline jmp_buf scheduler;
inline unsigned current;
inline std::function<void()> body;

inline void run_forever() {
    for (;;) {
        body();
        threads[current]->wait = DONE;
        if (!_setjmp(threads[current]->context)) _longjmp(scheduler, 1);
    }
}

inline void resume(unsigned number) {
    Thread& thread = *threads[number];
    current = number;
    threadIdx = thread.index;
    thread.wait = RUNNING;
    if (_setjmp(scheduler)) return;
    if (thread.started) _longjmp(thread.context, 1);
    thread.started = true;
    thread.stack.reset(new char[STACK]);
    getcontext(&thread.first);
    thread.first.uc_stack.ss_sp = thread.stack.get();
    thread.first.uc_stack.ss_size = STACK;
    makecontext(&thread.first, run_forever, 0);
    setcontext(&thread.first);
}

inline void wait_at(Wait wait) {
    Thread& thread = *threads[current];
    thread.wait = wait;
    if (!_setjmp(thread.context)) _longjmp(scheduler, 1);
}

// All threads of a warp until they wait for the block or are done; false where they wait at different places.
inline bool run_warp(unsigned first, unsigned last, bool descending) {
    for (;;) {
        for (unsigned i = first; i < last; i++) {
            unsigned number = descending ? first + last - 1 - i : i;
            if (threads[number]->wait != DONE) resume(number);
        }
        Wait wait = threads[first]->wait;
        bool together = true;
        for (unsigned i = first; i < last; i++) together = together && threads[i]->wait == wait;
        if (wait == AT_SHUFFLE || wait == AT_SYNCWARP) {
            if (!together) return false;
            continue;
        }
        for (unsigned i = first; i < last; i++)
            if (threads[i]->wait != AT_SYNCTHREADS && threads[i]->wait != DONE) return false;
        return true;
    }
}

// 0, or 1 where threads of a block cannot meet.
inline int launch(const unsigned* grid, const unsigned* block, bool descending, std::function<void()> kernel) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    unsigned n = block[0] * block[1] * block[2];
    while (threads.size() < n) threads.emplace_back(new Thread);
    body = kernel;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                for (unsigned i = 0; i < n; i++) {
                    threads[i]->index = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
                    threads[i]->wait = RUNNING;
                    threads[i]->shuffles = 0;
                }
                for (unsigned done = 0; done < n;) {
                    unsigned warps = (n + WARP_SIZE - 1) / WARP_SIZE;
                    for (unsigned w = 0; w < warps; w++) {
                        unsigned first = (descending ? warps - 1 - w : w) * WARP_SIZE;
                        unsigned last = first + WARP_SIZE < n ? first + WARP_SIZE : n;
                        if (!run_warp(first, last, descending)) {
                            threads.clear();  // their stacks are in the middle of a kernel
                            return 1;
                        }
                    }
                    done = 0;
                    for (unsigned i = 0; i < n; i++) done += threads[i]->wait == DONE;
                    if (done && done < n) {
                        threads.clear();
                        return 1;
                    }
                }
            }
    return 0;
}

template <class T>
T shuffle(T x, unsigned from) {
    Thread& own = *threads[current];
    unsigned turn = own.shuffles++ % 2, warp = current / WARP_SIZE * WARP_SIZE;
    std::memcpy(&own.slots[turn], &x, sizeof x);
    wait_at(AT_SHUFFLE);
    T given;
    std::memcpy(&given, &threads[warp + from % WARP_SIZE]->slots[turn], sizeof given);
    return given;
}

template <class To, class From>
To bits_as(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

}  // namespace on_cpu

inline void __syncthreads() { on_cpu::wait_at(on_cpu::AT_SYNCTHREADS); }
inline void __syncwarp(unsigned = ~0u) { on_cpu::wait_at(on_cpu::AT_SYNCWARP); }
template <class T>
T __shfl_xor_sync(unsigned, T x, int other) {
    return on_cpu::shuffle(x, on_cpu::current % on_cpu::WARP_SIZE ^ other);
}
inline float __int_as_float(int x) { return on_cpu::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return on_cpu::bits_as<float>(x); }
inline double __longlong_as_double(long long x) { return on_cpu::bits_as<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
