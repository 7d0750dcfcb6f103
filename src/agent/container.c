/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/container.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "agent/child.h"
#include "agent/container-files.h"
#include "agent/control.h"
#include "agent/filter.h"
#include "agent/mountapi.h"
#include "agent/rootfs.h"
#include "agent/shutdown.h"
#include "agent/stream.h"
#include "agent/termination.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/message.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif
#define EXIT_START_FAILED 128

struct container *container_find(struct agent *a, const char *id)
{
    struct container *k;

    list_foreach (k, &a->containers, link)
        if (strcmp(k->spec->id, id) == 0)
            return k;
    return NULL;
}

/* ---- OOM events */

static void tell_oom(struct container *k)
{
    if (k->oom_untold && control_send_oom(k->agent, k->spec->id))
        k->oom_untold = false;
}

static void look_at_oom(struct container *k)
{
    uint64_t now = k->cgroup ? cgroup_oom_kills(k->cgroup) : k->oom_kills;

    if (now <= k->oom_kills)
        return;
    k->oom_kills = now;
    k->oom_untold = true;
    log_notice("container %s: the kernel killed for memory", k->spec->id);
    tell_oom(k);
}

static void on_memory_events(struct watch *w, void *userdata)
{
    look_at_oom(userdata);
}

void containers_flush_events(struct agent *a)
{
    struct container *k;

    list_foreach (k, &a->containers, link)
        tell_oom(k);
}

bool containers_any_running(struct agent *a)
{
    struct container *k;

    list_foreach (k, &a->containers, link)
        if (k->process)
            return true;
    return false;
}

/* ---- life */

static void entered(struct container *k)
{
    if (!k->entering_source)
        return;
    loop_remove(TAKE(k->entering_source));
    k->entering = close_fd(k->entering);
    k->agent->n_entering--;
}

static void on_entered(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct container *k = userdata;
    struct agent *a = k->agent;

    entered(k);
    if (a->n_entering == 0)
        volume_updates_run(a);
}

/* Until the child has attached its copy of a live volume's mounts, none may be added: it would miss them.
 * *ret_fd: for the child, which closes it then or by its death; -EBADF: there is nothing to miss. */
static int expect_entry(struct container *k, int *ret_fd, struct error **err)
{
    int p[2], r;

    *ret_fd = -EBADF;
    if (!k->volumes)
        return 0;
    if (pipe2(p, O_CLOEXEC) < 0)
        return error_set(err, -errno, "pipe");
    r = loop_add_io(k->agent->loop, p[0], LOOP_READ, on_entered, k, &k->entering_source);
    if (r < 0) {
        (void)close(p[0]);
        (void)close(p[1]);
        return error_set(err, r, "pipe");
    }
    k->entering = p[0];
    k->agent->n_entering++;
    *ret_fd = p[1];
    return 0;
}

static void unshare_identity(struct container *k)
{
    if (k->told)
        (void)munmap(TAKE(k->told), sizeof(*k->told));
}

void container_free(struct container *k)
{
    if (!k)
        return;
    entered(k);
    unshare_identity(k);
    volumes_put(k->agent, k->volumes, k->spec->n_volumes);
    watch_free(k->oom_watch);
    termination_free(k->termination);
    cgroup_free(k->exec_cgroup);
    cgroup_free(k->cgroup);
    region_put(k->region);
    loop_remove(k->finish);
    (void)close_fd(k->devpts);
    message_free(&k->spec->base);
    free(k);
}

void containers_free(struct agent *a)
{
    while (!list_is_empty(&a->containers)) {
        struct container *k = list_first(&a->containers, struct container, link);
        process_forget(k->process);
        list_remove(&k->link);
        container_free(k);
    }
}

int container_prepare(struct container *k, struct error **err)
{
    static const char *const devpts[] = {"ptmxmode", "0666", "mode", "0620", "gid", "5", NULL};
    _cleanup_(freep) char *events = NULL;
    int r = cgroup_new(k->agent, NULL, k->spec->id, &k->cgroup, err);

    if (r == 0)
        r = cgroup_limit(k->cgroup, k->spec->resources, err);
    if (r == 0 && !k->spec->privileged)
        r = filter_attach_devices(k->cgroup->fd, err);
    if (r < 0)
        return r;
    events = str_printf("%s/memory.events", k->cgroup->path);
    r = watch_new(k->agent, events, on_memory_events, k, &k->oom_watch);
    if (r < 0 && r != -ENOENT) /* no memory controller: no such events */
        return error_set(err, r, "watch memory events");
    k->devpts = mnt_new("devpts", devpts, MNT_NOSUID | MNT_NOEXEC);
    if (k->devpts < 0)
        return error_set(err, k->devpts, "terminals of the container");
    return 0;
}

/* ---- processes */

struct start_args {
    struct process_plan plan;
    struct user_identity *told; /* the container's; NULL: an exec */
    struct rootfs_plan rootfs;
    struct child_io io;
    int join;     /* pidfd of the container's first process, for execs */
    int entering; /* closed when the mounts are made; -EBADF: nobody waits */
};

static _Noreturn void child_first(void *arg, int status_fd)
{
    struct start_args *s = arg;
    struct error *err = NULL;
    int r = child_begin(s->plan.oom_score_adj, &err);

    /* it stands in its cgroup already: that becomes the root of what it sees */
    if (r == 0 && unshare(CLONE_NEWCGROUP) < 0)
        r = error_set(&err, -errno, "cgroup namespace");
    if (r == 0)
        r = rootfs_enter(&s->rootfs, &err);
    if (r < 0)
        child_fail(status_fd, EXIT_START_FAILED, r, err);
    (void)close_fd(s->entering);
    child_become(&s->plan, &s->io, s->told, status_fd);
}

static _Noreturn void child_exec(void *arg, int status_fd)
{
    struct start_args *s = arg;
    struct error *err = NULL;
    int r = child_begin(s->plan.oom_score_adj, &err);

    if (r == 0 && setns(s->join, CLONE_NEWCGROUP | CLONE_NEWNS) < 0)
        r = error_set_class(&err, ERROR_PRECONDITION, -errno, "the container is not running");
    if (r < 0)
        child_fail(status_fd, EXIT_START_FAILED, r, err);
    child_become(&s->plan, &s->io, NULL, status_fd);
}

static int share_identity(struct container *k, struct error **err)
{
    void *p =
        mmap(NULL, sizeof(*k->told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return error_set(err, -errno, "container %s", k->spec->id);
    k->told = p;
    return 0;
}

const struct user_identity *container_identity(struct container *k)
{
    return k->identity = k->told;
}

static struct child_io child_io_of(const struct container_io *io)
{
    return (struct child_io){
        .in = io->in, .out = io->out, .err = io->err, .terminal = io->terminal};
}

/* The PID namespace of another container, if it has one of its own. */
static int join_pids(const struct container *k, struct spawn *s, struct error **err)
{
    const struct container *target;

    if (!*k->spec->pids_of)
        return 0;
    target = container_find(k->agent, k->spec->pids_of);
    if (!target || !target->process)
        return error_set_class(err, ERROR_PRECONDITION, -ESRCH, "container %.64s is not running",
                               k->spec->pids_of);
    s->namespaces &= ~(uint64_t)CLONE_NEWPID;
    s->pidns_of = target->spec->share_pod_pids ? -EBADF : target->process->pidfd;
    return 0;
}

int container_spawn_first(struct container *k, const struct container_io *io,
                          void (*on_exit)(struct process *, int, void *), void *userdata,
                          struct process **ret, int *ret_status_fd, struct error **err)
{
    _cleanup_(freep) struct start_args *s = calloc(1, sizeof(*s));
    struct spawn spawn = {
        .namespaces = CLONE_NEWNS | (k->spec->share_pod_pids ? 0U : CLONE_NEWPID),
        .cgroup_fd = k->cgroup->fd,
        .pidns_of = -EBADF,
        .child = child_first,
        .arg = s,
    };
    int r;

    if (!s)
        return error_set(err, -ENOMEM, "container %s", k->spec->id);
    k->state = CONTAINER_EXITED; /* it is started once, with or without success */
    r = join_pids(k, &spawn, err);
    if (r < 0)
        return r;
    s->entering = -EBADF;
    r = plan_for_container(k->spec, &s->plan, err);
    if (r == 0)
        r = container_files_plan(k, &s->rootfs, err);
    s->rootfs.devpts = k->devpts;
    s->rootfs.console = io->console;
    s->io = child_io_of(io);
    if (r == 0)
        r = share_identity(k, err);
    s->told = k->told;
    if (r == 0)
        r = expect_entry(k, &s->entering, err);
    if (r == 0)
        r = process_spawn(k->agent, &spawn, on_exit, userdata, ret, ret_status_fd, err);
    s->entering = close_fd(s->entering); /* if there is no child, that is its death */
    container_files_plan_done(&s->rootfs);
    plan_done(&s->plan);
    if (r < 0)
        return r;
    k->process = *ret;
    k->state = CONTAINER_RUNNING;
    return 0;
}

int container_spawn_exec(struct container *k, const Nexus__ProcessSpec *spec,
                         const struct cgroup *cg, const struct container_io *io,
                         void (*on_exit)(struct process *, int, void *), void *userdata,
                         struct process **ret, int *ret_status_fd, struct error **err)
{
    struct start_args s = {.join = k->process->pidfd, .io = child_io_of(io)};
    struct spawn spawn = {
        .cgroup_fd = cg->fd,
        .pidns_of = k->spec->share_pod_pids ? -EBADF : k->process->pidfd,
        .child = child_exec,
        .arg = &s,
    };
    int r = plan_for_exec(k->spec, spec, k->identity, &s.plan, err);

    if (r == 0)
        r = process_spawn(k->agent, &spawn, on_exit, userdata, ret, ret_status_fd, err);
    plan_done(&s.plan);
    return r;
}

/* libc's ioctl takes an int or an unsigned long, by libc */
static int tty_ioctl(int fd, unsigned long request, uintptr_t arg)
{
    return (int)syscall(SYS_ioctl, fd, request, arg);
}

int container_new_terminal(struct container *k, int *ret_master, int *ret_slave, int *ret_number,
                           struct error **err)
{
    _cleanup_(closep) int master =
        openat(k->devpts, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    unsigned number = 0;
    int unlock = 0, slave;

    if (master < 0 || tty_ioctl(master, TIOCSPTLCK, (uintptr_t)&unlock) < 0 ||
        tty_ioctl(master, TIOCGPTN, (uintptr_t)&number) < 0)
        return error_set(err, -errno, "new terminal");
    slave = tty_ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return error_set(err, -errno, "new terminal");
    *ret_slave = slave;
    *ret_number = (int)number;
    *ret_master = TAKE_FD(master);
    return 0;
}

bool container_ended(struct container *k)
{
    look_at_oom(k);
    k->process = NULL;
    log_info("container %s: ended", k->spec->id);
    if (k->cgroup)
        (void)cgroup_kill(k->cgroup); /* what shares no PID namespace with it lives on */
    if (k->state == CONTAINER_REMOVING)
        loop_defer_arm(k->finish);
    else
        k->state = CONTAINER_EXITED;
    shutdown_check(k->agent);
    return k->oom_kills > 0;
}

int container_limit(struct agent *a, Nexus__UpdateResources *update, struct error **err)
{
    struct container *k = container_find(a, update->container_id);
    int r;

    if (!k || !k->cgroup)
        return -ENOENT;
    r = cgroup_limit(k->cgroup, update->resources, err);
    if (r < 0) {
        (void)cgroup_limit(k->cgroup, k->spec->resources, NULL);
    } else {
        Nexus__Resources *old = k->spec->resources;

        k->spec->resources = update->resources;
        update->resources = old;
    }
    return r;
}

int container_signal(struct container *k, uint32_t signal, bool all, struct error **err)
{
    int r;

    if (signal < 1 || signal > 64)
        return error_set(err, -EINVAL, "signal %u", signal);
    if (!k->process || !k->cgroup)
        return error_set_class(err, ERROR_PRECONDITION, -ESRCH, "container %s is not running",
                               k->spec->id);
    r = all ? cgroup_signal(k->cgroup, (int)signal) : process_signal(k->process, (int)signal);
    return r < 0 ? error_set(err, r, "signal %u to container %s", signal, k->spec->id) : 0;
}

/* ---- removal */

void container_forget(struct container *k)
{
    struct agent *a = k->agent;

    while (!list_is_empty(&k->streams))
        stream_container_gone(list_first(&k->streams, struct stream, container_link));
    container_files_remove(k);
    list_remove(&k->link);
    a->n_containers--;
    container_free(k);
}

void container_on_finish(struct loop_source *s, void *userdata)
{
    struct container *k = userdata;
    struct agent *a = k->agent;
    uint64_t ids[CONTAINER_REMOVERS_MAX];
    size_t n = k->n_removers;

    if (!k->cgroup_gone || k->process)
        return; /* both are needed; the other one calls again */
    memcpy(ids, k->removers, sizeof(ids));
    log_info("container %s: removed", k->spec->id);
    container_forget(k);
    for (size_t i = 0; i < n; i++)
        control_reply(a, ids[i], 0, NULL);
}

static void on_cgroup_gone(void *userdata)
{
    struct container *k = userdata;

    k->cgroup_gone = true;
    loop_defer_arm(k->finish);
}

void container_remove(struct agent *a, const char *id, uint64_t request)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct container *k = container_find(a, id);
    int r;

    if (!k) {
        creation_cancel(a, id);
        control_reply(a, request, 0, NULL);
        return;
    }
    if (k->n_removers == CONTAINER_REMOVERS_MAX) {
        r = error_set(&err, -EBUSY, "container %s is being removed", id);
        control_reply(a, request, r, err);
        return;
    }
    k->removers[k->n_removers++] = request;
    if (k->state == CONTAINER_REMOVING)
        return;
    k->state = CONTAINER_REMOVING;
    look_at_oom(k);
    watch_free(TAKE(k->oom_watch));
    cgroup_discard(TAKE(k->exec_cgroup));
    cgroup_reap(a, TAKE(k->cgroup), on_cgroup_gone, k);
}
