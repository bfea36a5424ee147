// fuzz.cpp -- feeds damaged files to the readers of the core, under the address and undefined-behaviour sanitizers.
//
//     fuzz TARGET SEEDS COUNT [FIRST]     COUNT mutations of the files in the folder SEEDS
//     fuzz TARGET FILE                    that one input
//
// Every seed must be accepted. A mutated input may be accepted or refused with a sentence; each must leave no memory
// behind, never hold more than twice its size and SLACK, and end within SECONDS. What fails is written to crash-TARGET
// in the working directory and the exit status is not zero. A mutation is a function of its number alone.
#include "fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <vector>

#include "rng.h"

// Of the sanitizers' run-time library, whose headers not every compiler installs.
extern "C" {
void __sanitizer_set_death_callback(void (*callback)());
int __sanitizer_install_malloc_and_free_hooks(void (*taken)(const volatile void *, size_t),
                                              void (*freed)(const volatile void *));
size_t __sanitizer_get_allocated_size(const volatile void *block);
}

using Bytes = std::vector<uint8_t>;
namespace fs = std::filesystem;

enum { SLACK = 64 << 10, SECONDS = 20, MAX_INPUT = 1 << 20 };

extern "C" const char *__asan_default_options()
{
    return "allocator_may_return_null=1:handle_abort=1:detect_leaks=0";     // leaks are counted here, an input each
}
extern "C" const char *__ubsan_default_options() { return "print_stacktrace=1"; }

static std::map<std::string, Target> &targets()
{
    static std::map<std::string, Target> all;
    return all;
}

AddTarget::AddTarget(const char *name, Target target) { targets()[name] = target; }

// ---- one input ----------------------------------------------------------------------------------------------------

static struct {
    std::string target;
    long long number = -1;      // of the mutation; -1: a seed
    Bytes bytes;
    std::atomic<bool> counting;
    std::atomic<size_t> live, peak;
} run;

static void count_malloc(const volatile void *, size_t size)
{
    if (!run.counting) return;
    const size_t live = run.live += size;
    for (size_t peak = run.peak; peak < live && !run.peak.compare_exchange_weak(peak, live);) continue;
}

static void count_free(const volatile void *block)
{
    if (run.counting && block) run.live -= __sanitizer_get_allocated_size(block);
}

static void keep_input()
{
    run.counting = false;
    std::ofstream("crash-" + run.target, std::ios::binary).write((const char *)run.bytes.data(), run.bytes.size());
    fprintf(stderr, "fuzz: the input, mutation %lld, is in crash-%s\n", run.number, run.target.c_str());
}

[[noreturn]] static void give_up(const char *why)
{
    fprintf(stderr, "fuzz: %s: %s\n", run.target.c_str(), why);
    keep_input();
    _exit(1);
}

static void on_alarm(int) { give_up("the input took too long"); }

struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

static void refuse(const char *message) { throw Refused(message); }

// The sentence it was refused with; empty if it was accepted.
static std::string feed(Target target)
{
    static char message[2100], told[200];
    message[0] = 0;
    // An exact block of its own, so that the sanitizer sees a read behind the end.
    uint8_t *input = (uint8_t *)malloc(run.bytes.size());
    std::copy(run.bytes.begin(), run.bytes.end(), input);
    alarm(SECONDS);
    run.live = run.peak = 0;
    run.counting = true;
    try {
        target(input, run.bytes.size());
    } catch (const Refused &refusal) {
        strncpy(message, refusal.what(), sizeof message - 1);
    }
    run.counting = false;
    alarm(0);
    free(input);
    snprintf(told, sizeof told, "it held %zu bytes for an input of %zu", run.peak.load(), run.bytes.size());
    if (run.peak > 2 * run.bytes.size() + SLACK) give_up(told);
    snprintf(told, sizeof told, "it left %zd bytes of memory behind", (ssize_t)run.live.load());
    if (run.live != 0) give_up(told);
    if (strstr(message, "out of memory")) give_up(message);
    return message;
}

const char *scratch_folder()
{
    static char path[] = "/tmp/fuzz-XXXXXX";
    static const char *made = mkdtemp(path);
    if (!made) give_up("no temporary folder");
    return made;
}

const char *scratch_file(const char *name, const void *data, size_t size)
{
    static std::string path;
    const bool counting = run.counting.exchange(false);
    path = std::string(scratch_folder()) + "/" + name;
    std::ofstream(path, std::ios::binary).write((const char *)data, size);
    run.counting = counting;
    return path.c_str();
}

uint8_t *scratch_block(size_t size)
{
    static void *block;
    const bool counting = run.counting.exchange(false);
    free(block);
    block = malloc(size);
    run.counting = counting;
    return (uint8_t *)block;
}

// ---- mutations ----------------------------------------------------------------------------------------------------

struct Dice {
    uint64_t number, rolls = 0;
    uint64_t bits() { const Philox p = philox(1, number, rolls++); return (uint64_t)p.word[1] << 32 | p.word[0]; }
    size_t below(size_t n) { return n ? (size_t)(bits() % n) : 0; }
};

// Half of them among the first 64 bytes, where headers are.
static size_t place(Dice &dice, size_t size) { return dice.below(dice.below(2) ? std::min<size_t>(size, 64) : size); }

static void put_integer(Dice &dice, Bytes &b)
{
    static const uint64_t values[] = { 0, 1, 2, 7, 8, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x7fffffff, 0x80000000,
        0xffffffff, 0x100000000, INT64_MAX - 7, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX - 7, UINT64_MAX };
    const size_t width = 1u << dice.below(4);
    if (b.size() < width) return;
    uint64_t value = values[dice.below(std::size(values))];
    if (dice.below(4) == 0) value = b.size() + dice.below(17) - 8;
    const size_t at = place(dice, b.size() - width + 1) / width * width;
    for (size_t i = 0; i < width; i++) b[at + i] = (uint8_t)(value >> 8 * i);
}

// Another number in place of one written in decimal.
static void put_decimal(Dice &dice, Bytes &b)
{
    static const char *values[] = { "0", "-1", "1", "2", "3", "4", "8", "255", "65536", "2147483647", "2147483648",
        "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1e9", "1e999", "-0",
        "1.5", "4611686018427387904", "\"1\"", "null", "[]", "99999999999999999999999999999999999999" };
    std::vector<size_t> starts;
    for (size_t i = 0; i < b.size(); i++)
        if (isdigit(b[i]) && (i == 0 || !isdigit(b[i - 1]))) starts.push_back(i);
    if (starts.empty()) return;
    const size_t at = starts[dice.below(starts.size())];
    size_t end = at;
    while (end < b.size() && isdigit(b[end])) end++;
    std::string value = values[dice.below(std::size(values))];
    if (dice.below(2)) {            // near what it is
        const uint64_t was = strtoull(std::string(b.begin() + at, b.begin() + end).c_str(), nullptr, 10);
        value = std::to_string(was + dice.below(17) - 8);
    }
    b.erase(b.begin() + at, b.begin() + end);
    b.insert(b.begin() + at, value.begin(), value.end());
}

static void put_bytes(Dice &dice, Bytes &b)
{
    static const char *tokens[] = { "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u0000", "\\ud800", "\xff", "\xc0\x80",
        "\xed\xa0\x80", "null", "true", "\n", " ", "{\"a\":", "[[[[[[[[[[[[[[[[", "/", "..", "[0:4]" };
    const std::string token = tokens[dice.below(std::size(tokens))];
    const size_t at = dice.below(b.size() + 1);
    if (dice.below(2)) b.insert(b.begin() + at, token.begin(), token.end());
    else for (size_t i = 0; i < token.size() && at + i < b.size(); i++) b[at + i] = (uint8_t)token[i];
}

static void move_range(Dice &dice, Bytes &b, const Bytes &other)
{
    const Bytes &from = dice.below(2) ? other : b;
    const size_t begin = dice.below(from.size() + 1), most = dice.below(2) ? 64 : from.size();
    const Bytes piece(from.begin() + begin, from.begin() + begin + dice.below(std::min(from.size() - begin, most) + 1));
    const size_t at = dice.below(b.size() + 1);
    if (b.size() + piece.size() > MAX_INPUT) return;
    if (dice.below(2)) b.insert(b.begin() + at, piece.begin(), piece.end());
    else std::copy_n(piece.begin(), std::min(piece.size(), b.size() - at), b.begin() + at);
}

static void erase_range(Dice &dice, Bytes &b)
{
    const size_t begin = dice.below(b.size() + 1), most = dice.below(2) ? 16 : b.size();
    b.erase(b.begin() + begin, b.begin() + begin + dice.below(std::min(b.size() - begin, most) + 1));
}

static Bytes mutate(const std::vector<Bytes> &seeds, uint64_t number)
{
    Dice dice = { number };
    Bytes b = seeds[dice.below(seeds.size())];
    for (size_t times = 1 + dice.below(1 + dice.below(6)); times > 0; times--) {
        switch (dice.below(9)) {
            case 0: if (!b.empty()) b[place(dice, b.size())] ^= (uint8_t)(1 << dice.below(8)); break;
            case 1: if (!b.empty()) b[place(dice, b.size())] = (uint8_t)dice.bits(); break;
            case 2: b.resize(dice.below(b.size() + 1)); break;
            case 3: put_integer(dice, b); break;
            case 4: case 5: put_decimal(dice, b); break;
            case 6: put_bytes(dice, b); break;
            case 7: move_range(dice, b, seeds[dice.below(seeds.size())]); break;
            case 8: erase_range(dice, b); break;
        }
    }
    return b;
}

// ---- the run ------------------------------------------------------------------------------------------------------

static Bytes read_bytes(const fs::path &path)
{
    std::ifstream file(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// A sentence without its numbers and quotations: what kind of refusal it is.
static std::string kind_of(std::string sentence)
{
    sentence.erase(std::remove_if(sentence.begin(), sentence.end(), [](unsigned char c) { return !islower(c); }),
                   sentence.end());
    return sentence;
}

static void fuzz(Target target, const char *folder, long long count, long long first)
{
    std::vector<fs::path> paths(fs::directory_iterator(folder), {});
    if (paths.empty()) give_up("no seeds");
    std::sort(paths.begin(), paths.end());
    std::vector<Bytes> seeds;
    for (auto &path : paths) {
        seeds.push_back(run.bytes = read_bytes(path));
        const std::string sentence = feed(target);
        if (!sentence.empty()) give_up(("the seed " + path.string() + " is refused: " + sentence).c_str());
    }
    long long accepted = 0;
    double most = 0;
    std::set<std::string> kinds;
    for (run.number = first; run.number < first + count; run.number++) {
        run.bytes = mutate(seeds, (uint64_t)run.number);
        const std::string sentence = feed(target);
        accepted += sentence.empty();
        if (!sentence.empty()) kinds.insert(kind_of(sentence));
        if (run.peak > SLACK) most = std::max(most, (double)run.peak / (double)run.bytes.size());
    }
    printf("{\"target\": \"%s\", \"inputs\": %lld, \"accepted\": %lld, \"refusals\": %zu, \"memory\": %.2f}\n",
           run.target.c_str(), count, accepted, kinds.size(), most);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 5 || !targets().count(argv[1])) {
        fprintf(stderr, "usage: fuzz TARGET SEEDS COUNT [FIRST], or fuzz TARGET FILE; targets:");
        for (auto &[name, target] : targets()) fprintf(stderr, " %s", name.c_str());
        fprintf(stderr, "\n");
        return 2;
    }
    set_fail_handler(refuse);
    signal(SIGALRM, on_alarm);
    __sanitizer_set_death_callback(keep_input);
    if (!__sanitizer_install_malloc_and_free_hooks(count_malloc, count_free)) give_up("no room for a malloc hook");
    run.target = argv[1];
    if (argc > 3) {
        fuzz(targets()[argv[1]], argv[2], atoll(argv[3]), argc > 4 ? atoll(argv[4]) : 0);
    } else {
        run.bytes = read_bytes(argv[2]);
        const std::string sentence = feed(targets()[argv[1]]);
        printf("%s\n", sentence.empty() ? "accepted" : sentence.c_str());
    }
    fs::remove_all(scratch_folder());
    return 0;
}
