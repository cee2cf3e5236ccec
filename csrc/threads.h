// Splitting a range over threads. Results never depend on the split.
#pragma once

#include <dlfcn.h>
#include <stddef.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace dpclean {

inline const pid_t loaded_by = getpid();

// OpenMP's own entry point, if the process has an OpenMP: torch brings one. Its threads go on spinning for a while after
// torch used them, so others beside them would wait for a core. Looked up anew until it is there. Null in a process that
// was forked off: OpenMP's threads did not come along, and it would wait for them for ever.
inline auto openmp_parallel() {
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static std::atomic<Parallel> found{nullptr};
    if (getpid() != loaded_by) return Parallel{nullptr};
    if (!found) found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found.load();
}

// Calls work(first, last) on contiguous parts of [0, count) with boundaries at multiples of `grain`.
template <class Work>
void in_parallel(size_t threads, size_t count, size_t grain, const Work& work) {
    const size_t pieces = (count + grain - 1) / grain, parts = std::min(threads, pieces);
    if (parts <= 1) return work(size_t{0}, count);
    const auto boundary = [&](size_t part) { return std::min(count, pieces * part / parts * grain); };
    std::atomic<size_t> next{0};
    const auto take = [&] {
        for (size_t part; (part = next++) < parts;) work(boundary(part), boundary(part + 1));
    };
    if (const auto parallel = openmp_parallel()) {
        const auto call = [](void* of) { (*static_cast<decltype(take)*>(of))(); };
        return parallel(call, const_cast<void*>(static_cast<const void*>(&take)), static_cast<unsigned>(parts), 0);
    }
    std::vector<std::jthread> others;
    for (size_t part = 1; part < parts; part++) others.emplace_back(take);
    take();
}

}  // namespace dpclean
