// The CUDA kernels: a thread a ChaCha20 block of 16 samples forward, a thread a pixel on the way back.
#include <cuda_runtime.h>

#include "cuda.h"

namespace dpclean {
namespace {

constexpr unsigned THREADS = 128;
constexpr size_t SHARED_LIMIT = 48 << 10;  // what every device grants without asking: tables up to m = 13

struct Grid {
    size_t blocks, each;  // ChaCha20 blocks of the batch, of an image
};

// A 64-bit division costs as much as a tenth of a ChaCha20 block; nearly all numbers are short.
__device__ __forceinline__ size_t quotient(size_t a, size_t b) {
    return (a | b) >> 32 ? a / b : static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
}

__device__ __forceinline__ bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

__device__ __forceinline__ void convert(int32_t n, float, int16_t& out) { out = static_cast<int16_t>(n); }
template <class T>
__device__ __forceinline__ void convert(int32_t n, float a, T& out) {
    narrow(model_input(n, a), out);
}

// Sixteen samples, or as many as the image still has.
__device__ __forceinline__ void load_block(const uint8_t* x, size_t left, int32_t n[16]) {
    if (left >= 16 && is_aligned(x)) {
        const uint4 all = *reinterpret_cast<const uint4*>(x);
        const uint32_t words[4] = {all.x, all.y, all.z, all.w};
        DPCLEAN_UNROLL
        for (uint32_t j = 0; j < 16; j++) n[j] = words[j / 4] >> 8 * (j % 4) & 0xff;
    } else {
        DPCLEAN_UNROLL
        for (uint32_t j = 0; j < 16; j++) n[j] = j < left ? x[j] : 0;
    }
}

template <class T>
__device__ __forceinline__ void store_block(const NoiseJob& job, size_t image, uint32_t begin, const int32_t n[16]) {
    const uint32_t samples = static_cast<uint32_t>(job.samples);
    T* out = static_cast<T*>(job.out) + image * job.samples;
    const bool split = job.planar && job.channels == 3;
    if (!split && begin + 16 <= samples && is_aligned(out + begin)) {
        // Whole sectors: single elements, 32 bytes apart from lane to lane, would each be a transaction.
        alignas(16) T values[16];
        DPCLEAN_UNROLL
        for (uint32_t j = 0; j < 16; j++) convert(n[j], job.a, values[j]);
        DPCLEAN_UNROLL
        for (uint32_t q = 0; q < sizeof(T); q++) {
            uint4 some;
            memcpy(&some, &values[q * 16 / sizeof(T)], 16);
            reinterpret_cast<uint4*>(out + begin)[q] = some;
        }
        return;
    }
    DPCLEAN_UNROLL
    for (uint32_t j = 0; j < 16; j++) {
        const uint32_t i = begin + j;
        if (i < samples) convert(n[j], job.a, out[split ? i % 3 * (samples / 3) + i / 3 : i]);
    }
}

__device__ __forceinline__ void add_noise(const NoiseJob& job, const uint32_t* entries, size_t image, uint32_t block,
                                          int32_t n[16]) {
    const Table& table = job.table;
    const Nonce at = nonce(job.stream, job.indices[image]);
    uint32_t words[16], rare = 0;
    chacha20_block(job.stream.key, block, job.stream.run, at.low, at.high, words);
    DPCLEAN_UNROLL
    for (uint32_t j = 0; j < 16; j++) {
        const uint32_t entry = entries[words[j] >> (32 - table.m)];
        n[j] += static_cast<int32_t>(fast_column(table, entry, words[j])) - static_cast<int32_t>(table.k);
        rare |= static_cast<uint32_t>(undecided(table, entry, words[j])) << j;
    }
    // Once in thousands of blocks. One copy of this code, from the words anew, and comparisons in place of indices:
    // nothing of the common case has to leave its register for it.
    for (uint32_t j = 0; rare >> j; j++) {
        if ((rare >> j & 1) == 0) continue;
        chacha20_block(job.stream.key, block, job.stream.run, at.low, at.high, words);
        uint32_t u = 0;
        DPCLEAN_UNROLL
        for (uint32_t i = 0; i < 16; i++) u = i == j ? words[i] : u;
        const uint32_t entry = table.entry[u >> (32 - table.m)];
        const uint32_t settled = column(table, entry, job.stream, at, 16 * block + j, u);
        const int32_t change = static_cast<int32_t>(settled) - static_cast<int32_t>(fast_column(table, entry, u));
        DPCLEAN_UNROLL
        for (uint32_t i = 0; i < 16; i++) n[i] += i == j ? change : 0;
    }
}

// Tables in shared memory where they fit: random reads by 32 lanes cost many cache lines in L1, few banks here.
template <bool SHARED>
__global__ void __launch_bounds__(THREADS) noise_kernel(const NoiseJob job, const Grid grid) {
    extern __shared__ uint32_t shared_entries[];
    if (SHARED) {
        for (uint32_t i = threadIdx.x; i < 1u << job.table.m; i += THREADS) shared_entries[i] = job.table.entry[i];
        __syncthreads();
    }
    const size_t step = static_cast<size_t>(gridDim.x) * THREADS;
    for (size_t t = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x; t < grid.blocks; t += step) {
        const size_t image = quotient(t, grid.each);
        const uint32_t block = static_cast<uint32_t>(t - image * grid.each), begin = 16 * block;
        int32_t n[16];
        load_block(job.images + image * job.samples + begin, job.samples - begin, n);
        if (job.table.entry) add_noise(job, SHARED ? shared_entries : job.table.entry, image, block, n);
        switch (job.type) {
            case Type::i16: store_block<int16_t>(job, image, begin, n); break;
            case Type::f32: store_block<F32>(job, image, begin, n); break;
            case Type::bf16: store_block<BF16>(job, image, begin, n); break;
            case Type::f16: store_block<F16>(job, image, begin, n); break;
        }
    }
}

__device__ __forceinline__ float element(const View& view, size_t image, size_t channel, size_t pixel) {
    const size_t i = image * view.image + channel * view.channel + pixel * view.pixel;
    switch (view.type) {
        case Type::bf16: return widen(static_cast<const BF16*>(view.data)[i]);
        case Type::f16: return widen(static_cast<const F16*>(view.data)[i]);
        default: return widen(static_cast<const F32*>(view.data)[i]);
    }
}

__global__ void __launch_bounds__(256) invert_kernel(const InverseJob job, size_t pixels_in_all, uint8_t* all_finite) {
    const size_t t = static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x;
    if (t >= pixels_in_all) return;
    const size_t image = quotient(t, job.pixels), pixel = t - image * job.pixels;
    bool good = true;
    for (size_t c = 0; c < job.channels; c++) {
        float e = element(job.prediction, image, c, pixel);
        if (job.channels == 1 && job.prediction.channels >= 3)
            e = mean_of_three(e, element(job.prediction, image, 1, pixel), element(job.prediction, image, 2, pixel));
        good &= finite(e);
        const float input = job.inverse.reads_input ? element(job.input, image, c, pixel) : 0.0f;
        job.out[t * job.channels + c] = grey_level(job.inverse, input, e);
    }
    if (!good) all_finite[image] = 0;
}

const char* problem(cudaError_t status) { return status == cudaSuccess ? nullptr : cudaGetErrorString(status); }

}  // namespace

const char* noise_cuda(const NoiseJob& job, int device, void* stream) {
    if (job.count == 0 || job.samples == 0) return nullptr;
    int processors = 0;
    if (const char* bad = problem(cudaSetDevice(device))) return bad;
    if (const char* bad = problem(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)))
        return bad;
    const auto on = static_cast<cudaStream_t>(stream);
    const size_t each = (job.samples + 15) / 16, blocks = job.count * each;
    const size_t wanted = (blocks + THREADS - 1) / THREADS, resident = static_cast<size_t>(processors) * 16;
    const unsigned grid = static_cast<unsigned>(wanted < resident ? wanted : resident);
    const size_t bytes = job.table.entry ? sizeof(uint32_t) << job.table.m : 0;
    if (bytes != 0 && bytes <= SHARED_LIMIT)
        noise_kernel<true><<<grid, THREADS, bytes, on>>>(job, {blocks, each});
    else
        noise_kernel<false><<<grid, THREADS, 0, on>>>(job, {blocks, each});
    return problem(cudaGetLastError());
}

const char* invert_cuda(const InverseJob& job, size_t count, uint8_t* all_finite, int device, void* stream) {
    const size_t pixels = count * job.pixels;
    if (pixels == 0) return nullptr;
    const auto on = static_cast<cudaStream_t>(stream);
    if (const char* bad = problem(cudaSetDevice(device))) return bad;
    if (const char* bad = problem(cudaMemsetAsync(all_finite, 1, count, on))) return bad;
    invert_kernel<<<static_cast<unsigned>((pixels + 255) / 256), 256, 0, on>>>(job, pixels, all_finite);
    return problem(cudaGetLastError());
}

}  // namespace dpclean
