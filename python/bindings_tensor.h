// bindings_tensor.h -- memory of a device as Python sees it, and arrays of other libraries as tensors.
#ifndef LLMC_BINDINGS_TENSOR_H
#define LLMC_BINDINGS_TENSOR_H

#include "bindings.h"

// llmc.Tensor. The device, or the model whose memory it is, is kept alive beside it.
struct BoundTensor {
    Device *device;
    Tensor  tensor;
    void   *block;              // given back in the end; nullptr: it is a model's
    BoundTensor(Device *device, Tensor tensor, void *block) : device(device), tensor(tensor), block(block) {}
    BoundTensor(const BoundTensor &) = delete;
    ~BoundTensor() { device_free(device, block); }
};

// An array that a call may use for as long as `held` lives, and whose memory it is: see Place in device.h. foreign: it
// is a GPU's, of another library, which gives work to that GPU by itself.
struct Borrowed { Tensor tensor; py::object held; int kind, number; bool foreign; };

// llmc.Tensor, a numpy array, or what has __dlpack__ or __cuda_array_interface__, where it lies; None gives none().
// Fails for memory that the device cannot read, or that may not be written.
Borrowed borrow(py::handle object, Device &d);

py::array host_copy(Device *d, Tensor t);       // bfloat16 as its uint16 bits

#endif
