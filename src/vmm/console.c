/* SPDX-License-Identifier: Apache-2.0 */
/* A ring between the vCPU threads and the virtio console, which put bytes, and the loop, which writes
 * them out. */
#include "vmm/console.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/limit.h"
#include "base/str.h"
#include "event/loop.h"

#define RING LIMIT_CONSOLE_TAIL_BYTES
#define CHUNK 4096U /* PIPE_BUF: a writable pipe takes so much without blocking */

struct console {
    pthread_mutex_t lock;    /* guards the four below */
    char *ring;              /* RING bytes */
    uint64_t total, written; /* bytes ever put; bytes ever taken out */
    uint64_t dropped;
    bool told; /* the loop knows that bytes are waiting */

    int out_fd; /* borrowed */
    int wake_fd;
    struct loop *loop;
    struct loop_source *wake, *out; /* no out: a regular file is always writable, not watchable */
    bool out_waits;                 /* for out_fd to become writable */
};

/* Up to CHUNK unwritten bytes into buf. */
static size_t take(struct console *c, char *buf)
{
    size_t n;

    (void)pthread_mutex_lock(&c->lock);
    if (c->total - c->written > RING) {
        c->dropped += c->total - c->written - RING;
        c->written = c->total - RING;
    }
    n = (size_t)min_of(c->total - c->written, (uint64_t)CHUNK);
    for (size_t i = 0; i < n; i++)
        buf[i] = c->ring[(c->written + i) % RING];
    c->written += n;
    if (!n)
        c->told = false;
    (void)pthread_mutex_unlock(&c->lock);
    return n;
}

/* False: nothing is left, or the other side is gone. */
static bool write_chunk(struct console *c)
{
    char buf[CHUNK];
    size_t n = take(c, buf);
    ssize_t w;

    if (!n)
        return false;
    do
        w = write(c->out_fd, buf, n);
    while (w < 0 && errno == EINTR);
    if (w == (ssize_t)n)
        return true;
    (void)pthread_mutex_lock(&c->lock);
    c->dropped += n - (size_t)max_of(w, (ssize_t)0);
    (void)pthread_mutex_unlock(&c->lock);
    return w > 0 || errno == EAGAIN;
}

static bool is_writable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

/* One chunk per turn; waits for writability where the file can tell. */
static void on_out(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct console *c = userdata;

    (void)s;
    (void)fd;
    if ((events & LOOP_HANGUP) && !(events & LOOP_WRITE)) {
        loop_io_set(c->out, 0);
        c->out_waits = false;
        return;
    }
    if (write_chunk(c))
        return;
    (void)loop_io_set(c->out, 0);
    c->out_waits = false;
}

static void on_wake(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct console *c = userdata;
    uint64_t n;

    (void)s;
    (void)events;
    if (read(fd, &n, sizeof(n)) < 0)
        return;
    if (c->out && !c->out_waits) {
        c->out_waits = loop_io_set(c->out, LOOP_WRITE) == 0;
        return;
    }
    if (c->out) /* already on its way */
        return;
    while (write_chunk(c)) /* a regular file: bounded by the ring */
        ;
}

int console_new(struct loop *loop, int out_fd, struct console **ret)
{
    _cleanup_(console_freep) struct console *c = xcalloc(1, sizeof(*c));
    struct stat st;
    int r;

    (void)pthread_mutex_init(&c->lock, NULL);
    c->loop = loop;
    c->out_fd = out_fd;
    c->wake_fd = -EBADF;
    c->ring = xcalloc(1, RING);
    if (out_fd >= 0) {
        c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (c->wake_fd < 0)
            return -errno;
        r = loop_add_io(loop, c->wake_fd, LOOP_READ, on_wake, c, &c->wake);
        if (r < 0)
            return r;
        if (fstat(out_fd, &st) < 0)
            return -errno;
        r = S_ISREG(st.st_mode) ? 0 : loop_add_io(loop, out_fd, 0, on_out, c, &c->out);
        if (r < 0)
            return r;
    }
    *ret = TAKE(c);
    return 0;
}

void console_free(struct console *c)
{
    if (!c)
        return;
    if (c->ring && c->out_fd >= 0)
        while (is_writable(c->out_fd) && write_chunk(c))
            ;
    loop_remove(c->wake);
    loop_remove(c->out);
    c->wake_fd = close_fd(c->wake_fd);
    free(c->ring);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

void console_write(struct console *c, const uint8_t *bytes, size_t n)
{
    const uint64_t one = 1;
    bool tell;

    if (!n)
        return;
    (void)pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < n; i++)
        c->ring[(c->total + i) % RING] = (char)bytes[i];
    c->total += n;
    tell = c->out_fd >= 0 && !c->told;
    c->told = c->told || tell;
    (void)pthread_mutex_unlock(&c->lock);
    if (tell && write(c->wake_fd, &one, sizeof(one)) < 0)
        return; /* EAGAIN: it is awake already */
}

void console_put(uint8_t byte, void *console)
{
    console_write(console, &byte, 1);
}

size_t console_tail(struct console *c, char *out, size_t size)
{
    uint64_t have;
    size_t n;

    (void)pthread_mutex_lock(&c->lock);
    have = min_of(c->total, (uint64_t)RING);
    n = (size_t)min_of(have, (uint64_t)size);
    for (size_t i = 0; i < n; i++)
        out[i] = c->ring[(c->total - n + i) % RING];
    (void)pthread_mutex_unlock(&c->lock);
    return n;
}

bool console_find_panic(const char *tail, size_t n, char *out, size_t size)
{
    static const char mark[] = "Kernel panic - not syncing: ";
    const size_t len = sizeof(mark) - 1;
    const char *at = memmem(tail, n, mark, len);
    size_t used = 0;

    if (!at || !size)
        return false;
    for (at += len; at < tail + n && *at != '\n' && *at != '\r' && used + 1 < size; at++)
        out[used++] = *at >= 0x20 && *at < 0x7F ? *at : '?';
    out[used] = 0;
    return true;
}

bool console_panic(struct console *c, char *out, size_t size)
{
    _cleanup_(freep) char *tail = malloc(RING);

    if (!tail)
        return false;
    return console_find_panic(tail, console_tail(c, tail, RING), out, size);
}

uint64_t console_dropped(struct console *c)
{
    uint64_t n;

    (void)pthread_mutex_lock(&c->lock);
    n = c->dropped;
    (void)pthread_mutex_unlock(&c->lock);
    return n;
}
