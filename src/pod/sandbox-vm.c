/* SPDX-License-Identifier: Apache-2.0 */
/* The VM of a sandbox seen from nexusd: its process (pidfd), its control connection, and what both
 * say. Whatever they say changes this sandbox only. */
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/vmm-client.h"
#include "wire/reply.h"

#define RECONNECT_MS 500

void sandbox_socket_name(const struct sandbox *s, char ret[LIMIT_ID_MAX + 8])
{
    (void)snprintf(ret, LIMIT_ID_MAX + 8, "%s.sock", s->id);
}

void sandbox_pid_name(const struct sandbox *s, char ret[LIMIT_ID_MAX + 8])
{
    (void)snprintf(ret, LIMIT_ID_MAX + 8, "%s.pid", s->id);
}

void sandbox_remove_files(struct sandbox *s)
{
    char name[LIMIT_ID_MAX + 8];

    sandbox_socket_name(s, name);
    (void)unlinkat(s->node->vmm_dirfd, name, 0);
    sandbox_pid_name(s, name);
    (void)unlinkat(s->node->vmm_dirfd, name, 0);
    share_end(s);
}

/* ---- steps that wait */

int sandbox_wait_for(struct sandbox *s, const struct plan_run *run, enum sandbox_wait what)
{
    s->wait = what;
    s->wait_step = plan_current_step(run);
    return 1;
}

static bool any_running(const struct sandbox *s)
{
    const struct container *c;

    list_foreach (c, &s->containers, node)
        if (c->state == CONTAINER_RUNNING || c->state == CONTAINER_STARTING)
            return true;
    return false;
}

void sandbox_poke(struct sandbox *s)
{
    bool over = false;

    if (!s->plan)
        return;
    switch (s->wait) {
    case SANDBOX_WAIT_NONE:
    case SANDBOX_WAIT_CALL: /* its own callback tells */
        return;
    case SANDBOX_WAIT_HELLO:
        over = s->client && !s->hello_pending;
        break;
    case SANDBOX_WAIT_GUEST:
        over = s->guest_ready;
        break;
    case SANDBOX_WAIT_CONTAINERS:
        over = !any_running(s) || s->process.pidfd < 0;
        break;
    case SANDBOX_WAIT_EXIT:
        over = s->process.pidfd < 0;
        break;
    }
    if (!over)
        return;
    s->wait = SANDBOX_WAIT_NONE;
    s->wait_timer = sd_event_source_disable_unref(s->wait_timer);
    plan_step_done(s->plan, s->wait_step, 0, NULL);
}

/* ---- the process */

static void describe_exit(int status, char *text, size_t size)
{
    if (WIFSIGNALED(status))
        (void)snprintf(text, size, "nexus-vmm was killed by signal %d (%s)", WTERMSIG(status),
                       sigabbrev_np(WTERMSIG(status)) ? sigabbrev_np(WTERMSIG(status)) : "?");
    else
        (void)snprintf(text, size, "nexus-vmm exited with %d%s", WEXITSTATUS(status),
                       WEXITSTATUS(status) == 126   ? " (it could not be executed)"
                       : WEXITSTATUS(status) == 125 ? " (it could not be set up)"
                                                    : "");
}

static bool was_oom_killed(struct sandbox *s)
{
    struct cgroup_usage usage = {0};

    return s->status.cgroup_path &&
           cgroup_read_usage(s->node->cgroups, s->status.cgroup_path, &usage, NULL) >= 0 &&
           usage.oom_kills > 0;
}

static int on_process_exit(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    char text[128] = "nexus-vmm ended";
    int status = 0;
    bool oom;
    int r = vmm_process_reap(&s->process, &status);

    if (r == -EAGAIN)
        return 0;
    if (r >= 0)
        describe_exit(status, text, sizeof(text));
    oom = was_oom_killed(s);
    s->process_io = sd_event_source_disable_unref(s->process_io);
    s->reconnect = sd_event_source_disable_unref(s->reconnect);
    vmm_process_close(&s->process);
    sandbox_disconnect(s);
    sandbox_remove_files(s);
    log_debug("%s", text);
    sandbox_vm_gone(s, oom ? "OOMKilled" : "VMMCrashed", text, oom);
    recovery_adopted(s);
    return 0;
}

int sandbox_watch_process(struct sandbox *s, struct error **err)
{
    int r = sd_event_add_io(s->node->event, &s->process_io, s->process.pidfd, EPOLLIN,
                            on_process_exit, s);

    return r < 0 ? error_set(err, r, "cannot watch nexus-vmm: %s", strerror(-r)) : 0;
}

void sandbox_kill_vm(struct sandbox *s, const char *reason, const char *message)
{
    int r;

    sandbox_set_reason(s, reason, message);
    r = vmm_process_kill(&s->process);
    if (r < 0)
        log_error_errno(r, "cannot kill nexus-vmm, pid %d", (int)s->process.pid);
}

/* ---- the connection */

static const struct {
    Nexus__VmmState__End end;
    const char *reason;
} end_reasons[] = {
    {NEXUS__VMM_STATE__END__POWEROFF, "GuestPoweredOff"},
    {NEXUS__VMM_STATE__END__RESET, "GuestReset"},
    {NEXUS__VMM_STATE__END__PANIC, "GuestPanic"},
    {NEXUS__VMM_STATE__END__TRIPLE_FAULT, "GuestTripleFault"},
    {NEXUS__VMM_STATE__END__INTERNAL_ERROR, "VMError"},
    {NEXUS__VMM_STATE__END__AGENT_LOST, "AgentUnresponsive"},
    {NEXUS__VMM_STATE__END__KILLED, "VMKilled"},
};

static void guest_ended(struct sandbox *s, Nexus__VmmState__End end, const char *detail)
{
    char text[LIMIT_ERROR_TEXT_BYTES];
    const char *reason = "VMEnded";

    for (size_t i = 0; i < ARRAY_SIZE(end_reasons); i++)
        if (end_reasons[i].end == end)
            reason = end_reasons[i].reason;
    reply_clean_text(text, sizeof(text), detail);
    sandbox_vm_gone(s, reason, text[0] ? text : "no detail", false);
}

static void guest_said_hello(struct sandbox *s, const Nexus__AgentHello *hello)
{
    char text[80];

    s->guest_ready = true;
    if (!hello)
        return;
    reply_clean_text(text, sizeof(text), hello->kernel_release);
    free(s->status.guest_kernel);
    s->status.guest_kernel = str_dup(text);
}

static struct container *own_container(struct sandbox *s, const char *id)
{
    struct container *c;

    list_foreach (c, &s->containers, node)
        if (strcmp(c->id, id) == 0)
            return c;
    return NULL;
}

static void on_event(void *userdata, const Nexus__ControlEvent *event)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    struct container *c;

    switch ((int)event->body_case) {
    case NEXUS__CONTROL_EVENT__BODY_GUEST_READY:
        guest_said_hello(s, event->guest_ready);
        break;
    case NEXUS__CONTROL_EVENT__BODY_CONTAINER_STARTED:
        c = own_container(s, event->container_started->id);
        if (c)
            container_on_state(c, event->container_started);
        break;
    case NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED:
        c = own_container(s, event->container_exited->id);
        if (c)
            container_on_state(c, event->container_exited);
        break;
    case NEXUS__CONTROL_EVENT__BODY_VM_ENDED:
        guest_ended(s, event->vm_ended->end, event->vm_ended->detail);
        break;
    case NEXUS__CONTROL_EVENT__BODY_OOM:
        c = own_container(s, event->oom->container_id);
        if (c)
            log_warning("container %s ran out of its memory limit", c->id);
        break;
    default: /* from a newer nexus-vmm */
        break;
    }
    sandbox_poke(s);
}

static void on_closed(void *userdata, int r, const char *why)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    log_debug("control connection ended: %s", why);
    sandbox_disconnect(s);
    sandbox_reconnect_later(s); /* if the process ended, its pidfd tells and this is dropped */
    recovery_adopted(s);
}

static const struct vmm_client_ops client_ops = {on_event, on_closed};

static const Nexus__ContainerState *find_state(const Nexus__VmmState *state, const char *id)
{
    for (size_t i = 0; i < state->n_containers; i++)
        if (strcmp(state->containers[i]->id, id) == 0)
            return state->containers[i];
    return NULL;
}

/* A container that nexus-vmm has and we do not: left from a plan that a crash undid. */
static void remove_stranger(struct sandbox *s, const char *id)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__RemoveContainer body = NEXUS__REMOVE_CONTAINER__INIT;

    body.container_id = (char *)(uintptr_t)id;
    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_REMOVE_CONTAINER;
    m.remove_container = &body;
    (void)vmm_client_call(s->client, &m, NULL, 0, REQUEST_TIMEOUT_MS, NULL, NULL, NULL, NULL);
}

static void take_state(struct sandbox *s, const Nexus__VmmState *state)
{
    struct container *c, *next;

    if (state->phase == NEXUS__VMM_STATE__PHASE__READY)
        guest_said_hello(s, state->guest);
    if (state->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        s->vm_ended = true;
    if (s->state != SANDBOX_CREATING) {
        list_foreach_safe (c, next, &s->containers, node)
            container_adopt(c, find_state(state, c->id));
        for (size_t i = 0; i < state->n_containers && !s->vm_ended; i++)
            if (!own_container(s, state->containers[i]->id))
                remove_stranger(s, state->containers[i]->id);
    }
    if (s->state == SANDBOX_READY && !s->vm_ended) {
        regions_take(s, state);
        volumes_resume(s);
    }
    if (s->vm_ended)
        guest_ended(s, state->end, state->end_detail);
}

static void on_hello(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->hello_pending = false;
    if (r == -ECONNRESET)
        return; /* whoever closed it goes on from there */
    if (r < 0 || !state || state->version != 1 || !str_equal(state->sandbox_id, s->id)) {
        log_warning("nexus-vmm did not answer hello as it should: %s",
                    r < 0 ? error_text(err, r) : "another version, or another sandbox");
        sandbox_disconnect(s);
        sandbox_reconnect_later(s);
    } else {
        take_state(s, state);
    }
    sandbox_poke(s);
    recovery_adopted(s);
}

int sandbox_connect(struct sandbox *s, struct error **err)
{
    char name[LIMIT_ID_MAX + 8];
    int r;

    s->reconnect = sd_event_source_disable_unref(s->reconnect);
    if (s->client)
        return 0;
    sandbox_socket_name(s, name);
    r = vmm_client_connect(s->node->event, s->node->vmm_dirfd, name, HELLO_TIMEOUT_MS, &client_ops,
                           on_hello, s, &s->client, err);
    s->hello_pending = r >= 0;
    return r;
}

void sandbox_disconnect(struct sandbox *s)
{
    struct vmm_client *client = TAKE(s->client);

    s->hello_pending = false;
    if (!client)
        return;
    vmm_client_abort(client, "given up");
    vmm_client_free(client);
}

static int on_reconnect(sd_event_source *source, uint64_t usec, void *userdata)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    s->reconnect = sd_event_source_disable_unref(s->reconnect);
    r = sandbox_connect(s, &err);
    if (r < 0) {
        log_debug("cannot connect again: %s", error_text(err, r));
        sandbox_reconnect_later(s);
    }
    return 0;
}

void sandbox_reconnect_later(struct sandbox *s)
{
    if (s->process.pidfd < 0 || s->reconnect)
        return;
    (void)sd_event_add_time_relative(s->node->event, &s->reconnect, CLOCK_MONOTONIC,
                                     RECONNECT_MS * 1000ULL, 0, on_reconnect, s);
}
