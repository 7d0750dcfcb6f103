/* SPDX-License-Identifier: Apache-2.0 */
/* Start at node_refresh_stats. A sandbox has one refresh at a time, which whoever comes meanwhile joins; its
 * two halves are a call to nexus-vmm and a job of the worker for numbers. */
#include "pod/stats.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

_Static_assert(STATS_KINDS == NEXUS__CGROUP_STATS__KIND__OPEN_SOCKETS + 1, "kinds");

#define NS_PER_US 1000U
#define NS_PER_S 1000000000ULL
#define HOST_JOB_MS 20000
#define PROC_STAT_MAX 4096

/* Somebody waits for some sandboxes. */
struct stats_wait {
    struct node *node;
    struct list link;    /* in the node */
    struct list waiters; /* one, or none any more */
    sd_event_source *timer;
    size_t pending, n;
    struct stats_part {
        struct list link; /* in the sandbox, while its refresh goes on */
        struct stats_wait *wait;
        struct sandbox *sandbox;
    } parts[];
};

struct sandbox_stats {
    struct list parts; /* struct stats_part */
    struct vmm_call *call;
    struct side_job *job;
    bool late;   /* somebody has waited in vain, and the guest has not answered since */
    bool failed; /* what went on last ended without the guest's answer */
    struct cgroup_numbers guest;
    struct host_numbers host;
};

/* ---- numbers */

const struct cgroup_numbers *container_numbers(const struct container *c)
{
    return c->numbers;
}

const struct cgroup_numbers *sandbox_guest_numbers(const struct sandbox *s)
{
    return s->stats && s->stats->guest.time_ns ? &s->stats->guest : NULL;
}

const struct host_numbers *sandbox_host_numbers(const struct sandbox *s)
{
    return s->stats && s->stats->host.time_ns ? &s->stats->host : NULL;
}

bool numbers_get(const struct cgroup_numbers *n, unsigned kind, uint64_t *ret)
{
    if (!(n->known & (UINT64_C(1) << kind)))
        return false;
    *ret = n->values[kind];
    return true;
}

bool numbers_cpu_ns(const struct cgroup_numbers *n, uint64_t *ret)
{
    uint64_t us;

    return numbers_get(n, STATS(CPU_US), &us) && checked_mul(us, NS_PER_US, ret);
}

bool numbers_working_set(const struct cgroup_numbers *n, uint64_t *ret)
{
    uint64_t all, inactive = 0;

    if (!numbers_get(n, STATS(MEMORY), &all))
        return false;
    (void)numbers_get(n, STATS(MEMORY_INACTIVE_FILE), &inactive);
    *ret = all > inactive ? all - inactive : 0;
    return true;
}

/* A time that goes backwards, or that no machine could use, makes no rate. */
static void rate_update(struct cpu_rate *rate, uint64_t at_ns, uint64_t used_ns)
{
    uint64_t window = at_ns - rate->at_ns;

    if (rate->at_ns && at_ns > rate->at_ns && window < STATS_WINDOW_MS * 1000000ULL)
        return;
    rate->known = false;
    if (rate->at_ns && at_ns > rate->at_ns && used_ns >= rate->used_ns) {
        unsigned __int128 cores = (unsigned __int128)(used_ns - rate->used_ns) * NS_PER_S / window;

        rate->known = cores <= LIMIT_VCPUS * NS_PER_S * 2;
        rate->nano_cores = rate->known ? (uint64_t)cores : 0;
    }
    rate->at_ns = at_ns;
    rate->used_ns = used_ns;
}

static void take(struct cgroup_numbers *n, const Nexus__CgroupStats *m)
{
    size_t count = min_of(m->n_values, (size_t)STATS_KINDS);
    uint64_t used;

    n->time_ns = m->time_ns;
    n->known = count < 64 ? m->known & ((UINT64_C(1) << count) - 1) : m->known;
    memcpy(n->values, m->values, count * sizeof(*n->values));
    if (numbers_cpu_ns(n, &used))
        rate_update(&n->rate, n->time_ns, used);
}

/* ---- waiting */

static void wait_end(struct stats_wait *w)
{
    for (size_t i = 0; i < w->n; i++)
        if (list_is_linked(&w->parts[i].link))
            list_remove(&w->parts[i].link);
    waiters_complete(&w->waiters, &w->node->answers, 0, NULL, NULL);
    list_remove(&w->link);
    sd_event_source_disable_unref(w->timer);
    free(w);
}

static int on_wait_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct stats_wait *w = userdata;

    for (size_t i = 0; i < w->n; i++)
        if (list_is_linked(&w->parts[i].link))
            w->parts[i].sandbox->stats->late = true;
    wait_end(w);
    return 0;
}

static void part_end(struct stats_part *p)
{
    list_remove(&p->link);
    if (--p->wait->pending == 0)
        wait_end(p->wait);
}

static void check_end(struct sandbox *s)
{
    struct sandbox_stats *st = s->stats;

    if (st->call || st->job)
        return;
    if (!st->failed)
        st->late = false;
    while (!list_is_empty(&st->parts))
        part_end(list_first(&st->parts, struct stats_part, link));
}

/* ---- the guest's half */

static struct container *own_container(struct sandbox *s, const char *id)
{
    struct container *c = hashmap_get(&s->node->containers, id);

    return c && c->sandbox == s ? c : NULL;
}

static void on_told(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->stats->call = NULL;
    s->stats->failed = r < 0;
    if (r < 0)
        log_debug("numbers of the guest: %s", error_text(err, r));
    for (size_t i = 0; r >= 0 && state && i < state->n_stats; i++) {
        const Nexus__CgroupStats *m = state->stats[i];
        struct container *c = own_container(s, m->container_id);

        if (!m->container_id[0]) {
            take(&s->stats->guest, m);
        } else if (c) {
            if (!c->numbers)
                c->numbers = xcalloc(1, sizeof(*c->numbers));
            take(c->numbers, m);
        }
    }
    check_end(s);
}

static void ask_guest(struct sandbox *s)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__GetStats body = NEXUS__GET_STATS__INIT;

    if (!s->client || s->hello_pending || !s->guest_ready || s->vm_ended)
        return;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_GET_STATS;
    m.get_stats = &body;
    (void)vmm_client_call(s->client, &m, NULL, 0, STATS_CALL_MS, on_told, s, &s->stats->call, NULL);
}

/* ---- the host's half */

struct host_stats_job {
    struct node *node;
    char *cgroup, *netns; /* owned; NULL: none */
    pid_t pid;
    struct host_numbers numbers;
};

static void job_free(void *payload)
{
    struct host_stats_job *j = payload;

    free(j->cgroup);
    free(j->netns);
    free(j);
}

static uint64_t word(char **save)
{
    const char *w = strtok_r(NULL, " ", save);
    uint64_t v = 0;

    return w && parse_u64(w, UINT64_MAX, &v) == 0 ? v : 0;
}

/* Without a cgroup of its own: the process. Words as of proc(5), after the name. */
static void read_process(struct host_stats_job *j)
{
    _cleanup_(freep) char *path = str_printf("/proc/%d/stat", (int)j->pid);
    _cleanup_(freep) char *text = NULL;
    char *save = NULL, *at;
    uint64_t v[25] = {0};
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK);

    if (file_read_all(AT_FDCWD, path, PROC_STAT_MAX, &text, NULL) < 0)
        return;
    at = strrchr(text, ')');
    if (!at || !strtok_r(at, " ", &save) || !strtok_r(NULL, " ", &save)) /* ")", the state */
        return;
    for (size_t i = 4; i < ARRAY_SIZE(v); i++)
        v[i] = word(&save);
    j->numbers.page_faults = v[10];
    j->numbers.major_page_faults = v[12];
    j->numbers.cpu_us = (v[14] + v[15]) * (1000000 / ticks);
    j->numbers.memory_bytes = j->numbers.memory_rss_bytes = v[24] * (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool read_cgroup(struct host_stats_job *j)
{
    struct cgroup_usage usage = {0};

    if (!j->cgroup || cgroup_fs_mode(j->node->cgroups) != CGROUP_MODE_V2 ||
        cgroup_read_usage(j->node->cgroups, j->cgroup, &usage, NULL) < 0)
        return false;
    j->numbers.cpu_us = usage.cpu_usage_us;
    j->numbers.memory_bytes = usage.memory_current_bytes;
    j->numbers.memory_inactive_file_bytes = usage.memory_inactive_file_bytes;
    j->numbers.memory_rss_bytes = usage.memory_anon_bytes + usage.memory_shmem_bytes;
    j->numbers.page_faults = usage.page_faults;
    j->numbers.major_page_faults = usage.major_page_faults;
    return usage.memory_current_bytes > 0;
}

static int read_host(void *payload, struct error **err)
{
    struct host_stats_job *j = payload;

    if (!read_cgroup(j))
        read_process(j);
    j->numbers.has_net = j->netns && if_counters_read(j->netns, TAP_NAME, &j->numbers.net) == 0;
    j->numbers.time_ns = clock_real_ns();
    return 0;
}

static void on_host_read(void *userdata, void *payload, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    struct host_stats_job *j = payload;
    LOG_SCOPE(pod, "pod", s->id);

    s->stats->job = NULL;
    if (r < 0) {
        log_debug("numbers of the host: %s", error_text(err, r));
    } else {
        j->numbers.rate = s->stats->host.rate;
        s->stats->host = j->numbers;
        rate_update(&s->stats->host.rate, j->numbers.time_ns, j->numbers.cpu_us * NS_PER_US);
    }
    check_end(s);
}

static void ask_host(struct sandbox *s)
{
    static const struct side_job_ops ops = {read_host, on_host_read, job_free};
    struct host_stats_job *j;

    if (s->process.pidfd < 0)
        return;
    j = xcalloc(1, sizeof(*j));
    j->node = s->node;
    j->pid = s->process.pid;
    j->cgroup = s->status.cgroup_path ? str_dup(s->status.cgroup_path) : NULL;
    j->netns = s->status.netns_path ? str_dup(s->status.netns_path) : NULL;
    (void)side_job_start(s->node->stats_worker, &ops, j, "reading the pod's numbers", HOST_JOB_MS,
                         s, &s->stats->job, NULL);
}

/* ---- refreshing */

/* True: it is worth waiting for. */
static bool refresh(struct sandbox *s)
{
    struct sandbox_stats *st = s->stats;

    if (!st) {
        st = s->stats = xcalloc(1, sizeof(*st));
        list_init(&st->parts);
    }
    if (!st->call && !st->job) {
        st->failed = false;
        ask_guest(s);
        ask_host(s);
    }
    return (st->call || st->job) && !st->late;
}

int node_refresh_stats(struct node *n, bool (*wanted)(const struct sandbox *s, const void *arg),
                       const void *arg, waiter_fn fn, void *userdata, struct waiter **ret,
                       struct error **err)
{
    struct stats_wait *w;
    struct sandbox *s = NULL;
    int r = node_require_ready(n, err);

    if (r < 0)
        return r;
    w = xcalloc(1, sizeof(*w) + node_sandbox_count(n) * sizeof(w->parts[0]));
    w->node = n;
    list_init(&w->waiters);
    list_append(&n->stats_waits, &w->link);
    *ret = waiter_new(&w->waiters, fn, userdata);
    while ((s = node_next_sandbox(n, s))) {
        struct stats_part *p = &w->parts[w->n];

        if (!wanted(s, arg) || !sandbox_is_ready(s) || !refresh(s))
            continue;
        p->wait = w;
        p->sandbox = s;
        list_append(&s->stats->parts, &p->link);
        w->n++;
        w->pending++;
    }
    r = w->n ? sd_event_add_time_relative(n->event, &w->timer, CLOCK_MONOTONIC,
                                          STATS_WAIT_MS * 1000ULL, 0, on_wait_over, w)
             : 0;
    if (w->n == 0 || r < 0)
        wait_end(w);
    return 0;
}

void sandbox_stats_free(struct sandbox *s)
{
    struct sandbox_stats *st = s->stats;

    if (!st)
        return;
    vmm_call_cancel(TAKE(st->call));
    side_job_cancel(TAKE(st->job));
    check_end(s);
    free(st);
    s->stats = NULL;
}

void stats_end(struct node *n)
{
    while (!list_is_empty(&n->stats_waits))
        wait_end(list_first(&n->stats_waits, struct stats_wait, link));
}
