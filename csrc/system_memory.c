/* system_memory.c -- see system_memory.h */
#include "system_memory.h"
#include "comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t less(size_t a, size_t b) { return a > b ? a - b : 0; }

/* Of a file of lines "name number", the number after this name; name "": the file's first number. False: there is no
 * such file or line, or something else stands there, such as "max". */
static bool read_number(const char *path, const char *name, size_t *number)
{
    char line[256];
    bool found = false;
    FILE *f = fopen(path, "r");
    if (!f) return false;
    while (!found && fgets(line, sizeof line, f)) {
        const size_t length = strlen(name);
        if (strncmp(line, name, length) || (*name && !strchr(" :", line[length]))) continue;
        unsigned long long value;
        found = sscanf(line + length + strspn(line + length, " :"), "%llu", &value) == 1;
        if (found) *number = (size_t)value;
        if (!*name) break;
    }
    fclose(f);
    return found;
}

/* A control group's files: docs.kernel.org, admin-guide/cgroup-v2 and admin-guide/cgroup-v1/memory */
typedef struct { const char *at, *limit, *used, *cached[2]; } GroupFiles;
static const GroupFiles version_1 = { "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                      { "total_inactive_file", "total_active_file" } };
static const GroupFiles version_2 = { "sys/fs/cgroup", "memory.max", "memory.current",
                                      { "inactive_file", "active_file" } };

static void heed_group(const GroupFiles *files, const char *root, const char *group, Memory *m)
{
    char *limit AUTO(auto_free) = text_format("%s/%s%s/%s", root, files->at, group, files->limit),
         *usage AUTO(auto_free) = text_format("%s/%s%s/%s", root, files->at, group, files->used),
         *stat AUTO(auto_free) = text_format("%s/%s%s/memory.stat", root, files->at, group);
    size_t most, used, cached;
    if (!read_number(limit, "", &most) || !read_number(usage, "", &used)) return;
    for (int i = 0; i < 2; i++)                         /* files' pages are given up when memory is asked for */
        if (read_number(stat, files->cached[i], &cached)) used = less(used, cached);
    m->total = smaller(m->total, most);
    m->free = smaller(m->free, less(most, used));
}

/* Lines "ID:controllers:group", without controllers in version 2. A limit holds for all groups below. In a container
 * the file may name a group that is seen from outside only; then what is seen at the top is the container's own. */
static void heed_groups(const char *root, Memory *m)
{
    char *path AUTO(auto_free) = text_format("%s/proc/self/cgroup", root), line[4096];
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(++controllers, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        group[strcspn(group, "\n")] = 0;
        if (*controllers && !strstr(controllers, "memory")) continue;
        for (char *end = group + strlen(group); end; end = strrchr(group, '/')) {
            *end = 0;
            heed_group(*controllers ? &version_1 : &version_2, root, group, m);
        }
    }
    if (f) fclose(f);
}

static void heed_process(const char *root, Memory *m)
{
    char *path AUTO(auto_free) = text_format("%s/proc/self/statm", root);
    struct rlimit limit;
    size_t pages = 0;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return;
    read_number(path, "", &pages);
    m->free = smaller(m->free, less((size_t)limit.rlim_cur, pages * (size_t)sysconf(_SC_PAGESIZE)));
}

Memory system_memory(const char *root)
{
    char *path AUTO(auto_free) = text_format("%s/proc/meminfo", root);
    size_t total = 0, free = 0;
    Memory m;
    if (read_number(path, "MemTotal", &total) && read_number(path, "MemAvailable", &free))
        m = (Memory){ .total = total << 10, .free = free << 10 };
    else
        m.total = m.free = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    heed_groups(root, &m);
    heed_process(root, &m);
    m.free /= (size_t)comm_local_ranks();
    m.reserve = m.free / 16;
    return m;
}
