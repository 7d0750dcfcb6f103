/* SPDX-License-Identifier: Apache-2.0 */
/* What nexusd asks for, one handler per message. A handler answers at once (answer), or hands the caller
 * to a pending request of the agent, whose end answers. Nothing here waits. */
#include <signal.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "vmm/attach.h"
#include "vmm/stream.h"
#include "vmm/supervisor-internal.h"

struct pending *pending_new(struct supervisor *sup, struct control_caller who)
{
    struct pending *p = xcalloc(1, sizeof(*p));

    p->sup = sup;
    p->who = who;
    return p;
}

void pending_free(struct pending *p)
{
    if (p->region)
        p->region->volumes--;
    free(p->key);
    free(p);
}
void supervisor_answer(struct supervisor *sup, struct control_caller who, int r,
                       const struct error *err)
{
    control_reply(sup->control, who, r, err);
}

int supervisor_ask(struct supervisor *sup, Nexus__AgentMessage *m, uint32_t timeout_ms,
                   agent_reply_fn fn, struct pending *p, struct error **err)
{
    int r = agent_link_request(sup->agent, m, timeout_ms, fn, p);

    if (r < 0) {
        pending_free(p);
        return error_set(err, r,
                         r == -EMSGSIZE ? "the request is too large for the guest"
                                        : "cannot ask the guest agent");
    }
    return 0;
}

static void on_plain_reply(void *ud, int r, const struct error *err)
{
    _cleanup_(pending_freep) struct pending *p = ud;

    supervisor_answer(p->sup, p->who, r, err);
}

static int need_container(struct supervisor *sup, const char *id, struct container **ret,
                          struct error **err)
{
    *ret = supervisor_container(sup, id);
    if (!*ret)
        return error_set(err, -ENOENT, "there is no container %.64s in this pod", id);
    return 0;
}

/* ---- sandbox */

static void on_configured(void *ud, int r, const struct error *err)
{
    _cleanup_(pending_freep) struct pending *p = ud;

    if (r == 0)
        p->sup->configured = true;
    supervisor_answer(p->sup, p->who, r, err);
}

static int do_configure(struct supervisor *sup, struct control_caller who,
                        Nexus__SandboxConfig *config, struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    int r = supervisor_check_guest(sup, err);

    if (r < 0)
        return r;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_CONFIGURE;
    m.configure = config;
    return supervisor_ask(sup, &m, sup->times.request_ms, on_configured, pending_new(sup, who),
                          err);
}

/* ---- containers */

static void forget_in_guest(struct supervisor *sup, const char *id);

static void on_created(void *ud, int r, const struct error *err)
{
    _cleanup_(pending_freep) struct pending *p = ud;
    struct container *c = supervisor_container_by_serial(p->sup, p->serial);

    if (!c) /* removed meanwhile, or the VM ended: its caller has been told */
        return;
    supervisor_answer(p->sup, c->creator, r, err);
    if (r == 0) {
        c->state = CONTAINER_CREATED;
        log_info("container %s created", c->id);
        return;
    }
    if (r == -ETIMEDOUT) /* it may come to exist after all */
        forget_in_guest(p->sup, c->id);
    supervisor_drop_container(p->sup, c);
}

/* The descriptors of a CreateContainer, in the message's array; what is taken becomes -EBADF there. */
struct files {
    int *log, *termination; /* NULL: none */
};

static struct files files_of(const Nexus__CreateContainer *create, int *fds, size_t n)
{
    size_t n_logs = create->termination_log ? n - 1 : n;

    return (struct files){.log = n_logs ? &fds[0] : NULL,
                          .termination = create->termination_log ? &fds[n_logs] : NULL};
}

static int take_termination(struct container *c, const struct files *f, struct error **err)
{
    int r = f->termination ? container_set_termination(c, *f->termination) : 0;

    if (r < 0)
        return error_set(err, r, "container %s: the termination log is no writable regular file",
                         c->id);
    if (f->termination)
        *f->termination = -EBADF;
    return 0;
}

/* A caller that was lost comes back with the same request: it gets the answer of the first. */
static int join_create(struct container *c, struct control_caller who, const struct files *f,
                       struct error **err)
{
    int r;

    if (c->state != CONTAINER_CREATING)
        return error_set(err, -EEXIST, "container %s exists already", c->id);
    if (c->creator.connection == who.connection)
        return error_set(err, -EAGAIN, "container %s is being created", c->id);
    if (f->log) {
        r = cri_log_reopen(c->log, *f->log);
        if (r < 0)
            return error_set(err, r, "container %s: the log is no writable regular file", c->id);
        *f->log = -EBADF;
    }
    r = take_termination(c, f, err);
    if (r == 0)
        c->creator = who;
    return r;
}

static int check_create(struct supervisor *sup, const Nexus__CreateContainer *create, size_t n_fds,
                        struct region **ret_region, struct error **err)
{
    const Nexus__ContainerSpec *spec = create->spec;
    size_t others = create->termination_log ? 1 : 0;
    int r = supervisor_check_guest(sup, err);

    if (r < 0)
        return r;
    if (!spec || !spec->process || !container_id_is_valid(spec->id))
        return error_set(err, -EINVAL, "a container needs a process and an id of 1 to %d [a-z0-9-]",
                         LIMIT_ID_MAX);
    if (n_fds < others || n_fds > others + 1)
        return error_set(err, -EINVAL, "container %s: %zu files for its logs", spec->id, n_fds);
    if (!sup->configured)
        return error_set(err, -EBUSY, "the pod has no sandbox settings yet");
    *ret_region = supervisor_region(sup, create->rootfs_region);
    if (!*ret_region || (*ret_region)->releasing)
        return error_set_class(err, ERROR_PRECONDITION, -ENOENT,
                               "container %s: region %.256s was not added", spec->id,
                               create->rootfs_region);
    return 0;
}

static int new_container(struct supervisor *sup, const char *id, const struct files *f,
                         struct container **ret, struct error **err)
{
    struct cri_log *log = NULL;
    struct container *c;
    int r;

    if (sup->n_containers >= LIMIT_CONTAINERS_PER_POD)
        return error_set(err, -ENOSPC, "the pod has %d containers already",
                         LIMIT_CONTAINERS_PER_POD);
    r = cri_log_new(f->log ? *f->log : -1, &log);
    if (r < 0)
        return error_set(err, r, "container %s: the log is no writable regular file", id);
    if (f->log)
        *f->log = -EBADF; /* the log's now */
    c = container_new(id, log, &supervisor_container_ops, sup);
    r = take_termination(c, f, err);
    if (r < 0) {
        container_free(c);
        return r;
    }
    c->serial = ++sup->next_serial;
    list_append(&sup->containers, &c->link);
    sup->n_containers++;
    *ret = c;
    return 0;
}

static int do_create(struct supervisor *sup, struct control_caller who,
                     const Nexus__CreateContainer *create, int *fds, size_t n_fds,
                     struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    struct region *region = NULL;
    struct files files;
    struct container *c;
    struct pending *p;
    int r = check_create(sup, create, n_fds, &region, err);

    if (r < 0)
        return r;
    files = files_of(create, fds, n_fds);
    c = supervisor_container(sup, create->spec->id);
    if (c)
        return join_create(c, who, &files, err);
    r = new_container(sup, create->spec->id, &files, &c, err);
    if (r < 0)
        return r;
    container_set_region(c, region);
    c->creator = who;
    c->open_stdin = create->spec->open_stdin;
    c->stdin_once = create->spec->stdin_once;
    create->spec->rootfs_gpa = region->gpa;
    create->spec->rootfs_device = region->device;
    r = supervisor_take_volumes(sup, c, create->spec, err);
    if (r == 0)
        r = supervisor_take_modules(sup, c, create->spec, err);
    if (r < 0) {
        supervisor_drop_container(sup, c);
        return r;
    }
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER;
    m.create_container = create->spec;
    p = pending_new(sup, who);
    p->serial = c->serial;
    r = supervisor_ask(sup, &m, sup->times.create_ms, on_created, p, err);
    if (r < 0)
        supervisor_drop_container(sup, c);
    return r;
}

static int do_start(struct supervisor *sup, struct control_caller who, const char *id,
                    struct error **err)
{
    struct container *c;
    int r = need_container(sup, id, &c, err);

    if (r < 0)
        return r;
    if (c->state == CONTAINER_STARTING && c->starter.connection != who.connection) {
        c->starter = who; /* the first caller was lost */
        return 0;
    }
    r = supervisor_check_guest(sup, err);
    if (r < 0)
        return r;
    if (c->state != CONTAINER_CREATED)
        return error_set(err, -EBUSY, "container %s is not in the state created", c->id);
    c->starter = who;
    r = container_start(c, sup->loop, sup->transport, sup->times.start_ms);
    if (r < 0)
        return error_set(err, r, "container %s: cannot open a stream to the guest", c->id);
    return 0;
}

static int do_signal(struct supervisor *sup, struct control_caller who,
                     Nexus__SignalContainer *signal, struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    struct container *c;
    int r = need_container(sup, signal->container_id, &c, err);

    if (r < 0)
        return r;
    if (signal->signal > 64)
        return error_set(err, -EINVAL, "there is no signal %u", signal->signal);
    if (c->state != CONTAINER_RUNNING && c->state != CONTAINER_STARTING)
        return error_set(err, -EBUSY, "container %s is not running", c->id);
    r = supervisor_check_guest(sup, err);
    if (r < 0)
        return r;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_SIGNAL;
    m.signal = signal;
    return supervisor_ask(sup, &m, sup->times.request_ms, on_plain_reply, pending_new(sup, who),
                          err);
}

/* The container leaves the table. If it ran, nexusd hears its exit first. */
static void remove_now(struct supervisor *sup, struct container *c)
{
    if (c->state == CONTAINER_RUNNING || c->state == CONTAINER_STARTING) {
        struct control_caller starter = c->starter;
        bool starting = c->state == CONTAINER_STARTING;

        container_force_exit(c, CONTAINER_CODE_KILLED, c->oom_seen);
        if (starting) {
            _cleanup_(error_freep) struct error *err = NULL;
            int r = error_set(&err, -ECANCELED, "container %s was removed", c->id);

            supervisor_answer(sup, starter, r, err);
        }
        supervisor_tell_exited(sup, c);
    }
    log_info("container %s removed", c->id);
    supervisor_drop_container(sup, c);
}

static void on_removed(void *ud, int r, const struct error *err)
{
    _cleanup_(pending_freep) struct pending *p = ud;
    struct container *c = supervisor_container_by_serial(p->sup, p->serial);

    /* gone already, or nothing left in the guest that could hold it */
    if (!c || p->sup->phase == NEXUS__VMM_STATE__PHASE__ENDED)
        r = 0;
    if (c && r == 0)
        remove_now(p->sup, c);
    supervisor_answer(p->sup, p->who, r, r < 0 ? err : NULL);
}

static int ask_remove(struct supervisor *sup, const char *id, agent_reply_fn fn, struct pending *p,
                      struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__RemoveContainer remove = NEXUS__REMOVE_CONTAINER__INIT;

    remove.container_id = (char *)(uintptr_t)id;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER;
    m.remove_container = &remove;
    return supervisor_ask(sup, &m, sup->times.request_ms, fn, p, err);
}

/* Best effort, nobody waits: a container the guest may have although we gave up on it. */
static void forget_in_guest(struct supervisor *sup, const char *id)
{
    if (supervisor_check_guest(sup, NULL) == 0)
        (void)ask_remove(sup, id, on_plain_reply, pending_new(sup, (struct control_caller){0}),
                         NULL);
}

static void kill_in_guest(struct supervisor *sup, const char *id)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    Nexus__SignalContainer kill = NEXUS__SIGNAL_CONTAINER__INIT;

    kill.container_id = (char *)(uintptr_t)id;
    kill.signal = SIGKILL;
    kill.all = true;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_SIGNAL;
    m.signal = &kill;
    if (supervisor_check_guest(sup, NULL) == 0)
        (void)supervisor_ask(sup, &m, sup->times.request_ms, on_plain_reply,
                             pending_new(sup, (struct control_caller){0}), NULL);
}

static int do_remove(struct supervisor *sup, struct control_caller who, const char *id,
                     struct error **err)
{
    struct container *c = supervisor_container(sup, id);
    struct pending *p;
    int r;

    if (!c) {
        supervisor_answer(sup, who, 0, NULL);
        return 0;
    }
    if (c->state == CONTAINER_CREATING)
        return error_set(err, -EAGAIN, "container %s is being created", c->id);
    if (sup->phase == NEXUS__VMM_STATE__PHASE__ENDED) {
        remove_now(sup, c);
        supervisor_answer(sup, who, 0, NULL);
        return 0;
    }
    r = supervisor_check_guest(sup, err);
    if (r < 0)
        return r;
    p = pending_new(sup, who);
    p->serial = c->serial;
    return ask_remove(sup, c->id, on_removed, p, err);
}

static int do_reopen(struct supervisor *sup, struct control_caller who, const char *id, int *fds,
                     size_t n_fds, struct error **err)
{
    struct container *c;
    int r = need_container(sup, id, &c, err);

    if (r < 0)
        return r;
    if (n_fds != 1)
        return error_set(err, -EINVAL, "container %s: a reopen needs one log file", c->id);
    if (!c->log)
        return error_set(err, -EBUSY, "container %s is not running", c->id);
    r = cri_log_reopen(c->log, fds[0]);
    if (r < 0)
        return error_set(err, r, "container %s: the log is no writable regular file", c->id);
    fds[0] = -EBADF;
    supervisor_answer(sup, who, 0, NULL);
    return 0;
}

/* ---- what containers tell */

static void on_running(void *ud, struct container *c)
{
    struct supervisor *sup = ud;

    log_info("container %s started", c->id);
    supervisor_tell_started(sup, c);
    supervisor_answer(sup, c->starter, 0, NULL);
}

static void on_start_failed(void *ud, struct container *c, int r, const struct error *err)
{
    struct supervisor *sup = ud;

    supervisor_answer(sup, c->starter, r, err);
    supervisor_tell_exited(sup, c);
    if (r == -ETIMEDOUT) /* it may come to run after all, and nobody would hear it */
        kill_in_guest(sup, c->id);
}

static void on_exited(void *ud, struct container *c)
{
    supervisor_tell_exited(ud, c);
}

static void on_lost(void *ud, struct container *c, int r)
{
    struct supervisor *sup = ud;
    _cleanup_(error_freep) struct error *err = NULL;

    if (c->state != CONTAINER_STARTING || !agent_link_is_ready(sup->agent)) {
        supervisor_await_end(sup); /* which tells the container's end, too */
        return;
    }
    r = error_set_class(&err, r == -ETIMEDOUT ? ERROR_DEADLINE : ERROR_GUEST, r,
                        "in guest: the container was not started: %s", strerror(-r));
    container_fail_start(c, r, err);
}

static void on_violation(void *ud, struct container *c, const char *what)
{
    supervisor_lose_agent(ud, what);
}

const struct container_ops supervisor_container_ops = {
    .on_running = on_running,
    .on_start_failed = on_start_failed,
    .on_exited = on_exited,
    .on_lost = on_lost,
    .on_violation = on_violation,
};

/* ---- exec */

static void on_stream_gone(void *ud, struct stream *stream)
{
    struct supervisor_stream *s = ud;

    list_remove(&s->link);
    s->sup->n_streams--;
    s->sup->n_forwards -= s->forward;
    stream_free(stream);
    free(s);
}

static void on_stream_violation(void *ud, struct stream *stream, const char *what)
{
    struct supervisor_stream *s = ud;

    supervisor_lose_agent(s->sup, what);
}

static void on_stream_lost(void *ud, struct stream *stream, int r)
{
    struct supervisor_stream *s = ud;
    _cleanup_(error_freep) struct error *err = NULL;

    if (!agent_link_is_ready(s->sup->agent)) {
        supervisor_await_end(s->sup); /* the client gets the reason */
        return;
    }
    r = error_set_class(&err, r == -ETIMEDOUT ? ERROR_DEADLINE : ERROR_GUEST, r,
                        "in guest: the %s's connection is lost: %s",
                        s->forward ? "forwarded port" : "exec", strerror(-r));
    stream_fail(stream, r, err);
}

static const struct stream_ops stream_ops = {
    .on_gone = on_stream_gone,
    .on_violation = on_stream_violation,
    .on_lost = on_stream_lost,
};

static int check_exec(struct supervisor *sup, const Nexus__ExecSpec *spec, struct error **err)
{
    struct container *c;
    int r = need_container(sup, spec->container_id, &c, err);

    if (r < 0)
        return r;
    r = supervisor_check_guest(sup, err);
    if (r < 0)
        return r;
    if (c->state != CONTAINER_RUNNING)
        return error_set(err, -EBUSY, "container %s is not running", c->id);
    if (sup->n_streams - sup->n_forwards >= LIMIT_EXECS_PER_POD)
        return error_set(err, -EMFILE, "%d execs run in the pod already", LIMIT_EXECS_PER_POD);
    return 0;
}

/* 0 with *open filled. */
static int prepare_stream(struct supervisor *sup, const Nexus__ControlHello *hello,
                          Nexus__StreamOpen *open, struct error **err)
{
    const Nexus__ExecSpec *exec = hello->exec;
    int r;

    if (hello->role == NEXUS__CONTROL_HELLO__ROLE__EXEC) {
        open->kind_case = NEXUS__STREAM_OPEN__KIND_EXEC;
        open->exec = hello->exec;
        open->keep = exec->late_start && !exec->open_stdin && !exec->process->tty;
        return check_exec(sup, exec, err);
    }
    open->kind_case = NEXUS__STREAM_OPEN__KIND_FORWARD;
    open->forward = hello->forward;
    r = supervisor_check_guest(sup, err);
    if (r == 0 && sup->n_forwards >= LIMIT_FORWARDS_PER_POD)
        r = error_set(err, -EMFILE, "%d connections to ports of the pod are open already",
                      LIMIT_FORWARDS_PER_POD);
    return r;
}

static void on_attach_gone(void *ud, struct attach *a)
{
    struct supervisor_stream *s = ud;

    list_remove(&s->link);
    attach_free(a);
    free(s);
}

static const struct attach_ops attach_ops = {
    .on_gone = on_attach_gone,
};

void supervisor_drop_attaches(struct supervisor *sup)
{
    while (!list_is_empty(&sup->attaches)) {
        struct supervisor_stream *s = list_first(&sup->attaches, struct supervisor_stream, link);

        on_attach_gone(s, s->attach);
    }
}

static int check_attach(struct supervisor *sup, const Nexus__AttachSpec *spec,
                        struct container **ret, struct error **err)
{
    int r = need_container(sup, spec->container_id, ret, err);

    if (r == 0)
        r = supervisor_check_guest(sup, err);
    if (r < 0)
        return r;
    if ((*ret)->state != CONTAINER_RUNNING)
        return error_set(err, -EBUSY, "container %s is not running", (*ret)->id);
    if ((*ret)->n_attaches >= LIMIT_ATTACHES_PER_CONTAINER)
        return error_set(err, -EMFILE, "%d clients are attached to container %s already",
                         LIMIT_ATTACHES_PER_CONTAINER, (*ret)->id);
    return 0;
}

static void open_attach(struct supervisor *sup, int fd, struct tlv_reader *reader,
                        const Nexus__AttachSpec *spec)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct supervisor_stream *s;
    struct container *c = NULL;
    int r = check_attach(sup, spec, &c, &err);

    if (r < 0) {
        stream_refuse(fd, r, err);
        return;
    }
    s = xcalloc(1, sizeof(*s));
    s->sup = sup;
    r = attach_new(sup->loop, fd, reader, c, spec->open_stdin, &attach_ops, s, &s->attach);
    if (r < 0) /* the client has been told */
        free(s);
    else
        list_append(&sup->attaches, &s->link);
}

void supervisor_on_stream(void *ud, int fd, struct tlv_reader *reader,
                          const Nexus__ControlHello *hello)
{
    struct supervisor *sup = ud;
    Nexus__StreamOpen open = NEXUS__STREAM_OPEN__INIT;
    _cleanup_(error_freep) struct error *err = NULL;
    struct supervisor_stream *s;
    int r;

    if (hello->role == NEXUS__CONTROL_HELLO__ROLE__ATTACH) {
        open_attach(sup, fd, reader, hello->attach);
        return;
    }
    r = prepare_stream(sup, hello, &open, &err);
    if (r < 0) {
        stream_refuse(fd, r, err);
        return;
    }
    s = xcalloc(1, sizeof(*s));
    s->sup = sup;
    s->forward = open.kind_case == NEXUS__STREAM_OPEN__KIND_FORWARD;
    r = stream_new(sup->loop, sup->transport, fd, reader, &open, sup->times.start_ms, &stream_ops,
                   s, &s->stream);
    if (r < 0) { /* the client has been told */
        free(s);
        return;
    }
    list_append(&sup->streams, &s->link);
    sup->n_streams++;
    sup->n_forwards += s->forward;
    sup->n_execs += !s->forward;
}

static int do_ping(struct supervisor *sup, struct control_caller who, struct error **err)
{
    struct pending *p;
    int r = supervisor_check_guest(sup, err);

    if (r < 0)
        return r;
    p = pending_new(sup, who);
    r = agent_link_ping(sup->agent, sup->times.request_ms, on_plain_reply, p);
    if (r < 0) {
        pending_free(p);
        return error_set(err, r, "cannot ask the guest agent");
    }
    return 0;
}

static int do_update(struct supervisor *sup, struct control_caller who,
                     Nexus__UpdateResources *update, struct error **err)
{
    Nexus__AgentMessage m = NEXUS__AGENT_MESSAGE__INIT;
    struct container *c;
    int r = need_container(sup, update->container_id, &c, err);

    if (r == 0)
        r = supervisor_check_guest(sup, err);
    if (r < 0)
        return r;
    if (c->state == CONTAINER_EXITED || !update->resources)
        return error_set(err, -EBUSY, "container %s has exited, or no limits were told", c->id);
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_UPDATE_RESOURCES;
    m.update_resources = update;
    return supervisor_ask(sup, &m, sup->times.request_ms, on_plain_reply, pending_new(sup, who),
                          err);
}

/* ---- dispatch */

/* A negative result is answered by the caller; otherwise the handler has answered or will. */
static int dispatch(struct supervisor *sup, struct control_caller who,
                    const Nexus__ControlMessage *m, int *fds, size_t n_fds, struct error **err)
{
    switch (m->body_case) {
    case NEXUS__CONTROL_MESSAGE__BODY_GET_STATE:
        supervisor_send_state(sup, who);
        return 0;
    case NEXUS__CONTROL_MESSAGE__BODY_CONFIGURE:
        return do_configure(sup, who, m->configure, err);
    case NEXUS__CONTROL_MESSAGE__BODY_ADD_REGION:
        return supervisor_add_region(sup, who, m->add_region, fds, n_fds, err);
    case NEXUS__CONTROL_MESSAGE__BODY_ADD_SHARE:
        return supervisor_add_share(sup, who, fds, n_fds, err);
    case NEXUS__CONTROL_MESSAGE__BODY_REMOVE_REGION:
        return supervisor_remove_region(sup, who, m->remove_region->key, err);
    case NEXUS__CONTROL_MESSAGE__BODY_CREATE_CONTAINER:
        return do_create(sup, who, m->create_container, fds, n_fds, err);
    case NEXUS__CONTROL_MESSAGE__BODY_START_CONTAINER:
        return do_start(sup, who, m->start_container->container_id, err);
    case NEXUS__CONTROL_MESSAGE__BODY_SIGNAL:
        return do_signal(sup, who, m->signal, err);
    case NEXUS__CONTROL_MESSAGE__BODY_REMOVE_CONTAINER:
        return do_remove(sup, who, m->remove_container->container_id, err);
    case NEXUS__CONTROL_MESSAGE__BODY_REOPEN_LOG:
        return do_reopen(sup, who, m->reopen_log->container_id, fds, n_fds, err);
    case NEXUS__CONTROL_MESSAGE__BODY_UPDATE_VOLUME:
        return supervisor_update_volume(sup, who, m->update_volume, err);
    case NEXUS__CONTROL_MESSAGE__BODY_GET_STATS:
        return supervisor_get_stats(sup, who, err);
    case NEXUS__CONTROL_MESSAGE__BODY_UPDATE_RESOURCES:
        return do_update(sup, who, m->update_resources, err);
    case NEXUS__CONTROL_MESSAGE__BODY_PING:
        return do_ping(sup, who, err);
    case NEXUS__CONTROL_MESSAGE__BODY_SHUTDOWN:
        supervisor_shutdown_for(sup, who, m->shutdown->grace_ms);
        return 0;
    case NEXUS__CONTROL_MESSAGE__BODY_HELLO:
        return error_set(err, -EINVAL, "hello was said already");
    case NEXUS__CONTROL_MESSAGE__BODY__NOT_SET:
    case NEXUS__CONTROL_MESSAGE__BODY_REPLY:
    case NEXUS__CONTROL_MESSAGE__BODY_STATE:
    case NEXUS__CONTROL_MESSAGE__BODY_EVENT:
    case _NEXUS__CONTROL_MESSAGE__BODY__CASE_IS_INT_SIZE:
    default:
        return error_set(err, -EOPNOTSUPP, "an unknown request");
    }
}

void supervisor_on_request(void *ud, struct control_caller who, const Nexus__ControlMessage *m,
                           int *fds, size_t n_fds)
{
    struct supervisor *sup = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = dispatch(sup, who, m, fds, n_fds, &err);

    if (r < 0)
        supervisor_answer(sup, who, r, err);
}
