// bindings_ops.cpp -- every op of ops.h, bound by walking its table.
#include "bindings.h"
#include "ops.h"

namespace pybind11::detail {
template <> struct type_caster<Tensor> {
    PYBIND11_TYPE_CASTER(Tensor, const_name("numpy.ndarray | None"));
    bool load(handle source, bool)
    {
        value = source.is_none() ? ::none() : tensor_of(source);
        return true;
    }
};

template <> struct type_caster<Tensors> {
    PYBIND11_TYPE_CASTER(Tensors, const_name("list[numpy.ndarray]"));
    std::vector<Tensor> tensors;        // the caster outlives the call
    bool load(handle source, bool)
    {
        if (!isinstance<sequence>(source)) return false;
        for (const handle array : reinterpret_borrow<sequence>(source)) tensors.push_back(tensor_of(array));
        value = { tensors.data(), (int)tensors.size() };
        return true;
    }
};
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
    m.def(name, [op](Device &d, Args... args) { return op(&d, args...); }, py::arg("device"),
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
