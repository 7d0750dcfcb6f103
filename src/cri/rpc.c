/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that wait, and the table of all RPCs. */
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/cri-internal.h"
#include "gen/cri/nexus-admin.pb-c.h"

char *text_of(const char *s)
{
    return (char *)(uintptr_t)(s ? s : ""); /* messages are only read from here on */
}

void rpc_no_memory(struct grpc_call *call)
{
    grpc_call_fail(call, GRPC_RESOURCE_EXHAUSTED, "the answer is too large");
}

void rpc_fail(struct grpc_call *call, int r, struct error **err)
{
    grpc_call_fail_error(call, r, *err);
}

/* The caller left, or its deadline passed: what it began goes on without it, except for what only
 * made sense for it. */
static void on_cancel(struct grpc_call *call, void *userdata)
{
    struct rpc *rpc = userdata;

    waiter_cancel(rpc->waiter);
    vmm_exec_cancel(rpc->exec);
    stream_call_cancel(rpc->stream);
    if (rpc->pull)
        image_pull_cancel(rpc->pull);
    image_remove_forget(rpc->removal);
}

struct rpc *rpc_new(struct cri *cri, struct grpc_call *call,
                    void (*reply)(struct rpc *rpc, const char *id))
{
    struct rpc *rpc = arena_alloc(grpc_call_arena(call), sizeof(*rpc));

    if (!rpc) {
        rpc_no_memory(call);
        return NULL;
    }
    rpc->cri = cri;
    rpc->call = call;
    rpc->reply = reply;
    grpc_call_on_cancel(call, on_cancel, rpc);
    return rpc;
}

void rpc_done(void *userdata, int r, const struct error *err, const char *id)
{
    struct rpc *rpc = userdata;

    rpc->waiter = NULL;
    if (r < 0)
        grpc_call_fail_error(rpc->call, r, err);
    else
        rpc->reply(rpc, id);
}

static void reply_empty(struct rpc *rpc, const char *id)
{
    ProtobufCMessage *out = arena_alloc(grpc_call_arena(rpc->call), rpc->empty->sizeof_message);

    if (!out) {
        rpc_no_memory(rpc->call);
        return;
    }
    protobuf_c_message_init(rpc->empty, out);
    grpc_call_reply(rpc->call, out);
}

struct rpc *rpc_new_empty(struct cri *cri, struct grpc_call *call,
                          const ProtobufCMessageDescriptor *response)
{
    struct rpc *rpc = rpc_new(cri, call, reply_empty);

    if (rpc)
        rpc->empty = response;
    return rpc;
}

void rpc_by_id(struct cri *cri, struct grpc_call *call, rpc_operation operation, const char *id,
               const ProtobufCMessageDescriptor *response)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new_empty(cri, call, response);
    int r;

    if (!rpc)
        return;
    r = operation(cri->node, id, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

char **rpc_command(struct grpc_call *call, char **words, size_t n)
{
    char **command = arena_alloc(grpc_call_arena(call), (n + 1) * sizeof(char *));

    if (!command) {
        rpc_no_memory(call);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        command[i] = words[i];
    return command;
}

int cri_new(const struct cri_config *config, struct node *node, struct image_store *images,
            struct cri **ret)
{
    struct cri *cri = xcalloc(1, sizeof(*cri));

    cri->config = *config;
    cri->node = node;
    cri->images = images;
    events_start(cri);
    *ret = cri;
    return 0;
}

void cri_stop(struct cri *cri)
{
    events_stop(cri);
}

void cri_free(struct cri *cri)
{
    if (!cri)
        return;
    node_set_observer(cri->node, NULL, NULL);
    free(cri);
}

void cri_no_checkpoint(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    grpc_call_fail(call, GRPC_UNIMPLEMENTED,
                   "checkpoints are not offered: the state of a VM is not saved yet");
}

static const struct grpc_method runtime_methods[] = {
    {"Version", cri_version},
    {"Status", cri_status},
    {"RuntimeConfig", cri_runtime_config},
    {"UpdateRuntimeConfig", cri_update_runtime_config},
    {"RunPodSandbox", cri_run_pod_sandbox},
    {"StopPodSandbox", cri_stop_pod_sandbox},
    {"RemovePodSandbox", cri_remove_pod_sandbox},
    {"PodSandboxStatus", cri_pod_sandbox_status},
    {"ListPodSandbox", cri_list_pod_sandbox},
    {"StreamPodSandboxes", cri_stream_pod_sandboxes},
    {"CreateContainer", cri_create_container},
    {"StartContainer", cri_start_container},
    {"StopContainer", cri_stop_container},
    {"RemoveContainer", cri_remove_container},
    {"ListContainers", cri_list_containers},
    {"StreamContainers", cri_stream_containers},
    {"ContainerStatus", cri_container_status},
    {"UpdateContainerResources", cri_update_container_resources},
    {"UpdatePodSandboxResources", cri_update_pod_sandbox_resources},
    {"ReopenContainerLog", cri_reopen_container_log},
    {"ExecSync", cri_exec_sync},
    {"Exec", cri_exec},
    {"Attach", cri_attach},
    {"PortForward", cri_port_forward},
    {"ContainerStats", cri_container_stats},
    {"ListContainerStats", cri_list_container_stats},
    {"StreamContainerStats", cri_stream_container_stats},
    {"PodSandboxStats", cri_pod_sandbox_stats},
    {"ListPodSandboxStats", cri_list_pod_sandbox_stats},
    {"StreamPodSandboxStats", cri_stream_pod_sandbox_stats},
    {"ListMetricDescriptors", cri_list_metric_descriptors},
    {"ListPodSandboxMetrics", cri_list_pod_sandbox_metrics},
    {"StreamPodSandboxMetrics", cri_stream_pod_sandbox_metrics},
    {"GetContainerEvents", cri_get_container_events},
    {"CheckpointContainer", cri_no_checkpoint},
    {"CheckpointPod", cri_no_checkpoint},
    {"RestorePod", cri_no_checkpoint},
    {NULL, NULL},
};

static const struct grpc_method image_methods[] = {
    {"ListImages", cri_list_images},
    {"StreamImages", cri_stream_images},
    {"ImageStatus", cri_image_status},
    {"PullImage", cri_pull_image},
    {"RemoveImage", cri_remove_image},
    {"ImageFsInfo", cri_image_fs_info},
    {NULL, NULL},
};

static const struct grpc_method nexus_methods[] = {
    {"Pull", nexus_pull},
    {NULL, NULL},
};

int cri_register(struct cri *cri, struct grpc_server *server, struct error **err)
{
    const struct {
        const ProtobufCServiceDescriptor *service;
        const struct grpc_method *methods;
    } services[] = {
        {&runtime__v1__runtime_service__descriptor, runtime_methods},
        {&runtime__v1__image_service__descriptor, image_methods},
        {&nexus__v1__images__descriptor, nexus_methods},
    };

    for (size_t i = 0; i < ARRAY_SIZE(services); i++) {
        int r = grpc_server_add_service(server, services[i].service, services[i].methods, cri);
        if (r < 0)
            return error_set(err, r, "cannot serve %s: %s", services[i].service->name,
                             strerror(-r));
    }
    return 0;
}
