// bindings.cpp -- the C core as the Python module llmc._core: arrays in, arrays out.
//
// Bindings translate and nothing else: no arithmetic, no loop over elements, no policy. A failed CHECK of the core
// becomes llmc.LlmcError with the same sentence. Calls that compute for long release the GIL.
#include "bindings.h"
#include "failure.h"
#include "profile.h"
#include "shards.h"

// ---- arrays -------------------------------------------------------------------------------------------------------

std::string text_of(py::handle object) { return py::str(object).cast<std::string>(); }

static DType dtype_of(const py::array &array)
{
    const py::dtype type = array.dtype();
    const char kind = type.kind();
    const py::ssize_t bytes = type.itemsize();
    if (type.attr("isnative").cast<bool>()) {
        if (kind == 'f' && bytes == 4) return DT_F32;
        if (kind == 'i' && bytes == 4) return DT_I32;
        if (kind == 'u' && bytes == 1) return DT_U8;
        if (kind == 'i' && bytes == 1) return DT_I8;
        if (kind == 'u' && bytes == 2) return DT_BF16;
        if (text_of(type) == "bfloat16") return DT_BF16;
    }
    FAIL("an array of %s, wanted float32, int32, uint8, int8, or bfloat16 (also as its uint16 bits)",
         text_of(type).c_str());
}

Tensor view_of(py::handle object)
{
    CHECK(py::isinstance<py::array>(object), "found %s, wanted a numpy array",
          text_of(py::type::of(object).attr("__name__")).c_str());
    const py::array array = py::reinterpret_borrow<py::array>(object);
    Tensor t = { nullptr, nullptr, dtype_of(array), (int)array.ndim(), { 0 } };
    CHECK(t.ndim >= 1 && t.ndim <= 4, "an array of %d dimensions, wanted 1 to 4", t.ndim);
    for (int i = 0; i < t.ndim; i++) t.dim[i] = array.shape(i);
    CHECK(array.flags() & py::array::c_style, "an array of shape %s is not contiguous in row-major order; pass "
          "numpy.ascontiguousarray of it", text_of(array.attr("shape")).c_str());
    t.data = const_cast<void *>(array.data());
    return t;
}

Tensor tensor_of(py::handle object)
{
    const Tensor t = view_of(object);
    CHECK(py::reinterpret_borrow<py::array>(object).writeable(), "an array of shape %s is read-only; pass a copy of it",
          text_of(object.attr("shape")).c_str());
    return t;
}

Tensor input_of(py::handle object, const char *name, DType dtype, const std::vector<int64_t> &shape)
{
    if (object.is_none()) return none();
    const Tensor t = view_of(object);
    CHECK(t.dtype == dtype, "%s is %s, wanted %s", name, dtype_name(t.dtype), dtype_name(dtype));
    CHECK(shape == std::vector<int64_t>(t.dim, t.dim + t.ndim), "%s has shape %s, wanted %s", name,
          text_of(object.attr("shape")).c_str(), text_of(py::tuple(py::cast(shape))).c_str());
    return t;
}

// ---- devices ------------------------------------------------------------------------------------------------------

struct CloseDevice {
    void operator()(Device *d) const { device_close(d); }
};

static py::dict profile_of(const Device &d)
{
    using namespace py::literals;
    py::dict ops;
    for (int i = 0; d.profile && i < OP_COUNT; i++) {
        const Cost c = d.profile->cost[i];
        if (c.calls)
            ops[op_names[i]] = py::dict("calls"_a = c.calls, "seconds"_a = c.seconds, "flops"_a = c.flops,
                                        "bytes"_a = c.bytes);
    }
    return ops;
}

static void bind_device(py::module_ &m)
{
    py::class_<Device, std::unique_ptr<Device, CloseDevice>>(m, "Device",
        "A machine that runs the ops. One thread at a time may use it: it has one workspace.")
        .def(py::init([](const std::string &name, int threads) { return device_open(name.c_str(), threads); }),
             py::arg("name") = "cpu", py::arg("threads") = 0)
        .def_property_readonly("name", [](const Device &d) { return d.backend->name; })
        .def_readonly("threads", &Device::threads)
        .def_readonly("taken", &Device::taken,
                      "Bytes of its memory that models and all that trains or decodes them hold.")
        .def_property_readonly("free", [](Device &d) { return d.backend->memory(&d).free; },
                               "Bytes of its memory that are there to be taken.")
        .def("reserve", [](Device &d, size_t bytes) { device_reserve(&d, bytes); }, py::arg("bytes"),
             "The workspace holds at least this many bytes from now on.")
        .def("synchronize", [](Device &d) { d.backend->synchronize(&d); }, py::call_guard<py::gil_scoped_release>(),
             "Returns when all ops have ended.")
        .def("profile_start", [](Device &d) { profile_start(&d); },
             "From now on every op is waited for and its time is kept.")
        .def("profile", profile_of, "Since profile_start, by op: calls, seconds, flops and bytes.");
    m.def("device_list", [] { return py::str(device_list()).attr("split")(); }, "Names that Device would open here.");
    m.def("openmp", device_openmp, "The version of OpenMP the engine was built with; 0: one thread computes.");
}

PYBIND11_MODULE(_core, m)
{
    set_fail_handler(throw_failure);
    py::register_exception<Failure>(m, "LlmcError", PyExc_RuntimeError).attr("__module__") = "llmc";
    bind_device(m);
    bind_tensor(m);
    bind_ops(m);
    bind_config(m);
    bind_model(m);
    bind_decoder(m);
    bind_run(m);
    bind_trainer(m);
    bind_sampler(m);
    bind_loader(m);
    bind_store(m);
    m.def("fingerprint", [](const py::bytes &data) {
        const std::string_view view = data;
        return fingerprint(view.data(), view.size()); }, py::arg("data"), "FNV-1a of 64 bits, as in token shards.");
}
