// Splitting a range over threads. Results never depend on the split.
#pragma once

#include <stddef.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace dpclean {

// Calls work(first, last) on contiguous parts of [0, count) with boundaries at multiples of `grain`.
template <class Work>
void in_parallel(size_t threads, size_t count, size_t grain, const Work& work) {
    const size_t pieces = (count + grain - 1) / grain, parts = std::min(threads, pieces);
    if (parts <= 1) return work(size_t{0}, count);
    const auto boundary = [&](size_t part) { return std::min(count, pieces * part / parts * grain); };
    std::vector<std::jthread> others;
    for (size_t part = 1; part < parts; part++)
        others.emplace_back([&, part] { work(boundary(part), boundary(part + 1)); });
    work(size_t{0}, boundary(1));
}

}  // namespace dpclean
