/* SPDX-License-Identifier: Apache-2.0 */
/* src/volume from the command line, for tests/integration/volume:
 *   find KUBELET-ROOT PATH [LISTED]       one line: kind plugin live is-file base rel
 *   compose map|copy OUT NAME=PATH…       the region of live volumes (NAME:PATH: not live) as a file; prints
 *                                         "pages inodes pieces", then "bytes pages path" of each
 *                                         piece, NUL behind each
 *   identity PATH
 *   watch KUBELET-ROOT PATH               prints a notice a line ("changed written"), then waits for a line on
 *                                         stdin: "rearm" reads the volume and rearms with that, "end" ends
 * Errors go to stderr; the exit code is 1. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "volume/kind.h"
#include "volume/layout.h"
#include "volume/watch.h"

static int fail(struct error *err, int r)
{
    (void)fprintf(stderr, "%s: %s\n", error_class_name(error_class_of(err, r)), error_text(err, r));
    error_free(err);
    return 1;
}

static int cmd_find(int argc, char **argv)
{
    char *listed[] = {argc > 2 ? argv[2] : NULL, NULL};
    const struct volume_roots roots = {.kubelet_root = argv[0], .listed = listed};
    struct volume_mount m;
    struct error *err = NULL;
    int r = volume_find(&roots, argv[1], &m, &err);

    if (r < 0)
        return fail(err, r);
    (void)printf("%d %s %d %d %s %s\n", (int)m.kind, volume_plugin_name(m.plugin), m.live,
                 m.is_file, m.base, m.rel);
    volume_mount_done(&m);
    return 0;
}

static int write_piece(int out, const struct volume_piece *p, uint64_t *at)
{
    static uint8_t chunk[1 << 20];
    uint64_t done = 0;

    while (done < p->bytes) {
        ssize_t n = pread_full(p->fd, chunk, sizeof(chunk), done);

        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        if (pwrite(out, chunk, (size_t)n, (off_t)(*at + done)) != n)
            return -EIO;
        done += (uint64_t)n;
    }
    *at += p->pages * 4096;
    return 0;
}

static int write_region(const struct volume_layout *l, const char *path)
{
    _cleanup_(closep) int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t at = 0;
    int r = out < 0 ? -errno : 0;

    (void)printf("%llu %u %zu%c", (unsigned long long)l->pages, l->inodes, l->n, 0);
    for (size_t i = 0; r == 0 && i < l->n; i++) {
        const struct volume_piece *p = &l->pieces[i];

        (void)printf("%llu %llu %s%c", (unsigned long long)p->bytes, (unsigned long long)p->pages,
                     p->path, 0);
        r = write_piece(out, p, &at);
    }
    if (r == 0 && ftruncate(out, (off_t)(l->pages * 4096)) < 0)
        r = -errno;
    return r;
}

/* NAME=PATH or NAME:PATH */
static int scan_part(char *arg, struct volume_part *part, struct error **err)
{
    char *sep = strpbrk(arg, "=:");
    bool live = sep && *sep == '=';
    _cleanup_(closep) int fd = -EBADF;

    if (!sep)
        return error_set(err, -EINVAL, "%s: no NAME=PATH", arg);
    *sep++ = '\0';
    part->name = arg;
    fd = open(sep, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, -errno, "%s", sep);
    return volume_scan(fd, live, &volume_limits_default, &part->scan, err);
}

static int cmd_compose(int argc, char **argv)
{
    struct volume_part *parts = xcalloc((size_t)argc, sizeof(*parts));
    struct volume_layout *l = NULL;
    struct error *err = NULL;
    size_t n = 0;
    int r = 0;

    for (int i = 2; r == 0 && i < argc; i++)
        r = scan_part(argv[i], &parts[n++], &err);
    if (r == 0)
        r = volume_layout_new(parts, n,
                              volume_data_parse(argv[0]) == VOLUME_DATA_COPY ? VOLUME_DATA_COPY
                                                                             : VOLUME_DATA_MAP,
                              &l, &err);
    if (r == 0)
        r = write_region(l, argv[1]);
    for (size_t i = 0; i < n; i++)
        volume_scan_free(parts[i].scan);
    volume_layout_free(l);
    free(parts);
    return r < 0 ? fail(err, r) : 0;
}

static int cmd_identity(int argc, char **argv)
{
    _cleanup_(closep) int fd = open(argv[0], O_RDONLY | O_CLOEXEC);
    struct volume_identity id;
    struct error *err = NULL;
    int r = fd < 0 ? -errno : volume_identity_of(fd, true, &volume_limits_default, &id, &err);

    if (r < 0)
        return fail(err, r);
    (void)printf("%s\n", id.text);
    return 0;
}

/* ---- watch ---- */

struct watching {
    struct volume_mount mount;
    struct volume_watched *watched;
};

static void on_notice(struct volume_watched *v, const struct volume_notice *n, void *userdata)
{
    (void)printf("%s%s%s%s%s\n", n->what & VOLUME_CHANGED ? "changed " : "",
                 n->what & VOLUME_WRITTEN ? "written " : "", n->what & VOLUME_BLIND ? "blind " : "",
                 n->what & VOLUME_GONE ? "gone " : "", n->path);
    (void)fflush(stdout);
}

/* What an owner does: reads it all, then wants the next notice. Prints what it read. */
static void read_and_rearm(struct watching *w)
{
    struct volume_scan *s = NULL;
    struct error *err = NULL;

    if (volume_scan(w->mount.fd, w->mount.live, &volume_limits_default, &s, &err) < 0) {
        (void)printf("error %s\n", error_text(err, 0));
        volume_watch_rearm(w->watched, NULL);
    } else {
        (void)printf("have %s settled %d\n", s->target, s->is_settled);
        volume_watch_rearm(w->watched, &s->identity);
    }
    (void)fflush(stdout);
    error_free(err);
    volume_scan_free(s);
}

static void serve(struct watching *w, struct volume_watch *watch)
{
    char line[64];
    struct pollfd fds[2] = {{.fd = volume_watch_fd(watch), .events = POLLIN},
                            {.fd = 0, .events = POLLIN}};

    setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        (void)poll(fds, 2, -1);
        if (fds[0].revents && volume_watch_dispatch(watch) < 0)
            return;
        if (!fds[1].revents)
            continue;
        if (!fgets(line, sizeof(line), stdin) || str_starts(line, "end"))
            return;
        read_and_rearm(w);
    }
}

static int cmd_watch(int argc, char **argv)
{
    const struct volume_roots roots = {.kubelet_root = argv[0]};
    struct volume_watch *watch = NULL;
    struct watching w = {0};
    struct error *err = NULL;
    int r = volume_find(&roots, argv[1], &w.mount, &err);

    if (r < 0)
        return fail(err, r);
    r = volume_watch_new(&volume_limits_default, &watch, &err);
    if (r == 0)
        r = volume_watch_add(watch, &w.mount, on_notice, &w, &w.watched, &err);
    if (r == 0) {
        read_and_rearm(&w);
        serve(&w, watch);
    }
    volume_watch_free(watch);
    volume_mount_done(&w.mount);
    return r < 0 ? fail(err, r) : 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int args;
        int (*fn)(int argc, char **argv);
    } commands[] = {{"find", 2, cmd_find},
                    {"compose", 2, cmd_compose},
                    {"identity", 1, cmd_identity},
                    {"watch", 2, cmd_watch}};
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* a descriptor per file */
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0 && argc - 2 >= commands[i].args)
            return commands[i].fn(argc - 2, argv + 2);
    (void)fprintf(stderr, "usage: volume-driver find|compose|identity|watch …\n");
    return 2;
}
