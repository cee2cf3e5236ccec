// The portable kernel: four blocks at a time in the compiler's own vectors, no instruction set assumed.
#include "tiles.h"

namespace dpclean {
namespace {

typedef uint32_t Lanes __attribute__((vector_size(16)));
constexpr size_t LANES = 4;

inline Lanes rotate(Lanes x, int r) { return x << r | x >> (32 - r); }

inline Lanes rotate16(Lanes x) {
    typedef uint16_t Halves __attribute__((vector_size(16)));
    typedef int16_t Order __attribute__((vector_size(16)));
    return reinterpret_cast<Lanes>(__builtin_shuffle(reinterpret_cast<Halves>(x), Order{1, 0, 3, 2, 5, 4, 7, 6}));
}

inline void quarter(Lanes& a, Lanes& b, Lanes& c, Lanes& d) {
    a += b; d = rotate16(d ^ a);
    c += d; b = rotate(b ^ c, 12);
    a += b; d = rotate(d ^ a, 8);
    c += d; b = rotate(b ^ c, 7);
}

inline void double_round(Lanes v[16]) {
    quarter(v[0], v[4], v[8], v[12]);
    quarter(v[1], v[5], v[9], v[13]);
    quarter(v[2], v[6], v[10], v[14]);
    quarter(v[3], v[7], v[11], v[15]);
    quarter(v[0], v[5], v[10], v[15]);
    quarter(v[1], v[6], v[11], v[12]);
    quarter(v[2], v[7], v[8], v[13]);
    quarter(v[3], v[4], v[9], v[14]);
}

inline Lanes all(uint32_t x) { return Lanes{x, x, x, x}; }

inline Lanes load(const uint32_t* p) {
    Lanes x;
    memcpy(&x, p, sizeof x);
    return x;
}

struct Words {
    using Vector = Lanes;
    static constexpr size_t LANES = 4;
    static Lanes all(uint32_t x) { return dpclean::all(x); }
    static Lanes load(const uint32_t* p) { return dpclean::load(p); }
    static void quarter(Lanes& a, Lanes& b, Lanes& c, Lanes& d) { dpclean::quarter(a, b, c, d); }
    static void double_round(Lanes v[16]) { dpclean::double_round(v); }
    // With bit set in the lanes whose sum is below share. Vectors compare as signed numbers nearly everywhere.
    static Lanes marked(Lanes marks, Lanes x, Lanes y, uint32_t share, uint32_t bit) {
        typedef int32_t Signed __attribute__((vector_size(16)));
        const Lanes turned = (x + y) ^ dpclean::all(1u << 31), most = dpclean::all(share ^ 1u << 31);
        const auto holds = reinterpret_cast<Signed>(turned) < reinterpret_cast<Signed>(most);
        return marks | (reinterpret_cast<Lanes>(holds) & dpclean::all(bit));
    }
};

// The samples of words j and j + 1 of four blocks; returns whether some r = t.
inline bool pick_two(const Table& table, const uint32_t* words, size_t j, uint16_t* picks) {
    const uint32_t m = table.m, mask = (1u << m) - 1;
    uint32_t undecided = 0;
    for (size_t i = j * LANES; i < (j + 2) * LANES; i++) {
        const uint32_t u = words[i], c = u >> (32 - m), us = u << m, entry = table.entry[c];
        // Masks, not a choice: a branch on a random bit costs more than all the rest.
        const uint32_t keep = 0u - static_cast<uint32_t>(us < entry);
        picks[i % LANES * 16 + i / LANES] = static_cast<uint16_t>((c & keep) | (entry & mask & ~keep));
        undecided |= (entry - us) >> m == 0;
    }
    return undecided;
}

// rounded_level(y + 127.5) of four samples. On single floats gcc makes branches of the clamp.
inline void put_levels(const float* from, uint8_t* out) {
    typedef float Floats __attribute__((vector_size(16)));
    Floats y;
    memcpy(&y, from, sizeof y);
    y += 127.5f;
    y = y > 0.0f ? y : Floats{};
    y = y < 255.0f ? y : Floats{} + 255.0f;
    const Lanes level = reinterpret_cast<Lanes>(y + 8388608.0f);
    for (size_t i = 0; i < LANES; i++) out[i] = static_cast<uint8_t>(level[i]);
}

struct Portable {
    // A pipeline of two stages: the look-ups of one group run beside the ChaCha rounds of the next.
    static void draw(const NoiseJob& job, const Blocks& blocks, size_t count, uint16_t* picks) {
        const Stream& s = job.stream;
        const Table table = job.table;
        alignas(16) uint32_t words[16 * LANES] = {};
        const auto finish = [&](size_t t, bool undecided) {
            for (size_t b = t; undecided && b < t + LANES; b++)
                redraw(job, blocks.counter[b], {blocks.low[b], blocks.high[b]}, picks + 16 * b);
        };
        size_t t = 0;
        for (; t < count; t += LANES) {
            const Lanes start[16] = {all(EXPA),     all(ND_3),     all(TWO_BY),   all(TE_K),
                                     all(s.key[0]), all(s.key[1]), all(s.key[2]), all(s.key[3]),
                                     all(s.key[4]), all(s.key[5]), all(s.key[6]), all(s.key[7]),
                                     load(blocks.counter + t), all(s.run), load(blocks.low + t), load(blocks.high + t)};
            Lanes v[16];
            for (int i = 0; i < 16; i++) v[i] = start[i];
            uint16_t spare[16 * LANES], *before = t > 0 ? picks + 16 * (t - LANES) : spare;
            bool undecided = false;
            for (size_t round = 0; round < 8; round++) {
                double_round(v);
                undecided |= pick_two(table, words, 2 * round, before);
            }
            double_round(v);
            double_round(v);
            if (t > 0) finish(t - LANES, undecided);
            for (size_t i = 0; i < 16; i++) {
                const Lanes u = v[i] + start[i];
                memcpy(words + LANES * i, &u, sizeof u);
            }
        }
        bool undecided = false;
        for (size_t j = 0; j < 16; j += 2) undecided |= pick_two(table, words, j, picks + 16 * (t - LANES));
        finish(t - LANES, undecided);
    }

    template <class T>
    static void add(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, T* out) {
        add_each(job, x, picks, count, out);
    }

    template <class T>
    static void split(const T* pixels, size_t count, T* out, size_t plane) {
        split_each(pixels, count, out, plane);
    }

    // Step by step over short arrays: loops that any compiler turns into vectors.
    template <class T>
    static bool invert(const Inverse& inverse, const T* input, const T* e, size_t count, uint8_t* out) {
        constexpr size_t STEP = 64;
        uint32_t not_finite = 0;
        size_t i = 0;
        for (; i + STEP <= count; i += STEP) {
            float x[STEP], y[STEP];
            for (size_t j = 0; j < STEP; j++) y[j] = widen(e[i + j]);
            for (size_t j = 0; j < STEP; j++) not_finite |= 0x7f7fffff - (bits(y[j]) & 0x7fffffff);  // the sign bit
            for (size_t j = 0; j < STEP; j++) y[j] *= inverse.q;
            if (inverse.reads_input) {
                for (size_t j = 0; j < STEP; j++) x[j] = widen(input[i + j]);
                for (size_t j = 0; j < STEP; j++) y[j] = x[j] * inverse.p + y[j];
            }
            for (size_t j = 0; j < STEP; j += LANES) put_levels(y + j, out + i + j);
        }
        return (not_finite >> 31 == 0) & invert_each(inverse, input + i, e + i, count - i, out + i);
    }

    template <class T>
    static bool invert_planar(const Inverse& inverse, const T* input, size_t input_plane, const T* e, size_t e_plane,
                              size_t count, uint8_t* out) {
        constexpr size_t STEP = 256;
        bool all_finite = true;
        for (size_t i = 0; i < count; i += STEP) {
            const size_t some = count - i < STEP ? count - i : STEP;
            uint8_t plane[3][STEP];
            for (size_t c = 0; c < 3; c++)
                all_finite &= invert(inverse, input + c * input_plane + i, e + c * e_plane + i, some, plane[c]);
            for (size_t j = 0; j < some; j++)
                for (size_t c = 0; c < 3; c++) out[3 * (i + j) + c] = plane[c][j];
        }
        return all_finite;
    }
};

}  // namespace

const Kernel SCALAR = {"scalar", noise<Portable>, invert<Portable>, &GROUP_NORM_SCALAR, members<Words>};

}  // namespace dpclean
