/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of a stream: descriptors, cgroup and process. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "agent/stream.h"

/* The child's ends while it is being made. */
struct child_ends {
    int in, out, err; /* owned unless borrowed_in */
    bool borrowed_in; /* the agent's /dev/null */
};

static void child_ends_close(struct child_ends *e, bool terminal)
{
    if (!e->borrowed_in)
        (void)close_fd(e->in);
    if (!terminal) {
        (void)close_fd(e->out);
        (void)close_fd(e->err);
    }
}

/* A pipe whose agent's end does not block. */
static int new_pipe(int *ret_agent, int *ret_child, bool agent_reads, struct error **err)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        return error_set(err, -errno, "pipe");
    *ret_agent = agent_reads ? p[0] : p[1];
    *ret_child = agent_reads ? p[1] : p[0];
    if (fcntl(*ret_agent, F_SETFL, O_NONBLOCK) < 0) /* of this end alone */
        return error_set(err, -errno, "pipe");
    return 0;
}

static int make_terminal(struct stream *s, bool open_stdin, struct child_ends *e,
                         struct container_io *io, struct error **err)
{
    int slave;
    int r = container_new_terminal(s->container, &s->out.fd, &slave, &io->console, err);

    if (r < 0)
        return r;
    e->in = e->out = e->err = slave;
    if (!open_stdin)
        return 0;
    /* one descriptor per direction, so that each can be watched by itself */
    s->in.fd = fcntl(s->out.fd, F_DUPFD_CLOEXEC, 3);
    return s->in.fd < 0 ? error_set(err, -errno, "terminal") : 0;
}

static int make_pipes(struct stream *s, bool open_stdin, struct child_ends *e, struct error **err)
{
    int r = 0;

    if (open_stdin) {
        r = new_pipe(&s->in.fd, &e->in, false, err);
    } else {
        e->in = s->agent->null_fd;
        e->borrowed_in = true;
    }
    if (r == 0)
        r = new_pipe(&s->out.fd, &e->out, true, err);
    if (r == 0)
        r = new_pipe(&s->err.fd, &e->err, true, err);
    return r;
}

static int make_ends(struct stream *s, bool open_stdin, struct child_ends *e,
                     struct container_io *io, struct error **err)
{
    int r = s->tty ? make_terminal(s, open_stdin, e, io, err) : make_pipes(s, open_stdin, e, err);

    io->in = e->in;
    io->out = e->out;
    io->err = e->err;
    io->terminal = s->tty;
    return r;
}

static void attach(struct stream *s, struct container *k)
{
    s->container = k;
    list_append(&k->streams, &s->container_link);
}

static void on_exit_of(struct process *p, int wait_status, void *userdata)
{
    stream_process_ended(userdata, wait_status);
}

static int start_first(struct stream *s, const Nexus__StartSpec *start, struct error **err)
{
    struct child_ends e = {.in = -EBADF, .out = -EBADF, .err = -EBADF};
    struct container_io io = {.console = -1};
    struct container *k = container_find(s->agent, start->container_id);
    int r;

    if (!k)
        return error_set(err, -ENOENT, "container %.64s does not exist", start->container_id);
    if (k->state != CONTAINER_CREATED)
        return error_set_class(err, ERROR_PRECONDITION, -EBUSY, "container %s was started before",
                               k->spec->id);
    attach(s, k);
    s->tty = k->spec->process->tty;
    r = make_ends(s, k->spec->open_stdin, &e, &io, err);
    if (r == 0)
        r = container_spawn_first(k, &io, on_exit_of, s, &s->process, &s->status_fd, err);
    child_ends_close(&e, s->tty);
    return r;
}

/* The one an exec before it has left clean, or a new one. */
static int take_cgroup(struct stream *s, struct container *k, struct error **err)
{
    char name[24];

    s->cgroup = TAKE(k->exec_cgroup);
    if (s->cgroup && cgroup_is_clean(s->cgroup))
        return 0;
    /* a privileged container has put something into it: that goes with the container */
    cgroup_free(TAKE(s->cgroup));
    (void)snprintf(name, sizeof(name), "exec-%u", ++k->exec_count);
    return cgroup_new(s->agent, k->cgroup, name, &s->cgroup, err);
}

static int start_exec(struct stream *s, const Nexus__ExecSpec *exec, bool keep, struct error **err)
{
    struct child_ends e = {.in = -EBADF, .out = -EBADF, .err = -EBADF};
    struct container_io io = {.console = -1};
    struct container *k = container_find(s->agent, exec->container_id);
    int r;

    if (!k)
        return error_set(err, -ENOENT, "container %.64s does not exist", exec->container_id);
    if (k->state != CONTAINER_RUNNING || !k->process)
        return error_set_class(err, ERROR_PRECONDITION, -ESRCH, "container %s is not running",
                               k->spec->id);
    attach(s, k);
    s->is_exec = true;
    s->tty = exec->process && exec->process->tty;
    s->late_start = exec->late_start && !s->tty && !exec->open_stdin;
    s->keep = keep && !s->tty && !exec->open_stdin;
    s->oom_before = k->oom_kills;
    r = take_cgroup(s, k, err);
    if (r == 0)
        r = make_ends(s, exec->open_stdin, &e, &io, err);
    if (r == 0)
        r = container_spawn_exec(k, exec->process, s->cgroup, &io, on_exit_of, s, &s->process,
                                 &s->status_fd, err);
    if (!s->tty) {
        s->held_out = TAKE_FD(e.out);
        s->held_err = TAKE_FD(e.err);
    }
    child_ends_close(&e, s->tty);
    return r;
}

int stream_start(struct stream *s, const Nexus__StreamOpen *open, struct error **err)
{
    switch (open->kind_case) {
    case NEXUS__STREAM_OPEN__KIND_START:
        return start_first(s, open->start, err);
    case NEXUS__STREAM_OPEN__KIND_EXEC:
        return start_exec(s, open->exec, open->keep, err);
    case NEXUS__STREAM_OPEN__KIND_FORWARD:
        s->is_forward = true;
        s->port = (uint16_t)open->forward->port;
        return stream_connect(s, err);
    case NEXUS__STREAM_OPEN__KIND__NOT_SET:
    case _NEXUS__STREAM_OPEN__KIND__CASE_IS_INT_SIZE:
    default:
        return error_set(err, -EOPNOTSUPP, "stream %d is not known here", (int)open->kind_case);
    }
}
