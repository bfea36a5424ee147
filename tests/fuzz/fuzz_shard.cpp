// fuzz_shard.cpp -- bytes as a token shard: opened and read by a loader, or refused with a sentence.
#include "fuzz.h"

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "loader.h"

struct CloseLoader { void operator()(Loader *l) const { loader_close(l); } };

static void require(bool claim, const char *what)
{
    if (claim) return;
    std::fprintf(stderr, "fuzz_shard: %s\n", what);
    std::abort();
}

static void check_batch(const Batch &b, int64_t vocab_size)
{
    for (int64_t i = 0; i < b.B * b.T; i++) {
        require(b.tokens[i] >= 0 && b.tokens[i] < vocab_size, "a token outside the vocabulary was handed out");
        require(b.targets[i] >= -1 && b.targets[i] < vocab_size, "a target outside the vocabulary was handed out");
        require(b.first[i] >= 0 && b.pos[i] >= 0 && b.first[i] + b.pos[i] == i % b.T, "a position is wrong");
    }
}

TARGET(shard)
{
    LoaderConfig c = {};
    c.data = scratch_file("shard.bin", data, size);
    c.B = 2, c.T = 3, c.update_windows = 6;
    c.shuffle = size % 2;
    c.prefetch = (int64_t)(size % 4);
    const std::unique_ptr<Loader, CloseLoader> loader(loader_open(&c));
    for (int i = 0; i < 7; i++) {
        Batch batch;
        const int64_t promised = loader_count_targets(loader.get());
        loader_next(loader.get(), &batch);
        require(batch.target_count <= promised, "a batch has more targets than its update");
        check_batch(batch, loader_vocab_size(loader.get()));
    }
}
