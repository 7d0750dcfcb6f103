/* SPDX-License-Identifier: Apache-2.0 */
/* Everything a sandbox holds, given back: the undo steps of its run plan and the steps of its stop
 * plan are the same functions. Each is idempotent and works with what is gone already: a dead VM, a
 * missing namespace, an empty record directory. */
#include <signal.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "net/netns.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"

#define KILL_PATIENCE_MS 3000     /* for the exit codes of killed containers */
#define SHUTDOWN_PATIENCE_MS 3000 /* for nexus-vmm to leave by itself */

/* ---- waiting with patience: the step goes on when it ends */

static int on_patience_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;

    s->wait = SANDBOX_WAIT_NONE;
    s->wait_timer = sd_event_source_disable_unref(s->wait_timer);
    plan_step_done(s->plan, s->wait_step, 0, NULL);
    return 0;
}

static int wait_patiently(struct sandbox *s, const struct plan_run *run, enum sandbox_wait what,
                          unsigned ms)
{
    if (sd_event_add_time_relative(s->node->event, &s->wait_timer, CLOCK_MONOTONIC, ms * 1000ULL, 0,
                                   on_patience_over, s) < 0)
        return 0; /* no patience then */
    return sandbox_wait_for(s, run, what);
}

void release_cancel(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    s->wait = SANDBOX_WAIT_NONE;
    s->wait_timer = sd_event_source_disable_unref(s->wait_timer);
    vmm_call_cancel(TAKE(s->call));
}

/* ---- guest and process */

/* Kills what runs, so that exit codes and the last lines of logs still arrive. */
int release_containers(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    struct container *c;
    bool any = false;

    if (!s->client || s->hello_pending || s->vm_ended)
        return 0;
    list_foreach (c, &s->containers, node) {
        Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
        Nexus__SignalContainer body = NEXUS__SIGNAL_CONTAINER__INIT;

        if (c->state != CONTAINER_RUNNING)
            continue;
        body.container_id = c->id;
        body.signal = SIGKILL;
        body.all = true;
        m.body_case = NEXUS__CONTROL_MESSAGE__BODY_SIGNAL;
        m.signal = &body;
        any |=
            vmm_client_call(s->client, &m, NULL, 0, KILL_PATIENCE_MS, NULL, NULL, NULL, NULL) >= 0;
    }
    return any ? wait_patiently(s, run, SANDBOX_WAIT_CONTAINERS, KILL_PATIENCE_MS) : 0;
}

int release_guest(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__Shutdown body = NEXUS__SHUTDOWN__INIT;

    if (s->process.pidfd < 0 || !s->client || s->hello_pending)
        return 0;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_SHUTDOWN;
    m.shutdown = &body;
    if (vmm_client_call(s->client, &m, NULL, 0, SHUTDOWN_PATIENCE_MS, NULL, NULL, NULL, NULL) < 0)
        return 0;
    return wait_patiently(s, run, SANDBOX_WAIT_EXIT, SHUTDOWN_PATIENCE_MS);
}

/* After a crash of ours the process is only known by its pid file. */
static int find_process(struct sandbox *s, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    char name[LIMIT_ID_MAX + 8];
    int r;

    if (s->process.pidfd >= 0)
        return s->process_io ? 0 : sandbox_watch_process(s, err);
    sandbox_pid_name(s, name);
    r = vmm_process_load(s->node->vmm_dirfd, name, s->node->boot_id, &s->process, &why);
    if (r == -ESRCH || r == -ENOENT)
        return 0;
    if (r == -EBADMSG) {
        log_warning("%s; whatever is in its cgroup is killed", error_text(why, r));
        return 0;
    }
    if (r < 0)
        return error_set(err, r, "%s", error_text(why, r));
    return sandbox_watch_process(s, err);
}

int release_process(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = find_process(s, err);

    if (r < 0)
        return r;
    if (s->status.cgroup_path) /* and whatever else may be in there */
        (void)cgroup_kill(s->node->cgroups, s->status.cgroup_path, NULL);
    if (s->process.pidfd < 0) {
        struct container *c;

        sandbox_disconnect(s);
        sandbox_remove_files(s);
        list_foreach (c, &s->containers, node)
            container_vm_gone(c, false);
        return 0;
    }
    r = vmm_process_kill(&s->process);
    if (r < 0)
        return error_set(err, r, "cannot kill nexus-vmm (pid %d): %s", (int)s->process.pid,
                         strerror(-r));
    return sandbox_wait_for(s, run, SANDBOX_WAIT_EXIT);
}

/* ---- network */

void sandbox_cni_request(const struct sandbox *s, struct cni_request *req,
                         struct cni_port_mapping **ports)
{
    static const char *const protocols[] = {"tcp", "udp", "sctp"};
    size_t n = 0;

    *ports = xcalloc(s->spec.ports.count + 1, sizeof(**ports));
    for (size_t i = 0; i < s->spec.ports.count; i++) {
        const struct port_mapping *p = &s->spec.ports.items[i];

        if (p->host_port == 0)
            continue;
        (*ports)[n++] = (struct cni_port_mapping){
            .protocol = protocols[p->protocol >= 0 && p->protocol < 3 ? p->protocol : 0],
            .host_port = (uint32_t)p->host_port,
            .container_port = (uint32_t)p->container_port,
            .host_ip = p->host_ip,
        };
    }
    *req = (struct cni_request){
        .container_id = s->id,
        .netns = s->status.netns_path,
        .ifname = CNI_IFNAME,
        .pod_namespace = s->spec.namespace,
        .pod_name = s->spec.name,
        .pod_uid = s->spec.uid,
        .ports = *ports,
        .n_ports = n,
        .dns_servers = s->spec.dns.servers,
        .dns_searches = s->spec.dns.searches,
        .dns_options = s->spec.dns.options,
        .bin_dirs = s->node->config.cni_bin_dirs,
        .deadline_ms = s->node->config.cni_timeout_ms,
    };
}

void release_call_ended(struct sandbox *s, int r, struct error *err)
{
    if (s->plan && s->plan == s->cni_run)
        plan_step_done(s->plan, s->cni_step, r < 0 ? r : 0, err);
    else
        error_free(err);
}

static void on_deleted(struct cni_call *call, int r, struct cni_result *result,
                       const struct error *err, void *userdata)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    struct error *copy = NULL;

    s->cni = NULL;
    cni_network_free(TAKE(s->cni_net));
    if (r < 0)
        (void)error_set_class(&copy, ERROR_UNAVAILABLE, r, "%s", error_text(err, r));
    else
        s->status.network_owed = false;
    if (s->del_after_add) { /* it was cancelled, and a new plan waits to do it again */
        error_free(copy);
        s->del_after_add = false;
        release_network_now(s);
        return;
    }
    release_call_ended(s, r, copy);
}

static int load_network(struct sandbox *s, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    const char *saved = s->status.cni_config;
    int r = -ENOENT;

    if (saved)
        r = cni_network_parse(saved, strlen(saved), "saved configuration", &s->cni_net, &why);
    if (r >= 0)
        return 0;
    log_warning("no saved CNI configuration (%s), using the present one", error_text(why, r));
    return cni_load(s->node->config.cni_conf_dir, &s->cni_net, err);
}

static int begin_del(struct sandbox *s, struct error **err)
{
    _cleanup_(freep) struct cni_port_mapping *ports = NULL;
    _cleanup_(closep) int netns = -EBADF;
    struct cni_request req;
    int r = load_network(s, err);

    if (r < 0)
        return error_prefix(err, r, "CNI DEL");
    sandbox_cni_request(s, &req, &ports);
    if (!req.netns || netns_open(req.netns, &netns, NULL) < 0)
        req.netns = NULL; /* gone: the plugins are told so */
    r = cni_del(s->node->event, s->cni_net, &req, s->status.cni_result, on_deleted, s, &s->cni,
                err);
    if (r < 0) {
        cni_network_free(TAKE(s->cni_net));
        return error_prefix(err, r, "CNI DEL");
    }
    return 1;
}

void release_network_now(struct sandbox *s)
{
    struct error *err = NULL;
    int r = begin_del(s, &err);

    if (r < 0)
        release_call_ended(s, r, err);
}

int release_network(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;

    s->cni_step = plan_current_step(run);
    s->cni_run = run;
    if (s->cni) { /* an ADD that was told to end */
        s->del_after_add = true;
        return 1;
    }
    if (plan_run_plan(run) == &sandbox_run_plan)
        s->status.network_owed = true; /* its journal says so */
    return s->status.network_owed ? begin_del(s, err) : 0;
}

/* ---- the rest */

static void cancel_network_wait(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    if (s->cni)
        cni_call_cancel(s->cni);
}

void release_cancel_save(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    store_forget(TAKE(s->op));
}

/* On a disk so full that not even the reserve helps it is stopped all the same: the older record makes
 * the next start do all of it again, which finds nothing left to do. */
static void on_stop_saved(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->op = NULL;
    if (r < 0)
        log_warning("stopped, but that cannot be saved: %s", error_text(err, r));
    plan_step_done(s->plan, plan_current_step(s->plan), 0, NULL);
}

static int stop_commit(struct plan_run *run, void *object, struct error **err)
{
    _cleanup_(error_freep) struct error *why = NULL;
    struct sandbox *s = object;
    int r = sandbox_save(s, SANDBOX_STOPPED, true, on_stop_saved, s, &s->op, &why);

    if (r < 0)
        log_warning("stopped, but that cannot be saved: %s", error_text(why, r));
    return r < 0 ? 0 : 1;
}

enum stop_step {
    STOP_CONTAINERS,
    STOP_GUEST,
    STOP_VMM,
    STOP_NETWORK,
    STOP_NETNS,
    STOP_CGROUP,
    STOP_SCRATCH,
    STOP_COMMIT,
};

static const struct plan_step stop_steps[] = {
    [STOP_CONTAINERS] = {"containers", 0, 0, 0, release_containers, NULL, release_cancel},
    [STOP_GUEST] = {"guest", PLAN_NEEDS(STOP_CONTAINERS), PLAN_VOLATILE, 0, release_guest, NULL,
                    release_cancel},
    [STOP_VMM] = {"vmm", PLAN_NEEDS(STOP_GUEST), PLAN_VOLATILE, EXIT_TIMEOUT_MS, release_process,
                  NULL, release_cancel},
    [STOP_NETWORK] = {"network", PLAN_NEEDS(STOP_VMM), PLAN_VOLATILE | PLAN_SAVE, 0,
                      release_network, NULL, cancel_network_wait},
    [STOP_NETNS] = {"netns", PLAN_NEEDS(STOP_NETWORK), PLAN_VOLATILE, 0, release_netns, NULL,
                    net_cancel},
    [STOP_CGROUP] = {"cgroup", PLAN_NEEDS(STOP_VMM), PLAN_VOLATILE, 0, release_cgroup, NULL,
                     host_cancel_cgroup},
    [STOP_SCRATCH] = {"scratch", PLAN_NEEDS(STOP_VMM), PLAN_VOLATILE, 0, release_scratch, NULL,
                      host_cancel_scratch},
    [STOP_COMMIT] = {"commit",
                     PLAN_NEEDS(STOP_NETNS) | PLAN_NEEDS(STOP_CGROUP) | PLAN_NEEDS(STOP_SCRATCH),
                     PLAN_VOLATILE, 0, stop_commit, NULL, release_cancel_save},
};
const struct plan sandbox_stop_plan = {"pod.stop", PLAN_FORWARD, stop_steps,
                                       ARRAY_SIZE(stop_steps)};

/* ---- remove */

static int forget_next(struct sandbox *s, struct error **err);

static void on_forgotten(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    struct container *c = hashmap_get(&s->node->containers, s->forgetting);
    struct error *copy = NULL;

    s->op = NULL;
    if (r < 0) {
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    } else {
        if (c && c->sandbox == s) { /* else its own removal ended first */
            container_tell_deleted(c);
            container_free(c);
        }
        r = forget_next(s, &copy);
    }
    if (r != 1)
        plan_step_done(s->plan, plan_current_step(s->plan), r, copy);
}

/* 1: goes on. */
static int forget_next(struct sandbox *s, struct error **err)
{
    struct container *c;
    int r;

    if (list_is_empty(&s->containers))
        return 0;
    c = list_first(&s->containers, struct container, node);
    memcpy(s->forgetting, c->id, sizeof(s->forgetting));
    r = store_delete(s->node->container_store, c->id, on_forgotten, s, &s->op, err);
    return r < 0 ? r : 1;
}

static int remove_containers(struct plan_run *run, void *object, struct error **err)
{
    return forget_next(object, err);
}

static void on_deleted_record(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->op = NULL;
    plan_step_written(s->plan, plan_current_step(s->plan), r, err, "the end of sandbox", s->id);
}

static int remove_record(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = store_delete(s->node->sandbox_store, s->id, on_deleted_record, s, &s->op, err);

    return r < 0 ? r : 1;
}

static const struct plan_step remove_steps[] = {
    {"containers", 0, 0, 0, remove_containers, NULL, release_cancel_save},
    {"record", PLAN_NEEDS(0), PLAN_VOLATILE, 0, remove_record, NULL, release_cancel_save},
};
const struct plan sandbox_remove_plan = {"pod.remove", PLAN_FORWARD, remove_steps,
                                         ARRAY_SIZE(remove_steps)};
