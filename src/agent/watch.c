/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/watch.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/inotify.h>

#include "agent/filter.h"
#include "base/log.h"

static struct watch *find(struct agent *a, int wd)
{
    struct watch *w;

    list_foreach (w, &a->watches, link)
        if (w->wd == wd)
            return w;
    return NULL;
}

static void on_inotify(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    _Alignas(struct inotify_event) char bytes[4096];
    struct agent *a = userdata;
    ssize_t n = read(fd, bytes, sizeof(bytes));
    size_t at = 0;

    while (n > 0 && at + sizeof(struct inotify_event) <= (size_t)n) {
        struct inotify_event e;
        struct watch *w;

        memcpy(&e, bytes + at, sizeof(e));
        at += sizeof(e) + e.len;
        /* IN_IGNORED: the file is gone, which is a change too */
        w = e.mask & (IN_MODIFY | IN_UNMOUNT | IN_IGNORED) ? find(a, e.wd) : NULL;
        if (w)
            w->fn(w, w->userdata);
    }
}

int watch_start(struct agent *a)
{
    a->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (a->watch_fd < 0)
        return -errno;
    return loop_add_io(a->loop, a->watch_fd, LOOP_READ, on_inotify, a, &a->watch_source);
}

static int watch_for(struct agent *a, const char *path, uint32_t mask,
                     void (*fn)(struct watch *, void *), void *userdata, struct watch **ret)
{
    struct watch *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->agent = a;
    w->fn = fn;
    w->userdata = userdata;
    w->wd = inotify_add_watch(a->watch_fd, path, mask);
    if (w->wd < 0) {
        int r = -errno;
        free(w);
        return r;
    }
    list_append(&a->watches, &w->link);
    *ret = w;
    return 0;
}

int watch_new(struct agent *a, const char *path, void (*fn)(struct watch *, void *), void *userdata,
              struct watch **ret)
{
    return watch_for(a, path, IN_MODIFY, fn, userdata, ret);
}

int watch_new_end(struct agent *a, const char *path, void (*fn)(struct watch *, void *),
                  void *userdata, struct watch **ret)
{
    /* IN_UNMOUNT comes unasked; the mask must have something that never happens there */
    return watch_for(a, path, IN_MOVE_SELF | IN_ONLYDIR, fn, userdata, ret);
}

void watch_note_others(struct agent *a)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    if (a->noter_tried || !a->set.guest)
        return;
    a->noter_tried = true;
    r = filter_note_watches(&a->watch_noter, &a->others_watch, &err);
    if (r < 0)
        log_notice("who watches files is not seen: %s", error_text(err, r));
}

bool watch_others_are_noted(const struct agent *a)
{
    return a->others_watch != NULL;
}

bool watch_others_exist(const struct agent *a)
{
    return !a->others_watch || atomic_load_explicit(a->others_watch, memory_order_relaxed) != 0;
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    (void)inotify_rm_watch(w->agent->watch_fd, w->wd);
    list_remove(&w->link);
    free(w);
}
