/* plugin.c -- see plugin.h */
#define _GNU_SOURCE
#include "plugin.h"
#include "files.h"

#include <dlfcn.h>
#include <string.h>

void *plugin_open(const char *file, bool everywhere)
{
    Dl_info here;
    char *beside AUTO(auto_free) = NULL;
    if (dladdr((void *)plugin_open, &here) && here.dli_fname) {
        const char *slash = strrchr(here.dli_fname, '/');
        if (slash) beside = text_format("%.*s/%s", (int)(slash - here.dli_fname), here.dli_fname, file);
    }
    return dlopen(beside && path_exists(beside) ? beside : file, RTLD_NOW | (everywhere ? RTLD_GLOBAL : RTLD_LOCAL));
}
