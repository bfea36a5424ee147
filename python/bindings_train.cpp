// bindings_train.cpp -- what trains a model, and what draws tokens from it.
#include "bindings.h"
#include "bindings_model.h"
#include "bindings_run.h"
#include "optim.h"
#include "sampler.h"
#include "trainer.h"

using namespace py::literals;
using Release = py::call_guard<py::gil_scoped_release>;

// ---- training -----------------------------------------------------------------------------------------------------

struct BoundTrainer {
    std::shared_ptr<BoundComm> comm;
    Trainer *trainer = nullptr;
    BoundTrainer() = default;
    BoundTrainer(const BoundTrainer &) = delete;
    ~BoundTrainer() { trainer_free(trainer); }
};

static OptimizerKind optimizer_kind(const std::string &name)
{
    CHECK(name == "adamw" || name == "muon", "optimizer %s is unknown; wanted adamw or muon", name.c_str());
    return name == "muon" ? OPTIMIZER_MUON : OPTIMIZER_ADAMW;
}

// As train_gpt2 --plan adds them up: weights, gradients, optimizer state, activations and workspace
static size_t training_bytes(BoundModel &model, int64_t B, int64_t T, bool recompute, const std::string &optimizer)
{
    TrainerConfig c{};
    c.optimizer = optimizer_kind(optimizer);
    c.master_weights = true;
    const Plan plan = { B, T, true, recompute, trainer_scratch(model.model, c.optimizer) };
    return trainer_plan_bytes(model.model, plan, &c, nullptr, nullptr).all;
}

static std::unique_ptr<BoundTrainer> create_trainer(BoundModel &model, double beta1, double beta2, double eps,
                                                    double weight_decay, double grad_clip,
                                                    const std::string &optimizer, double muon_momentum,
                                                    bool master_weights, bool stochastic_rounding, uint64_t seed,
                                                    std::shared_ptr<BoundComm> comm)
{
    auto made = std::make_unique<BoundTrainer>();
    made->comm = comm ? comm : std::make_shared<BoundComm>("single", "", 0);
    made->trainer = trainer_create(model.model, made->comm->comm, { beta1, beta2, eps, weight_decay, grad_clip,
                                                                     optimizer_kind(optimizer), muon_momentum,
                                                                     master_weights, stochastic_rounding, seed });
    return made;
}

static double lr_at(int64_t step, const std::string &kind, double lr, double final, double decay, int64_t warmup,
                    int64_t steps)
{
    const char *const kinds[] = { "cosine", "linear", "wsd", "constant" };    // in the order of ScheduleKind
    for (int i = 0; i < 4; i++) {
        if (kind != kinds[i]) continue;
        const Schedule schedule = { (ScheduleKind)i, lr, final, decay, warmup, steps };
        return schedule_lr(&schedule, step);
    }
    FAIL("schedule %s is unknown; wanted cosine, linear, wsd or constant", kind.c_str());
}

void bind_trainer(py::module_ &m)
{
    py::class_<BoundTrainer>(m, "Trainer", "Steps of an optimizer; see trainer.h for their order.")
        .def(py::init(&create_trainer), "model"_a, "beta1"_a, "beta2"_a, "eps"_a, "weight_decay"_a, "grad_clip"_a,
             "optimizer"_a = "adamw", "muon_momentum"_a = 0.95, "master_weights"_a = true,
             "stochastic_rounding"_a = false, "seed"_a = 0, "comm"_a = py::none(), py::keep_alive<1, 2>())
        .def("micro_batch", [](BoundTrainer &t, int64_t index, int64_t count) {
            return trainer_micro_batch(t.trainer, index, count); }, "index"_a, "count"_a,
             "Whether this micro-batch of an update adds to the gradients.")
        .def("reduce", [](BoundTrainer &t) { return trainer_reduce(t.trainer); }, Release(), "The gradient's norm.")
        .def("apply", [](BoundTrainer &t, double lr) { trainer_apply(t.trainer, lr); }, "lr"_a, Release())
        .def_property_readonly("updates", [](const BoundTrainer &t) { return trainer_updates(t.trainer); })
        .def("first_nonfinite", [](BoundTrainer &t) { return trainer_first_nonfinite(t.trainer); }, Release(),
             "The first parameter whose gradient holds a NaN or an infinity, or None.")
        .def("save", [](BoundTrainer &t, const std::string &folder) { trainer_save(t.trainer, folder.c_str()); },
             "folder"_a, Release())
        .def("load", [](BoundTrainer &t, const std::string &folder, int64_t updates) {
            trainer_check(t.trainer, folder.c_str(), trainer_trained_as(folder.c_str()));
            trainer_load(t.trainer, folder.c_str(), updates); }, "folder"_a, "updates"_a, Release());
    m.def("training_bytes", training_bytes, "model"_a, "B"_a, "T"_a, "recompute"_a = false, "optimizer"_a = "adamw",
          "What training with batches of (B,T) takes on the device in all.");
    m.def("schedule_lr", lr_at, "step"_a, "kind"_a, "lr"_a, "final"_a, "decay"_a, "warmup"_a, "steps"_a,
          "The learning rate of the update that makes `step` into step + 1.");
}

// ---- drawing tokens -----------------------------------------------------------------------------------------------

struct BoundSampler {
    int64_t vocab_size;
    Sampler *sampler;
    explicit BoundSampler(int64_t vocab_size) : vocab_size(vocab_size), sampler(sampler_open(vocab_size)) {}
    BoundSampler(const BoundSampler &) = delete;
    ~BoundSampler() { sampler_close(sampler); }
};

static const float *row_of(const BoundSampler &self, py::handle logits)
{
    CHECK(!logits.is_none(), "logits is None, wanted an array");
    return (const float *)input_of(logits, "logits", DT_F32, { self.vocab_size }).data;
}

static py::array_t<double> probabilities(BoundSampler &self, py::object logits, const Sampling &how)
{
    const double *p = sampler_probabilities(self.sampler, row_of(self, logits), &how);
    return py::array_t<double>(self.vocab_size, p);
}

static int32_t draw(BoundSampler &self, py::object logits, const Sampling &how, int64_t stream, int64_t position)
{
    return sampler_draw(self.sampler, row_of(self, logits), &how, stream, position);
}

void bind_sampler(py::module_ &m)
{
    py::class_<Sampling>(m, "Sampling", "How a token is drawn; see sampler.h.")
        .def(py::init([](double temperature, int64_t top_k, double top_p, double min_p, uint64_t seed) {
            const Sampling how = { temperature, top_k, top_p, min_p, seed };
            sampling_check(&how);
            return how; }), "temperature"_a = 1.0, "top_k"_a = 0, "top_p"_a = 1.0, "min_p"_a = 0.0, "seed"_a = 0);
    py::class_<BoundSampler>(m, "Sampler", "Scratch for rows of vocab_size logits. One thread at a time may use it.")
        .def(py::init<int64_t>(), "vocab_size"_a)
        .def("probabilities", probabilities, "logits"_a, "how"_a, "What a token is drawn from, float64.")
        .def("draw", draw, "logits"_a, "how"_a, "stream"_a, "position"_a,
             "One token. stream tells apart the texts drawn beside each other, position is its place in its text.");
}
