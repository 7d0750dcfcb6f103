/* SPDX-License-Identifier: Apache-2.0 */
/* The reader of CRI logs: any bytes, in pieces whose sizes the input chooses; what comes out are the lines
 * of the input, one by one. */
#include <stdlib.h>
#include <string.h>

#include "cli/log-line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct log_splitter s;
    struct log_record rec, again;
    size_t fed = 0, seen = 0;

    log_splitter_init(&s);
    while (fed < size) {
        size_t step = (size_t)(data[fed] & 31) + 1;

        if (step > size - fed)
            step = size - fed;
        if (log_splitter_feed(&s, data + fed, step) < 0)
            abort();
        fed += step;
        while (log_splitter_next(&s, &rec) == 1) {
            size_t len = s.taken - 1;

            if (data[seen + len] != '\n' || (len && memchr(data + seen, '\n', len)))
                abort();
            log_record_parse(data + seen, len, &again);
            if (again.good != rec.good || again.stream != rec.stream ||
                again.content_len != rec.content_len ||
                (rec.content_len && memcmp(again.content, rec.content, rec.content_len) != 0))
                abort();
            seen += len + 1;
        }
        if (log_splitter_rest(&s) != fed - seen)
            abort();
    }
    log_splitter_done(&s);
    return 0;
}
