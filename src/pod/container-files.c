/* SPDX-License-Identifier: Apache-2.0 */
/* What a container has in directories of kubelet's: its log, its termination log, the small files that are
 * copied into the guest. Their file systems may be slow or hang, so a thread opens and reads them. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "seccomp/profile.h"

struct files_job {
    char *log_directory, *log_path; /* owned; NULL: no log */
    char *termination;              /* owned; NULL: none */
    size_t n;
    struct mount_spec *mounts; /* owned copies; host_path NULL: a volume */
    int32_t seccomp;           /* enum seccomp_mode */
    char *seccomp_path;        /* owned */
    uint64_t capabilities;
    char **devices;                /* owned; those that no guest has */
    struct container_files *files; /* owned; the result */
};

void container_files_free(struct container_files *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(f->fds); i++)
        (void)close_fd(f->fds[i]);
    for (size_t i = 0; i < f->n; i++)
        free(f->copied[i].bytes);
    free(f->copied);
    free(f->seccomp);
    free(f);
}

static void job_set_security(struct files_job *j, const struct container_spec *spec)
{
    const struct security_spec *s = &spec->security;

    j->seccomp = s->privileged ? SECCOMP_UNCONFINED : s->seccomp;
    j->seccomp_path = str_dup_or_null(s->seccomp_path);
    j->capabilities = guest_capabilities(s);
    for (size_t i = 0; i < spec->devices.count; i++)
        if (!guest_device_name(spec->devices.items[i].host_path))
            strv_push(&j->devices, spec->devices.items[i].host_path);
}

static struct files_job *job_new(const struct container *c)
{
    const struct mount_spec *termination = guest_termination_mount(c);
    size_t n = c->spec.mounts.count;
    struct files_job *j = xcalloc(1, sizeof(*j));

    j->files = xcalloc(1, sizeof(*j->files));
    j->files->fds[0] = j->files->fds[1] = -EBADF;
    j->n = j->files->n = n;
    j->files->copied = xcalloc(n, sizeof(*j->files->copied));
    j->mounts = xcalloc(n, sizeof(*j->mounts));
    if (c->status.log_path) {
        j->log_directory = str_dup(c->sandbox->spec.log_directory);
        j->log_path = str_dup(c->spec.log_path);
    }
    job_set_security(j, &c->spec);
    if (termination)
        j->termination = str_dup(termination->host_path);
    for (size_t i = 0; i < n; i++) {
        const struct mount_spec *m = &c->spec.mounts.items[i];

        if (guest_mount_is_volume(c, m))
            continue;
        j->mounts[i].host_path = str_dup(m->host_path);
        j->mounts[i].container_path = str_dup(m->container_path);
    }
    return j;
}

static void job_free(void *payload)
{
    struct files_job *j = payload;

    free(j->log_directory);
    free(j->log_path);
    free(j->termination);
    free(j->seccomp_path);
    strv_free(j->devices);
    for (size_t i = 0; i < j->n; i++) {
        free(j->mounts[i].host_path);
        free(j->mounts[i].container_path);
    }
    free(j->mounts);
    container_files_free(j->files);
    free(j);
}

/* ---- in the thread */

int copied_file_read(const struct mount_spec *m, struct copied_file *ret, struct error **err)
{
    struct stat st;
    int r = file_read_all(AT_FDCWD, m->host_path, GUEST_FILE_BYTES, &ret->bytes, &ret->len);

    if (r < 0)
        return error_set(err, r, "mount of %s at %s: %s", m->host_path, m->container_path,
                         strerror(-r));
    ret->mode = stat(m->host_path, &st) == 0 ? st.st_mode & 0777U : 0644;
    return 0;
}

static int read_profile(const char *path, struct container_files *f, struct error **err)
{
    _cleanup_(syscall_profile_done) struct syscall_profile p = {0};
    _cleanup_(freep) char *text = NULL;
    size_t len = 0;
    int r = file_read_all(AT_FDCWD, path, SECCOMP_FILE_BYTES_MAX, &text, &len);

    if (r == -EFBIG)
        return error_set_class(err, ERROR_INVALID, r, "it is larger than %u bytes",
                               SECCOMP_FILE_BYTES_MAX);
    if (r == -EINVAL)
        return error_set(err, r, "it is no regular file");
    if (r < 0)
        return error_set_class(err, ERROR_INVALID, r, "%s", strerror(-r));
    r = syscall_profile_parse(text, len, &p, err);
    return r < 0 ? r : syscall_profile_compile(&p, &f->seccomp, &f->seccomp_len, err);
}

static int make_filter(const struct files_job *j, struct container_files *f, struct error **err)
{
    int r = 0;

    if (j->seccomp == SECCOMP_DEFAULT)
        return syscall_filter_default(j->capabilities, &f->seccomp, &f->seccomp_len, err);
    if (j->seccomp == SECCOMP_LOCALHOST)
        r = read_profile(j->seccomp_path, f, err);
    return r < 0 ? error_prefix(err, r, "seccomp profile %s", j->seccomp_path) : 0;
}

/* Each is refused; one that the node does not have in words of its own. */
static int refuse_devices(const struct files_job *j, struct error **err)
{
    struct stat st;

    if (!j->devices)
        return 0;
    if (stat(j->devices[0], &st) < 0)
        return error_set_class(err, ERROR_INVALID, -errno, "device %s: %s", j->devices[0],
                               strerror(errno));
    return error_set(err, -EOPNOTSUPP,
                     "device %s of the host cannot be given to a VM; containers get null, zero, "
                     "full, random, urandom and tty of its own kernel",
                     j->devices[0]);
}

static int job_work(void *payload, struct error **err)
{
    struct files_job *j = payload;
    struct container_files *f = j->files;
    int r = refuse_devices(j, err);

    if (r >= 0)
        r = make_filter(j, f, err);
    if (r >= 0 && j->log_path)
        r = log_file_open(j->log_directory, j->log_path, &f->fds[f->n_fds++], err);
    if (r >= 0 && j->termination)
        r = termination_file_open(j->termination, &f->fds[f->n_fds++], err);
    f->termination = j->termination != NULL;
    for (size_t i = 0; r >= 0 && i < f->n; i++)
        if (j->mounts[i].host_path)
            r = copied_file_read(&j->mounts[i], &f->copied[i], err);
    return r;
}

/* ---- the step "files" */

static void job_done(void *userdata, void *payload, int r, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->files_job.job = NULL;
    if (r >= 0)
        c->files = TAKE(((struct files_job *)payload)->files);
    plan_step_ended(c->plan, c->files_job.step, r, err);
}

int create_files(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {job_work, job_done, job_free};
    struct container *c = object;
    _cleanup_(freep) char *what = NULL;
    int r;

    if (c->status.log_path)
        what = str_printf("opening log %s and what is copied into the guest", c->status.log_path);
    c->files_job.step = plan_current_step(run);
    r = side_job_start(c->sandbox->node->files_worker, &ops, job_new(c),
                       what ? what : "reading what is copied into the guest", FILES_TIMEOUT_MS, c,
                       &c->files_job.job, err);
    return r < 0 ? r : 1;
}

int undo_files(struct plan_run *run, void *object, struct error **err)
{
    struct container *c = object;

    container_files_free(TAKE(c->files));
    return 0;
}

void cancel_files(struct plan_run *run, void *object)
{
    struct container *c = object;

    side_job_cancel(TAKE(c->files_job.job));
}
