// The loader: configured by keywords, its batches copied out.
#include "harness.h"

#include <cstring>

#include "loader.h"
#include "shards.h"
#include "shuffle.h"

struct CloseLoader {
    void operator()(Loader *l) const { loader_close(l); }
};

struct Opened {
    std::unique_ptr<Loader, CloseLoader> loader;
};

template <auto question> static auto ask(const Opened &o) { return question(o.loader.get()); }

static py::array_t<int32_t> copy_of(const Batch &b, const int32_t *numbers)
{
    py::array_t<int32_t> array({ b.B, b.T });
    std::memcpy(array.mutable_data(), numbers, sizeof(int32_t) * (size_t)(b.B * b.T));
    return array;
}

static Opened open_loader(const std::string &data, const std::string &split, const std::vector<std::string> &paths,
                           int64_t B, int64_t T, int64_t update_windows, int64_t rank, int64_t ranks, uint64_t seed,
                           bool shuffle, bool document_mask, int64_t prefetch)
{
    std::vector<const char *> texts;
    for (const std::string &path : paths) texts.push_back(path.c_str());
    LoaderConfig c = {};
    c.data = data.empty() ? nullptr : data.c_str();
    c.split = split.empty() ? nullptr : split.c_str();
    c.paths = texts.data();
    c.path_count = (int64_t)texts.size();
    c.B = B, c.T = T, c.update_windows = update_windows;
    c.rank = rank, c.ranks = ranks;
    c.seed = seed, c.shuffle = shuffle, c.document_mask = document_mask, c.prefetch = prefetch;
    return Opened{ std::unique_ptr<Loader, CloseLoader>(loader_open(&c)) };
}

SECTION(loader)
{
    using namespace py::literals;
    py::class_<Opened>(m, "Loader")
        .def(py::init(&open_loader), "data"_a = "", py::kw_only(), "split"_a = "",
             "paths"_a = std::vector<std::string>(), "B"_a = 1, "T"_a = 4, "update_windows"_a = 0, "rank"_a = 0,
             "ranks"_a = 1, "seed"_a = 1, "shuffle"_a = true, "document_mask"_a = false, "prefetch"_a = 0)
        .def("next", [](const Opened &o) {
            Batch b;
            loader_next(o.loader.get(), &b);
            return py::dict("tokens"_a = copy_of(b, b.tokens), "targets"_a = copy_of(b, b.targets),
                            "pos"_a = copy_of(b, b.pos), "first"_a = copy_of(b, b.first),
                            "target_count"_a = b.target_count);
        })
        .def("count_targets", ask<loader_count_targets>)
        .def("seek", [](const Opened &o, int64_t cursor) { loader_seek(o.loader.get(), cursor); })
        .def_property_readonly("cursor", ask<loader_cursor>)
        .def_property_readonly("micro_batches", ask<loader_micro_batches>)
        .def_property_readonly("windows", ask<loader_windows>)
        .def_property_readonly("tokens", ask<loader_tokens>)
        .def_property_readonly("shards", ask<loader_shards>)
        .def_property_readonly("vocab_size", ask<loader_vocab_size>)
        .def_property_readonly("fingerprint", ask<loader_fingerprint>)
        .def_property_readonly("eot", ask<loader_eot>);

    m.def("shuffle_all", [](uint64_t seed, int64_t epoch, int64_t n) {
        py::array_t<int64_t> order(n);
        for (int64_t i = 0; i < n; i++) order.mutable_data()[i] = shuffle_index(seed, epoch, n, i);
        return order;
    });
    m.def("shuffle_index", &shuffle_index);
    m.def("fingerprint", [](const py::bytes &data) {
        const std::string_view bytes = data;
        return fingerprint(bytes.data(), bytes.size());
    });
}
