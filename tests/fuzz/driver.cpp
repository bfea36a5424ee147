// driver.cpp -- a fuzzer that needs no compiler of its own: mutates seed files and hands them to a target, in-process.
//
// A target is one file that defines LLVMFuzzerTestOneInput (libFuzzer's name, so that it can drive them too) and lets
// failures of the core through as the FuzzFailure this driver catches. Built with the address and undefined-behaviour
// sanitizers. Usage: TARGET SEEDS COUNT [FIRST]: every mutation is a function of its number, so a crash that names
// mutation 123 is seen again with `TARGET SEEDS 1 123`. A run may take ten seconds, and one allocation may be as large
// as the file twice and 64 KiB, not more.
#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "fuzz.h"
#include "rng.h"

// of the sanitizers' run-time libraries, whose headers not every compiler installs
extern "C" void __sanitizer_set_death_callback(void (*callback)());
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void *, size_t),
                                                         void (*freed)(const volatile void *));

using Bytes = std::vector<uint8_t>;

static long long running = -1;      // the mutation, for the last words
static size_t allowed;              // bytes in one allocation; 0: any

static void last_words()
{
    std::fprintf(stderr, "fuzz: in mutation %lld\n", running);
}

static void watch_allocation(const volatile void *, size_t size)
{
    if (!allowed || size <= allowed) return;
    const size_t limit = allowed;
    allowed = 0;
    std::fprintf(stderr, "fuzz: %zu bytes allocated at once, wanted at most %zu\n", size, limit);
    last_words();
    std::abort();
}

static void ignore_free(const volatile void *) {}

// ---- mutations ----------------------------------------------------------------------------------------------------

struct Dice {
    uint64_t stream, rolls;
    uint64_t bits() { const Philox p = philox(1, stream, rolls++); return (uint64_t)p.word[1] << 32 | p.word[0]; }
    size_t below(size_t n) { return n ? (size_t)(bits() % n) : 0; }
};

static size_t place(Dice &dice, const Bytes &b)     // half of them among the first 64 bytes, where headers are
{
    return dice.below(dice.below(2) ? std::min<size_t>(b.size(), 64) : b.size());
}

static void put_number(Dice &dice, Bytes &b)
{
    const uint64_t telling[] = { 0, 1, 2, 4, 0x7f, 0xff, 0x7fff, 0xffff, 0x10000, INT32_MAX, 0x80000000u, UINT32_MAX,
                                 INT64_MAX, (uint64_t)INT64_MIN, UINT64_MAX, b.size(), b.size() / 2, b.size() + 1 };
    const uint64_t number = telling[dice.below(std::size(telling))];
    const size_t width = (size_t)1 << dice.below(4), at = place(dice, b) / width * width;
    if (at + width <= b.size()) std::memcpy(&b[at], &number, width);
}

static void copy_piece(Dice &dice, Bytes &b)
{
    if (b.empty()) return;
    const size_t from = dice.below(b.size()), count = std::min<size_t>(b.size() - from, 1 + dice.below(64));
    const Bytes piece(b.begin() + (long)from, b.begin() + (long)(from + count));
    b.insert(b.begin() + (long)place(dice, b), piece.begin(), piece.end());
}

static void cut_piece(Dice &dice, Bytes &b)
{
    if (b.empty()) return;
    const size_t from = place(dice, b), count = std::min<size_t>(b.size() - from, 1 + dice.below(64));
    b.erase(b.begin() + (long)from, b.begin() + (long)(from + count));
}

static Bytes mutate(const std::vector<Bytes> &seeds, uint64_t number)
{
    Dice dice = { number, 0 };
    Bytes b = seeds[dice.below(seeds.size())];
    for (size_t changes = 1 + dice.below(4); changes; changes--) {
        switch (dice.below(7)) {
        case 0: case 1: put_number(dice, b); break;
        case 2: if (!b.empty()) b[place(dice, b)] ^= (uint8_t)(1 << dice.below(8)); break;
        case 3: if (!b.empty()) b[place(dice, b)] = (uint8_t)dice.bits(); break;
        case 4: b.resize(dice.below(b.size() + 1)); break;
        case 5: copy_piece(dice, b); break;
        case 6: cut_piece(dice, b); break;
        }
    }
    return b;
}

// ---- running ------------------------------------------------------------------------------------------------------

static std::vector<Bytes> read_seeds(const char *folder)
{
    std::vector<std::string> names;
    DIR *open = opendir(folder);
    if (!open) return {};
    while (const dirent *entry = readdir(open))
        if (entry->d_name[0] != '.') names.push_back(std::string(folder) + "/" + entry->d_name);
    closedir(open);
    std::sort(names.begin(), names.end());
    std::vector<Bytes> seeds;
    for (const std::string &name : names) {
        std::ifstream file(name, std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return seeds;
}

static void throw_failure(const char *message) { throw FuzzFailure(message); }

static bool survives(const Bytes &bytes, bool print)
{
    alarm(10);
    allowed = 2 * bytes.size() + (64 << 10);
    try {
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        allowed = 0;
        return true;
    } catch (const FuzzFailure &failure) {
        allowed = 0;
        if (print) std::fprintf(stderr, "fuzz: refused: %s\n", failure.what());
        return false;
    }
}

int main(int argc, char **argv)
{
    const std::vector<Bytes> seeds = argc >= 3 ? read_seeds(argv[1]) : std::vector<Bytes>();
    if (seeds.empty()) {
        std::fprintf(stderr, "usage: %s FOLDER_OF_SEEDS COUNT [FIRST]\n", argv[0]);
        return 2;
    }
    const long long count = std::atoll(argv[2]), first = argc > 3 ? std::atoll(argv[3]) : 0;
    set_fail_handler(throw_failure);
    __sanitizer_set_death_callback(last_words);
    __sanitizer_install_malloc_and_free_hooks(watch_allocation, ignore_free);
    for (const Bytes &seed : seeds) {
        if (survives(seed, true)) continue;
        std::fprintf(stderr, "fuzz: a seed was refused; seeds must be good\n");
        return 2;
    }
    long long taken = 0;
    for (running = first; running < first + count; running++)
        taken += survives(mutate(seeds, (uint64_t)running), count == 1);
    std::printf("%lld mutations: %lld taken, %lld refused\n", count, taken, count - taken);
    return 0;
}
