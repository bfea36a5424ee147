/* store.h -- checkpoints: folders that are there whole or not at all.
 *
 *     DIR/step_00001000/   model.safetensors  config.json  optimizer.rank0of2.safetensors  state.json  tokenizer.json
 *     DIR/latest -> step_00001000
 *
 * Saving: one process begins, all write their files into the unfinished folder, and when they are done one commits.
 *
 *     char *folder AUTO(checkpoint_discard) = checkpoint_begin(dir, step);
 *     safetensors_write(...);  write_file(...);
 *     checkpoint_commit(&folder, keep);
 *
 * Whatever fails or is killed on the way, the older checkpoints and `latest` stay as they were. */
#ifndef LLMC_STORE_H
#define LLMC_STORE_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* DIR/step_00001000, or while it is written DIR/step_00001000.tmp; free it. */
char   *checkpoint_path(const char *dir, int64_t step, bool finished);
int64_t checkpoint_step(const char *path);      /* of a finished checkpoint's path; -1 for anything else */

/* An empty unfinished folder; a stale one of that name goes. Returns its path. */
char *checkpoint_begin(const char *dir, int64_t step);

/* Sync it, give it its name (one of the same step is replaced), point `latest` to it, and delete what is not kept:
 * unfinished folders, and all but `keep` checkpoints (0: all stay): this one, then those before it, newest first.
 * Those of later steps go first: a run that went back and took another way left them. Ends with *folder NULL. */
void checkpoint_commit(char **folder, int64_t keep);

void checkpoint_discard(char **folder);         /* AUTO(checkpoint_discard): not committed, so removed; never fails */

/* The checkpoint `latest` names, if that is there; else the one of the highest step; NULL if there is none. Free it. */
char *checkpoint_latest(const char *dir);
char *checkpoint_before(const char *path);      /* the one of the highest lower step; NULL if there is none. Free it. */

/* ---- the optimizer's files ----------------------------------------------------------------------------------------
 * Rank r of R writes optimizer.rank<r>of<R>.safetensors: f32 tensors (n) named GROUP/PARAMETER[BEGIN:END], a range of
 * the parameter's elements, row-major. Any number of ranks reads any ranges back. */
char *optimizer_path(const char *folder, int rank, int ranks);                     /* free it */
char *optimizer_name(const char *group, const char *parameter, int64_t begin, int64_t end);      /* free it */

typedef struct OptimizerFiles OptimizerFiles;

/* Opens the files of all ranks; fails if one is missing, or if there are two sets. */
OptimizerFiles *optimizer_open(const char *folder);
void            optimizer_close(OptimizerFiles **files);                           /* AUTO(optimizer_close) */
int             optimizer_ranks(const OptimizerFiles *files);
const char     *optimizer_metadata(const OptimizerFiles *files, const char *key);  /* NULL if it is missing */

/* out (end - begin): elements begin..end of GROUP/PARAMETER, gathered from all files. Fails if one is in none. */
void optimizer_read(const OptimizerFiles *files, const char *group, const char *parameter, int64_t begin, int64_t end,
                    float *out);

#ifdef __cplusplus
}
#endif
#endif
