#include "group_norm.h"

namespace dpclean {
namespace {

struct Wide {
    typedef float F __attribute__((vector_size(16)));
    typedef uint32_t U __attribute__((vector_size(16)));
    static constexpr size_t lanes = 4;

    static F load(const F32* from) {
        F x;
        memcpy(&x, from, sizeof x);
        return x;
    }
    static F load(const BF16* from) { return F{widen(from[0]), widen(from[1]), widen(from[2]), widen(from[3])}; }
    static void store(F32* to, F x) { memcpy(to, &x, sizeof x); }
    static void store(BF16* to, F x) {
        const U u = bfloat16_bits<Wide>(x);
        for (size_t i = 0; i < lanes; i++) to[i].value = static_cast<uint16_t>(u[i]);
    }
    static F multiply_add(F a, F b, F c) { return a * b + c; }
    static F silu(F x, F32) { return x / one_plus_exp<Wide>(x); }
    static F silu(F x, BF16) { return x / one_plus_exp<Wide, true>(x); }
    static F sigmoid(F x) { return 1.0f / one_plus_exp<Wide>(x); }
    static F clamp(F x, float low, float high) {
        x = x > low ? x : F{} + low;
        return x < high ? x : F{} + high;
    }
};

}  // namespace

extern const GroupNorm GROUP_NORM_SCALAR = group_norm_by<Wide>();

}  // namespace dpclean
