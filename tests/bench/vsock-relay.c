/* SPDX-License-Identifier: Apache-2.0 */
/* Raw bytes over the vsock device of our machine, for benchmarks: each client of DIR/PORT, a unix socket, gets a
 * connection of its own to that vsock port of the guest, and bytes go both ways as they are. It is to the host's end
 * what socat is to a vsock of the kernel. The guest's console goes to stdout.
 *   vsock-relay KERNEL INITRAMFS MEMORY CMDLINE DIR PORT... */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/numparse.h"
#include "event/loop.h"
#include "lib/driver.h"
#include "virtio/vsock.h"
#include "vmm/machine.h"

struct relay {
    struct loop *loop;
    struct machine *machine;
};

struct door {
    struct relay *relay;
    uint32_t port;
    struct loop_source *source;
};

struct pair {
    struct vsock_conn *conn;
    struct loop_source *source;
    int fd;
    bool client_done;  /* it sends nothing more */
    bool stuck;        /* its socket is full */
    size_t begin, end; /* of what it sent and the guest has not taken */
    uint8_t bytes[64 << 10];
};

static void watch(struct pair *p)
{
    bool reads = !p->client_done && p->begin == p->end;

    (void)loop_io_set(p->source, (reads ? LOOP_READ : 0) | (p->stuck ? LOOP_WRITE : 0));
}

static void pair_free(struct pair *p)
{
    loop_remove(p->source);
    (void)close(p->fd);
    free(p);
}

/* ---- the guest's side ---- */

static size_t on_data(struct vsock_conn *c, const uint8_t *data, size_t n, void *ud)
{
    struct pair *p = ud;
    ssize_t r = send(p->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);

    (void)c;
    if (r < 0 && errno != EAGAIN)
        return n; /* nobody wants it */
    r = r < 0 ? 0 : r;
    p->stuck = (size_t)r < n;
    watch(p);
    return (size_t)r;
}

static void pour(struct pair *p)
{
    p->begin += vsock_conn_write(p->conn, p->bytes + p->begin, p->end - p->begin);
    watch(p);
}

static void on_writable(struct vsock_conn *c, void *ud)
{
    (void)c;
    pour(ud);
}

static void on_peer_shutdown(struct vsock_conn *c, void *ud)
{
    struct pair *p = ud;

    (void)c;
    (void)shutdown(p->fd, SHUT_WR);
}

static void on_closed(struct vsock_conn *c, int reason, void *ud)
{
    (void)c;
    (void)reason;
    pair_free(ud);
}

static const struct vsock_conn_ops ops = {
    .on_data = on_data,
    .on_writable = on_writable,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_closed,
};

/* ---- the client's side ---- */

static void client_left(struct pair *p)
{
    vsock_conn_close(p->conn);
    pair_free(p);
}

static void on_client(struct loop_source *s, int fd, unsigned events, void *ud)
{
    struct pair *p = ud;
    ssize_t n;

    (void)s;
    if (events & LOOP_WRITE) {
        p->stuck = false;
        vsock_conn_resume(p->conn);
    }
    if ((events & LOOP_HANGUP) && p->client_done) {
        client_left(p);
        return;
    }
    if ((events & (LOOP_READ | LOOP_HANGUP)) && !p->client_done && p->begin == p->end) {
        n = recv(fd, p->bytes, sizeof(p->bytes), MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN) {
            client_left(p);
            return;
        }
        if (n == 0) {
            p->client_done = true;
            vsock_conn_shutdown(p->conn);
        }
        p->begin = 0;
        p->end = n > 0 ? (size_t)n : 0;
    }
    pour(p);
}

static void on_door(struct loop_source *s, int fd, unsigned events, void *ud)
{
    struct door *d = ud;
    struct pair *p = calloc(1, sizeof(*p));
    int r = p ? 0 : -ENOMEM;

    (void)s;
    (void)events;
    if (r == 0) {
        p->fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        r = p->fd < 0 ? -errno : 0;
    }
    if (r == 0)
        r = vsock_connect(machine_vsock(d->relay->machine), d->port, &ops, p, &p->conn);
    if (r == 0)
        r = loop_add_io(d->relay->loop, p->fd, LOOP_READ, on_client, p, &p->source);
    if (r < 0)
        die("a client", NULL, r);
}

static void open_door(struct door *d, const char *dir)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/%u", dir, d->port);
    int r;

    if (fd < 0 || n < 0 || (size_t)n >= sizeof(a.sun_path) ||
        bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 64) < 0)
        die(dir, NULL, -errno);
    r = loop_add_io(d->relay->loop, fd, LOOP_READ, on_door, d, &d->source);
    if (r < 0)
        die("loop", NULL, r);
}

/* ---- the machine ---- */

static void on_ended(enum machine_end end, const char *detail, void *ud)
{
    struct relay *relay = ud;

    (void)fprintf(stderr, "vsock-relay: the guest has ended: %s (%s)\n", machine_end_name(end),
                  detail);
    loop_exit(relay->loop, 1);
}

int main(int argc, char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct relay relay = {0};
    struct door doors[8] = {0};
    struct machine_config cfg = {.cpus = 1,
                                 .tap_fd = -1,
                                 .scratch_fd = -1,
                                 .console_fd = STDOUT_FILENO,
                                 .spawn_ns = clock_mono_ns()};
    int r;

    if (argc < 7 || argc > 14 || parse_size(argv[3], UINT64_MAX, &cfg.ram_bytes) < 0)
        die("usage: vsock-relay KERNEL INITRAMFS MEMORY CMDLINE DIR PORT...", NULL, -EINVAL);
    log_init("vsock-relay");
    cfg.kvm_fd = open_or_die("/dev/kvm", O_RDWR);
    cfg.kernel_fd = open_or_die(argv[1], O_RDONLY);
    cfg.initramfs_fd = open_or_die(argv[2], O_RDONLY);
    cfg.cmdline_append = argv[4];
    r = loop_new(&relay.loop);
    if (r >= 0)
        r = machine_new(relay.loop, &cfg, on_ended, &relay, &relay.machine, &err);
    for (int i = 6; i < argc && r >= 0; i++) {
        doors[i - 6].relay = &relay;
        r = parse_u32(argv[i], UINT32_MAX, &doors[i - 6].port);
        if (r >= 0)
            open_door(&doors[i - 6], argv[5]);
    }
    if (r >= 0)
        r = machine_start(relay.machine, &err);
    if (r < 0)
        die("machine", err, r);
    r = loop_run(relay.loop);
    machine_free(relay.machine);
    loop_free(relay.loop);
    return r;
}
