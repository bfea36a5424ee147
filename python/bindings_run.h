// bindings_run.h -- a group of processes as the other files of _core see it.
#ifndef LLMC_BINDINGS_RUN_H
#define LLMC_BINDINGS_RUN_H

#include "comm.h"

#include <string>

struct BoundComm {
    Comm *comm;
    BoundComm(const std::string &kind, const std::string &rendezvous, double patience)
        : comm(comm_open(kind.c_str(), rendezvous.empty() ? nullptr : rendezvous.c_str(), patience)) {}
    BoundComm(const BoundComm &) = delete;
    ~BoundComm() { comm_close(comm); }
};

#endif
