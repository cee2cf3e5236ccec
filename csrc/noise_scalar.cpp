// The portable kernel: four blocks at a time in the compiler's own vectors, no instruction set assumed.
#include "tiles.h"

namespace dpclean {
namespace {

typedef uint32_t Lanes __attribute__((vector_size(16)));
constexpr size_t LANES = 4;

inline Lanes rotate(Lanes x, int r) { return x << r | x >> (32 - r); }

inline void quarter(Lanes& a, Lanes& b, Lanes& c, Lanes& d) {
    a += b; d = rotate(d ^ a, 16);
    c += d; b = rotate(b ^ c, 12);
    a += b; d = rotate(d ^ a, 8);
    c += d; b = rotate(b ^ c, 7);
}

inline Lanes all(uint32_t x) { return Lanes{x, x, x, x}; }

void chacha20_lanes(const Stream& s, Lanes counter, Lanes low, Lanes high, uint32_t out[16][LANES]) {
    const Lanes start[16] = {all(EXPA),     all(ND_3),     all(TWO_BY),   all(TE_K),     all(s.key[0]), all(s.key[1]),
                             all(s.key[2]), all(s.key[3]), all(s.key[4]), all(s.key[5]), all(s.key[6]), all(s.key[7]),
                             counter,       all(s.run),    low,           high};
    Lanes v[16];
    for (int i = 0; i < 16; i++) v[i] = start[i];
    for (int round = 0; round < 10; round++) {
        quarter(v[0], v[4], v[8], v[12]);
        quarter(v[1], v[5], v[9], v[13]);
        quarter(v[2], v[6], v[10], v[14]);
        quarter(v[3], v[7], v[11], v[15]);
        quarter(v[0], v[5], v[10], v[15]);
        quarter(v[1], v[6], v[11], v[12]);
        quarter(v[2], v[7], v[8], v[13]);
        quarter(v[3], v[4], v[9], v[14]);
    }
    for (int i = 0; i < 16; i++) {
        v[i] += start[i];
        memcpy(out[i], &v[i], sizeof v[i]);
    }
}

struct Portable {
    static void draw(const NoiseJob& job, const Blocks& blocks, size_t count, uint16_t* picks) {
        const uint32_t *entries = job.table.entry, m = job.table.m, mask = (1u << m) - 1;
        uint32_t words[16][LANES];
        for (size_t t = 0; t < count; t += LANES) {
            Lanes counter, low, high;
            memcpy(&counter, blocks.counter + t, sizeof counter);
            memcpy(&low, blocks.low + t, sizeof low);
            memcpy(&high, blocks.high + t, sizeof high);
            chacha20_lanes(job.stream, counter, low, high, words);
            for (size_t lane = 0; lane < LANES; lane++) {
                uint16_t* z = picks + 16 * (t + lane);
                uint32_t undecided = 0;
                for (size_t j = 0; j < 16; j++) {
                    const uint32_t u = words[j][lane], c = u >> (32 - m), us = u << m, entry = entries[c];
                    // Masks, not a choice: a branch on a random bit costs more than all the rest.
                    const uint32_t keep = 0u - static_cast<uint32_t>(us < entry);
                    z[j] = static_cast<uint16_t>((c & keep) | (entry & mask & ~keep));
                    undecided |= (entry - us) >> m == 0;
                }
                if (undecided) redraw(job, blocks.counter[t + lane], {blocks.low[t + lane], blocks.high[t + lane]}, z);
            }
        }
    }

    template <class T>
    static void add(const NoiseJob& job, const uint8_t* x, const uint16_t* picks, size_t count, T* out) {
        add_each(job, x, picks, count, out);
    }

    template <class T>
    static void split(const T* pixels, size_t count, T* out, size_t plane) {
        split_each(pixels, count, out, plane);
    }

    template <class T>
    static bool invert(const Inverse& inverse, const T* input, const T* e, size_t count, uint8_t* out) {
        return invert_each(inverse, input, e, count, out);
    }

    template <class T>
    static bool invert_planar(const Inverse& inverse, const T* input, size_t input_plane, const T* e, size_t e_plane,
                              size_t count, uint8_t* out) {
        return invert_planes(inverse, input, input_plane, e, e_plane, count, out);
    }
};

}  // namespace

const Kernel SCALAR = {"scalar", noise<Portable>, invert<Portable>, group_norm_scalar};

}  // namespace dpclean
