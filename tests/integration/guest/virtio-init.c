/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of the device tests: stock drivers against the devices of the monitor. Loads the modules of the
 * initramfs, runs the cases named in the kernel argument nexus.test= (comma separated) and tells of each
 * in a line that begins with "test: ". Static, C library only. The host's part is virtio-driver.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PORT_ECHO 1024
#define PORT_GUEST 1025
#define PORT_SINK 1026
#define PORT_SOURCE 1027
#define PORT_DRIBBLE 1028
#define PORT_SLOW 1029
#define PORT_NOBODY 1999
#define MIB (1 << 20)

/* musl comes without the kernel's headers */
#undef BLKFLSBUF
#define BLKFLSBUF _IO(0x12, 97)
#undef BLKGETSIZE64
#define BLKGETSIZE64 _IOR(0x12, 114, size_t)
#undef BLKDISCARD
#define BLKDISCARD _IO(0x12, 119)
#undef BLKZEROOUT
#define BLKZEROOUT _IO(0x12, 127)
#define VMADDR_CID_ANY UINT32_MAX
struct sockaddr_vm {
    sa_family_t svm_family;
    uint16_t svm_reserved;
    uint32_t svm_port, svm_cid;
    uint8_t svm_zero[4];
};

static int kmsg = -1;
static uint8_t buf[MIB], other[MIB];

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

static unsigned now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (unsigned)(ts.tv_sec * 1000 + ts.tv_nsec / 1000000);
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

static void fill(uint8_t *p, size_t n, uint64_t at)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((at + i) * 31 + (at + i) / 4093);
}

static int send_all(int fd, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t r = send(fd, p, n, MSG_NOSIGNAL);
        if (r <= 0)
            return -1;
        p += r;
        n -= (size_t)r;
    }
    return 0;
}

/* ---- rng ---- */

static void test_rng(void)
{
    int fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
    size_t got = 0, zeros = 0;
    unsigned t = now_ms();

    while (fd >= 0 && got < 8192) {
        ssize_t n = read(fd, buf + got, 8192 - got);
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    for (size_t i = 0; i < got; i++)
        zeros += buf[i] == 0;
    say("rng: %zu bytes, plausible %d, %u ms", got, zeros < 100, now_ms() - t);
    close(fd);
}

/* ---- vsock ---- */

static int vconnect(unsigned port)
{
    struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

/* total bytes there and back, in chunks of odd sizes, both directions at once */
static uint64_t echo(int fd, uint64_t total)
{
    uint64_t out = 0, in = 0;
    size_t chunk = 1;

    while (in < total) {
        struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (out < total ? POLLOUT : 0))};

        if (poll(&p, 1, 20000) <= 0)
            break;
        if (p.revents & POLLIN) {
            ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
            if (n <= 0)
                break;
            fill(other, (size_t)n, in);
            if (memcmp(buf, other, (size_t)n) != 0)
                return in;
            in += (uint64_t)n;
        }
        if (p.revents & POLLOUT) {
            size_t n = chunk < total - out ? chunk : (size_t)(total - out);
            fill(buf, n, out);
            ssize_t r = send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (r > 0)
                out += (uint64_t)r;
            chunk = chunk * 3 % 100003 + 1;
        }
    }
    return in;
}

static void test_vsock_echo(void)
{
    int fd = vconnect(PORT_ECHO);
    unsigned t = now_ms();
    uint64_t n = echo(fd, 4 * MIB);

    say("vsock echo: %llu of %d bytes right, %u ms", (unsigned long long)n, 4 * MIB, now_ms() - t);
    close(fd);
}

static void test_vsock_pingpong(void)
{
    int fd = vconnect(PORT_ECHO), rounds = 0;
    unsigned t = now_ms();
    uint8_t b;

    while (rounds < 500 && send(fd, "p", 1, 0) == 1 && recv(fd, &b, 1, 0) == 1)
        rounds++;
    say("vsock ping-pong: %d rounds, %u us each", rounds, (now_ms() - t) * 1000 / 500);
    close(fd);
}

static void test_vsock_sink(unsigned port, const char *name, unsigned mib)
{
    int fd = vconnect(port);
    unsigned t = now_ms();
    uint64_t counted = 0;

    for (unsigned i = 0; i < mib; i++) {
        fill(buf, MIB, (uint64_t)i * MIB);
        if (send_all(fd, buf, MIB) < 0)
            break;
    }
    shutdown(fd, SHUT_WR);
    if (recv(fd, &counted, sizeof(counted), MSG_WAITALL) != sizeof(counted))
        counted = 0;
    ssize_t end = recv(fd, buf, 1, 0);
    say("vsock %s: host counted %llu, then %zd, %u ms", name, (unsigned long long)counted, end,
        now_ms() - t);
    close(fd);
}

static void test_vsock_source(unsigned port, const char *name, unsigned wait_ms)
{
    int fd = vconnect(port);
    unsigned t = now_ms();
    uint64_t in = 0;
    ssize_t n;

    usleep(wait_ms * 1000);
    while ((n = recv(fd, buf, sizeof(buf), 0)) > 0) {
        fill(other, (size_t)n, in);
        if (memcmp(buf, other, (size_t)n) != 0)
            break;
        in += (uint64_t)n;
    }
    say("vsock %s: %llu bytes right, end %zd errno %d, %u ms", name, (unsigned long long)in, n,
        n < 0 ? errno : 0, now_ms() - t);
    close(fd);
}

static void test_vsock_refused(void)
{
    unsigned t = now_ms();
    int fd = vconnect(PORT_NOBODY), e = errno;

    say("vsock nobody: %d, reset %d, quick %d", fd, e == ECONNRESET, now_ms() - t < 1500);
}

static void test_vsock_many(void)
{
    int fds[300], ok = 0;
    unsigned t = now_ms();

    for (int i = 0; i < 300; i++)
        fds[i] = vconnect(PORT_ECHO);
    for (int i = 0; i < 300; i++)
        (void)!send(fds[i], &i, sizeof(i), MSG_NOSIGNAL);
    for (int i = 0; i < 300; i++) {
        int v = -1;
        ok += recv(fds[i], &v, sizeof(v), MSG_WAITALL) == sizeof(v) && v == i;
    }
    for (int i = 0; i < 300; i++)
        close(fds[i]);
    say("vsock many: %d of 300 echoed, %u ms", ok, now_ms() - t);
}

/* The host connects when it reads "listening"; twice: once answered, once refused. */
static void test_vsock_host(void)
{
    struct sockaddr_vm a = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = PORT_GUEST};
    struct sockaddr_vm peer = {0};
    socklen_t len = sizeof(peer);
    int s = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char line[16] = "";

    if (bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 8) < 0)
        say("vsock host: cannot listen");
    say("listening");
    int fd = accept(s, (struct sockaddr *)&peer, &len);
    ssize_t n = recv(fd, line, 5, MSG_WAITALL);
    (void)!send(fd, "pong\n", 5, 0);
    shutdown(fd, SHUT_WR);
    ssize_t end = recv(fd, line + 8, 1, 0);
    close(fd);
    close(s);
    say("vsock host: got %zd \"%.4s\" from cid %u, then %zd", n, line, peer.svm_cid, end);
    say("deaf");
    usleep(300000);
}

static void test_vsock(void)
{
    test_vsock_refused();
    test_vsock_echo();
    test_vsock_pingpong();
    test_vsock_sink(PORT_SINK, "sink", 8);
    test_vsock_sink(PORT_SLOW, "slow sink", 2);
    test_vsock_source(PORT_SOURCE, "source", 0);
    test_vsock_source(PORT_SOURCE, "late reader", 500);
    test_vsock_source(PORT_DRIBBLE, "dribble", 1500);
    test_vsock_many();
    test_vsock_host();
}

/* ---- block ---- */

static void read_back(int fd, const char *what, unsigned mib)
{
    uint8_t *p = aligned_alloc(4096, MIB);
    unsigned t = now_ms();
    uint64_t right = 0;

    for (unsigned i = 0; i < mib; i++) {
        if (pread(fd, p, MIB, (off_t)i * MIB) != MIB)
            break;
        fill(other, MIB, (uint64_t)i * MIB + 7);
        right += memcmp(p, other, MIB) == 0;
    }
    say("blk %s: %llu of %u MiB right, %u ms", what, (unsigned long long)right, mib, now_ms() - t);
    free(p);
}

static void test_blk(void)
{
    uint64_t size = 0, range[2] = {0, MIB}, zero = 0;
    uint8_t *p = aligned_alloc(4096, MIB);
    int fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
    unsigned t = now_ms(), wrote = 0;

    (void)ioctl(fd, BLKGETSIZE64, &size);
    for (unsigned i = 0; i < 16; i++) {
        fill(p, MIB, (uint64_t)i * MIB + 7);
        wrote += pwrite(fd, p, MIB, (off_t)i * MIB) == MIB;
    }
    say("blk: %llu MiB, wrote %u MiB, sync %d, %u ms", (unsigned long long)size >> 20, wrote,
        fsync(fd), now_ms() - t);
    read_back(fd, "direct", 16);
    close(fd);
    fd = open("/dev/vda", O_RDWR | O_CLOEXEC);
    read_back(fd, "buffered", 16);
    int r = ioctl(fd, BLKDISCARD, range), e = r < 0 ? errno : 0;
    range[0] = MIB;
    int z = ioctl(fd, BLKZEROOUT, range);
    (void)ioctl(fd, BLKFLSBUF, 0);
    for (unsigned i = 0; i < 2; i++) {
        if (pread(fd, p, MIB, (off_t)i * MIB) == MIB)
            for (unsigned k = 0; k < MIB; k++)
                zero += p[k] == 0;
    }
    say("blk discard: %d errno %d, zero-out %d, %llu zeros", r, e, z, (unsigned long long)zero);
    errno = 0;
    ssize_t past = pwrite(fd, p, 4096, (off_t)size);
    say("blk past the end: %zd errno %d", past, errno);
    close(fd);
    free(p);
}

/* ---- network ---- */

static void interface_up(const char *name, const char *addr)
{
    struct ifreq r = {0};
    struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    a->sin_family = AF_INET;
    a->sin_addr.s_addr = inet_addr(addr);
    if (ioctl(s, SIOCSIFADDR, &r) < 0)
        say("net: address: errno %d", errno);
    a->sin_addr.s_addr = inet_addr("255.255.255.0");
    (void)ioctl(s, SIOCSIFNETMASK, &r);
    (void)ioctl(s, SIOCGIFFLAGS, &r);
    r.ifr_flags |= IFF_UP;
    if (ioctl(s, SIOCSIFFLAGS, &r) < 0)
        say("net: up: errno %d", errno);
    (void)ioctl(s, SIOCGIFHWADDR, &r);
    const uint8_t *m = (const uint8_t *)r.ifr_hwaddr.sa_data;
    uint8_t mac[6];
    memcpy(mac, m, 6);
    (void)ioctl(s, SIOCGIFMTU, &r);
    say("net: mac %02x:%02x:%02x:%02x:%02x:%02x mtu %d", mac[0], mac[1], mac[2], mac[3], mac[4],
        mac[5], r.ifr_mtu);
    close(s);
}

static int tcp(unsigned port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_addr.s_addr = inet_addr("10.99.7.1");
    if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0) {
        say("net: connect: errno %d", errno);
        close(s);
        return -1;
    }
    return s;
}

static void test_net_up(void)
{
    int s = tcp(7001);
    unsigned t = now_ms();
    char count[32] = "";

    for (unsigned i = 0; i < 8; i++) {
        fill(buf, MIB, (uint64_t)i * MIB);
        if (send_all(s, buf, MIB) < 0)
            break;
    }
    shutdown(s, SHUT_WR);
    (void)!recv(s, count, sizeof(count) - 1, MSG_WAITALL);
    say("net to host: %s, %u ms", count, now_ms() - t);
    close(s);
}

static void test_net_down(void)
{
    int s = tcp(7002);
    unsigned t = now_ms();
    uint64_t in = 0;
    ssize_t n;

    while ((n = recv(s, buf, sizeof(buf), 0)) > 0) {
        fill(other, (size_t)n, in);
        if (memcmp(buf, other, (size_t)n) != 0)
            break;
        in += (uint64_t)n;
    }
    say("net from host: %llu bytes right, end %zd, %u ms", (unsigned long long)in, n, now_ms() - t);
    close(s);
}

static void test_net_udp(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(7003)};
    struct timeval tv = {.tv_sec = 5};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), got = 0;
    unsigned t;

    a.sin_addr.s_addr = inet_addr("10.99.7.1");
    (void)connect(s, (struct sockaddr *)&a, sizeof(a));
    (void)setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    t = now_ms();
    for (int i = 0; i < 300; i++) {
        size_t n = (size_t)(1 + i * 37 % 1472);

        fill(buf, n, (uint64_t)i);
        got += send(s, buf, n, 0) == (ssize_t)n && recv(s, other, 2000, 0) == (ssize_t)n &&
               memcmp(buf, other, n) == 0;
    }
    say("net udp: %d of 300 came back, %u us each", got, (now_ms() - t) * 1000 / 300);
    close(s);
}

static void test_net(void)
{
    interface_up("eth0", "10.99.7.2");
    test_net_udp();
    test_net_up();
    test_net_down();
}

/* ---- unbind and bind: reset, activation, again ---- */

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int r = fd >= 0 && write(fd, text, strlen(text)) > 0 ? 0 : -errno;

    close(fd);
    return r;
}

static void test_rebind(void)
{
    DIR *d = opendir("/sys/bus/virtio/devices");
    struct dirent *e;
    int bad = 0, n = 0;

    while (d && (e = readdir(d))) {
        char path[512], driver[512];
        ssize_t len;

        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/sys/bus/virtio/devices/%s/driver", e->d_name);
        len = readlink(path, driver, sizeof(driver) - 1);
        if (len < 0)
            continue;
        driver[len] = 0;
        for (int i = 0; i < 5; i++) {
            const char *name = strrchr(driver, '/') + 1;

            snprintf(path, sizeof(path), "/sys/bus/virtio/drivers/%s/unbind", name);
            bad += put(path, e->d_name) < 0;
            snprintf(path, sizeof(path), "/sys/bus/virtio/drivers/%s/bind", name);
            bad += put(path, e->d_name) < 0;
            /* Linux's hwrng keeps a pointer to a thread that it stopped before that ran once, and stops it
             * again the next time (drivers/char/hw_random/core.c, hwrng_fill, 6.1): let it run. */
            usleep(50000);
        }
        n++;
    }
    say("rebind: %d devices, %d failures", n, bad);
}

/* ---- end ---- */

static const struct {
    const char *name;
    void (*fn)(void);
} tests[] = {
    {"rng", test_rng}, {"vsock", test_vsock},   {"blk", test_blk},
    {"net", test_net}, {"rebind", test_rebind},
};

static void run_named(char *names)
{
    char *save = NULL;

    for (char *name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
            if (strcmp(tests[i].name, name) == 0)
                tests[i].fn();
        }
    }
}

int main(void)
{
    char cmdline[4096] = "", *arg;
    int fd;

    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    load_modules();
    fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    (void)!read(fd, cmdline, sizeof(cmdline) - 1);
    arg = strstr(cmdline, "nexus.test=");
    if (arg) {
        arg += strlen("nexus.test=");
        arg[strcspn(arg, " \n")] = 0;
        run_named(arg);
    }
    say("end");
    sync();
    reboot(RB_POWER_OFF);
    return 0;
}
