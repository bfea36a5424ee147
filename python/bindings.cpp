// bindings.cpp -- the C core as the Python module llmc._core: arrays in, arrays out.
//
// Bindings translate and nothing else: no arithmetic, no loop over elements, no policy. A failed CHECK of the core
// becomes llmc.LlmcError with the same sentence. Every call that computes releases the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "ops.h"

namespace py = pybind11;

// ---- failing ------------------------------------------------------------------------------------------------------

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

static void throw_failure(const char *message) { throw Failure(message); }

// ---- arrays -------------------------------------------------------------------------------------------------------

static std::string text_of(py::handle object) { return py::str(object).cast<std::string>(); }

static DType dtype_of(const py::array &array)
{
    const py::dtype type = array.dtype();
    const char kind = type.kind();
    const py::ssize_t bytes = type.itemsize();
    if (type.attr("isnative").cast<bool>()) {
        if (kind == 'f' && bytes == 4) return DT_F32;
        if (kind == 'i' && bytes == 4) return DT_I32;
        if (kind == 'u' && bytes == 1) return DT_U8;
        if (kind == 'u' && bytes == 2) return DT_BF16;
        if (text_of(type) == "bfloat16") return DT_BF16;
    }
    FAIL("an array of %s, wanted float32, int32, uint8, or bfloat16 (also as its uint16 bits)", text_of(type).c_str());
}

// A view of the array's memory: the caller keeps the array alive for as long as the tensor is used.
static Tensor tensor_of(py::handle object)
{
    CHECK(py::isinstance<py::array>(object), "found %s, wanted a numpy array or None",
          text_of(py::type::of(object).attr("__name__")).c_str());
    const py::array array = py::reinterpret_borrow<py::array>(object);
    Tensor t = { nullptr, nullptr, dtype_of(array), (int)array.ndim(), { 0 } };
    CHECK(t.ndim >= 1 && t.ndim <= 4, "an array of %d dimensions, wanted 1 to 4", t.ndim);
    for (int i = 0; i < t.ndim; i++) t.dim[i] = array.shape(i);
    CHECK(array.flags() & py::array::c_style, "an array of shape %s is not contiguous in row-major order; pass "
          "numpy.ascontiguousarray of it", text_of(array.attr("shape")).c_str());
    CHECK(array.writeable(), "an array of shape %s is read-only; pass a copy of it",
          text_of(array.attr("shape")).c_str());
    t.data = const_cast<void *>(array.data());
    return t;
}

namespace pybind11::detail {
template <> struct type_caster<Tensor> {
    PYBIND11_TYPE_CASTER(Tensor, const_name("numpy.ndarray | None"));
    bool load(handle source, bool)
    {
        value = source.is_none() ? ::none() : tensor_of(source);
        return true;
    }
};
}

// ---- devices ------------------------------------------------------------------------------------------------------

struct CloseDevice {
    void operator()(Device *d) const { device_close(d); }
};

static void bind_device(py::module_ &m)
{
    py::class_<Device, std::unique_ptr<Device, CloseDevice>>(m, "Device",
        "A machine that runs the ops. One thread at a time may use it: it has one workspace.")
        .def(py::init([](const std::string &name, int threads) { return device_open(name.c_str(), threads); }),
             py::arg("name") = "cpu", py::arg("threads") = 0)
        .def_property_readonly("name", [](const Device &d) { return d.backend->name; })
        .def_readonly("threads", &Device::threads)
        .def("reserve", [](Device &d, size_t bytes) { device_reserve(&d, bytes); }, py::arg("bytes"),
             "The workspace holds at least this many bytes from now on.");
    m.def("device_list", [] { return py::str(device_list()).attr("split")(); }, "Names that Device would open here.");
}

// ---- ops ----------------------------------------------------------------------------------------------------------

// "(Device *d, Tensor out, bool accumulate)" -> d, out, accumulate
static std::vector<std::string> parameter_names(const std::string &declaration)
{
    std::vector<std::string> names;
    for (size_t end = declaration.find_first_of(",)"); end != std::string::npos;
         end = declaration.find_first_of(",)", end + 1)) {
        const size_t begin = declaration.find_last_of(" *", end) + 1;
        names.push_back(declaration.substr(begin, end - begin));
    }
    return names;
}

template <typename Result, typename... Args, size_t... I>
static void define_op(py::module_ &m, const char *name, const char *declaration, Result (*op)(Device *, Args...),
                      std::index_sequence<I...>)
{
    const std::vector<std::string> names = parameter_names(declaration);
    m.def(name, [op](Device &d, Args... args) { return op(&d, args...); }, py::arg("device"),
          py::arg(names[I + 1].c_str())..., py::call_guard<py::gil_scoped_release>(), declaration);
}

template <typename Result, typename... Args>
static void define_op(py::module_ &m, const char *name, const char *declaration, Result (*op)(Device *, Args...))
{
    define_op(m, name, declaration, op, std::index_sequence_for<Args...>{});
}

static void bind_ops(py::module_ &m)
{
    py::enum_<Activation>(m, "Activation").value("NONE", ACT_NONE).value("GELU", ACT_GELU);
    py::class_<AdamW>(m, "AdamW", "One step's numbers of the optimizer; step counts from 1.")
        .def(py::init([](float lr, float beta1, float beta2, float eps, float weight_decay, float grad_scale,
                         int64_t step) { return AdamW{ lr, beta1, beta2, eps, weight_decay, grad_scale, step }; }),
             py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
             py::arg("grad_scale"), py::arg("step"));

#define BIND_PURE(name, args)    define_op(m, #name, #args, name);
#define BIND_SCRATCH(name, args) define_op(m, #name, #args, name); define_op(m, #name "_scratch", #args, name##_scratch);
    OPS(BIND_PURE, BIND_SCRATCH)
#undef BIND_PURE
#undef BIND_SCRATCH
    m.def("op_names", [] { return std::vector<std::string>(op_names, op_names + OP_COUNT); },
          "Every op of the contract, in the order of ops.h.");
}

PYBIND11_MODULE(_core, m)
{
    set_fail_handler(throw_failure);
    py::register_exception<Failure>(m, "LlmcError", PyExc_RuntimeError).attr("__module__") = "llmc";
    bind_device(m);
    bind_ops(m);
}
