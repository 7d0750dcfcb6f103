/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/log-file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"

#define READ_BYTES (64U << 10)

struct log_file {
    char *path; /* owned */
    int fd;     /* owned */
    int watch;  /* owned inotify; -EBADF: no follow */
    struct log_splitter lines;
    uint8_t *in; /* owned, READ_BYTES */
};

static int open_log(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) { /* never wait for a FIFO */
        (void)close_fd(fd);
        return -EINVAL;
    }
    return fd;
}

/* The offset where the last n lines begin; a line is a run of records up to one that is not partial. */
static int find_tail(struct log_file *f, uint64_t n, uint64_t *ret)
{
    _cleanup_(freep) uint64_t *starts = xcalloc(n ? n : 1, sizeof(*starts));
    uint64_t offset = 0, line_start = 0, seen = 0;
    struct log_record rec;
    ssize_t got;
    int r = 0;

    while ((got = read(f->fd, f->in, READ_BYTES)) > 0 && r == 0) {
        r = log_splitter_feed(&f->lines, f->in, (size_t)got);
        while (r == 0 && log_splitter_next(&f->lines, &rec) == 1) {
            offset += f->lines.taken;
            if (rec.partial)
                continue;
            if (n > 0)
                starts[seen % n] = line_start;
            seen++;
            line_start = offset;
        }
    }
    log_splitter_done(&f->lines);
    log_splitter_init(&f->lines);
    if (got < 0)
        return -errno;
    *ret = n == 0 ? line_start : seen <= n ? 0 : starts[seen % n];
    return r;
}

/* The directory is watched for the name coming back, the file for what is appended. */
static int add_watches(struct log_file *f)
{
    _cleanup_(freep) char *dir = str_dup(f->path);
    char *slash = strrchr(dir, '/');

    if (slash)
        slash[slash == dir] = '\0';
    if (inotify_add_watch(f->watch, slash ? dir : ".", IN_CREATE | IN_MOVED_TO | IN_DELETE) < 0)
        return -errno;
    if (inotify_add_watch(f->watch, f->path, IN_MODIFY | IN_MOVE_SELF) < 0 && errno != ENOENT)
        return -errno;
    return 0;
}

int log_file_open(const char *path, uint64_t tail, bool follow, struct log_file **ret,
                  struct error **err)
{
    _cleanup_(log_file_closep) struct log_file *f = xcalloc(1, sizeof(*f));
    uint64_t start = 0;
    int r = 0;

    f->watch = -EBADF;
    f->path = str_dup(path);
    f->in = xcalloc(1, READ_BYTES);
    log_splitter_init(&f->lines);
    f->fd = open_log(path);
    if (f->fd < 0)
        return error_set(err, f->fd, "cannot open the log %s: %s", path,
                         f->fd == -EINVAL ? "not a file" : strerror(-f->fd));
    if (follow) {
        f->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        r = f->watch < 0 ? -errno : add_watches(f);
        if (r < 0)
            return error_set(err, r, "cannot watch the log %s: %s", path, strerror(-r));
    }
    if (tail != UINT64_MAX) {
        r = find_tail(f, tail, &start);
        if (r == 0 && lseek(f->fd, (off_t)start, SEEK_SET) < 0)
            r = -errno;
        if (r < 0)
            return error_set(err, r, "cannot read the log %s: %s", path, strerror(-r));
    }
    *ret = TAKE(f);
    return 0;
}

/* What the open file holds. */
static int read_to_end(struct log_file *f, log_record_fn fn, void *ud)
{
    struct log_record rec;
    ssize_t n;
    int r = 0;

    while (r == 0 && (n = read(f->fd, f->in, READ_BYTES)) != 0) {
        if (n < 0)
            return errno == EINTR ? 0 : -errno;
        r = log_splitter_feed(&f->lines, f->in, (size_t)n);
        while (r == 0 && log_splitter_next(&f->lines, &rec) == 1)
            r = fn(&rec, ud);
    }
    return r;
}

/* Another file at the path, opened; -ENOENT: there is none. */
static int open_newer(struct log_file *f)
{
    struct stat old, now;

    if (stat(f->path, &now) < 0)
        return -ENOENT;
    if (f->fd >= 0 && fstat(f->fd, &old) == 0 && old.st_dev == now.st_dev &&
        old.st_ino == now.st_ino)
        return -ENOENT;
    return open_log(f->path);
}

int log_file_read(struct log_file *f, log_record_fn fn, void *ud)
{
    char events[4096];
    int r, fd;

    while (f->watch >= 0 && read(f->watch, events, sizeof(events)) > 0)
        ;
    r = read_to_end(f, fn, ud);
    while (r == 0 && (fd = open_newer(f)) >= 0) {
        r = read_to_end(f, fn, ud); /* what came between the last read and the renaming */
        (void)close_fd(f->fd);
        f->fd = fd;
        if (f->watch >= 0)
            (void)add_watches(f);
        if (r == 0)
            r = read_to_end(f, fn, ud);
    }
    return r;
}

int log_file_fd(const struct log_file *f)
{
    return f->watch;
}

void log_file_close(struct log_file *f)
{
    if (!f)
        return;
    (void)close_fd(f->fd);
    (void)close_fd(f->watch);
    log_splitter_done(&f->lines);
    free(f->path);
    free(f->in);
    free(f);
}

int log_record_print(const struct log_record *rec, void *ud)
{
    struct log_printer *p = ud;
    FILE *out = rec->stream == 2 ? stderr : stdout;

    if (rec->stream == 2)
        (void)fflush(stdout); /* on one terminal, in order */
    if (p->times && rec->good && !p->inside[rec->stream])
        (void)fprintf(out, "%.*s ", (int)rec->time_len, rec->time);
    p->inside[rec->stream] = rec->partial;
    if (rec->content_len)
        (void)fwrite(rec->content, 1, rec->content_len, out);
    if (!rec->partial)
        (void)fputc('\n', out);
    return ferror(out) ? -EPIPE : 0;
}
