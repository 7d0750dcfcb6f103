/* SPDX-License-Identifier: Apache-2.0 */
/* UpdateContainerResources, UpdatePodSandboxResources: within what the VM has. No plan: the guest is told,
 * then the record says so, then the caller is answered; a crash in between leaves the older record, which
 * the caller finds and asks again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

#define MESSAGE_BYTES (256U << 10)
#define MIB (1024ULL * 1024)
#define QUOTA_PERIOD_US 100000

struct resize {
    struct node *node;
    struct list waiters; /* one; empty: it left */
    char id[LIMIT_ID_MAX + 1];
    struct resources_spec resources; /* owned; of the container, as they are to be */
};

static void answer(struct resize *z, int r, const struct error *err)
{
    waiters_complete(&z->waiters, &z->node->answers, r < 0 ? r : 0, err, z->id);
    record_clear(&resources_spec_desc, &z->resources);
    free(z);
}

static struct resize *resize_new(struct node *n, const char *id)
{
    struct resize *z = xcalloc(1, sizeof(*z));

    z->node = n;
    (void)snprintf(z->id, sizeof(z->id), "%s", id);
    list_init(&z->waiters);
    return z;
}

/* ---- what the VM has */

static int no_room(const struct sandbox *s, const char *what, struct error **err)
{
    return error_set_class(
        err, ERROR_EXHAUSTED, -ENOSPC,
        "%s is more than the pod's VM has (%u CPUs, %llu MiB), and it cannot grow while it runs",
        what, s->status.cpus, (unsigned long long)(s->status.memory_bytes / MIB));
}

/* The highest number in a list like "0-2,5"; its form was checked. */
static uint32_t last_cpu(const char *list)
{
    uint32_t last = 0;

    while (*list) {
        last = max_of(last, (uint32_t)strtoul(list, NULL, 10));
        list += strcspn(list, ",-");
        list += *list != '\0';
    }
    return last;
}

static int check_room(const struct sandbox *s, const struct resources_spec *r, uint64_t extra,
                      struct error **err)
{
    uint64_t memory;

    if (!checked_add((uint64_t)r->memory_limit_bytes, extra, &memory) ||
        (r->memory_limit_bytes && memory > s->status.memory_bytes))
        return no_room(s, "that memory limit", err);
    if (r->cpu_quota_us > 0 && r->cpu_period_us > 0 &&
        (r->cpu_quota_us - 1) / r->cpu_period_us >= (int64_t)s->status.cpus)
        return no_room(s, "that CPU quota", err);
    if (r->cpuset_cpus && last_cpu(r->cpuset_cpus) >= s->status.cpus)
        return no_room(s, "that set of CPUs", err);
    return 0;
}

/* ---- a container */

static void take_number(int64_t *to, int64_t from)
{
    if (from)
        *to = from;
}

static void take_text(char **to, char **from)
{
    if (!*from)
        return;
    free(*to);
    *to = TAKE(*from);
}

/* What is set in want, in place of what there is. Takes strings out of want. */
static void merge(struct resources_spec *to, struct resources_spec *want)
{
    take_number(&to->cpu_period_us, want->cpu_period_us);
    take_number(&to->cpu_quota_us, want->cpu_quota_us);
    take_number(&to->cpu_shares, want->cpu_shares);
    take_number(&to->memory_limit_bytes, want->memory_limit_bytes);
    take_number(&to->memory_swap_limit_bytes, want->memory_swap_limit_bytes);
    take_number(&to->oom_score_adj, want->oom_score_adj);
    take_text(&to->cpuset_cpus, &want->cpuset_cpus);
    take_text(&to->cpuset_mems, &want->cpuset_mems);
    if (to->memory_swap_limit_bytes > 0 && to->memory_swap_limit_bytes < to->memory_limit_bytes)
        to->memory_swap_limit_bytes = to->memory_limit_bytes;
}

static void on_saved(void *userdata, int r, const struct error *err)
{
    answer(userdata, r, err);
}

static void on_updated(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct resize *z = userdata;
    struct container *c = hashmap_get(&z->node->containers, z->id);
    _cleanup_(error_freep) struct error *why = NULL;
    LOG_SCOPE(container, "container", z->id);

    if (r < 0 || !c) { /* without it: nobody will ask for its limits */
        answer(z, r, err);
        return;
    }
    record_clear(&resources_spec_desc, &c->spec.resources);
    c->spec.resources = z->resources;
    z->resources = (struct resources_spec){0};
    log_info("container %s has new limits", c->spec.name);
    r = container_save(c, c->state, false, on_saved, z, NULL, &why);
    if (r < 0)
        answer(z, r, why);
}

static int tell_guest(struct container *c, struct resize *z, struct error **err)
{
    _cleanup_(arena_freep) struct arena *a = arena_new(MESSAGE_BYTES);
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__UpdateResources body = NEXUS__UPDATE_RESOURCES__INIT;

    body.container_id = c->id;
    body.resources = guest_resources(a, &z->resources);
    if (!body.resources)
        return error_set(err, -ENOMEM, "no memory for a request to the guest");
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_UPDATE_RESOURCES;
    m.update_resources = &body;
    return vmm_client_call(c->sandbox->client, &m, NULL, 0, REQUEST_TIMEOUT_MS, on_updated, z, NULL,
                           err);
}

static int find_resizable(struct node *n, const char *id, struct container **ret,
                          struct error **err)
{
    int r = node_find_container(n, id, ret, err);
    struct sandbox *s;

    if (r < 0)
        return r;
    s = (*ret)->sandbox;
    if ((*ret)->state != CONTAINER_CREATED && (*ret)->state != CONTAINER_RUNNING)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE,
                               "container %s is %s: its limits cannot be changed", (*ret)->id,
                               container_state_name((*ret)->state));
    if (!s->client || s->hello_pending || s->vm_ended)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN,
                               "nexus-vmm of container %s is not connected at the moment", id);
    return 0;
}

static int update_container(struct node *n, const char *id, struct resources_spec *want,
                            waiter_fn fn, void *userdata, struct waiter **ret, struct error **err)
{
    struct container *c = NULL;
    struct resize *z;
    int r = find_resizable(n, id, &c, err);

    if (r < 0)
        return r;
    z = resize_new(n, c->id);
    record_copy(&resources_spec_desc, &c->spec.resources, &z->resources);
    merge(&z->resources, want);
    r = check_room(c->sandbox, &z->resources, 0, err);
    if (r >= 0)
        r = tell_guest(c, z, err);
    if (r < 0) {
        record_clear(&resources_spec_desc, &z->resources);
        free(z);
        return r;
    }
    *ret = waiter_new(&z->waiters, fn, userdata);
    return 0;
}

int node_update_container(struct node *n, const char *id, struct resources_spec *want, waiter_fn fn,
                          void *userdata, struct waiter **ret, struct error **err)
{
    int r = update_container(n, id, want, fn, userdata, ret, err);

    record_clear(&resources_spec_desc, want);
    return r;
}

/* ---- a sandbox: the cgroup of its VM, as the host has it */

struct limits_job {
    struct node *node;
    char *path; /* owned */
    struct cgroup_limits limits;
};

static void limits_free(void *payload)
{
    struct limits_job *j = payload;

    free(j->path);
    free(j);
}

static int set_limits(void *payload, struct error **err)
{
    struct limits_job *j = payload;

    return cgroup_set_limits(j->node->cgroups, j->path, &j->limits, NULL, err);
}

static void on_limits_set(void *userdata, void *payload, int r, const struct error *err)
{
    answer(userdata, r, err);
}

int node_update_sandbox(struct node *n, const char *id, const struct resources_spec *overhead,
                        const struct resources_spec *resources, waiter_fn fn, void *userdata,
                        struct waiter **ret, struct error **err)
{
    static const struct side_job_ops ops = {set_limits, on_limits_set, limits_free};
    _cleanup_(error_freep) struct error *why = NULL;
    struct sandbox *s = NULL;
    struct limits_job *j;
    struct side_job *job;
    struct resize *z;
    uint64_t extra = overhead->memory_limit_bytes ? (uint64_t)overhead->memory_limit_bytes
                                                  : n->config.memory_overhead_bytes;
    int r = node_find_sandbox(n, id, &s, err);

    if (r < 0)
        return r;
    if (!sandbox_is_ready(s))
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "sandbox %s is %s, not ready",
                               s->id, sandbox_state_name(s->state));
    r = check_room(s, resources, extra, err);
    if (r < 0)
        return r;
    z = resize_new(n, s->id);
    *ret = waiter_new(&z->waiters, fn, userdata);
    if (!s->status.cgroup_path) { /* the host has none: there is nothing to set */
        answer(z, 0, NULL);
        return 0;
    }
    j = xcalloc(1, sizeof(*j));
    j->node = n;
    j->path = str_dup(s->status.cgroup_path);
    j->limits = sandbox_limits(s, resources);
    if (resources->cpu_quota_us <
        0) { /* none: all that its CPUs can use, and nexus-vmm beside them */
        j->limits.cpu_period_us = QUOTA_PERIOD_US;
        j->limits.cpu_quota_us = (s->status.cpus + 1ULL) * QUOTA_PERIOD_US;
    }
    r = side_job_start(n->host_worker, &ops, j, "setting the pod's limits", FILES_TIMEOUT_MS, z,
                       &job, &why);
    if (r < 0)
        answer(z, r, why);
    return 0;
}
