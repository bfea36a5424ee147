// bindings_ops.cpp -- every op of ops.h, bound by walking its table.
#include "bindings_tensor.h"

#include <deque>
#include <tuple>
#include <type_traits>

#include "ops.h"

// An op's argument as it was given: whether the device can read it is asked when the device is known.
struct Array { py::object object; };
struct Arrays { std::vector<py::object> objects; };

namespace pybind11::detail {
template <> struct type_caster<Array> {
    PYBIND11_TYPE_CASTER(Array, const_name("array | None"));
    bool load(handle source, bool)
    {
        value.object = reinterpret_borrow<object>(source);
        return true;
    }
};

template <> struct type_caster<Arrays> {
    PYBIND11_TYPE_CASTER(Arrays, const_name("list[array]"));
    bool load(handle source, bool)
    {
        if (!isinstance<sequence>(source)) return false;
        for (const handle each : reinterpret_borrow<sequence>(source))
            value.objects.push_back(reinterpret_borrow<object>(each));
        return true;
    }
};
}

// The arrays of one call, held until it is over.
class Loan {
public:
    explicit Loan(Device &d) : device(d) {}

    template <typename T> const T &unwrapped(const T &value) { return value; }

    Tensor unwrapped(const Array &array)
    {
        held.push_back(borrow(array.object, device));
        return held.back().tensor;
    }

    Tensors unwrapped(const Arrays &arrays)
    {
        std::vector<Tensor> &list = lists.emplace_back();
        for (const py::object &each : arrays.objects) list.push_back(unwrapped(Array{ each }));
        return { list.data(), (int)list.size() };
    }

    // Another library uses its GPU's memory on streams of its own, and may do so when this returns.
    void wait() const
    {
        for (const Borrowed &b : held)
            if (b.foreign) {
                device.backend->synchronize(&device);
                return;
            }
    }

private:
    Device &device;
    std::vector<Borrowed> held;
    std::deque<std::vector<Tensor>> lists;      // which stay where they are
};

// What a call is given for each argument of an op
template <typename T> struct Given { using type = T; };
template <> struct Given<Tensor> { using type = Array; };
template <> struct Given<Tensors> { using type = Arrays; };

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
    const auto call = [op](Device &d, const typename Given<Args>::type &...args) {
        Loan loan(d);
        const std::tuple<Args...> unwrapped{ loan.unwrapped(args)... };
        const py::gil_scoped_release nogil;
        const auto run = [&](const Args &...each) { return op(&d, each...); };
        if constexpr (!std::is_void_v<Result>) return std::apply(run, unwrapped);
        else std::apply(run, unwrapped), loan.wait();
    };
    m.def(name, call, py::arg("device"), py::arg(names[I + 1].c_str())..., declaration);
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
    py::class_<Rounding>(m, "Rounding", "How weights of bf16 are rounded: to the nearest, or stochastically by numbers "
                         "of a stream, the first weight by number `first`.")
        .def(py::init([] { return Rounding{ false, 0, 0, 0 }; }))
        .def(py::init([](uint64_t seed, uint64_t stream, int64_t first) {
            return Rounding{ true, seed, stream, first }; }), py::arg("seed"), py::arg("stream"), py::arg("first") = 0);

#define BIND_PURE(name, args)    define_op(m, #name, #args, name);
#define BIND_SCRATCH(name, args) BIND_PURE(name, args) define_op(m, #name "_scratch", #args, name##_scratch);
    OPS(BIND_PURE, BIND_SCRATCH)
#undef BIND_PURE
#undef BIND_SCRATCH
    m.def("op_names", [] { return std::vector<std::string>(op_names, op_names + OP_COUNT); },
          "Every op of the contract, in the order of ops.h.");
}
