// fuzz.h -- a target of the fuzzer: a reader of files that come from anywhere. In any file of this folder,
//
//     TARGET(json)
//     {
//         JsonFile *file AUTO(json_free) = json_parse("json", (const char *)data, size);
//     }
//
// and test_fuzz.py has to be given files that it accepts. A target returns where the input was read, and throws, as
// CHECK does here, where it was refused; it must crash, hang or leak on none, and hold at most twice the input's size
// and a small constant. See fuzz.cpp.
#ifndef LLMC_FUZZ_H
#define LLMC_FUZZ_H

#include "base.h"

using Target = void (*)(const uint8_t *data, size_t size);

struct AddTarget {
    AddTarget(const char *name, Target target);
};

#define TARGET(name)                                             \
    static void fuzz_##name(const uint8_t *data, size_t size);   \
    static const AddTarget add_##name(#name, fuzz_##name);       \
    static void fuzz_##name(const uint8_t *data, size_t size)

// For readers that want a path: the input as a file of this name in the fuzzer's own folder. The path is good until
// the next call; nothing of it counts as the target's memory.
const char *scratch_folder();
const char *scratch_file(const char *name, const void *data, size_t size);

// A block of exactly this size, aligned for anything, for an input that has to be rearranged; the same terms.
uint8_t *scratch_block(size_t size);

#endif
