/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to pods, told to the one who observes the node: each thing once, when lists show it. */
#include "pod/node-internal.h"

void node_set_observer(struct node *n, node_event_fn fn, void *userdata)
{
    n->observer = fn;
    n->observer_userdata = userdata;
}

static void tell(struct sandbox *s, const struct container *c, enum node_event event)
{
    if (s->node->observer)
        s->node->observer(s->node->observer_userdata, event, s, c);
}

void sandbox_tell(struct sandbox *s, enum node_event event)
{
    tell(s, NULL, event);
}

/* Start and end are told when they are on record and whoever asked is answered; an exit never before the
 * start. */
void container_tell(struct container *c)
{
    if (c->plan && plan_run_plan(c->plan) == &container_start_plan)
        return;
    if (c->status.started_at_ns && !c->told_started) {
        c->told_started = true;
        tell(c->sandbox, c, NODE_EVENT_STARTED);
    }
    if (c->status.finished_at_ns && !c->end_op && !c->told_ended) {
        c->told_ended = true;
        tell(c->sandbox, c, NODE_EVENT_STOPPED);
    }
}

void container_tell_created(struct container *c)
{
    tell(c->sandbox, c, NODE_EVENT_CREATED);
}

void container_tell_deleted(struct container *c)
{
    if (!container_is_listed(c))
        return;
    container_tell(c);
    tell(c->sandbox, c, NODE_EVENT_DELETED);
}
