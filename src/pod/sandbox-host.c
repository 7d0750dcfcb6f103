/* SPDX-License-Identifier: Apache-2.0 */
/* The steps that work on the host's files: the pod's cgroup, its scratch disk, what nexus-vmm is given to
 * read. A disk can be slow and a cgroup takes a while to get empty, so all of it is done by a thread
 * beside the loop (event/side-job.h), one thing after the other: an undo comes after what it undoes, even
 * if the step was given up while the thread was at it. */
#include <fcntl.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/scratch.h"

#define VMM_THREADS_MAX 64 /* vCPUs, loop, KVM's own */
#define CGROUP_PATIENCE_MS 100

/* What the thread works with: copies, and what never changes of the node. */
struct host_job {
    struct node *node;
    char id[LIMIT_ID_MAX + 1];
    char *parent, *path; /* owned; of a cgroup */
    struct cgroup_limits limits;
    unsigned missing; /* limits that this host has not */
    int fd;           /* owned; made */
    struct vmm_files files;
    bool wants_resolv_conf;
};

static struct host_job *host_job_new(struct sandbox *s)
{
    struct host_job *j = xcalloc(1, sizeof(*j));

    j->node = s->node;
    memcpy(j->id, s->id, sizeof(j->id));
    j->fd = -EBADF;
    vmm_files_init(&j->files);
    return j;
}

static void host_job_free(void *payload)
{
    struct host_job *j = payload;

    free(j->parent);
    free(j->path);
    (void)close_fd(j->fd);
    vmm_files_done(&j->files);
    free(j);
}

static int begin(struct sandbox *s, struct step_job *slot, const struct plan_run *run,
                 const struct side_job_ops *ops, struct host_job *j, const char *what,
                 struct error **err)
{
    int r =
        side_job_start(s->node->host_worker, ops, j, what, FILES_TIMEOUT_MS, s, &slot->job, err);

    slot->step = plan_current_step(run);
    return r < 0 ? r : 1;
}

static void ended(struct sandbox *s, struct step_job *slot, int r, const struct error *err)
{
    LOG_SCOPE(pod, "pod", s->id);

    slot->job = NULL;
    plan_step_ended(s->plan, slot->step, r, err);
}

/* ---- the cgroup */

static int make_cgroup(void *payload, struct error **err)
{
    struct host_job *j = payload;
    _cleanup_(freep) char *name = str_printf("vmm-%s", j->id);
    struct cgroup_fs *fs = j->node->cgroups;
    int r = cgroup_create(fs, j->parent, name, &j->limits, &j->path, &j->missing, err);

    if (r < 0)
        return r;
    r = cgroup_open(fs, j->path, &j->fd, NULL);
    return r == -EOPNOTSUPP ? 0 : r < 0 ? error_set(err, r, "cannot open the pod's cgroup") : 0;
}

static void on_cgroup_made(void *userdata, void *payload, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    struct host_job *j = payload;

    if (r >= 0) {
        s->status.cgroup_path = TAKE(j->path);
        s->cgroup_fd = TAKE_FD(j->fd);
        if (j->missing)
            log_debug("host limits that are not enforced here: %#x", j->missing);
    }
    ended(s, &s->cgroup_job, r, err);
}

struct cgroup_limits sandbox_limits(const struct sandbox *s, const struct resources_spec *res)
{
    struct cgroup_limits l = {
        .memory_max_bytes = s->status.memory_bytes + s->node->config.vmm_overhead_bytes,
        .pids_max = VMM_THREADS_MAX,
        .cpu_weight = cgroup_weight_from_shares((uint64_t)res->cpu_shares),
    };

    if (res->cpu_quota_us > 0 && res->cpu_period_us > 0) {
        l.cpu_quota_us = (uint64_t)res->cpu_quota_us;
        l.cpu_period_us = (uint64_t)res->cpu_period_us;
    }
    return l;
}

int host_cgroup(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {make_cgroup, on_cgroup_made, host_job_free};
    struct sandbox *s = object;
    _cleanup_(freep) char *parent = NULL;
    struct host_job *j;
    int r = cgroup_parent_path(s->spec.cgroup_parent ? s->spec.cgroup_parent : "", &parent, err);

    if (r < 0)
        return r;
    j = host_job_new(s);
    j->parent = TAKE(parent);
    j->limits = sandbox_limits(s, &s->spec.resources);
    return begin(s, &s->cgroup_job, run, &ops, j, "making the pod's cgroup", err);
}

static int remove_cgroup(void *payload, struct error **err)
{
    struct host_job *j = payload;

    return cgroup_remove(j->node->cgroups, j->path, CGROUP_PATIENCE_MS, err);
}

static void on_cgroup_removed(void *userdata, void *payload, int r, const struct error *err)
{
    struct sandbox *s = userdata;

    ended(s, &s->cgroup_job, r, err);
}

int release_cgroup(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {remove_cgroup, on_cgroup_removed, host_job_free};
    struct sandbox *s = object;
    _cleanup_(freep) char *path = NULL, *parent = NULL;
    struct host_job *j;

    s->cgroup_fd = close_fd(s->cgroup_fd);
    if (s->status.cgroup_path) {
        path = str_dup(s->status.cgroup_path);
    } else { /* a crash between making and recording it, or a step that was given up */
        if (cgroup_parent_path(s->spec.cgroup_parent ? s->spec.cgroup_parent : "", &parent, NULL) <
            0)
            return 0;
        path = str_printf("%s/vmm-%s", str_equal(parent, "/") ? "" : parent, s->id);
    }
    j = host_job_new(s);
    j->path = TAKE(path);
    return begin(s, &s->cgroup_job, run, &ops, j, "removing the pod's cgroup", err);
}

void host_cancel_cgroup(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    side_job_cancel(TAKE(s->cgroup_job.job));
}

/* ---- the scratch disk */

static int make_scratch(void *payload, struct error **err)
{
    struct host_job *j = payload;
    const struct node_config *c = &j->node->config;

    return scratch_create(j->node->scratch_dirfd, c->mkfs_path, c->scratch_bytes, j->id, &j->fd,
                          err);
}

static void on_scratch_made(void *userdata, void *payload, int r, const struct error *err)
{
    struct sandbox *s = userdata;

    if (r >= 0)
        s->scratch_fd = TAKE_FD(((struct host_job *)payload)->fd);
    ended(s, &s->scratch_job, r, err);
}

int host_scratch(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {make_scratch, on_scratch_made, host_job_free};
    struct sandbox *s = object;

    return begin(s, &s->scratch_job, run, &ops, host_job_new(s), "making the pod's scratch disk",
                 err);
}

static int remove_scratch(void *payload, struct error **err)
{
    struct host_job *j = payload;

    j->fd = close_fd(j->fd); /* the last one gives the blocks back */
    return scratch_remove(j->node->scratch_dirfd, j->id, err);
}

static void on_scratch_removed(void *userdata, void *payload, int r, const struct error *err)
{
    struct sandbox *s = userdata;

    ended(s, &s->scratch_job, r, err);
}

int release_scratch(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {remove_scratch, on_scratch_removed, host_job_free};
    struct sandbox *s = object;
    struct host_job *j = host_job_new(s);

    j->fd = TAKE_FD(s->scratch_fd);
    return begin(s, &s->scratch_job, run, &ops, j, "removing the pod's scratch disk", err);
}

void host_cancel_scratch(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    side_job_cancel(TAKE(s->scratch_job.job));
}

/* ---- files for nexus-vmm and its guest */

void vmm_files_init(struct vmm_files *f)
{
    *f = (struct vmm_files){.kvm = -EBADF, .kernel = -EBADF, .initramfs = -EBADF};
}

void vmm_files_done(struct vmm_files *f)
{
    f->kvm = close_fd(f->kvm);
    f->kernel = close_fd(f->kernel);
    f->initramfs = close_fd(f->initramfs);
    free(TAKE(f->resolv_conf));
}

static int open_file(const char *path, int flags, const char *what, int *ret, struct error **err)
{
    *ret = open(path, flags | O_CLOEXEC);
    if (*ret < 0)
        return error_set_class(err, ERROR_UNAVAILABLE, -errno, "cannot open %s %s: %s", what, path,
                               strerror(errno));
    return 0;
}

static int open_files(void *payload, struct error **err)
{
    struct host_job *j = payload;
    const struct node_config *c = &j->node->config;
    struct vmm_files *f = &j->files;
    int r = FP("pod.run.files");

    if (r < 0)
        return error_set(err, r, "failpoint while opening files for nexus-vmm");
    r = open_file(c->kvm_path, O_RDWR, "KVM", &f->kvm, err);
    if (r >= 0)
        r = open_file(c->kernel_path, O_RDONLY, "the guest kernel", &f->kernel, err);
    if (r >= 0)
        r = open_file(c->initramfs_path, O_RDONLY, "the initramfs", &f->initramfs, err);
    if (r >= 0 && j->wants_resolv_conf) /* a node without one has no names to look up */
        (void)file_read_all(AT_FDCWD, "/etc/resolv.conf", GUEST_FILE_BYTES, &f->resolv_conf,
                            &f->resolv_conf_len);
    return r;
}

static void on_files_open(void *userdata, void *payload, int r, const struct error *err)
{
    struct sandbox *s = userdata;
    struct host_job *j = payload;

    if (r >= 0) {
        s->files = j->files;
        vmm_files_init(&j->files);
    }
    ended(s, &s->files_job, r, err);
}

int host_files(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {open_files, on_files_open, host_job_free};
    struct sandbox *s = object;
    struct host_job *j = host_job_new(s);

    j->wants_resolv_conf = !s->spec.dns.present;
    return begin(s, &s->files_job, run, &ops, j, "opening files for nexus-vmm", err);
}

int release_files(struct plan_run *run, void *object, struct error **err)
{
    struct sandbox *s = object;

    vmm_files_done(&s->files);
    return 0;
}

void host_cancel_files(struct plan_run *run, void *object)
{
    struct sandbox *s = object;

    side_job_cancel(TAKE(s->files_job.job));
}
