// Which kernels this CPU can run. The only file that asks it.
#include "kernels.h"

namespace dpclean {

const Kernel* const* available_kernels(size_t& count) {
    static const Kernel* found[3];
    static const size_t number = [] {
        size_t n = 0;
#if defined(__x86_64__)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl"))
            found[n++] = &AVX512;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma")) found[n++] = &AVX2;
#endif
        found[n++] = &SCALAR;
        return n;
    }();
    count = number;
    return found;
}

}  // namespace dpclean
