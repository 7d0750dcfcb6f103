/* SPDX-License-Identifier: Apache-2.0 */
/* vmm: the supervisor's transport over the vsock device keeps the rules of transport.h, whoever closes. */
#include <linux/virtio_vsock.h>
#include <string.h>

#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/vsock.h"
#include "vmm/transport-vsock.h"

#define CID 3
#define RX 0
#define TX 1
#define HDR 44
#define RX_BYTES 2048
#define RX_COUNT 16

struct user {
    const struct transport *t;
    struct transport_conn *c;
    unsigned connected, done, closed;
    int reason;
    char bytes[64];
    size_t n, room; /* on_data takes up to room in all */
    bool accept, close_in_data;
};

struct fixture {
    struct guest g;
    struct vsock *v;
    struct transport_vsock *tv;
    const struct transport *t;
    struct user u;
    uint64_t rx, tx;
};

static void on_connected(struct transport_conn *c, void *ud)
{
    ((struct user *)ud)->connected++;
}

static size_t on_data(struct transport_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct user *u = ud;
    size_t take = n < u->room - u->n ? n : u->room - u->n;

    memcpy(u->bytes + u->n, p, take);
    u->n += take;
    if (u->close_in_data)
        u->t->conn_close(TAKE(u->c));
    return take;
}

static void on_peer_shutdown(struct transport_conn *c, void *ud)
{
    ((struct user *)ud)->done++;
}

static void on_closed(struct transport_conn *c, int reason, void *ud)
{
    struct user *u = ud;

    u->closed++;
    u->reason = reason;
    u->c = NULL;
}

static const struct transport_conn_ops ops = {
    .on_connected = on_connected,
    .on_data = on_data,
    .on_peer_shutdown = on_peer_shutdown,
    .on_closed = on_closed,
};

static bool on_accept(struct transport_conn *c, void *ud)
{
    struct user *u = ud;

    if (!u->accept)
        return false;
    u->c = c;
    u->t->conn_set_ops(c, &ops, u);
    return true;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    guest_init(&f->g);
    assert_int_equal(vsock_new(f->g.loop, CID, &f->v), 0);
    assert_int_equal(transport_vsock_new(f->v, &f->tv), 0);
    f->t = f->u.t = transport_vsock_transport(f->tv);
    f->u.accept = true;
    f->u.room = sizeof(f->u.bytes);
    guest_attach(&f->g, vsock_device(f->v));
    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL) &&
                guest_setup_queue(&f->g, RX, RX_COUNT) && guest_setup_queue(&f->g, TX, 16) &&
                guest_setup_queue(&f->g, 2, 4) && guest_driver_ok(&f->g));
    f->rx = guest_alloc(&f->g, RX_COUNT * RX_BYTES);
    f->tx = guest_alloc(&f->g, 4096);
    for (unsigned i = 0; i < RX_COUNT; i++) {
        struct guest_buf b = {f->rx + i * RX_BYTES, RX_BYTES, true};

        (void)guest_add(&f->g, RX, &b, 1);
    }
    guest_kick(&f->g, RX);
    guest_run(&f->g);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->u.c)
        f->t->conn_close(f->u.c);
    transport_vsock_free(f->tv);
    guest_done(&f->g);
    free(f);
    return 0;
}

/* The guest sends one packet. */
static void say(struct fixture *f, uint32_t guest_port, uint32_t host_port, uint16_t op,
                uint32_t flags, const char *text)
{
    uint8_t *b = guest_ptr(&f->g, f->tx, 4096);
    uint32_t n = text ? (uint32_t)strlen(text) : 0, head, len;
    struct guest_buf bufs[2] = {{f->tx, HDR, false}, {f->tx + 64, n, false}};

    memset(b, 0, HDR);
    le64_store(b, CID);
    le64_store(b + 8, VSOCK_HOST_CID);
    le32_store(b + 16, guest_port);
    le32_store(b + 20, host_port);
    le32_store(b + 24, n);
    le16_store(b + 28, VIRTIO_VSOCK_TYPE_STREAM);
    le16_store(b + 30, op);
    le32_store(b + 32, flags);
    le32_store(b + 36, 256 << 10);
    if (n)
        memcpy(b + 64, text, n);
    (void)guest_add(&f->g, TX, bufs, n ? 2 : 1);
    guest_kick(&f->g, TX);
    guest_run(&f->g);
    assert_true(guest_used(&f->g, TX, &head, &len));
}

/* The operation of the host's next packet, -1: none. */
static int heard(struct fixture *f, uint32_t *ret_host_port)
{
    uint32_t head, len;
    const uint8_t *b;

    guest_run(&f->g);
    if (!guest_used(&f->g, RX, &head, &len))
        return -1;
    b = guest_ptr(&f->g, f->rx + (uint64_t)head * RX_BYTES, RX_BYTES);
    if (ret_host_port)
        *ret_host_port = le32_load(b + 16);
    return le16_load(b + 30);
}

static void listen_on(struct fixture *f, uint32_t port)
{
    assert_int_equal(f->t->listen(f->t->impl, port, on_accept, &f->u), 0);
}

static void guest_connects_talks_and_closes_orderly(void **state)
{
    struct fixture *f = *state;

    listen_on(f, 1024);
    assert_int_equal(f->t->listen(f->t->impl, 1024, on_accept, &f->u), -EADDRINUSE);
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    assert_int_equal(heard(f, NULL), VIRTIO_VSOCK_OP_RESPONSE);
    f->u.room = 3;
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_RW, 0, "hello");
    assert_int_equal(f->u.n, 3);
    /* close(2) in the guest: what was not taken stays until it is */
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_SHUTDOWN, 3, NULL);
    assert_int_equal(f->u.closed, 0);
    f->u.room = sizeof(f->u.bytes);
    f->t->conn_resume(f->u.c);
    guest_run(&f->g);
    assert_memory_equal(f->u.bytes, "hello", 5);
    assert_int_equal(f->u.done, 1);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, 0);
    assert_int_equal(vsock_conn_count(f->v), 0);
}

static void refusal_and_withdrawn_listener_reset(void **state)
{
    struct fixture *f = *state;

    listen_on(f, 1024);
    f->u.accept = false;
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    assert_int_equal(heard(f, NULL), VIRTIO_VSOCK_OP_RST);
    f->u.accept = true;
    assert_int_equal(f->t->listen(f->t->impl, 1024, NULL, NULL), 0);
    say(f, 5001, 1024, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    assert_int_equal(heard(f, NULL), VIRTIO_VSOCK_OP_RST);
    listen_on(f, 1024);
    say(f, 5002, 1024, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    assert_int_equal(heard(f, NULL), VIRTIO_VSOCK_OP_RESPONSE);
}

static void host_connects_and_is_refused_or_answered(void **state)
{
    struct fixture *f = *state;
    uint32_t port = 0;

    assert_int_equal(f->t->connect(f->t->impl, 1025, &ops, &f->u, &f->u.c), 0);
    assert_int_equal(heard(f, &port), VIRTIO_VSOCK_OP_REQUEST);
    say(f, 1025, port, VIRTIO_VSOCK_OP_RST, 0, NULL);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, -ECONNREFUSED);

    assert_int_equal(f->t->connect(f->t->impl, 1025, &ops, &f->u, &f->u.c), 0);
    assert_int_equal(heard(f, &port), VIRTIO_VSOCK_OP_REQUEST);
    say(f, 1025, port, VIRTIO_VSOCK_OP_RESPONSE, 0, NULL);
    assert_int_equal(f->u.connected, 1);
    assert_int_equal(f->t->conn_write(f->u.c, "abc", 3), 3);
    assert_int_equal(heard(f, NULL), VIRTIO_VSOCK_OP_RW);
    f->t->conn_close(TAKE(f->u.c));
    assert_int_equal(heard(f, NULL), VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.closed, 1); /* no callback after a close */
    assert_int_equal(vsock_conn_count(f->v), 0);
}

static void close_within_a_callback_is_allowed(void **state)
{
    struct fixture *f = *state;

    listen_on(f, 1024);
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    f->u.close_in_data = true;
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_RW, 0, "x");
    assert_null(f->u.c);
    assert_int_equal(f->u.closed, 0);
    assert_int_equal(vsock_conn_count(f->v), 0);
}

static void reset_of_the_device_closes_everything(void **state)
{
    struct fixture *f = *state;

    listen_on(f, 1024);
    say(f, 5000, 1024, VIRTIO_VSOCK_OP_REQUEST, 0, NULL);
    guest_reset(&f->g);
    guest_run(&f->g);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, -ECONNRESET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(guest_connects_talks_and_closes_orderly, setup, teardown),
        cmocka_unit_test_setup_teardown(refusal_and_withdrawn_listener_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(host_connects_and_is_refused_or_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(close_within_a_callback_is_allowed, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_of_the_device_closes_everything, setup, teardown),
    };

    return cmocka_run_group_tests_name("transport-vsock", tests, NULL, NULL) != 0;
}
