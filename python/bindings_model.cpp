// bindings_model.cpp -- configs and models: batches in, numbers out.
#include "bindings.h"
#include "bindings_model.h"
#include "bindings_tensor.h"
#include "quantize.h"
#include "trainer.h"

#include <cfloat>
#include <cmath>

// ---- configs ------------------------------------------------------------------------------------------------------

static const ConfigField &field_named(const std::string &name)
{
    int count;
    const ConfigField *fields = config_fields(&count);
    for (int i = 0; i < count; i++)
        if (name == fields[i].name) return fields[i];
    FAIL("config: there is no field %s", name.c_str());
}

static py::object field_value(const Config &c, const ConfigField &f)
{
    const char *at = (const char *)&c + f.offset;
    switch (f.type) {
    case FIELD_INT:    return py::int_(*(const int *)at);
    case FIELD_BOOL:   return py::bool_(*(const int *)at != 0);
    case FIELD_CHOICE: return py::str(f.choices).attr("split")()[py::int_(*(const int *)at)];
    case FIELD_FLOAT:  return py::float_(*(const float *)at);
    }
    FAIL("config: field %s has no type", f.name);
}

static void set_field(Config &c, const ConfigField &f, py::handle value)
{
    char *at = (char *)&c + f.offset;
    const std::string found = text_of(py::repr(value));
    const bool is_bool = py::isinstance<py::bool_>(value);
    if (f.type == FIELD_BOOL) {
        CHECK(is_bool, "config: %s is %s, wanted True or False", f.name, found.c_str());
        *(int *)at = value.cast<bool>();
    } else if (f.type == FIELD_INT) {
        CHECK(PyIndex_Check(value.ptr()) && !is_bool, "config: %s is %s, wanted a whole number", f.name, found.c_str());
        const Py_ssize_t n = PyNumber_AsSsize_t(value.ptr(), nullptr);      // clipped, not failed
        CHECK(n >= INT32_MIN && n <= INT32_MAX, "config: %s is %s, which is too large", f.name, found.c_str());
        *(int *)at = (int)n;
    } else if (f.type == FIELD_FLOAT) {
        CHECK(PyNumber_Check(value.ptr()) && !is_bool, "config: %s is %s, wanted a number", f.name, found.c_str());
        const double x = PyFloat_AsDouble(value.ptr());
        const bool failed = PyErr_Occurred();
        PyErr_Clear();
        CHECK(!failed && std::fabs(x) <= FLT_MAX, "config: %s is %s, wanted a number of float32", f.name,
              found.c_str());
        *(float *)at = (float)x;
    } else {
        *(int *)at = config_choice_index(&f, text_of(value).c_str());
    }
}

static Config config_with(Config c, const py::kwargs &fields)
{
    for (const auto &field : fields) set_field(c, field_named(text_of(field.first)), field.second);
    config_complete(&c);
    config_check(&c);
    return c;
}

static py::dict config_dict(const Config &c)
{
    py::dict dict;
    int count;
    const ConfigField *fields = config_fields(&count);
    for (int i = 0; i < count; i++) dict[fields[i].name] = field_value(c, fields[i]);
    return dict;
}

static py::str json_of(const Config &c)
{
    const std::unique_ptr<char, decltype(&free)> text(config_to_json(&c), free);
    return py::str(text.get());
}

void bind_config(py::module_ &m)
{
    py::class_<Config>(m, "Config", "What a model is. Config(**fields): those left out follow from the others.")
        .def(py::init([](const py::kwargs &fields) { return config_with(Config{}, fields); }))
        .def_static("preset", [](const std::string &name, const py::kwargs &changed) {
            return config_with(config_preset(name.c_str()), changed); }, py::arg("name"))
        .def_static("presets", [] { return py::str(config_presets()).attr("split")(); })
        .def_static("read", [](const std::string &path) { return config_read(path.c_str()); }, py::arg("path"))
        .def("to_dict", config_dict)
        .def("to_json", json_of, "The text of a config.json.")
        .def("__getattr__", [](const Config &c, const std::string &name) {
            const py::dict all = config_dict(c);
            if (!all.contains(name)) throw py::attribute_error("config: there is no field " + name);
            return py::object(all[name.c_str()]); })
        .def("__repr__", [](const Config &c) { return "Config(**" + text_of(config_dict(c)) + ")"; })
        .def("__eq__", [](const Config &a, const Config &b) { return config_dict(a).equal(config_dict(b)); })
        .def("rope_freq", [](const Config &c, int i) { return config_rope_freq(&c, i); }, py::arg("i"),
             "What pair i of a head turns by from step to step, scaling included.")
        .def("param_count", [](const Config &c) { return config_param_count(&c); },
             "Parameters, the padding of the vocabulary not counted.")
        .def("train_flops", [](const Config &c, int64_t T) { return config_train_flops(&c, T); }, py::arg("T"),
             "FLOP of one token, forward and backward, at context T.");
}

// ---- models -------------------------------------------------------------------------------------------------------

DType weight_type(const std::string &name)
{
    if (name == "f32") return DT_F32;
    if (name == "bf16") return DT_BF16;
    if (name == "int8") return DT_I8;
    FAIL("weights of type %s, wanted f32, bf16 or int8", name.c_str());
}

static std::unique_ptr<BoundModel> create_model(Device &d, const Config &c, const std::string &dtype, int ranks)
{
    auto made = std::make_unique<BoundModel>();
    CHECK(ranks >= 1, "a model of %d ranks, wanted 1 or more", ranks);
    made->model = model_create(&d, &c, weight_type(dtype), ranks);
    return made;
}

// A weight, or an adapter
static Param *param_named(Model *model, const std::string &name)
{
    Param *p = params_find(model_params(model), name.c_str());
    if (!p) p = params_find(model_trained(model), name.c_str());
    CHECK(p, "the model has no parameter %s", name.c_str());
    return p;
}

static py::array get_param(BoundModel &self, const std::string &name)
{
    const Param *p = param_named(self.model, name);
    params_allocate(model_params(self.model), false);
    Device *d = model_device(self.model);
    if (is_none(p->scale)) return host_copy(d, p->value);
    const py::array numbers = host_copy(d, p->value), scale = host_copy(d, p->scale);
    py::array_t<float> to({ p->value.dim[0], p->value.dim[1] });
    dequantize(to.mutable_data(), (const int8_t *)numbers.data(), (const float *)scale.data(), p->value.dim[0],
               p->value.dim[1]);
    return to;
}

static Tensor grad_of(Model *model, const std::string &name)
{
    const Tensor grad = param_named(model, name)->grad;
    CHECK(grad.data, "%s has no gradient; plan for training first", name.c_str());
    return grad;
}

static py::array get_grad(BoundModel &self, const std::string &name)
{
    return host_copy(model_device(self.model), grad_of(self.model, name));
}

// A parameter or its gradient where it lies
static std::unique_ptr<BoundTensor> view_param(BoundModel &self, const std::string &name)
{
    const Param *p = param_named(self.model, name);
    params_allocate(model_params(self.model), false);
    return std::make_unique<BoundTensor>(model_device(self.model), p->value, nullptr);
}

static std::unique_ptr<BoundTensor> view_grad(BoundModel &self, const std::string &name)
{
    return std::make_unique<BoundTensor>(model_device(self.model), grad_of(self.model, name), nullptr);
}

static void set_param(BoundModel &self, const std::string &name, py::handle array)
{
    const Param *p = param_named(self.model, name);
    params_allocate(model_params(self.model), false);
    const Tensor to = p->value;
    CHECK(!array.is_none(), "%s is None, wanted an array", name.c_str());
    const std::vector<int64_t> shape(to.dim, to.dim + to.ndim);
    const DType type = is_none(p->scale) ? to.dtype : DT_F32;
    const Tensor from = input_of(array, name.c_str(), type, shape);
    if (type == to.dtype) device_upload(model_device(self.model), to, from.data);
    else params_put(model_params(self.model), p, 0, numel(to), (const float *)from.data);
}

static void adapt_model(BoundModel &self, int rank, float alpha, const std::vector<std::string> &matrices,
                        uint64_t seed)
{
    Lora how = { rank, alpha, 0 };
    for (const std::string &name : matrices) how.matrices |= lora_matrix(name.c_str());
    model_adapt(self.model, how, seed);
}

static void plan_model(BoundModel &self, int64_t B, int64_t T, bool train, bool recompute)
{
    model_plan(self.model, { B, T, train, recompute, 0 });
}

static size_t plan_bytes(BoundModel &self, int64_t B, int64_t T, bool train, bool recompute)
{
    const PlanBytes bytes = model_plan_bytes(self.model, { B, T, train, recompute, 0 }, nullptr, nullptr);
    return bytes.activations + bytes.workspace;
}

static Batch batch_of(py::handle tokens, py::handle targets, py::handle pos, py::handle first)
{
    const Tensor t = view_of(tokens);
    CHECK(t.dtype == DT_I32 && t.ndim == 2, "tokens is %s of %d dimensions, wanted i32 (B,T)",
          dtype_name(t.dtype), t.ndim);
    const std::vector<int64_t> shape = { t.dim[0], t.dim[1] };
    auto given = [&](py::handle array, const char *name) {
        return (const int32_t *)input_of(array, name, DT_I32, shape).data;
    };
    return { t.dim[0], t.dim[1], (const int32_t *)t.data,
             given(targets, "targets"), given(pos, "pos"), given(first, "first"), 0 };
}

static float *place_for(py::dict &result, const char *name, const Batch &b)
{
    py::array_t<float> array({ b.B, b.T });
    result[name] = array;
    return array.mutable_data();
}

static Numbers numbers_of(const BoundModel &self, const Batch &b, py::dict &result)
{
    if (model_config(self.model)->head == HEAD_SCALAR)
        return { nullptr, nullptr, nullptr, place_for(result, "value", b) };
    float *logp = b.targets ? place_for(result, "logp", b) : nullptr;
    return { logp, place_for(result, "lse", b), place_for(result, "entropy", b), nullptr };
}

static Slopes slopes_of(const py::dict &slopes, int64_t B, int64_t T)
{
    Slopes s = {};
    const struct { const char *name; const float **to; } places[] = {
        { "logp", &s.logp }, { "lse", &s.lse }, { "entropy", &s.entropy }, { "value", &s.value },
    };
    size_t taken = 0;
    for (const auto &place : places)
        if (slopes.contains(place.name)) {
            *place.to = (const float *)input_of(slopes[place.name], place.name, DT_F32, { B, T }).data;
            taken++;
        }
    CHECK(taken == slopes.size(), "slopes of %s, wanted some of logp, lse, entropy, value",
          text_of(py::list(slopes)).c_str());
    return s;
}

template <void (*pass)(Model *, const Batch *, const Numbers *)>
static py::dict run_forward(BoundModel &self, py::object tokens, py::object targets, py::object pos, py::object first)
{
    const Batch b = batch_of(tokens, targets, pos, first);
    py::dict result;
    const Numbers out = numbers_of(self, b, result);
    py::gil_scoped_release nogil;
    pass(self.model, &b, &out);
    self.B = b.B, self.T = b.T;
    return result;
}

static py::dict run_train(BoundModel &self, py::object tokens, py::object targets, py::dict slopes, py::object pos,
                          py::object first, bool accumulate)
{
    const Batch b = batch_of(tokens, targets, pos, first);
    const Slopes s = slopes_of(slopes, b.B, b.T);
    py::dict result;
    const Numbers out = numbers_of(self, b, result);
    py::gil_scoped_release nogil;
    model_train(self.model, &b, &s, &out, accumulate);
    return result;
}

static void run_backward(BoundModel &self, py::dict slopes, bool accumulate)
{
    const Slopes s = slopes_of(slopes, self.B, self.T);
    py::gil_scoped_release nogil;
    model_backward(self.model, &s, accumulate);
}

static py::array_t<float> run_logits(BoundModel &self, int64_t begin, int64_t count)
{
    py::array_t<float> logits({ count, (int64_t)model_config(self.model)->vocab_size });
    float *to = logits.mutable_data();
    py::gil_scoped_release nogil;
    model_logits(self.model, begin, count, to);
    return logits;
}

// The trunk alone; the head runs where logits asks for it.
static void run_read(BoundModel &self, py::object tokens, py::object pos, py::object first)
{
    const Batch b = batch_of(tokens, py::none(), pos, first);
    const Numbers nothing = {};
    py::gil_scoped_release nogil;
    model_score(self.model, &b, &nothing);
    self.B = b.B, self.T = b.T;
}

static std::vector<std::string> names_of(const Params *all)
{
    std::vector<std::string> names;
    for (int i = 0; i < all->count; i++) names.push_back(all->list[i].value.name);
    return names;
}

static std::vector<std::string> param_names(const BoundModel &self) { return names_of(model_params(self.model)); }

static std::vector<std::string> adapter_names(const BoundModel &self)
{
    const Params *trained = model_trained(self.model);
    return trained == model_params(self.model) ? std::vector<std::string>() : names_of(trained);
}

static py::dict param_shapes(const BoundModel &self)
{
    const Params *all = model_params(self.model);
    py::dict shapes;
    for (int i = 0; i < all->count; i++) {
        const Tensor t = all->list[i].value;
        shapes[t.name] = py::tuple(py::cast(std::vector<int64_t>(t.dim, t.dim + t.ndim)));
    }
    return shapes;
}

static py::dict param_types(const BoundModel &self)
{
    const Params *all = model_params(self.model);
    py::dict types;
    for (int i = 0; i < all->count; i++) types[all->list[i].value.name] = dtype_name(all->list[i].value.dtype);
    return types;
}

void bind_model(py::module_ &m)
{
    using namespace py::literals;
    using Release = py::call_guard<py::gil_scoped_release>;
    const py::arg_v no_targets = "targets"_a = py::none();
    const py::arg_v no_pos = "pos"_a = py::none(), no_first = "first"_a = py::none();
    const py::arg_v training = "train"_a = true, keeping_all = "recompute"_a = false;
    py::class_<BoundModel>(m, "Model", "A transformer on a device. One thread at a time may use it.")
        .def(py::init(&create_model), "device"_a, "config"_a, "dtype"_a = "f32", "ranks"_a = 1, py::keep_alive<1, 2>(),
             "ranks: the processes that train it together, each with all of it.")
        .def_property_readonly("config", [](const BoundModel &self) { return *model_config(self.model); })
        .def_property_readonly("dtype", [](const BoundModel &self) {
            const DType dtype = model_params(self.model)->dtype;
            return dtype == DT_I8 ? "int8" : dtype_name(dtype); },
            "Of the weights: f32, bf16 or int8; activations are of the same, or of bf16 beside int8.")
        .def_property_readonly("names", param_names, "The parameters' names, in the order of checkpoints.")
        .def_property_readonly("shapes", param_shapes, "Their shapes by name. Takes no memory for weights.")
        .def_property_readonly("types", param_types, "Their types by name: f32, bf16 or i8.")
        .def("init", [](BoundModel &self, uint64_t seed) { params_init(model_params(self.model), seed); },
             "seed"_a, Release())
        .def("adapt", adapt_model, "rank"_a, "alpha"_a, "matrices"_a, "seed"_a = 0, Release(),
             "Gives matrices of each block, some of qkv, proj, up and down, low-rank adapters, and trains only them.")
        .def_property_readonly("adapters", adapter_names, "The adapters' names; none without adapt.")
        .def("get", get_param, "name"_a, "A copy of a parameter; bfloat16 comes as its uint16 bits, int8 as what it stands for, float32.")
        .def("set", set_param, "name"_a, "array"_a)
        .def("grad", get_grad, "name"_a, "A copy of a parameter's gradient, float32.")
        .def("view", view_param, "name"_a, py::keep_alive<0, 1>(),
             "A parameter where it lies, as a Tensor; of int8 the numbers without their scales.")
        .def("grad_view", view_grad, "name"_a, py::keep_alive<0, 1>(), "Its gradient where it lies.")
        .def("save", [](BoundModel &self, const std::string &path) {
            params_save(model_params(self.model), path.c_str()); }, "path"_a, Release(), "Writes a .safetensors file.")
        .def("load", [](BoundModel &self, const std::string &path) {
            params_load(model_params(self.model), path.c_str()); }, "path"_a, Release(),
             "Reads the weights of a .safetensors file; f32, bf16 and int8 are converted.")
        .def("plan", plan_model, "B"_a, "T"_a, training, keeping_all, Release(),
             "Takes the memory for batches up to (B,T).")
        .def("plan_bytes", plan_bytes, "B"_a, "T"_a, training, keeping_all, "What plan would take.")
        .def("set_temperature", [](BoundModel &self, float t) { model_set_temperature(self.model, t); },
             "temperature"_a)
        .def("score", run_forward<model_score>, "tokens"_a, no_targets, no_pos, no_first,
             "Numbers by name, each (B,T): logp, lse and entropy, or value.")
        .def("forward", run_forward<model_forward>, "tokens"_a, no_targets, no_pos, no_first,
             "As score, and keeps what backward needs.")
        .def("backward", run_backward, "slopes"_a, "accumulate"_a = false,
             "slopes: d(loss)/d(number) by name, each (B,T).")
        .def("train", run_train, "tokens"_a, "targets"_a, "slopes"_a, no_pos, no_first, "accumulate"_a = false,
             "forward and backward in one, for slopes known beforehand; gives the numbers.")
        .def("read", run_read, "tokens"_a, no_pos, no_first, "A batch of which only logits are wanted.")
        .def("logits", run_logits, "begin"_a, "count"_a,
             "Raw logits (count, vocab_size) of positions of the last batch.")
        .def("first_nonfinite", [](BoundModel &self) { return model_first_nonfinite(self.model); }, Release(),
             "The first tensor of the last training pass that holds a NaN or an infinity, or None.");
}
