// harness_optim.cpp -- csrc/optim.h: the guard, as a run drives it.
#include "harness.h"

#include "optim.h"

SECTION(optim)
{
    py::enum_<Verdict>(m, "Verdict", py::module_local())
        .value("PASS", GUARD_PASS).value("LOSS_NOT_FINITE", GUARD_LOSS_NOT_FINITE)
        .value("NORM_NOT_FINITE", GUARD_NORM_NOT_FINITE).value("LOSS_SPIKE", GUARD_LOSS_SPIKE)
        .value("NORM_SPIKE", GUARD_NORM_SPIKE);
    py::class_<Guard>(m, "Guard", py::module_local())
        .def(py::init([](double z) { return Guard{ z, {}, {}, 0 }; }), py::arg("z"))
        .def("judge", [](const Guard &g, double loss, double norm) {
            double z;
            const Verdict verdict = guard_judge(&g, loss, norm, &z);
            return std::make_pair(verdict, z);
        }, py::arg("loss"), py::arg("norm"))
        .def("enter", [](Guard &g, double loss, double norm) { guard_enter(&g, loss, norm); }, py::arg("loss"),
             py::arg("norm"));
    m.attr("GUARD_WINDOW") = (int)GUARD_WINDOW;
    m.attr("GUARD_LEAST") = (int)GUARD_LEAST;
}
