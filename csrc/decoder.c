/* decoder.c -- rows, pages, and batches of the model's blocks over them. See decoder.h. */
#include "decoder.h"
#include "model_impl.h"

#include <stdlib.h>
#include <string.h>

typedef struct Row { bool open, called; int64_t length; int32_t *pages; } Row;      /* called: by this call */

/* A call that brings each of so many rows one token gives the device the same work each time: kernels, tensors and
 * arguments are the same, and what differs is sent before. The first such call runs as others do, which settles what
 * an op finds out on its first call; the second is recorded, and replayed like all that follow. The activations lie
 * where the number of rows has them; parameters never move; a workspace that grew does, so its graphs are forgotten.
 * A number of rows has one place, which it may take from another. */
enum { KEPT_GRAPHS = 16 };
typedef struct Recorded { int64_t rows; const void *workspace; void *graph; } Recorded;

struct Decoder {
    Model      *model;              /* on the parameters of another */
    DecoderPlan plan;
    int64_t     most;               /* pages of the longest row */
    void       *memory;             /* the cache, and what is sent */
    Cache       cache;
    Tensor      sent;               /* a call's numbers, which go up in one copy: these tensors and the cache's */
    Tensor      tokens, pos, picked;
    Tensor      zero;               /* a 0 */
    Row        *row;
    int32_t    *pages;              /* of all rows */
    int32_t    *owners;             /* of each page: how many rows hold it */
    int32_t    *free_page;          /* a stack */
    int64_t     free_count;
    char       *host;               /* what sent is to be */
    Recorded    recorded[KEPT_GRAPHS];
    int64_t     replays;
};

/* ------------------------------------------------------------------------------------------------ made and measured */

static int64_t pages_of(int64_t steps) { return (steps + CACHE_PAGE - 1) / CACHE_PAGE; }

size_t decoder_page_bytes(const Config *c, DType dtype)
{
    return (size_t)c->n_layer * CACHE_PAGE * 2 * (size_t)c->n_kv_head * (size_t)c->head_dim *
           dtype_size(activation_type(dtype));
}

/* What is sent for R rows and N tokens */
static void lay_out_call(Decoder *d, Arena *a, int64_t R, int64_t N)
{
    d->tokens = TAKE(a, "tokens", DT_I32, N, 1);
    d->pos    = TAKE(a, "positions", DT_I32, N, 1);
    d->picked = TAKE(a, "last tokens", DT_I32, 1, R);
    d->cache.start  = TAKE(a, "row starts", DT_I32, R + 1);
    d->cache.length = TAKE(a, "row lengths", DT_I32, R);
    d->cache.table  = TAKE(a, "page table", DT_I32, R, d->most);
}

static void lay_out(Decoder *d, Arena *a)
{
    const Config *c = &d->model->cfg;
    Arena call = {0};
    lay_out_call(d, &call, d->plan.rows, d->plan.tokens);
    for (int l = 0; l < c->n_layer; l++)
        d->cache.layer[l] = TAKE(a, "keys and values", d->model->dtype, d->plan.pages, 2 * c->n_kv_head,
                                 CACHE_PAGE, c->head_dim);
    d->zero = TAKE(a, "a zero", DT_I32, 1, 1);
    d->sent = TAKE(a, "a call", DT_U8, (int64_t)call.used);
}

static void free_slot(Decoder **d) { decoder_free(*d); }

static void forget(Decoder *d, Recorded *k)
{
    if (k->graph) d->model->dev->backend->forget(d->model->dev, k->graph);
    *k = (Recorded){0};
}

static void take_host_memory(Decoder *d)
{
    const int64_t R = d->plan.rows, pages = d->plan.pages;
    d->row = xcalloc((size_t)R, sizeof *d->row, "rows");
    d->pages = xcalloc((size_t)(R * d->most), sizeof *d->pages, "rows' pages");
    for (int64_t r = 0; r < R; r++) d->row[r].pages = d->pages + r * d->most;
    d->owners = xcalloc((size_t)pages, sizeof *d->owners, "pages");
    d->free_page = xcalloc((size_t)pages, sizeof *d->free_page, "pages");
    for (int64_t i = 0; i < pages; i++) d->free_page[d->free_count++] = (int32_t)(pages - 1 - i);
    d->cache.layer = xcalloc((size_t)d->model->cfg.n_layer, sizeof *d->cache.layer, "layers");
}

Decoder *decoder_create(Model *of, DecoderPlan plan)
{
    CHECK(of->cfg.head == HEAD_LM, "a decoder for a model with a scalar head, which writes nothing");
    CHECK(plan.rows >= 1 && plan.pages >= 1 && plan.tokens >= 1,
          "a decoder for %d rows, %lld pages and %lld tokens a call; each must be 1 or more", plan.rows,
          (long long)plan.pages, (long long)plan.tokens);
    CHECK(plan.pages <= INT32_MAX / CACHE_PAGE, "a decoder with %lld pages of %d steps; at most %d can be numbered",
          (long long)plan.pages, CACHE_PAGE, INT32_MAX / CACHE_PAGE);
    Decoder *d AUTO(free_slot) = xcalloc(1, sizeof *d, "a decoder");
    d->plan = plan, d->most = pages_of(of->cfg.max_seq_len);
    d->model = model_borrow(of);
    take_host_memory(d);
    Arena a = {0};
    lay_out(d, &a);
    d->host = xcalloc((size_t)numel(d->sent), 1, "a call");
    d->model->cache = &d->cache;
    model_plan(d->model, (Plan){ .B = plan.tokens, .T = 1 });
    d->memory = device_alloc(d->model->dev, a.used, "the cache of keys and values");
    a = (Arena){ .block = d->memory, .size = a.used };
    lay_out(d, &a);
    Decoder *made = d;
    d = NULL;
    return made;
}

void decoder_free(Decoder *d)
{
    if (!d) return;
    for (int i = 0; i < KEPT_GRAPHS; i++) forget(d, &d->recorded[i]);
    if (d->model) device_free(d->model->dev, d->memory);
    model_free(d->model);
    free(d->row);
    free(d->pages);
    free(d->owners);
    free(d->free_page);
    free(d->host);
    free(d->cache.layer);
    free(d);
}

/* ------------------------------------------------------------------------------------------------------------- rows */

static Row *row_of(const Decoder *d, int row)
{
    CHECK(row >= 0 && row < d->plan.rows && d->row[row].open, "row %d of the decoder is not open", row);
    return &d->row[row];
}

int decoder_open(Decoder *d)
{
    for (int r = 0; r < d->plan.rows; r++)
        if (!d->row[r].open) {
            d->row[r].open = true, d->row[r].length = 0;
            return r;
        }
    FAIL("all %d rows of the decoder are open; close one first", d->plan.rows);
}

static void drop_page(Decoder *d, int32_t page)
{
    if (--d->owners[page] == 0) d->free_page[d->free_count++] = page;
}

static int32_t new_page(Decoder *d)
{
    const int32_t page = d->free_page[--d->free_count];
    d->owners[page] = 1;
    return page;
}

static void check_length(const Row *k, int row, int64_t length)
{
    CHECK(length >= 0 && length <= k->length, "the first %lld steps of row %d, which has %lld", (long long)length, row,
          (long long)k->length);
}

int decoder_lend(Decoder *d, int row, int64_t length)
{
    const Row *from = row_of(d, row);
    check_length(from, row, length);
    const int to = decoder_open(d);
    d->row[to].length = length;
    for (int64_t i = 0; i < pages_of(length); i++) d->owners[d->row[to].pages[i] = from->pages[i]]++;
    return to;
}

void decoder_rewind(Decoder *d, int row, int64_t length)
{
    Row *k = row_of(d, row);
    check_length(k, row, length);
    for (int64_t i = pages_of(length); i < pages_of(k->length); i++) drop_page(d, k->pages[i]);
    k->length = length;
}

void decoder_close(Decoder *d, int row)
{
    decoder_rewind(d, row, 0);
    d->row[row].open = false;
}

int64_t decoder_length(const Decoder *d, int row) { return row_of(d, row)->length; }
int64_t decoder_pages_free(const Decoder *d) { return d->free_count; }
int64_t decoder_replays(const Decoder *d) { return d->replays; }

/* The page a row would write to next is there already, but another row's too. */
static bool shares_last(const Decoder *d, const Row *k)
{
    return k->length % CACHE_PAGE && d->owners[k->pages[k->length / CACHE_PAGE]] > 1;
}

int64_t decoder_pages_needed(const Decoder *d, int row, int64_t count)
{
    const Row *k = row_of(d, row);
    return count ? pages_of(k->length + count) - pages_of(k->length) + shares_last(d, k) : 0;
}

/* ----------------------------------------------------------------------------------------------------------- a call */

static void check_input(Decoder *d, const DecoderInput *in)
{
    const Config *c = &d->model->cfg;
    Row *k = row_of(d, in->row);
    CHECK(!k->called, "row %d comes twice in one call of the decoder", in->row);
    k->called = true;
    CHECK(in->count >= 1, "no tokens for row %d; each row of a call brings one or more", in->row);
    CHECK(k->length + in->count <= c->max_seq_len, "%lld tokens more for row %d, which has %lld; the model's "
          "max_seq_len is %d", (long long)in->count, in->row, (long long)k->length, c->max_seq_len);
    for (int64_t t = 0; t < in->count; t++)
        CHECK(in->tokens[t] >= 0 && in->tokens[t] < c->vocab_size, "token %d for row %d; wanted 0 to %d (vocab_size)",
              in->tokens[t], in->row, c->vocab_size - 1);
}

/* The sums over all inputs; two that would copy the same shared page may ask for one more than they take. */
static int64_t check_call(Decoder *d, int count, const DecoderInput *in)
{
    int64_t tokens = 0, pages = 0;
    CHECK(count >= 1 && count <= d->plan.rows, "%d rows in a call of a decoder for %d", count, d->plan.rows);
    for (int r = 0; r < d->plan.rows; r++) d->row[r].called = false;
    for (int i = 0; i < count; i++) {
        check_input(d, &in[i]);
        tokens += in[i].count;
        pages += decoder_pages_needed(d, in[i].row, in[i].count);
    }
    CHECK(tokens <= d->plan.tokens, "%lld tokens in one call of a decoder for %lld", (long long)tokens,
          (long long)d->plan.tokens);
    CHECK(pages <= d->free_count, "the call needs %lld pages of %d steps, and %lld of the cache's %lld are free; close "
          "a row, or give the cache more", (long long)pages, CACHE_PAGE, (long long)d->free_count,
          (long long)d->plan.pages);
    return tokens;
}

/* A row of a table of rows is what embed_forward copies. */
static void copy_page(Decoder *d, int32_t to, int32_t from)
{
    for (int l = 0; l < d->model->cfg.n_layer; l++) {
        const Tensor all = d->cache.layer[l], table = RESHAPE(all, all.dim[0], numel(all) / all.dim[0]);
        embed_forward(d->model->dev, RESHAPE(slice_rows(table, to, 1), 1, 1, last(table)), d->zero, d->zero,
                      slice_rows(table, from, 1), none());
    }
}

static void make_room(Decoder *d, Row *k, int64_t count)
{
    if (shares_last(d, k)) {
        int32_t *page = &k->pages[k->length / CACHE_PAGE];
        const int32_t copy = new_page(d);
        copy_page(d, copy, *page);
        drop_page(d, *page);
        *page = copy;
    }
    for (int64_t i = pages_of(k->length); i < pages_of(k->length + count); i++) k->pages[i] = new_page(d);
}

static int32_t *host_of(const Decoder *d, Tensor t)
{
    return (int32_t *)(d->host + ((char *)t.data - (char *)d->sent.data));
}

/* How many rows want logits */
static int64_t fill(Decoder *d, int count, const DecoderInput *in)
{
    int32_t *tokens = host_of(d, d->tokens), *pos = host_of(d, d->pos), *picked = host_of(d, d->picked),
            *start = host_of(d, d->cache.start), *length = host_of(d, d->cache.length),
            *table = host_of(d, d->cache.table);
    int64_t wanted = 0;
    start[0] = 0;
    for (int i = 0; i < count; i++) {
        const Row *k = &d->row[in[i].row];
        memcpy(tokens + start[i], in[i].tokens, (size_t)in[i].count * sizeof *tokens);
        for (int64_t t = 0; t < in[i].count; t++) pos[start[i] + t] = (int32_t)(k->length + t);
        start[i + 1] = start[i] + (int32_t)in[i].count;
        length[i] = (int32_t)k->length;
        memcpy(table + i * d->most, k->pages, (size_t)d->most * sizeof *table);
        if (in[i].logits) picked[wanted++] = start[i + 1] - 1;
    }
    return wanted;
}

static int64_t send_call(Decoder *d, int count, const DecoderInput *in, int64_t tokens)
{
    Model *m = d->model;
    Arena a = { .block = d->sent.data, .size = tensor_bytes(d->sent) };
    lay_out_call(d, &a, count, tokens);
    const int64_t wanted = fill(d, count, in);
    device_upload(m->dev, slice_elements(d->sent, 0, (int64_t)a.used), d->host);
    m->tokens = d->tokens, m->pos = d->pos;
    return wanted;
}

static void run_blocks(void *model) { model_trunk_forward(model); }

static void run_call(Decoder *d, int64_t rows, int64_t tokens)
{
    Device *device = d->model->dev;
    Recorded *k = &d->recorded[rows % KEPT_GRAPHS];
    if (tokens > rows || !device->backend->record || device->profile || d->plan.no_graphs) {
        run_blocks(d->model);
        return;
    }
    if (k->rows != rows || k->workspace != device->workspace) {
        forget(d, k);
        run_blocks(d->model);
        *k = (Recorded){ .rows = rows, .workspace = device->workspace };
        return;
    }
    if (!k->graph) k->graph = device->backend->record(device, run_blocks, d->model);
    device->backend->replay(device, k->graph);
    d->replays++;
}

/* ln_f's output for the last token of each input that wants logits, side by side in the branch, which no one needs any
 * more; then their logits. */
static void give_logits(Decoder *d, int64_t wanted, float *logits)
{
    Model *m = d->model;
    if (!wanted) return;
    const int64_t C = m->cfg.n_embd;
    const Tensor index = RESHAPE(slice_elements(d->picked, 0, wanted), 1, wanted);
    const Tensor x = slice_rows(m->branch, 0, wanted);
    embed_forward(m->dev, RESHAPE(x, 1, wanted, C), index, index, RESHAPE(m->xf, rows(m->xf), C), none());
    model_download_logits(m, x, logits);
}

void decoder_feed(Decoder *d, int count, const DecoderInput *in, float *logits)
{
    const int64_t tokens = check_call(d, count, in);
    for (int i = 0; i < count; i++) make_room(d, &d->row[in[i].row], in[i].count);
    model_carve(d->model, tokens, 1, false);
    const int64_t wanted = send_call(d, count, in, tokens);
    run_call(d, count, tokens);
    for (int i = 0; i < count; i++) d->row[in[i].row].length += in[i].count;
    give_logits(d, wanted, logits);
}
