// harness.cpp -- the module _core_tests: sections gathered from the harness_AREA.cpp files beside it. See harness.h.
#include "harness.h"

#include "../../python/failure.h"

static std::vector<Section> &sections()
{
    static std::vector<Section> all;
    return all;
}

AddSection::AddSection(Section section) { sections().push_back(section); }

PYBIND11_MODULE(_core_tests, m)
{
    set_fail_handler(throw_failure);
    m.def("fail", [](const std::string &sentence) { FAIL("%s", sentence.c_str()); });
    for (Section section : sections()) section(m);
}
