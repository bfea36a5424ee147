/* loader_threads.c -- the loader's thread under a sanitizer: taken, sought, skipped and closed at every moment.
 * Usage: loader_threads SHARD. Exits 1 if a batch differs from the one made without a thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loader.h"

enum { B = 3, T = 17, UPDATES = 12 };

static Loader *open_with(const char *path, int64_t prefetch)
{
    const LoaderConfig c = { .data = path, .B = B, .T = T, .update_windows = 4 * B, .seed = 7, .shuffle = true,
                             .document_mask = true, .prefetch = prefetch };
    return loader_open(&c);
}

static uint64_t sum_of(Batch b)
{
    uint64_t sum = (uint64_t)b.target_count;
    const int32_t *const arrays[] = { b.tokens, b.targets, b.pos, b.first };
    for (size_t a = 0; a < COUNT_OF(arrays); a++)
        for (int64_t i = 0; i < B * T; i++) sum = sum * 31 + (uint32_t)arrays[a][i];
    return sum;
}

static bool same(Loader *plain, Loader *threaded)
{
    Batch a, b;
    if (loader_count_targets(plain) != loader_count_targets(threaded)) return false;
    loader_next(plain, &a);
    loader_next(threaded, &b);
    const uint64_t sum = sum_of(b);
    loader_count_targets(threaded);             /* waits until the batch after it is made */
    return sum == sum_of(a) && sum == sum_of(b) && loader_cursor(plain) == loader_cursor(threaded);
}

int main(int argc, char **argv)
{
    set_fail_handler(fail_and_exit);
    CHECK(argc == 2, "usage: loader_threads SHARD");
    for (int64_t prefetch = 1; prefetch < 7; prefetch++) {
        Loader *plain = open_with(argv[1], 0), *threaded = open_with(argv[1], prefetch);
        for (int64_t update = 0; update < UPDATES; update++) {
            for (int64_t batch = 0; batch < 1 + update % 6; batch++)
                CHECK(same(plain, threaded), "prefetch %d, update %d, batch %d differs", (int)prefetch, (int)update,
                      (int)batch);
            if (update % 3 == 0) loader_seek(plain, 5 * update), loader_seek(threaded, 5 * update);
        }
        loader_close(plain);
        loader_close(threaded);
    }
    return 0;
}
