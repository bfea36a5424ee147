/* files.h -- files and folders: read whole, written whole or not at all, and failing with a sentence. */
#ifndef LLMC_FILES_H
#define LLMC_FILES_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The bytes of a plain file and a zero after them, in a new block; free it. size may be NULL. */
char *read_file(const char *path, size_t *size);

/* The bytes of a plain file, mapped read-only. The file must not be cut while it is viewed; renaming another over it,
 * as NewFile does, is fine. */
typedef struct FileView {
    const void *data;
    size_t      size;
} FileView;

FileView view_file(const char *path);
void     close_view(FileView *view);                  /* AUTO(close_view); an empty one is fine */

/* A file that appears at its path complete, or not at all: written beside it as PATH.tmp, synced, renamed.
 *     NewFile file AUTO(new_file_discard) = new_file(path);
 *     new_file_write(&file, offset, data, size);          any order, any pieces; the file ends after its last byte
 *     new_file_commit(&file);                             without this, the discard removes what was written */
typedef struct NewFile {
    char *path, *beside;
    int   fd;
} NewFile;

NewFile new_file(const char *path);
void    new_file_write(NewFile *file, int64_t offset, const void *data, size_t size);
void    new_file_commit(NewFile *file);
void    new_file_discard(NewFile *file);

void write_file(const char *path, const void *data, size_t size);     /* a NewFile in one call */
void copy_file(const char *from, const char *to);                     /* the same, of a plain file's bytes */

bool path_exists(const char *path);                   /* anything at all, a dangling link included */
bool folder_exists(const char *path);
void make_folders(const char *path);                  /* and those above it; present ones are fine */
bool remove_tree(const char *path);                   /* links are not followed; false and errno if some is left */
void sync_path(const char *path);                     /* a file or a folder: on disk when this returns */
void sync_parent(const char *path);                   /* the folder that path is in */

#ifdef __cplusplus
}
#endif
#endif
