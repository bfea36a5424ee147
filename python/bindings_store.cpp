// bindings_store.cpp -- .safetensors files: mapped arrays out, arrays in.
#include "bindings.h"
#include "safetensors.h"

// ---- reading ------------------------------------------------------------------------------------------------------

struct BoundFile {
    Safetensors *file;
    explicit BoundFile(const std::string &path) : file(safetensors_open(path.c_str())) {}
    BoundFile(const BoundFile &) = delete;
    ~BoundFile() { safetensors_close(&file); }
};

static py::list list_tensors(const BoundFile &self)
{
    py::list list;
    for (int64_t i = 0; i < safetensors_count(self.file); i++) {
        const RawTensor raw = safetensors_raw(self.file, i);
        list.append(py::make_tuple(raw.name, raw.dtype,
                                   py::tuple(py::cast(std::vector<int64_t>(raw.dim, raw.dim + raw.ndim)))));
    }
    return list;
}

// A view of the mapping, which lives as long as the view does.
static py::array bytes_of(py::object self, const std::string &name)
{
    Safetensors *file = self.cast<BoundFile &>().file;
    const int64_t index = safetensors_find(file, name.c_str());
    CHECK(index >= 0, "no tensor %s among the file's %lld", name.c_str(), (long long)safetensors_count(file));
    const RawTensor raw = safetensors_raw(file, index);
    py::array array(py::dtype::of<uint8_t>(), { (py::ssize_t)raw.bytes }, {}, raw.data, self);
    array.attr("flags").attr("writeable") = false;
    return array;
}

// ---- writing ------------------------------------------------------------------------------------------------------

struct BoundWriter {
    SafetensorsWriter *writer = nullptr;
    BoundWriter() = default;
    BoundWriter(const BoundWriter &) = delete;
    ~BoundWriter() { safetensors_discard(&writer); }
};

using About = std::tuple<std::string, std::string, std::vector<int64_t>>;

static std::unique_ptr<BoundWriter> create_writer(const std::string &path, const std::vector<About> &list,
                                                  const std::map<std::string, std::string> &metadata)
{
    std::vector<Tensor> tensors;
    for (const auto &[name, dtype, shape] : list) {
        CHECK(dtype == "f32" || dtype == "bf16", "%s is %s, wanted f32 or bf16", name.c_str(), dtype.c_str());
        CHECK(shape.size() >= 1 && shape.size() <= 4, "%s has %zu dimensions, wanted 1 to 4", name.c_str(),
              shape.size());
        Tensor t = { nullptr, name.c_str(), dtype == "f32" ? DT_F32 : DT_BF16, (int)shape.size(), { 0 } };
        std::copy(shape.begin(), shape.end(), t.dim);
        tensors.push_back(t);
    }
    std::vector<const char *> pairs;
    for (const auto &[key, value] : metadata) pairs.insert(pairs.end(), { key.c_str(), value.c_str() });
    pairs.push_back(nullptr);
    auto made = std::make_unique<BoundWriter>();
    made->writer = safetensors_create(path.c_str(), tensors.data(), (int64_t)tensors.size(), pairs.data());
    return made;
}

static void put_tensor(BoundWriter &self, int64_t index, py::handle array)
{
    CHECK(self.writer, "the file is finished");
    const Tensor t = view_of(array);
    py::gil_scoped_release nogil;
    safetensors_put(self.writer, index, 0, t.data, (int64_t)tensor_bytes(t));
}

static void finish(BoundWriter &self)
{
    CHECK(self.writer, "the file is finished");
    safetensors_finish(&self.writer);
}

void bind_store(py::module_ &m)
{
    using namespace py::literals;
    py::class_<BoundFile>(m, "Safetensors", "A .safetensors file, mapped; its header is checked whole.")
        .def(py::init<const std::string &>(), "path"_a)
        .def_property_readonly("tensors", list_tensors, "(name, type as the format spells it, shape) of each.")
        .def("bytes", bytes_of, "name"_a, "The tensor's bytes where they lie, read-only; not always aligned.");
    py::class_<BoundWriter>(m, "SafetensorsWriter", "Writes a .safetensors file, which is there when it is finished.")
        .def(py::init(&create_writer), "path"_a, "tensors"_a, "metadata"_a,
             "tensors: (name, f32 or bf16, shape) of each.")
        .def("put", put_tensor, "index"_a, "array"_a, "The data of the tensor at this place in the list.")
        .def("finish", finish, py::call_guard<py::gil_scoped_release>());
}
