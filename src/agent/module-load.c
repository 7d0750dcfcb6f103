/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "agent/module.h"
#include "agent/region.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"

#define LIST_MAX (64U << 10)

static void load(int dir, const char *file, const char *params)
{
    _cleanup_(closep) int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        log_error_errno(-errno, "kernel module %s is missing", file);
    else if (syscall(SYS_finit_module, fd, params, 0) < 0 && errno != EEXIST)
        log_error_errno(-errno, "kernel module %s was refused", file);
}

void modules_load(int dir, const char *list, const char *cmdline)
{
    _cleanup_(freep) char *text = NULL;
    char *save = NULL;
    int r = file_read_all(dir, list, LIST_MAX, &text, NULL);

    if (r < 0) {
        log_error_errno(r, "list of kernel modules %s", list);
        return;
    }
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const char *file, *params;

        if (module_parse(line, &file, &params) && module_is_wanted(params, cmdline))
            load(dir, file, *params == '?' ? "" : params);
    }
}

/* ---- those of a region */

static struct region_place place_of(const Nexus__ModuleList *m)
{
    return (struct region_place){m->gpa, m->device};
}

static bool is_loaded(const struct agent *a, const Nexus__ModuleList *m)
{
    return strv_contains(a->module_lists, m->list);
}

void modules_want(struct agent *a, const Nexus__ContainerSpec *spec)
{
    for (size_t i = 0; i < spec->n_modules; i++)
        if (!is_loaded(a, spec->modules[i]))
            region_want(a, place_of(spec->modules[i]));
}

static int get(struct agent *a, const Nexus__ModuleList *m, struct error **err)
{
    _cleanup_(freep) char *list = str_printf("%.*s.list", LIMIT_ID_MAX, m->list);
    _cleanup_(closep) int dir = -EBADF;
    struct region *region;
    int r;

    if (!*m->list || strspn(m->list, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(m->list))
        return error_set(err, -EINVAL, "list of kernel modules \"%.80s\"", m->list);
    r = region_get(a, place_of(m), &region, err);
    if (r < 0)
        return r;
    dir = open(region->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (a->set.guest) /* else the kernel is not ours */
        modules_load(dir, list, "");
    region_put(region);
    strv_push(&a->module_lists, m->list);
    return 0;
}

int modules_get(struct agent *a, const Nexus__ContainerSpec *spec, struct error **err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < spec->n_modules; i++)
        if (!is_loaded(a, spec->modules[i]))
            r = get(a, spec->modules[i], err);
    return r;
}
