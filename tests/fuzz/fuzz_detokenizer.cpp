// fuzz_detokenizer.cpp -- bytes as a tokenizer.json: every token can be read, or the file is refused with a sentence.
#include "fuzz.h"

#include <cstring>
#include <memory>

#include "detokenizer.h"

struct CloseDetokenizer { void operator()(Detokenizer *d) const { detokenizer_close(d); } };

TARGET(detokenizer)
{
    const std::unique_ptr<Detokenizer, CloseDetokenizer> d(
        detokenizer_parse("tokenizer.json", reinterpret_cast<const char *>(data), size));
    size_t total = 0;
    for (int64_t id = 0; id < detokenizer_vocab_size(d.get()); id++) {
        size_t n;
        const char *bytes = detokenizer_bytes(d.get(), id, &n);
        for (size_t i = 0; i < n; i++) total += bytes[i] != 0;      // the sanitizer watches each being read
    }
    volatile size_t used = total;
    (void)used;
}
