/* SPDX-License-Identifier: Apache-2.0 */
/* CRI log writer: the input is a list of operations; what the log holds must be the bytes written. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "vmm/cri-log-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok)
{
    if (!ok)
        abort();
}

/* Takes the records of a file apart again and adds their content to got[stream]. */
static void read_back(int fd, struct buf got[CRI_STREAM_COUNT])
{
    char *text = NULL;
    size_t len = 0;

    must(lseek(fd, 0, SEEK_SET) == 0);
    must(fd_read_all(fd, 64U << 20, &text, &len) == 0);
    for (size_t at = 0; at < len;) {
        const char *p = text + at, *end = memchr(p, '\n', len - at);
        struct buf *b;

        must(end && end - p >= CRI_RECORD_HEADER_BYTES);
        must(p[29] == 'Z' && p[30] == ' ' && p[37] == ' ' && p[39] == ' ');
        must(memcmp(p + 31, "stdout", 6) == 0 || memcmp(p + 31, "stderr", 6) == 0);
        must(p[38] == 'P' || p[38] == 'F');
        b = &got[p[34] == 'o' ? CRI_STDOUT : CRI_STDERR];
        must(buf_append(b, p + CRI_RECORD_HEADER_BYTES,
                        (size_t)(end - p) - CRI_RECORD_HEADER_BYTES) == 0);
        if (p[38] == 'F')
            must(buf_append(b, "\n", 1) == 0);
        at += (size_t)(end - p) + 1;
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf sent[CRI_STREAM_COUNT], got[CRI_STREAM_COUNT];
    int files[5], n_files = 1;
    struct cri_log *log;

    for (int i = 0; i < CRI_STREAM_COUNT; i++) {
        buf_init(&sent[i], 64U << 20);
        buf_init(&got[i], 64U << 20);
    }
    files[0] = memfd_create("log", MFD_CLOEXEC);
    must(files[0] >= 0 && cri_log_new(dup(files[0]), &log) == 0);
    for (size_t at = 0; at + 2 <= size;) {
        enum cri_stream s = data[at] & 1 ? CRI_STDERR : CRI_STDOUT;
        size_t n = data[at + 1], left = size - at - 2;

        if (data[at] & 2) { /* a long piece of one byte */
            uint8_t *run = malloc(n * 256 + 1);

            must(run != NULL);
            memset(run, 'x', n * 256);
            cri_log_write(log, s, run, n * 256);
            must(buf_append(&sent[s], run, n * 256) == 0);
            free(run);
            n = 0;
        } else if ((data[at] & 4) && n_files < 5) {
            files[n_files] = memfd_create("log", MFD_CLOEXEC);
            must(files[n_files] >= 0 && cri_log_reopen(log, dup(files[n_files])) == 0);
            n_files++;
            n = 0;
        } else {
            n = n < left ? n : left;
            cri_log_write(log, s, data + at + 2, n);
            must(buf_append(&sent[s], data + at + 2, n) == 0);
        }
        at += 2 + n;
    }
    for (int i = 0; i < CRI_STREAM_COUNT; i++) {
        cri_log_end(log, (enum cri_stream)i);
        if (sent[i].used && sent[i].data[sent[i].used - 1] != '\n')
            must(buf_append(&sent[i], "\n", 1) == 0);
    }
    must(cri_log_dropped(log) == 0);
    cri_log_free(log);
    for (int i = 0; i < n_files; i++) {
        read_back(files[i], got);
        close(files[i]);
    }
    for (int i = 0; i < CRI_STREAM_COUNT; i++) {
        must(got[i].used == sent[i].used);
        must(sent[i].used == 0 || memcmp(got[i].data, sent[i].data, sent[i].used) == 0);
        buf_done(&sent[i]);
        buf_done(&got[i]);
    }
    return 0;
}
