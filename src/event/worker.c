/* SPDX-License-Identifier: Apache-2.0 */
#include "event/worker.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/str.h"

#define JOIN_PATIENCE_S 2

struct worker {
    sd_event_source *io; /* owned */
    int event_fd;        /* owned; readable: something is in done */
    pthread_t thread;
    bool started;
    unsigned count; /* jobs not told yet; the loop's */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    struct list todo, done;
    bool quit;
};

static struct worker_job *take_first(struct list *l)
{
    struct worker_job *job = list_is_empty(l) ? NULL : list_first(l, struct worker_job, node);

    if (job)
        list_remove(&job->node);
    return job;
}

static void *thread_main(void *arg)
{
    struct worker *w = arg;

    (void)pthread_mutex_lock(&w->lock);
    while (!w->quit) {
        struct worker_job *job = take_first(&w->todo);
        uint64_t one = 1;

        if (!job) {
            (void)pthread_cond_wait(&w->wake, &w->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&w->lock);
        job->work(job);
        (void)pthread_mutex_lock(&w->lock);
        list_append(&w->done, &job->node);
        (void)!write(w->event_fd, &one, sizeof(one));
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void tell(struct worker *w, struct list *from, bool cancel)
{
    for (;;) {
        struct worker_job *job;

        (void)pthread_mutex_lock(&w->lock);
        job = take_first(from);
        (void)pthread_mutex_unlock(&w->lock);
        if (!job)
            return;
        w->count--;
        job->done(job, job->cancelled || cancel); /* may submit another one */
    }
}

static int on_done(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    uint64_t n;

    (void)!read(fd, &n, sizeof(n));
    tell(userdata, &((struct worker *)userdata)->done, false);
    return 0;
}

sd_event *worker_event(const struct worker *w)
{
    return sd_event_source_get_event(w->io);
}

int worker_wait(struct worker *w, unsigned timeout_ms)
{
    struct pollfd p = {.fd = w->event_fd, .events = POLLIN};
    int n = poll(&p, 1, (int)timeout_ms);

    if (n <= 0)
        return n < 0 ? -errno : -ETIMEDOUT;
    return on_done(w->io, w->event_fd, POLLIN, w);
}

int worker_new(sd_event *event, struct worker **ret, struct error **err)
{
    struct worker *w = xcalloc(1, sizeof(*w));
    int r;

    list_init(&w->todo);
    list_init(&w->done);
    (void)pthread_mutex_init(&w->lock, NULL);
    (void)pthread_cond_init(&w->wake, NULL);
    w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = w->event_fd < 0 ? -errno : sd_event_add_io(event, &w->io, w->event_fd, EPOLLIN, on_done, w);
    if (r < 0) {
        worker_free(w);
        return error_set(err, r, "cannot set up a worker: %s", strerror(-r));
    }
    *ret = w;
    return 0;
}

/* False: it is still at work. */
static bool end_thread(struct worker *w)
{
    struct timespec until;

    if (!w->started)
        return true;
    (void)pthread_mutex_lock(&w->lock);
    w->quit = true;
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += JOIN_PATIENCE_S;
    return pthread_timedjoin_np(w->thread, NULL, &until) == 0;
}

void worker_free(struct worker *w)
{
    bool ended;

    if (!w)
        return;
    ended = end_thread(w);
    w->io = sd_event_source_disable_unref(w->io);
    tell(w, &w->done, true);
    tell(w, &w->todo, true);
    if (!ended) /* the process ends, and the thread with it */
        return;
    (void)close_fd(w->event_fd);
    (void)pthread_mutex_destroy(&w->lock);
    (void)pthread_cond_destroy(&w->wake);
    free(w);
}

/* No signal is the thread's: the loop takes them all. */
static int start_thread(struct worker *w)
{
    sigset_t all, before;
    int r;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&w->thread, NULL, thread_main, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    w->started = r == 0;
    return r;
}

int worker_start(struct worker *w, struct error **err)
{
    int r = w->started ? 0 : start_thread(w);

    return r < 0 ? error_set(err, r, "cannot start a thread: %s", strerror(-r)) : 0;
}

int worker_submit(struct worker *w, struct worker_job *job, struct error **err)
{
    int r;

    if (w->count >= WORKER_JOBS_MAX)
        return error_set(err, -EAGAIN, "%u jobs wait for the thread already", w->count);
    r = worker_start(w, err);
    if (r < 0)
        return r;
    job->cancelled = false;
    w->count++;
    (void)pthread_mutex_lock(&w->lock);
    list_append(&w->todo, &job->node);
    (void)pthread_cond_signal(&w->wake);
    (void)pthread_mutex_unlock(&w->lock);
    return 0;
}

void worker_cancel(struct worker_job *job)
{
    if (job)
        job->cancelled = true;
}
