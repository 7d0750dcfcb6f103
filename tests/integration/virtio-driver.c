/* SPDX-License-Identifier: Apache-2.0 */
/* A machine with every device and the host's end of each, for guest/virtio-init.c: vsock services that
 * echo, swallow, produce, dribble and dawdle; a TAP by name; a disk file. What the guest says goes to
 * stdout, then the end and the counters.
 *   virtio-driver KERNEL INITRAMFS CPUS MEMORY CMDLINE TAP|- DISK|- */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/numparse.h"
#include "event/loop.h"
#include "lib/driver.h"
#include "virtio/vsock.h"
#include "vmm/machine.h"

#define SOURCE_BYTES (8ULL << 20)
#define DRIBBLE_BYTES 3000U
#define SLOW_STEP_MS 20U
#define SLOW_STEP_BYTES (32U << 10)

enum kind { ECHO, SINK, SOURCE, DRIBBLE, SLOW, CALLER };

struct driver {
    struct loop *loop;
    struct machine *machine;
    char line[1024];
    size_t used;
    enum machine_end end;
    char detail[256];
};

/* One connection's service. */
struct service {
    enum kind kind;
    struct driver *d;
    struct vsock_conn *c;
    struct loop_source *timer; /* dribble: the next byte; slow: the next mouthful */
    uint64_t in, out;
    uint32_t allowance; /* slow: bytes that may be taken now */
    bool done;
};

static uint8_t pattern(uint64_t at)
{
    return (uint8_t)(at * 31 + at / 4093);
}

/* ---- services ---- */

static void produce(struct service *s)
{
    static uint8_t b[65536];

    while (s->out < SOURCE_BYTES) {
        size_t n = (size_t)min_of((uint64_t)sizeof(b), SOURCE_BYTES - s->out), r;

        for (size_t i = 0; i < n; i++)
            b[i] = pattern(s->out + i);
        r = vsock_conn_write(s->c, b, n);
        s->out += r;
        if (r < n)
            return; /* on_writable goes on */
    }
    vsock_conn_shutdown(s->c);
}

static void on_dribble(struct loop_source *t, void *userdata)
{
    struct service *s = userdata;
    uint8_t b = pattern(s->out);

    if (vsock_conn_write(s->c, &b, 1) == 1)
        s->out++;
    if (s->out == DRIBBLE_BYTES)
        vsock_conn_shutdown(s->c);
    else
        loop_defer_arm(t);
}

static void on_mouthful(struct loop_source *t, void *userdata)
{
    struct service *s = userdata;

    s->allowance = SLOW_STEP_BYTES;
    vsock_conn_resume(s->c);
    loop_timer_set_after_ms(t, SLOW_STEP_MS);
}

static size_t on_data(struct vsock_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct service *s = ud;

    if (s->kind == ECHO)
        return vsock_conn_write(c, p, n);
    if (s->kind == SLOW) {
        n = min_of(n, (size_t)s->allowance);
        s->allowance -= (uint32_t)n;
    }
    for (size_t i = 0; i < n && (s->kind == SINK || s->kind == SLOW); i++) {
        if (p[i] != pattern(s->in + i)) {
            printf("driver: byte %" PRIu64 " is wrong\n", s->in + i);
            break;
        }
    }
    s->in += n;
    if (s->kind == CALLER)
        printf("driver: guest says %.*s\n", (int)n - 1, (const char *)p);
    return n;
}

static void on_writable(struct vsock_conn *c, void *ud)
{
    struct service *s = ud;

    if (s->kind == SOURCE)
        produce(s);
    if (s->kind == ECHO)
        vsock_conn_resume(c);
}

static void on_connected(struct vsock_conn *c, void *ud)
{
    (void)vsock_conn_write(c, "ping\n", 5);
}

static void on_peer_shutdown(struct vsock_conn *c, void *ud)
{
    struct service *s = ud;

    if (s->kind == SINK || s->kind == SLOW)
        (void)vsock_conn_write(c, &s->in, sizeof(s->in));
    vsock_conn_shutdown(c);
}

static void on_closed(struct vsock_conn *c, int reason, void *ud)
{
    struct service *s = ud;

    if (s->kind != ECHO || reason != 0)
        printf("driver: service %d closed: %d\n", (int)s->kind, reason);
    loop_remove(s->timer);
    free(s);
}

static const struct vsock_conn_ops service_ops = {
    .on_connected = on_connected,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_closed,
};

static struct service *service_new(struct driver *d, enum kind kind)
{
    struct service *s = calloc(1, sizeof(*s));

    if (!s)
        die("service", NULL, -ENOMEM);
    s->d = d;
    s->kind = kind;
    return s;
}

static bool on_accept(struct vsock *v, struct vsock_conn *c, void *ud)
{
    static const enum kind kinds[] = {
        [0] = ECHO, [2] = SINK, [3] = SOURCE, [4] = DRIBBLE, [5] = SLOW};
    struct service *s = service_new(ud, kinds[vsock_conn_local_port(c) - 1024]);

    s->c = c;
    vsock_conn_set_ops(c, &service_ops, s);
    if (s->kind == SOURCE)
        produce(s);
    if (s->kind == DRIBBLE && loop_add_defer(s->d->loop, on_dribble, s, &s->timer) == 0)
        loop_defer_arm(s->timer);
    if (s->kind == SLOW && loop_add_timer(s->d->loop, on_mouthful, s, &s->timer) == 0)
        loop_timer_set_after_ms(s->timer, SLOW_STEP_MS);
    return true;
}

static void call_guest(struct driver *d)
{
    struct service *s = service_new(d, CALLER);
    int r = vsock_connect(machine_vsock(d->machine), 1025, &service_ops, s, &s->c);

    if (r < 0)
        die("connect", NULL, r);
}

/* ---- the guest's words ---- */

static void on_line(struct driver *d)
{
    puts(d->line);
    if (strstr(d->line, "test: listening") || strstr(d->line, "test: deaf"))
        call_guest(d);
    (void)fflush(stdout);
}

static void on_console(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct driver *d = userdata;
    char buf[1024];
    ssize_t n = read(fd, buf, sizeof(buf));

    if (n <= 0) {
        (void)loop_io_set(s, 0);
        return;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] == '\r')
            continue;
        if (buf[i] != '\n' && d->used + 1 < sizeof(d->line)) {
            d->line[d->used++] = buf[i];
            continue;
        }
        d->line[d->used] = 0;
        d->used = 0;
        on_line(d);
    }
}

static void print_counter(void *ctx, const char *name, uint64_t value)
{
    if (value)
        printf("counter: %s %" PRIu64 "\n", name, value);
}

static void on_ended(enum machine_end end, const char *detail, void *userdata)
{
    struct driver *d = userdata;

    d->end = end;
    (void)snprintf(d->detail, sizeof(d->detail), "%s", detail);
    loop_exit(d->loop, 0);
}

static int open_tap(const char *name)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    (void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &r) < 0)
        die("TAP", NULL, -errno);
    return fd;
}

int main(int argc, char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    static const uint32_t ports[] = {1024, 1026, 1027, 1028, 1029};
    struct driver d = {0};
    struct machine_config cfg = {.tap_fd = -1,
                                 .scratch_fd = -1,
                                 .mtu = 1500,
                                 .mac = {0x02, 0x4e, 0x58, 0, 0, 2},
                                 .spawn_ns = clock_mono_ns()};
    struct loop_source *console;
    int pipes[2], r;

    if (argc != 8 || parse_u32(argv[3], 64, &cfg.cpus) < 0 ||
        parse_size(argv[4], UINT64_MAX, &cfg.ram_bytes) < 0)
        die("usage: virtio-driver KERNEL INITRAMFS CPUS MEMORY CMDLINE TAP|- DISK|-", NULL,
            -EINVAL);
    log_init("virtio-driver");
    cfg.kvm_fd = open_or_die("/dev/kvm", O_RDWR);
    cfg.kernel_fd = open_or_die(argv[1], O_RDONLY);
    cfg.initramfs_fd = open_or_die(argv[2], O_RDONLY);
    cfg.cmdline_append = argv[5];
    if (strcmp(argv[6], "-") != 0)
        cfg.tap_fd = open_tap(argv[6]);
    if (strcmp(argv[7], "-") != 0)
        cfg.scratch_fd = open_or_die(argv[7], O_RDWR);
    if (pipe2(pipes, O_CLOEXEC) < 0)
        die("pipe", NULL, -errno);
    cfg.console_fd = pipes[1];
    r = loop_new(&d.loop);
    if (r >= 0)
        r = loop_add_io(d.loop, pipes[0], LOOP_READ, on_console, &d, &console);
    if (r < 0)
        die("loop", NULL, r);
    r = machine_new(d.loop, &cfg, on_ended, &d, &d.machine, &err);
    for (size_t i = 0; i < ARRAY_SIZE(ports) && r >= 0; i++)
        r = vsock_listen(machine_vsock(d.machine), ports[i], on_accept, &d);
    if (r >= 0)
        r = machine_start(d.machine, &err);
    if (r < 0)
        die("machine", err, r);
    r = loop_run(d.loop);
    while (loop_turn(d.loop, 0) > 0) /* what it still said */
        ;
    printf("driver: end %s (%s)\n", machine_end_name(d.end), d.detail);
    machine_counters(d.machine, print_counter, NULL);
    machine_free(d.machine);
    loop_free(d.loop);
    return r;
}
