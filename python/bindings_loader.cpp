// bindings_loader.cpp -- batches out of token shards, as arrays over the loader's own memory.
#include "bindings.h"
#include "loader.h"

using namespace py::literals;

struct BoundLoader {
    Loader *loader;
    explicit BoundLoader(const LoaderConfig &c) : loader(loader_open(&c)) {}
    BoundLoader(const BoundLoader &) = delete;
    ~BoundLoader() { loader_close(loader); }
};

static std::unique_ptr<BoundLoader> open_loader(const std::string &data, const std::string &split, int64_t B, int64_t T,
                                                uint64_t seed, bool shuffle, bool document_mask, int64_t prefetch)
{
    LoaderConfig c = {};
    c.data = data.c_str(), c.split = split.c_str();
    c.B = B, c.T = T, c.seed = seed, c.shuffle = shuffle, c.document_mask = document_mask, c.prefetch = prefetch;
    return std::make_unique<BoundLoader>(c);
}

static py::dict next_batch(py::object self)
{
    Batch b;
    {
        Loader *loader = self.cast<BoundLoader &>().loader;
        py::gil_scoped_release nogil;
        loader_next(loader, &b);
    }
    auto view = [&](const int32_t *numbers) {
        py::array_t<int32_t> array({ b.B, b.T }, numbers, self);
        array.attr("flags").attr("writeable") = false;
        return array;
    };
    return py::dict("tokens"_a = view(b.tokens), "targets"_a = view(b.targets), "pos"_a = view(b.pos),
                    "first"_a = view(b.first));
}

void bind_loader(py::module_ &m)
{
    py::class_<BoundLoader>(m, "Loader", "Windows of tokens out of shards; see loader.h. One thread may use it.")
        .def(py::init(&open_loader), "data"_a, "split"_a = "train", "B"_a = 1, "T"_a = 256, "seed"_a = 1,
             "shuffle"_a = true, "document_mask"_a = false, "prefetch"_a = 0)
        .def("next", next_batch, "tokens, targets, pos and first, each (B,T): views that hold until the next call.");
}
