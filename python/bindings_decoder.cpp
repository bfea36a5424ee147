// bindings_decoder.cpp -- decoder.h as llmc._core.Decoder: rows of tokens in, logits out.
#include "bindings.h"
#include "bindings_model.h"
#include "decoder.h"
#include "ops.h"

namespace {

struct BoundDecoder {
    Decoder *decoder;
    int64_t vocab_size;
    BoundDecoder(BoundModel &of, int rows, int64_t pages, int64_t tokens, bool graphs)
        : decoder(decoder_create(of.model, { rows, pages, tokens, !graphs })),
          vocab_size(model_config(of.model)->vocab_size) {}
    BoundDecoder(const BoundDecoder &) = delete;
    ~BoundDecoder() { decoder_free(decoder); }
};

using Input = std::tuple<int, py::array_t<int32_t, py::array::c_style | py::array::forcecast>, bool>;

py::array_t<float> feed(BoundDecoder &self, const std::vector<Input> &inputs)
{
    std::vector<DecoderInput> in;
    int64_t wanted = 0;
    for (const auto &[row, tokens, logits] : inputs) {
        in.push_back({ row, tokens.size(), tokens.data(), logits });
        wanted += logits;
    }
    py::array_t<float> logits({ wanted, self.vocab_size });
    float *to = logits.mutable_data();
    py::gil_scoped_release nogil;
    decoder_feed(self.decoder, (int)in.size(), in.data(), to);
    return logits;
}

}  // namespace

void bind_decoder(py::module_ &m)
{
    using namespace py::literals;
    using Release = py::call_guard<py::gil_scoped_release>;
    py::class_<BoundDecoder>(m, "Decoder",
        "Rows of tokens over a cache of keys and values, on a model's weights; see decoder.h. One thread may use it.")
        .def(py::init<BoundModel &, int, int64_t, int64_t, bool>(), "model"_a, "rows"_a, "pages"_a, "tokens"_a,
             "graphs"_a = true, py::keep_alive<1, 2>(), Release(),
             "graphs: False launches each kernel by itself, to tell whether a mistake is a recording's.")
        .def("open", [](BoundDecoder &d) { return decoder_open(d.decoder); }, "An empty row.")
        .def("lend", [](BoundDecoder &d, int row, int64_t n) { return decoder_lend(d.decoder, row, n); },
             "row"_a, "length"_a, "A new row that begins with this row's first steps, which are not copied.")
        .def("close", [](BoundDecoder &d, int row) { decoder_close(d.decoder, row); }, "row"_a)
        .def("length", [](BoundDecoder &d, int row) { return decoder_length(d.decoder, row); }, "row"_a)
        .def("rewind", [](BoundDecoder &d, int row, int64_t n) { decoder_rewind(d.decoder, row, n); },
             "row"_a, "length"_a, "Forgets all but the first steps.")
        .def_property_readonly("pages_free", [](BoundDecoder &d) { return decoder_pages_free(d.decoder); })
        .def_property_readonly("replays", [](BoundDecoder &d) { return decoder_replays(d.decoder); },
             "Calls that replayed a graph.")
        .def("pages_needed",
             [](BoundDecoder &d, int row, int64_t n) { return decoder_pages_needed(d.decoder, row, n); }, "row"_a,
             "count"_a, "Pages that the row would take for so many tokens more.")
        .def("feed", feed, "inputs"_a,
             "(row, tokens, wants logits) each: logits (wanted, vocab_size) after the last token of those that do.");
    m.def("decoder_page_bytes", [](const Config &c, const std::string &dtype) {
        return decoder_page_bytes(&c, weight_type(dtype)); }, "config"_a, "dtype"_a = "f32", "Of one page of a cache.");
    m.attr("CACHE_PAGE") = (int)CACHE_PAGE;
}
