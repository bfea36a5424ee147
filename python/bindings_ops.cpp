// bindings_ops.cpp -- every op of ops.h, bound by walking its table.
#include "bindings.h"

#include <algorithm>

#include "ops.h"

// An op's argument, and whose memory it is in.
struct Array { Tensor tensor; bool on_gpu; };
struct Arrays { std::vector<Tensor> tensors; bool on_gpu; };

// What has __cuda_array_interface__, as arrays of CuPy, Numba and PyTorch on GPUs, is used where it lies; bfloat16
// comes as V2 (ml_dtypes, PyTorch) or as its bits (uint16). The caller waits for what it had begun on that memory before, and
// for the device after.
static Tensor gpu_view_of(py::handle object)
{
    const py::dict about = object.attr("__cuda_array_interface__");
    const py::tuple shape = about["shape"], data = about["data"];
    const std::string type = about["typestr"].cast<std::string>();
    static const struct { const char *type; DType dtype; } types[] = {
        { "<f4", DT_F32 }, { "<i4", DT_I32 }, { "|u1", DT_U8 }, { "|i1", DT_I8 },
        { "<u2", DT_BF16 }, { "<V2", DT_BF16 }, { "|V2", DT_BF16 },
    };
    const auto *found = std::find_if(std::begin(types), std::end(types), [&](auto &t) { return t.type == type; });
    CHECK(found != std::end(types), "an array of %s on a GPU, wanted f4, i4, u1, i1, or bfloat16 as V2 or u2",
          type.c_str());
    CHECK(shape.size() >= 1 && shape.size() <= 4, "an array of %zu dimensions, wanted 1 to 4", shape.size());
    CHECK(!data[1].cast<bool>(), "an array of shape %s is read-only; pass a copy of it", text_of(shape).c_str());
    Tensor t = { (void *)data[0].cast<uintptr_t>(), nullptr, found->dtype, (int)shape.size(), { 0 } };
    for (int i = 0; i < t.ndim; i++) t.dim[i] = shape[(size_t)i].cast<int64_t>();
    if (!about.contains("strides") || about["strides"].is_none()) return t;
    const py::tuple strides = about["strides"];
    int64_t step = (int64_t)dtype_size(t.dtype);
    for (int i = t.ndim - 1; i >= 0; step *= t.dim[i--])
        CHECK(t.dim[i] == 1 || strides[(size_t)i].cast<int64_t>() == step,
              "an array of shape %s on a GPU is not contiguous in row-major order", text_of(shape).c_str());
    return t;
}

static Array array_of(py::handle object)
{
    if (object.is_none()) return { none(), false };
    const bool on_gpu = py::hasattr(object, "__cuda_array_interface__");
    return { on_gpu ? gpu_view_of(object) : tensor_of(object), on_gpu };
}

namespace pybind11::detail {
template <> struct type_caster<Array> {
    PYBIND11_TYPE_CASTER(Array, const_name("numpy.ndarray | None"));
    bool load(handle source, bool)
    {
        value = array_of(source);
        return true;
    }
};

template <> struct type_caster<Arrays> {
    PYBIND11_TYPE_CASTER(Arrays, const_name("list[numpy.ndarray]"));
    bool load(handle source, bool)
    {
        if (!isinstance<sequence>(source)) return false;
        value.on_gpu = false;
        for (const handle object : reinterpret_borrow<sequence>(source)) {
            const Array array = array_of(object);
            CHECK(value.tensors.empty() || array.on_gpu == value.on_gpu, "arrays of a list are not in one memory");
            value.tensors.push_back(array.tensor);
            value.on_gpu = array.on_gpu;
        }
        return true;
    }
};
}

// Whose memory a device reads: a GPU its own, the processor its own; the emulated GPU is the processor, and takes both.
static void check_memory(const Device &d, bool on_gpu)
{
    const std::string name = d.backend->name;
    CHECK(!on_gpu || name.rfind("cuda", 0) == 0, "the array is in a GPU's memory, which the device %s cannot read",
          name.c_str());
    CHECK(on_gpu || name != "cuda", "the array is in the processor's memory, which the device cuda cannot read; pass "
          "one of CuPy, or of PyTorch on the GPU");
}

// What a call is given for each argument of an op, and what the op gets of it.
template <typename T> struct Given { using type = T; };
template <> struct Given<Tensor> { using type = Array; };
template <> struct Given<Tensors> { using type = Arrays; };

template <typename T> static const T &unwrapped(const Device &, const T &value) { return value; }

static Tensor unwrapped(const Device &d, const Array &array)
{
    if (!is_none(array.tensor)) check_memory(d, array.on_gpu);
    return array.tensor;
}

static Tensors unwrapped(const Device &d, const Arrays &arrays)
{
    if (!arrays.tensors.empty()) check_memory(d, arrays.on_gpu);
    return { arrays.tensors.data(), (int)arrays.tensors.size() };
}

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
    m.def(name, [op](Device &d, const typename Given<Args>::type &...args) { return op(&d, unwrapped(d, args)...); },
          py::arg("device"),
          py::arg(names[I + 1].c_str())..., py::call_guard<py::gil_scoped_release>(), declaration);
}

template <typename Result, typename... Args>
static void define_op(py::module_ &m, const char *name, const char *declaration, Result (*op)(Device *, Args...))
{
    define_op(m, name, declaration, op, std::index_sequence_for<Args...>{});
}

void bind_ops(py::module_ &m)
{
    py::enum_<Activation>(m, "Activation").value("NONE", ACT_NONE).value("GELU", ACT_GELU);
    py::class_<AdamW>(m, "AdamW", "One step's numbers of the optimizer; step counts from 1.")
        .def(py::init([](float lr, float beta1, float beta2, float eps, float weight_decay, float grad_scale,
                         int64_t step) { return AdamW{ lr, beta1, beta2, eps, weight_decay, grad_scale, step }; }),
             py::arg("lr"), py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
             py::arg("grad_scale"), py::arg("step"));

#define BIND_PURE(name, args)    define_op(m, #name, #args, name);
#define BIND_SCRATCH(name, args) BIND_PURE(name, args) define_op(m, #name "_scratch", #args, name##_scratch);
    OPS(BIND_PURE, BIND_SCRATCH)
#undef BIND_PURE
#undef BIND_SCRATCH
    m.def("op_names", [] { return std::vector<std::string>(op_names, op_names + OP_COUNT); },
          "Every op of the contract, in the order of ops.h.");
}
