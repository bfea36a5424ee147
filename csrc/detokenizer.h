/* detokenizer.h -- from token numbers back to bytes, by a Hugging Face tokenizer.json of byte-level BPE.
 *
 * In its vocabulary each byte stands as a printable character (A. Radford et al., GPT-2, 2019: 33-126, 161-172 and
 * 174-255 stand for themselves, the other bytes in order for U+0100 and on). Added tokens stand as they are. */
#ifndef LLMC_DETOKENIZER_H
#define LLMC_DETOKENIZER_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct Detokenizer Detokenizer;

/* Fails, naming file and key, if it is not byte-level BPE or a number is out of place. */
Detokenizer *detokenizer_open(const char *path);
Detokenizer *detokenizer_parse(const char *name, const char *text, size_t size);
void         detokenizer_close(Detokenizer *d);                     /* NULL is fine */
int64_t      detokenizer_vocab_size(const Detokenizer *d);          /* highest number + 1 */

/* The bytes of a token, *n of them: not always whole characters, and none for a number that is not in use. */
const char  *detokenizer_bytes(const Detokenizer *d, int64_t id, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
