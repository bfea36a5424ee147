// harness_store.cpp -- csrc/files.h, csrc/safetensors.h and csrc/store.h.
#include "harness.h"

#include <deque>

#include "files.h"
#include "safetensors.h"
#include "store.h"

using std::string;

static py::object take(char *text)
{
    if (!text) return py::none();
    const py::str result(text);
    free(text);
    return result;
}

// Names, types and shapes of tensors to be written; arrays of uint16 stand for bf16.
struct NamedArrays {
    std::deque<string> names;
    std::vector<Tensor> list;
    std::vector<string> texts;
    std::vector<const char *> metadata;

    NamedArrays(const py::dict &arrays, const std::vector<std::pair<string, string>> &pairs)
    {
        for (auto [name, value] : arrays) {
            const auto array = value.cast<py::array>();
            const char kind = array.dtype().kind();
            Tensor t = { const_cast<void *>(array.data()), nullptr, DT_F32, (int)array.ndim(), { 0 } };
            t.dtype = kind == 'f' ? DT_F32 : kind == 'i' ? DT_I32 : array.itemsize() == 2 ? DT_BF16 : DT_U8;
            for (int i = 0; i < t.ndim; i++) t.dim[i] = array.shape(i);
            t.name = names.emplace_back(py::cast<string>(name)).c_str();
            list.push_back(t);
        }
        for (auto &[key, value] : pairs) {
            texts.push_back(key);
            texts.push_back(value);
        }
        for (auto &text : texts) metadata.push_back(text.c_str());
        metadata.push_back(nullptr);
    }
    const char *const *pairs() const { return texts.empty() ? nullptr : metadata.data(); }
};

struct File {
    string bytes;       // of safetensors_parse; must stay
    Safetensors *file = nullptr;
    File() = default;
    File(const File &) = delete;
    ~File() { safetensors_close(&file); }
};

static py::tuple describe(Tensor t)
{
    py::list shape;
    for (int i = 0; i < t.ndim; i++) shape.append(t.dim[i]);
    return py::make_tuple(dtype_name(t.dtype), shape, py::bytes((const char *)t.data, tensor_bytes(t)));
}

SECTION(files)
{
    m.def("read_file", [](const string &path) {
        size_t size;
        char *text AUTO(auto_free) = read_file(path.c_str(), &size);
        if (text[size] != 0) throw std::logic_error("read_file put no zero at the end");
        return py::bytes(text, size);
    });
    m.def("write_file", [](const string &path, const string &data) {
        write_file(path.c_str(), data.data(), data.size());
    });
    m.def("copy_file", [](const string &from, const string &to) { copy_file(from.c_str(), to.c_str()); });
    m.def("make_folders", [](const string &path) { make_folders(path.c_str()); });
    m.def("remove_tree", [](const string &path) { return remove_tree(path.c_str()); });
    m.def("sync_parent", [](const string &path) { sync_parent(path.c_str()); });
}

SECTION(safetensors)
{
    py::class_<File>(m, "Safetensors")
        .def_property_readonly("names", [](const File &f) {
            std::vector<string> names;
            for (int64_t i = 0; i < safetensors_count(f.file); i++) names.push_back(safetensors_name(f.file, i));
            return names;
        })
        .def("find", [](const File &f, const char *name) { return safetensors_find(f.file, name); })
        .def("at", [](const File &f, int64_t index) { return describe(safetensors_tensor(f.file, index)); })
        .def("address", [](const File &f, const char *name) {
            return (uintptr_t)safetensors_get(f.file, name).data;
        })
        .def("get", [](const File &f, const char *name) { return describe(safetensors_get(f.file, name)); })
        .def("metadata", [](const File &f, const char *key) -> py::object {
            const char *text = safetensors_metadata(f.file, key);
            return text ? py::object(py::str(text)) : py::none();
        });
    m.def("safetensors_open", [](const string &path) {
        auto f = std::make_unique<File>();
        f->file = safetensors_open(path.c_str());
        return f;
    });
    m.def("safetensors_parse", [](const py::bytes &bytes) {
        auto f = std::make_unique<File>();
        f->bytes = bytes;
        f->file = safetensors_parse("test.safetensors", f->bytes.data(), f->bytes.size());
        return f;
    });
    m.def("safetensors_write", [](const string &path, const py::dict &arrays,
                                  const std::vector<std::pair<string, string>> &metadata) {
        const NamedArrays t(arrays, metadata);
        safetensors_write(path.c_str(), t.list.data(), (int64_t)t.list.size(), t.pairs());
    }, py::arg("path"), py::arg("arrays"), py::arg("metadata") = py::list());
    // puts: (index, offset in bytes, bytes)
    m.def("safetensors_put", [](const string &path, const py::dict &arrays,
                                const std::vector<std::tuple<int64_t, int64_t, string>> &puts) {
        const NamedArrays t(arrays, {});
        SafetensorsWriter *w AUTO(safetensors_discard) =
            safetensors_create(path.c_str(), t.list.data(), (int64_t)t.list.size(), nullptr);
        for (auto &[index, offset, data] : puts) safetensors_put(w, index, offset, data.data(), (int64_t)data.size());
        safetensors_finish(&w);
    });
}

SECTION(store)
{
    m.def("checkpoint_path", [](const string &dir, int64_t step, bool finished) {
        return take(checkpoint_path(dir.c_str(), step, finished));
    }, py::arg("dir"), py::arg("step"), py::arg("finished") = true);
    m.def("checkpoint_step", [](const string &path) { return checkpoint_step(path.c_str()); });
    m.def("checkpoint_begin", [](const string &dir, int64_t step) {
        return take(checkpoint_begin(dir.c_str(), step));
    });
    m.def("checkpoint_latest", [](const string &dir) { return take(checkpoint_latest(dir.c_str())); });
    m.def("checkpoint_commit", [](const string &path, int64_t keep) {
        char *folder AUTO(checkpoint_discard) = strdup(path.c_str());
        checkpoint_commit(&folder, keep);
        if (folder) throw std::logic_error("checkpoint_commit kept the folder");
    }, py::arg("folder"), py::arg("keep") = 0);
    // What a trainer does: all files of one process into the folder; a failure on the way discards it.
    m.def("checkpoint_save", [](const string &dir, int64_t step, const py::dict &arrays, const string &state,
                                int64_t keep) {
        const NamedArrays t(arrays, {});
        char *folder AUTO(checkpoint_discard) = checkpoint_begin(dir.c_str(), step);
        const string model = string(folder) + "/model.safetensors", rest = string(folder) + "/state.json";
        safetensors_write(model.c_str(), t.list.data(), (int64_t)t.list.size(), nullptr);
        write_file(rest.c_str(), state.data(), state.size());
        checkpoint_commit(&folder, keep);
    }, py::arg("dir"), py::arg("step"), py::arg("arrays"), py::arg("state") = "{}", py::arg("keep") = 0);
    m.def("optimizer_path", [](const string &folder, int rank, int ranks) {
        return take(optimizer_path(folder.c_str(), rank, ranks));
    });
    m.def("optimizer_name", [](const string &group, const string &parameter, int64_t begin, int64_t end) {
        return take(optimizer_name(group.c_str(), parameter.c_str(), begin, end));
    });
    m.def("optimizer_read", [](const string &folder, const string &group, const string &parameter,
                               const std::vector<std::pair<int64_t, int64_t>> &ranges) {
        OptimizerFiles *files AUTO(optimizer_close) = optimizer_open(folder.c_str());
        py::list out;
        for (auto [begin, end] : ranges) {
            py::array_t<float> piece(end - begin);
            optimizer_read(files, group.c_str(), parameter.c_str(), begin, end, piece.mutable_data());
            out.append(piece);
        }
        return py::make_tuple(optimizer_ranks(files), out);
    });
}
