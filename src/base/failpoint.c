/* SPDX-License-Identifier: Apache-2.0 */
#include "base/failpoint.h"

#ifdef NEXUS_FAILPOINTS

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"

#define POINTS_MAX 32

struct point {
    char name[64];
    char action[48];
    unsigned from, to; /* passes on which it acts */
    atomic_uint passes;
};

static struct point points[POINTS_MAX];
static unsigned point_count;
static pthread_once_t parsed = PTHREAD_ONCE_INIT; /* threads may share a point */

static const struct {
    const char *name;
    int code;
} errnos[] = {{"EIO", EIO},
              {"ENOSPC", ENOSPC},
              {"EMFILE", EMFILE},
              {"ENOMEM", ENOMEM},
              {"EINTR", EINTR},
              {"EAGAIN", EAGAIN},
              {"EBUSY", EBUSY},
              {"ENOENT", ENOENT},
              {"ETIMEDOUT", ETIMEDOUT},
              {"ECONNRESET", ECONNRESET},
              {"EPIPE", EPIPE}};

static void parse_one(char *spec)
{
    char *eq = strchr(spec, '='), *star;
    struct point *p;

    if (!eq || point_count == POINTS_MAX)
        return;
    p = &points[point_count++];
    *eq = '\0';
    p->from = 1;
    p->to = ~0U;
    star = strpbrk(eq + 1, "*+");
    if (star && star > eq + 1 && strspn(eq + 1, "0123456789") == (size_t)(star - eq - 1)) {
        p->from = (unsigned)strtoul(eq + 1, NULL, 10);
        p->to = *star == '*' ? p->from : ~0U;
        eq = star;
    }
    (void)snprintf(p->name, sizeof(p->name), "%s", spec);
    (void)snprintf(p->action, sizeof(p->action), "%s", eq + 1);
}

static void parse_all(void)
{
    const char *env = getenv("NEXUS_FAILPOINTS");
    _cleanup_(freep) char *copy = NULL;
    char *rest, *spec;

    if (!env)
        return;
    rest = copy = str_dup(env);
    while ((spec = strsep(&rest, ";")))
        parse_one(spec);
}

static int act(const char *action)
{
    char arg[32] = "";
    const char *open = strchr(action, '(');

    if (open)
        (void)snprintf(arg, sizeof(arg), "%.*s", (int)strcspn(open + 1, ")"), open + 1);
    if (str_starts(action, "kill")) {
        (void)kill(getpid(), SIGKILL);
        for (;;)
            (void)pause();
    }
    if (str_starts(action, "abort"))
        abort();
    if (str_starts(action, "delay")) {
        long ms = strtol(arg, NULL, 10);
        struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
        (void)nanosleep(&ts, NULL);
        return 0;
    }
    if (str_starts(action, "error")) {
        for (size_t i = 0; i < ARRAY_SIZE(errnos); i++)
            if (strcmp(errnos[i].name, arg) == 0)
                return -errnos[i].code;
        return -EIO;
    }
    return 0;
}

int failpoint_hit(const char *name)
{
    (void)pthread_once(&parsed, parse_all);
    for (unsigned i = 0; i < point_count; i++) {
        struct point *p = &points[i];
        if (strcmp(p->name, name) != 0)
            continue;
        unsigned pass = atomic_fetch_add(&p->passes, 1) + 1; /* threads may share a point */
        if (pass >= p->from && pass <= p->to)
            return act(p->action);
    }
    return 0;
}

#endif
