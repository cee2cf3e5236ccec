// The walk that all CPU kernels share: a batch is one list of (image, block) pairs, taken tile by tile, so that
// short images fill the vector lanes too. `Isa` draws a tile and converts runs of samples.
#pragma once

#include "kernels.h"

namespace dpclean {
namespace {

constexpr size_t TILE = 192;  // blocks; a multiple of every kernel's lanes and of 3. Small: all its buffers stay in L1

// Words 12, 14 and 15 of each block of a tile.
struct Blocks {
    alignas(64) uint32_t counter[TILE], low[TILE], high[TILE];
};

// The members of a run: consecutive blocks of one nonce, one in each lane.
template <class Isa>
size_t members(const MembersJob& job) {
    using Vector = typename Isa::Vector;
    constexpr size_t LANES = Isa::LANES;
    const Stream& s = job.stream;
    const uint32_t state[16] = {EXPA,     ND_3,     TWO_BY,   TE_K,     s.key[0], s.key[1], s.key[2], s.key[3],
                                s.key[4], s.key[5], s.key[6], s.key[7], 0,        s.run,    0,        s.test};
    Vector start[16], begun[16], v[16];
    for (int i = 0; i < 16; i++) begun[i] = start[i] = Isa::all(state[i]);
    // The first quarter rounds of three columns do not see the counter: they are the same in all blocks.
    for (int i = 1; i < 4; i++) Isa::quarter(begun[i], begun[4 + i], begun[8 + i], begun[12 + i]);
    size_t found = 0;
    for (size_t block = 0; 16 * block < job.count; block += LANES) {
        uint32_t counter[LANES];
        for (size_t b = 0; b < LANES; b++) counter[b] = static_cast<uint32_t>(block + b);
        begun[12] = start[12] = Isa::load(counter);
        for (int i = 0; i < 16; i++) v[i] = begun[i];
        Isa::quarter(v[0], v[4], v[8], v[12]);
        for (int i = 0; i < 4; i++) Isa::quarter(v[i], v[4 + (i + 1) % 4], v[8 + (i + 2) % 4], v[12 + (i + 3) % 4]);
        for (int round = 1; round < 10; round++) Isa::double_round(v);
        Vector marks = Isa::all(0);  // a bit a word
        for (int i = 0; i < 16; i++) marks = Isa::marked(marks, v[i], start[i], job.share, 1u << i);
        uint32_t taken[LANES];
        memcpy(taken, &marks, sizeof taken);
        for (size_t b = 0; b < LANES; b++)
            for (uint32_t words = taken[b]; words; words &= words - 1) {
                const size_t place = 16 * (block + b) + static_cast<size_t>(__builtin_ctz(words));
                if (place >= job.count) return found;
                job.places[found++] = static_cast<int64_t>(place);
            }
    }
    return found;
}

// Columns by the scalar definition, for the few blocks in which some r = t.
inline void redraw(const NoiseJob& job, uint32_t counter, Nonce at, uint16_t* picks) {
    uint32_t words[16];
    chacha20_block(job.stream.key, counter, job.stream.run, at.low, at.high, words);
    for (uint32_t j = 0; j < 16; j++) {
        const uint32_t entry = job.table.entry[words[j] >> (32 - job.table.m)];
        picks[j] = static_cast<uint16_t>(column(job.table, entry, job.stream, at, 16 * counter + j, words[j]));
    }
}

inline void narrow(int32_t n, float, int16_t& out) { out = static_cast<int16_t>(n); }
template <class T>
inline void narrow(int32_t n, float a, T& out) {
    narrow(model_input(n, a), out);
}

template <class T>
inline void add_each(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, T* out) {
    const int32_t k = static_cast<int32_t>(job.table.k);
    for (size_t i = 0; i < count; i++) narrow(x[i] + picks[i] - k, job.a, out[i]);
}

template <class T>
inline void split_each(const T* pixels, size_t count, T* out, size_t plane) {
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < count; i++) out[c * plane + i] = pixels[3 * i + c];
}

// Samples [start, start + count) of one image.
template <class Isa, class T>
void store(const NoiseJob& job, size_t image, size_t start, size_t count, const uint16_t* picks) {
    const uint8_t* x = job.images + image * job.samples + start;
    T* out = static_cast<T*>(job.out) + image * job.samples;
    if (!job.planar || job.channels == 1) {
        Isa::add(job, x, picks, count, out + start);
    } else {
        alignas(64) T line[TILE * 16];
        Isa::add(job, x, picks, count, line);
        Isa::split(line, count / 3, out + start / 3, job.samples / 3);
    }
}

template <class Isa, class T>
void noise_of(const NoiseJob& job, size_t first, size_t last) {
    const size_t each = blocks_per_image(job);
    Blocks blocks = {};
    alignas(64) uint16_t picks[TILE * 16] = {};
    for (size_t start = first; start < last; start += TILE) {
        const size_t count = last - start < TILE ? last - start : TILE;
        size_t image = start / each, block = start % each;
        if (job.table.entry) {
            size_t i = image, b = block;
            for (size_t t = 0; t < count; i++, b = 0) {
                const Nonce at = nonce(job.stream, job.indices[i]);
                const size_t end = each - b < count - t ? t + each - b : count;
                for (; t < end; t++) {
                    blocks.counter[t] = static_cast<uint32_t>(b++);
                    blocks.low[t] = at.low;
                    blocks.high[t] = at.high;
                }
            }
            Isa::draw(job, blocks, count, picks);
        }
        for (size_t t = 0; t < count; image++, block = 0) {
            const size_t run = each - block < count - t ? each - block : count - t;
            const size_t begin = 16 * block, end = 16 * (block + run);
            const size_t stop = end < job.samples ? end : job.samples;
            if (begin < stop) store<Isa, T>(job, image, begin, stop - begin, picks + 16 * t);
            t += run;
        }
    }
}

template <class Isa>
void noise(const NoiseJob& job, size_t first, size_t last) {
    switch (job.type) {
        case Type::i16: return noise_of<Isa, int16_t>(job, first, last);
        case Type::f32: return noise_of<Isa, F32>(job, first, last);
        case Type::bf16: return noise_of<Isa, BF16>(job, first, last);
        case Type::f16: return noise_of<Isa, F16>(job, first, last);
    }
}

// ---- the way back

constexpr size_t CHUNK = 1024;   // pixels widened at a time where no fused path fits the layout
constexpr size_t AHEAD = 1024;  // samples from which on to prefetch

template <class T>
inline void widen_channel(const View& view, size_t image, size_t channel, size_t first, size_t count, float* out,
                          size_t stride) {
    const T* from = static_cast<const T*>(view.data) + image * view.image + channel * view.channel + first * view.pixel;
    for (size_t i = 0; i < count; i++) out[i * stride] = widen(from[i * view.pixel]);
}

// Channel `channel` of pixels [first, first + count) to every `stride`-th float of out.
inline void widen_channel(const View& view, size_t image, size_t channel, size_t first, size_t count, float* out,
                          size_t stride) {
    switch (view.type) {
        case Type::bf16: return widen_channel<BF16>(view, image, channel, first, count, out, stride);
        case Type::f16: return widen_channel<F16>(view, image, channel, first, count, out, stride);
        default: return widen_channel<F32>(view, image, channel, first, count, out, stride);
    }
}

inline bool is_grey_of_three(const InverseJob& job) { return job.channels == 1 && job.prediction.channels >= 3; }

// Any layout, types and channel counts: widened to [pixels, channels] first.
template <class Isa>
bool invert_staged(const InverseJob& job, size_t image, size_t first, size_t last) {
    alignas(64) float input[3 * CHUNK], e[3 * CHUNK];
    bool all_finite = true;
    for (size_t start = first; start < last; start += CHUNK) {
        const size_t count = last - start < CHUNK ? last - start : CHUNK, c = job.channels;
        if (is_grey_of_three(job)) {
            for (size_t i = 0; i < 3; i++) widen_channel(job.prediction, image, i, start, count, input + i * CHUNK, 1);
            for (size_t i = 0; i < count; i++)
                e[i] = mean_of_three(input[i], input[CHUNK + i], input[2 * CHUNK + i]);
        } else {
            for (size_t i = 0; i < c; i++) widen_channel(job.prediction, image, i, start, count, e + i, c);
        }
        for (size_t i = 0; i < c && job.inverse.reads_input; i++)
            widen_channel(job.input, image, i, start, count, input + i, c);
        uint8_t* out = job.out + (image * job.pixels + start) * c;
        all_finite &= Isa::invert(job.inverse, reinterpret_cast<F32*>(input), reinterpret_cast<F32*>(e), count * c, out);
    }
    return all_finite;
}

// The reads and writes of 64 samples that come a while later: hardware does not look across pages.
template <class T>
inline void prefetch_samples(const T* input, const T* e, const uint8_t* out) {
    for (size_t i = 0; i < 64; i += 64 / sizeof(T)) {
        __builtin_prefetch(input + i);
        __builtin_prefetch(e + i);
    }
    __builtin_prefetch(out, 1);
}

// The next image's planes, 64 pixels from i on, where it lies behind this one; short planes defeat the hardware's.
template <class T>
inline void prefetch_planes(const T* input, size_t input_plane, const T* e, size_t e_plane, size_t i,
                            const uint8_t* out) {
    for (size_t c = 3; c < 6; c++)
        prefetch_samples(input + c * input_plane + i, e + c * e_plane + i, out + 3 * (input_plane + i) + 64 * (c - 3));
}

template <class I, class E>
inline bool invert_each(const Inverse& inverse, const I* input, const E* e, size_t count, uint8_t* out) {
    bool all_finite = true;
    for (size_t i = 0; i < count; i++) {
        const float prediction = widen(e[i]);
        all_finite &= finite(prediction);
        out[i] = grey_level(inverse, inverse.reads_input ? widen(input[i]) : 0.0f, prediction);
    }
    return all_finite;
}

template <class I, class E>
inline bool invert_planes(const Inverse& inverse, const I* input, size_t input_plane, const E* e, size_t e_plane,
                          size_t count, uint8_t* out) {
    bool all_finite = true;
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < 3; c++)
            all_finite &= invert_each(inverse, input + c * input_plane + i, e + c * e_plane + i, 1, out + 3 * i + c);
    return all_finite;
}

inline bool is_interleaved(const View& view, size_t channels) {
    return view.pixel == channels && (channels == 1 || view.channel == 1);
}

template <class Isa, class T>
bool invert_same_type(const InverseJob& job, size_t image, size_t first, size_t last) {
    const View &x = job.input, &e = job.prediction;
    const size_t c = job.channels;
    const bool reads = job.inverse.reads_input;
    const T* input = static_cast<const T*>(reads ? x.data : e.data) + image * (reads ? x.image : e.image);
    const T* prediction = static_cast<const T*>(e.data) + image * e.image;
    uint8_t* out = job.out + (image * job.pixels + first) * c;
    if (!is_grey_of_three(job) && is_interleaved(e, c) && (!reads || is_interleaved(x, c)))
        return Isa::invert(job.inverse, input + first * c, prediction + first * c, (last - first) * c, out);
    if (c == 3 && e.pixel == 1 && (!reads || x.pixel == 1))
        return Isa::invert_planar(job.inverse, input + first, reads ? x.channel : e.channel, prediction + first,
                                  e.channel, last - first, out);
    return invert_staged<Isa>(job, image, first, last);
}

template <class Isa>
bool invert(const InverseJob& job, size_t image, size_t first, size_t last) {
    if (job.inverse.reads_input && job.input.type != job.prediction.type)
        return invert_staged<Isa>(job, image, first, last);
    switch (job.prediction.type) {
        case Type::bf16: return invert_same_type<Isa, BF16>(job, image, first, last);
        case Type::f16: return invert_same_type<Isa, F16>(job, image, first, last);
        default: return invert_same_type<Isa, F32>(job, image, first, last);
    }
}

}  // namespace
}  // namespace dpclean
