/* train_data.h -- what a run reads: the training and validation shards, and the tokenizer beside them. */
#ifndef LLMC_TRAIN_DATA_H
#define LLMC_TRAIN_DATA_H

#include "comm.h"
#include "detokenizer.h"
#include "loader.h"
#include "train_settings.h"

typedef struct TrainData {
    Loader      *train, *val;       /* val: NULL without validation shards */
    Detokenizer *words;             /* NULL without a tokenizer.json */
    char        *tokenizer;         /* its path */
    int64_t      T, windows;        /* tokens a row; rows an update, over all ranks */
    bool         windows_follow;    /* from the batch_size: nothing else said how many */
} TrainData;

/* The model that the flags describe for what --data names, and the size of an update. A run that is resumed goes on
 * with as many tokens an update as it had, whatever the number of processes. */
Config train_data_config(TrainData *d, const TrainFlags *flags, const Comm *comm);
/* Opens it all, once batch_size is a number. */
void   train_data_open(TrainData *d, const TrainFlags *flags, const Comm *comm);
void   train_data_close(TrainData *d);

#endif
