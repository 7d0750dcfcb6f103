/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus,
 * ReopenContainerLog. (Lists: list-model.c.) */
#include <jansson.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/cri-internal.h"
#include "cri/validate.h"
#include "pod/volume-info.h"

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

void cri_start_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StartContainerRequest *req = (const void *)m;

    rpc_by_id(ud, call, node_start_container, req->container_id,
              &runtime__v1__start_container_response__descriptor);
}

void cri_stop_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StopContainerRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new_empty(cri, call, &runtime__v1__stop_container_response__descriptor);
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

void cri_remove_container(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__RemoveContainerRequest *req = (const void *)m;

    rpc_by_id(ud, call, node_remove_container, req->container_id,
              &runtime__v1__remove_container_response__descriptor);
}

void cri_reopen_container_log(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ReopenContainerLogRequest *req = (const void *)m;

    rpc_by_id(ud, call, node_reopen_log, req->container_id,
              &runtime__v1__reopen_container_log_response__descriptor);
}

void cri_update_container_resources(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__UpdateContainerResourcesRequest *req = (const void *)m;
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct resources_spec want = {0};
    struct rpc *rpc =
        rpc_new_empty(cri, call, &runtime__v1__update_container_resources_response__descriptor);
    int r;

    if (!rpc)
        return;
    r = req->windows ? error_set(&err, -EOPNOTSUPP, "this is no Windows node")
                     : resources_from_cri(req->linux, &want, &err);
    if (r >= 0 && want.unified.count)
        r = error_set(&err, -EOPNOTSUPP, "cgroup settings (unified) cannot be changed");
    if (r >= 0)
        r = node_update_container(cri->node, req->container_id, &want, rpc_done, rpc, &rpc->waiter,
                                  &err);
    else
        record_clear(&resources_spec_desc, &want);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static char *verbose_info(struct arena *a, const struct container *c)
{
    json_t *doc = json_pack("{s:s, s:s, s:i, s:s?}", "state", container_state_name(c->state),
                            "sandboxID", c->sandbox->id, "exitSignal", (int)c->status.exit_signal,
                            "netns", c->sandbox->status.netns_path);
    _cleanup_(freep) char *text = NULL;
    char *copy;

    if (doc)
        (void)json_object_set_new(doc, "volumes", container_volumes_info(c));
    text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    copy = text ? arena_strdup(a, text) : NULL;

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
