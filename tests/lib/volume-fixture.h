/* SPDX-License-Identifier: Apache-2.0 */
/* Directories for the tests of src/volume: a temporary one, files in it, and volumes written in the order
 * of system calls of kubelet's AtomicWriter. */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/str.h"
#include "lib/test.h"
#include "volume/scan.h"

struct fixture {
    char path[64];
    int fd;
};

static inline void fixture_make(struct fixture *f, const char *where)
{
    (void)snprintf(f->path, sizeof(f->path), "%s/nexus-volume-XXXXXX", where);
    assert_non_null(mkdtemp(f->path));
    f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->fd >= 0);
}

static inline int fixture_setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    fixture_make(f, "/tmp");
    *state = f;
    return 0;
}

/* On tmpfs, where kubelet has its Secrets, if there is one: no journal to wait for. */
static inline int fixture_setup_fast(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    fixture_make(f, access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    *state = f;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    char *name = strrchr(f->path, '/');
    int above;

    *name++ = '\0';
    above = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(dir_remove_tree(above, name), 0);
    (void)close(above);
    (void)close(f->fd);
    free(f);
    return 0;
}

static inline void put_bytes(int dirfd, const char *path, const void *bytes, size_t len,
                             mode_t mode)
{
    int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, bytes, len), 0);
    assert_int_equal(fchmod(fd, mode), 0);
    (void)close(fd);
}

static inline void put(int dirfd, const char *path, const char *text)
{
    put_bytes(dirfd, path, text, strlen(text), 0644);
}

static inline void make_dirs(int dirfd, const char *path)
{
    char part[512];

    for (const char *p = path; p;) {
        p = strchr(p + 1, '/');
        (void)snprintf(part, sizeof(part), "%.*s", p ? (int)(p - path) : (int)strlen(path), path);
        (void)mkdirat(dirfd, part, 0755);
    }
}

/* One step of the writer: stop_before says where it "dies": 0 never, 1 before ..data_tmp, 2 before the
 * rename, 3 before the links, 4 before stale links go, 5 before the old generation goes. */
struct volume_key {
    const char *name, *text;
};

static inline bool key_is_there(const struct volume_key *keys, const char *name)
{
    for (; keys->name; keys++)
        if (strcmp(keys->name, name) == 0)
            return true;
    return false;
}

static inline void remove_stale_links(int dirfd, const struct volume_key *keys)
{
    DIR *dir = fdopendir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *d;

    while ((d = readdir(dir)))
        if (!str_starts(d->d_name, "..") && strcmp(d->d_name, ".") != 0 &&
            !key_is_there(keys, d->d_name))
            (void)unlinkat(dirfd, d->d_name, 0);
    (void)closedir(dir);
}

/* keys end with a NULL name; names have no '/'. Not for the tests' own thread only: no assertion here may
 * fail in a healthy world. */
static inline void kubelet_write_until(int dirfd, const struct volume_key *keys, int stop_before)
{
    char ts[64], old[NAME_MAX + 1] = "", path[512], target[512];
    ssize_t n = readlinkat(dirfd, "..data", old, sizeof(old) - 1);
    char hex[11];

    if (n > 0)
        old[n] = '\0';
    random_hex(hex, 10);
    (void)snprintf(ts, sizeof(ts), "..2026_11_24_16_08_54.%s", hex);
    assert_int_equal(mkdirat(dirfd, ts, 0700), 0);
    assert_int_equal(fchmodat(dirfd, ts, 0755, 0), 0);
    for (const struct volume_key *k = keys; k->name; k++) {
        (void)snprintf(path, sizeof(path), "%s/%s", ts, k->name);
        put(dirfd, path, k->text);
    }
    if (stop_before == 1)
        return;
    assert_int_equal(symlinkat(ts, dirfd, "..data_tmp"), 0);
    if (stop_before == 2)
        return;
    assert_int_equal(renameat(dirfd, "..data_tmp", dirfd, "..data"), 0);
    if (stop_before == 3)
        return;
    for (const struct volume_key *k = keys; k->name; k++) {
        (void)snprintf(target, sizeof(target), "..data/%s", k->name);
        if (symlinkat(target, dirfd, k->name) < 0)
            assert_int_equal(errno, EEXIST);
    }
    if (stop_before == 4)
        return;
    remove_stale_links(dirfd, keys);
    if (stop_before == 5 || !*old)
        return;
    assert_int_equal(dir_remove_tree(dirfd, old), 0);
}

static inline void kubelet_write(int dirfd, const struct volume_key *keys)
{
    kubelet_write_until(dirfd, keys, 0);
}

static inline const struct volume_entry *entry_of(const struct volume_scan *s, const char *path)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->entries[i].path, path) == 0)
            return &s->entries[i];
    return NULL;
}

/* The bytes of an entry's file as text, into a static buffer. */
static inline const char *text_of(const struct volume_entry *e)
{
    static char text[4096];
    ssize_t n = e->fd < 0 ? 0 : pread_full(e->fd, text, sizeof(text) - 1, 0);

    assert_true(n >= 0);
    text[n] = '\0';
    return text;
}

static inline unsigned open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir))
        n++;
    (void)closedir(dir);
    return n;
}
