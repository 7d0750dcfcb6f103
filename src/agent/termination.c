/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/termination.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/watch.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"

#define IDLE_LOOKS_MAX 8

struct termination {
    struct agent *agent;
    char *path; /* owned */
    bool (*fn)(void *userdata);
    void *userdata;
    struct watch *watch; /* owned; NULL during a pause: events of a busy writer cost nothing */
    struct loop_source *pause; /* owned */
    unsigned idle_looks;       /* since the last pause */
    bool emptied;              /* and the pause tells whether that lasts */
    uint8_t *told;             /* owned; NULL: nothing */
    size_t told_len;
};

/* ---- the file */

/* The end of the file in memory of the caller, which may be written while it is read. Bytes or errno. */
static ssize_t read_end(const char *path, uint8_t **ret)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_(freep) uint8_t *bytes = malloc(LIMIT_TERMINATION_BYTES);
    struct stat st;
    ssize_t n;

    if (fd < 0)
        return -errno;
    if (!bytes)
        return -ENOMEM;
    if (fstat(fd, &st) < 0)
        return -errno;
    n = pread_full(
        fd, bytes, LIMIT_TERMINATION_BYTES,
        st.st_size > LIMIT_TERMINATION_BYTES ? (uint64_t)st.st_size - LIMIT_TERMINATION_BYTES : 0);
    if (n >= 0)
        *ret = TAKE(bytes);
    return n;
}

bool termination_read(struct termination *t, const uint8_t **ret, size_t *ret_len)
{
    _cleanup_(freep) uint8_t *bytes = NULL;
    ssize_t n = read_end(t->path, &bytes);

    if (n < 0) {
        log_limited(LOG_WARNING, "termination log: %s", strerror((int)-n));
        return false;
    }
    if ((size_t)n == t->told_len && (n == 0 || memcmp(bytes, t->told, (size_t)n) == 0))
        return false;
    free(t->told);
    t->told = n ? TAKE(bytes) : NULL;
    t->told_len = (size_t)n;
    *ret = t->told;
    *ret_len = t->told_len;
    return true;
}

/* ---- its changes */

static void look(struct termination *t)
{
    /* a few looks for nothing do not make the next change wait */
    if (!t->fn(t->userdata) && ++t->idle_looks < IDLE_LOOKS_MAX)
        return;
    watch_free(TAKE(t->watch));
    loop_timer_set_after_ms(t->pause, TERMINATION_PAUSE_MS);
}

/* "echo text > file" truncates first: that alone is not told, or the host would have nothing if the VM died
 * before the text. Emptiness that lasts is. True: wait. */
static bool is_being_replaced(struct termination *t)
{
    struct stat st;

    if (t->told_len == 0 || stat(t->path, &st) < 0 || st.st_size > 0)
        return false;
    if (!t->emptied)
        loop_timer_set_after_ms(t->pause, TERMINATION_PAUSE_MS);
    t->emptied = true;
    if (++t->idle_looks >= IDLE_LOOKS_MAX)
        watch_free(TAKE(t->watch));
    return true;
}

static void on_change(struct watch *w, void *userdata)
{
    struct termination *t = userdata;

    if (!is_being_replaced(t))
        look(t);
}

/* The watch first, then the look: a change between them is one of the two. */
static void on_pause_over(struct loop_source *s, void *userdata)
{
    struct termination *t = userdata;
    bool lasts = t->emptied;
    int r;

    watch_free(TAKE(t->watch));
    t->emptied = false;
    t->idle_looks = 0;
    r = watch_new(t->agent, t->path, on_change, t, &t->watch);
    if (r < 0) /* the end of the container is still told */
        log_limited(LOG_WARNING, "termination log: %s", strerror(-r));
    else if (lasts || !is_being_replaced(t))
        look(t);
}

void termination_follow(struct termination *t, bool (*fn)(void *userdata), void *userdata)
{
    watch_free(TAKE(t->watch));
    loop_timer_set(t->pause, UINT64_MAX);
    t->fn = fn;
    t->userdata = userdata;
    if (fn)
        on_pause_over(t->pause, t);
}

int termination_new(struct agent *a, const char *path, struct termination **ret)
{
    struct termination *t = calloc(1, sizeof(*t));
    const uint8_t *bytes;
    size_t len;
    int r;

    if (!t)
        return -ENOMEM;
    t->agent = a;
    t->path = str_dup(path);
    r = loop_add_timer(a->loop, on_pause_over, t, &t->pause);
    if (r < 0) {
        termination_free(t);
        return r;
    }
    (void)termination_read(t, &bytes, &len);
    *ret = t;
    return 0;
}

void termination_free(struct termination *t)
{
    if (!t)
        return;
    watch_free(t->watch);
    loop_remove(t->pause);
    free(t->told);
    free(t->path);
    free(t);
}
