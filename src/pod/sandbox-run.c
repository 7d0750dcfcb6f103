/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of RunPodSandbox. Two branches overlap: CNI ADD, and spawn with boot; they meet where the
 * guest gets its addresses.
 *
 *   netns ─┬─ network (CNI ADD) ──────────────────── redirect ─┐
 *          └─ tap ─┐                                           ├─ configure ─ commit
 *  cgroup, scratch, files ─ vmm ─ hello ─ guest (agent says hello)┘
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "net/tap.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"
#include "pod/vmm-socket.h"

#define MIB (1ULL << 20)
#define CONFIG_ARENA_BYTES (2U << 20)
#define ADD_PATIENCE_MS 5000
#define CAUSE_PATIENCE_MS 1500 /* nexus-vmm itself takes up to 1 s to name an end */

enum run_step {
    RUN_NETNS,
    RUN_NETWORK,
    RUN_TAP,
    RUN_CGROUP,
    RUN_SCRATCH,
    RUN_FILES,
    RUN_VMM,
    RUN_HELLO,
    RUN_GUEST,
    RUN_REDIRECT,
    RUN_CONFIGURE,
    RUN_COMMIT,
};

/* ---- before the plan: nothing of this has an effect */

/* A VM big enough for what the containers may use together. */
static void size_vm(struct sandbox *s)
{
    const struct node_config *c = &s->node->config;
    const struct resources_spec *r = &s->spec.resources, *o = &s->spec.overhead;
    uint64_t memory = c->memory_bytes, extra = c->memory_overhead_bytes;
    int64_t cpus = 0;
    uint32_t most;

    if (o->memory_limit_bytes > 0)
        extra = (uint64_t)o->memory_limit_bytes;
    if (r->memory_limit_bytes > 0 && !checked_add((uint64_t)r->memory_limit_bytes, extra, &memory))
        memory = c->memory_max_bytes;
    memory = max_of(memory, 64 * MIB);
    memory = min_of(memory, c->memory_max_bytes);
    s->status.memory_bytes = (memory + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    if (r->cpu_quota_us > 0 && r->cpu_period_us > 0)
        cpus = (r->cpu_quota_us - 1) / r->cpu_period_us + 1;
    if (cpus <= 0)
        cpus = c->cpus;
    most = min_of(c->cpus_max, (uint32_t)LIMIT_VCPUS);
    s->status.cpus = cpus < most ? (uint32_t)cpus : most;
}

int sandbox_prepare_run(struct sandbox *s, struct error **err)
{
    const struct node_config *c = &s->node->config;
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;
    _cleanup_(freep) char *parent = NULL;
    int r = node_runtime_status(s->node, err);

    if (r < 0)
        return error_prefix(err, r, "no pod can run now");
    r = cni_status(c->cni_conf_dir, c->cni_bin_dirs, &net, err);
    if (r < 0)
        return error_prefix(err, r, "no network for pods");
    r = cgroup_parent_path(s->spec.cgroup_parent ? s->spec.cgroup_parent : "", &parent, err);
    if (r < 0)
        return r;
    s->state = SANDBOX_CREATING;
    s->status.created_at_ns = clock_real_ns();
    if (s->status.created_at_ns == 0) /* a clock before 1970; kubelet wants a positive number */
        s->status.created_at_ns = 1;
    s->status.boot_id = str_dup(s->node->boot_id);
    s->status.netns_path = str_printf("%s/nexus-%.12s", c->netns_dir, s->id);
    s->status.cni_config = str_dup(net->json);
    size_vm(s);
    return 0;
}

/* ---- network */

static void take_result(struct sandbox *s, const struct cni_result *result)
{
    free(s->status.cni_result);
    s->status.cni_result = str_dup(result->json);
    strv_free(s->status.ips);
    s->status.ips = NULL;
    for (size_t i = 0; i < result->n_ips; i++)
        strv_push(&s->status.ips, result->ips[i].address);
}

static void on_added(struct cni_call *call, int r, struct cni_result *result,
                     const struct error *err, void *userdata)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    struct error *copy = NULL;

    s->cni = NULL;
    s->cni_timer = sd_event_source_disable_unref(s->cni_timer);
    cni_network_free(TAKE(s->cni_net));
    if (r >= 0 && result)
        take_result(s, result);
    if (r >= 0 && (!result || result->n_ips == 0))
        r = error_set_class(&copy, ERROR_INTERNAL, -EBADMSG, "CNI ADD gave the pod no address");
    else if (r < 0)
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    if (s->del_after_add) { /* the plan has turned back and waits for just this */
        error_free(copy);
        s->del_after_add = false;
        release_network_now(s);
        return;
    }
    release_call_ended(s, r, copy);
}

static int run_network(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    _cleanup_(freep) struct cni_port_mapping *ports = NULL;
    struct cni_request req;
    int r;

    s->status.network_owed = true;
    s->cni_step = plan_current_step(run);
    s->cni_run = run;
    r = cni_network_parse(s->status.cni_config, strlen(s->status.cni_config), "saved configuration",
                          &s->cni_net, err);
    if (r < 0)
        return r;
    sandbox_cni_request(s, &req, &ports);
    r = cni_add(s->node->event, s->cni_net, &req, on_added, s, &s->cni, err);
    return r < 0 ? error_prefix(err, r, "CNI ADD") : 1;
}

static int on_add_patience_over(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;

    s->cni_timer = sd_event_source_disable_unref(s->cni_timer);
    if (s->cni)
        cni_call_cancel(s->cni); /* on_added follows */
    return 0;
}

/* An ADD that goes well is let run to its end, and DEL follows: a plugin killed while it works can
 * leave what no DEL finds (host-local: an empty lease file). */
static void cancel_network(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    if (s->cni && !s->cni_timer &&
        sd_event_add_time_relative(s->node->event, &s->cni_timer, CLOCK_MONOTONIC,
                                   ADD_PATIENCE_MS * 1000ULL, 0, on_add_patience_over, s) < 0)
        cni_call_cancel(s->cni);
}

/* ---- the VM */

static char **vmm_arguments(const struct sandbox *s)
{
    const struct node_config *c = &s->node->config;
    _cleanup_(freep) char *cpus = str_printf("%u", s->status.cpus);
    _cleanup_(freep) char *memory =
        str_printf("%lluM", (unsigned long long)(s->status.memory_bytes / MIB));
    unsigned char mac[6];
    char text[18];
    char **args = NULL;

    random_bytes(mac, sizeof(mac)); /* until the guest takes over the one that CNI chose */
    mac[0] = (unsigned char)((mac[0] | 2U) & 0xfeU);
    (void)snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
                   mac[3], mac[4], mac[5]);
    const char *const fixed[] = {"--id", s->id, "--cpus", cpus, "--memory", memory, "--mac", text};
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        strv_push(&args, fixed[i]);
    for (char *const *a = c->vmm_args; a && *a; a++)
        strv_push(&args, *a);
    return args;
}

/* Its identity is on disk before it executes; see vmm-process.h. */
static int spawn(struct sandbox *s, int control, struct error **err)
{
    _cleanup_(strv_freep) char **args = vmm_arguments(s);
    _cleanup_(closep) int go = -EBADF;
    const struct vmm_fd fds[] = {
        {"--kvm", s->files.kvm}, {"--kernel", s->files.kernel}, {"--initramfs", s->files.initramfs},
        {"--net", s->tap_fd},    {"--scratch", s->scratch_fd},  {"--control", control},
    };
    const struct vmm_spawn args_of = {
        .path = s->node->config.vmm_path,
        .args = args,
        .fds = fds,
        .n_fds = ARRAY_SIZE(fds),
        .cgroup_fd = s->cgroup_fd,
        .log_level = s->node->config.log_level,
    };
    char name[LIMIT_ID_MAX + 8];
    int r = vmm_spawn(&args_of, &s->process, &go, err);

    if (r >= 0)
        r = sandbox_watch_process(s, err);
    if (r < 0)
        return r;
    r = FP("pod.run.spawned");
    if (r < 0)
        return error_set(err, r, "failpoint after spawning nexus-vmm");
    sandbox_pid_name(s, name);
    r = vmm_process_save(s->node->vmm_dirfd, name, &s->process, s->node->boot_id, err);
    if (r >= 0 && vmm_spawn_go(go) < 0)
        r = error_set(err, -EPIPE, "nexus-vmm ended before it began");
    return r;
}

static int run_vmm(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    _cleanup_(closep) int control = -EBADF;
    char name[LIMIT_ID_MAX + 8];
    int r;

    sandbox_socket_name(s, name);
    r = control = vmm_socket_listen(s->node->vmm_dirfd, name, err);
    if (r >= 0)
        r = spawn(s, control, err);
    if (r < 0)
        return r;
    s->files.kvm = close_fd(s->files.kvm);
    s->files.kernel = close_fd(s->files.kernel);
    s->files.initramfs = close_fd(s->files.initramfs);
    s->scratch_fd = close_fd(s->scratch_fd);
    s->cgroup_fd = close_fd(s->cgroup_fd);
    return 0;
}

/* ---- the guest */

static int run_hello(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r = sandbox_connect(s, err);

    return r < 0 ? r : sandbox_wait_for(s, run, SANDBOX_WAIT_HELLO);
}

static int on_boot_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;
    struct error *err = NULL;

    (void)error_set(&err, -ETIMEDOUT, "the guest did not say hello within %u ms",
                    s->node->config.boot_timeout_ms);
    s->wait = SANDBOX_WAIT_NONE;
    s->wait_timer = sd_event_source_disable_unref(s->wait_timer);
    plan_step_done(s->plan, s->wait_step, -ETIMEDOUT, err);
    return 0;
}

static int run_guest(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    int r;

    if (s->guest_ready)
        return 0;
    r = sd_event_add_time_relative(s->node->event, &s->wait_timer, CLOCK_MONOTONIC,
                                   s->node->config.boot_timeout_ms * 1000ULL, 0, on_boot_timeout,
                                   s);
    if (r < 0)
        return error_set(err, r, "cannot set the boot deadline");
    return sandbox_wait_for(s, run, SANDBOX_WAIT_GUEST);
}

static int on_no_cause(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;

    s->wait_timer = sd_event_source_disable_unref(s->wait_timer);
    s->wait = SANDBOX_WAIT_NONE;
    plan_step_done(s->plan, RUN_CONFIGURE, -ECONNRESET, TAKE(s->pending));
    return 0;
}

/* A lost connection is mostly the first sign of a VM that ends. Why it does is told a moment later, and
 * fails the plan with a better text than this one. */
static bool wait_for_cause(struct sandbox *s, struct error *err)
{
    if (err->class != ERROR_UNAVAILABLE ||
        sd_event_add_time_relative(s->node->event, &s->wait_timer, CLOCK_MONOTONIC,
                                   CAUSE_PATIENCE_MS * 1000ULL, 0, on_no_cause, s) < 0)
        return false;
    error_free(s->pending);
    s->pending = err;
    return true;
}

static void on_configured(void *userdata, int r, const Nexus__VmmState *state,
                          const struct error *err)
{
    struct sandbox *s = userdata;
    struct error *copy = NULL;

    s->call = NULL;
    if (r < 0) {
        (void)error_set_class(&copy, (int)error_class_of(err, r), r, "sandbox settings: %s",
                              error_text(err, r));
        if (copy && wait_for_cause(s, copy))
            return;
    }
    s->wait = SANDBOX_WAIT_NONE;
    plan_step_done(s->plan, RUN_CONFIGURE, r < 0 ? r : 0, copy);
}

static int run_configure(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;
    _cleanup_(arena_freep) struct arena *a = arena_new(CONFIG_ARENA_BYTES);
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    int r;

    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_CONFIGURE;
    m.configure = guest_sandbox_config(a, s, s->net, err);
    if (!m.configure)
        return -EINVAL;
    if (!s->client)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN, "nexus-vmm is not connected");
    r = vmm_client_call(s->client, &m, NULL, 0, REQUEST_TIMEOUT_MS, on_configured, s, &s->call,
                        err);
    return r < 0 ? r : sandbox_wait_for(s, run, SANDBOX_WAIT_CALL);
}

static void on_saved(void *userdata, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->op = NULL;
    plan_step_written(s->plan, RUN_COMMIT, r, err, "sandbox", s->id);
}

static int save_as(struct sandbox *s, enum sandbox_state as, bool owed, struct error **err)
{
    int r = sandbox_save(s, as, owed, on_saved, s, &s->op, err);

    return r < 0 ? r : 1;
}

/* The record says READY; the sandbox is it when the plan is over: until then it can still turn back. */
static int run_commit(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;

    free(TAKE(s->net));
    vmm_files_done(&s->files);
    s->netns_fd = close_fd(s->netns_fd);
    return save_as(s, SANDBOX_READY, false, err);
}

static int undo_commit(struct plan_run *run, void *object, struct error **err)
{
    return save_as(object, SANDBOX_CREATING, true, err);
}

static const struct plan_step run_steps[] = {
    [RUN_NETNS] = {"netns", 0, 0, 0, net_netns, release_netns, net_cancel},
    [RUN_NETWORK] = {"network", PLAN_NEEDS(RUN_NETNS), PLAN_SAVE, 0, run_network, release_network,
                     cancel_network},
    [RUN_TAP] = {"tap", PLAN_NEEDS(RUN_NETNS), PLAN_VOLATILE, 0, net_tap, net_undo_tap, net_cancel},
    [RUN_CGROUP] = {"cgroup", PLAN_NEEDS(RUN_NETNS), 0, 0, host_cgroup, release_cgroup,
                    host_cancel_cgroup},
    [RUN_SCRATCH] = {"scratch", PLAN_NEEDS(RUN_NETNS), 0, 0, host_scratch, release_scratch,
                     host_cancel_scratch},
    [RUN_FILES] = {"files", PLAN_NEEDS(RUN_NETNS), PLAN_VOLATILE, 0, host_files, release_files,
                   host_cancel_files},
    [RUN_VMM] = {"vmm",
                 PLAN_NEEDS(RUN_TAP) | PLAN_NEEDS(RUN_CGROUP) | PLAN_NEEDS(RUN_SCRATCH) |
                     PLAN_NEEDS(RUN_FILES),
                 0, EXIT_TIMEOUT_MS, run_vmm, release_process, release_cancel},
    [RUN_HELLO] = {"hello", PLAN_NEEDS(RUN_VMM), PLAN_VOLATILE, HELLO_TIMEOUT_MS, run_hello, NULL,
                   release_cancel},
    [RUN_GUEST] = {"guest", PLAN_NEEDS(RUN_HELLO), PLAN_VOLATILE, 0, run_guest, NULL,
                   release_cancel},
    [RUN_REDIRECT] = {"redirect", PLAN_NEEDS(RUN_NETWORK) | PLAN_NEEDS(RUN_TAP), PLAN_VOLATILE, 0,
                      net_redirect, net_undo_redirect, net_cancel},
    [RUN_CONFIGURE] = {"configure", PLAN_NEEDS(RUN_GUEST) | PLAN_NEEDS(RUN_REDIRECT), PLAN_VOLATILE,
                       0, run_configure, NULL, release_cancel},
    [RUN_COMMIT] = {"commit", PLAN_NEEDS(RUN_CONFIGURE), PLAN_VOLATILE, 0, run_commit, undo_commit,
                    release_cancel_save},
};
const struct plan sandbox_run_plan = {"pod.run", PLAN_UNDOABLE, run_steps, ARRAY_SIZE(run_steps)};
