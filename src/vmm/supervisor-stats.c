/* SPDX-License-Identifier: Apache-2.0 */
/* GetStats: the guest is asked about the pod and then about each container that runs, one after the other,
 * so that however many there are one request is open. What it told until it stopped answering is the answer. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "vmm/guest-stats.h"
#include "vmm/supervisor-internal.h"

struct told {
    char id[LIMIT_ID_MAX + 1]; /* "": the pod */
    uint64_t time_ns;          /* CLOCK_REALTIME */
    struct guest_stats stats;
};

struct stats_run {
    struct supervisor *sup;
    struct control_caller who;
    uint64_t serial; /* of the container that was asked about last; 0: the pod */
    char id[LIMIT_ID_MAX + 1];
    size_t n;
    struct told told[LIMIT_CONTAINERS_PER_POD + 1];
};

static void run_end(struct stats_run *run)
{
    run->sup->stats_run = NULL;
    free(run);
}

static void describe(struct told *t, Nexus__CgroupStats *m)
{
    nexus__cgroup_stats__init(m);
    m->container_id = t->id;
    m->time_ns = t->time_ns;
    m->known = t->stats.known;
    m->values = t->stats.values;
    m->n_values = GUEST_STATS_KINDS;
}

static void answer(struct stats_run *run)
{
    Nexus__VmmState state = NEXUS__VMM_STATE__INIT;
    Nexus__CgroupStats m[LIMIT_CONTAINERS_PER_POD + 1];
    Nexus__CgroupStats *list[LIMIT_CONTAINERS_PER_POD + 1];

    for (size_t i = 0; i < run->n; i++) {
        describe(&run->told[i], &m[i]);
        list[i] = &m[i];
    }
    state.stats = list;
    state.n_stats = run->n;
    control_send_state(run->sup->control, run->who, &state);
    run_end(run);
}

static struct container *next_container(struct supervisor *sup, uint64_t serial)
{
    struct container *c;

    list_foreach (c, &sup->containers, link) /* in the order of their serials */
        if (c->serial > serial && c->state == CONTAINER_RUNNING)
            return c;
    return NULL;
}

static int ask(struct stats_run *run, struct error **err);

static void on_told(void *ud, int r, const struct error *err)
{
    struct stats_run *run = ud;
    struct supervisor *sup = run->sup;
    struct container *next = next_container(sup, run->serial);
    struct told *t = &run->told[run->n];

    if (r == 0) {
        ProtobufCBinaryData text = agent_link_text(sup->agent);

        guest_stats_parse((const char *)text.data, text.len, &t->stats);
        memcpy(t->id, run->id, sizeof(t->id));
        t->time_ns = clock_real_ns();
        run->n++;
    }
    if (r < 0 && run->n == 0 && (r == -ETIMEDOUT || r == -ECONNRESET || !next)) {
        supervisor_answer(sup, run->who, r, err);
        run_end(run);
        return;
    }
    /* a guest that does not answer is not asked any more; one container may have gone meanwhile */
    if (r == -ETIMEDOUT || r == -ECONNRESET || !next || run->n > LIMIT_CONTAINERS_PER_POD) {
        answer(run);
        return;
    }
    run->serial = next->serial;
    memcpy(run->id, next->id, sizeof(run->id));
    if (ask(run, NULL) < 0)
        answer(run);
}

static int ask(struct stats_run *run, struct error **err)
{
    struct supervisor *sup = run->sup;
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__GetStats get = NEXUS__GET_STATS__INIT;
    int r;

    get.container_id = run->id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_GET_STATS;
    m.get_stats = &get;
    r = agent_link_request(sup->agent, &m, sup->times.stats_ms, on_told, run);
    return r < 0 ? error_set(err, r, "cannot ask the guest agent") : 0;
}

int supervisor_get_stats(struct supervisor *sup, struct control_caller who, struct error **err)
{
    struct stats_run *run;
    int r = supervisor_check_guest(sup, err);

    if (r < 0)
        return r;
    if (sup->stats_run)
        return error_set(err, -EAGAIN, "the guest is being asked already");
    run = xcalloc(1, sizeof(*run));
    run->sup = sup;
    run->who = who;
    r = ask(run, err);
    if (r < 0) {
        free(run);
        return r;
    }
    sup->stats_run = run;
    return 0;
}
