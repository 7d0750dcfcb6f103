/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/container.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "vmm/attach.h"
#include "vmm/guest-stream.h"
#include "vmm/termination.h"
#include "wire/reply.h"
#include "wire/tlv.h"

bool container_id_is_valid(const char *id)
{
    size_t n = strlen(id);

    return n >= 1 && n <= LIMIT_ID_MAX && strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

struct container *container_new(const char *id, struct cri_log *log,
                                const struct container_ops *ops, void *ud)
{
    struct container *c = xcalloc(1, sizeof(*c));

    (void)snprintf(c->id, sizeof(c->id), "%s", id);
    c->log = log;
    c->termination_fd = -EBADF;
    c->ops = ops;
    c->ud = ud;
    nexus__exit_info__init(&c->exit);
    nexus__identity__init(&c->user);
    list_init(&c->link);
    list_init(&c->attaches);
    return c;
}

int container_set_termination(struct container *c, int fd)
{
    int r = termination_check(fd);

    if (r < 0)
        return r;
    (void)close_fd(c->termination_fd);
    c->termination_fd = fd;
    return 0;
}

void container_set_region(struct container *c, struct region *region)
{
    if (region)
        region->containers++;
    if (c->region)
        c->region->containers--;
    c->region = region;
}

void volume_set_region(struct volume *v, struct region *region)
{
    if (region)
        region->volumes++;
    if (v->region)
        v->region->volumes--;
    v->region = region;
}

void container_add_volume(struct container *c, struct volume *volume, struct region *region)
{
    c->volumes = xrealloc(c->volumes, c->n_volumes + 1, sizeof(*c->volumes));
    c->volumes[c->n_volumes++] = (struct container_volume){.volume = volume, .region = region};
    if (volume)
        volume->users++;
    else
        region->volumes++;
}

/* A volume that nobody has is no more. */
static void put_volumes(struct container *c)
{
    while (c->n_volumes) {
        struct container_volume *m = &c->volumes[--c->n_volumes];
        struct volume *v = m->volume;

        if (!v) {
            m->region->volumes--;
        } else if (--v->users == 0) {
            volume_set_region(v, NULL);
            list_remove(&v->link);
            free(v);
        }
    }
    free(c->volumes);
}

static void end_attaches(struct container *c, const Nexus__ExitInfo *exit)
{
    while (!list_is_empty(&c->attaches))
        attach_end(attach_of_node(c->attaches.next), exit);
    c->n_attaches = 0;
}

void container_free(struct container *c)
{
    if (!c)
        return;
    end_attaches(c, NULL);
    list_remove(&c->link);
    guest_stream_free(c->stream);
    cri_log_free(c->log);
    (void)close_fd(c->termination_fd);
    container_set_region(c, NULL);
    put_volumes(c);
    free(c->error);
    free(c->user.groups);
    free(c);
}

/* The log first, then the state: whoever sees EXITED finds the log complete. The termination log is: its
 * frame came before the exit's. */
static void set_exited(struct container *c, int32_t code, uint32_t signal, bool oom_killed)
{
    uint64_t now = clock_real_ns();

    guest_stream_free(TAKE(c->stream));
    cri_log_end(c->log, CRI_STDOUT);
    cri_log_end(c->log, CRI_STDERR);
    c->log_dropped = cri_log_dropped(c->log);
    cri_log_free(TAKE(c->log));
    c->termination_fd = close_fd(c->termination_fd);
    c->finished_at_ns =
        now > c->started_at_ns ? now : c->started_at_ns; /* the clock may step back */
    c->exit.code = code;
    c->exit.signal = signal;
    c->exit.oom_killed = oom_killed;
    c->state = CONTAINER_EXITED;
    end_attaches(c, &c->exit);
}

/* As the guest tells it: only ever shown. */
static void take_user(struct container *c, const Nexus__Identity *told)
{
    size_t n;

    if (!told)
        return;
    n = told->n_groups < LIMIT_GROUPS_TOLD ? told->n_groups : LIMIT_GROUPS_TOLD;
    c->has_user = true;
    c->user.uid = told->uid;
    c->user.gid = told->gid;
    free(c->user.groups);
    c->user.groups = NULL;
    c->user.n_groups = n;
    if (n) {
        c->user.groups = xcalloc(n, sizeof(*c->user.groups));
        memcpy(c->user.groups, told->groups, n * sizeof(*c->user.groups));
    }
}

static void on_started(void *ud, const Nexus__StreamStarted *m)
{
    struct container *c = ud;

    c->pid = m->pid;
    take_user(c, m->user);
    c->started_at_ns = clock_real_ns();
    c->state = CONTAINER_RUNNING;
    c->ops->on_running(c->ud, c);
}

/* A copy to each attach. False: one has no room; the frame comes again. */
static bool tee(struct container *c, uint8_t type, const uint8_t *p, uint32_t n)
{
    struct list *node;
    bool waits = false;

    for (node = c->attaches.next; node != &c->attaches; node = node->next)
        waits = !attach_output(attach_of_node(node), type, p, n) || waits;
    for (node = c->attaches.next; !waits && node != &c->attaches; node = node->next)
        attach_next(attach_of_node(node));
    return !waits;
}

static bool on_output(void *ud, uint8_t type, const uint8_t *p, uint32_t n)
{
    struct container *c = ud;
    enum cri_stream stream = type == TLV_STDOUT ? CRI_STDOUT : CRI_STDERR;

    if (!c->output_held) {
        if (n)
            cri_log_write(c->log, stream, p, n);
        else
            cri_log_end(c->log, stream);
    }
    c->output_held = !tee(c, type, p, n);
    return !c->output_held;
}

static void on_room(void *ud)
{
    struct container *c = ud;
    struct list *node;

    if (c->input_owed && container_input(c, TLV_STDIN, NULL, 0) == 0)
        c->input_owed = false;
    for (node = c->attaches.next; node != &c->attaches; node = node->next)
        attach_room(attach_of_node(node));
}

bool container_add_attach(struct container *c, struct list *node)
{
    list_append(&c->attaches, node);
    c->n_attaches++;
    return c->output_held;
}

void container_attach_left(struct container *c, bool had_stdin, bool waited)
{
    c->n_attaches--;
    if (had_stdin && container_input_over(c) == -EAGAIN)
        c->input_owed = true;
    if (waited)
        container_resume_output(c);
}

void container_resume_output(struct container *c)
{
    if (c->output_held && c->stream)
        guest_stream_resume(c->stream);
}

int container_input(struct container *c, uint8_t type, const uint8_t *p, size_t n)
{
    if (!c->stream || (type == TLV_STDIN && (!c->open_stdin || (c->input_over && n))))
        return 0;
    return guest_stream_write(c->stream, type, p, n);
}

int container_input_over(struct container *c)
{
    if (!c->stdin_once || c->input_over)
        return 0;
    c->input_over = container_input(c, TLV_STDIN, NULL, 0) == 0;
    return c->input_over ? 0 : -EAGAIN;
}

static void on_termination(void *ud, const uint8_t *p, uint32_t n)
{
    struct container *c = ud;
    int r = c->termination_fd >= 0 ? termination_write(c->termination_fd, p, n) : 0;

    if (r < 0)
        log_limited(LOG_WARNING, "container %s: its termination log cannot be written: %s", c->id,
                    strerror(-r));
}

static void on_exit_info(void *ud, const Nexus__ExitInfo *info)
{
    struct container *c = ud;
    /* the flag of the guest may be read too late there, the event tells it as well */
    bool oom = info->oom_killed || (c->oom_seen && info->code == CONTAINER_CODE_KILLED);

    set_exited(c, info->code, info->signal, oom);
    c->ops->on_exited(c->ud, c);
}

void container_fail_start(struct container *c, int r, const struct error *err)
{
    free(c->error);
    c->error = str_dup(error_text(err, r));
    set_exited(c, CONTAINER_CODE_START_FAILED, 0, false);
    c->ops->on_start_failed(c->ud, c, r, err);
}

static void on_error(void *ud, const Nexus__StreamError *m)
{
    struct container *c = ud;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = reply_to_error(m->reply, &err);

    if (c->state == CONTAINER_STARTING) {
        container_fail_start(c, r, err);
        return;
    }
    log_warning("container %s: the agent gave up on it: %s", c->id, error_text(err, r));
    set_exited(c, CONTAINER_CODE_LOST, 0, false);
    c->ops->on_exited(c->ud, c);
}

static void on_lost(void *ud, int r)
{
    struct container *c = ud;

    guest_stream_free(TAKE(c->stream));
    c->ops->on_lost(c->ud, c, r);
}

static void on_violation(void *ud, const char *what)
{
    struct container *c = ud;

    guest_stream_free(TAKE(c->stream));
    c->ops->on_violation(c->ud, c, what);
}

static const struct guest_stream_ops stream_ops = {
    .on_started = on_started,
    .on_output = on_output,
    .on_termination = on_termination,
    .on_exit = on_exit_info,
    .on_error = on_error,
    .on_lost = on_lost,
    .on_violation = on_violation,
    .on_room = on_room,
};

int container_start(struct container *c, struct loop *loop, const struct transport *transport,
                    uint32_t start_ms)
{
    Nexus__StreamOpen open = NEXUS__STREAM_OPEN__INIT;
    Nexus__StartSpec start = NEXUS__START_SPEC__INIT;
    int r;

    start.container_id = c->id;
    open.kind_case = NEXUS__STREAM_OPEN__KIND_START;
    open.start = &start;
    r = guest_stream_new(loop, transport, &open, start_ms, &stream_ops, c, &c->stream);
    if (r == 0)
        c->state = CONTAINER_STARTING;
    return r;
}

void container_force_exit(struct container *c, int32_t code, bool oom_killed)
{
    if (c->state == CONTAINER_STARTING || c->state == CONTAINER_RUNNING)
        set_exited(c, code, code == CONTAINER_CODE_KILLED ? 9 : 0, oom_killed);
}

void container_describe(struct container *c, Nexus__ContainerState *m)
{
    nexus__container_state__init(m);
    m->id = c->id;
    m->pid = c->pid;
    m->started_at_ns = c->started_at_ns;
    m->finished_at_ns = c->finished_at_ns;
    m->user = c->has_user ? &c->user : NULL;
    m->log_dropped_bytes = c->log ? cri_log_dropped(c->log) : c->log_dropped;
    switch (c->state) {
    case CONTAINER_CREATING:
    case CONTAINER_CREATED:
    case CONTAINER_STARTING:
    default:
        m->state = NEXUS__CONTAINER_STATE__STATE__CREATED;
        break;
    case CONTAINER_RUNNING:
        m->state = NEXUS__CONTAINER_STATE__STATE__RUNNING;
        break;
    case CONTAINER_EXITED:
        m->state = NEXUS__CONTAINER_STATE__STATE__EXITED;
        m->exit = &c->exit;
        if (c->error)
            m->error = c->error;
        break;
    }
}
