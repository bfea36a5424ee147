// bindings_run.cpp -- a run's folder and its checkpoints, and the processes that train together.
#include "bindings_run.h"
#include "bindings.h"
#include "run.h"
#include "store.h"

#include <algorithm>

using namespace py::literals;
using Release = py::call_guard<py::gil_scoped_release>;

// ---- processes ----------------------------------------------------------------------------------------------------

static py::list sums_of(BoundComm &self, std::vector<double> numbers)
{
    {
        py::gil_scoped_release nogil;
        comm_all_reduce_double(self.comm, numbers.data(), (int64_t)numbers.size());
    }
    return py::cast(numbers);
}

// What the first rank that says anything says; all get it.
static std::string first_said(BoundComm &self, const std::string &text)
{
    enum { MOST = 128 };
    std::vector<char> mine(MOST), all((size_t)comm_ranks(self.comm) * MOST);
    std::copy_n(text.begin(), std::min(text.size(), (size_t)MOST - 1), mine.begin());
    comm_all_gather(self.comm, mine.data(), all.data(), MOST);
    for (size_t at = 0; at < all.size(); at += MOST)
        if (all[at]) return &all[at];
    return "";
}

static void bind_comm(py::module_ &m)
{
    py::class_<BoundComm, std::shared_ptr<BoundComm>>(m, "Comm", "Several processes as one; see comm.h.")
        .def(py::init<const std::string &, const std::string &, double>(), "kind"_a = "auto", "rendezvous"_a = "",
             "patience"_a = 600.0, Release())
        .def_property_readonly("rank", [](const BoundComm &c) { return comm_rank(c.comm); })
        .def_property_readonly("ranks", [](const BoundComm &c) { return comm_ranks(c.comm); })
        .def_property_readonly("name", [](const BoundComm &c) { return comm_name(c.comm); })
        .def("barrier", [](BoundComm &c) { comm_barrier(c.comm); }, Release())
        .def("sums", sums_of, "numbers"_a, "Of each number the sum over all ranks, in float64.")
        .def("first_said", first_said, "text"_a, Release(), "Of the first rank whose text is not empty.")
        .def("abort", [](BoundComm &c, const std::string &message) { comm_abort(c.comm, message.c_str()); },
             "message"_a, Release(), "Prints the sentence once and ends all ranks with status 1.");
}

// ---- checkpoints --------------------------------------------------------------------------------------------------

// A string of the core, freed; None for NULL
static py::object taken(char *text)
{
    const std::unique_ptr<char, decltype(&free)> held(text, free);
    return text ? py::object(py::str(text)) : py::object(py::none());
}

struct BoundCheckpoint {
    char *folder;
    BoundCheckpoint(const std::string &dir, int64_t step) : folder(checkpoint_begin(dir.c_str(), step)) {}
    BoundCheckpoint(const BoundCheckpoint &) = delete;
    ~BoundCheckpoint() { checkpoint_discard(&folder); }
};

static void commit(BoundCheckpoint &self, int64_t keep)
{
    CHECK(self.folder, "the checkpoint was committed, or discarded");
    checkpoint_commit(&self.folder, keep);
}

static void bind_checkpoints(py::module_ &m)
{
    py::class_<BoundCheckpoint>(m, "UnfinishedCheckpoint", "A folder that becomes a checkpoint when it is committed; "
                                                           "see store.h.")
        .def(py::init<const std::string &, int64_t>(), "dir"_a, "step"_a)
        .def("commit", commit, "keep"_a, Release(), "Of the checkpoints this one and those before it stay, as many as "
                                                    "`keep` says; 0: all.")
        .def("discard", [](BoundCheckpoint &self) { checkpoint_discard(&self.folder); }, Release());
    m.def("checkpoint_path", [](const std::string &dir, int64_t step, bool finished) {
        return taken(checkpoint_path(dir.c_str(), step, finished)); }, "dir"_a, "step"_a, "finished"_a = true);
    m.def("checkpoint_latest", [](const std::string &dir) { return taken(checkpoint_latest(dir.c_str())); }, "dir"_a,
          "The newest whole checkpoint's folder, or None.");
    m.def("checkpoint_before", [](const std::string &path) { return taken(checkpoint_before(path.c_str())); },
          "path"_a, "The folder of the one with the highest lower step, or None.");
}

// ---- a run --------------------------------------------------------------------------------------------------------

static py::tuple judge(const Progress &p, double loss, double norm)
{
    double z;
    const Verdict verdict = guard_judge(&p.guard, loss, norm, &z);
    return py::make_tuple(guard_reason(verdict), verdict == GUARD_LOSS_SPIKE || verdict == GUARD_NORM_SPIKE, z);
}

static void bind_progress(py::module_ &m)
{
    py::class_<Progress>(m, "Progress", "All that decides the next step beside weights and optimizer: state.json.")
        .def(py::init([](double spike_z) {
            Progress p = {};
            p.guard.z = spike_z;
            return p; }), "spike_z"_a = 0.0)
        .def_static("read", [](const std::string &folder, double spike_z) {
            Progress p = progress_read(folder.c_str());
            p.guard.z = spike_z;
            return p; }, "folder"_a, "spike_z"_a = 0.0)
        .def("write", [](const Progress &p, const std::string &folder) { progress_write(&p, folder.c_str()); },
             "folder"_a)
        .def_readwrite("step", &Progress::step)
        .def_readwrite("updates", &Progress::updates)
        .def_readwrite("cursor", &Progress::cursor)
        .def_readwrite("tokens", &Progress::tokens)
        .def_readwrite("update_tokens", &Progress::update_tokens)
        .def_readwrite("skips_in_a_row", &Progress::skips_in_a_row)
        .def_readwrite("skipped", &Progress::skipped)
        .def_readwrite("rollbacks", &Progress::rollbacks)
        .def_readwrite("tokenizer", &Progress::tokenizer)
        .def("judge", judge, "loss"_a, "norm"_a,
             "Why an update is not to be applied, or \"\"; whether it is a spike; its standard deviations.")
        .def("enter", [](Progress &p, double loss, double norm) { guard_enter(&p.guard, loss, norm); }, "loss"_a,
             "norm"_a, "An update that was applied.")
        .def("forget", [](Progress &p) { p.guard.seen = 0; }, "Spikes are measured anew.");
}

static RunStart start_named(const std::string &name)
{
    const char *const names[] = { "new", "overwrite", "resume" };       // in the order of RunStart
    for (int i = 0; i < 3; i++)
        if (name == names[i]) return (RunStart)i;
    FAIL("a run starts %s, wanted new, overwrite or resume", name.c_str());
}

struct CloseRun {
    void operator()(Run *r) const { run_close(r); }
};

void bind_run(py::module_ &m)
{
    bind_comm(m);
    bind_checkpoints(m);
    bind_progress(m);
    py::class_<Run, std::unique_ptr<Run, CloseRun>>(m, "Run", "A run's folder, locked; rank 0 writes. See run.h.")
        .def(py::init([](const std::string &folder, const std::string &start, BoundComm &comm) {
            return run_open(folder.c_str(), nullptr, start_named(start), comm.comm); }), "folder"_a, "start"_a,
             "comm"_a, "start: new, overwrite or resume.")
        .def_property_readonly("checkpoints", [](const Run &r) { return std::string(r.checkpoints); })
        .def("metric", [](Run &r, const std::string &line) { run_metric(&r, line.c_str()); }, "line"_a)
        .def("sample", [](Run &r, int64_t step, const std::string &text) {
            run_sample(&r, step, text.data(), text.size()); }, "step"_a, "text"_a)
        .def("rewind", [](Run &r, const Progress &p) { run_rewind(&r, &p); }, "progress"_a,
             "Its logs end where they ended when the progress was saved.")
        .def("note_sizes", [](Run &r, Progress &p) { run_note_sizes(&r, &p); }, "progress"_a);
}
