/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of vsock against a guest's driver: connection life, credit, hostile packets. */
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "base/limit.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/vsock.h"

#define CID 3
#define RX 0
#define TX 1
#define RX_BYTES 2048
#define RX_COUNT 16
#define TX_COUNT 64
#define HDR 44
#define PORT 1024
#define GPORT 5000

struct pkt {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    uint32_t used; /* bytes in the buffer */
    uint8_t data[RX_BYTES];
};

/* What the user of a connection saw. */
struct user {
    struct vsock_conn *c;
    uint8_t *bytes;
    size_t n, taken_limit; /* on_data takes up to this many in all */
    unsigned connected, writable, done, closed, data_calls;
    int reason;
    bool close_in_data, resume_in_data;
};

struct fixture {
    struct guest g;
    struct vsock *v;
    struct user u;
    bool accept;
    unsigned accepts;
    uint64_t rx[RX_COUNT];
    uint64_t tx; /* a buffer of 128 KiB */
    uint16_t rx_head[RX_COUNT];
};

static void on_connected(struct vsock_conn *c, void *ud)
{
    ((struct user *)ud)->connected++;
}

static size_t on_data(struct vsock_conn *c, const uint8_t *p, size_t n, void *ud)
{
    struct user *u = ud;
    size_t take = n < u->taken_limit - u->n ? n : u->taken_limit - u->n;

    u->data_calls++;
    if (take) {
        u->bytes = realloc(u->bytes, u->n + take);
        memcpy(u->bytes + u->n, p, take);
    }
    u->n += take;
    if (u->close_in_data) {
        vsock_conn_close(c);
        u->c = NULL;
    } else if (u->resume_in_data) {
        vsock_conn_resume(c);
    }
    return take;
}

static void on_writable(struct vsock_conn *c, void *ud)
{
    ((struct user *)ud)->writable++;
}

static void on_peer_shutdown(struct vsock_conn *c, void *ud)
{
    ((struct user *)ud)->done++;
}

static void on_closed(struct vsock_conn *c, int reason, void *ud)
{
    struct user *u = ud;

    u->closed++;
    u->reason = reason;
    u->c = NULL;
}

static const struct vsock_conn_ops ops = {on_connected, on_data, on_writable, on_peer_shutdown,
                                          on_closed};

static bool on_accept(struct vsock *v, struct vsock_conn *c, void *ud)
{
    struct fixture *f = ud;

    f->accepts++;
    if (!f->accept)
        return false;
    f->u.c = c;
    vsock_conn_set_ops(c, &ops, &f->u);
    return true;
}

static void give_rx(struct fixture *f, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct guest_buf b = {f->rx[f->g.q[RX].desc_next], RX_BYTES, true};
        (void)guest_add(&f->g, RX, &b, 1);
    }
    guest_kick(&f->g, RX);
}

static void start(struct fixture *f)
{
    assert_true(guest_negotiate(&f->g, GUEST_FEATURES_ALL));
    assert_true(guest_setup_queue(&f->g, RX, RX_COUNT));
    assert_true(guest_setup_queue(&f->g, TX, TX_COUNT));
    assert_true(guest_setup_queue(&f->g, 2, 4));
    assert_true(guest_driver_ok(&f->g));
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    guest_init(&f->g);
    f->accept = true;
    f->u.taken_limit = SIZE_MAX;
    assert_int_equal(vsock_new(f->g.loop, CID, &f->v), 0);
    assert_int_equal(vsock_listen(f->v, PORT, on_accept, f), 0);
    guest_attach(&f->g, vsock_device(f->v));
    start(f);
    for (unsigned i = 0; i < RX_COUNT; i++)
        f->rx[i] = guest_alloc(&f->g, RX_BYTES);
    f->tx = guest_alloc(&f->g, 128 << 10);
    give_rx(f, RX_COUNT);
    guest_run(&f->g);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    guest_done(&f->g);
    free(f->u.bytes);
    free(f);
    return 0;
}

/* ---- the guest's side ---- */

static struct pkt packet(uint16_t op)
{
    return (struct pkt){.src_cid = CID,
                        .dst_cid = 2,
                        .src_port = GPORT,
                        .dst_port = PORT,
                        .type = 1,
                        .op = op,
                        .buf_alloc = 256 << 10};
}

static void put(struct fixture *f, const struct pkt *p)
{
    uint8_t *b = guest_ptr(&f->g, f->tx, HDR);

    le64_store(b, p->src_cid);
    le64_store(b + 8, p->dst_cid);
    le32_store(b + 16, p->src_port);
    le32_store(b + 20, p->dst_port);
    le32_store(b + 24, p->len);
    le16_store(b + 28, p->type);
    le16_store(b + 30, p->op);
    le32_store(b + 32, p->flags);
    le32_store(b + 36, p->buf_alloc);
    le32_store(b + 40, p->fwd_cnt);
}

/* Sends p with a chain that holds `bytes` of payload, filled with `fill`. */
static void send_chain(struct fixture *f, const struct pkt *p, uint32_t bytes, uint8_t fill)
{
    struct guest_buf b[2] = {{f->tx, HDR, false}, {f->tx + 64, bytes, false}};
    uint32_t head, len;

    put(f, p);
    if (bytes)
        memset(guest_ptr(&f->g, f->tx + 64, bytes), fill, bytes);
    (void)guest_add(&f->g, TX, b, bytes ? 2 : 1);
    guest_kick(&f->g, TX);
    guest_run(&f->g);
    if (!guest_needs_reset(&f->g))
        assert_true(guest_used(&f->g, TX, &head, &len));
}

static void send_pkt(struct fixture *f, struct pkt p)
{
    send_chain(f, &p, p.len, 'g');
}

static void send_op(struct fixture *f, uint16_t op)
{
    send_pkt(f, packet(op));
}

static void send_data(struct fixture *f, uint32_t n)
{
    struct pkt p = packet(VIRTIO_VSOCK_OP_RW);

    p.len = n;
    send_pkt(f, p);
}

/* The next packet of the host; false: none. The buffer is not given back. */
static bool recv_raw(struct fixture *f, struct pkt *p)
{
    uint32_t head, used;
    const uint8_t *b;

    guest_run(&f->g);
    if (!guest_used(&f->g, RX, &head, &used))
        return false;
    b = guest_ptr(&f->g, f->rx[head], RX_BYTES);
    *p = (struct pkt){.src_cid = le64_load(b),
                      .dst_cid = le64_load(b + 8),
                      .src_port = le32_load(b + 16),
                      .dst_port = le32_load(b + 20),
                      .len = le32_load(b + 24),
                      .type = le16_load(b + 28),
                      .op = le16_load(b + 30),
                      .flags = le32_load(b + 32),
                      .buf_alloc = le32_load(b + 36),
                      .fwd_cnt = le32_load(b + 40),
                      .used = used};
    assert_int_equal(used, HDR + p->len);
    assert_true(p->len <= RX_BYTES - HDR);
    memcpy(p->data, b + HDR, p->len);
    return true;
}

static bool recv_pkt(struct fixture *f, struct pkt *p)
{
    if (!recv_raw(f, p))
        return false;
    give_rx(f, 1);
    return true;
}

static void expect(struct fixture *f, uint16_t op)
{
    struct pkt p;

    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, op);
    assert_int_equal(p.src_cid, 2);
    assert_int_equal(p.dst_cid, CID);
}

static void expect_nothing(struct fixture *f)
{
    struct pkt p;

    assert_false(recv_pkt(f, &p));
}

static void open_from_guest(struct fixture *f)
{
    send_op(f, VIRTIO_VSOCK_OP_REQUEST);
    assert_non_null(f->u.c);
    expect(f, VIRTIO_VSOCK_OP_RESPONSE);
}

/* ---- life ---- */

static void guest_connects_and_is_answered(void **state)
{
    struct fixture *f = *state;
    struct pkt p;

    assert_int_equal(guest_read(&f->g, 0x008), 19);
    assert_int_equal(guest_config64(&f->g, 0), CID);
    send_op(f, VIRTIO_VSOCK_OP_REQUEST);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_RESPONSE);
    assert_int_equal(p.src_port, PORT);
    assert_int_equal(p.dst_port, GPORT);
    assert_int_equal(p.type, 1);
    assert_int_equal(p.buf_alloc, LIMIT_VSOCK_BUFFER_BYTES);
    assert_int_equal(vsock_conn_peer_port(f->u.c), GPORT);
    assert_int_equal(vsock_conn_local_port(f->u.c), PORT);
    expect_nothing(f);
}

static void host_connects_and_both_talk(void **state)
{
    struct fixture *f = *state;
    struct pkt p, r;

    assert_int_equal(vsock_connect(f->v, 1025, &ops, &f->u, &f->u.c), 0);
    assert_int_equal(vsock_conn_write(f->u.c, "early", 5), 5); /* waits for the answer */
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_REQUEST);
    assert_int_equal(p.dst_port, 1025);
    assert_true(p.src_port > 1 << 30);
    expect_nothing(f);
    assert_int_equal(f->u.connected, 0);
    r = packet(VIRTIO_VSOCK_OP_RESPONSE);
    r.src_port = 1025;
    r.dst_port = p.src_port;
    send_pkt(f, r);
    assert_int_equal(f->u.connected, 1);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_RW);
    assert_memory_equal(p.data, "early", 5);
    r.op = VIRTIO_VSOCK_OP_RW;
    r.len = 3;
    send_pkt(f, r);
    assert_int_equal(f->u.n, 3);
    assert_memory_equal(f->u.bytes, "ggg", 3);
}

static void host_is_refused(void **state)
{
    struct fixture *f = *state;
    struct pkt p, r;

    assert_int_equal(vsock_connect(f->v, 1025, &ops, &f->u, &f->u.c), 0);
    assert_true(recv_pkt(f, &p));
    r = packet(VIRTIO_VSOCK_OP_RST);
    r.src_port = 1025;
    r.dst_port = p.src_port;
    send_pkt(f, r);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, -ECONNREFUSED);
    assert_int_equal(vsock_conn_count(f->v), 0);
    expect_nothing(f);
}

static void connect_waits_for_the_driver(void **state)
{
    struct fixture *f = *state;

    guest_reset(&f->g);
    assert_int_equal(vsock_connect(f->v, 1025, &ops, &f->u, &f->u.c), 0);
    guest_run(&f->g);
    assert_int_equal(f->u.closed, 0);
    guest_wipe(&f->g);
    start(f);
    for (unsigned i = 0; i < RX_COUNT; i++)
        f->rx[i] = guest_alloc(&f->g, RX_BYTES);
    give_rx(f, 4);
    expect(f, VIRTIO_VSOCK_OP_REQUEST);
}

static void port_without_listener_is_reset(void **state)
{
    struct fixture *f = *state;
    struct pkt p = packet(VIRTIO_VSOCK_OP_REQUEST);

    p.dst_port = 99;
    send_pkt(f, p);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(p.src_port, 99);
    assert_int_equal(p.dst_port, GPORT);
    assert_int_equal(f->accepts, 0);
}

static void refused_by_the_listener_is_reset(void **state)
{
    struct fixture *f = *state;

    f->accept = false;
    send_op(f, VIRTIO_VSOCK_OP_REQUEST);
    expect(f, VIRTIO_VSOCK_OP_RST);
    expect_nothing(f);
    assert_int_equal(vsock_conn_count(f->v), 0);
}

static void guest_closes_after_its_data(void **state)
{
    struct fixture *f = *state;
    struct pkt p = packet(VIRTIO_VSOCK_OP_SHUTDOWN);

    open_from_guest(f);
    send_data(f, 1000);
    p.flags = 3;
    send_pkt(f, p);
    expect(f, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.n, 1000);
    assert_int_equal(f->u.done, 1);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, 0);
    assert_int_equal(vsock_conn_count(f->v), 0);
}

/* The guest gets its reset at once and may forget the connection; the user still gets every byte. */
static void slow_user_gets_every_byte_after_the_guest_left(void **state)
{
    struct fixture *f = *state;
    struct pkt p = packet(VIRTIO_VSOCK_OP_SHUTDOWN);

    for (int by_rst = 0; by_rst < 2; by_rst++) {
        f->u = (struct user){.bytes = f->u.bytes, .taken_limit = 100};
        open_from_guest(f);
        send_data(f, 1000);
        if (by_rst) {
            send_op(f, VIRTIO_VSOCK_OP_RST);
        } else {
            p.flags = 3;
            send_pkt(f, p);
            expect(f, VIRTIO_VSOCK_OP_RST);
        }
        assert_int_equal(f->u.n, 100);
        assert_int_equal(f->u.done, 0);
        assert_int_equal(f->u.closed, 0);
        f->u.taken_limit = 999;
        vsock_conn_resume(f->u.c);
        guest_run(&f->g);
        assert_int_equal(f->u.n, 999);
        assert_int_equal(f->u.closed, 0);
        f->u.taken_limit = SIZE_MAX;
        vsock_conn_resume(f->u.c);
        guest_run(&f->g);
        assert_int_equal(f->u.n, 1000);
        assert_int_equal(f->u.closed, 1);
        assert_int_equal(f->u.reason, by_rst ? -ECONNRESET : 0);
        assert_int_equal(vsock_conn_count(f->v), 0);
    }
}

static void half_close_of_the_guest_leaves_the_other_way_open(void **state)
{
    struct fixture *f = *state;
    struct pkt p = packet(VIRTIO_VSOCK_OP_SHUTDOWN);

    open_from_guest(f);
    p.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
    send_pkt(f, p);
    assert_int_equal(f->u.done, 1);
    assert_int_equal(f->u.closed, 0);
    assert_int_equal(vsock_conn_write(f->u.c, "x", 1), 1);
    vsock_conn_shutdown(f->u.c);
    assert_int_equal(vsock_conn_write(f->u.c, "y", 1), 0);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_RW);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.flags, 3);
    send_op(f, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, 0);
}

static void half_close_of_the_host_first(void **state)
{
    struct fixture *f = *state;
    struct pkt p;

    open_from_guest(f);
    assert_int_equal(vsock_conn_write(f->u.c, "x", 1), 1);
    vsock_conn_shutdown(f->u.c);
    expect(f, VIRTIO_VSOCK_OP_RW);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
    send_data(f, 10); /* the other way works */
    assert_int_equal(f->u.n, 10);
    p = packet(VIRTIO_VSOCK_OP_SHUTDOWN);
    p.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
    send_pkt(f, p);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_SHUTDOWN);
    assert_int_equal(p.flags, 3);
    assert_int_equal(f->u.closed, 0);
    send_op(f, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, 0);
}

static void user_closes(void **state)
{
    struct fixture *f = *state;

    open_from_guest(f);
    assert_int_equal(vsock_conn_write(f->u.c, "lost", 4), 4);
    vsock_conn_close(f->u.c);
    expect(f, VIRTIO_VSOCK_OP_RST);
    expect_nothing(f);
    assert_int_equal(f->u.closed, 0);
    assert_int_equal(vsock_conn_count(f->v), 0);
    send_data(f, 1); /* late packet: unknown by now */
    expect(f, VIRTIO_VSOCK_OP_RST);
}

static void user_closes_inside_a_callback(void **state)
{
    struct fixture *f = *state;

    open_from_guest(f);
    f->u.close_in_data = true;
    send_data(f, 10);
    expect(f, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.closed, 0);
    assert_int_equal(vsock_conn_count(f->v), 0);
}

static void closing_before_the_request_left_tells_the_guest_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(vsock_connect(f->v, 1025, &ops, &f->u, &f->u.c), 0);
    vsock_conn_close(f->u.c);
    expect_nothing(f);
    assert_int_equal(vsock_conn_count(f->v), 0);
}

static void device_reset_closes_all_and_keeps_listeners(void **state)
{
    struct fixture *f = *state;

    open_from_guest(f);
    guest_reset(&f->g);
    guest_run(&f->g);
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, -ECONNRESET);
    assert_int_equal(vsock_conn_count(f->v), 0);
    assert_int_equal(vsock_listen(f->v, PORT, on_accept, f), -EEXIST);
}

static void freeing_with_connections_is_silent(void **state)
{
    struct fixture *f = *state;

    open_from_guest(f);
    virtio_mmio_detach(f->g.w);
    assert_int_equal(f->u.closed, 0);
}

/* ---- hostile packets on an open connection ---- */

enum answer { RESET, NOTHING, DEAF };
static const struct {
    const char *name;
    uint16_t op;
    uint32_t len;   /* said */
    uint32_t bytes; /* in the chain */
    uint32_t flags, fwd_cnt, buf_alloc;
    enum answer answer;
} hostile[] = {
    {"op_0", 0, 0, 0, 0, 0, 65536, RESET},
    {"op_8", 8, 0, 0, 0, 0, 65536, RESET},
    {"op_65535", 65535, 0, 0, 0, 0, 65536, RESET},
    {"second_request", VIRTIO_VSOCK_OP_REQUEST, 0, 0, 0, 0, 65536, RESET},
    {"response_unasked", VIRTIO_VSOCK_OP_RESPONSE, 0, 0, 0, 0, 65536, RESET},
    {"length_beyond_the_chain", VIRTIO_VSOCK_OP_RW, 11, 10, 0, 0, 65536, RESET},
    {"length_without_data", VIRTIO_VSOCK_OP_RW, 1, 0, 0, 0, 65536, RESET},
    {"length_over_64_kib", VIRTIO_VSOCK_OP_RW, 65537, 65537, 0, 0, 65536, RESET},
    {"length_all_ones", VIRTIO_VSOCK_OP_RW, UINT32_MAX, 100, 0, 0, 65536, RESET},
    {"length_shorter_than_the_chain", VIRTIO_VSOCK_OP_RW, 5, 100, 0, 0, 65536, NOTHING},
    {"empty_data", VIRTIO_VSOCK_OP_RW, 0, 0, 0, 0, 65536, NOTHING},
    {"shutdown_of_nothing", VIRTIO_VSOCK_OP_SHUTDOWN, 0, 0, 0, 0, 65536, NOTHING},
    {"shutdown_of_junk", VIRTIO_VSOCK_OP_SHUTDOWN, 0, 0, 0xfffffffc, 0, 65536, NOTHING},
    {"shutdown_of_everything", VIRTIO_VSOCK_OP_SHUTDOWN, 0, 0, 0xffffffff, 0, 65536, RESET},
    {"taken_what_was_never_sent", VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0, 1, 65536, RESET},
    {"taken_far_ahead", VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0, 0x7fffffff, 65536, RESET},
    {"taken_backwards", VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0, UINT32_MAX, 65536, NOTHING},
    {"no_buffer", VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0, 0, 0, DEAF},
    {"huge_buffer", VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0, 0, 0, 0, UINT32_MAX, NOTHING},
    {"reset", VIRTIO_VSOCK_OP_RST, 0, 0, 0, 0, 65536, NOTHING},
};

static void hostile_packets_hurt_their_connection_alone(void **state)
{
    struct fixture *f = *state;
    struct pkt p;

    for (size_t i = 0; i < ARRAY_SIZE(hostile); i++) {
        print_message("# %s\n", hostile[i].name);
        f->u = (struct user){.bytes = f->u.bytes, .taken_limit = SIZE_MAX};
        open_from_guest(f);
        p = packet(hostile[i].op);
        p.len = hostile[i].len;
        p.flags = hostile[i].flags;
        p.fwd_cnt = hostile[i].fwd_cnt;
        p.buf_alloc = hostile[i].buf_alloc;
        send_chain(f, &p, hostile[i].bytes, 'h');
        assert_false(guest_needs_reset(&f->g));
        if (hostile[i].answer == RESET)
            expect(f, VIRTIO_VSOCK_OP_RST);
        expect_nothing(f);
        if (f->u.c) {
            assert_int_equal(vsock_conn_write(f->u.c, "x", 1), 1);
            assert_true(recv_pkt(f, &p)); /* without credit it asks for some */
            assert_int_equal(p.op, hostile[i].answer == DEAF ? VIRTIO_VSOCK_OP_CREDIT_REQUEST
                                                             : VIRTIO_VSOCK_OP_RW);
            vsock_conn_close(f->u.c);
            expect(f, VIRTIO_VSOCK_OP_RST);
        }
        assert_int_equal(vsock_conn_count(f->v), 0);
    }
}

static const struct {
    const char *name;
    uint64_t src_cid, dst_cid;
    uint16_t type, op;
    bool answered;
} strangers[] = {
    {"wrong_source", CID + 1, 2, 1, VIRTIO_VSOCK_OP_REQUEST, false},
    {"source_of_the_host", 2, 2, 1, VIRTIO_VSOCK_OP_REQUEST, false},
    {"source_with_high_bits", CID | 1ULL << 32, 2, 1, VIRTIO_VSOCK_OP_REQUEST, false},
    {"destination_any", CID, UINT32_MAX, 1, VIRTIO_VSOCK_OP_REQUEST, false},
    {"destination_itself", CID, CID, 1, VIRTIO_VSOCK_OP_REQUEST, false},
    {"destination_with_high_bits", CID, 2 | 1ULL << 32, 1, VIRTIO_VSOCK_OP_REQUEST, false},
    {"seqpacket", CID, 2, 2, VIRTIO_VSOCK_OP_REQUEST, true},
    {"unknown_type", CID, 2, 0xffff, VIRTIO_VSOCK_OP_REQUEST, true},
    {"unknown_type_reset", CID, 2, 2, VIRTIO_VSOCK_OP_RST, false},
    {"data_of_nobody", CID, 2, 1, VIRTIO_VSOCK_OP_RW, true},
    {"shutdown_of_nobody", CID, 2, 1, VIRTIO_VSOCK_OP_SHUTDOWN, true},
    {"response_to_nobody", CID, 2, 1, VIRTIO_VSOCK_OP_RESPONSE, true},
    {"reset_of_nobody", CID, 2, 1, VIRTIO_VSOCK_OP_RST, false},
};

static void strangers_get_a_reset_or_nothing(void **state)
{
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
        struct pkt p = packet(strangers[i].op);

        print_message("# %s\n", strangers[i].name);
        p.src_cid = strangers[i].src_cid;
        p.dst_cid = strangers[i].dst_cid;
        p.type = strangers[i].type;
        send_pkt(f, p);
        if (strangers[i].answered) {
            assert_true(recv_pkt(f, &p));
            assert_int_equal(p.op, VIRTIO_VSOCK_OP_RST);
            assert_int_equal(p.type, strangers[i].type);
        }
        expect_nothing(f);
        assert_int_equal(vsock_conn_count(f->v), 0);
    }
}

static void header_may_come_in_any_pieces(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b[HDR];
    struct pkt p = packet(VIRTIO_VSOCK_OP_REQUEST);

    put(f, &p);
    for (unsigned i = 0; i < HDR; i++)
        b[i] = (struct guest_buf){f->tx + i, 1, false};
    (void)guest_add(&f->g, TX, b, HDR);
    guest_kick(&f->g, TX);
    expect(f, VIRTIO_VSOCK_OP_RESPONSE);
    (void)guest_add(&f->g, TX, b, HDR - 1); /* a byte short: no packet */
    guest_kick(&f->g, TX);
    expect_nothing(f);
    assert_false(guest_needs_reset(&f->g));
}

static void data_before_the_answer_is_a_violation(void **state)
{
    struct fixture *f = *state;
    struct pkt p, r;

    assert_int_equal(vsock_connect(f->v, 1025, &ops, &f->u, &f->u.c), 0);
    assert_true(recv_pkt(f, &p));
    r = packet(VIRTIO_VSOCK_OP_RW);
    r.src_port = 1025;
    r.dst_port = p.src_port;
    r.len = 4;
    send_pkt(f, r);
    expect(f, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.n, 0);
    assert_int_equal(f->u.reason, -ECONNRESET);
}

static void data_after_its_own_shutdown_is_a_violation(void **state)
{
    struct fixture *f = *state;
    struct pkt p = packet(VIRTIO_VSOCK_OP_SHUTDOWN);

    open_from_guest(f);
    p.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
    send_pkt(f, p);
    send_data(f, 1);
    expect(f, VIRTIO_VSOCK_OP_RST);
    assert_int_equal(f->u.reason, -ECONNRESET);
}

static void connections_are_bounded(void **state)
{
    struct fixture *f = *state;
    struct pkt p = packet(VIRTIO_VSOCK_OP_REQUEST);
    uint32_t total = 0;

    for (uint32_t i = 0; i < LIMIT_VSOCK_CONNECTIONS + 100; i++) {
        struct pkt r;

        p.src_port = 10000 + i;
        send_pkt(f, p);
        assert_true(recv_pkt(f, &r));
        if (i < LIMIT_VSOCK_CONNECTIONS) {
            assert_int_equal(r.op, VIRTIO_VSOCK_OP_RESPONSE);
            total += r.buf_alloc; /* what the guest may make us keep */
        } else {
            assert_int_equal(r.op, VIRTIO_VSOCK_OP_RST);
        }
    }
    assert_int_equal(vsock_conn_count(f->v), LIMIT_VSOCK_CONNECTIONS);
    assert_true(total <= 16 << 20);
    assert_int_equal(vsock_connect(f->v, 1, &ops, &f->u, &f->u.c), -EMFILE);
}

static void a_storm_of_resets_without_buffers_is_forgotten(void **state)
{
    struct fixture *f = *state;
    struct pkt p;
    unsigned got = 0;

    while (f->g.q[RX].avail_idx != f->g.q[RX].used_seen) { /* use up the receive buffers */
        send_op(f, VIRTIO_VSOCK_OP_RW);
        if (!recv_raw(f, &p))
            break;
    }
    for (int i = 0; i < 5000; i++)
        send_op(f, VIRTIO_VSOCK_OP_RW);
    give_rx(f, RX_COUNT);
    while (recv_raw(f, &p))
        got++;
    assert_true(got > 0 && got <= RX_COUNT);
}

/* ---- credit, guest to host ---- */

static void credit_not_taken_is_not_given_again(void **state)
{
    struct fixture *f = *state;

    open_from_guest(f);
    f->u.taken_limit = 0;
    for (unsigned i = 0; i < 4; i++)
        send_data(f, 64 << 10);
    expect_nothing(f);
    assert_int_equal(f->u.n, 0);
    send_data(f, 1); /* one byte over the credit */
    expect(f, VIRTIO_VSOCK_OP_RST);
    f->u.taken_limit = SIZE_MAX;
    vsock_conn_resume(f->u.c);
    guest_run(&f->g);
    assert_int_equal(f->u.n, 256 << 10); /* what was right before the violation arrives */
    assert_int_equal(f->u.reason, -ECONNRESET);
}

static void credit_is_given_when_a_quarter_was_taken(void **state)
{
    struct fixture *f = *state;
    struct pkt p;

    open_from_guest(f);
    f->u.taken_limit = 0;
    for (unsigned i = 0; i < 4; i++)
        send_data(f, 64 << 10);
    f->u.taken_limit = (64 << 10) - 1;
    vsock_conn_resume(f->u.c);
    expect_nothing(f);
    f->u.taken_limit = 64 << 10;
    vsock_conn_resume(f->u.c);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(p.fwd_cnt, 64 << 10);
    expect_nothing(f);
}

static void credit_requests_are_answered_once_per_batch(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b = {f->tx, HDR, false};
    struct pkt p = packet(VIRTIO_VSOCK_OP_CREDIT_REQUEST);

    open_from_guest(f);
    put(f, &p);
    for (unsigned i = 0; i < 40; i++) /* a flood: answers do not multiply */
        (void)guest_add(&f->g, TX, &b, 1);
    guest_kick(&f->g, TX);
    expect(f, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    expect_nothing(f);
}

static void resuming_for_ever_does_not_spin_a_turn(void **state)
{
    struct fixture *f = *state;

    open_from_guest(f);
    f->u.taken_limit = 0;
    f->u.resume_in_data = true;
    send_chain(f,
               &(struct pkt){.src_cid = CID,
                             .dst_cid = 2,
                             .src_port = GPORT,
                             .dst_port = PORT,
                             .type = 1,
                             .op = VIRTIO_VSOCK_OP_RW,
                             .len = 5,
                             .buf_alloc = 4096},
               5, 'x');
    assert_true(f->u.data_calls > 1); /* once per turn of the loop, which guest_run() bounds */
    f->u.resume_in_data = false;
    assert_int_equal(guest_run(&f->g) > 100, false);
}

/* ---- credit, host to guest ---- */

static size_t write_all(struct fixture *f, size_t n, size_t piece)
{
    static uint8_t bytes[1 << 20];
    size_t done = 0;

    while (done < n) {
        size_t want = piece < n - done ? piece : n - done, k;

        for (size_t i = 0; i < want; i++)
            bytes[i] = (uint8_t)((done + i) * 31);
        k = vsock_conn_write(f->u.c, bytes, want);
        done += k;
        if (k < want)
            break;
    }
    return done;
}

static void peer_credit(struct fixture *f, uint32_t buf_alloc, uint32_t fwd_cnt)
{
    struct pkt p = packet(VIRTIO_VSOCK_OP_CREDIT_UPDATE);

    p.buf_alloc = buf_alloc;
    p.fwd_cnt = fwd_cnt;
    send_pkt(f, p);
}

static void never_more_than_the_guest_can_hold(void **state)
{
    struct fixture *f = *state;
    static const uint32_t buffers[] = {1, 100, 4096, 10000, 65536};

    for (size_t k = 0; k < ARRAY_SIZE(buffers); k++) {
        uint32_t got = 0, taken = 0;
        struct pkt p;

        f->u = (struct user){.bytes = f->u.bytes, .taken_limit = SIZE_MAX};
        open_from_guest(f);
        peer_credit(f, buffers[k], 0);
        assert_int_equal(write_all(f, 20000, 20000), 20000);
        for (unsigned rounds = 0; got < 20000 && rounds < 30000; rounds++) {
            while (recv_pkt(f, &p)) {
                if (p.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST)
                    continue;
                assert_int_equal(p.op, VIRTIO_VSOCK_OP_RW);
                for (uint32_t i = 0; i < p.len; i++)
                    assert_int_equal(p.data[i], (uint8_t)((got + i) * 31));
                got += p.len;
                assert_true(got - taken <= buffers[k]);
            }
            taken = got;
            peer_credit(f, buffers[k], taken);
        }
        assert_int_equal(got, 20000);
        vsock_conn_close(f->u.c);
        expect(f, VIRTIO_VSOCK_OP_RST);
    }
}

static void a_buffer_shrunk_below_what_is_in_flight_stops_it(void **state)
{
    struct fixture *f = *state;
    struct pkt p;

    open_from_guest(f);
    assert_int_equal(write_all(f, 8000, 8000), 8000);
    while (recv_pkt(f, &p))
        assert_int_equal(p.op, VIRTIO_VSOCK_OP_RW);
    peer_credit(f, 100, 0);
    assert_int_equal(write_all(f, 8000, 8000), 8000);
    assert_true(recv_pkt(f, &p));
    assert_int_equal(p.op, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
    expect_nothing(f);
    peer_credit(f, 256 << 10, 8000);
    expect(f, VIRTIO_VSOCK_OP_RW);
}

/* Linux 6.12.92 and later charge for each queued packet: many small ones must not add up to a reset. */
static void small_writes_are_gathered_before_the_guest_chokes(void **state)
{
    struct fixture *f = *state;
    uint32_t got = 0, packets = 0, asked = 0;
    struct pkt p;

    open_from_guest(f);
    for (unsigned i = 0; i < 5000; i++) {
        assert_int_equal(vsock_conn_write(f->u.c, "q", 1), 1);
        while (recv_pkt(f, &p)) {
            if (p.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST) {
                asked++;
                continue;
            }
            got += p.len;
            packets++;
        }
    }
    assert_true(packets <= 256);
    assert_true(got + packets * 600 <= 256 << 10);
    assert_true(asked >= 1);
    peer_credit(f, 256 << 10, got); /* it reads everything */
    while (recv_pkt(f, &p)) {
        if (p.op == VIRTIO_VSOCK_OP_RW) {
            got += p.len;
            packets++;
        }
    }
    assert_int_equal(got, 5000);
    assert_true(packets <= 256 + 3); /* the rest came in large ones */
}

static void short_write_is_followed_by_on_writable(void **state)
{
    struct fixture *f = *state;
    uint32_t got = 0;
    size_t n;
    struct pkt p;

    open_from_guest(f);
    n = write_all(f, 1 << 20, 1 << 20);
    assert_int_equal(n, LIMIT_VSOCK_BUFFER_BYTES);
    assert_int_equal(vsock_conn_room(f->u.c), 0);
    while (f->u.writable == 0) {
        assert_true(recv_pkt(f, &p));
        got += p.op == VIRTIO_VSOCK_OP_RW ? p.len : 0;
        peer_credit(f, 256 << 10, got);
    }
    assert_true(vsock_conn_room(f->u.c) >= LIMIT_VSOCK_BUFFER_BYTES / 2);
    while (recv_pkt(f, &p)) {
        got += p.op == VIRTIO_VSOCK_OP_RW ? p.len : 0;
        peer_credit(f, 256 << 10, got);
    }
    assert_int_equal(got, n);
    assert_int_equal(f->u.writable, 1);
}

/* ---- receive buffers ---- */

static void without_buffers_nothing_spins_and_nothing_is_lost(void **state)
{
    struct fixture *f = *state;
    uint32_t got = 0;
    struct pkt p;

    open_from_guest(f);
    assert_int_equal(write_all(f, 200000, 200000), 200000);
    while (recv_raw(f, &p)) /* buffers are not given back */
        got += p.len;
    assert_true(got < 200000);
    assert_int_equal(guest_run(&f->g), 0); /* idle: waits for a kick */
    while (got < 200000) {
        uint16_t from = f->g.q[RX].avail_idx;

        give_rx(f, 1);
        assert_true(guest_wants_kick(&f->g, RX, from));
        peer_credit(f, 256 << 10, got);
        assert_true(recv_raw(f, &p));
        got += p.len;
    }
    expect_nothing(f);
}

static void buffer_shorter_than_a_header_stops_the_device(void **state)
{
    struct fixture *f = *state;
    struct guest_buf b = {f->rx[0], HDR - 1, true};
    struct pkt p;

    open_from_guest(f);
    (void)write_all(f, 256 << 10, 256 << 10);
    while (recv_raw(f, &p))
        ;
    (void)guest_add(&f->g, RX, &b, 1);
    guest_kick(&f->g, RX);
    guest_run(&f->g);
    assert_true(guest_needs_reset(&f->g));
    assert_int_equal(f->u.closed, 1);
    assert_int_equal(f->u.reason, -ECONNRESET);
}

static void connections_share_the_buffers_in_turn(void **state)
{
    struct fixture *f = *state;
    struct user other = {.taken_limit = SIZE_MAX}, first;
    unsigned seen[2] = {0};
    struct pkt p, q = packet(VIRTIO_VSOCK_OP_REQUEST);

    open_from_guest(f);
    first = f->u;
    q.src_port = GPORT + 1;
    send_pkt(f, q);
    expect(f, VIRTIO_VSOCK_OP_RESPONSE);
    other.c = f->u.c;
    f->u.c = first.c;
    assert_true(write_all(f, 100000, 100000) > 0);
    f->u.c = other.c;
    assert_true(write_all(f, 100000, 100000) > 0);
    for (int i = 0; i < 10; i++) {
        assert_true(recv_pkt(f, &p));
        seen[p.dst_port - GPORT]++;
    }
    assert_int_equal(seen[0], 5);
    assert_int_equal(seen[1], 5);
}

static void a_batch_needs_one_interrupt(void **state)
{
    struct fixture *f = *state;
    struct pkt p;

    open_from_guest(f);
    (void)guest_take_interrupt(&f->g);
    (void)guest_interrupts(&f->g);
    guest_set_used_event(&f->g, RX, f->g.q[RX].used_seen);
    assert_int_equal(write_all(f, 100000, 100000), 100000);
    guest_run(&f->g);
    assert_int_equal(guest_interrupts(&f->g), 1);
    while (recv_pkt(f, &p))
        ;
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(guest_connects_and_is_answered),
        T(host_connects_and_both_talk),
        T(host_is_refused),
        T(connect_waits_for_the_driver),
        T(port_without_listener_is_reset),
        T(refused_by_the_listener_is_reset),
        T(guest_closes_after_its_data),
        T(slow_user_gets_every_byte_after_the_guest_left),
        T(half_close_of_the_guest_leaves_the_other_way_open),
        T(half_close_of_the_host_first),
        T(user_closes),
        T(user_closes_inside_a_callback),
        T(closing_before_the_request_left_tells_the_guest_nothing),
        T(device_reset_closes_all_and_keeps_listeners),
        T(freeing_with_connections_is_silent),
        T(hostile_packets_hurt_their_connection_alone),
        T(strangers_get_a_reset_or_nothing),
        T(header_may_come_in_any_pieces),
        T(data_before_the_answer_is_a_violation),
        T(data_after_its_own_shutdown_is_a_violation),
        T(connections_are_bounded),
        T(a_storm_of_resets_without_buffers_is_forgotten),
        T(credit_not_taken_is_not_given_again),
        T(credit_is_given_when_a_quarter_was_taken),
        T(credit_requests_are_answered_once_per_batch),
        T(resuming_for_ever_does_not_spin_a_turn),
        T(never_more_than_the_guest_can_hold),
        T(a_buffer_shrunk_below_what_is_in_flight_stops_it),
        T(small_writes_are_gathered_before_the_guest_chokes),
        T(short_write_is_followed_by_on_writable),
        T(without_buffers_nothing_spins_and_nothing_is_lost),
        T(buffer_shorter_than_a_header_stops_the_device),
        T(connections_share_the_buffers_in_turn),
        T(a_batch_needs_one_interrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
