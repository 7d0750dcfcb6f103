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

struct files_job {
    char *log_directory, *log_path; /* owned; NULL: no log */
    char *termination;              /* owned; NULL: none */
    size_t n;
    struct mount_spec *mounts;     /* owned copies; host_path NULL: a volume */
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
    free(f);
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

static int job_work(void *payload, struct error **err)
{
    struct files_job *j = payload;
    struct container_files *f = j->files;
    int r = 0;

    if (j->log_path)
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
