/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a volume as an application does: the same program in a container of ours and in the reference's guest.
 *   read DIR FILES PROCESSES MS   each process opens, reads and closes DIR/f0, DIR/f1, … by path until MS have
 *                                 passed; one read is all three. Prints its counts and latencies as JSON
 *   cat DIR               reads every file below DIR once, whole; prints their bytes
 * A file that is gone between the look at ..data and the opening, as on a host, is counted and not timed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES_MAX 256
#define SUB 16 /* steps of a doubling: a latency is known to 1/16 */
#define BUCKETS (64 * SUB)

struct counts {
    uint64_t reads, gone, failed, bytes, max, bucket[BUCKETS];
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000U + (uint64_t)ts.tv_nsec;
}

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return 1;
}

static unsigned bucket_of(uint64_t ns)
{
    unsigned top = 0;

    if (ns < SUB)
        return (unsigned)ns;
    top = 63U - (unsigned)__builtin_clzll(ns);
    return (top - 3) * SUB + (unsigned)(ns >> (top - 4)) % SUB;
}

/* The middle of a bucket. */
static uint64_t bucket_ns(unsigned b)
{
    unsigned shift = b / SUB - 1;

    if (b < SUB)
        return b;
    return ((uint64_t)(SUB + b % SUB) << shift) + ((1ULL << shift) >> 1);
}

/* One open, read, close. */
static void read_one(const char *path, struct counts *c)
{
    char buf[65536];
    uint64_t start = now_ns(), took;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf));

    if (n < 0)
        *(errno == ENOENT || errno == ESTALE ? &c->gone : &c->failed) += 1;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return;
    took = now_ns() - start;
    c->reads++;
    c->bytes += (uint64_t)n;
    c->bucket[bucket_of(took)]++;
    if (took > c->max)
        c->max = took;
}

static void reader(const char *dir, unsigned files, unsigned first, const uint64_t *end, int gate,
                   struct counts *c)
{
    char path[4096];

    (void)read(gate, path, 1); /* until all are there, and end is set */
    for (unsigned i = first; now_ns() < *end; i++) {
        (void)snprintf(path, sizeof(path), "%s/f%u", dir, i % files);
        read_one(path, c);
    }
}

static uint64_t percentile(const struct counts *c, double part)
{
    uint64_t below = 0, want = (uint64_t)((double)c->reads * part);

    for (unsigned b = 0; b < BUCKETS; b++) {
        below += c->bucket[b];
        if (below > want)
            return bucket_ns(b);
    }
    return c->max;
}

static void add(struct counts *to, const struct counts *c)
{
    to->reads += c->reads;
    to->gone += c->gone;
    to->failed += c->failed;
    to->bytes += c->bytes;
    to->max = c->max > to->max ? c->max : to->max;
    for (unsigned b = 0; b < BUCKETS; b++)
        to->bucket[b] += c->bucket[b];
}

static int read_all(const char *dir, unsigned files, unsigned processes, uint64_t ms)
{
    static struct counts sum;
    struct shared {
        uint64_t end;
        struct counts each[PROCESSES_MAX];
    } * shared;
    int gate[2], status, bad = 0;
    uint64_t start;

    if (!files || !processes || processes > PROCESSES_MAX || pipe(gate) < 0)
        return fail("arguments");
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return fail("mmap");
    for (unsigned i = 0; i < processes; i++) {
        pid_t pid = fork();

        if (pid < 0)
            return fail("fork");
        if (pid == 0) {
            close(gate[1]);
            reader(dir, files, i * 7, &shared->end, gate[0], &shared->each[i]);
            _exit(0);
        }
    }
    start = now_ns();
    shared->end = start + ms * 1000000U;
    close(gate[1]);
    while (wait(&status) > 0)
        bad |= status;
    start = now_ns() - start;
    for (unsigned i = 0; i < processes; i++)
        add(&sum, &shared->each[i]);
    printf("{\"reads\": %llu, \"gone\": %llu, \"failed\": %llu, \"bytes\": %llu, \"ns\": %llu, "
           "\"p50\": %llu, "
           "\"p99\": %llu, \"max\": %llu}\n",
           (unsigned long long)sum.reads, (unsigned long long)sum.gone,
           (unsigned long long)sum.failed, (unsigned long long)sum.bytes, (unsigned long long)start,
           (unsigned long long)percentile(&sum, 0.50), (unsigned long long)percentile(&sum, 0.99),
           (unsigned long long)sum.max);
    return bad != 0;
}

static uint64_t cat_bytes;

static int cat_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    static char buf[1 << 20];
    int fd = type == FTW_F && S_ISREG(st->st_mode) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = 0;

    (void)at;
    if (type != FTW_F || !S_ISREG(st->st_mode))
        return 0;
    while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
        cat_bytes += (uint64_t)n;
    if (fd < 0 || n < 0)
        return fail(path);
    close(fd);
    return 0;
}

static int cat_all(const char *dir)
{
    if (nftw(dir, cat_one, 16, FTW_PHYS | FTW_MOUNT) != 0)
        return fail(dir);
    printf("{\"bytes\": %llu}\n", (unsigned long long)cat_bytes);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "read") == 0)
        return read_all(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]),
                        (uint64_t)atoi(argv[5]));
    if (argc == 3 && strcmp(argv[1], "cat") == 0)
        return cat_all(argv[2]);
    return 2;
}
