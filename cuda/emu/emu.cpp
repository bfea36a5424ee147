/* emu.cpp -- see emu.h: fibers, their scheduler, barriers and shared memory. */
#include "emu.h"
#include "stack.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <vector>

#include "base.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

enum State { READY, AT_WARP, AT_BLOCK, ENDED };

constexpr size_t STACK = 256 << 10;             /* touched pages only cost memory */
constexpr size_t SHARED_STATIC = 48 << 10, SHARED_ALL = 99 << 10;       /* a block has at least, from sm_80 on */
constexpr size_t RED_ZONE = 64;
constexpr uint16_t RED = 0xffa5;                /* a NaN in bf16, and twice one in f32 */

struct Copy { void *to; const void *from; };            /* from: NULL for zeros */

struct Fiber {
    void       *stack = nullptr, *pointer = nullptr;    /* where it lies; where it stopped */
    State       state = READY;
    unsigned    exchanges = 0;                          /* it took part in */
    const char *file = "";                              /* where it waits */
    int         line = 0;
    Here        here;
    std::vector<std::vector<Copy>> groups;              /* of copies that have not arrived; the last one is open */
#ifdef __SANITIZE_ADDRESS__
    void       *fake_stack = nullptr;
#endif
};

struct Warp {
    alignas(64) char slot[2][LANES][LARGEST_EXCHANGE];  /* of this exchange, and of the next one */
    int         waiting = 0;
    const char *file = "";
    int         line = 0;
};

struct Shared { const void *declaration; const char *name; size_t begin, bytes; };

/* One CPU thread's block. */
struct Machine {
    std::vector<Fiber>  fibers;
    std::vector<Warp>   warps;
    std::vector<int>    order;
    std::vector<Shared> arrays;
    size_t   used = 0;                          /* of the shared memory, zones among it */
    char    *memory = nullptr;
    int      count = 0, current = 0, waiting = 0, ended = 0;
    void    *scheduler = nullptr;
    uint64_t random = 0;
    const std::function<void()> *kernel = nullptr;
    size_t   shared_most = 0;                   /* bytes of it that this launch may use */
    std::string failure;
#ifdef __SANITIZE_ADDRESS__
    void       *fake_stack = nullptr;
    const void *stack = nullptr;
    size_t      stack_size = 0;
#endif
    ~Machine()
    {
        for (Fiber &f : fibers) munmap(f.stack, STACK);
        free(memory);
    }
};

static thread_local Machine machine;
__thread Here *here;

/* ---- fibers ----------------------------------------------------------------------------------------------------- */

/* Once on another stack a function may not look for thread-local variables that it found before: fibers stay on their
 * thread, so what it found is still right. */
static void to_scheduler()
{
    Machine &m = machine;
    Fiber &f = m.fibers[(size_t)m.current];
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&f.fake_stack, m.stack, m.stack_size);
#endif
    llmc_emu_switch(&f.pointer, m.scheduler);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(f.fake_stack, &m.stack, &m.stack_size);
#endif
}

static void to_fiber(Machine &m, int i)
{
    Fiber &f = m.fibers[(size_t)i];
    m.current = i;
    here = &f.here;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&m.fake_stack, f.stack, STACK);
#endif
    llmc_emu_switch(&m.scheduler, f.pointer);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(m.fake_stack, nullptr, nullptr);
#endif
}

/* A fiber's life: one thread of one block after the other. */
static void live()
{
    Machine &m = machine;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &m.stack, &m.stack_size);
#endif
    for (;;) {
        (*m.kernel)();
        m.fibers[(size_t)m.current].state = ENDED;
        m.ended++;
        to_scheduler();
    }
}

static void begin_life(Fiber &f)
{
    if (!f.stack) {
        f.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(f.stack != MAP_FAILED, "cuda-emu: no room for a thread's stack of %zu KB", STACK >> 10);
    }
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(f.stack, STACK);
    f.fake_stack = nullptr;
#endif
    void **top = (void **)((char *)f.stack + STACK) - FRAME;
    for (size_t i = 0; i < KEPT; i++) top[i] = nullptr;
    top[RETURN] = (void *)live;
    f.pointer = top;
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static std::string format_list(const char *format, va_list args)
{
    char text[512];
    vsnprintf(text, sizeof text, format, args);
    return text;
}

__attribute__((format(printf, 2, 3))) static void note_failure(Machine &m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (m.failure.empty()) m.failure = format_list(format, args);
    va_end(args);
}

/* The threads of a launch that failed are never run again, so this does not return. */
void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (machine.failure.empty()) machine.failure = format_list(format, args);
    va_end(args);
    to_scheduler();
    abort();
}

static std::string place(dim3 at)
{
    return "(" + std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z) + ")";
}

/* Nobody can go on: who waits, and who of its warp or block does not come? The first finding is kept. */
static void note_deadlock(Machine &m)
{
    int waits = 0;
    while (m.fibers[(size_t)waits].state == ENDED) waits++;
    const Fiber &f = m.fibers[(size_t)waits];
    const bool warp = f.state == AT_WARP;
    const int first = warp ? waits / LANES * LANES : 0, end = warp ? first + LANES : m.count;
    const std::string block = place(f.here.block), thread = place(f.here.thread);
    const char *kind = warp ? "a warp's exchange" : "a barrier";
    for (int i = first; i < end && i < m.count; i++) {
        const Fiber &other = m.fibers[(size_t)i];
        const std::string who = place(other.here.thread);
        if (other.state == ENDED)
            note_failure(m, "%s:%d: thread %s of block %s waits at %s, and thread %s has ended", f.file, f.line,
                         thread.c_str(), block.c_str(), kind, who.c_str());
        else if (other.file != f.file || other.line != f.line)
            note_failure(m, "%s:%d: thread %s of block %s waits at %s, and thread %s at %s:%d", f.file, f.line,
                         thread.c_str(), block.c_str(), kind, who.c_str(), other.file, other.line);
    }
    note_failure(m, "%s:%d: thread %s of block %s waits at %s, and its warp has fewer than %d threads", f.file, f.line,
                 thread.c_str(), block.c_str(), kind, LANES);
}

/* ---- barriers and exchanges ------------------------------------------------------------------------------------- */

static void wait(Fiber &f, State state, const char *file, int line)
{
    f.state = state, f.file = file, f.line = line;
    to_scheduler();
}

void barrier(const char *file, int line)
{
    Machine &m = machine;
    Fiber &f = m.fibers[(size_t)m.current];
    if (++m.waiting < m.count) {
        wait(f, AT_BLOCK, file, line);
        return;
    }
    for (int i = 0; i < m.count; i++) {
        Fiber &each = m.fibers[(size_t)i];
        if (i != m.current && (each.file != file || each.line != line))
            fail("%s:%d: a barrier that other threads of block %s reached at %s:%d", file, line,
                 place(f.here.block).c_str(), each.file, each.line);
        each.state = READY;
    }
    m.waiting = 0;
}

const char *exchange(const void *value, size_t bytes, const char *file, int line)
{
    Machine &m = machine;
    Fiber &f = m.fibers[(size_t)m.current];
    Warp &w = m.warps[(size_t)m.current / LANES];
    char (*slot)[LARGEST_EXCHANGE] = w.slot[f.exchanges++ % 2];
    memcpy(slot[f.here.lane], value, bytes);
    if (w.waiting == 0) w.file = file, w.line = line;
    if (w.file != file || w.line != line)
        fail("%s:%d: a warp's exchange, while other lanes of block %s are at %s:%d", file, line,
             place(f.here.block).c_str(), w.file, w.line);
    if (++w.waiting < LANES) {
        wait(f, AT_WARP, file, line);
        return slot[0];
    }
    const int first = m.current / LANES * LANES;
    for (int i = first; i < first + LANES; i++) m.fibers[(size_t)i].state = READY;
    w.waiting = 0;
    return slot[0];
}

/* ---- asynchronous copies ---------------------------------------------------------------------------------------- */

static std::vector<std::vector<Copy>> &my_groups() { return machine.fibers[(size_t)machine.current].groups; }

void copy_async(void *shared, const void *global, bool there)
{
    uint16_t *to = (uint16_t *)aligned((uint4 *)shared);
    for (int i = 0; i < 8; i++) to[i] = RED;
    if (my_groups().empty()) my_groups().emplace_back();
    my_groups().back().push_back({ shared, there ? aligned((const uint4 *)global) : nullptr });
}

void close_group() { my_groups().emplace_back(); }

void wait_copies(int pending)
{
    std::vector<std::vector<Copy>> &groups = my_groups();
    if (groups.empty()) return;                                         /* nothing was ever asked for */
    while ((int)groups.size() - 1 > pending) {
        for (const Copy &c : groups[0])
            if (c.from) memcpy(c.to, c.from, sizeof(uint4));
            else        memset(c.to, 0, sizeof(uint4));
        groups.erase(groups.begin());
    }
}

/* ---- shared memory ---------------------------------------------------------------------------------------------- */

static void paint(char *from, size_t bytes)
{
    for (size_t i = 0; i + 1 < bytes; i += 2) memcpy(from + i, &RED, sizeof RED);
}

static bool painted(const char *from, size_t bytes)
{
    for (size_t i = 0; i + 1 < bytes; i += 2)
        if (memcmp(from + i, &RED, sizeof RED)) return false;
    return true;
}

static size_t room(const Machine &m)
{
    size_t sum = 0;
    for (const Shared &a : m.arrays) sum += a.bytes;
    return sum;
}

/* A new array after the others: NaN, and NaN after it to the end of what may be touched by mistake. */
static void *add_array(Machine &m, const void *declaration, const char *name, size_t bytes)
{
    constexpr size_t MOST = 64 * (RED_ZONE + 128) + SHARED_ALL;
    if (!m.memory) m.memory = (char *)aligned_alloc(128, MOST / 128 * 128);
    const size_t begin = (m.used + RED_ZONE + 127) / 128 * 128;
    if (m.arrays.size() >= 64) return nullptr;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(m.memory, MOST / 128 * 128);
#endif
    paint(m.memory + m.used, begin + bytes + RED_ZONE - m.used);
    m.arrays.push_back({ declaration, name, begin, bytes });
    m.used = begin + bytes + (bytes & 1);
#ifdef __SANITIZE_ADDRESS__
    size_t end = 0;
    for (const Shared &a : m.arrays) {
        ASAN_POISON_MEMORY_REGION(m.memory + end, a.begin - end);
        end = a.begin + a.bytes;
    }
    ASAN_POISON_MEMORY_REGION(m.memory + end, MOST / 128 * 128 - end);
#endif
    return m.memory + begin;
}

void *shared(const void *declaration, const char *name, size_t bytes)
{
    Machine &m = machine;
    for (const Shared &a : m.arrays)
        if (a.declaration == declaration) return m.memory + a.begin;
    const size_t before = room(m), dynamic = m.arrays.empty() || m.arrays[0].declaration ? 0 : m.arrays[0].bytes;
    if (before - dynamic + bytes > SHARED_STATIC || before + bytes > m.shared_most)
        fail("shared memory: %s of %zu bytes beside %zu, wanted at most %zu in all, %zu of them static", name, bytes,
             before, m.shared_most, SHARED_STATIC);
    void *found = add_array(m, declaration, name, bytes);
    if (!found) fail("shared memory: %s is the 65th array of its block", name);
    return found;
}

void *shared_dynamic()
{
    Machine &m = machine;
    if (m.arrays.empty() || m.arrays[0].declaration) fail("dynamic shared memory, in a launch that gave it 0 bytes");
    return m.memory + m.arrays[0].begin;
}

/* What lies between the arrays is as it was. */
static void check_zones(Machine &m, dim3 block)
{
    if (m.arrays.empty()) return;
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(m.memory, m.used + RED_ZONE);
#endif
    for (const Shared &a : m.arrays) {
        const size_t end = a.begin + a.bytes + (a.bytes & 1);
        if (!painted(m.memory + a.begin - RED_ZONE, RED_ZONE) || !painted(m.memory + end, RED_ZONE))
            note_failure(m, "shared memory: block %s wrote beyond an end of %s, of %zu bytes", place(block).c_str(),
                         a.name, a.bytes);
    }
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* SplitMix64, G. Steele et al., "Fast splittable pseudorandom number generators", 2014 */
static uint64_t next_random(uint64_t &state)
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void shuffle(std::vector<int> &order, uint64_t &random)
{
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[next_random(random) % i]);
}

static void set_up(Machine &m, const Launch &l, dim3 index)
{
    m.count = (int)(l.block.x * l.block.y * l.block.z);
    m.waiting = m.ended = 0;
    m.failure.clear();
    m.arrays.clear();
    m.used = 0;
    m.shared_most = l.opted_in ? SHARED_ALL : SHARED_STATIC;
    if (l.shared_bytes) add_array(m, nullptr, "the launch's dynamic memory", l.shared_bytes);
    while ((int)m.fibers.size() < m.count) {
        m.fibers.emplace_back();
        begin_life(m.fibers.back());
    }
    m.warps.assign((size_t)(m.count + LANES - 1) / LANES, Warp());
    m.order.resize((size_t)m.count);
    for (int i = 0; i < m.count; i++) {
        Fiber &f = m.fibers[(size_t)i];
        const unsigned u = (unsigned)i;
        f.state = READY;
        f.exchanges = 0;
        f.groups.clear();
        f.here = { dim3(u % l.block.x, u / l.block.x % l.block.y, u / l.block.x / l.block.y), index, l.block, l.grid,
                   i % LANES };
        m.order[(size_t)i] = i;
    }
}

static void run_block(Machine &m, const Launch &l, dim3 index)
{
    set_up(m, l, index);
    while (m.ended < m.count && m.failure.empty()) {
        bool moved = false;
        shuffle(m.order, m.random);
        for (const int i : m.order) {
            if (m.fibers[(size_t)i].state != READY) continue;
            moved = true;
            to_fiber(m, i);
            if (!m.failure.empty()) break;
        }
        if (!moved) note_deadlock(m);
    }
    check_zones(m, index);
    if (m.failure.empty()) return;
    for (int i = 0; i < m.count; i++) begin_life(m.fibers[(size_t)i]);      /* whatever they were at */
}

static void check_launch(const Launch &l)
{
    const uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    CHECK(threads >= 1 && threads <= 1024 && l.block.z <= 64, "cuda-emu: a block of %u x %u x %u threads, wanted 1 to "
          "1024 of them", l.block.x, l.block.y, l.block.z);
    CHECK(l.grid.x >= 1 && l.grid.x <= 0x7fffffff && l.grid.y >= 1 && l.grid.y <= 65535 && l.grid.z >= 1 &&
          l.grid.z <= 65535, "cuda-emu: a grid of %u x %u x %u blocks, wanted 1 to 2147483647 x 65535 x 65535",
          l.grid.x, l.grid.y, l.grid.z);
    CHECK(l.shared_bytes <= SHARED_ALL, "cuda-emu: %zu bytes of dynamic shared memory, wanted at most %zu",
          l.shared_bytes, SHARED_ALL);
}

void launch(const Launch &l, const std::function<void()> &kernel)
{
    check_launch(l);
    const int64_t blocks = (int64_t)l.grid.x * l.grid.y * l.grid.z;
    std::string failure;
#pragma omp parallel for schedule(dynamic) num_threads(l.cpu_threads) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        bool failed;
#pragma omp critical(llmc_emu_failure)
        failed = !failure.empty();
        if (failed) continue;
        /* every second one from the end: nobody may count on blocks running in order */
        const int64_t b = i % 2 ? blocks - 1 - i / 2 : i / 2;
        const dim3 index((unsigned)(b % l.grid.x), (unsigned)(b / l.grid.x % l.grid.y),
                         (unsigned)(b / l.grid.x / l.grid.y));
        Machine &m = machine;
        m.kernel = &kernel;
        m.random = l.seed * 0x9e3779b97f4a7c15u + (uint64_t)b;
        run_block(m, l, index);
        if (m.failure.empty()) continue;
#pragma omp critical(llmc_emu_failure)
        if (failure.empty()) failure = m.failure;
    }
    CHECK(failure.empty(), "cuda-emu: %s", failure.c_str());
}

}
