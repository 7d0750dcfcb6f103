/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of a guest that is all attacker: a stock kernel, its drivers, attack-module.c, and nothing that
 * wishes the host well. Does the phases that the kernel argument nexus.test= names (comma separated) to
 * every region it finds and tells of them on the serial port, in lines that begin with "test: ". After
 * each phase it says "done PHASE" and waits until the host has looked at its files: one more region, whose
 * first page begins with GO, holds the number of phases that the host is content with (u32 at byte 16);
 * the host changes it in the file itself. Static, C library only. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "attack.h"

#define PAGE 4096ULL
#define GO "NEXUS-ATTACK-GO"
#define TARGETS_MAX 8
#define COM1 0x3f8
#undef BLKFLSBUF
#define BLKFLSBUF _IO(0x12, 97)

struct target {
    unsigned pmem; /* number of its block device */
    uint64_t gpa, bytes, sum;
};

static struct target targets[TARGETS_MAX], go;
static unsigned n_targets, steps;
static int go_fd = -1, dev = -1;
static uint8_t *buffer; /* of the module, ATTACK_BUFFER_BYTES */
static uint64_t buffer_gpa;

/* ---- words */

/* Straight to the port: the console's driver is one of the victims. */
__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
    char line[512] = "test: ";
    size_t n = strlen(line);
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
    va_end(ap);
    strcat(line, "\n");
    for (char *p = line; *p; p++)
        outb((unsigned char)*p, COM1);
}

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static const char *argument(const char *name)
{
    static char line[4096];
    FILE *f = fopen("/proc/cmdline", "re");
    char *at;

    if (!f || !fgets(line, sizeof(line), f))
        return "";
    fclose(f);
    at = strstr(line, name);
    if (!at)
        return "";
    at += strlen(name);
    at[strcspn(at, " \n")] = 0;
    return at;
}

static uint64_t read_number(const char *path)
{
    char text[64] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
        text[0] = 0;
    if (fd >= 0)
        close(fd);
    return strtoull(text, NULL, 0);
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int r = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return r;
}

static void load_modules(void)
{
    FILE *list = fopen("/modules.list", "re");
    char path[256];

    while (list && fgets(path, sizeof(path), list)) {
        int fd;

        path[strcspn(path, " \n")] = 0;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
            say("cannot load %s: errno %d", path, errno);
        if (fd >= 0)
            close(fd);
    }
    if (list)
        fclose(list);
}

/* ---- regions */

static int open_pmem(unsigned n, int flags)
{
    char path[32];

    snprintf(path, sizeof(path), "/dev/pmem%u", n);
    return open(path, flags | O_CLOEXEC);
}

static bool look(unsigned n)
{
    static uint8_t page[PAGE] __attribute__((aligned(4096)));
    struct target t = {.pmem = n};
    char path[96];
    int fd = open_pmem(n, O_RDONLY | O_DIRECT);

    if (fd < 0 || pread(fd, page, sizeof(page), 0) != sizeof(page)) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    snprintf(path, sizeof(path), "/sys/block/pmem%u/device/resource", n);
    t.gpa = read_number(path);
    snprintf(path, sizeof(path), "/sys/block/pmem%u/device/size", n);
    t.bytes = read_number(path);
    if (memcmp(page, GO, sizeof(GO)) == 0) {
        go = t;
        go_fd = fd;
        return true;
    }
    close(fd);
    targets[n_targets++] = t;
    return true;
}

static void find_regions(unsigned count)
{
    for (unsigned n = 0; n < count;) {
        if (look(n))
            n++;
        else
            sleep_ms(20);
    }
    for (unsigned i = 0; i < n_targets; i++)
        say("target %u: pmem%u at 0x%llx, %llu bytes", i, targets[i].pmem,
            (unsigned long long)targets[i].gpa, (unsigned long long)targets[i].bytes);
}

/* Of what the device says, past all caches of the guest. */
static uint64_t sum_of(const struct target *t)
{
    static uint8_t block[1 << 16] __attribute__((aligned(4096)));
    uint64_t sum = 14695981039346656037ULL;
    int fd = open_pmem(t->pmem, O_RDONLY | O_DIRECT);

    for (uint64_t at = 0; fd >= 0 && at < t->bytes; at += sizeof(block)) {
        if (pread(fd, block, sizeof(block), (off_t)at) != sizeof(block))
            break;
        for (size_t i = 0; i < sizeof(block); i += 8) {
            uint64_t word;

            memcpy(&word, block + i, 8);
            sum = (sum ^ word) * 1099511628211ULL;
        }
    }
    if (fd >= 0)
        close(fd);
    return sum;
}

static void check_sums(const char *phase)
{
    unsigned same = 0;

    for (unsigned i = 0; i < n_targets; i++)
        same += sum_of(&targets[i]) == targets[i].sum;
    say("%s: %u of %u regions read as before", phase, same, n_targets);
}

static void wait_for_host(const char *phase)
{
    static uint8_t page[PAGE] __attribute__((aligned(4096)));
    uint32_t seen = 0;

    steps++;
    say("done %s", phase);
    while (seen < steps) {
        if (pread(go_fd, page, sizeof(page), 0) == sizeof(page))
            memcpy(&seen, page + 16, sizeof(seen));
        sleep_ms(5);
    }
}

/* ---- stores */

static const char *const map_names[] = {"direct", "wb", "wc", "uc"};

struct stored {
    uint64_t done, faults;
    int error;
};

static void store(struct attack_stores s, struct stored *sum)
{
    if (ioctl(dev, ATTACK_STORES, &s) < 0)
        sum->error = errno;
    sum->done += s.done;
    sum->faults += s.faults;
}

static void tell(const char *what, uint32_t map, uint32_t kind, struct stored s)
{
    say("%s: map %s kind %u: %llu stored, %llu faulted, errno %d", what, map_names[map], kind,
        (unsigned long long)s.done, (unsigned long long)s.faults, s.error);
}

/* A word in every page, the very last byte, and every other kind of store into the first, a middle and the
 * last page. */
static void store_through(const char *what, uint32_t map)
{
    for (unsigned i = 0; i < n_targets; i++) {
        const struct target *t = &targets[i];
        const uint64_t last = t->gpa + t->bytes - PAGE;
        const uint64_t pages[] = {t->gpa, t->gpa + t->bytes / 2, last};
        struct stored all = {0};

        store((struct attack_stores){t->gpa, t->bytes, PAGE, map, ATTACK_WORD, 0, 0}, &all);
        store((struct attack_stores){last, PAGE, PAGE - 1, map, ATTACK_BYTE, 0, 0}, &all);
        tell(what, map, ATTACK_WORD, all);
        for (uint32_t kind = 0; kind < ATTACK_PLAIN_STORES; kind++) {
            struct stored some = {0};

            for (size_t p = 0; p < 3; p++)
                store((struct attack_stores){pages[p], PAGE, 2048, map, kind, 0, 0}, &some);
            tell(what, map, kind, some);
        }
    }
}

static void phase_direct(void)
{
    store_through("direct", ATTACK_DIRECT);
}

static void phase_remap(void)
{
    store_through("remap", ATTACK_WB);
    store_through("remap", ATTACK_WC);
    store_through("remap", ATTACK_UC);
}

/* What KVM cannot decode ends the VM, or goes by: the host knows both. */
static void wide(uint32_t kind)
{
    struct stored s = {0};

    store((struct attack_stores){targets[0].gpa, PAGE, PAGE, ATTACK_DIRECT, kind, 0, 0}, &s);
    tell("wide", ATTACK_DIRECT, kind, s);
}

static void phase_cmpxchg16b(void)
{
    wide(ATTACK_CMPXCHG16B);
}

static void phase_avx(void)
{
    wide(ATTACK_AVX);
}

static void phase_fxsave(void)
{
    wide(ATTACK_FXSAVE);
}

static void phase_devmem(void)
{
    static const char text[] = "written by way of /dev/mem";
    int fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);

    for (unsigned i = 0; i < n_targets; i++) {
        volatile uint8_t *p =
            mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)targets[i].gpa);
        int mapped = p == MAP_FAILED ? errno : 0, written;

        if (!mapped)
            for (size_t n = 0; n < sizeof(text); n++)
                p[n] = (uint8_t)text[n];
        if (!mapped)
            munmap((void *)(uintptr_t)p, PAGE);
        written = pwrite(fd, text, sizeof(text), (off_t)targets[i].gpa) < 0 ? errno : 0;
        say("devmem: mmap errno %d, write errno %d", mapped, written);
    }
    close(fd);
}

/* ---- KVM's own structures, in a region */

static void phase_msr(void)
{
    static const struct {
        const char *name;
        uint32_t msr;
        uint64_t flags;
    } msrs[] = {
        {"wall clock", 0x4b564d00, 0},       {"system time", 0x4b564d01, 1},
        {"async page fault", 0x4b564d02, 9}, {"steal time", 0x4b564d03, 1},
        {"end of interrupt", 0x4b564d04, 1}, {"old wall clock", 0x11, 0},
        {"old system time", 0x12, 1},
    };

    for (unsigned i = 0; i < n_targets; i++) {
        struct attack_msr pair = {.value = targets[i].gpa};

        for (size_t m = 0; m < sizeof(msrs) / sizeof(msrs[0]); m++) {
            struct attack_msr old = {.msr = msrs[m].msr},
                              set = {targets[i].gpa | msrs[m].flags, msrs[m].msr, 1, 0};

            (void)ioctl(dev, ATTACK_MSR, &old);
            (void)ioctl(dev, ATTACK_MSR, &set);
            say("msr: %s gives %lld", msrs[m].name, (long long)set.result);
            sleep_ms(20); /* interrupts and entries to write at */
            old.write = 1;
            (void)ioctl(dev, ATTACK_MSR, &old);
        }
        (void)ioctl(dev, ATTACK_MSR, &pair);
        say("msr: clock pairing gives %lld", (long long)pair.result);
    }
}

/* ---- flushes by the stock driver */

/* One dirty page each, which is a denied store for each word of it; then flushes alone, all at once. */
static void flush_writer(const struct target *t, int n)
{
    int fd = open_pmem(t->pmem, O_RDWR);

    if (pwrite(fd, "flushed", 7, (off_t)(PAGE * (uint64_t)n + 512)) != 7)
        _exit(1);
    for (int i = 0; i < 50; i++)
        if (fsync(fd) < 0)
            _exit(1);
    _exit(0);
}

static void phase_flush(void)
{
    int status, bad = 0, children = 0;

    for (unsigned i = 0; i < n_targets; i++)
        for (int c = 0; c < 8; c++, children++)
            if (fork() == 0)
                flush_writer(&targets[i], c);
    for (int c = 0; c < children; c++)
        bad += wait(&status) < 0 || status != 0;
    say("flush: %d writers of 50 flushes, %d failed", children, bad);
    for (unsigned i = 0; i < n_targets; i++) {
        int fd = open_pmem(targets[i].pmem, O_RDWR);

        (void)ioctl(fd, BLKFLSBUF, 0);
        close(fd);
    }
}

/* ---- drivers of our own */

#define WINDOWS 0xD0000000ULL
#define WINDOW_BYTES 0x1000ULL
#define COLD_WINDOWS 5U
#define HOT_WINDOW 16U
#define HOT_WINDOWS 64U
#define QUEUES_MAX 3U
#define QUEUE_BYTES (16U << 10)
#define DATA (64U << 10) /* offset in the buffer: headers, answers … */
#define NEEDS_RESET 64U
enum { ID_NET = 1, ID_BLK = 2, ID_CONSOLE = 3, ID_RNG = 4, ID_VSOCK = 19, ID_PMEM = 27 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct device {
    uint64_t window;
    uint32_t id;
    unsigned queues;
    bool indirect;
    uint16_t size, avail[QUEUES_MAX];
};

struct piece {
    uint64_t gpa;
    uint32_t len;
    bool write;
};

static uint32_t reg_read(const struct device *d, uint32_t offset)
{
    struct attack_register r = {.gpa = d->window + offset};

    (void)ioctl(dev, ATTACK_REGISTER, &r);
    return r.value;
}

static void reg_write(const struct device *d, uint32_t offset, uint32_t v)
{
    struct attack_register r = {d->window + offset, v, 1};

    (void)ioctl(dev, ATTACK_REGISTER, &r);
}

static uint8_t *area(unsigned q, unsigned which)
{
    return buffer + q * QUEUE_BYTES + which * 4096;
}

static void reg_address(const struct device *d, uint32_t offset, uint64_t gpa)
{
    reg_write(d, offset, (uint32_t)gpa);
    reg_write(d, offset + 4, (uint32_t)(gpa >> 32));
}

static bool negotiate(struct device *d)
{
    uint32_t features;

    reg_write(d, 0x070, 0);
    reg_write(d, 0x070, 1);
    reg_write(d, 0x070, 3);
    reg_write(d, 0x014, 0);
    features = reg_read(d, 0x010) & 1U << 28; /* indirect descriptors */
    d->indirect = features;
    reg_write(d, 0x024, 0);
    reg_write(d, 0x020, features);
    reg_write(d, 0x024, 1);
    reg_write(d, 0x020, 1); /* version 1 */
    reg_write(d, 0x070, 11);
    return reg_read(d, 0x070) == 11;
}

/* ring: where the three areas of queue q are, NULL: in the buffer. What QueueReady says then. */
static bool set_queue(struct device *d, unsigned q, const uint64_t *ring)
{
    uint32_t max;

    reg_write(d, 0x030, q);
    max = reg_read(d, 0x034);
    d->size = (uint16_t)(max < 64 ? max : 64);
    d->avail[q] = 0;
    memset(area(q, 0), 0, QUEUE_BYTES);
    reg_write(d, 0x038, d->size);
    for (unsigned i = 0; i < 3; i++)
        reg_address(d, 0x080 + 0x10 * i,
                    ring ? ring[i] : buffer_gpa + (uint64_t)(area(q, i) - buffer));
    reg_write(d, 0x044, 1);
    return reg_read(d, 0x044) == 1;
}

static bool set_up(struct device *d)
{
    if (!negotiate(d))
        return false;
    for (unsigned q = 0; q < d->queues; q++)
        if (!set_queue(d, q, NULL))
            return false;
    reg_write(d, 0x070, 15);
    return reg_read(d, 0x070) == 15;
}

static void put_desc(uint8_t *at, const struct piece *p, uint16_t flags, uint16_t next)
{
    memcpy(at, &p->gpa, 8);
    memcpy(at + 8, &p->len, 4);
    memcpy(at + 12, &flags, 2);
    memcpy(at + 14, &next, 2);
}

static void put_chain(uint8_t *table, const struct piece *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put_desc(table + 16 * i, &p[i],
                 (uint16_t)((p[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0)),
                 (uint16_t)(i + 1));
}

static void make_available(struct device *d, unsigned q, uint16_t head)
{
    volatile uint16_t *avail = (volatile uint16_t *)(void *)area(q, 1);

    avail[2 + d->avail[q] % d->size] = head;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    avail[1] = ++d->avail[q];
    reg_write(d, 0x050, q);
}

static void offer(struct device *d, unsigned q, const struct piece *p, unsigned n, bool indirect)
{
    struct piece table = {buffer_gpa + DATA + 0x8000, 16 * n, false};

    put_chain(indirect ? buffer + DATA + 0x8000 : area(q, 0), p, n);
    if (indirect)
        put_desc(area(q, 0), &table, DESC_INDIRECT, 0);
    make_available(d, q, 0);
}

static uint16_t used_index(unsigned q)
{
    return ((volatile uint16_t *)(void *)area(q, 2))[1];
}

/* What came of it: used, refused, or neither (ignored) within the time. */
static const char *outcome(const struct device *d, unsigned q, unsigned ms)
{
    for (unsigned i = 0; i <= ms / 2; i++) {
        if (used_index(q))
            return "used";
        if (reg_read(d, 0x070) & NEEDS_RESET)
            return "refused";
        sleep_ms(2);
    }
    return "ignored";
}

static const char *id_name(uint32_t id)
{
    return id == ID_NET       ? "net"
           : id == ID_BLK     ? "blk"
           : id == ID_CONSOLE ? "console"
           : id == ID_RNG     ? "rng"
           : id == ID_VSOCK   ? "vsock"
           : id == ID_PMEM    ? "pmem"
                              : "?";
}

static struct piece ram(uint32_t offset, uint32_t len, bool write)
{
    return (struct piece){buffer_gpa + DATA + offset, len, write};
}

/* A connection to a port where nobody is: the answer comes on queue 0. */
static void vsock_call(struct device *d)
{
    uint8_t *h = buffer + DATA + 0x4000;
    struct piece p = ram(0x4000, 44, false);
    const uint64_t cids[2] = {3, 2};
    const uint32_t ports[2] = {5000, 1999};
    const uint16_t type_op[2] = {1, 1};

    memset(h, 0, 44);
    memcpy(h, cids, 16);
    memcpy(h + 16, ports, 8);
    memcpy(h + 28, type_op, 4);
    offer(d, 1, &p, 1, false);
}

/* Queues into which the device never writes by itself: a chain for them begins with something to read. */
static bool has_header(const struct device *d, unsigned q)
{
    return d->id == ID_BLK || d->id == ID_PMEM || q == 1;
}

enum variant { FIRST_BYTES, LAST_BYTE, OVER_THE_END, BEHIND_RAM, INDIRECT, VARIANTS };
static const char *const variant_names[] = {"first bytes", "last byte", "over the end",
                                            "behind RAM", "indirect"};

static void attack_queue(struct device *d, unsigned q, const struct target *t, enum variant v)
{
    struct piece p[5];
    uint32_t len = d->id == ID_BLK ? 512 : d->id == ID_PMEM ? 4 : 64;
    uint64_t end = t->gpa + t->bytes;
    unsigned n = 0;

    if (!set_up(d)) {
        say("dma: %s cannot be set up", id_name(d->id));
        return;
    }
    memset(buffer + DATA, 0, 0x1000); /* blk: read sector 0; pmem: flush */
    if (has_header(d, q))
        p[n++] = ram(0, 44, false);
    if (d->id == ID_BLK)
        p[0].len = 16;
    if (v == BEHIND_RAM)
        p[n++] = ram(0x1000, d->id == ID_BLK ? 512 : 44, true);
    p[n++] = (struct piece){v == LAST_BYTE      ? end - 1
                            : v == OVER_THE_END ? end - len / 2
                                                : t->gpa,
                            v == LAST_BYTE ? 1 : len, true};
    if (d->id == ID_BLK && v != LAST_BYTE)
        p[n++] = ram(0x2000, 1, true);
    offer(d, q, p, n, v == INDIRECT);
    if (d->id == ID_VSOCK && q != 1)
        vsock_call(d);
    say("dma: %s queue %u %s: %s", id_name(d->id), q, variant_names[v],
        outcome(d, q, d->id == ID_NET && q == 0 ? 1000 : 60));
}

static void attack_rings(struct device *d, unsigned q, const struct target *t)
{
    for (unsigned i = 0; i < 3; i++) {
        uint64_t ring[3];
        bool ready;

        for (unsigned k = 0; k < 3; k++)
            ring[k] = buffer_gpa + (uint64_t)(area(q, k) - buffer);
        ring[i] = t->gpa + 4096 * i;
        ready = negotiate(d) && set_queue(d, q, ring);
        say("ring: %s queue %u area %u: %s", id_name(d->id), q, i, ready ? "ready" : "refused");
    }
}

/* The same with memory that is there to be written: our driver works. */
static void honest(struct device *d)
{
    struct piece p[3];
    unsigned n = 0, q = d->id == ID_CONSOLE ? 1 : 0;
    const char *how;

    if (!set_up(d)) {
        say("honest: %s cannot be set up", id_name(d->id));
        return;
    }
    memset(buffer + DATA, 0, 0x3000);
    if (has_header(d, q))
        p[n++] = ram(0, d->id == ID_CONSOLE ? 0x20 : 16, false);
    if (d->id != ID_CONSOLE)
        p[n++] = ram(0x1000, d->id == ID_BLK ? 512 : d->id == ID_PMEM ? 4 : 4096, true);
    if (d->id == ID_BLK)
        p[n++] = ram(0x2000, 1, true);
    buffer[DATA + 0x1000 + 4095] = buffer[DATA + 0x1000 + 511] = 0;
    offer(d, q, p, n, false);
    if (d->id == ID_VSOCK)
        vsock_call(d);
    how = outcome(d, q, 5000);
    say("honest: %s %s", id_name(d->id), how);
}

static bool find_device(unsigned window, struct device *ret)
{
    struct device d = {.window = WINDOWS + window * WINDOW_BYTES};
    uint64_t start;

    d.id = reg_read(&d, 0x008);
    if (reg_read(&d, 0x000) != 0x74726976 || d.id == 0 || d.id == UINT32_MAX)
        return false;
    start = reg_read(&d, 0x100) | (uint64_t)reg_read(&d, 0x104) << 32;
    if (d.id == ID_PMEM && start == go.gpa)
        return false;
    d.queues = d.id == ID_VSOCK ? 3 : d.id == ID_NET || d.id == ID_CONSOLE ? 2 : 1;
    *ret = d;
    return true;
}

static void for_each_device(void (*fn)(struct device *d))
{
    struct device d;

    for (unsigned w = 0; w < HOT_WINDOW + HOT_WINDOWS; w++)
        if ((w < COLD_WINDOWS || w >= HOT_WINDOW) && find_device(w, &d))
            fn(&d);
}

static void attack_device(struct device *d)
{
    honest(d);
    for (unsigned i = 0; i < n_targets; i++)
        for (unsigned q = 0; q < d->queues; q++) {
            for (int v = 0; v < VARIANTS; v++)
                attack_queue(d, q, &targets[i], (enum variant)v);
            attack_rings(d, q, &targets[i]);
        }
    honest(d);
    reg_write(d, 0x070, 0);
}

/* "LNRO0005:NN" behind /dev/pmemN. */
static bool platform_name(unsigned n, char *out, size_t size)
{
    char link[64], real[512];
    ssize_t len;
    char *at;

    snprintf(link, sizeof(link), "/sys/block/pmem%u", n);
    len = readlink(link, real, sizeof(real) - 1);
    if (len < 0)
        return false;
    real[len] = 0;
    at = strstr(real, "LNRO0005:");
    if (!at)
        return false;
    at[strcspn(at, "/")] = 0;
    snprintf(out, size, "%s", at);
    return true;
}

#define DRIVER "/sys/bus/platform/drivers/virtio-mmio/"

/* Every device but the one that carries GO. */
static void phase_unbind(void)
{
    DIR *dir = opendir(DRIVER);
    struct dirent *e;
    char keep[64] = "";
    unsigned n = 0, bad = 0;

    (void)platform_name(go.pmem, keep, sizeof(keep));
    while (dir && (e = readdir(dir))) {
        if (strncmp(e->d_name, "LNRO0005:", 9) != 0 || strcmp(e->d_name, keep) == 0)
            continue;
        n++;
        bad += write_text(DRIVER "unbind", e->d_name) < 0;
    }
    if (dir)
        closedir(dir);
    say("unbind: %u devices, %u failures", n, bad);
}

static void phase_bind(void)
{
    DIR *dir = opendir("/sys/bus/platform/devices");
    struct dirent *e;
    unsigned n = 0, left = n_targets;

    while (dir && (e = readdir(dir)))
        if (strncmp(e->d_name, "LNRO0005:", 9) == 0)
            n += write_text(DRIVER "bind", e->d_name) == 0;
    if (dir)
        closedir(dir);
    for (int i = 0; i < 500 && left; i++) {
        left = 0;
        for (unsigned t = 0; t < n_targets; t++) {
            int fd = -1;

            for (unsigned p = 0; p < TARGETS_MAX && fd < 0;
                 p++) { /* it may have another number now */
                char path[96];

                snprintf(path, sizeof(path), "/sys/block/pmem%u/device/resource", p);
                if (read_number(path) != targets[t].gpa)
                    continue;
                targets[t].pmem = p;
                fd = open_pmem(p, O_RDONLY);
            }
            left += fd < 0;
            if (fd >= 0)
                close(fd);
        }
        sleep_ms(20);
    }
    say("bind: %u devices, %u regions missing", n, left);
    check_sums("bind");
}

static void phase_dma(void)
{
    for_each_device(attack_device);
}

/* ---- requests that make no sense, to pmem alone */

static uint32_t random_word(void)
{
    static uint32_t x = 0x9E3779B9;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x;
}

/* An address of the guest's that is sometimes even right. */
static uint64_t random_gpa(void)
{
    switch (random_word() % 6) {
    case 0:
        return targets[random_word() % n_targets].gpa + random_word() % 4096;
    case 1:
        return targets[0].gpa + targets[0].bytes - random_word() % 64;
    case 2:
        return (uint64_t)random_word() << 32 | random_word();
    case 3:
        return WINDOWS + random_word() % 65536;
    default:
        return buffer_gpa + DATA + random_word() % 65536;
    }
}

static unsigned flood_resets, flood_bad;

static void flood(struct device *d)
{
    if (d->id != ID_PMEM)
        return;
    for (unsigned i = 0; i < 300; i++) {
        if (i % 16 == 0 || (reg_read(d, 0x070) & NEEDS_RESET)) {
            flood_resets++;
            flood_bad += !set_up(d);
        }
        for (unsigned k = 0; k < 4; k++) {
            struct piece p = {random_gpa(), random_word() % 8 ? random_word() % 100 : random_word(),
                              false};

            put_desc(area(0, 0) + 16 * k, &p,
                     (uint16_t)(random_word() % 16 ? random_word() % 8 : random_word()),
                     (uint16_t)(random_word() % 8 ? random_word() % 4 : random_word()));
        }
        if (random_word() % 32 == 0)
            d->avail[0] = (uint16_t)(d->avail[0] + random_word());
        make_available(d, 0, (uint16_t)(random_word() % 16 ? random_word() % 4 : random_word()));
    }
    for (unsigned i = 0; i < 3000; i++) /* kicks alone, for queues that are and that are not */
        reg_write(d, 0x050, i % 5 ? 0 : random_word());
    honest(d);
    reg_write(d, 0x070, 0);
}

static void phase_flood(void)
{
    for_each_device(flood);
    say("flood: %u resets, %u failed", flood_resets, flood_bad);
}

/* ---- a descriptor that changes while it is read */

static volatile bool flipping;
static volatile unsigned flip_rounds;

static void *flipper(void *arg)
{
    volatile uint64_t *desc = (volatile uint64_t *)(void *)area(0, 0);
    const uint64_t *gpas = arg;

    while (flipping) {
        for (unsigned i = 0; i < 64; i++)
            *desc = gpas[i % 2];
        flip_rounds++;
    }
    return NULL;
}

/* From here on the address is the flipper's, not ours: on a machine of one CPU it is its last word that counts. */
static void flips_go_on(void)
{
    unsigned before = flip_rounds;

    for (unsigned wait = 0; wait < 100 && flip_rounds == before; wait++)
        sleep_ms(1);
}

static void flip(struct device *d)
{
    uint64_t gpas[2] = {buffer_gpa + DATA + 0x1000, targets[0].gpa};
    struct piece p = {gpas[0], 64, true};
    unsigned used = 0, refused = 0;
    pthread_t thread;
    bool up = false;

    if (d->id != ID_RNG)
        return;
    flipping = true;
    if (pthread_create(&thread, NULL, flipper, gpas) != 0)
        return;
    for (unsigned i = 0; i < 3000 && (used < 20 || refused < 20); i++) {
        const char *how;
        uint16_t before;

        if (!up)
            up = set_up(d);
        before = used_index(0);
        put_desc(area(0, 0), &p, DESC_WRITE, 0);
        flips_go_on();
        make_available(d, 0, 0);
        how = "nothing";
        for (unsigned wait = 0; wait < 1000; wait++) {
            if (used_index(0) != before) {
                how = "used";
                break;
            }
            if (wait % 8 == 7 && (reg_read(d, 0x070) & NEEDS_RESET)) {
                how = "refused";
                break;
            }
            if (wait > 16)
                sleep_ms(1);
        }
        used += how[0] == 'u';
        refused += how[0] == 'r';
        up = how[0] == 'u';
    }
    flipping = false;
    pthread_join(thread, NULL);
    say("flip: %u used, %u refused", used, refused);
    reg_write(d, 0x070, 0);
}

static void phase_flip(void)
{
    for_each_device(flip);
}

/* ---- all of it */

static const struct {
    const char *name;
    void (*run)(void);
} phases[] = {
    {"direct", phase_direct},
    {"remap", phase_remap},
    {"devmem", phase_devmem},
    {"msr", phase_msr},
    {"flush", phase_flush},
    {"unbind", phase_unbind},
    {"bind", phase_bind},
    {"dma", phase_dma},
    {"flood", phase_flood},
    {"flip", phase_flip},
    {"cmpxchg16b", phase_cmpxchg16b},
    {"avx", phase_avx},
    {"fxsave", phase_fxsave},
};

static void run(const char *name)
{
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
        if (strcmp(phases[i].name, name) == 0) {
            phases[i].run();
            wait_for_host(name);
            return;
        }
    say("unknown phase %s", name);
}

int main(void)
{
    char tests[256], *save = NULL;

    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    if (ioperm(COM1, 8, 1) < 0)
        return 1;
    load_modules();
    find_regions((unsigned)strtoul(argument("nexus.n="), NULL, 10));
    dev = open("/dev/nexus-attack", O_RDWR | O_CLOEXEC);
    buffer = mmap(NULL, ATTACK_BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, dev, 0);
    if (dev < 0 || buffer == MAP_FAILED || ioctl(dev, ATTACK_BUFFER, &buffer_gpa) < 0) {
        say("no module: errno %d", errno);
        return 1;
    }
    for (unsigned i = 0; i < n_targets; i++)
        targets[i].sum = sum_of(&targets[i]);
    wait_for_host("begin");
    snprintf(tests, sizeof(tests), "%s", argument("nexus.test="));
    for (char *t = strtok_r(tests, ",", &save); t; t = strtok_r(NULL, ",", &save))
        run(t);
    say("end");
    reboot(RB_POWER_OFF);
    pause();
    return 0;
}
