/* shards.h -- token shards: files of token ids, mapped into memory and checked when they are opened.
 *
 * NAME_train_000001.bin, NAME_val_000001.bin: a header of 1,024 bytes, then the tokens, all little-endian.
 *     byte  0  i32  magic 0x6c6d6c63            byte 20  i32  vocab_size: every token is below it
 *           4  i32  version 1                        24  u64  fingerprint of tokenizer.json, 0 = unknown
 *           8  i64  number of tokens                 32  i32  token that ends a document, -1 = none
 *          16  i32  bytes a token, 2 or 4            36  zeros
 * In 4-byte shards the top bit marks a token that is read but not learned: as a target it is -1.
 * python/llmc/shards.py writes them. llm.c's files are read as well; their header says no more than the token count:
 * magic 20240520, version 1, u16 tokens of GPT-2, and magic 20240801, version 7, u32 tokens of Llama 3. */
#ifndef LLMC_SHARDS_H
#define LLMC_SHARDS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SHARD_HEADER_BYTES = 1024, SHARD_MAGIC = 0x6c6d6c63, SHARD_VERSION = 1 };

typedef struct Shard {
    char       *path;
    const void *tokens;         /* mapped, count * width bytes */
    int64_t     count;
    int         width;          /* bytes a token */
    uint32_t    mark;           /* the bit that says "read but not learned"; 0 where tokens cannot carry it */
    int64_t     vocab_size;
    uint64_t    fingerprint;
    int64_t     eot;            /* -1: none */
    void       *map;
    size_t      map_bytes;
} Shard;

/* Map the file at `path`, or fail with a sentence. `s` may hold anything before; afterwards, also after a failure,
 * shard_close releases it. A file must not shrink while it is mapped: replace it by renaming another over it. */
void shard_open(Shard *s, const char *path);
void shard_close(Shard *s);                               /* a zeroed shard is fine */
void shard_will_need(const Shard *s, int64_t begin, int64_t count);     /* read these tokens ahead */

/* out[i] = token begin + i without its mark; where it is marked and `as_targets` is set, -1.
 * Returns the position in the shard of the first token >= vocab_size, or -1 when there is none. */
int64_t shard_read(const Shard *s, int32_t *out, int64_t begin, int64_t count, bool as_targets);
int64_t shard_token(const Shard *s, int64_t at);                        /* one token without its mark */
int64_t shard_count_learned(const Shard *s, int64_t begin, int64_t count);      /* tokens without a mark */

/* The paths of `data`, in byte order: one file, a glob, or a folder, of which the files NAME_SPLIT.bin and
 * NAME_SPLIT_000001.bin are taken (split: "train" or "val"). Fails when there are none. Free with shard_paths_free. */
typedef struct ShardPaths { char **path; int64_t count; } ShardPaths;
ShardPaths shard_paths(const char *data, const char *split);
void       shard_paths_free(ShardPaths *paths);
bool       shards_exist(const char *folder, const char *split);

uint64_t fingerprint(const void *bytes, size_t size);     /* FNV-1a, 64 bits */

#ifdef __cplusplus
}
#endif
#endif
