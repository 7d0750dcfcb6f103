/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of the monitor's integration tests: loads the modules of the initramfs, then does the one thing
 * that the kernel argument nexus.test= names, and tells of it in lines that begin with "test: ". Static,
 * C library only. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LAST_PAGE ((1 << 20) - 4096) /* of the host's first file */

static int kmsg = -1;

/* level 0: the silent console shows it too */
__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
    char line[512] = "<0>test: ";
    size_t n = strlen(line);
    va_list ap;

    va_start(ap, fmt);
    n += (size_t)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
    va_end(ap);
    line[n++] = '\n';
    if (write(kmsg, line, n) < 0)
        abort();
}

static void load_modules(void)
{
    FILE *list = fopen("/modules.list", "re");
    char path[256];

    while (list && fgets(path, sizeof(path), list)) {
        int fd;

        path[strcspn(path, "\n")] = 0;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
            say("cannot load %s: errno %d", path, errno);
        close(fd);
    }
}

/* The value of name on the kernel's command line; empty: not there. */
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

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static int path_wait(const char *path)
{
    for (int i = 0; i < 1000; i++) {
        if (access(path, F_OK) == 0)
            return 0;
        sleep_ms(10);
    }
    say("%s does not come", path);
    return -1;
}

static int read_text(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);

    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = 0;
    return n < 0 ? -1 : 0;
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int r = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return r;
}

/* "LNRO0005:NN" behind /dev/pmemN: a part of the path its sysfs link leads to. */
static int platform_name(unsigned n, char *out, size_t size)
{
    char link[64], real[512];
    ssize_t len;
    char *at;

    snprintf(link, sizeof(link), "/sys/block/pmem%u", n);
    len = readlink(link, real, sizeof(real) - 1);
    if (len < 0)
        return -1;
    real[len] = 0;
    at = strstr(real, "LNRO0005:");
    if (!at)
        return -1;
    at[strcspn(at, "/")] = 0;
    snprintf(out, size, "%s", at);
    return 0;
}

/* First bytes of the region, as text; and what two flushes say. */
static void show_region(unsigned n)
{
    char path[32], text[17] = "";
    int fd, flush = -1;

    snprintf(path, sizeof(path), "/dev/pmem%u", n);
    if (path_wait(path) < 0)
        return;
    do /* the node is there before the disk is */
        fd = open(path, O_RDWR | O_CLOEXEC);
    while (fd < 0 && errno == ENXIO);
    if (fd < 0 || read(fd, text, 16) < 0)
        say("pmem%u: cannot read: errno %d", n, errno);
    for (int i = 0; i < 2; i++)
        flush = fsync(fd);
    say("pmem%u: %s flush %d", n, text, flush);
    close(fd);
}

static void flush_many(unsigned n, unsigned times)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/dev/pmem%u", n);
    fd = open(path, O_RDWR | O_CLOEXEC);
    for (unsigned i = 0; i < times; i++)
        if (fsync(fd) < 0)
            _exit(1);
    _exit(0);
}

/* n regions come one by one; then all flush at once over the shared interrupt lines. */
static void test_regions(unsigned n)
{
    int status, bad = 0;

    for (unsigned i = 0; i < n; i++) {
        say("want region %u", i);
        show_region(i);
    }
    for (unsigned i = 0; i < n; i++)
        if (fork() == 0)
            flush_many(i, 20);
    for (unsigned i = 0; i < n; i++)
        bad += wait(&status) < 0 || status != 0;
    say("flushed %u at once, %d failed", n, bad);
}

/* Root tries to change the region by every way there is. */
static void test_readonly(void)
{
    char before[17] = "", after[17] = "";
    char *p;
    int fd;

    say("want region 0");
    show_region(0);
    fd = open("/dev/pmem0", O_RDWR | O_CLOEXEC | O_SYNC);
    (void)!pread(fd, before, 16, 0);
    say("write gives %zd", pwrite(fd, "overwritten by guest", 20, 0));
    fsync(fd);
    close(fd);
    fd = open("/dev/pmem0", O_RDWR | O_CLOEXEC);
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED) {
        memcpy(p, "mapped", 6);
        msync(p, 4096, MS_SYNC);
        munmap(p, 4096);
    }
    close(fd);
    write_text("/proc/sys/vm/drop_caches", "3");
    fd = open("/dev/pmem0", O_RDONLY | O_DIRECT | O_CLOEXEC);
    p = aligned_alloc(4096, 4096);
    (void)!read(fd, p, 4096);
    memcpy(after, p, 16);
    say("before %s after %s", before, after);
}

/* Which of the idle slots got the device only the host knows: an empty one says ENODEV. */
static void bind_all(void)
{
    DIR *d = opendir("/sys/bus/platform/devices");
    struct dirent *e;
    char path[300];

    while (d && (e = readdir(d))) {
        snprintf(path, sizeof(path), "/sys/bus/platform/devices/%s/driver", e->d_name);
        if (strncmp(e->d_name, "LNRO0005:", 9) == 0 && access(path, F_OK) != 0)
            write_text("/sys/bus/platform/drivers/virtio-mmio/bind", e->d_name);
    }
    if (d)
        closedir(d);
}

/* A region is taken away and its slot used again, which nothing announces: known devices are bound by hand. */
static void test_reuse(unsigned rounds)
{
    char name[64];

    for (unsigned round = 0; round <= rounds; round++) {
        say("want region %u", round);
        if (round > 0) {
            sleep_ms(300); /* the host has taken the old one away and put the next one there */
            say("before bind: %d", access("/sys/block/pmem0", F_OK));
        }
        for (int i = 0; platform_name(0, name, sizeof(name)) < 0; i++) {
            if (i == 1000) {
                say("no device in round %u", round);
                return;
            }
            if (round > 0)
                bind_all();
            sleep_ms(10);
        }
        show_region(0);
        if (round == rounds)
            break;
        say("unbind gives %d", write_text("/sys/bus/platform/drivers/virtio-mmio/unbind", name));
        say("released");
    }
}

/* The file behind the region is cut short meanwhile; only its reader notices. */
static void test_truncate(void)
{
    static char page[4096] __attribute__((aligned(4096)));
    int fd, before = 0, tries = 0;

    say("want region 0");
    show_region(0);
    fd = open("/dev/pmem0", O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (pread(fd, page, sizeof(page), LAST_PAGE) == sizeof(page))
        before = page[0];
    say("truncate");
    do {
        sleep_ms(20);
        (void)!pread(fd, page, sizeof(page), LAST_PAGE);
    } while (page[0] && ++tries < 500);
    say("last page had %d, has %d", before, page[0]);
    (void)!pread(fd, page, sizeof(page), 0);
    say("first page %.9s", page);
    close(fd);
}

/* statx is newer than the C library: its buffer by hand. stx_attributes is at 8. */
static int is_dax(int fd)
{
    static uint64_t buf[32];

    if (syscall(SYS_statx, fd, "", 0x1000 /* AT_EMPTY_PATH */, 0x7ff, buf) < 0)
        return -errno;
    return buf[1] >> 21 & 1; /* STATX_ATTR_DAX */
}

static void test_mount(void)
{
    char text[64];
    struct stat st;
    char *p;
    int fd;

    say("want region 0");
    if (path_wait("/dev/pmem0") < 0)
        return;
    mkdir("/m", 0755);
    say("mount gives %d", mount("/dev/pmem0", "/m", "erofs", MS_RDONLY, "dax=always") ? errno : 0);
    read_text("/m/hello", text, sizeof(text));
    text[strcspn(text, "\n")] = 0;
    fd = open("/m/big", O_RDONLY | O_CLOEXEC);
    fstat(fd, &st);
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    say("hello %s big %lld bytes, last %d, dax %d", text, (long long)st.st_size,
        p == MAP_FAILED ? -1 : p[st.st_size - 1], is_dax(fd));
}

#define CONSOLE_LINES 2000

/* Lines on hvc0, after those of the kernel; the host looks for them. */
static void test_console(void)
{
    char text[64] = "", line[64];
    int fd = open("/dev/hvc0", O_WRONLY | O_NOCTTY | O_CLOEXEC);

    read_text("/sys/class/tty/console/active", text, sizeof(text));
    text[strcspn(text, "\n")] = 0;
    say("consoles: %s", text);
    for (int i = 0; fd >= 0 && i < CONSOLE_LINES; i++) {
        int n = snprintf(line, sizeof(line), "hvc0 line %04d\n", i);

        for (int at = 0; at < n;) {
            ssize_t w = write(fd, line + at, (size_t)(n - at));

            if (w < 0) {
                say("hvc0: errno %d", errno);
                return;
            }
            at += (int)w;
        }
    }
    if (fd >= 0) {
        tcdrain(fd);
        close(fd);
    }
}

int main(void)
{
    const char *test;
    unsigned n;

    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    load_modules();
    n = (unsigned)strtoul(argument("nexus.n="), NULL, 10);
    test = argument("nexus.test=");
    say("begin %s", test);
    if (!strcmp(test, "panic"))
        return 7; /* PID 1 ends */
    if (!strcmp(test, "reset"))
        reboot(RB_AUTOBOOT);
    if (!strcmp(test, "spin"))
        for (;;)
            ;
    if (!strcmp(test, "regions"))
        test_regions(n);
    if (!strcmp(test, "readonly"))
        test_readonly();
    if (!strcmp(test, "reuse"))
        test_reuse(n);
    if (!strcmp(test, "truncate"))
        test_truncate();
    if (!strcmp(test, "mount"))
        test_mount();
    if (!strcmp(test, "console"))
        test_console();
    say("end %s, %ld CPUs", test, sysconf(_SC_NPROCESSORS_ONLN));
    reboot(RB_POWER_OFF);
    pause();
    return 0;
}
