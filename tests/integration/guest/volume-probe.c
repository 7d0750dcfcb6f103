/* SPDX-License-Identifier: Apache-2.0 */
/* A program that uses a volume, the same on a host and in a container. It ends when its standard input does.
 *   watch PATH…        inotify on each; prints "ready", then "NUMBER-OF-PATH EVENT,… NAME" an event
 *   same DIR A B       reads A and B of one look at DIR/..data over and over: both must have the same content.
 *                      Prints "ready", at the end "reads N torn N gone N generations N"
 *   hold FILE          opens and maps it; prints what it reads, then again after each line of input
 *   scribble DEVICE    changes a byte in each of its first four pages through a mapping, and has them written
 *   private PATH…      unshares its mount namespace without changing propagation, then as watch */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

/* ---- watch */

static const struct {
    unsigned bit;
    const char *name;
} bits[] = {
    {IN_CREATE, "CREATE"},           {IN_DELETE, "DELETE"},       {IN_MOVED_FROM, "MOVED_FROM"},
    {IN_MOVED_TO, "MOVED_TO"},       {IN_ATTRIB, "ATTRIB"},       {IN_MODIFY, "MODIFY"},
    {IN_DELETE_SELF, "DELETE_SELF"}, {IN_MOVE_SELF, "MOVE_SELF"}, {IN_UNMOUNT, "UNMOUNT"},
    {IN_IGNORED, "IGNORED"},         {IN_ISDIR, "ISDIR"},         {IN_Q_OVERFLOW, "OVERFLOW"},
};

static void print_event(const struct inotify_event *e)
{
    const char *comma = "";

    printf("%d ", e->wd);
    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        if (e->mask & bits[i].bit) {
            printf("%s%s", comma, bits[i].name);
            comma = ",";
        }
    printf(" %s\n", e->len ? e->name : "");
}

static void drain(int fd)
{
    _Alignas(struct inotify_event) char buf[16384];
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0)
        for (char *p = buf; p < buf + n;) {
            const struct inotify_event *e = (void *)p;

            print_event(e);
            p += sizeof(*e) + e->len;
        }
    fflush(stdout);
}

static int watch(int n, char **paths)
{
    int fd = inotify_init1(IN_NONBLOCK);
    char c[64];

    for (int i = 0; i < n; i++)
        if (inotify_add_watch(fd, paths[i],
                              IN_CREATE | IN_DELETE | IN_MOVE | IN_ATTRIB | IN_MODIFY |
                                  IN_DELETE_SELF | IN_MOVE_SELF) < 0)
            return fail(paths[i]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct pollfd p[2] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};

        poll(p, 2, -1);
        drain(fd);
        if (p[1].revents && read(0, c, sizeof(c)) <= 0)
            return 0;
    }
}

/* ---- same */

static ssize_t read_in(int dir, const char *name, char *out, size_t size)
{
    int fd = openat(dir, name, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size);

    if (fd >= 0)
        close(fd);
    return n;
}

static int same(char **argv)
{
    unsigned long reads = 0, torn = 0, gone = 0, generations = 0;
    char data[4096], last[4096] = "", a[4096], b[4096], c[64];
    struct pollfd p = {0, POLLIN, 0};

    snprintf(data, sizeof(data), "%s/..data", argv[0]);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int dir = open(data, O_RDONLY | O_DIRECTORY);
        ssize_t n, m;

        if (dir < 0)
            return fail("..data");
        n = read_in(dir, argv[1], a, sizeof(a));
        m = read_in(dir, argv[2], b, sizeof(b));
        close(dir);
        reads++;
        if (n < 0 || m < 0)
            gone++; /* removed between the look and the reading, as on a host */
        else if (n != m || memcmp(a, b, (size_t)n) != 0)
            torn++;
        else if (memcmp(last, a, (size_t)n) != 0) {
            memcpy(last, a, (size_t)n);
            generations++;
        }
        if (poll(&p, 1, 0) > 0 && read(0, c, sizeof(c)) <= 0)
            break;
    }
    printf("reads %lu torn %lu gone %lu generations %lu\n", reads, torn, gone, generations);
    return 0;
}

/* ---- hold */

static int hold(const char *path)
{
    int fd = open(path, O_RDONLY);
    struct stat st;
    char text[4096], line[64];
    const char *map;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fail(path);
    map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return fail("mmap");
    do {
        ssize_t n = pread(fd, text, sizeof(text), 0);

        if (n < 0)
            printf("read: %s\n", strerror(errno));
        else
            printf("%.*s %.*s\n", (int)n, text, (int)st.st_size, map);
        fflush(stdout);
    } while (read(0, line, sizeof(line)) > 0);
    return 0;
}

/* ---- scribble */

static int scribble(const char *path)
{
    int fd = open(path, O_RDWR);
    char *map =
        fd < 0 ? MAP_FAILED : mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int n = 0;

    if (map == MAP_FAILED)
        return fail(path);
    for (; n < 4; n++)
        map[n * 4096 + 100]++;
    if (msync(map, 4 * 4096, MS_SYNC) < 0 || fsync(fd) < 0)
        printf("write-back: %s\n", strerror(errno));
    printf("scribbled %d\n", n);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[1], "watch") == 0)
        return watch(argc - 2, argv + 2);
    if (argc > 2 && strcmp(argv[1], "private") == 0)
        return unshare(CLONE_NEWNS) < 0 ? fail("unshare") : watch(argc - 2, argv + 2);
    if (argc == 5 && strcmp(argv[1], "same") == 0)
        return same(argv + 2);
    if (argc == 3 && strcmp(argv[1], "scribble") == 0)
        return scribble(argv[2]);
    if (argc == 3 && strcmp(argv[1], "hold") == 0)
        return hold(argv[2]);
    return 2;
}
