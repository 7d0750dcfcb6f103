/* SPDX-License-Identifier: Apache-2.0 */
#include "event/loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/list.h"

#define BATCH 64

enum source_kind { SOURCE_IO, SOURCE_TIMER, SOURCE_DEFER };

struct loop_source {
    struct loop *loop;
    struct list link; /* in loop->sources or loop->dead */
    enum source_kind kind;
    bool dead;
    void *userdata;
    /* io */
    int fd;
    unsigned events;
    bool registered;
    loop_io_fn io_fn;
    /* timer, defer */
    loop_fn fn;
    uint64_t deadline_ns;
    bool armed;
};

struct loop {
    int epfd;
    int wakefd;
    struct list sources; /* IO and idle sources */
    struct list timers;  /* all timers; few per program, so a list will do */
    struct list defers;
    struct list dead;
    void (*wake_fn)(void *);
    void *wake_data;
    bool running;
    int code;
};

int loop_new(struct loop **ret)
{
    struct loop *l = calloc(1, sizeof(*l));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    if (!l)
        return -ENOMEM;
    list_init(&l->sources);
    list_init(&l->timers);
    list_init(&l->defers);
    list_init(&l->dead);
    l->wakefd = -EBADF;
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epfd >= 0)
        l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->epfd < 0 || l->wakefd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev) < 0) {
        int r = -errno;
        loop_free(l);
        return r;
    }
    *ret = l;
    return 0;
}

static void free_list(struct list *head)
{
    while (!list_is_empty(head)) {
        struct loop_source *s = list_first(head, struct loop_source, link);
        list_remove(&s->link);
        free(s);
    }
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    free_list(&l->sources);
    free_list(&l->timers);
    free_list(&l->defers);
    free_list(&l->dead);
    (void)close_fd(l->wakefd);
    (void)close_fd(l->epfd);
    free(l);
}

static struct loop_source *source_new(struct loop *l, enum source_kind kind, void *userdata,
                                      struct list *head)
{
    struct loop_source *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->loop = l;
    s->kind = kind;
    s->userdata = userdata;
    s->fd = -EBADF;
    s->deadline_ns = UINT64_MAX;
    list_append(head, &s->link);
    return s;
}

static uint32_t to_epoll(unsigned events)
{
    return (events & LOOP_READ ? EPOLLIN | EPOLLRDHUP : 0U) | (events & LOOP_WRITE ? EPOLLOUT : 0U);
}

int loop_io_set(struct loop_source *s, unsigned events)
{
    struct epoll_event ev = {.events = to_epoll(events), .data.ptr = s};
    int op;

    if (s->dead || (s->events == events && s->registered == (events != 0)))
        return 0;
    /* with no events asked for, epoll would still report hang-ups: take the fd out */
    op = events == 0 ? EPOLL_CTL_DEL : s->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (op == EPOLL_CTL_DEL && !s->registered)
        return 0;
    if (epoll_ctl(s->loop->epfd, op, s->fd, &ev) < 0)
        return -errno;
    s->registered = events != 0;
    s->events = events;
    return 0;
}

int loop_add_io(struct loop *l, int fd, unsigned events, loop_io_fn fn, void *userdata,
                struct loop_source **ret)
{
    struct loop_source *s = source_new(l, SOURCE_IO, userdata, &l->sources);
    int r;

    if (!s)
        return -ENOMEM;
    s->fd = fd;
    s->io_fn = fn;
    r = loop_io_set(s, events);
    if (r < 0) {
        list_remove(&s->link);
        free(s);
        return r;
    }
    *ret = s;
    return 0;
}

static int add_simple(struct loop *l, enum source_kind kind, loop_fn fn, void *userdata,
                      struct loop_source **ret)
{
    struct loop_source *s =
        source_new(l, kind, userdata, kind == SOURCE_TIMER ? &l->timers : &l->defers);

    if (!s)
        return -ENOMEM;
    s->fn = fn;
    *ret = s;
    return 0;
}

int loop_add_timer(struct loop *l, loop_fn fn, void *userdata, struct loop_source **ret)
{
    return add_simple(l, SOURCE_TIMER, fn, userdata, ret);
}

int loop_add_defer(struct loop *l, loop_fn fn, void *userdata, struct loop_source **ret)
{
    return add_simple(l, SOURCE_DEFER, fn, userdata, ret);
}

void loop_timer_set(struct loop_source *s, uint64_t deadline_ns)
{
    s->deadline_ns = deadline_ns;
}

void loop_timer_set_after_ms(struct loop_source *s, uint64_t ms)
{
    s->deadline_ns = clock_mono_ns() + ms * 1000000ULL;
}

void loop_defer_arm(struct loop_source *s)
{
    s->armed = true;
}

void loop_remove(struct loop_source *s)
{
    if (!s || s->dead)
        return;
    if (s->registered)
        (void)epoll_ctl(s->loop->epfd, EPOLL_CTL_DEL, s->fd, NULL);
    s->registered = false;
    s->dead = true;
    list_remove(&s->link);
    list_append(&s->loop->dead, &s->link);
}

static int wait_ms(struct loop *l, int timeout_ms)
{
    uint64_t first = UINT64_MAX, now;
    struct loop_source *s;

    list_foreach (s, &l->defers, link) {
        if (s->armed)
            return 0;
    }
    list_foreach (s, &l->timers, link) {
        if (s->deadline_ns < first)
            first = s->deadline_ns;
    }
    if (first == UINT64_MAX)
        return timeout_ms;
    now = clock_mono_ns();
    if (first <= now)
        return 0;
    uint64_t ms = (first - now + 999999) / 1000000;
    if (timeout_ms >= 0 && (uint64_t)timeout_ms < ms)
        return timeout_ms;
    return ms > 1000000 ? 1000000 : (int)ms;
}

/* Timers and deferred calls: a callback may remove any source, so the due ones are marked first and
 * the list is walked anew after each call. */
static int run_marked(struct loop *l, struct list *head, bool timers)
{
    uint64_t now = clock_mono_ns();
    struct loop_source *s;
    int count = 0;
    bool again = true;

    list_foreach (s, head, link) {
        if (timers && s->deadline_ns <= now) {
            s->deadline_ns = UINT64_MAX;
            s->armed = true;
        }
        s->events =
            s->armed; /* due in this turn; a call armed from now on waits for the next one */
        s->armed = false;
    }
    while (again) {
        again = false;
        list_foreach (s, head, link) {
            if (!s->events)
                continue;
            s->events = 0;
            s->fn(s, s->userdata);
            count++;
            again = true;
            break;
        }
    }
    (void)l;
    return count;
}

static void drain_wake(struct loop *l)
{
    uint64_t v;
    ssize_t n = read(l->wakefd, &v, sizeof(v));

    (void)n;
    if (l->wake_fn)
        l->wake_fn(l->wake_data);
}

int loop_turn(struct loop *l, int timeout_ms)
{
    struct epoll_event ev[BATCH];
    int n = epoll_wait(l->epfd, ev, BATCH, wait_ms(l, timeout_ms));
    int count = 0;

    if (n < 0 && errno != EINTR)
        return -errno;
    for (int i = 0; i < n; i++) {
        struct loop_source *s = ev[i].data.ptr;
        unsigned events = 0;

        if (!s) {
            drain_wake(l);
            count++;
            continue;
        }
        if (s->dead)
            continue;
        if (ev[i].events & (EPOLLIN | EPOLLRDHUP))
            events |= LOOP_READ;
        if (ev[i].events & EPOLLOUT)
            events |= LOOP_WRITE;
        if (ev[i].events & (EPOLLHUP | EPOLLERR))
            events |= LOOP_HANGUP;
        s->io_fn(s, s->fd, events, s->userdata);
        count++;
    }
    count += run_marked(l, &l->timers, true);
    count += run_marked(l, &l->defers, false);
    free_list(&l->dead);
    return count;
}

int loop_run(struct loop *l)
{
    l->running = true;
    while (l->running) {
        int r = loop_turn(l, -1);
        if (r < 0)
            return r;
    }
    return l->code;
}

void loop_exit(struct loop *l, int code)
{
    l->code = code;
    l->running = false;
}

void loop_set_wake(struct loop *l, void (*fn)(void *), void *userdata)
{
    l->wake_fn = fn;
    l->wake_data = userdata;
}

void loop_wake(struct loop *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wakefd, &one, sizeof(one));

    (void)n; /* EAGAIN: a wake-up is pending already */
}
