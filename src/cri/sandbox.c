/* SPDX-License-Identifier: Apache-2.0 */
/* RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus, ListPodSandbox. */
#include <jansson.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/cri-internal.h"
#include "pod/volume-info.h"

static void reply_run(struct rpc *rpc, const char *id)
{
    Runtime__V1__RunPodSandboxResponse out = RUNTIME__V1__RUN_POD_SANDBOX_RESPONSE__INIT;

    out.pod_sandbox_id = text_of(id);
    grpc_call_reply(rpc->call, &out.base);
}

void cri_run_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(sandbox_spec_clear) struct sandbox_spec spec = {0};
    struct rpc *rpc = rpc_new(cri, call, reply_run);
    int r;

    if (!rpc)
        return;
    r = sandbox_spec_from_cri((const void *)m, &spec, &err);
    if (r >= 0)
        r = node_run_sandbox(cri->node, &spec, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

void cri_stop_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StopPodSandboxRequest *req = (const void *)m;

    rpc_by_id(ud, call, node_stop_sandbox, req->pod_sandbox_id,
              &runtime__v1__stop_pod_sandbox_response__descriptor);
}

void cri_remove_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__RemovePodSandboxRequest *req = (const void *)m;

    rpc_by_id(ud, call, node_remove_sandbox, req->pod_sandbox_id,
              &runtime__v1__remove_pod_sandbox_response__descriptor);
}

/* ---- reading */

static char *verbose_info(struct arena *a, const struct sandbox *s)
{
    json_t *doc = json_pack(
        "{s:s, s:s, s:i, s:I, s:s, s:s?, s:s?, s:s?, s:s?, s:s?}", "state",
        sandbox_state_name(s->state), "netns", s->status.netns_path ? s->status.netns_path : "",
        "cpus", (int)s->status.cpus, "memoryBytes", (json_int_t)s->status.memory_bytes,
        "runtimeHandler", s->spec.runtime_handler ? s->spec.runtime_handler : "", "reason",
        s->status.reason, "message", s->status.message, "guestKernel", s->status.guest_kernel,
        "cgroup", s->status.cgroup_path, "owed", s->owed ? s->owed->message : NULL);
    _cleanup_(freep) char *text = NULL;
    char *copy;

    if (doc && s->process.pidfd >= 0)
        (void)json_object_set_new(doc, "pid", json_integer(s->process.pid));
    if (doc)
        (void)json_object_set_new(doc, "regions", sandbox_regions_info(s));
    if (doc)
        (void)json_object_set_new(doc, "deniedWrites", json_integer((json_int_t)s->denied_writes));
    text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    copy = text ? arena_strdup(a, text) : NULL;
    json_decref(doc);
    return copy;
}

static void reply_status(struct cri *cri, struct grpc_call *call, const char *id, bool verbose)
{
    struct arena *a = grpc_call_arena(call);
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__PodSandboxStatusResponse out = RUNTIME__V1__POD_SANDBOX_STATUS_RESPONSE__INIT;
    Runtime__V1__PodSandboxStatusResponse__InfoEntry info =
        RUNTIME__V1__POD_SANDBOX_STATUS_RESPONSE__INFO_ENTRY__INIT;
    Runtime__V1__PodSandboxStatusResponse__InfoEntry *info_list[1] = {&info};
    struct sandbox *s = NULL;
    int r = node_find_sandbox(cri->node, id, &s, &err);

    if (r >= 0 && !sandbox_is_listed(s))
        r = error_set(&err, -ENOENT, "no sandbox %s", id);
    if (r < 0) {
        rpc_fail(call, r, &err);
        return;
    }
    out.status = sandbox_status_to_cri(a, s);
    if (verbose) {
        info.key = text_of("info");
        info.value = verbose_info(a, s);
        out.info = info_list;
        out.n_info = 1;
    }
    if (out.status && (!verbose || info.value))
        grpc_call_reply(call, &out.base);
    else
        rpc_no_memory(call);
}

static void reply_verbose(struct rpc *rpc, const char *id)
{
    reply_status(rpc->cri, rpc->call, id, true);
}

/* The short answer comes from memory; the long one has counters that only the VM knows. */
void cri_pod_sandbox_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__PodSandboxStatusRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc;
    int r;

    if (!req->verbose) {
        reply_status(cri, call, req->pod_sandbox_id, false);
        return;
    }
    rpc = rpc_new(cri, call, reply_verbose);
    if (!rpc)
        return;
    r = node_refresh_sandbox(cri->node, req->pod_sandbox_id, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

/* Filters come as maps of one layout; see convert.h. */
static bool labels_match(const key_value_list *labels, void *const *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct map_entry *e = entries[i];
        const char *value = key_value_get(labels, e->key);
        if (!value || strcmp(value, e->value) != 0)
            return false;
    }
    return true;
}

static bool sandbox_matches(const struct sandbox *s, const Runtime__V1__PodSandboxFilter *f)
{
    bool ready = sandbox_is_ready(s);

    if (!f)
        return true;
    if (f->id[0] && !str_starts(s->id, f->id))
        return false;
    if (f->state && ready != (f->state->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY))
        return false;
    return labels_match(&s->spec.labels, (void *const *)f->label_selector, f->n_label_selector);
}

void cri_list_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__ListPodSandboxRequest *req = (const void *)m;
    struct cri *cri = ud;
    struct arena *a = grpc_call_arena(call);
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__ListPodSandboxResponse out = RUNTIME__V1__LIST_POD_SANDBOX_RESPONSE__INIT;
    struct sandbox *s = NULL;
    int r = node_require_ready(cri->node, &err);

    if (r < 0) {
        rpc_fail(call, r, &err);
        return;
    }
    out.items = arena_alloc(a, (node_sandbox_count(cri->node) + 1) * sizeof(*out.items));
    while (out.items && (s = node_next_sandbox(cri->node, s))) {
        if (!sandbox_matches(s, req->filter))
            continue;
        out.items[out.n_items] = sandbox_to_cri(a, s);
        if (!out.items[out.n_items++]) {
            rpc_no_memory(call);
            return;
        }
    }
    if (out.items)
        grpc_call_reply(call, &out.base);
    else
        rpc_no_memory(call);
}

/* ---- containers of all sandboxes, by the same kind of filter */

static bool container_matches(const struct container *c, const Runtime__V1__ContainerFilter *f)
{
    if (!f)
        return true;
    if (f->id[0] && !str_starts(c->id, f->id))
        return false;
    if (f->pod_sandbox_id[0] && !str_starts(c->sandbox->id, f->pod_sandbox_id))
        return false;
    if (f->state && (int)f->state->state != (int)container_cri_state(c))
        return false;
    return labels_match(&c->spec.labels, (void *const *)f->label_selector, f->n_label_selector);
}

static size_t count_containers(struct node *n)
{
    struct sandbox *s = NULL;
    size_t count = 0;

    while ((s = node_next_sandbox(n, s)))
        for (struct container *c = NULL; (c = sandbox_next_container(s, c));)
            count++;
    return count;
}

void cri_list_containers(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__ListContainersRequest *req = (const void *)m;
    struct cri *cri = ud;
    struct arena *a = grpc_call_arena(call);
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__ListContainersResponse out = RUNTIME__V1__LIST_CONTAINERS_RESPONSE__INIT;
    struct sandbox *s = NULL;
    int r = node_require_ready(cri->node, &err);

    if (r < 0) {
        rpc_fail(call, r, &err);
        return;
    }
    out.containers = arena_alloc(a, (count_containers(cri->node) + 1) * sizeof(*out.containers));
    while (out.containers && (s = node_next_sandbox(cri->node, s))) {
        for (struct container *c = NULL; (c = sandbox_next_container(s, c));) {
            if (!container_matches(c, req->filter))
                continue;
            out.containers[out.n_containers] = container_to_cri(a, c);
            if (!out.containers[out.n_containers++]) {
                rpc_no_memory(call);
                return;
            }
        }
    }
    if (out.containers)
        grpc_call_reply(call, &out.base);
    else
        rpc_no_memory(call);
}
