/* stream.cpp -- see emu.h: the device's memory, copies, and graphs. Work is done when it is given; what may be late on
 * a GPU is late where it shows: at the wait a copy to the host arrives, and one from the host is looked at again. */
#include "emu.h"

#include <sys/mman.h>

#include "base.h"

namespace emu {

constexpr size_t PAGE = 4096;
constexpr int NOT_YET = 0xff;                   /* bytes of a NaN, in f32 and bf16 */

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void protect(const std::vector<Block> &blocks, int how)
{
    for (const Block &b : blocks)
        CHECK(mprotect(b.start, b.bytes, how) == 0, "cuda-emu: mprotect of %zu bytes failed", b.bytes);
}

Access::Access(const std::vector<Block> &blocks) : blocks(blocks) { protect(blocks, PROT_READ | PROT_WRITE); }
Access::~Access() { protect(blocks, PROT_NONE); }

void refuse_recording(const Stream *s, const char *what, const char *file, int line)
{
    CHECK(!s->recording, "cuda-emu: %s:%d: %s, while a graph is recorded", file, line, what);
}

/* Pages that only kernels and copies may touch, as a GPU's memory: whoever else does stops here with a fault. */
void *take_memory(Stream *s, size_t bytes, const char *file, int line)
{
    refuse_recording(s, "memory is taken", file, line);
    const size_t size = (bytes + PAGE) / PAGE * PAGE;           /* of none too there is one */
    void *block = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) return nullptr;
    s->blocks.push_back({ block, size });
    return block;
}

void give_memory(Stream *s, void *block, const char *file, int line)
{
    refuse_recording(s, "memory is given back", file, line);
    for (size_t i = 0; i < s->blocks.size(); i++)
        if (s->blocks[i].start == block) {
            munmap(block, s->blocks[i].bytes);
            s->blocks.erase(s->blocks.begin() + (ptrdiff_t)i);
            return;
        }
}

static bool is_here(const Stream *s, const void *p)
{
    for (const Block &b : s->blocks)
        if ((const char *)p >= (const char *)b.start && (const char *)p < (const char *)b.start + b.bytes) return true;
    return false;
}

/* ---- work -------------------------------------------------------------------------------------------------------- */

void enqueue(Stream *s, const std::function<void()> &work)
{
    if (s->recording) {
        s->recording->push_back(work);
        return;
    }
    const Access access(s->blocks);
    work();
}

static void start(Stream *s, void *to, const void *from, size_t bytes, size_t stride, size_t count)
{
    std::vector<char> moved(bytes * count);
    for (size_t i = 0; i < count; i++) memcpy(moved.data() + i * bytes, (const char *)from + i * stride, bytes);
    if (is_here(s, to)) {
        memcpy(to, moved.data(), moved.size());
        if (!is_here(s, from)) s->transfers.push_back({ (void *)from, std::move(moved), false });
    } else {
        memset(to, NOT_YET, moved.size());
        s->transfers.push_back({ to, std::move(moved), true });
    }
}

void copy(Stream *s, void *to, const void *from, size_t bytes, size_t stride, size_t count)
{
    if (!bytes || !count) return;
    CHECK(is_here(s, to) || is_here(s, from), "cuda-emu: a copy of %zu bytes from the host to the host, wanted one end "
          "on the device", bytes * count);
    enqueue(s, [=] { start(s, to, from, bytes, stride, count); });
}

void wait(Stream *s, const char *file, int line)
{
    refuse_recording(s, "the host waits", file, line);
    const std::vector<Transfer> ended = std::move(s->transfers);
    s->transfers.clear();
    for (const Transfer &t : ended)
        if (t.to_host) memcpy(t.host, t.bytes.data(), t.bytes.size());
        else CHECK(!memcmp(t.host, t.bytes.data(), t.bytes.size()), "cuda-emu: %s:%d: the host changed %zu bytes that "
                   "were being copied to the device, before it waited for that", file, line, t.bytes.size());
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

Capture::Capture(Stream *s, const char *file, int line) : stream(s), graph(new Graph)
{
    refuse_recording(s, "a recording begins", file, line);
    s->recording = graph.get();
}

Capture::~Capture() { stream->recording = nullptr; }

Graph *Capture::end()
{
    stream->recording = nullptr;
    return graph.release();
}

void replay(Stream *s, const Graph &graph, const char *file, int line)
{
    refuse_recording(s, "a graph is replayed", file, line);
    const Access access(s->blocks);
    for (const std::function<void()> &work : graph) work();
}

}
