// bindings.h -- numpy arrays as tensors, for the files of the module llmc._core.
#ifndef LLMC_BINDINGS_H
#define LLMC_BINDINGS_H

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace py = pybind11;

void bind_tensor(py::module_ &m);       // bindings_tensor.cpp
void bind_ops(py::module_ &m);          // bindings_ops.cpp
void bind_config(py::module_ &m);       // bindings_model.cpp
void bind_model(py::module_ &m);
void bind_decoder(py::module_ &m);      // bindings_decoder.cpp
void bind_trainer(py::module_ &m);      // bindings_train.cpp
void bind_sampler(py::module_ &m);
void bind_loader(py::module_ &m);       // bindings_loader.cpp
void bind_store(py::module_ &m);        // bindings_store.cpp
void bind_run(py::module_ &m);          // bindings_run.cpp

std::string text_of(py::handle object);

// The memory of an array. It must be contiguous, and stay alive for as long as the tensor is used.
Tensor tensor_of(py::handle object);            // may be written: a read-only array fails
Tensor view_of(py::handle object);              // is only read

// What is only read, of this type and shape; None gives none().
Tensor input_of(py::handle object, const char *name, DType dtype, const std::vector<int64_t> &shape);

#endif
