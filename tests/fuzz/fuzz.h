// fuzz.h -- what a target and its driver agree on. See driver.cpp.
#ifndef LLMC_FUZZ_H
#define LLMC_FUZZ_H

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "base.h"

// A failed CHECK of the core: the input was refused with a sentence, which is what it is for.
struct FuzzFailure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
