// Which kernels this CPU can run. The only file that asks it.
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dpclean {

#if defined(__x86_64__)
namespace {

// Products of bfloat16 pairs in vectors, and no matrix units for them, with which torch's convolutions are faster.
bool has_bf16_vectors_only() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool has_matrices = d >> 22 & 1;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1) && !has_matrices;
}

// All of AVX512, and the convolution.
const Kernel& with_bf16() {
    static const Kernel kernel = [] {
        Kernel made = AVX512;
        made.name = "avx512bf16";
        made.convolution = &CONVOLUTION_AVX512BF16;
        return made;
    }();
    return kernel;
}

}  // namespace
#endif

const Kernel* const* available_kernels(size_t& count) {
    static const Kernel* found[4];
    static const size_t number = [] {
        size_t n = 0;
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl")) {
            if (has_bf16_vectors_only()) found[n++] = &with_bf16();
            found[n++] = &AVX512;
        }
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma")) found[n++] = &AVX2;
#endif
        found[n++] = &SCALAR;
        return n;
    }();
    count = number;
    return found;
}

}  // namespace dpclean
