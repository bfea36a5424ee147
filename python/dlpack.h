// dlpack.h -- DLPack 1.0: the structures in which libraries lend each other arrays (dmlc.github.io/dlpack). A library
// gives a capsule named "dltensor_versioned", or "dltensor" as before 1.0; who takes what is in it names it "used_…",
// and calls deleter when done.
#ifndef LLMC_DLPACK_H
#define LLMC_DLPACK_H

#include <cstdint>

enum { DLPACK_INT, DLPACK_UINT, DLPACK_FLOAT, DLPACK_HANDLE, DLPACK_BFLOAT, DLPACK_COMPLEX, DLPACK_BOOL };
constexpr uint64_t DLPACK_READ_ONLY = 1;        // of flags

struct DLType { uint8_t code, bits; uint16_t lanes; };

struct DLTensor {
    void     *data;
    int32_t   place_kind, place_number;         // see Place in device.h
    int32_t   ndim;
    DLType    type;
    int64_t  *shape, *strides;                  // strides in elements; NULL: contiguous in row-major order
    uint64_t  offset;                           // in bytes, from data to the first element
};

struct DLManaged {
    static constexpr const char *NAME = "dltensor";
    DLTensor tensor;
    void    *context;                           // the lender's
    void   (*deleter)(DLManaged *);
};

struct DLManagedVersioned {
    static constexpr const char *NAME = "dltensor_versioned";
    uint32_t major, minor;
    void    *context;
    void   (*deleter)(DLManagedVersioned *);
    uint64_t flags;
    DLTensor tensor;
};

#endif
