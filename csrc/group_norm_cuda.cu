// GroupNorm and SiLU of channels-last activations for inference, and the sum of a convolution and its residual.
//
// A block of threads takes some whole groups of one sample: it reads them once into shared memory, finds the mean, then
// the squares about it, and writes. Where a sample is too large for that, blocks take chunks of its pixels, leave the mean
// and the squares of each, and a second kernel applies what they come to. Every sum has one order that (pixels, channels,
// groups, type) decide, so that a sample's result does not depend on the batch.
#include "cuda.h"
#include "device.h"

namespace dpclean {
namespace {

constexpr unsigned THREADS = 256;
constexpr unsigned AHEAD = 4;  // reads that a thread has under way

// How a job is cut, by its shape alone.
struct Cut {
    uint32_t channels, groups;  // of a slice
    uint32_t slices, chunks;    // of a sample
    uint32_t pixels;            // of a chunk
    uint32_t lanes, rows;       // threads along a slice's channels, and along pixels
};

struct Moments {
    double mean, squares;  // of a group in a chunk; squares about that mean
};

struct NormTask {
    GroupNormJob job;
    Cut cut;
    size_t blocks;
    const void* added;  // [channels] of the activations' type or null: to be added to the input
    Moments* moments;   // [N, chunks, groups] where there is more than one chunk
};

// The widest slice of whole groups of which a block can keep `held` bytes; else the smallest of 64 bytes a pixel.
Cut cut_of(const GroupNormJob& job, size_t size, size_t wide, size_t held) {
    const size_t each = job.channels / job.groups;
    size_t fitting = 0, least = 0;
    for (size_t groups = 1; groups <= job.groups; groups++) {
        const size_t channels = groups * each;
        if (job.groups % groups != 0 || channels % wide != 0 || channels / wide > THREADS) continue;
        if (channels * job.pixels * size <= held) fitting = groups;
        if (least == 0 || least * each * size < 64) least = groups;
    }
    const size_t groups = fitting ? fitting : least, channels = groups * each;
    size_t pixels = fitting ? job.pixels : held / (channels * size);
    if (pixels == 0) pixels = 1;
    Cut cut;
    cut.channels = static_cast<uint32_t>(channels), cut.groups = static_cast<uint32_t>(groups);
    cut.slices = static_cast<uint32_t>(job.groups / groups);
    cut.chunks = static_cast<uint32_t>((job.pixels + pixels - 1) / pixels);
    cut.pixels = static_cast<uint32_t>(pixels);
    cut.lanes = static_cast<uint32_t>(channels / wide);
    cut.rows = THREADS / cut.lanes;
    return cut;
}

// Which part of the batch a block is given, and which part of that a thread.
struct Place {
    size_t sample;
    uint32_t slice, chunk;
    uint32_t lane, row;  // row >= cut.rows: nothing
    size_t first;        // pixel of the chunk
    uint32_t pixels;     // in the chunk
};

__device__ __forceinline__ Place place_of(const NormTask& task, size_t block) {
    const Cut& cut = task.cut;
    Place at;
    const size_t rest = quotient(block, cut.slices);
    at.slice = static_cast<uint32_t>(block - rest * cut.slices);
    at.sample = quotient(rest, cut.chunks);
    at.chunk = static_cast<uint32_t>(rest - at.sample * cut.chunks);
    at.row = threadIdx.x / cut.lanes;
    at.lane = threadIdx.x - at.row * cut.lanes;
    at.first = static_cast<size_t>(at.chunk) * cut.pixels;
    const size_t left = task.job.pixels - at.first;
    at.pixels = static_cast<uint32_t>(left < cut.pixels ? left : cut.pixels);
    if (at.row >= cut.rows) at.row = at.pixels;
    return at;
}

// Sums over the rows of threads: `totals` [COUNT, lanes] in shared memory, at the front of `parts` [COUNT, THREADS].
template <unsigned COUNT>
__device__ __forceinline__ void sum_rows(const Cut& cut, const float own[COUNT], float* parts) {
    DPCLEAN_UNROLL
    for (unsigned v = 0; v < COUNT; v++) parts[v * THREADS + threadIdx.x] = own[v];
    __syncthreads();
    for (uint32_t rows = cut.rows; rows > 1;) {
        const uint32_t half = (rows + 1) / 2;
        if (threadIdx.x < (rows - half) * cut.lanes) {
            DPCLEAN_UNROLL
            for (unsigned v = 0; v < COUNT; v++)
                parts[v * THREADS + threadIdx.x] += parts[v * THREADS + threadIdx.x + half * cut.lanes];
        }
        rows = half;
        __syncthreads();
    }
}

template <class T>
__device__ __forceinline__ double added_to(const NormTask& task, size_t channel) {
    return task.added ? static_cast<double>(read(static_cast<const T*>(task.added)[channel])) : 0.0;
}

// The shared memory of a block: activations, parts of sums, then what each group and each channel needs.
template <class T, unsigned WIDTH>
struct Memory {
    Pack<T, WIDTH>* held;
    double *mean, *squares;  // [groups]
    double* centers;         // [channels]: their means
    float *parts, *slope, *offset;
    __device__ __forceinline__ Memory(uint4* all, const Cut& cut) {
        mean = reinterpret_cast<double*>(all);
        squares = mean + cut.groups;
        centers = squares + cut.groups;
        parts = reinterpret_cast<float*>(centers + (cut.channels + 1) / 2 * 2);
        slope = parts + WIDTH * THREADS;
        offset = slope + cut.channels;
        held = reinterpret_cast<Pack<T, WIDTH>*>(parts + WIDTH * THREADS + (2 * cut.channels + 3) / 4 * 4);
    }
    static size_t bytes(const Cut& cut, bool holds) {
        const size_t rounds = (cut.pixels + cut.rows - 1) / cut.rows;
        return 16 * cut.groups + 16 * ((cut.channels + 1) / 2) + 4 * (WIDTH * THREADS + (2 * cut.channels + 3) / 4 * 4) +
               (holds ? rounds * cut.rows * cut.lanes * sizeof(Pack<T, WIDTH>) : 0);
    }
};

// Reads a chunk and leaves mean and squares of its groups in shared memory. All threads; ends in step.
template <class T, unsigned WIDTH>
__device__ __forceinline__ void measure(const NormTask& task, const Place& at, const Memory<T, WIDTH>& memory) {
    const Cut& cut = task.cut;
    const uint32_t each = cut.channels / cut.groups, channel = at.lane * WIDTH;
    const size_t pitch = task.job.channels;
    const T* x = static_cast<const T*>(task.job.input) + (at.sample * task.job.pixels + at.first) * pitch +
                 static_cast<size_t>(at.slice) * cut.channels;
    float first[WIDTH], own[WIDTH], e[WIDTH];
    DPCLEAN_UNROLL
    for (unsigned v = 0; v < WIDTH; v++) first[v] = own[v] = 0.0f;
    // Near to the mean, so that little is lost in the sums.
    if (at.row < at.pixels) reinterpret_cast<const Pack<T, WIDTH>*>(x + channel)->unpack(first);
    Pack<T, WIDTH>* slot = memory.held + threadIdx.x;
    const uint32_t slots = cut.rows * cut.lanes;
    for (uint32_t start = at.row; start < at.pixels; start += AHEAD * cut.rows) {
        Pack<T, WIDTH> some[AHEAD];
        DPCLEAN_UNROLL
        for (unsigned i = 0; i < AHEAD; i++) {
            const uint32_t p = start + i * cut.rows;
            if (p < at.pixels) some[i] = *reinterpret_cast<const Pack<T, WIDTH>*>(x + p * pitch + channel);
        }
        DPCLEAN_UNROLL
        for (unsigned i = 0; i < AHEAD; i++) {
            if (start + i * cut.rows >= at.pixels) break;
            *slot = some[i];
            slot += slots;
            some[i].unpack(e);
            DPCLEAN_UNROLL
            for (unsigned v = 0; v < WIDTH; v++) own[v] += e[v] - first[v];
        }
    }
    sum_rows<WIDTH>(cut, own, memory.parts);
    const double pixels = at.pixels;
    if (threadIdx.x < cut.lanes) {
        DPCLEAN_UNROLL
        for (unsigned v = 0; v < WIDTH; v++)
            memory.centers[channel + v] = static_cast<double>(memory.parts[v * THREADS + threadIdx.x]) / pixels +
                                          static_cast<double>(first[v]) +
                                          added_to<T>(task, static_cast<size_t>(at.slice) * cut.channels + channel + v);
    }
    __syncthreads();
    for (uint32_t g = threadIdx.x; g < cut.groups; g += THREADS) {
        double total = 0.0;
        for (uint32_t c = g * each; c < (g + 1) * each; c++) total += memory.centers[c];
        memory.mean[g] = total / each;
    }
    __syncthreads();
    if (at.row < at.pixels) {
        DPCLEAN_UNROLL
        for (unsigned v = 0; v < WIDTH; v++) {
            first[v] = static_cast<float>(memory.mean[(channel + v) / each] -
                                          added_to<T>(task, static_cast<size_t>(at.slice) * cut.channels + channel + v));
        }
    }
    DPCLEAN_UNROLL
    for (unsigned v = 0; v < WIDTH; v++) own[v] = 0.0f;
    slot = memory.held + threadIdx.x;
    for (uint32_t p = at.row; p < at.pixels; p += cut.rows, slot += slots) {
        slot->unpack(e);
        DPCLEAN_UNROLL
        for (unsigned v = 0; v < WIDTH; v++) {
            const float d = e[v] - first[v];
            own[v] = fmaf(d, d, own[v]);
        }
    }
    sum_rows<WIDTH>(cut, own, memory.parts);
    for (uint32_t g = threadIdx.x; g < cut.groups; g += THREADS) {
        double total = 0.0;
        for (uint32_t c = g * each; c < (g + 1) * each; c++)
            total += static_cast<double>(memory.parts[c % WIDTH * THREADS + c / WIDTH]);
        memory.squares[g] = total;
    }
    __syncthreads();
}

// From mean and squares to what a channel is multiplied with and what is added then. Ends in step.
template <class T, unsigned WIDTH>
__device__ __forceinline__ void find_affine(const NormTask& task, const Place& at, const Memory<T, WIDTH>& memory) {
    const Cut& cut = task.cut;
    const uint32_t each = cut.channels / cut.groups;
    for (uint32_t c = threadIdx.x; c < cut.channels; c += THREADS) {
        const size_t channel = static_cast<size_t>(at.slice) * cut.channels + c;
        const double number = static_cast<double>(task.job.pixels) * each;
        const double inverse = 1.0 / sqrt(memory.squares[c / each] / number + task.job.eps);
        const double slope = inverse * static_cast<double>(task.job.weight[channel]);
        const double mean = memory.mean[c / each] - added_to<T>(task, channel);
        memory.slope[c] = static_cast<float>(slope);
        memory.offset[c] = static_cast<float>(static_cast<double>(task.job.bias[channel]) - mean * slope);
    }
    __syncthreads();
}

__device__ __forceinline__ float silu(float x) {
#ifdef __CUDA_ARCH__
    return __fdividef(x, 1.0f + __expf(-x));
#else
    return x / (1.0f + expf(-x));
#endif
}

template <class T, unsigned WIDTH, bool SILU>
__device__ __forceinline__ void apply(const NormTask& task, const Place& at, const Memory<T, WIDTH>& memory, bool held) {
    if (at.row >= at.pixels) return;
    const Cut& cut = task.cut;
    const size_t pitch = task.job.channels, begin = (at.sample * task.job.pixels + at.first) * pitch +
                                                    static_cast<size_t>(at.slice) * cut.channels + at.lane * WIDTH;
    const T* x = static_cast<const T*>(task.job.input) + begin;
    T* out = static_cast<T*>(task.job.out) + begin;
    float slope[WIDTH], offset[WIDTH], e[WIDTH];
    DPCLEAN_UNROLL
    for (unsigned v = 0; v < WIDTH; v++) {
        slope[v] = memory.slope[at.lane * WIDTH + v];
        offset[v] = memory.offset[at.lane * WIDTH + v];
    }
    const Pack<T, WIDTH>* slot = memory.held + threadIdx.x;
    const uint32_t slots = cut.rows * cut.lanes;
    for (uint32_t p = at.row; p < at.pixels; p += cut.rows, slot += slots) {
        Pack<T, WIDTH> some = held ? *slot : *reinterpret_cast<const Pack<T, WIDTH>*>(x + p * pitch);
        some.unpack(e);
        DPCLEAN_UNROLL
        for (unsigned v = 0; v < WIDTH; v++) {
            const float y = fmaf(e[v], slope[v], offset[v]);
            e[v] = SILU ? silu(y) : y;
        }
        some.pack(e);
        *reinterpret_cast<Pack<T, WIDTH>*>(out + p * pitch) = some;
    }
}

template <class T, unsigned WIDTH, bool SILU>
__global__ void __launch_bounds__(THREADS, 3) whole_kernel(const NormTask task) {
    DPCLEAN_SHARED(shared);
    const Memory<T, WIDTH> memory(shared, task.cut);
    for (size_t block = blockIdx.x; block < task.blocks; block += gridDim.x) {
        const Place at = place_of(task, block);
        measure(task, at, memory);
        find_affine(task, at, memory);
        apply<T, WIDTH, SILU>(task, at, memory, true);
        __syncthreads();
    }
}

template <class T, unsigned WIDTH>
__global__ void __launch_bounds__(THREADS, 3) measure_kernel(const NormTask task) {
    DPCLEAN_SHARED(shared);
    const Cut& cut = task.cut;
    const Memory<T, WIDTH> memory(shared, cut);
    for (size_t block = blockIdx.x; block < task.blocks; block += gridDim.x) {
        const Place at = place_of(task, block);
        measure(task, at, memory);
        Moments* out = task.moments + (at.sample * cut.chunks + at.chunk) * task.job.groups + at.slice * cut.groups;
        for (uint32_t g = threadIdx.x; g < cut.groups; g += THREADS) out[g] = {memory.mean[g], memory.squares[g]};
        __syncthreads();
    }
}

template <class T, unsigned WIDTH, bool SILU>
__global__ void __launch_bounds__(THREADS, 4) apply_kernel(const NormTask task) {
    DPCLEAN_SHARED(shared);
    const Cut& cut = task.cut;
    const Memory<T, WIDTH> memory(shared, cut);
    for (size_t block = blockIdx.x; block < task.blocks; block += gridDim.x) {
        const Place at = place_of(task, block);
        const Moments* of = task.moments + at.sample * cut.chunks * task.job.groups + at.slice * cut.groups;
        for (uint32_t g = threadIdx.x; g < cut.groups; g += THREADS) {
            double mean = 0.0, number = 0.0, squares = 0.0;  // Chan, Golub and LeVeque 1983
            for (uint32_t chunk = 0; chunk < cut.chunks; chunk++) {
                const Moments next = of[static_cast<size_t>(chunk) * task.job.groups + g];
                const size_t left = task.job.pixels - static_cast<size_t>(chunk) * cut.pixels;
                const double more = static_cast<double>(left < cut.pixels ? left : cut.pixels);
                const double away = next.mean - mean, share = more / (number + more);
                mean += away * share;
                squares += next.squares + away * away * number * share * (cut.channels / cut.groups);
                number += more;
            }
            memory.mean[g] = mean;
            memory.squares[g] = squares;
        }
        __syncthreads();
        find_affine(task, at, memory);
        apply<T, WIDTH, SILU>(task, at, memory, false);
        __syncthreads();
    }
}

template <class Kernel>
const char* run(Kernel kernel, const NormTask& task, size_t bytes, void* stream) {
    if (bytes > 48 << 10)
        if (const char* bad = problem(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                           static_cast<int>(bytes))))
            return bad;
    return launch(kernel, grid_of(task.blocks), THREADS, bytes, stream, task);
}

template <class T, unsigned WIDTH>
const char* normalize(const GroupNormJob& job, size_t count, const void* added, void* scratch, size_t held,
                      void* stream) {
    const Cut cut = cut_of(job, sizeof(T), WIDTH, held);
    const size_t blocks = count * cut.chunks * cut.slices;
    const NormTask task{job, cut, blocks, added, static_cast<Moments*>(scratch)};
    const size_t all = Memory<T, WIDTH>::bytes(cut, true), few = Memory<T, WIDTH>::bytes(cut, false);
    if (cut.chunks == 1)
        return run(job.silu ? whole_kernel<T, WIDTH, true> : whole_kernel<T, WIDTH, false>, task, all, stream);
    if (const char* bad = run(measure_kernel<T, WIDTH>, task, all, stream)) return bad;
    return run(job.silu ? apply_kernel<T, WIDTH, true> : apply_kernel<T, WIDTH, false>, task, few, stream);
}

template <class T>
bool takes_wide(const GroupNormJob& job) {
    return job.channels % WIDE<T> == 0 && is_aligned(job.input) && is_aligned(job.out);
}

template <class T>
const char* normalize(const GroupNormJob& job, size_t count, const void* added, void* scratch, size_t held,
                      void* stream) {
    return takes_wide<T>(job) ? normalize<T, WIDE<T>>(job, count, added, scratch, held, stream)
                              : normalize<T, 1>(job, count, added, scratch, held, stream);
}

// Bytes of activations that a block keeps: three such blocks on a processor of a data center's card, one on older ones.
const char* find_held(int device, size_t& held) {
    int most = 0;
    const char* bad = problem(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    held = most >= 96 << 10 ? 64 << 10 : 32 << 10;
    return bad;
}

// ---- out = x + other + first[channel] + second[channel]

template <class T, unsigned WIDTH>
__global__ void __launch_bounds__(THREADS) sum_kernel(const SumJob job, size_t packs) {
    using P = Pack<T, WIDTH>;
    const size_t step = static_cast<size_t>(gridDim.x) * THREADS, lanes = job.channels / WIDTH;
    const auto read_bias = [&](const void* from, size_t channel, float b[WIDTH]) {
        DPCLEAN_UNROLL
        for (unsigned v = 0; v < WIDTH; v++) b[v] = from ? read(static_cast<const T*>(from)[channel + v]) : 0.0f;
    };
    for (size_t i = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x; i < packs; i += step) {
        const size_t channel = (i - quotient(i, lanes) * lanes) * WIDTH;
        float x[WIDTH], other[WIDTH], first[WIDTH], second[WIDTH];
        P some = static_cast<const P*>(job.x)[i];
        some.unpack(x);
        static_cast<const P*>(job.other)[i].unpack(other);
        read_bias(job.first, channel, first);
        read_bias(job.second, channel, second);
        DPCLEAN_UNROLL
        for (unsigned v = 0; v < WIDTH; v++) x[v] = (x[v] + other[v]) + (first[v] + second[v]);
        some.pack(x);
        static_cast<P*>(job.out)[i] = some;
    }
}

template <class T>
const char* sum_of(const SumJob& job, void* stream) {
    const bool wide = job.channels % WIDE<T> == 0 && is_aligned(job.x) && is_aligned(job.other) && is_aligned(job.out);
    const size_t packs = job.count / (wide ? WIDE<T> : 1);
    return launch(wide ? sum_kernel<T, WIDE<T>> : sum_kernel<T, 1>, grid_of((packs + THREADS - 1) / THREADS), THREADS, 0,
                  stream, job, packs);
}

}  // namespace

const char* group_norm_cuda_scratch(const GroupNormJob& job, size_t count, int device, size_t& bytes) {
    bytes = 0;
    if (job.pixels == 0) return nullptr;
    if (job.channels / job.groups > THREADS) return "a group has more than 256 channels";
    size_t held;
    if (const char* bad = find_held(device, held)) return bad;
    const Cut cut = job.type == Type::f32 ? cut_of(job, 4, takes_wide<F32>(job) ? WIDE<F32> : 1, held)
                                          : cut_of(job, 2, takes_wide<BF16>(job) ? WIDE<BF16> : 1, held);
    if (cut.chunks > 1) bytes = count * cut.chunks * job.groups * sizeof(Moments);
    return nullptr;
}

const char* group_norm_cuda(const GroupNormJob& job, size_t count, const void* added, void* scratch, int device,
                            void* stream) {
    if (count == 0 || job.pixels == 0) return nullptr;
    if (job.channels / job.groups > THREADS) return "a group has more than 256 channels";
    if (const char* bad = problem(cudaSetDevice(device))) return bad;
    size_t held;
    if (const char* bad = find_held(device, held)) return bad;
    switch (job.type) {
        case Type::f32: return normalize<F32>(job, count, added, scratch, held, stream);
        case Type::bf16: return normalize<BF16>(job, count, added, scratch, held, stream);
        default: return normalize<F16>(job, count, added, scratch, held, stream);
    }
}

const char* sum_cuda(const SumJob& job, int device, void* stream) {
    if (job.count == 0) return nullptr;
    if (const char* bad = problem(cudaSetDevice(device))) return bad;
    switch (job.type) {
        case Type::f32: return sum_of<F32>(job, stream);
        case Type::bf16: return sum_of<BF16>(job, stream);
        default: return sum_of<F16>(job, stream);
    }
}

}  // namespace dpclean
