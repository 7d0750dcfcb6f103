/* SPDX-License-Identifier: Apache-2.0 */
/* GetContainerEvents. Each subscriber has a bounded queue (the stream's); one that does not read is
 * dropped and told so, and may subscribe again and list. Nobody waits for it. */
#include "base/clock.h"
#include "base/limit.h"
#include "base/log.h"
#include "cri/convert.h"
#include "cri/list.h"

struct subscriber { /* in its call's arena */
    struct list link;
    struct cri *cri;
    struct grpc_call *call;
};

static void leave(struct subscriber *s)
{
    list_remove(&s->link);
    s->cri->n_subscribers--;
}

static void on_cancel(struct grpc_call *call, void *ud)
{
    leave(ud);
}

static void drop(struct subscriber *s, enum grpc_status status, const char *text)
{
    struct grpc_call *call = s->call;

    leave(s);
    grpc_call_fail(call, status, text);
}

/* ---- messages */

static int add_statuses(struct arena *a, struct sandbox *s, const struct container *gone,
                        Runtime__V1__ContainerEventResponse *m)
{
    struct item_list l;
    int r = container_status_list(a, s, gone, &l);

    m->containers_statuses = (Runtime__V1__ContainerStatus **)l.items;
    m->n_containers_statuses = l.n;
    return r;
}

/* NULL: it is too large to be told. */
static Runtime__V1__ContainerEventResponse *
event_message(struct arena *a, enum node_event event, struct sandbox *s, const struct container *c)
{
    Runtime__V1__ContainerEventResponse *m = MESSAGE(a, Runtime__V1__ContainerEventResponse,
                                                     runtime__v1__container_event_response__init);

    if (!m)
        return NULL;
    m->container_id = text_of(c ? c->id : s->id);
    m->container_event_type = (Runtime__V1__ContainerEventType)event;
    m->created_at = (int64_t)clock_real_ns();
    m->pod_sandbox_status = sandbox_status_to_cri(a, s);
    if (!m->pod_sandbox_status || add_statuses(a, s, event == NODE_EVENT_DELETED ? c : NULL, m) < 0)
        return NULL;
    return m;
}

static void on_event(void *userdata, enum node_event event, struct sandbox *s,
                     const struct container *c)
{
    struct cri *cri = userdata;
    _cleanup_(arena_freep) struct arena *a = NULL;
    Runtime__V1__ContainerEventResponse *m;
    struct subscriber *sub, *next;

    if (list_is_empty(&cri->subscribers))
        return;
    a = arena_new(LIMIT_GRPC_ARENA_BYTES);
    m = event_message(a, event, s, c);
    list_foreach_safe (sub, next, &cri->subscribers, link) {
        int r = m ? grpc_call_send(sub->call, &m->base) : -EMSGSIZE;

        if (r == -EAGAIN)
            drop(sub, GRPC_RESOURCE_EXHAUSTED,
                 "events are not read and more would have to wait: subscribe again, and list");
        else if (r < 0)
            drop(sub, GRPC_RESOURCE_EXHAUSTED,
                 "an event is too large to be told: subscribe again, and list");
    }
}

/* ---- subscribers */

void events_start(struct cri *cri)
{
    list_init(&cri->subscribers);
    node_set_observer(cri->node, on_event, cri);
}

void events_stop(struct cri *cri)
{
    while (!list_is_empty(&cri->subscribers))
        drop(list_first(&cri->subscribers, struct subscriber, link), GRPC_UNAVAILABLE,
             "nexusd is ending");
}

void cri_get_container_events(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    struct cri *cri = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    struct subscriber *s;
    int r = node_require_ready(cri->node, &err);

    if (r >= 0 && cri->n_subscribers >= LIMIT_EVENT_SUBSCRIBERS)
        r = error_set(&err, -EDQUOT, "%d clients read events already", LIMIT_EVENT_SUBSCRIBERS);
    if (r < 0) {
        rpc_fail(call, r, &err);
        return;
    }
    s = arena_alloc(grpc_call_arena(call), sizeof(*s));
    if (!s) {
        rpc_no_memory(call);
        return;
    }
    s->cri = cri;
    s->call = call;
    list_append(&cri->subscribers, &s->link);
    cri->n_subscribers++;
    grpc_call_on_cancel(call, on_cancel, s);
}
