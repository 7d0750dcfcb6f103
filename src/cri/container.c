/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus,
 * ReopenContainerLog. (ListContainers shares its filters with ListPodSandbox: sandbox.c.) */
#include <jansson.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/cri-internal.h"
#include "cri/validate.h"

#define TIMEOUT_S_MAX (INT64_C(1) << 32)

static void reply_create(struct rpc *rpc, const char *id)
{
    Runtime__V1__CreateContainerResponse out = RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;

    out.container_id = text_of(id);
    grpc_call_reply(rpc->call, &out.base);
}

void cri_create_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__CreateContainerRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(container_spec_clear) struct container_spec spec = {0};
    struct rpc *rpc = rpc_new(cri, call, reply_create);
    struct sandbox *s = NULL;
    int r;

    if (!rpc)
        return;
    r = node_find_sandbox(cri->node, req->pod_sandbox_id, &s, &err);
    if (r >= 0)
        r = container_spec_from_cri(req->config, &s->spec, &spec, &err);
    if (r >= 0)
        r = node_create_container(cri->node, s->id, &spec, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void reply_start(struct rpc *rpc, const char *id)
{
    Runtime__V1__StartContainerResponse out = RUNTIME__V1__START_CONTAINER_RESPONSE__INIT;

    grpc_call_reply(rpc->call, &out.base);
}

void cri_start_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StartContainerRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, reply_start);
    int r;

    if (!rpc)
        return;
    r = node_start_container(cri->node, req->container_id, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void reply_stop(struct rpc *rpc, const char *id)
{
    Runtime__V1__StopContainerResponse out = RUNTIME__V1__STOP_CONTAINER_RESPONSE__INIT;

    grpc_call_reply(rpc->call, &out.base);
}

void cri_stop_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StopContainerRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, reply_stop);
    int r;

    if (!rpc)
        return;
    r = check_range("timeout", req->timeout, 0, INT64_MAX, &err);
    if (r >= 0) {
        int64_t s = req->timeout < TIMEOUT_S_MAX ? req->timeout : TIMEOUT_S_MAX;
        r = node_stop_container(cri->node, req->container_id, (uint64_t)s * 1000, rpc_done, rpc,
                                &rpc->waiter, &err);
    }
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void reply_remove(struct rpc *rpc, const char *id)
{
    Runtime__V1__RemoveContainerResponse out = RUNTIME__V1__REMOVE_CONTAINER_RESPONSE__INIT;

    grpc_call_reply(rpc->call, &out.base);
}

void cri_remove_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__RemoveContainerRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, reply_remove);
    int r;

    if (!rpc)
        return;
    r = node_remove_container(cri->node, req->container_id, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static void reply_reopen(struct rpc *rpc, const char *id)
{
    Runtime__V1__ReopenContainerLogResponse out = RUNTIME__V1__REOPEN_CONTAINER_LOG_RESPONSE__INIT;

    grpc_call_reply(rpc->call, &out.base);
}

void cri_reopen_container_log(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ReopenContainerLogRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, reply_reopen);
    int r;

    if (!rpc)
        return;
    r = node_reopen_log(cri->node, req->container_id, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static char *verbose_info(struct arena *a, const struct container *c)
{
    json_t *doc = json_pack("{s:s, s:s, s:i, s:s?}", "state", container_state_name(c->state),
                            "sandboxID", c->sandbox->id, "exitSignal", (int)c->status.exit_signal,
                            "netns", c->sandbox->status.netns_path);
    _cleanup_(freep) char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    char *copy = text ? arena_strdup(a, text) : NULL;

    json_decref(doc);
    return copy;
}

void cri_container_status(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ContainerStatusRequest *req = (const void *)m;
    struct cri *cri = ud;
    struct arena *a = grpc_call_arena(call);
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__ContainerStatusResponse out = RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INIT;
    Runtime__V1__ContainerStatusResponse__InfoEntry info =
        RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INFO_ENTRY__INIT;
    Runtime__V1__ContainerStatusResponse__InfoEntry *info_list[1] = {&info};
    struct container *c = NULL;
    int r = node_find_container(cri->node, req->container_id, &c, &err);

    if (r >= 0 && !container_is_listed(c))
        r = error_set(&err, -ENOENT, "no container %s", req->container_id);
    if (r < 0) {
        rpc_fail(call, r, &err);
        return;
    }
    out.status = container_status_to_cri(a, c);
    if (req->verbose) {
        info.key = text_of("info");
        info.value = verbose_info(a, c);
        out.info = info_list;
        out.n_info = 1;
    }
    if (out.status && (!req->verbose || info.value))
        grpc_call_reply(call, &out.base);
    else
        rpc_no_memory(call);
}
