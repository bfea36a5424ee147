// bindings_model.h -- the model as the other files of _core see it.
#ifndef LLMC_BINDINGS_MODEL_H
#define LLMC_BINDINGS_MODEL_H

#include "model.h"

#include <string>

// A Model of the core and the shape of its last batch, which slopes must have.
struct BoundModel {
    Model *model = nullptr;
    int64_t B = 0, T = 0;
    BoundModel() = default;
    BoundModel(const BoundModel &) = delete;
    ~BoundModel() { model_free(model); }
};

DType weight_type(const std::string &name);     // of "f32" and "bf16"; fails for others

#endif
