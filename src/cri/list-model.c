/* SPDX-License-Identifier: Apache-2.0 */
/* ListPodSandbox, ListContainers, and the same as streams. Answered from memory; no guest is asked. */
#include <string.h>

#include "base/str.h"
#include "cri/convert.h"
#include "cri/list.h"

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

int item_list_for_containers(struct item_list *l, struct arena *a, struct sandbox *s)
{
    size_t n = 0;

    for (struct container *c = NULL; (c = sandbox_next_container(s, c));)
        n++;
    return item_list_init(l, a, n);
}

int container_status_list(struct arena *a, struct sandbox *s, const struct container *but,
                          struct item_list *ret)
{
    int r = item_list_for_containers(ret, a, s);

    for (struct container *c = NULL; r == 0 && (c = sandbox_next_container(s, c));)
        if (c != but)
            r = item_list_add(ret, container_status_to_cri(a, c));
    return r;
}

/* False: the call was answered. */
static bool begin(struct cri *cri, struct grpc_call *call, struct item_list *l, size_t size)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = node_require_ready(cri->node, &err);

    if (r < 0) {
        rpc_fail(call, r, &err);
        return false;
    }
    if (item_list_init(l, grpc_call_arena(call), size) == 0)
        return true;
    rpc_no_memory(call);
    return false;
}

static bool sandboxes(struct cri *cri, struct grpc_call *call,
                      const Runtime__V1__PodSandboxFilter *filter, struct item_list *l)
{
    struct arena *a = grpc_call_arena(call);
    struct sandbox *s = NULL;

    if (!begin(cri, call, l, node_sandbox_count(cri->node)))
        return false;
    while ((s = node_next_sandbox(cri->node, s))) {
        if (sandbox_matches(s, filter) && item_list_add(l, sandbox_to_cri(a, s)) < 0) {
            rpc_no_memory(call);
            return false;
        }
    }
    return true;
}

static bool containers(struct cri *cri, struct grpc_call *call,
                       const Runtime__V1__ContainerFilter *filter, struct item_list *l)
{
    struct arena *a = grpc_call_arena(call);
    struct sandbox *s = NULL;

    if (!begin(cri, call, l, node_container_count(cri->node)))
        return false;
    while ((s = node_next_sandbox(cri->node, s))) {
        for (struct container *c = NULL; (c = sandbox_next_container(s, c));) {
            if (container_matches(c, filter) && item_list_add(l, container_to_cri(a, c)) < 0) {
                rpc_no_memory(call);
                return false;
            }
        }
    }
    return true;
}

void cri_list_pod_sandbox(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__ListPodSandboxRequest *req = (const void *)m;
    struct item_list l;

    if (sandboxes(ud, call, req->filter, &l))
        list_reply(call, &runtime__v1__list_pod_sandbox_response__descriptor, &l);
}

void cri_stream_pod_sandboxes(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__StreamPodSandboxesRequest *req = (const void *)m;
    struct item_list l;

    if (sandboxes(ud, call, req->filter, &l))
        list_stream(call, &runtime__v1__stream_pod_sandboxes_response__descriptor, &l);
}

void cri_list_containers(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__ListContainersRequest *req = (const void *)m;
    struct item_list l;

    if (containers(ud, call, req->filter, &l))
        list_reply(call, &runtime__v1__list_containers_response__descriptor, &l);
}

void cri_stream_containers(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    const Runtime__V1__StreamContainersRequest *req = (const void *)m;
    struct item_list l;

    if (containers(ud, call, req->filter, &l))
        list_stream(call, &runtime__v1__stream_containers_response__descriptor, &l);
}
