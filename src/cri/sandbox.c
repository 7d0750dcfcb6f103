/* SPDX-License-Identifier: Apache-2.0 */
/* RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus. (Lists: list-model.c.) */
#include <jansson.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/list.h"
#include "pod/share.h"
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

void cri_update_pod_sandbox_resources(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__UpdatePodSandboxResourcesRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct resources_spec overhead = {0}, resources = {0};
    struct rpc *rpc =
        rpc_new_empty(cri, call, &runtime__v1__update_pod_sandbox_resources_response__descriptor);
    int r;

    if (!rpc)
        return;
    r = resources_from_cri(req->overhead, &overhead, &err);
    if (r >= 0)
        r = resources_from_cri(req->resources, &resources, &err);
    if (r >= 0)
        r = node_update_sandbox(cri->node, req->pod_sandbox_id, &overhead, &resources, rpc_done,
                                rpc, &rpc->waiter, &err);
    record_clear(&resources_spec_desc, &overhead);
    record_clear(&resources_spec_desc, &resources);
    if (r < 0)
        rpc_fail(call, r, &err);
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
    if (doc && share_pid(s) > 0)
        (void)json_object_set_new(doc, "virtiofsdPid", json_integer(share_pid(s)));
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
    struct item_list statuses;
    struct sandbox *s = NULL;
    int r = node_find_sandbox(cri->node, id, &s, &err);

    if (r >= 0 && !sandbox_is_listed(s))
        r = error_set(&err, -ENOENT, "no sandbox %s", id);
    if (r < 0) {
        rpc_fail(call, r, &err);
        return;
    }
    out.status = sandbox_status_to_cri(a, s);
    /* kubelet asks no further after an event, if there is a time */
    r = container_status_list(a, s, NULL, &statuses);
    out.containers_statuses = (Runtime__V1__ContainerStatus **)statuses.items;
    out.n_containers_statuses = statuses.n;
    out.timestamp = (int64_t)clock_real_ns();
    if (verbose) {
        info.key = text_of("info");
        info.value = verbose_info(a, s);
        out.info = info_list;
        out.n_info = 1;
    }
    if (out.status && r == 0 && (!verbose || info.value))
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
