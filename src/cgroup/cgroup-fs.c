/* SPDX-License-Identifier: Apache-2.0 */
/* The mount: what the host has, reading and writing of control files, names of kubelet's parents. */
#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/numparse.h"
#include "base/str.h"
#include "cgroup/cgroup-internal.h"
#include "cgroup/cgroup.h"

#define DEFAULT_PARENT "/nexus.slice"
#define PARENT_BYTES_MAX 4096

static const char *const mode_names[CGROUP_MODE_COUNT] = {
    [CGROUP_MODE_NONE] = "none",
    [CGROUP_MODE_V1] = "v1",
    [CGROUP_MODE_HYBRID] = "hybrid",
    [CGROUP_MODE_V2] = "v2",
};

static const struct {
    const char *name;
    unsigned bit;
} controller_names[] = {{"cpu", CGROUP_CPU}, {"memory", CGROUP_MEMORY}, {"pids", CGROUP_PIDS}};

const char *cgroup_mode_name(enum cgroup_mode mode)
{
    return mode_names[mode];
}

unsigned cgroup_controllers_parse(const char *text)
{
    unsigned bits = 0;

    while (*text) {
        size_t len = strcspn(text, " \n");

        for (size_t i = 0; i < ARRAY_SIZE(controller_names); i++)
            if (strlen(controller_names[i].name) == len &&
                !strncmp(text, controller_names[i].name, len))
                bits |= controller_names[i].bit;
        text += len;
        text += strspn(text, " \n");
    }
    return bits;
}

uint64_t cgroup_keyed_value(const char *text, const char *key)
{
    size_t len = strlen(key);

    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\n");

        if (n > len && !strncmp(line, key, len) && line[len] == ' ') {
            char number[24];
            uint64_t v = 0;

            if (n - len - 1 >= sizeof(number))
                return 0;
            memcpy(number, line + len + 1, n - len - 1);
            number[n - len - 1] = '\0';
            return parse_u64(number, UINT64_MAX, &v) < 0 ? 0 : v;
        }
        line += n;
        line += *line == '\n';
    }
    return 0;
}

int cgroup_file_read(int dir_fd, const char *file, char *out, size_t size)
{
    _cleanup_(closep) int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n;

    if (fd < 0)
        return -errno;
    n = read_full(fd, out, size - 1);
    if (n < 0)
        return (int)n;
    while (n > 0 && out[n - 1] == '\n')
        n--;
    out[n] = '\0';
    return 0;
}

int cgroup_file_write(int dir_fd, const char *file, const char *text)
{
    _cleanup_(closep) int fd = openat(dir_fd, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return -errno;
    return write_full(fd, text, strlen(text));
}

int cgroup_file_printf(int dir_fd, const char *file, const char *fmt, ...)
{
    char text[128];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(text))
        return -EMSGSIZE;
    return cgroup_file_write(dir_fd, file, text);
}

int cgroup_dir_open(const struct cgroup_fs *fs, const char *path)
{
    while (*path == '/')
        path++;
    return file_open_beneath(fs->root_fd, *path ? path : ".", O_RDONLY | O_DIRECTORY, 0);
}

/* v2 shows cgroup.controllers at its root; a hybrid host mounts it at "unified", and v1 has a
 * directory per hierarchy. */
static enum cgroup_mode probe_mode(int root_fd)
{
    static const char *const v1[] = {"memory", "pids", "cpu", "systemd"};

    if (!faccessat(root_fd, "cgroup.controllers", R_OK, 0))
        return CGROUP_MODE_V2;
    if (!faccessat(root_fd, "unified/cgroup.controllers", R_OK, 0))
        return CGROUP_MODE_HYBRID;
    for (size_t i = 0; i < ARRAY_SIZE(v1); i++) {
        struct stat st;

        if (!fstatat(root_fd, v1[i], &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode))
            return CGROUP_MODE_V1;
    }
    return CGROUP_MODE_NONE;
}

static char *describe(const struct cgroup_fs *fs)
{
    static const char hint[] =
        "pods run without host limits for memory, CPU and processes; boot the "
        "host with systemd.unified_cgroup_hierarchy=1 to get them";
    unsigned want = CGROUP_CPU | CGROUP_MEMORY | CGROUP_PIDS;

    switch (fs->mode) {
    case CGROUP_MODE_NONE:
        return str_printf(
            "no cgroup file system at %s: pods run without host limits; mount one with "
            "mount -t cgroup2 none %s",
            fs->root, fs->root);
    case CGROUP_MODE_V1:
        return str_printf("%s is cgroup v1: %s", fs->root, hint);
    case CGROUP_MODE_HYBRID:
        return str_printf("%s is hybrid, its controllers are cgroup v1: %s", fs->root, hint);
    case CGROUP_MODE_V2:
        break;
    }
    if ((fs->controllers & want) == want)
        return str_printf("%s is cgroup v2 with cpu, memory and pids", fs->root);
    return str_printf("%s is cgroup v2, but lacks%s%s%s: these limits are not enforced", fs->root,
                      fs->controllers & CGROUP_CPU ? "" : " cpu",
                      fs->controllers & CGROUP_MEMORY ? "" : " memory",
                      fs->controllers & CGROUP_PIDS ? "" : " pids");
}

int cgroup_fs_open(const char *root, struct cgroup_fs **ret, struct error **err)
{
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = xcalloc(1, sizeof(*fs));
    char text[1024];
    int r;

    fs->root = str_dup(root);
    fs->root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fs->root_fd < 0 && errno != ENOENT && errno != ENOTDIR)
        return error_set(err, -errno, "cannot open cgroup root %s: %s", root, strerror(errno));
    if (fs->root_fd >= 0)
        fs->mode = probe_mode(fs->root_fd);
    if (fs->mode == CGROUP_MODE_V2) {
        r = cgroup_file_read(fs->root_fd, "cgroup.controllers", text, sizeof(text));
        if (r < 0)
            return error_set(err, r, "cannot read %s/cgroup.controllers: %s", root, strerror(-r));
        fs->controllers = cgroup_controllers_parse(text);
    }
    fs->description = describe(fs);
    *ret = TAKE(fs);
    return 0;
}

void cgroup_fs_free(struct cgroup_fs *fs)
{
    if (!fs)
        return;
    close_fd(fs->root_fd);
    free(fs->root);
    free(fs->description);
    free(fs);
}

enum cgroup_mode cgroup_fs_mode(const struct cgroup_fs *fs)
{
    return fs->mode;
}

unsigned cgroup_fs_controllers(const struct cgroup_fs *fs)
{
    return fs->controllers;
}

const char *cgroup_fs_describe(const struct cgroup_fs *fs)
{
    return fs->description;
}

/* "a-b-c.slice" lies in "a.slice/a-b.slice" (systemd.slice(5)); "-.slice" is the root. */
static int expand_slice(const char *name, char **ret, struct error **err)
{
    size_t stem = strlen(name) - strlen(".slice");
    struct buf out;
    int r = 0;

    if (str_equal(name, "-.slice")) {
        *ret = str_dup("/");
        return 0;
    }
    if (stem == 0 || name[0] == '-' || name[stem - 1] == '-')
        return error_set(err, -EINVAL, "cgroup parent \"%s\" is no slice name", name);
    buf_init(&out, PARENT_BYTES_MAX * 8);
    for (size_t i = 1; r == 0 && i <= stem; i++) {
        if (i < stem && name[i] != '-')
            continue;
        if (name[i] == '-' && name[i - 1] == '-')
            r = -EINVAL;
        else
            r = buf_printf(&out, "/%.*s.slice", (int)i, name);
    }
    if (r < 0) {
        buf_done(&out);
        return error_set(err, r, "cgroup parent \"%s\" is no slice name", name);
    }
    *ret = buf_take_str(&out);
    return 0;
}

/* No empty, "." or ".." component; printable. */
static bool path_is_sane(const char *path)
{
    for (const char *p = path; *p;) {
        size_t n;

        p++; /* the slash */
        n = strcspn(p, "/");
        if (n == 0 || n > 255 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p += n;
    }
    return true;
}

int cgroup_parent_path(const char *cgroup_parent, char **ret, struct error **err)
{
    size_t len = cgroup_parent ? strlen(cgroup_parent) : 0;
    _cleanup_(freep) char *path = NULL;

    if (len == 0) {
        *ret = str_dup(DEFAULT_PARENT);
        return 0;
    }
    if (len > PARENT_BYTES_MAX || !str_is_clean(cgroup_parent, len))
        return error_set(err, -EINVAL, "cgroup parent: longer than %d bytes or not printable",
                         PARENT_BYTES_MAX);
    if (!strchr(cgroup_parent, '/') && str_ends(cgroup_parent, ".slice"))
        return expand_slice(cgroup_parent, ret, err);
    path = str_printf("%s%s", cgroup_parent[0] == '/' ? "" : "/", cgroup_parent);
    len = strlen(path);
    if (len > 1 && path[len - 1] == '/')
        path[len - 1] = '\0';
    if (path[1] && !path_is_sane(path))
        return error_set(
            err, -EINVAL,
            "cgroup parent \"%s\": empty, \".\" or \"..\" component, or one over 255 bytes",
            cgroup_parent);
    *ret = TAKE(path);
    return 0;
}

uint64_t cgroup_weight_from_shares(uint64_t shares)
{
    if (shares == 0)
        return 0;
    if (shares < 2)
        shares = 2;
    if (shares > 262144)
        shares = 262144;
    return 1 + (shares - 2) * 9999 / 262142;
}
