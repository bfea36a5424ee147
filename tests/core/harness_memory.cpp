// harness_memory.cpp -- csrc/system_memory.h: what is found below a folder that holds another proc and sys.
#include "harness.h"

#include "system_memory.h"

SECTION(memory)
{
    m.def("system_memory", [](const char *root) {
        const Memory found = system_memory(root);
        return py::make_tuple(found.total, found.free, found.reserve);
    }, py::arg("root") = "");
}
