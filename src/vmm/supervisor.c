/* SPDX-License-Identifier: Apache-2.0 */
/* Life of the pod as seen from the host: boot, hello, the snapshot for nexusd, the end. What nexusd asks
 * for is in supervisor-request.c. */
#include "vmm/supervisor.h"

#include <ctype.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "vmm/stream.h"
#include "vmm/supervisor-internal.h"
#include "wire/message.h"
#include "wire/reply.h"

#define TEXT_MAX 256 /* a version string of the guest */
#define STATE_ARENA_BYTES (1U << 20)
#define FORCE_MARGIN_MAX_MS 1000 /* of the grace, kept for the power-off itself */

/* ---- lookup */

struct container *supervisor_container(struct supervisor *sup, const char *id)
{
    struct container *c;

    list_foreach (c, &sup->containers, link)
        if (strcmp(c->id, id) == 0)
            return c;
    return NULL;
}

struct container *supervisor_container_by_serial(struct supervisor *sup, uint64_t serial)
{
    struct container *c;

    list_foreach (c, &sup->containers, link)
        if (c->serial == serial)
            return c;
    return NULL;
}

void supervisor_drop_container(struct supervisor *sup, struct container *c)
{
    sup->n_containers--;
    container_free(c);
}

struct region *supervisor_region(struct supervisor *sup, const char *key)
{
    struct region *r;

    list_foreach (r, &sup->regions, link)
        if (strcmp(r->key, key) == 0)
            return r;
    return NULL;
}

void supervisor_drop_region(struct supervisor *sup, struct region *r)
{
    list_remove(&r->link);
    sup->n_regions--;
    free(r->key);
    free(r->what);
    free(r);
}

/* ---- the snapshot */

struct counters {
    struct arena *arena;
    Nexus__VmmState *state;
    size_t room;
};

static void add_counter(void *ctx, const char *name, uint64_t value)
{
    struct counters *c = ctx;
    Nexus__Counter *m;

    if (c->state->n_counters == c->room) {
        size_t room = c->room ? 2 * c->room : 32;
        Nexus__Counter **more = arena_alloc(c->arena, room * sizeof(*more));

        if (!more)
            return;
        if (c->room)
            memcpy(more, c->state->counters, c->room * sizeof(*more));
        c->state->counters = more;
        c->room = room;
    }
    m = arena_alloc(c->arena, sizeof(*m));
    if (!m)
        return;
    nexus__counter__init(m);
    m->name = arena_strdup(c->arena, name);
    m->value = value;
    if (m->name)
        c->state->counters[c->state->n_counters++] = m;
}

static void add_counters(struct supervisor *sup, struct arena *arena, Nexus__VmmState *state)
{
    struct counters ctx = {.arena = arena, .state = state};
    uint64_t dropped = 0;
    struct container *c;

    list_foreach (c, &sup->containers, link)
        dropped += c->log ? cri_log_dropped(c->log) : c->log_dropped;
    add_counter(&ctx, "agent.messages", agent_link_received(sup->agent));
    add_counter(&ctx, "agent.ping_ns", agent_link_ping_ns(sup->agent));
    add_counter(&ctx, "exec.opened", sup->n_execs);
    add_counter(&ctx, "exec.active", sup->n_streams);
    add_counter(&ctx, "log.dropped_bytes", dropped);
    if (sup->ops->counters)
        sup->ops->counters(sup->ud, add_counter, &ctx);
}

static void add_containers(struct supervisor *sup, struct arena *arena, Nexus__VmmState *state)
{
    struct container *c;

    state->containers = arena_alloc(arena, sup->n_containers * sizeof(*state->containers));
    list_foreach (c, &sup->containers, link) {
        Nexus__ContainerState *m = arena_alloc(arena, sizeof(*m));

        if (!m || !state->containers || c->state == CONTAINER_CREATING)
            continue; /* it does not exist until the agent says so */
        container_describe(c, m);
        state->containers[state->n_containers++] = m;
    }
}

static void add_regions(struct supervisor *sup, struct arena *arena, Nexus__VmmState *state)
{
    struct region *r;

    state->regions = arena_alloc(arena, sup->n_regions * sizeof(*state->regions));
    list_foreach (r, &sup->regions, link) {
        Nexus__RegionState *m = arena_alloc(arena, sizeof(*m));

        if (!m || !state->regions)
            continue;
        nexus__region_state__init(m);
        m->key = r->key;
        m->what = r->what;
        m->gpa = r->gpa;
        m->bytes = r->bytes;
        m->containers = r->containers;
        m->volumes = r->volumes;
        if (sup->ops->count_region)
            sup->ops->count_region(sup->ud, r->gpa, &m->denied_writes, &m->repaired_pages);
        state->regions[state->n_regions++] = m;
    }
}

void supervisor_send_state(struct supervisor *sup, struct control_caller who)
{
    _cleanup_(arena_freep) struct arena *arena = arena_new(STATE_ARENA_BYTES);
    Nexus__VmmState state = NEXUS__VMM_STATE__INIT;

    state.version = CONTROL_PROTOCOL_VERSION;
    if (sup->sandbox_id)
        state.sandbox_id = sup->sandbox_id;
    state.phase = sup->phase;
    state.end = sup->end;
    if (sup->end_detail)
        state.end_detail = sup->end_detail;
    state.guest = sup->hello;
    state.configured = sup->configured;
    add_containers(sup, arena, &state);
    add_regions(sup, arena, &state);
    add_counters(sup, arena, &state);
    control_send_state(sup->control, who, &state);
}

void supervisor_tell_started(struct supervisor *sup, struct container *c)
{
    Nexus__ControlEvent event = NEXUS__CONTROL_EVENT__INIT;
    Nexus__ContainerState m;

    container_describe(c, &m);
    event.body_case = NEXUS__CONTROL_EVENT__BODY_CONTAINER_STARTED;
    event.container_started = &m;
    control_send_event(sup->control, &event);
}

void supervisor_tell_exited(struct supervisor *sup, struct container *c)
{
    Nexus__ControlEvent event = NEXUS__CONTROL_EVENT__INIT;
    Nexus__ContainerState m;

    log_info("container %s exited with code %d%s", c->id, c->exit.code,
             c->exit.oom_killed ? " (out of memory)" : "");
    container_describe(c, &m);
    event.body_case = NEXUS__CONTROL_EVENT__BODY_CONTAINER_EXITED;
    event.container_exited = &m;
    control_send_event(sup->control, &event);
}

/* ---- the agent */

static char *clean_dup(const char *text)
{
    char out[TEXT_MAX];

    reply_clean_text(out, sizeof(out), text);
    return str_dup(out);
}

static void on_hello(void *ud, const Nexus__AgentHello *hello)
{
    struct supervisor *sup = ud;
    Nexus__ControlEvent event = NEXUS__CONTROL_EVENT__INIT;
    Nexus__AgentHello *copy = xcalloc(1, sizeof(*copy));

    nexus__agent_hello__init(copy);
    copy->version = hello->version;
    copy->kernel_release = clean_dup(hello->kernel_release);
    copy->agent_version = clean_dup(hello->agent_version);
    copy->boot_ns = hello->boot_ns;
    copy->ready_ns = hello->ready_ns;
    copy->early_ns = hello->early_ns;
    sup->hello = copy;
    sup->phase = NEXUS__VMM_STATE__PHASE__READY;
    spare_start(sup->spare);
    log_info("the guest is ready: kernel %s, agent %s", copy->kernel_release, copy->agent_version);
    event.body_case = NEXUS__CONTROL_EVENT__BODY_GUEST_READY;
    event.guest_ready = copy;
    control_send_event(sup->control, &event);
    if (sup->hello_fn)
        sup->hello_fn(sup->hello_ud, copy);
}

static void on_oom(void *ud, const char *container_id)
{
    struct supervisor *sup = ud;
    struct container *c = supervisor_container(sup, container_id);
    Nexus__ControlEvent event = NEXUS__CONTROL_EVENT__INIT;
    Nexus__OomEvent oom = NEXUS__OOM_EVENT__INIT;

    if (!c) {
        log_limited(LOG_WARNING, "in guest: out of memory in an unknown container, ignoring");
        return;
    }
    log_limited(LOG_NOTICE, "container %s: the guest killed for memory", c->id);
    c->oom_seen = true;
    oom.container_id = c->id;
    event.body_case = NEXUS__CONTROL_EVENT__BODY_OOM;
    event.oom = &oom;
    control_send_event(sup->control, &event);
}

static void on_guest_log(void *ud, uint32_t level, const char *text)
{
    enum log_level l = level >= LOG_ERROR && level <= LOG_DEBUG ? (enum log_level)level : LOG_INFO;
    char clean[1024];

    if (l > log_get_level())
        return;
    reply_clean_text(clean, sizeof(clean), text);
    log_limited(l, "guest: %s", clean);
}

static void on_agent_violation(void *ud, const char *what)
{
    supervisor_lose_agent(ud, what);
}

static void on_agent_closed(void *ud, int reason)
{
    supervisor_await_end(ud);
}

static const struct agent_link_ops agent_ops = {
    .on_hello = on_hello,
    .on_oom = on_oom,
    .on_log = on_guest_log,
    .on_violation = on_agent_violation,
    .on_closed = on_agent_closed,
};

static bool on_agent_accept(struct transport_conn *c, void *ud)
{
    struct supervisor *sup = ud;

    return sup->phase != NEXUS__VMM_STATE__PHASE__ENDED && agent_link_accept(sup->agent, c);
}

int supervisor_check_guest(struct supervisor *sup, struct error **err)
{
    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "the VM has ended: %s",
                               sup->end_detail);
    if (sup->phase == NEXUS__VMM_STATE__PHASE__BOOTING)
        return error_set(err, -EAGAIN, "the guest is still booting");
    if (!agent_link_is_ready(sup->agent))
        return error_set(err, -ECONNRESET, "the connection to the guest agent is lost");
    if (sup->shutting_down)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "the VM is shutting down");
    return 0;
}

/* ---- the end */

/* The names of proto/nexus.proto: descriptors have none. */
static const char *end_name(Nexus__VmmState__End end)
{
    static const char *const names[] = {"NONE",         "POWEROFF",       "RESET",      "PANIC",
                                        "TRIPLE_FAULT", "INTERNAL_ERROR", "AGENT_LOST", "KILLED"};

    return (unsigned)end < ARRAY_SIZE(names) ? names[end] : "?";
}

/* "triple-fault" of TRIPLE_FAULT: how a person reads it. */
static void end_word(Nexus__VmmState__End end, char ret[32])
{
    (void)snprintf(ret, 32, "%s", end_name(end));
    for (char *p = ret; *p; p++)
        *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
}

static void end_containers(struct supervisor *sup, const struct error *err)
{
    bool oom = sup->end == NEXUS__VMM_STATE__END__PANIC &&
               strcasestr(sup->end_detail, "out of memory") != NULL;
    struct container *c, *tmp;

    list_foreach_safe (c, tmp, &sup->containers, link) {
        struct control_caller starter = c->starter;
        bool started = c->state == CONTAINER_RUNNING;

        if (c->state == CONTAINER_CREATING) {
            control_reply(sup->control, c->creator, -err->code, err);
            supervisor_drop_container(sup, c);
            continue;
        }
        if (!started && c->state != CONTAINER_STARTING)
            continue;
        if (started) { /* why it is 255: the text reaches kubelet with the status */
            free(c->error);
            c->error = str_dup(err->message);
        }
        container_force_exit(c, oom ? CONTAINER_CODE_KILLED : CONTAINER_CODE_LOST, oom);
        if (!started)
            control_reply(sup->control, starter, -err->code, err);
        supervisor_tell_exited(sup, c);
    }
}

static void leave(struct supervisor *sup)
{
    if (sup->exited)
        return;
    sup->exited = true;
    for (size_t i = 0; i < sup->n_shutdown_callers; i++)
        control_reply(sup->control, sup->shutdown_callers[i], 0, NULL);
    control_flush(sup->control);
    sup->ops->exit_process(sup->ud, 0);
}

/* Everything that waits on the guest learns that it is over. True if this was the first call. */
static bool note_end(struct supervisor *sup, Nexus__VmmState__End end, const char *detail)
{
    _cleanup_(error_freep) struct error *err = NULL;
    char clean[LIMIT_ERROR_TEXT_BYTES], word[32];
    struct supervisor_stream *s, *tmp;
    Nexus__ControlEvent event = NEXUS__CONTROL_EVENT__INIT;
    Nexus__VmEnded m = NEXUS__VM_ENDED__INIT;

    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        return false;
    reply_clean_text(clean, sizeof(clean), detail && detail[0] ? detail : end_name(end));
    sup->phase = NEXUS__VMM_STATE__PHASE__ENDED;
    sup->end = end;
    sup->end_detail = str_dup(clean);
    end_word(end, word);
    log_info("the VM has ended: %s: %s", word, clean);
    loop_timer_set(sup->lost_timer, UINT64_MAX);
    loop_timer_set(sup->shutdown_timer, UINT64_MAX);
    (void)error_set_class(&err, ERROR_UNAVAILABLE, -ECONNRESET, "the VM has ended: %s: %s", word,
                          clean);

    spare_stop(sup->spare);
    agent_link_close(sup->agent); /* open requests end with an error of the link */
    supervisor_end_releases(sup);
    supervisor_end_share(sup);
    end_containers(sup, err);
    list_foreach_safe (s, tmp, &sup->streams, link)
        stream_fail(s->stream, -err->code, err);
    m.end = end;
    m.detail = sup->end_detail;
    event.body_case = NEXUS__CONTROL_EVENT__BODY_VM_ENDED;
    event.vm_ended = &m;
    control_send_event(sup->control, &event);
    return true;
}

void supervisor_vm_ended(struct supervisor *sup, Nexus__VmmState__End end, const char *detail)
{
    if (sup->end_told || sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        return;
    sup->end_told = true;
    sup->told_end = end;
    sup->told_detail = str_dup_or_null(detail);
    /* what the guest has put into its rings before it died is taken first */
    loop_defer_arm(sup->end_defer);
}

static void on_end_defer(struct loop_source *s, void *ud)
{
    struct supervisor *sup = ud;

    if (note_end(sup, sup->told_end, sup->told_detail) && sup->shutting_down)
        leave(sup);
}

/* We end the VM ourselves. The reason is noted before the machine can tell another one. */
static void kill_vm(struct supervisor *sup, Nexus__VmmState__End end, const char *detail)
{
    if (note_end(sup, end, detail))
        sup->ops->stop_vm(sup->ud);
    if (sup->shutting_down)
        leave(sup);
}

void supervisor_lose_agent(struct supervisor *sup, const char *why)
{
    char detail[512];

    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        return;
    (void)snprintf(detail, sizeof(detail), "guest agent lost: %s", why);
    kill_vm(sup, NEXUS__VMM_STATE__END__AGENT_LOST, detail);
}

void supervisor_await_end(struct supervisor *sup)
{
    /* a shutdown has its own timer, and the connections go away in the course of it */
    if (sup->phase != NEXUS__VMM_STATE__PHASE__ENDED && !sup->shutting_down)
        loop_timer_set_after_ms(sup->lost_timer, sup->times.lost_grace_ms);
}

static void on_lost_timer(struct loop_source *s, void *ud)
{
    supervisor_lose_agent(ud, "its connection was closed");
}

static void on_shutdown_timer(struct loop_source *s, void *ud)
{
    kill_vm(ud, NEXUS__VMM_STATE__END__KILLED,
            "stopped by force: the guest did not power off in time");
}

static void on_shutdown_reply(void *ud, int r, const struct error *err)
{
    if (r < 0)
        log_warning("the guest refused to shut down: %s", error_text(err, r));
}

static int ask_shutdown(struct supervisor *sup, uint32_t grace_ms)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__ShutdownGuest shutdown = NEXUS__SHUTDOWN_GUEST__INIT;
    uint32_t margin = grace_ms / 4;

    if (!agent_link_is_ready(sup->agent))
        return -ENOTCONN;
    if (margin > FORCE_MARGIN_MAX_MS)
        margin = FORCE_MARGIN_MAX_MS;
    shutdown.grace_ms = grace_ms - margin;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_SHUTDOWN;
    m.shutdown = &shutdown;
    return agent_link_request(sup->agent, &m, grace_ms, on_shutdown_reply, sup);
}

void supervisor_shutdown_for(struct supervisor *sup, struct control_caller who, uint32_t grace_ms)
{
    uint64_t force_ns = clock_mono_ns() + grace_ms * 1000000ULL;
    bool first = !sup->shutting_down;

    if (who.connection && sup->n_shutdown_callers < SUPERVISOR_SHUTDOWN_CALLERS)
        sup->shutdown_callers[sup->n_shutdown_callers++] = who;
    sup->shutting_down = true;
    loop_timer_set(sup->lost_timer, UINT64_MAX);
    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED) {
        leave(sup);
        return;
    }
    if (grace_ms && first && ask_shutdown(sup, grace_ms) < 0)
        grace_ms = 0; /* nobody there to ask */
    if (grace_ms == 0) {
        kill_vm(sup, NEXUS__VMM_STATE__END__KILLED, "stopped on request");
        return;
    }
    if (first || force_ns < sup->shutdown_ns)
        sup->shutdown_ns = force_ns;
    loop_timer_set(sup->shutdown_timer, sup->shutdown_ns);
}

void supervisor_shutdown(struct supervisor *sup, uint32_t grace_ms)
{
    supervisor_shutdown_for(sup, (struct control_caller){0}, grace_ms);
}

/* ---- life */

static void on_control(void *ud, struct control_caller who)
{
    supervisor_send_state(ud, who);
}

static void on_control_gone(void *ud, uint64_t connection)
{
    supervisor_drop_partials(ud, connection);
}

static const struct control_ops control_ops = {
    .on_control = on_control,
    .on_gone = on_control_gone,
    .on_request = supervisor_on_request,
    .on_stream = supervisor_on_stream,
};

int supervisor_new(struct loop *loop, const struct transport *transport, int control_listen_fd,
                   const struct supervisor_host_ops *ops, void *ud, struct supervisor **ret)
{
    _cleanup_(supervisor_freep) struct supervisor *sup = calloc(1, sizeof(*sup));
    int r;

    if (!sup)
        return -ENOMEM;
    sup->loop = loop;
    sup->ops = ops;
    sup->ud = ud;
    sup->times = (struct supervisor_times)SUPERVISOR_TIMES_DEFAULT;
    list_init(&sup->containers);
    list_init(&sup->regions);
    list_init(&sup->volumes);
    list_init(&sup->partials);
    list_init(&sup->streams);
    list_init(&sup->attaches);
    r = spare_new(loop, transport, &sup->spare);
    if (r < 0)
        return r;
    sup->transport = transport = spare_transport(sup->spare);
    r = loop_add_timer(loop, on_lost_timer, sup, &sup->lost_timer);
    if (r == 0)
        r = loop_add_timer(loop, on_shutdown_timer, sup, &sup->shutdown_timer);
    if (r == 0)
        r = loop_add_defer(loop, on_end_defer, sup, &sup->end_defer);
    if (r == 0)
        r = agent_link_new(loop, transport, &agent_ops, sup, &sup->agent);
    if (r == 0)
        r = transport->listen(transport->impl, TRANSPORT_PORT_CONTROL, on_agent_accept, sup);
    if (r == 0 && control_listen_fd >= 0)
        r = control_new(loop, control_listen_fd, &control_ops, sup, &sup->control);
    if (r < 0)
        return r;
    *ret = TAKE(sup);
    return 0;
}

static void free_hello(Nexus__AgentHello *hello)
{
    if (!hello)
        return;
    free(hello->kernel_release);
    free(hello->agent_version);
    free(hello);
}

void supervisor_free(struct supervisor *sup)
{
    if (!sup)
        return;
    if (sup->agent) /* the ends of open requests still look at containers */
        agent_link_free(TAKE(sup->agent));
    if (sup->transport)
        (void)sup->transport->listen(sup->transport->impl, TRANSPORT_PORT_CONTROL, NULL, NULL);
    control_free(TAKE(sup->control));
    while (!list_is_empty(&sup->streams)) {
        struct supervisor_stream *s = list_first(&sup->streams, struct supervisor_stream, link);

        list_remove(&s->link);
        stream_free(s->stream);
        free(s);
    }
    supervisor_drop_attaches(sup);
    while (!list_is_empty(&sup->containers))
        supervisor_drop_container(sup, list_first(&sup->containers, struct container, link));
    spare_free(sup->spare);
    supervisor_drop_partials(sup, 0);
    while (!list_is_empty(&sup->regions))
        supervisor_drop_region(sup, list_first(&sup->regions, struct region, link));
    loop_remove(sup->lost_timer);
    loop_remove(sup->shutdown_timer);
    loop_remove(sup->end_defer);
    free(sup->told_detail);
    free_hello(sup->hello);
    free(sup->end_detail);
    free(sup->sandbox_id);
    free(sup);
}

void supervisor_set_sandbox_id(struct supervisor *sup, const char *id)
{
    free(sup->sandbox_id);
    sup->sandbox_id = str_dup(id);
}

void supervisor_on_hello(struct supervisor *sup,
                         void (*fn)(void *ud, const Nexus__AgentHello *hello), void *ud)
{
    sup->hello_fn = fn;
    sup->hello_ud = ud;
}

void supervisor_set_times(struct supervisor *sup, const struct supervisor_times *times)
{
    sup->times = *times;
    agent_link_set_ping_ms(sup->agent, times->ping_ms);
    if (sup->control)
        control_set_hello_ms(sup->control, times->client_hello_ms);
}
