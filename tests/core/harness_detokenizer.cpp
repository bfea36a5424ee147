// harness_detokenizer.cpp -- csrc/detokenizer.h: a tokenizer.json, and the bytes of its tokens.
#include "harness.h"

#include "detokenizer.h"

// A class around the pointer: the core does not say what is in a Detokenizer.
struct OwnedDetokenizer {
    Detokenizer *d;
    explicit OwnedDetokenizer(const std::string &path) : d(detokenizer_open(path.c_str())) {}
    OwnedDetokenizer(const OwnedDetokenizer &) = delete;
    ~OwnedDetokenizer() { detokenizer_close(d); }
};

SECTION(detokenizer)
{
    py::class_<OwnedDetokenizer>(m, "Detokenizer")
        .def(py::init<const std::string &>())
        .def("__len__", [](const OwnedDetokenizer &owned) { return detokenizer_vocab_size(owned.d); })
        .def("bytes", [](const OwnedDetokenizer &owned, int64_t id) {
            size_t n;
            const char *bytes = detokenizer_bytes(owned.d, id, &n);
            return py::bytes(bytes, n);
        });
}
