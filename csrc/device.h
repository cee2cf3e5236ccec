// What the CUDA files share: vectors of stored elements, conversions by the hardware, launches.
#pragma once

#include <cuda_runtime.h>

#include "kernels.h"

namespace dpclean {

// Memory that a launch asks for. (tests/cuda_shim has another definition, for the same code without a GPU.)
#ifndef DPCLEAN_SHARED
#define DPCLEAN_SHARED(name) extern __shared__ uint4 name[]
#endif

static inline const char* problem(cudaError_t status) {
    return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

// Blocks beyond `blocks` are of no use to a kernel that strides over its grid; 2^30 are allowed in one.
static inline unsigned grid_of(size_t blocks) {
    return static_cast<unsigned>(blocks < size_t{1} << 30 ? blocks : size_t{1} << 30);
}

template <class... Formal, class... Actual>
const char* launch(void (*kernel)(Formal...), unsigned blocks, unsigned threads, size_t bytes, void* stream,
                   Actual... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    return problem(cudaLaunchKernelEx(&config, kernel, static_cast<Formal>(arguments)...));
}

// A 64-bit division costs as much as a tenth of a ChaCha20 block; nearly all numbers are short.
__device__ __forceinline__ size_t quotient(size_t a, size_t b) {
    return (a | b) >> 32 ? a / b : static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
}

DPCLEAN_INLINE bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// ---- stored elements: as `widen` and `narrow`, NaN to NaN

__device__ __forceinline__ float read(F32 x) { return x.value; }
__device__ __forceinline__ float read(BF16 x) { return widen(x); }
__device__ __forceinline__ float read(F16 x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.value));
    return y;
#else
    return widen(x);
#endif
}

__device__ __forceinline__ void write(float x, F32& out) { out.value = x; }
__device__ __forceinline__ void write(float x, BF16& out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.value) : "f"(x));
#else
    narrow(x, out);
    if (x != x) out.value = 0x7fff;
#endif
}
__device__ __forceinline__ void write(float x, F16& out) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.value) : "f"(x));
#else
    narrow(x, out);
    if (x != x) out.value = 0x7fff;
#endif
}

// Two elements in one word, the first one low.
__device__ __forceinline__ uint32_t pair_of(float x, float y, BF16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
    return both;
#else
    BF16 low, high;
    write(x, low);
    write(y, high);
    return low.value | static_cast<uint32_t>(high.value) << 16;
#endif
}
__device__ __forceinline__ uint32_t pair_of(float x, float y, F16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
    return both;
#else
    F16 low, high;
    write(x, low);
    write(y, high);
    return low.value | static_cast<uint32_t>(high.value) << 16;
#endif
}

// COUNT elements read or written at once: 16 bytes, or a single one.
template <class T, unsigned COUNT>
struct Pack;

template <class T>
struct Pack<T, 1> {
    T raw;
    __device__ __forceinline__ void unpack(float x[1]) const { x[0] = read(raw); }
    __device__ __forceinline__ void pack(const float x[1]) { write(x[0], raw); }
};

template <>
struct Pack<F32, 4> {
    uint4 raw;
    __device__ __forceinline__ void unpack(float x[4]) const {
        x[0] = as_float(raw.x), x[1] = as_float(raw.y), x[2] = as_float(raw.z), x[3] = as_float(raw.w);
    }
    __device__ __forceinline__ void pack(const float x[4]) {
        raw.x = bits(x[0]), raw.y = bits(x[1]), raw.z = bits(x[2]), raw.w = bits(x[3]);
    }
};

template <class T>
struct Pack<T, 8> {
    uint4 raw;
    __device__ __forceinline__ void unpack(float x[8]) const {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        DPCLEAN_UNROLL
        for (int i = 0; i < 4; i++) {
            x[2 * i] = read(T{static_cast<uint16_t>(words[i])});
            x[2 * i + 1] = read(T{static_cast<uint16_t>(words[i] >> 16)});
        }
    }
    __device__ __forceinline__ void pack(const float x[8]) {
        raw.x = pair_of(x[0], x[1], T{}), raw.y = pair_of(x[2], x[3], T{});
        raw.z = pair_of(x[4], x[5], T{}), raw.w = pair_of(x[6], x[7], T{});
    }
};

template <class T>
constexpr unsigned WIDE = 16 / sizeof(T);

}  // namespace dpclean
