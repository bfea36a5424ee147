/* files.c -- see files.h */
#define _GNU_SOURCE     /* nftw */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void auto_close(int *fd)
{
    if (*fd >= 0) close(*fd);
}

static int open_to_read(const char *path, struct stat *about)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);      /* a pipe must not be waited for */
    CHECK(fd >= 0, "cannot open %s: %s", path, strerror(errno));
    if (fstat(fd, about) == 0 && S_ISREG(about->st_mode)) return fd;
    close(fd);
    FAIL("%s is %s, wanted a plain file", path, S_ISDIR(about->st_mode) ? "a folder" : "no plain file");
}

/* Up to size bytes from where fd stands; fewer only at the file's end. */
static size_t read_up_to(int fd, const char *path, char *out, size_t size)
{
    size_t got = 0;
    while (got < size) {
        const size_t piece = size - got < (1u << 30) ? size - got : 1u << 30;
        const ssize_t n = read(fd, out + got, piece);
        if (n < 0 && errno == EINTR) continue;
        CHECK(n >= 0, "cannot read %s: %s", path, strerror(errno));
        if (n == 0) break;
        got += (size_t)n;
    }
    return got;
}

char *read_file(const char *path, size_t *size)
{
    struct stat about;
    int fd AUTO(auto_close) = open_to_read(path, &about);
    const size_t want = (size_t)about.st_size;
    char *text AUTO(auto_free) = malloc(want + 1);
    CHECK(text, "out of memory: %zu bytes for %s", want + 1, path);
    const size_t got = read_up_to(fd, path, text, want);
    CHECK(got == want, "%s: read %zu bytes of %zu; it was cut while it was read", path, got, want);
    text[got] = 0;
    if (size) *size = got;
    char *result = text;
    text = NULL;
    return result;
}

FileView view_file(const char *path)
{
    struct stat about;
    int fd AUTO(auto_close) = open_to_read(path, &about);
    FileView view = { NULL, (size_t)about.st_size };
    if (view.size == 0) return view;
    view.data = mmap(NULL, view.size, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(view.data != MAP_FAILED, "cannot map %s (%zu bytes): %s", path, view.size, strerror(errno));
    return view;
}

void close_view(FileView *view)
{
    if (view->data) munmap((void *)view->data, view->size);
    *view = (FileView){ NULL, 0 };
}

/* ---- files that appear whole ------------------------------------------------------------------------------------ */

NewFile new_file(const char *path)
{
    NewFile file = { NULL, NULL, -1 };
    char *own AUTO(auto_free) = text_format("%s", path);
    char *beside AUTO(auto_free) = text_format("%s.tmp", path);
    file.fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    CHECK(file.fd >= 0, "cannot write %s: %s", path, strerror(errno));
    file.path = own;
    file.beside = beside;
    own = beside = NULL;
    return file;
}

void new_file_write(NewFile *file, int64_t offset, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        const size_t piece = size - done < (1u << 30) ? size - done : 1u << 30;
        const ssize_t n = pwrite(file->fd, (const char *)data + done, piece, (off_t)(offset + (int64_t)done));
        if (n < 0 && errno == EINTR) continue;
        CHECK(n >= 0, "cannot write %s: %s (at byte %lld)", file->path, strerror(errno),
              (long long)(offset + (int64_t)done));
        CHECK(n > 0, "cannot write %s: the system took none of %zu bytes", file->path, piece);
        done += (size_t)n;
    }
}

void new_file_commit(NewFile *file)
{
    CHECK(fsync(file->fd) == 0, "cannot write %s: %s (while syncing)", file->path, strerror(errno));
    const int closed = close(file->fd);
    file->fd = -1;
    CHECK(closed == 0, "cannot write %s: %s (while closing)", file->path, strerror(errno));
    CHECK(rename(file->beside, file->path) == 0, "cannot rename %s to %s: %s", file->beside, file->path,
          strerror(errno));
    free(file->beside);
    file->beside = NULL;
    sync_parent(file->path);
    new_file_discard(file);
}

void new_file_discard(NewFile *file)
{
    if (file->fd >= 0) close(file->fd);
    if (file->beside) unlink(file->beside);
    free(file->beside);
    free(file->path);
    *file = (NewFile){ NULL, NULL, -1 };
}

void write_file(const char *path, const void *data, size_t size)
{
    NewFile file AUTO(new_file_discard) = new_file(path);
    new_file_write(&file, 0, data, size);
    new_file_commit(&file);
}

void copy_file(const char *from, const char *to)
{
    enum { PIECE = 1 << 20 };
    struct stat about;
    int fd AUTO(auto_close) = open_to_read(from, &about);
    char *piece AUTO(auto_free) = xcalloc(PIECE, 1, "copying a file");
    NewFile file AUTO(new_file_discard) = new_file(to);
    int64_t offset = 0;
    for (size_t n; (n = read_up_to(fd, from, piece, PIECE)) > 0; offset += (int64_t)n)
        new_file_write(&file, offset, piece, n);
    new_file_commit(&file);
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

bool path_exists(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0;
}

bool folder_exists(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 && S_ISDIR(about.st_mode);
}

void make_folders(const char *path)
{
    char *part AUTO(auto_free) = text_format("%s", path);
    for (char *end = part; *end;) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        const char kept = *end;
        *end = 0;
        const int why = *part && !folder_exists(part) && mkdir(part, 0777) != 0 ? errno : 0;
        if (why && !folder_exists(part)) {
            FAIL("cannot make the folder %s: %s%s", path, why == EEXIST ? part : strerror(why),
                 why == EEXIST ? " is a file" : "");
        }
        *end = kept;
    }
}

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *place)
{
    (void)about, (void)type, (void)place;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

bool remove_tree(const char *path)
{
    return !path_exists(path) || nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0;
}

void sync_path(const char *path)
{
    int fd AUTO(auto_close) = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0, "cannot open %s: %s", path, strerror(errno));
    /* EINVAL: a file system that has nothing to sync. */
    CHECK(fsync(fd) == 0 || errno == EINVAL, "cannot sync %s: %s", path, strerror(errno));
}

void sync_parent(const char *path)
{
    char *parent AUTO(auto_free) = text_format("%s", path);
    size_t n = strlen(parent);
    while (n > 1 && parent[n - 1] == '/') n--;          /* a trailing slash names no file */
    while (n > 0 && parent[n - 1] != '/') n--;
    while (n > 1 && parent[n - 1] == '/') n--;
    parent[n] = 0;
    sync_path(n ? parent : ".");
}
