/* SPDX-License-Identifier: Apache-2.0 */
/* Start at cri_log_write: lines → emit (one record into out) → flush (whole records into the file). */
#include "vmm/cri-log.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "vmm/cri-log-internal.h"

#define OUT_BYTES (64U << 10)      /* records gathered for one write */
#define REOPEN_PATIENCE (1U << 20) /* bytes of one line after which a reopen waits no more */
#define RETRY_NS (1000ULL * 1000 * 1000)

struct line {
    uint8_t *data; /* what waits for its newline; NULL: nothing yet; LIMIT_LOG_CHUNK_BYTES long */
    size_t used;
    bool split;    /* P records of this line were emitted */
    uint64_t lost; /* bytes dropped since the last marker */
};

struct cri_log {
    int fd;          /* -1: no file */
    int next_fd;     /* reopened; waits for the end of a split line; -1: none */
    size_t patience; /* bytes left until next_fd is taken in any case */
    struct line lines[CRI_STREAM_COUNT];
    struct buf out; /* whole records not written yet; empty between calls */
    bool failing;   /* the last write failed with error */
    int error;
    uint64_t retry_at_ns, retry_ns; /* monotonic; span */
    uint64_t dropped;
};

static int check_file(int fd)
{
    struct stat st;
    int flags;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) /* a FIFO or a device could block us for ever */
        return -EINVAL;
    flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if ((flags & O_ACCMODE) == O_RDONLY)
        return -EINVAL;
    return fcntl(fd, F_SETFL, flags | O_APPEND) < 0 ? -errno : 0;
}

int cri_log_new(int fd, struct cri_log **ret)
{
    struct cri_log *log;
    int r = fd >= 0 ? check_file(fd) : 0;

    if (r < 0)
        return r;
    log = calloc(1, sizeof(*log));
    if (!log)
        return -ENOMEM;
    log->fd = fd >= 0 ? fd : -EBADF;
    log->next_fd = -EBADF;
    log->retry_ns = RETRY_NS;
    /* the largest single record fits behind a full gathering */
    buf_init(&log->out, OUT_BYTES + LIMIT_LOG_CHUNK_BYTES + CRI_RECORD_HEADER_BYTES + 1);
    *ret = log;
    return 0;
}

void cri_log_free(struct cri_log *log)
{
    if (!log)
        return;
    (void)close_fd(log->fd);
    (void)close_fd(log->next_fd);
    for (int i = 0; i < CRI_STREAM_COUNT; i++)
        free(log->lines[i].data);
    buf_done(&log->out);
    free(log);
}

void cri_log_set_retry_ns(struct cri_log *log, uint64_t retry_ns)
{
    log->retry_ns = retry_ns;
}

uint64_t cri_log_dropped(const struct cri_log *log)
{
    return log->dropped;
}

static void lose(struct cri_log *log, enum cri_stream stream, size_t bytes)
{
    log->lines[stream].lost += bytes;
    log->dropped += bytes;
}

/* Counts the content of the records at p as lost. Records are known by their newlines: content has
 * none. */
static void lose_records(struct cri_log *log, const uint8_t *p, size_t len)
{
    while (len) {
        const uint8_t *end = memchr(p, '\n', len);
        size_t n = end ? (size_t)(end - p) + 1 : len;
        /* offset 34: stdOut or stdErr; offset 38: the tag; F stands for a newline of the container */
        enum cri_stream stream = p[34] == 'o' ? CRI_STDOUT : CRI_STDERR;

        lose(log, stream, n - CRI_RECORD_HEADER_BYTES - (p[38] == 'F' ? 0 : 1));
        p += n;
        len -= n;
    }
}

static void set_failing(struct cri_log *log, int error)
{
    if (!log->failing)
        log_limited(LOG_WARNING, "cannot write a container log, dropping output: %s",
                    strerror(error));
    log->failing = true;
    log->error = error;
    log->retry_at_ns = clock_mono_ns() + log->retry_ns;
}

/* Cuts a torn record off the end of the file. Ours is the only writer. */
static void cut_torn(int fd, size_t torn)
{
    struct stat st;

    if (torn && fstat(fd, &st) == 0 && st.st_size >= (off_t)torn)
        if (ftruncate(fd, st.st_size - (off_t)torn) < 0)
            log_limited(LOG_WARNING, "cannot cut a torn record off a container log: %s",
                        strerror(errno));
}

/* Writes whole records. Bytes of p that are in the file, always at a record's end; fewer than len:
 * *ret_error says why. */
static size_t write_records(int fd, const uint8_t *p, size_t len, int *ret_error)
{
    size_t done = 0, whole;

    while (done < len) {
        ssize_t n = write(fd, p + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            *ret_error = n < 0 ? errno : ENOSPC;
            break;
        }
        done += (size_t)n;
    }
    if (done == len)
        return len;
    for (whole = done; whole > 0 && p[whole - 1] != '\n'; whole--)
        ;
    cut_torn(fd, done - whole);
    return whole;
}

static void flush(struct cri_log *log)
{
    size_t n;
    int error = 0;

    if (log->out.used == 0)
        return;
    n = write_records(log->fd, log->out.data, log->out.used, &error);
    if (n < log->out.used) {
        set_failing(log, error);
        lose_records(log, log->out.data + n, log->out.used - n);
    }
    buf_clear(&log->out);
}

static size_t format_header(char *out, enum cri_stream stream, char tag)
{
    clock_format_rfc3339(clock_real_ns(), out);
    (void)snprintf(out + CLOCK_RFC3339_SIZE - 1, 16, " %s %c ",
                   stream == CRI_STDOUT ? "stdout" : "stderr", tag);
    return CRI_RECORD_HEADER_BYTES;
}

/* After a failure: the markers first. They are written by themselves, so that a second failure loses
 * nothing of the count. True if output may follow. */
static bool recover(struct cri_log *log, bool now)
{
    if (!log->failing)
        return true;
    if (!now && clock_mono_ns() < log->retry_at_ns)
        return false;
    for (int s = 0; s < CRI_STREAM_COUNT; s++) {
        struct line *line = &log->lines[s];
        char record[256];
        size_t len;
        int n, error = 0;

        if (line->lost == 0)
            continue;
        len = format_header(record, (enum cri_stream)s, 'F');
        n = snprintf(record + len, sizeof(record) - len,
                     "[nexus-vmm: %llu bytes of output lost: %s]\n", (unsigned long long)line->lost,
                     strerror(log->error));
        if (n < 0 || (size_t)n >= sizeof(record) - len)
            return false;
        len += (size_t)n;
        if (write_records(log->fd, (const uint8_t *)record, len, &error) < len) {
            set_failing(log, error);
            return false;
        }
        line->lost = 0;
        line->split = false; /* the marker's F closed the line */
    }
    log->failing = false;
    return true;
}

static void take_next(struct cri_log *log)
{
    flush(log);
    (void)close_fd(log->fd);
    log->fd = TAKE_FD(log->next_fd);
    (void)recover(log, /* now= */ true); /* the new file may well work */
}

static bool in_split_line(const struct cri_log *log)
{
    return log->lines[CRI_STDOUT].split || log->lines[CRI_STDERR].split;
}

static void emit(struct cri_log *log, enum cri_stream stream, char tag, const uint8_t *p,
                 size_t len)
{
    struct line *line = &log->lines[stream];
    char header[64];

    if (log->next_fd >= 0 && tag == 'P') {
        if (log->patience < len)
            tag = 'F'; /* the line never ends: break it here */
        else
            log->patience -= len;
    }
    if (log->fd < 0) {
        line->split = false;
        return;
    }
    if (!recover(log, /* now= */ false)) {
        lose(log, stream, len + (tag == 'F'));
        line->split = false;
    } else {
        size_t n = format_header(header, stream, tag);

        /* cannot fail: out has room for one record beyond OUT_BYTES */
        if (buf_append(&log->out, header, n) < 0 || buf_append(&log->out, p, len) < 0 ||
            buf_append(&log->out, "\n", 1) < 0) {
            buf_clear(&log->out);
            set_failing(log, ENOMEM);
            lose(log, stream, len);
        }
        line->split = tag == 'P';
        if (log->out.used >= OUT_BYTES)
            flush(log);
    }
    if (log->next_fd >= 0 && !in_split_line(log))
        take_next(log);
}

/* Keeps the beginning of a line until its rest comes. */
static void keep(struct cri_log *log, enum cri_stream stream, const uint8_t *p, size_t len)
{
    struct line *line = &log->lines[stream];

    if (!line->data)
        line->data = malloc(LIMIT_LOG_CHUNK_BYTES);
    if (!line->data) { /* no memory: a line may be split anywhere */
        emit(log, stream, 'P', p, len);
        return;
    }
    memcpy(line->data + line->used, p, len);
    line->used += len;
}

/* A piece of a line, without its newline. */
static void add_piece(struct cri_log *log, enum cri_stream stream, const uint8_t *p, size_t len)
{
    struct line *line = &log->lines[stream];

    while (len) {
        size_t room = LIMIT_LOG_CHUNK_BYTES - line->used;
        size_t n = len < room ? len : room;

        if (room == 0) { /* full and more to come */
            line->used = 0;
            emit(log, stream, 'P', line->data, LIMIT_LOG_CHUNK_BYTES);
        } else if (line->used == 0 && len > LIMIT_LOG_CHUNK_BYTES) {
            emit(log, stream, 'P', p, LIMIT_LOG_CHUNK_BYTES);
            p += LIMIT_LOG_CHUNK_BYTES;
            len -= LIMIT_LOG_CHUNK_BYTES;
        } else {
            keep(log, stream, p, n);
            p += n;
            len -= n;
        }
    }
}

static void end_line(struct cri_log *log, enum cri_stream stream)
{
    struct line *line = &log->lines[stream];
    size_t used = line->used;

    line->used = 0;
    emit(log, stream, 'F', line->data, used);
}

void cri_log_write(struct cri_log *log, enum cri_stream stream, const void *bytes, size_t len)
{
    struct line *line = &log->lines[stream];
    const uint8_t *p = bytes;

    while (len) {
        const uint8_t *end = memchr(p, '\n', len);
        size_t n = end ? (size_t)(end - p) : len;

        if (end && line->used == 0 && n <= LIMIT_LOG_CHUNK_BYTES) {
            emit(log, stream, 'F', p, n); /* the common case: a whole line, not copied twice */
        } else {
            add_piece(log, stream, p, n);
            if (end)
                end_line(log, stream);
        }
        n += end ? 1 : 0;
        p += n;
        len -= n;
    }
    flush(log);
}

void cri_log_end(struct cri_log *log, enum cri_stream stream)
{
    struct line *line = &log->lines[stream];

    if (log->failing)
        (void)recover(log, /* now= */ true);
    if (line->used || line->split)
        end_line(log, stream);
    flush(log);
    if (log->failing)
        (void)recover(log, /* now= */ true);
    free(TAKE(line->data));
}

int cri_log_reopen(struct cri_log *log, int fd)
{
    int r = check_file(fd);

    if (r < 0)
        return r;
    (void)close_fd(log->next_fd);
    log->next_fd = fd;
    log->patience = REOPEN_PATIENCE;
    if (log->failing || !in_split_line(log))
        take_next(log);
    return 0;
}
