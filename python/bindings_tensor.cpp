// bindings_tensor.cpp -- llmc.Tensor, and arrays that go to and come from other libraries without a copy: by DLPack, or
// __cuda_array_interface__ (its version 3, numba.readthedocs.io).
#include "bindings_tensor.h"
#include "dlpack.h"

#include <algorithm>
#include <type_traits>

// ---- whose memory -------------------------------------------------------------------------------------------------

constexpr int ANY = -1;         // of a kind: the lender does not say which

static bool on_host(const Borrowed &b) { return b.kind == PLACE_CPU || b.kind == PLACE_PINNED; }

// The processor reads its own memory, a GPU its own; the emulated GPU, which is the processor, both of its own, and
// what only says that it lies on some GPU.
static void check_place(Device &d, const Borrowed &b)
{
    const Place here = d.backend->place(&d);
    if (on_host(b))
        CHECK(here.kind != PLACE_CUDA, "the array is in the processor's memory, which the device cuda cannot read; "
              "pass an llmc.Tensor of that device, or an array of CuPy, or of PyTorch on the GPU");
    else
        CHECK(here.kind != PLACE_CPU && (b.number == ANY || (here.kind == b.kind && here.number == b.number)),
              "the array is in a GPU's memory, which the device %s cannot read", d.backend->name);
}

// ---- arrays of others ---------------------------------------------------------------------------------------------

static std::string shape_text(Tensor t)
{
    return text_of(py::tuple(py::cast(std::vector<int64_t>(t.dim, t.dim + t.ndim))));
}

// A tensor of one to four dimensions, with no memory yet. strides: in units of which an element is so many, and those
// of row-major order; nullptr: they are.
static Tensor shaped(const std::vector<int64_t> &shape, DType dtype, const int64_t *strides, int64_t element)
{
    Tensor t = { nullptr, nullptr, dtype, (int)shape.size(), { 0 } };
    CHECK(t.ndim >= 1 && t.ndim <= 4, "an array of %d dimensions, wanted 1 to 4", t.ndim);
    std::copy(shape.begin(), shape.end(), t.dim);
    int64_t step = element;
    for (int i = t.ndim - 1; strides && i >= 0; step *= t.dim[i--])
        CHECK(t.dim[i] == 1 || strides[i] == step, "an array of shape %s is not contiguous in row-major order; pass a "
              "contiguous copy of it", shape_text(t).c_str());
    return t;
}

static void check_writable(bool read_only, Tensor t)
{
    CHECK(!read_only, "an array of shape %s is read-only; pass a copy of it", shape_text(t).c_str());
}

// bfloat16 comes as V2 (ml_dtypes, PyTorch) or as its bits (u2). The caller waits for what was begun on that memory.
static Borrowed by_cuda_array_interface(py::handle object, bool write)
{
    const py::dict about = object.attr("__cuda_array_interface__");
    const py::tuple data = about["data"];
    const std::string type = about["typestr"].cast<std::string>();
    static const struct { const char *type; DType dtype; } types[] = {
        { "<f4", DT_F32 }, { "<i4", DT_I32 }, { "|u1", DT_U8 }, { "|i1", DT_I8 },
        { "<u2", DT_BF16 }, { "<V2", DT_BF16 }, { "|V2", DT_BF16 },
    };
    const auto *found = std::find_if(std::begin(types), std::end(types), [&](auto &t) { return t.type == type; });
    CHECK(found != std::end(types), "an array of %s on a GPU, wanted f4, i4, u1, i1, or bfloat16 as V2 or u2",
          type.c_str());
    std::vector<int64_t> strides;
    if (about.contains("strides") && !about["strides"].is_none()) strides = about["strides"].cast<decltype(strides)>();
    Tensor t = shaped(about["shape"].cast<std::vector<int64_t>>(), found->dtype,
                      strides.empty() ? nullptr : strides.data(), (int64_t)dtype_size(found->dtype));
    check_writable(write && data[1].cast<bool>(), t);
    t.data = (void *)data[0].cast<uintptr_t>();
    return { t, py::reinterpret_borrow<py::object>(object), PLACE_CUDA, ANY, true };
}

static DType dtype_of(DLType type)
{
    static const char *const names[] = { "int", "uint", "float", "handle", "bfloat", "complex", "bool" };
    static const struct { DLType type; DType dtype; } types[] = {
        { { DLPACK_FLOAT, 32, 1 }, DT_F32 }, { { DLPACK_BFLOAT, 16, 1 }, DT_BF16 }, { { DLPACK_UINT, 16, 1 }, DT_BF16 },
        { { DLPACK_INT, 32, 1 }, DT_I32 },   { { DLPACK_UINT, 8, 1 }, DT_U8 },      { { DLPACK_INT, 8, 1 }, DT_I8 },
    };
    for (const auto &t : types)
        if (t.type.code == type.code && t.type.bits == type.bits && type.lanes == 1) return t.dtype;
    FAIL("an array of %s%d, wanted float32, int32, uint8, int8, or bfloat16 (also as its uint16 bits)",
         type.code <= DLPACK_BOOL ? names[type.code] : "type ", type.bits);
}

static Tensor tensor_of(const DLTensor &from, bool read_only)
{
    Tensor t = shaped({ from.shape, from.shape + from.ndim }, dtype_of(from.type), from.strides, 1);
    check_writable(read_only, t);
    t.data = (char *)from.data + from.offset;
    return t;
}

// The capsule of an array. The lender lets its own work on a GPU come first, on the stream that it is told.
static py::object lent_by(py::handle object, const py::object &stream)
{
    const py::object lend = object.attr("__dlpack__");
    py::dict wishes;
    wishes["stream"] = stream;
    wishes["max_version"] = py::make_tuple(1, 0);
    try {
        return lend(**wishes);
    } catch (const py::error_already_set &error) {
        if (!error.matches(PyExc_TypeError)) throw;     // it knows no versions yet
    }
    return lend(py::arg("stream") = stream);
}

// The capsule is kept as it came, not taken: it gives the array back when it goes.
static Borrowed by_dlpack(py::handle object, Device &d, bool write)
{
    const py::tuple place = object.attr("__dlpack_device__")();
    const int kind = place[0].cast<int>(), number = place[1].cast<int>();
    const bool on_gpu = kind == PLACE_CUDA;
    const auto stream = (uintptr_t)d.backend->place(&d).stream;
    const py::object capsule = lent_by(object, on_gpu && stream ? py::object(py::int_(stream)) : py::none());
    if (PyCapsule_IsValid(capsule.ptr(), DLManagedVersioned::NAME)) {
        const auto *lent = (DLManagedVersioned *)PyCapsule_GetPointer(capsule.ptr(), DLManagedVersioned::NAME);
        CHECK(lent->major == 1, "an array lent by DLPack %u.%u, wanted 1", lent->major, lent->minor);
        return { tensor_of(lent->tensor, write && lent->flags & DLPACK_READ_ONLY), capsule, kind, number, on_gpu };
    }
    const auto *lent = (DLManaged *)PyCapsule_GetPointer(capsule.ptr(), DLManaged::NAME);
    if (!lent) throw py::error_already_set();
    return { tensor_of(lent->tensor, false), capsule, kind, number, on_gpu };
}

static Borrowed found(py::handle object, Device &d, bool write)
{
    const py::object held = py::reinterpret_borrow<py::object>(object);
    if (py::isinstance<BoundTensor>(object)) {
        const auto &own = object.cast<const BoundTensor &>();
        const Place place = own.device->backend->place(own.device);
        return { own.tensor, held, place.kind, place.number, false };
    }
    const bool numpy = py::isinstance<py::array>(object);
    if (!numpy && py::hasattr(object, "__dlpack__")) return by_dlpack(object, d, write);
    if (py::hasattr(object, "__cuda_array_interface__")) return by_cuda_array_interface(object, write);
    CHECK(numpy, "found %s, wanted a numpy array, an llmc.Tensor, or an array that has __dlpack__",
          text_of(py::type::of(object).attr("__name__")).c_str());
    return { write ? tensor_of(object) : view_of(object), held, PLACE_CPU, 0, false };
}

Borrowed borrow(py::handle object, Device &d)
{
    if (object.is_none()) return { none(), {}, PLACE_CPU, 0, false };
    Borrowed b = found(object, d, true);
    check_place(d, b);
    return b;
}

// ---- ours, lent to others -----------------------------------------------------------------------------------------

// What a capsule of ours points to. `tensor` is the Python object, which stays until the last user is done.
template <typename Managed> struct Shared {
    Managed   managed;
    int64_t   shape[4], strides[4];
    PyObject *tensor;
};

// On any thread; when Python has ended there is nobody left to give it back to.
template <typename Managed> static void give_back(Managed *managed)
{
    auto *shared = (Shared<Managed> *)managed->context;
    if (Py_IsInitialized()) {
        const PyGILState_STATE state = PyGILState_Ensure();
        Py_DECREF(shared->tensor);
        PyGILState_Release(state);
    }
    delete shared;
}

// A capsule that nobody took from
template <typename Managed> static void drop_capsule(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, Managed::NAME))
        give_back((Managed *)PyCapsule_GetPointer(capsule, Managed::NAME));
}

static DLType dlpack_type(DType dtype)
{
    switch (dtype) {
    case DT_F32:  return { DLPACK_FLOAT, 32, 1 };
    case DT_BF16: return { DLPACK_BFLOAT, 16, 1 };
    case DT_I32:  return { DLPACK_INT, 32, 1 };
    case DT_U8:   return { DLPACK_UINT, 8, 1 };
    case DT_I8:   return { DLPACK_INT, 8, 1 };
    default:      FAIL("a tensor of type %d cannot be shared", (int)dtype);
    }
}

template <typename Managed> static py::object capsule_of(const py::object &self, uint32_t major)
{
    const auto &own = self.cast<const BoundTensor &>();
    const Place place = own.device->backend->place(own.device);
    auto shared = std::make_unique<Shared<Managed>>();
    int64_t step = 1;
    for (int i = own.tensor.ndim - 1; i >= 0; step *= own.tensor.dim[i--])
        shared->shape[i] = own.tensor.dim[i], shared->strides[i] = step;
    Managed &m = shared->managed;
    m.tensor = { own.tensor.data, place.kind, place.number, own.tensor.ndim, dlpack_type(own.tensor.dtype),
                 shared->shape, shared->strides, 0 };
    m.context = shared.get(), m.deleter = give_back<Managed>;
    if constexpr (std::is_same_v<Managed, DLManagedVersioned>) m.major = major;
    PyObject *capsule = PyCapsule_New(&m, Managed::NAME, drop_capsule<Managed>);
    if (!capsule) throw py::error_already_set();
    shared.release()->tensor = py::object(self).release().ptr();
    return py::reinterpret_steal<py::object>(capsule);
}

// The ops that write the tensor have ended when this returns, so it may be read on any stream; -1: it need not wait.
static py::object share(const py::object &self, const py::object &stream, const py::object &max_version,
                        const py::object &dl_device, const py::object &copy)
{
    const auto &own = self.cast<const BoundTensor &>();
    const Place place = own.device->backend->place(own.device);
    if (!dl_device.is_none() && !dl_device.equal(py::make_tuple(place.kind, place.number)))
        throw py::buffer_error("the tensor is on the device " + std::string(own.device->backend->name) +
                               ", and was asked for on another; copy it by get()");
    if (!copy.is_none() && copy.cast<bool>())
        throw py::buffer_error("a copy was asked for; a tensor is shared as it is, or copied by get()");
    if (stream.is_none() || stream.cast<int64_t>() != -1) {
        const py::gil_scoped_release nogil;
        own.device->backend->synchronize(own.device);
    }
    if (max_version.is_none() || py::tuple(max_version)[0].cast<int>() < 1) return capsule_of<DLManaged>(self, 0);
    return capsule_of<DLManagedVersioned>(self, 1);
}

// ---- llmc.Tensor --------------------------------------------------------------------------------------------------

static std::unique_ptr<BoundTensor> create_tensor(Device &d, const std::vector<int64_t> &shape,
                                                  const std::string &dtype)
{
    int type = 0;
    while (type < DT_COUNT && dtype != dtype_name((DType)type)) type++;
    CHECK(type < DT_COUNT, "a tensor of type %s, wanted f32, bf16, i32, u8 or i8", dtype.c_str());
    Tensor t = shaped(shape, (DType)type, nullptr, 0);
    for (const int64_t n : shape)
        CHECK(n > 0, "a tensor of shape %s, wanted 1 or more of each dimension", shape_text(t).c_str());
    t.data = device_alloc(&d, tensor_bytes(t), "a tensor");
    return std::make_unique<BoundTensor>(&d, t, t.data);
}

static void set_tensor(BoundTensor &self, py::handle array)
{
    Device *d = self.device;
    const Borrowed from = found(array, *d, false);
    CHECK(from.tensor.dtype == self.tensor.dtype, "the array is %s, wanted %s", dtype_name(from.tensor.dtype),
          dtype_name(self.tensor.dtype));
    CHECK(shape_text(from.tensor) == shape_text(self.tensor), "the array has shape %s, wanted %s",
          shape_text(from.tensor).c_str(), shape_text(self.tensor).c_str());
    if (!on_host(from)) check_place(*d, from);
    const py::gil_scoped_release nogil;
    if (on_host(from)) device_upload(d, self.tensor, from.tensor.data);
    else device_copy(d, self.tensor, from.tensor);
    if (from.foreign) d->backend->synchronize(d);
}

py::array host_copy(Device *d, Tensor t)
{
    static const char *const types[] = { "f4", "u2", "i4", "u1", "i1" };        // in the order of DType
    py::array to(py::dtype(types[t.dtype]), std::vector<py::ssize_t>(t.dim, t.dim + t.ndim));
    device_download(d, to.mutable_data(), t);
    return to;
}

void bind_tensor(py::module_ &m)
{
    using namespace py::literals;
    const py::object nothing = py::none();
    py::class_<BoundTensor>(m, "Tensor",
        "Zeroed memory of a device, contiguous, in row-major order. Other libraries share it by DLPack, without a "
        "copy: torch.from_dlpack(tensor). Ops on a GPU may still run when their call returns: Device.synchronize() "
        "before another library reads what they write.")
        .def(py::init(&create_tensor), "device"_a, "shape"_a, "dtype"_a = "f32", py::keep_alive<1, 2>())
        .def_property_readonly("shape", [](const BoundTensor &t) {
            return py::tuple(py::cast(std::vector<int64_t>(t.tensor.dim, t.tensor.dim + t.tensor.ndim))); })
        .def_property_readonly("dtype", [](const BoundTensor &t) { return dtype_name(t.tensor.dtype); },
                               "f32, bf16, i32, u8 or i8")
        .def("get", [](const BoundTensor &t) { return host_copy(t.device, t.tensor); },
             "A copy as a numpy array; bfloat16 comes as its uint16 bits.")
        .def("set", set_tensor, "array"_a, "Copies an array of this type and shape, numpy's or another library's.")
        .def("__dlpack__", share, py::kw_only(), "stream"_a = nothing, "max_version"_a = nothing,
             "dl_device"_a = nothing, "copy"_a = nothing)
        .def("__dlpack_device__", [](const BoundTensor &t) {
            const Place place = t.device->backend->place(t.device);
            return py::make_tuple(place.kind, place.number); });
}
