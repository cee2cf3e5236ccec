// SHA-256 of many pieces of memory, where the processor has instructions for it.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace dpclean {

struct Hashed {
    const uint8_t* data;
    size_t size;
    uint8_t digest[32];  // filled in
};

bool has_sha256();

// The digests of pieces. Neighbours of one size are hashed together, which takes little more time than one of them.
void sha256(Hashed* pieces, size_t count);

}  // namespace dpclean
