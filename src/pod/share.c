/* SPDX-License-Identifier: Apache-2.0 */
/* The share of a pod: its virtiofsd, and which containers wait for it. What is bound into it: share-bind.c. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/share-internal.h"
#include "pod/vmm-client.h"
#include "pod/vmm-socket.h"

#define PROGRAM "/usr/libexec/virtiofsd"          /* Debian 13 and others */
#define PROGRAM_OF_QEMU "/usr/lib/qemu/virtiofsd" /* Debian 12 */
#define ADD_TIMEOUT_MS 15000                      /* nexus-vmm gives it 10 s */

/* ---- what serves a mount */

const char *share_program(const struct node_config *config)
{
    const char *path = config->virtiofsd_path;

    if (!path)
        return NULL;
    if (access(path, X_OK) == 0)
        return path;
    return str_equal(path, PROGRAM) && access(PROGRAM_OF_QEMU, X_OK) == 0 ? PROGRAM_OF_QEMU : NULL;
}

bool share_is_memory(const struct volume_roots *roots, const char *host_path,
                     struct container_share *ret)
{
    _cleanup_(freep) char *above = str_printf("%s/..", host_path);
    struct volume_path p;
    struct stat st, up;
    struct statfs fs;

    if (volume_path_parse(roots, host_path, &p) < 0 || p.place != VOLUME_PLACE_VOLUME ||
        p.rel[p.root_len] || !strstr(p.rel, "/volumes/kubernetes.io~empty-dir/") ||
        stat(host_path, &st) < 0 || !S_ISDIR(st.st_mode) || stat(above, &up) < 0 ||
        st.st_dev == up.st_dev || statfs(host_path, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
        return false;
    ret->kind = SHARE_MEMORY;
    ret->name = str_dup(p.name);
    ret->bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
    ret->mode = st.st_mode & 07777;
    ret->gid = st.st_gid;
    return true;
}

bool share_is_part_of_memory(const struct volume_roots *roots, const char *host_path)
{
    _cleanup_(freep) char *volume = NULL;
    struct container_share whole = {0};
    struct volume_path p;
    struct stat st, its;
    bool is;

    if (volume_path_parse(roots, host_path, &p) < 0)
        return false;
    if (p.place == VOLUME_PLACE_VOLUME && p.rel[p.root_len])
        volume = str_printf("%s/%.*s", p.base, (int)p.root_len, p.rel);
    else if (p.place == VOLUME_PLACE_SUBPATH)
        volume =
            str_printf("%s/pods/%s/volumes/kubernetes.io~empty-dir/%s", p.base, p.pod_uid, p.name);
    is = volume && share_is_memory(roots, volume, &whole) && stat(volume, &its) == 0 &&
         stat(host_path, &st) == 0 && st.st_dev == its.st_dev;
    free(whole.name);
    return is;
}

const struct container_share *container_share_at(const struct container *c, size_t i)
{
    return c->shares && c->shares[i].kind != SHARE_NONE ? &c->shares[i] : NULL;
}

void container_shares_free(struct container *c)
{
    for (size_t i = 0; c->shares && i < c->spec.mounts.count; i++)
        free(c->shares[i].name);
    free(TAKE(c->shares));
}

/* ---- names in the directory of sockets */

static void pid_name(const struct sandbox *s, char ret[SHARE_NAME_MAX])
{
    (void)snprintf(ret, SHARE_NAME_MAX, "%s.share.pid", s->id);
}

static void socket_name(const struct sandbox *s, char ret[SHARE_NAME_MAX])
{
    (void)snprintf(ret, SHARE_NAME_MAX, "%s.share.sock", s->id);
}

void share_dir_name(const struct sandbox *s, char ret[SHARE_NAME_MAX])
{
    (void)snprintf(ret, SHARE_NAME_MAX, "%s.share", s->id);
}

/* ---- the process */

static struct pod_share *share_new(struct sandbox *s)
{
    s->share = xcalloc(1, sizeof(*s->share));
    s->share->process = VMM_PROCESS_NONE;
    return s->share;
}

void share_free(struct sandbox *s)
{
    struct pod_share *share = TAKE(s->share);

    if (!share)
        return;
    vmm_call_cancel(share->call);
    sd_event_source_disable_unref(share->io);
    vmm_process_close(&share->process);
    error_free(share->why);
    free(share);
}

/* A process of ours that is to end: its end is waited for, by nobody else. */
struct dying {
    struct vmm_process process;
    sd_event_source *io;
};

static int on_dead(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct dying *d = userdata;
    int status;

    if (vmm_process_reap(&d->process, &status) == -EAGAIN)
        return 0;
    vmm_process_close(&d->process);
    sd_event_source_disable_unref(d->io);
    free(d);
    return 0;
}

/* Takes p. */
static void end_process(struct node *n, struct vmm_process *p)
{
    struct dying *d;

    if (p->pidfd < 0)
        return;
    (void)vmm_process_kill(p);
    d = xcalloc(1, sizeof(*d));
    d->process = *p;
    *p = VMM_PROCESS_NONE;
    if (sd_event_add_io(n->event, &d->io, d->process.pidfd, EPOLLIN, on_dead, d) < 0) {
        vmm_process_close(&d->process);
        free(d);
    }
}

static void share_kill(struct sandbox *s)
{
    s->share->io = sd_event_source_disable_unref(s->share->io);
    end_process(s->node, &s->share->process);
}

static void lost(struct sandbox *s, const char *why)
{
    struct pod_share *share = s->share;

    share->state = SHARE_LOST;
    error_free(TAKE(share->why));
    (void)error_set_class(&share->why, ERROR_UNAVAILABLE, -EIO,
                          "host directories of sandbox %s: %s; its VM gets no other", s->id, why);
}

static int on_exit_of(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    struct sandbox *s = userdata;
    struct pod_share *share = s->share;
    LOG_SCOPE(pod, "pod", s->id);
    int status = 0;

    if (vmm_process_reap(&share->process, &status) == -EAGAIN)
        return 0;
    share->io = sd_event_source_disable_unref(share->io);
    vmm_process_close(&share->process);
    if (s->vm_ended || s->process.pidfd < 0)
        return 0;
    log_warning("virtiofsd ended while its VM runs: host directories of the pod give I/O errors");
    if (share->state == SHARE_READY)
        lost(s, "virtiofsd ended");
    return 0;
}

static int watch_process(struct sandbox *s, struct error **err)
{
    int r = sd_event_add_io(s->node->event, &s->share->io, s->share->process.pidfd, EPOLLIN,
                            on_exit_of, s);

    return r < 0 ? error_set(err, r, "cannot watch virtiofsd: %s", strerror(-r)) : 0;
}

/* Both programs of that name, each in its own words. One thread per queue and no pool: what is given back in
 * the order of taking is known when it dies (virtio/fs.h). */
static char **arguments(const struct sandbox *s, const char *program)
{
    char dir[SHARE_NAME_MAX];
    _cleanup_(freep) char *source = NULL;
    char **args = NULL;
    bool qemu = strstr(program, "/qemu/") != NULL;

    share_dir_name(s, dir);
    source =
        str_printf("%s%s/vmm/%s", qemu ? "source=" : "--shared-dir=", s->node->config.run_dir, dir);
    strv_push(&args, "--fd=3");
    strv_push(&args, "--thread-pool-size=0");
    if (!qemu) {
        /* it announces mounts in what it serves by itself */
        static const char *const words[] = {"--sandbox=namespace", "--cache=auto", "--xattr",
                                            "--log-level=warn"};

        strv_push(&args, source);
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
            strv_push(&args, words[i]);
        return args;
    }
    strv_push(&args, "-f");
    strv_push(&args, "-o");
    strv_push(&args, source);
    strv_push(&args, "-o");
    strv_push(&args, "sandbox=namespace,cache=auto,announce_submounts,xattr,log_level=warn");
    return args;
}

static int spawn(struct sandbox *s, const char *program, int listen_fd, struct error **err)
{
    _cleanup_(strv_freep) char **args = arguments(s, program);
    _cleanup_(closep) int cgroup = -EBADF;
    _cleanup_(closep) int go = -EBADF;
    const struct vmm_fd fds[] = {{NULL, listen_fd}};
    struct vmm_spawn how = {
        .path = program,
        .args = args,
        .fds = fds,
        .n_fds = 1,
        .log_level = s->node->config.log_level,
    };
    char name[SHARE_NAME_MAX];
    int r = 0;

    if (s->status.cgroup_path)
        r = cgroup_open(s->node->cgroups, s->status.cgroup_path, &cgroup, NULL);
    if (r < 0 && r != -EOPNOTSUPP)
        return error_set(err, r, "cannot open the pod's cgroup: %s", strerror(-r));
    how.cgroup_fd = cgroup;
    r = vmm_spawn(&how, &s->share->process, &go, err);
    if (r >= 0)
        r = watch_process(s, err);
    pid_name(s, name);
    if (r >= 0)
        r = vmm_process_save(s->node->vmm_dirfd, name, &s->share->process, s->node->boot_id, err);
    if (r >= 0 && vmm_spawn_go(go) < 0)
        r = error_set(err, -EPIPE, "virtiofsd ended before it began");
    return r;
}

/* ---- in the VM */

static void over(struct sandbox *s, int r, const struct error *err)
{
    struct container *c, *next;

    list_foreach_safe (c, next, &s->containers, node) {
        struct error *copy = NULL;
        int mine = r;

        if (!c->share_waits)
            continue;
        c->share_waits = false;
        if (r >= 0)
            mine = share_bind(c, &copy);
        else
            (void)error_set_class(&copy, (int)error_class_of(err, r), r, "%s", error_text(err, r));
        if (mine < 0)
            plan_step_done(c->plan, c->share_job.step, mine, copy);
    }
}

static void on_added(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct sandbox *s = userdata;
    LOG_SCOPE(pod, "pod", s->id);

    s->share->call = NULL;
    if (r >= 0 && s->share->process.pidfd >= 0) {
        s->share->state = SHARE_READY;
        log_info("virtiofsd serves host directories, pid %d", (int)s->share->process.pid);
        over(s, 0, NULL);
        return;
    }
    share_kill(s);
    if (r >= 0 || r == -EEXIST || r == -EIO) {
        lost(s, "virtiofsd ended");
        over(s, -EIO, s->share->why);
    } else {
        share_free(s); /* the next one who wants it tries again */
        over(s, r, err);
    }
}

static int call_add(struct sandbox *s, const int *fds, size_t n_fds, vmm_reply_fn fn,
                    struct error **err)
{
    Nexus__ControlMessage m = NEXUS__CONTROL_MESSAGE__INIT;
    Nexus__AddShare body = NEXUS__ADD_SHARE__INIT;

    m.body_case = NEXUS__CONTROL_MESSAGE__BODY_ADD_SHARE;
    m.add_share = &body;
    if (!s->client || s->hello_pending)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN,
                               "nexus-vmm of sandbox %s is not connected at the moment", s->id);
    return vmm_client_call(s->client, &m, fds, n_fds, ADD_TIMEOUT_MS, fn, s, &s->share->call, err);
}

static int start(struct sandbox *s, struct error **err)
{
    const char *program = share_program(&s->node->config);
    _cleanup_(closep) int listen_fd = -EBADF;
    _cleanup_(closep) int front = -EBADF;
    char name[SHARE_NAME_MAX];
    int r;

    if (!program)
        return error_set(err, -EOPNOTSUPP, "this node has no virtiofsd for host directories");
    share_dir_name(s, name);
    if (mkdirat(s->node->vmm_dirfd, name, 0711) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cannot make %s: %s", name, strerror(errno));
    socket_name(s, name);
    r = listen_fd = vmm_socket_listen(s->node->vmm_dirfd, name, err);
    if (r >= 0)
        r = front = vmm_socket_connect(s->node->vmm_dirfd, name, err);
    (void)unlinkat(s->node->vmm_dirfd, name, 0);
    if (r >= 0)
        r = spawn(s, program, listen_fd, err);
    if (r < 0)
        return r;
    r = FP("pod.share.spawned");
    if (r < 0)
        return error_set(err, r, "failpoint after spawning virtiofsd");
    return call_add(s, &front, 1, on_added, err);
}

static int start_or_forget(struct sandbox *s, struct error **err)
{
    int r = start(s, err);

    if (r < 0) {
        share_kill(s);
        share_free(s);
    }
    return r;
}

/* Was one there before nexusd ended? */
static void on_asked(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct sandbox *s = userdata;
    _cleanup_(error_freep) struct error *why = NULL;
    LOG_SCOPE(pod, "pod", s->id);

    s->share->call = NULL;
    if (r != -ENOENT) {
        on_added(s, r, state, err);
        return;
    }
    share_kill(s); /* started, and its VM has not heard of it */
    share_free(s);
    (void)share_new(s);
    r = start_or_forget(s, &why);
    if (r < 0)
        over(s, r, why);
}

static int begin(struct sandbox *s, struct error **err)
{
    char name[SHARE_NAME_MAX];
    int r;

    (void)share_new(s);
    pid_name(s, name);
    r = vmm_process_load(s->node->vmm_dirfd, name, s->node->boot_id, &s->share->process, NULL);
    if (r == -ENOENT)
        return start_or_forget(s, err);
    r = r >= 0 ? watch_process(s, err) : 0;
    if (r >= 0)
        r = call_add(s, NULL, 0, on_asked, err);
    if (r < 0)
        share_free(s);
    return r;
}

int share_pidfd(const struct sandbox *s)
{
    struct vmm_process process = VMM_PROCESS_NONE;
    char name[SHARE_NAME_MAX];

    if (s->share)
        return s->share->process.pidfd < 0 ? -EBADF
                                           : fcntl(s->share->process.pidfd, F_DUPFD_CLOEXEC, 3);
    pid_name(s, name);
    if (vmm_process_load(s->node->vmm_dirfd, name, s->node->boot_id, &process, NULL) < 0)
        return -EBADF;
    return process.pidfd;
}

/* ---- the step "share" of the plan of CreateContainer */

bool container_wants_share(const struct container *c)
{
    for (size_t i = 0; c->shares && i < c->spec.mounts.count; i++)
        if (c->shares[i].kind == SHARE_HOST)
            return true;
    return false;
}

int create_share(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;
    struct sandbox *s = c->sandbox;
    int r = 0;

    if (!container_wants_share(c))
        return 0;
    c->share_job.step = plan_current_step(run);
    if (!s->share)
        r = begin(s, err);
    if (r < 0)
        return r;
    if (s->share->state == SHARE_READY)
        return share_bind(c, err);
    if (s->share->state == SHARE_LOST)
        return error_set_class(err, ERROR_UNAVAILABLE, -EIO, "%s", error_text(s->share->why, -EIO));
    c->share_waits = true;
    return 1;
}

void cancel_share(struct plan_run *run, void *object)
{
    struct container *c = object;

    c->share_waits = false;
    side_job_cancel(TAKE(c->share_job.job));
}

/* ---- the end */

pid_t share_pid(const struct sandbox *s)
{
    return s->share && s->share->process.pidfd >= 0 ? s->share->process.pid : 0;
}

void share_end(struct sandbox *s)
{
    struct vmm_process process = VMM_PROCESS_NONE;
    char name[SHARE_NAME_MAX];

    pid_name(s, name);
    if (!s->share &&
        vmm_process_load(s->node->vmm_dirfd, name, s->node->boot_id, &process, NULL) >= 0) {
        end_process(s->node, &process);
    }
    if (s->share)
        share_kill(s);
    share_free(s);
    (void)unlinkat(s->node->vmm_dirfd, name, 0);
    socket_name(s, name);
    (void)unlinkat(s->node->vmm_dirfd, name, 0);
    share_remove_dir(s);
}
