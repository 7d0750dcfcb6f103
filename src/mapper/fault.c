/* SPDX-License-Identifier: Apache-2.0 */
/* The handler uses nothing but atomics and system calls. */
#include "mapper/fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/limit.h"

#define PAGE 4096UL

struct watch {
    _Atomic uintptr_t start;
    _Atomic uint64_t bytes; /* 0: not in use; written last when adding, first when removing */
    _Atomic uint64_t replaced;
    _Atomic uint64_t last; /* offset of the page replaced last */
};

static struct watch watches[LIMIT_REGIONS + LIMIT_PARKED + 1];
static pthread_mutex_t watch_lock = PTHREAD_MUTEX_INITIALIZER; /* writers only */
static _Atomic uint64_t replaced;
static _Atomic int notify_fd = -1;

static struct watch *watch_of(uintptr_t at)
{
    for (size_t i = 0; i < sizeof(watches) / sizeof(watches[0]); i++) {
        uint64_t bytes = atomic_load_explicit(&watches[i].bytes, memory_order_acquire);
        uintptr_t start = atomic_load_explicit(&watches[i].start, memory_order_relaxed);

        if (bytes && at >= start && at - start < bytes)
            return &watches[i];
    }
    return NULL;
}

static void note_replaced(struct watch *w, uintptr_t at)
{
    int fd = atomic_load_explicit(&notify_fd, memory_order_relaxed);
    const uint64_t one = 1;

    atomic_store_explicit(&w->last, (at & ~(PAGE - 1)) - w->start, memory_order_relaxed);
    atomic_fetch_add_explicit(&replaced, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->replaced, 1, memory_order_release);
    if (fd >= 0)
        (void)!write(fd, &one, sizeof(one));
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    static const char text[] = "SIGBUS outside of every mapped region\n";
    uintptr_t at = (uintptr_t)info->si_addr;
    struct watch *w = watch_of(at);
    int saved = errno;

    if (info->si_code == BUS_ADRERR && w &&
        mmap((void *)(at & ~(PAGE - 1)), PAGE, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED) {
        note_replaced(w, at);
        errno = saved;
        return;
    }
    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
        errno = saved;
    (void)signal(sig, SIG_DFL); /* the access repeats and ends the process, with a true core */
}

int fault_init(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

    (void)sigemptyset(&sa.sa_mask);
    return sigaction(SIGBUS, &sa, NULL) < 0 ? -errno : 0;
}

void fault_notify(int fd)
{
    atomic_store_explicit(&notify_fd, fd, memory_order_relaxed);
}

int fault_watch(const void *start, uint64_t bytes)
{
    int r = -ENOSPC;

    (void)pthread_mutex_lock(&watch_lock);
    for (size_t i = 0; i < sizeof(watches) / sizeof(watches[0]) && r < 0; i++) {
        if (atomic_load_explicit(&watches[i].bytes, memory_order_relaxed))
            continue;
        atomic_store_explicit(&watches[i].start, (uintptr_t)start, memory_order_relaxed);
        atomic_store_explicit(&watches[i].replaced, 0, memory_order_relaxed);
        atomic_store_explicit(&watches[i].bytes, bytes, memory_order_release);
        r = 0;
    }
    (void)pthread_mutex_unlock(&watch_lock);
    return r;
}

void fault_unwatch(const void *start)
{
    (void)pthread_mutex_lock(&watch_lock);
    for (size_t i = 0; i < sizeof(watches) / sizeof(watches[0]); i++)
        if (atomic_load_explicit(&watches[i].start, memory_order_relaxed) == (uintptr_t)start)
            atomic_store_explicit(&watches[i].bytes, 0, memory_order_release);
    (void)pthread_mutex_unlock(&watch_lock);
}

uint64_t fault_last_in(const void *start, uint64_t *ret_offset)
{
    for (size_t i = 0; i < sizeof(watches) / sizeof(watches[0]); i++) {
        struct watch *w = &watches[i];
        uint64_t count;

        if (!atomic_load_explicit(&w->bytes, memory_order_acquire) ||
            atomic_load_explicit(&w->start, memory_order_relaxed) != (uintptr_t)start)
            continue;
        count = atomic_load_explicit(&w->replaced, memory_order_acquire);
        *ret_offset = atomic_load_explicit(&w->last, memory_order_relaxed);
        return count;
    }
    *ret_offset = 0;
    return 0;
}

uint64_t fault_count_in(const void *start)
{
    uint64_t offset;

    return fault_last_in(start, &offset);
}

uint64_t fault_count(void)
{
    return atomic_load_explicit(&replaced, memory_order_relaxed);
}
