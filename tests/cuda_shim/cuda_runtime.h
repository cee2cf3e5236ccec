// Stands in for CUDA's header, so that g++ compiles csrc/*.cu for the CPU: the threads of a block are coroutines that
// take turns at __syncthreads, forwards or backwards, so that a result which needs a missing barrier differs.
// Pointers of the device are pointers of the host. What it cannot show: races inside a warp, and speed.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#if __has_include(<sanitizer/common_interface_defs.h>) && defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define DPCLEAN_START_SWITCH(saved, bottom, size) __sanitizer_start_switch_fiber(saved, bottom, size)
#define DPCLEAN_END_SWITCH(saved, bottom, size) __sanitizer_finish_switch_fiber(saved, bottom, size)
#else
#define DPCLEAN_START_SWITCH(saved, bottom, size) (void)0
#define DPCLEAN_END_SWITCH(saved, bottom, size) (void)0
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
#define __launch_bounds__(...)
#define DPCLEAN_SHARED(name) uint4* const name = reinterpret_cast<uint4*>(shim::block->shared)

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef struct CUstream_st* cudaStream_t;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void* attrs;
    unsigned numAttrs;
};

namespace shim {

inline int multiprocessors = 3, shared_limit = 227 << 10, blocks_each = 2;  // of the device that this pretends to be
inline bool backwards = false;
inline bool last_block_only = false;  // of a grid too large to run

struct Coroutine {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    void* fake = nullptr;
    bool done = false;
};

struct Block {
    char* shared = nullptr;
    ucontext_t scheduler;
    void* fake = nullptr;
    const void* bottom = nullptr;
    size_t size = 0;
    std::vector<Coroutine> threads;
    std::function<void()> body;
};

inline Block* block = nullptr;
inline dim3 thread_index, block_index, grid_size;

constexpr size_t STACK = 256 << 10;

inline void to_scheduler(bool last) {
    Coroutine& own = block->threads[thread_index.x];
    (void)last;
    DPCLEAN_START_SWITCH(last ? nullptr : &own.fake, block->bottom, block->size);
    swapcontext(&own.context, &block->scheduler);
    DPCLEAN_END_SWITCH(own.fake, &block->bottom, &block->size);
}

inline void start() {
    DPCLEAN_END_SWITCH(nullptr, &block->bottom, &block->size);
    block->body();
    block->threads[thread_index.x].done = true;
    to_scheduler(true);
}

inline void run_block(Block& own, unsigned threads) {
    block = &own;
    if (own.threads.size() < threads) own.threads.resize(threads);
    for (unsigned i = 0; i < threads; i++) {
        Coroutine& t = own.threads[i];
        if (!t.stack) t.stack.reset(new char[STACK]);
        t.done = false, t.fake = nullptr;
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.get(), t.context.uc_stack.ss_size = STACK, t.context.uc_link = nullptr;
        makecontext(&t.context, start, 0);
    }
    for (bool running = true; running;) {
        running = false;
        for (unsigned i = 0; i < threads; i++) {
            thread_index.x = backwards ? threads - 1 - i : i;
            Coroutine& t = own.threads[thread_index.x];
            if (t.done) continue;
            DPCLEAN_START_SWITCH(&own.fake, t.stack.get(), STACK);
            swapcontext(&own.scheduler, &t.context);
            DPCLEAN_END_SWITCH(own.fake, nullptr, nullptr);
            running |= !t.done;
        }
    }
}

}  // namespace shim

inline dim3 &threadIdx = shim::thread_index, &blockIdx = shim::block_index, &gridDim = shim::grid_size;

inline void __syncthreads() { shim::to_scheduler(false); }

inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidValue; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid value"; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    memset(to, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* out, cudaDeviceAttr which, int) {
    *out = which == cudaDevAttrMultiProcessorCount ? shim::multiprocessors : shim::shared_limit;
    return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
    return bytes <= shim::shared_limit ? cudaSuccess : cudaErrorInvalidValue;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* out, Kernel, int, size_t) {
    *out = shim::blocks_each;
    return cudaSuccess;
}

template <class... Formal, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Formal...), Actual... arguments) {
    const unsigned blocks = config->gridDim.x, threads = config->blockDim.x;
    if (blocks == 0 || blocks > 0x7fffffff || threads == 0 || threads > 1024) return cudaErrorInvalidValue;
    if (config->dynamicSmemBytes > static_cast<size_t>(shim::shared_limit)) return cudaErrorInvalidValue;
    static shim::Block own;
    shim::grid_size = config->gridDim;
    own.body = [=] { kernel(arguments...); };
    for (unsigned i = shim::last_block_only ? blocks - 1 : 0; i < blocks; i++) {
        shim::block_index.x = shim::backwards ? blocks - 1 - i : i;
        // Its own allocation for each block, full of NaN: nothing of another block's can be read.
        std::unique_ptr<char[]> shared(new char[config->dynamicSmemBytes]);
        memset(shared.get(), 0xff, config->dynamicSmemBytes);
        own.shared = shared.get();
        shim::run_block(own, threads);
    }
    return cudaSuccess;
}
