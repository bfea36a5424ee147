// failure.h -- a failed CHECK of the core as a C++ exception. Modules that meet in one process share the core's one
// handler, so all of them throw this type; _core makes it llmc.LlmcError.
#ifndef LLMC_FAILURE_H
#define LLMC_FAILURE_H

#include <stdexcept>

#include "base.h"

struct __attribute__((visibility("default"))) Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

[[noreturn]] inline void throw_failure(const char *message) { throw Failure(message); }

#endif
