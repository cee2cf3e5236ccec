// The noise and the way back: a thread draws a ChaCha20 block of 16 samples, or inverts as many bytes as fill its reads.
#include "cuda.h"
#include "device.h"

namespace dpclean {
namespace {

constexpr unsigned THREADS = 192;            // whole triples: in planar output three threads share 16 pixels
constexpr size_t SHARED_LIMIT = 32 << 10;    // of a table: m = 13; with the rest below what every device grants unasked
constexpr uint32_t FLOAT_AT_ZERO = 0x4b400000;  // bits of 1.5 * 2^23: plus n, these are the bits of that plus n

template <class T>
constexpr uint32_t ZERO = FLOAT_AT_ZERO;  // how `add_noise` represents the level 0
template <>
constexpr uint32_t ZERO<int16_t> = 0;

// Sixteen results, as they lie in memory.
template <class T>
struct Line {
    static constexpr unsigned WORDS = 4 * sizeof(T);
    uint32_t words[WORDS];
};

__device__ __forceinline__ float input_of(uint32_t n, float a) {
    // Both steps are exact: model_input's 2 n - 255 without a conversion.
    return multiply(a, fmaf(add(as_float(n), -12582912.0f), 2.0f, -255.0f));
}

__device__ __forceinline__ void fill(const uint32_t n[16], float, Line<int16_t>& line) {
    DPCLEAN_UNROLL
    for (int i = 0; i < 8; i++) line.words[i] = (n[2 * i] & 0xffff) | n[2 * i + 1] << 16;
}
__device__ __forceinline__ void fill(const uint32_t n[16], float a, Line<F32>& line) {
    DPCLEAN_UNROLL
    for (int i = 0; i < 16; i++) line.words[i] = bits(input_of(n[i], a));
}
template <class T>
__device__ __forceinline__ void fill(const uint32_t n[16], float a, Line<T>& line) {
    DPCLEAN_UNROLL
    for (int i = 0; i < 8; i++) line.words[i] = pair_of(input_of(n[2 * i], a), input_of(n[2 * i + 1], a), T{});
}

// Sixteen samples, or as many as the image still has.
__device__ __forceinline__ void load_block(const uint8_t* x, uint32_t left, uint32_t words[4]) {
    if (left >= 16 && is_aligned(x)) {
        const uint4 all = *reinterpret_cast<const uint4*>(x);
        words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
        return;
    }
    DPCLEAN_UNROLL
    for (uint32_t i = 0; i < 4; i++) words[i] = 0;
    DPCLEAN_UNROLL
    for (uint32_t j = 0; j < 16; j++)
        if (j < left) words[j / 4] |= static_cast<uint32_t>(x[j]) << 8 * (j % 4);
}

struct Change {
    uint32_t sample, by;
};

// The first sample, from one on, that 32 bits left undecided, and how far its column is from the one taken for it; sample
// 16 where none is. A function of its own, so that the common case keeps no register for it.
__device__ __noinline__ Change next_change(const NoiseJob& job, uint32_t block, Nonce at, uint32_t from) {
    uint32_t words[16];
    chacha20_block(job.stream.key, block, job.stream.run, at.low, at.high, words);
    for (uint32_t j = from; j < 16; j++) {
        const uint32_t entry = job.table.entry[words[j] >> (32 - job.table.m)];
        if (!undecided(job.table, entry, words[j])) continue;
        const uint32_t settled = column(job.table, entry, job.stream, at, 16 * block + j, words[j]);
        return {j, settled - fast_column(job.table, entry, words[j])};
    }
    return {16, 0};
}

// n = x + Z + zero for sixteen samples x.
__device__ __forceinline__ void add_noise(const NoiseJob& job, const uint32_t* entries, size_t image, uint32_t block,
                                          const uint32_t x[4], uint32_t zero, uint32_t n[16]) {
    const Table& table = job.table;
    const Nonce at = nonce(job.stream, job.indices[image]);
    const uint32_t m = table.m, mask = (1u << m) - 1, down = 32 - m, up = 1u << m;
    uint32_t least = ~0u;  // of entry - r: below 2^m, some r = t
    chacha20_block(job.stream.key, block, job.stream.run, at.low, at.high, n);
    zero -= table.k;
    DPCLEAN_UNROLL
    for (uint32_t j = 0; j < 16; j++) {
        const uint32_t u = n[j], own = u >> down, entry = entries[own], r = u * up;
        const uint32_t pick = r < entry ? own : entry & mask, above = entry - r;
        least = above < least ? above : least;
        n[j] = pick + (x[j / 4] >> 8 * (j % 4) & 0xff) + zero;
    }
    // Once in thousands of blocks.
    for (uint32_t from = least < up ? 0 : 16; from < 16;) {
        const Change next = next_change(job, block, at, from);
        DPCLEAN_UNROLL
        for (uint32_t j = 0; j < 16; j++) n[j] += j == next.sample ? next.by : 0;
        from = next.sample + 1;
    }
}

template <class T>
__device__ __forceinline__ T element(const Line<T>& line, uint32_t j) {
    T value;
    const uint32_t word = sizeof(T) == 4 ? line.words[j] : line.words[j / 2] >> 16 * (j % 2);
    memcpy(&value, &word, sizeof value);
    return value;
}

template <class T>
__device__ __forceinline__ void store_aligned(T* out, const Line<T>& line) {
    DPCLEAN_UNROLL
    for (uint32_t q = 0; q < Line<T>::WORDS / 4; q++) {
        const uint4 some = {line.words[4 * q], line.words[4 * q + 1], line.words[4 * q + 2], line.words[4 * q + 3]};
        reinterpret_cast<uint4*>(out)[q] = some;
    }
}

// As many of a line as there is room for.
template <class T>
__device__ __forceinline__ void store_line(T* out, const Line<T>& line, uint32_t left) {
    if (left >= 16 && is_aligned(out)) return store_aligned(out, line);
    DPCLEAN_UNROLL
    for (uint32_t j = 0; j < 16; j++)
        if (j < left) out[j] = element(line, j);
}

// Three lines of interleaved pixels, by the threads that have them, become a line of each channel.
template <class T>
__device__ __forceinline__ void split(Line<T>& line, uint4* stage) {
    constexpr uint32_t PITCH = 3 * Line<T>::WORDS / 4 + 1;  // of a triple, one more against conflicts of banks
    const uint32_t triple = threadIdx.x / 3, own = threadIdx.x - 3 * triple;
    uint4* at = stage + triple * PITCH;
    store_aligned(reinterpret_cast<T*>(at + own * (Line<T>::WORDS / 4)), line);
    __syncthreads();
    DPCLEAN_UNROLL
    for (uint32_t w = 0; w < Line<T>::WORDS; w++) {
        if (sizeof(T) == 4) {
            line.words[w] = reinterpret_cast<const uint32_t*>(at)[3 * w + own];
        } else {
            const uint16_t* from = reinterpret_cast<const uint16_t*>(at) + 6 * w + own;
            line.words[w] = from[0] | static_cast<uint32_t>(from[3]) << 16;
        }
    }
    __syncthreads();
}

// Tables in shared memory where they fit: random reads by 32 lanes cost many cache lines in L1, few banks here.
template <class T, bool SHARED>
__global__ void __launch_bounds__(THREADS, 5) noise_kernel(const __grid_constant__ NoiseJob job, size_t blocks, size_t each) {
    DPCLEAN_SHARED(stage);
    const uint32_t samples = static_cast<uint32_t>(job.samples);
    const bool splits = job.planar && job.channels == 3;
    uint32_t* shared = reinterpret_cast<uint32_t*>(stage + THREADS / 3 * (3 * Line<T>::WORDS / 4 + 1));
    if (SHARED) {
        for (uint32_t i = threadIdx.x; i < 1u << job.table.m; i += THREADS) shared[i] = job.table.entry[i];
        __syncthreads();
    }
    const uint32_t* entries = SHARED ? shared : job.table.entry;
    const size_t step = static_cast<size_t>(gridDim.x) * THREADS;
    for (size_t start = static_cast<size_t>(blockIdx.x) * THREADS; start < blocks; start += step) {
        const size_t t = start + threadIdx.x, image = quotient(t, each);
        const uint32_t block = static_cast<uint32_t>(t - image * each), begin = 16 * block;
        Line<T> line;
        if (t < blocks && begin < samples) {
            uint32_t x[4], n[16];
            load_block(job.images + image * job.samples + begin, samples - begin, x);
            if (job.table.entry) {
                add_noise(job, entries, image, block, x, ZERO<T>, n);
            } else {
                DPCLEAN_UNROLL
                for (uint32_t j = 0; j < 16; j++) n[j] = (x[j / 4] >> 8 * (j % 4) & 0xff) + ZERO<T>;
            }
            fill(n, job.a, line);
        } else {
            DPCLEAN_UNROLL
            for (uint32_t w = 0; w < Line<T>::WORDS; w++) line.words[w] = 0;
        }
        T* out = static_cast<T*>(job.out) + image * job.samples;
        if (splits) {
            split(line, stage);
            const uint32_t plane = samples / 3, channel = threadIdx.x % 3, pixel = block / 3 * 16;
            if (t < blocks && pixel < plane) store_line(out + channel * plane + pixel, line, plane - pixel);
        } else if (t < blocks && begin < samples) {
            store_line(out + begin, line, samples - begin);
        }
    }
}

// ---- the way back

__device__ __forceinline__ float element(const View& view, size_t image, size_t channel, size_t pixel) {
    const size_t i = image * view.image + channel * view.channel + pixel * view.pixel;
    switch (view.type) {
        case Type::bf16: return read(static_cast<const BF16*>(view.data)[i]);
        case Type::f16: return read(static_cast<const F16*>(view.data)[i]);
        default: return read(static_cast<const F32*>(view.data)[i]);
    }
}

constexpr unsigned BACK = 256;

// Any layout, types and channels: a pixel each.
__global__ void __launch_bounds__(BACK) invert_kernel(const InverseJob job, size_t pixels_in_all, uint8_t* all_finite) {
    const size_t step = static_cast<size_t>(gridDim.x) * BACK;
    for (size_t t = static_cast<size_t>(blockIdx.x) * BACK + threadIdx.x; t < pixels_in_all; t += step) {
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
}

// Eight levels of one plane or of interleaved samples, one in each byte; `bad` becomes NaN with what is not finite.
template <class T>
__device__ __forceinline__ void eight_levels(const Inverse& inverse, const T* input, const T* prediction, float& bad,
                                             uint32_t level[8]) {
    constexpr unsigned W = WIDE<T>;
    float x[8], e[8];
    DPCLEAN_UNROLL
    for (unsigned i = 0; i < 8 / W; i++) {
        reinterpret_cast<const Pack<T, W>*>(prediction)[i].unpack(e + i * W);
        if (inverse.reads_input) reinterpret_cast<const Pack<T, W>*>(input)[i].unpack(x + i * W);
    }
    DPCLEAN_UNROLL
    for (unsigned i = 0; i < 8; i++) {
        bad = fmaf(e[i], 0.0f, bad);
        level[i] = grey_level(inverse, inverse.reads_input ? x[i] : 0.0f, e[i]);
    }
}

__device__ __forceinline__ uint32_t four_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return a | b << 8 | c << 16 | d << 24;
}

// Eight pixels of three planes, or eight samples that lie as they are written; both tensors of one layout and type.
template <class T, bool PLANES>
__global__ void __launch_bounds__(BACK) invert_eight(const InverseJob job, size_t eights, size_t each,
                                                     uint8_t* all_finite) {
    const T *input = static_cast<const T*>(job.input.data), *prediction = static_cast<const T*>(job.prediction.data);
    const size_t step = static_cast<size_t>(gridDim.x) * BACK;
    for (size_t t = static_cast<size_t>(blockIdx.x) * BACK + threadIdx.x; t < eights; t += step) {
        const size_t image = quotient(t, each), first = 8 * (t - image * each);
        const T *x = input + image * job.input.image + first, *e = prediction + image * job.prediction.image + first;
        float bad = 0.0f;
        if (PLANES) {
            uint32_t r[8], g[8], b[8];
            eight_levels(job.inverse, x, e, bad, r);
            eight_levels(job.inverse, x + job.input.channel, e + job.prediction.channel, bad, g);
            eight_levels(job.inverse, x + 2 * job.input.channel, e + 2 * job.prediction.channel, bad, b);
            uint2* out = reinterpret_cast<uint2*>(job.out + 3 * (image * job.pixels + first));
            out[0] = {four_bytes(r[0], g[0], b[0], r[1]), four_bytes(g[1], b[1], r[2], g[2])};
            out[1] = {four_bytes(b[2], r[3], g[3], b[3]), four_bytes(r[4], g[4], b[4], r[5])};
            out[2] = {four_bytes(g[5], b[5], r[6], g[6]), four_bytes(b[6], r[7], g[7], b[7])};
        } else {
            uint32_t l[8];
            eight_levels(job.inverse, x, e, bad, l);
            *reinterpret_cast<uint2*>(job.out + image * job.pixels * job.channels + first) = {
                four_bytes(l[0], l[1], l[2], l[3]), four_bytes(l[4], l[5], l[6], l[7])};
        }
        if (!(bad == 0.0f)) all_finite[image] = 0;
    }
}

bool is_planes(const View& view) { return view.pixel == 1 && view.channel % 8 == 0 && view.image % 8 == 0; }

bool is_interleaved(const View& view, const InverseJob& job) {
    return view.pixel == job.channels && (job.channels == 1 || view.channel == 1) && view.image % 8 == 0;
}

template <class T>
const char* invert_typed(const InverseJob& job, size_t count, uint8_t* all_finite, void* stream) {
    const bool reads = job.inverse.reads_input, grey_of_three = job.channels == 1 && job.prediction.channels >= 3;
    const bool fits = !grey_of_three && (!reads || (job.input.type == job.prediction.type && is_aligned(job.input.data))) &&
                      is_aligned(job.prediction.data) && is_aligned(job.out);
    const auto blocks = [](size_t threads) { return grid_of((threads + BACK - 1) / BACK); };
    const size_t samples = job.pixels * job.channels;
    if (fits && samples % 8 == 0 && is_interleaved(job.prediction, job) && (!reads || is_interleaved(job.input, job)))
        return launch(invert_eight<T, false>, blocks(count * samples / 8), BACK, 0, stream, job, count * samples / 8,
                      samples / 8, all_finite);
    if (fits && job.channels == 3 && job.pixels % 8 == 0 && is_planes(job.prediction) && (!reads || is_planes(job.input)))
        return launch(invert_eight<T, true>, blocks(count * job.pixels / 8), BACK, 0, stream, job,
                      count * job.pixels / 8, job.pixels / 8, all_finite);
    return launch(invert_kernel, blocks(count * job.pixels), BACK, 0, stream, job, count * job.pixels, all_finite);
}

template <class T, bool SHARED>
const char* draw(const NoiseJob& job, int device, void* stream) {
    int processors = 0, resident = 0;
    const auto kernel = noise_kernel<T, SHARED>;
    const size_t bytes = THREADS / 3 * (3 * Line<T>::WORDS / 4 + 1) * 16 + (SHARED ? sizeof(uint32_t) << job.table.m : 0);
    if (const char* bad = problem(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device)))
        return bad;
    if (const char* bad = problem(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, THREADS, bytes)))
        return bad;
    const size_t each = blocks_per_image(job), blocks = job.count * each;
    const size_t wanted = (blocks + THREADS - 1) / THREADS, most = static_cast<size_t>(processors) * resident;
    return launch(kernel, grid_of(wanted < most ? wanted : most), THREADS, bytes, stream, job, blocks, each);
}

template <class T>
const char* draw(const NoiseJob& job, int device, void* stream) {
    const size_t bytes = job.table.entry ? sizeof(uint32_t) << job.table.m : 0;
    return bytes != 0 && bytes <= SHARED_LIMIT ? draw<T, true>(job, device, stream) : draw<T, false>(job, device, stream);
}

}  // namespace

const char* noise_cuda(const NoiseJob& job, int device, void* stream) {
    if (job.count == 0 || job.samples == 0) return nullptr;
    if (const char* bad = problem(cudaSetDevice(device))) return bad;
    switch (job.type) {
        case Type::i16: return draw<int16_t>(job, device, stream);
        case Type::f32: return draw<F32>(job, device, stream);
        case Type::bf16: return draw<BF16>(job, device, stream);
        default: return draw<F16>(job, device, stream);
    }
}

const char* invert_cuda(const InverseJob& job, size_t count, uint8_t* all_finite, int device, void* stream) {
    if (count * job.pixels == 0) return nullptr;
    if (const char* bad = problem(cudaSetDevice(device))) return bad;
    if (const char* bad = problem(cudaMemsetAsync(all_finite, 1, count, static_cast<cudaStream_t>(stream)))) return bad;
    switch (job.prediction.type) {
        case Type::bf16: return invert_typed<BF16>(job, count, all_finite, stream);
        case Type::f16: return invert_typed<F16>(job, count, all_finite, stream);
        default: return invert_typed<F32>(job, count, all_finite, stream);
    }
}

}  // namespace dpclean
