/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel modules that few containers need: not in the initramfs that every guest has in its memory, but in one file
 * that all guests share, mapped as a region when the first such container of a pod is created. */
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/capability.h"
#include "pod/node-internal.h"
#include "pod/share.h"

#define PAGE_BYTES 4096

/* ---- which */

size_t container_module_lists(const struct container *c, const char *ret[MODULE_LISTS_MAX])
{
    size_t n = 0;

    if (container_wants_share(c))
        ret[n++] = "virtiofs";
    if (guest_capabilities(&c->spec.security) & (1ULL << CAP_NET_ADMIN))
        ret[n++] = "bridge";
    return n;
}

/* ---- the step "modules" of the plan of CreateContainer */

struct modules_file {
    const char *path; /* the configuration's */
    int fd;           /* owned */
    uint64_t bytes;
};

static int open_file(void *payload, struct error **err)
{
    struct modules_file *f = payload;
    struct stat st;

    f->fd = open(f->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return error_set(err, -errno, "kernel modules: %s: %s", f->path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size % PAGE_BYTES)
        return error_set(err, -EBADMSG, "kernel modules: %s is no file system image", f->path);
    f->bytes = (uint64_t)st.st_size;
    return 0;
}

static void free_file(void *payload)
{
    struct modules_file *f = payload;

    (void)close_fd(f->fd);
    free(f);
}

/* Without them a container cannot have its mounts; that it cannot make a bridge is told, and it goes on. */
static void end(struct container *c, int r, const struct error *err)
{
    struct error *why = NULL;

    c->has_modules = r >= 0;
    if (r < 0 && container_wants_share(c)) {
        (void)error_set_class(&why, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    } else if (r < 0) {
        log_warning("container %s can make no bridge: %s", c->id, error_text(err, r));
        r = 0;
    }
    plan_step_done(c->plan, c->modules_job.step, r, why);
}

static void on_added(void *userdata, int r, const Nexus__VmmState *state, const struct error *err)
{
    struct container *c = userdata;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->modules_call = NULL;
    end(c, r, err);
}

static int add_region(struct container *c, struct modules_file *f, struct error **err)
{
    char *names[] = {(char *)(uintptr_t)f->path}; /* only read */
    const struct region_files files = {.key = MODULES_REGION,
                                       .what = "kernel modules",
                                       .n = 1,
                                       .bytes = &f->bytes,
                                       .names = names,
                                       .fds = &f->fd};

    return container_add_region(c, &files, on_added, &c->modules_call, err);
}

static void on_open(void *userdata, void *payload, int r, const struct error *err)
{
    struct container *c = userdata;
    _cleanup_(error_freep) struct error *why = NULL;
    LOG_SCOPE(pod, "pod", c->sandbox->id);

    c->modules_job.job = NULL;
    if (r >= 0)
        r = add_region(c, payload, &why);
    if (r < 0)
        end(c, r, why ? why : err);
}

int create_modules(struct plan_run *run, void *object, struct error **err)
{
    static const struct side_job_ops ops = {open_file, on_open, free_file};
    struct container *c = object;
    const char *lists[MODULE_LISTS_MAX];
    struct modules_file *f;
    int r;

    if (container_module_lists(c, lists) == 0)
        return 0;
    c->modules_job.step = plan_current_step(run);
    f = xcalloc(1, sizeof(*f));
    f->path = c->sandbox->node->config.modules_path;
    f->fd = -EBADF;
    r = side_job_start(c->sandbox->node->host_worker, &ops, f, "opening the kernel modules",
                       FILES_TIMEOUT_MS, c, &c->modules_job.job, err);
    return r < 0 ? r : 1;
}

void cancel_modules(struct plan_run *run, void *object)
{
    struct container *c = object;

    side_job_cancel(TAKE(c->modules_job.job));
    vmm_call_cancel(TAKE(c->modules_call));
}
