/* plugin.h -- shared libraries that the core opens when something only they can do is asked for. */
#ifndef LLMC_PLUGIN_H
#define LLMC_PLUGIN_H

#include "base.h"

/* The library called `file`, beside libllmc, or else wherever the loader finds it; NULL, and dlerror() says why.
 * everywhere: other libraries may use its symbols, as RTLD_GLOBAL. It is never closed. */
void *plugin_open(const char *file, bool everywhere);

#endif
