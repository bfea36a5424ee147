// harness_flags.cpp -- csrc/flags.h: a table of every type, parsed from a list of arguments.
#include "harness.h"

#include <cmath>

#include "flags.h"

struct FlagSettings {
    int64_t     batch_size, seed, threads;
    double      lr, z_loss;
    bool        resume, shuffle;
    const char *data, *run, *schedule;
};

static Flag row(const char *name, FlagType type, size_t offset, const char *fallback, const char *group,
                const char *help, double min = 0, double max = 0, const char *choices = nullptr, const char *word = nullptr)
{
    Flag flag = {};
    flag.name = name, flag.type = type, flag.offset = offset, flag.fallback = fallback;
    flag.help = help, flag.group = group, flag.min = min, flag.max = max, flag.choices = choices;
    flag.word = word;
    return flag;
}

static const Flag flag_table[] = {
    row("data", FLAG_TEXT, offsetof(FlagSettings, data), nullptr, "data", "token shards, a folder or a pattern; a "
        "sentence long enough to be broken where a line of the help ends, and once more after that, however wide"),
    row("batch_size", FLAG_INT, offsetof(FlagSettings, batch_size), "8", "data", "rows in one micro-batch", 1, 4096),
    row("shuffle", FLAG_BOOL, offsetof(FlagSettings, shuffle), "1", "data", "a new order each epoch"),
    row("seed", FLAG_INT, offsetof(FlagSettings, seed), "1", "data", "of everything random"),
    row("lr", FLAG_REAL, offsetof(FlagSettings, lr), "3e-4", "optimizer", "peak learning rate", 0, INFINITY),
    row("z_loss", FLAG_REAL, offsetof(FlagSettings, z_loss), "0", "optimizer", "weight of z"),
    row("schedule", FLAG_CHOICE, offsetof(FlagSettings, schedule), "cosine", "optimizer", "how lr falls", 0, 0,
        "cosine linear constant"),
    row("run", FLAG_TEXT, offsetof(FlagSettings, run), "runs/new", "run", "where it goes"),
    row("resume", FLAG_BOOL, offsetof(FlagSettings, resume), "0", "run", "go on from the newest checkpoint"),
    row("threads", FLAG_INT, offsetof(FlagSettings, threads), "2", "run", "at work", 1, 64, nullptr, "auto"),
};

struct CloseFlags {
    void operator()(Flags *f) const { flags_close(f); }
};

SECTION(flags)
{
    // Python's own JSON reader is the judge of what comes back: all values, those set, the source of each, the help.
    m.def("flags_parse", [](std::vector<std::string> arguments, const char *without) -> py::object {
        FlagSettings settings;
        const std::unique_ptr<Flags, CloseFlags> f(flags_open("trial", "Try the flags.", flag_table,
                                                              std::size(flag_table), &settings));
        std::vector<char *> argv{ const_cast<char *>("trial") };
        for (std::string &argument : arguments) argv.push_back(argument.data());
        if (!flags_parse(f.get(), (int)argv.size(), argv.data())) return py::none();
        char *all AUTO(auto_free) = flags_json(f.get(), false, without);
        char *set AUTO(auto_free) = flags_json(f.get(), true, without);
        py::dict sources, values;
        for (const Flag &flag : flag_table) sources[flag.name] = (int)flags_source(f.get(), flag.name);
        values["batch_size"] = settings.batch_size, values["seed"] = settings.seed;
        values["lr"] = settings.lr, values["z_loss"] = settings.z_loss;
        values["resume"] = settings.resume, values["shuffle"] = settings.shuffle;
        values["data"] = settings.data ? py::object(py::str(settings.data)) : py::none();
        values["run"] = settings.run, values["schedule"] = settings.schedule;
        values["threads"] = settings.threads == FLAG_WORD ? py::object(py::str("auto")) : py::int_(settings.threads);
        return py::make_tuple(values, std::string(all), std::string(set), sources);
    }, py::arg("arguments"), py::arg("without") = "");
    m.def("flags_help", [] {
        FlagSettings settings;
        const std::unique_ptr<Flags, CloseFlags> f(flags_open("trial", "Try the flags.", flag_table,
                                                              std::size(flag_table), &settings));
        char *help AUTO(auto_free) = flags_help(f.get());
        return std::string(help);
    });
    m.def("flags_open_bad_default", [] {
        const Flag bad[] = { row("n", FLAG_INT, offsetof(FlagSettings, seed), "many", "", "") };
        FlagSettings settings;
        flags_close(flags_open("trial", "", bad, 1, &settings));
    });
    m.def("flags_open_twice", [] {
        const Flag twice[] = { flag_table[1], flag_table[1] };
        FlagSettings settings;
        flags_close(flags_open("trial", "", twice, 2, &settings));
    });
}
