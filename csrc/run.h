/* run.h -- a run's folder: config.json, metrics.jsonl, samples.md, checkpoints/. Rank 0 writes; all read. */
#ifndef LLMC_RUN_H
#define LLMC_RUN_H

#include <stdio.h>

#include "comm.h"
#include "json.h"
#include "optim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Everything beside weights and optimizer that decides the next step; state.json of a checkpoint. */
typedef struct Progress {
    int64_t step;                   /* updates tried */
    int64_t updates;                /* of these, applied */
    int64_t cursor;                 /* the loader's */
    int64_t tokens;                 /* learned from, or skipped */
    int64_t update_tokens;          /* of one update, over all ranks */
    int64_t skips_in_a_row, skipped, rollbacks;
    int64_t metrics_bytes, samples_bytes;           /* what the run's files hold when this is saved */
    uint64_t tokenizer;             /* fingerprint of the shards' */
    Guard   guard;
} Progress;

typedef struct Run {
    char *folder, *checkpoints;
    bool  writes;                   /* this rank does */
    FILE *metrics, *samples;
    int   lock;                     /* the folder, opened and locked: one program trains in it at a time */
} Run;

/* RUN_NEW makes the folder, and fails where a run is; RUN_OVERWRITE removes that; RUN_RESUME fails where none is.
 * data: what it learns from, which cannot be its folder; or NULL. */
typedef enum { RUN_NEW, RUN_OVERWRITE, RUN_RESUME } RunStart;
Run  *run_open(const char *folder, const char *data, RunStart start, Comm *comm);
void  run_close(Run *r);

void  run_metric(Run *r, const char *line);           /* one JSON object */
void  run_sample(Run *r, int64_t step, const char *text, size_t size);

/* Cuts the run's files back to where they stood when the progress was saved; at step 0, moves them to NAME.before. */
void  run_rewind(Run *r, const Progress *p);
void  run_note_sizes(Run *r, Progress *p);

void     progress_write(const Progress *p, const char *folder);
Progress progress_read(const char *folder);

#ifdef __cplusplus
}
#endif
#endif
