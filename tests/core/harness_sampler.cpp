// harness_sampler.cpp -- csrc/sampler.h: distributions and draws, one row of logits at a time.
#include "harness.h"

#include "sampler.h"

struct CloseSampler {
    void operator()(Sampler *s) const { sampler_close(s); }
};
using OwnedSampler = std::unique_ptr<Sampler, CloseSampler>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

SECTION(sampler)
{
    py::class_<Sampling>(m, "Sampling", py::module_local())
        .def(py::init([](double temperature, int64_t top_k, double top_p, double min_p, uint64_t seed) {
            return Sampling{ temperature, top_k, top_p, min_p, seed };
        }), py::kw_only(), py::arg("temperature") = 1.0, py::arg("top_k") = 0, py::arg("top_p") = 1.0,
            py::arg("min_p") = 0.0, py::arg("seed") = 0);
    m.def("sampler_probabilities", [](Floats logits, const Sampling &how) {
        const OwnedSampler s(sampler_open(logits.size()));
        return py::array_t<double>(logits.size(), sampler_probabilities(s.get(), logits.data(), &how));
    });
    // one sampler for all rows, as a program uses it: what a row leaves behind must not show in the next
    m.def("sampler_draws", [](Floats rows, const Sampling &how, int64_t stream, std::vector<int64_t> positions) {
        const OwnedSampler s(sampler_open(rows.shape(rows.ndim() - 1)));
        std::vector<int32_t> drawn;
        for (size_t i = 0; i < positions.size(); i++)
            drawn.push_back(sampler_draw(s.get(), rows.ndim() == 2 ? rows.data(i, 0) : rows.data(), &how, stream,
                                         positions[i]));
        return drawn;
    }, py::arg("rows"), py::arg("how"), py::arg("stream"), py::arg("positions"));
}
