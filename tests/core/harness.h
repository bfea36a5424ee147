// harness.h -- a section of _core_tests, the module through which tests reach the parts of the core that users never
// call. One file an area: tests/core/harness_AREA.cpp holds
//
//     SECTION(json) { m.def("json_dump", ...); }
//
// and nothing else has to be told of it. A failed CHECK arrives in Python as a RuntimeError with its sentence.
#ifndef LLMC_HARNESS_H
#define LLMC_HARNESS_H

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "base.h"

namespace py = pybind11;

using Section = void (*)(py::module_ &m);

struct AddSection {
    explicit AddSection(Section section);
};

#define SECTION(area)                                  \
    static void bind_##area(py::module_ &m);           \
    static const AddSection add_##area(bind_##area);   \
    static void bind_##area(py::module_ &m)

#endif
