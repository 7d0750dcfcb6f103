/* SPDX-License-Identifier: Apache-2.0 */
/* stream: SPDY/3.1 as Kubernetes' clients speak it, and everything a client may get wrong. */
#include <string.h>
#include <zlib.h>

#include "base/checked.h"
#include "lib/spdy-frames.h"
#include "lib/test.h"
#include "stream/spdy.h"

#define STREAMS 4
#define TYPE "streamtype"

/* ---- a connection under test, and what it answers */

struct peer {
    struct spdy *s;
    struct spdy_client c;
    /* of the answers, read by read_answers */
    size_t n_reply, n_rst, n_ping, n_goaway, n_data;
    uint32_t rst_status, goaway_status, ping_id;
};

static void set_up(struct peer *p, bool dictionary)
{
    memset(p, 0, sizeof(*p));
    client_init(&p->c, dictionary);
    assert_int_equal(spdy_new(STREAMS, &p->s), 0);
}

static void tear_down(struct peer *p)
{
    spdy_free(p->s);
    client_done(&p->c);
}

static void read_answers(struct peer *p)
{
    const uint8_t *b;
    size_t n = spdy_out(p->s, &b), at = 0;

    while (at < n) {
        uint32_t head = be32_load(b + at), len = be32_load(b + at + 4) & 0xffffff;
        const uint8_t *v = b + at + 8;

        assert_true(n - at >= 8 + (size_t)len);
        p->n_data += !(head >> 31);
        p->n_reply += head == 0x80030002;
        if (head == 0x80030003) {
            p->n_rst++;
            p->rst_status = be32_load(v + 4);
        } else if (head == 0x80030006) {
            p->n_ping++;
            p->ping_id = be32_load(v);
        } else if (head == 0x80030007) {
            p->n_goaway++;
            p->goaway_status = be32_load(v + 4);
        }
        at += 8 + (size_t)len;
    }
    spdy_out_done(p->s, n);
}

/* Feeds what the client has, in pieces; accepts all streams. The last result of spdy_next that is no event;
 * counts events in n[type], data bytes in *bytes. */
static int run_counting(struct peer *p, size_t piece, size_t n[4], size_t *bytes)
{
    struct spdy_event ev;
    size_t at = 0;
    int r = 0;

    while (at < p->c.out.used && r >= 0) {
        size_t len = min_of(piece, p->c.out.used - at);

        assert_int_equal(spdy_feed(p->s, p->c.out.data + at, len), 0);
        at += len;
        while ((r = spdy_next(p->s, &ev)) > 0) {
            n[ev.type]++;
            *bytes += ev.len;
            if (ev.type == SPDY_EVENT_OPEN)
                spdy_accept(p->s, ev.stream);
        }
        read_answers(p);
    }
    buf_clear(&p->c.out);
    return r;
}

static int run(struct peer *p)
{
    size_t n[4] = {0}, bytes = 0;

    return run_counting(p, 4096, n, &bytes);
}

/* ---- good */

static void dictionary_is_the_protocols(void **state)
{
    assert_int_equal(adler32(1, spdy_dictionary(), SPDY_DICTIONARY_BYTES), 0xe3c6a7c2);
}

static void streams_open_carry_data_and_close(void **state)
{
    for (size_t piece = 1; piece < 200; piece += 7) {
        struct peer p;
        size_t n[4] = {0}, bytes = 0;

        set_up(&p, true);
        client_syn(&p.c, 1, 0, HEADERS(TYPE, "error"));
        client_syn(&p.c, 3, 0, HEADERS(TYPE, "stdin", "x-more", ""));
        client_data(&p.c, 3, 0, "hello", 5);
        client_data(&p.c, 3, 1, "world", 5);
        client_data(&p.c, 1, 1, NULL, 0);
        client_words(&p.c, 6, 1, 1, 0);
        assert_int_equal(run_counting(&p, piece, n, &bytes), 0);
        assert_int_equal(n[SPDY_EVENT_OPEN], 2);
        assert_int_equal(bytes, 10);
        assert_int_equal(p.n_reply, 2);
        assert_int_equal(p.n_ping, 1);
        assert_int_equal(p.ping_id, 1);
        assert_int_equal(spdy_stream_count(p.s), 2); /* ours is open */
        assert_int_equal(spdy_write(p.s, 3, "out", 3, true), 0);
        assert_int_equal(spdy_write(p.s, 3, "more", 4, false), -ENOENT);
        assert_int_equal(spdy_write(p.s, 1, NULL, 0, true), 0);
        assert_int_equal(spdy_stream_count(p.s), 0);
        read_answers(&p);
        assert_int_equal(p.n_data, 2);
        tear_down(&p);
    }
}

static void headers_arrive_as_sent(void **state)
{
    struct peer p;
    struct spdy_event ev;
    const char *v;
    size_t len;

    set_up(&p, true);
    client_syn(&p.c, 1, 1, HEADERS(TYPE, "data", "port", "80", "requestid", "7"));
    assert_int_equal(spdy_feed(p.s, p.c.out.data, p.c.out.used), 0);
    assert_int_equal(spdy_next(p.s, &ev), 1);
    assert_int_equal(ev.type, SPDY_EVENT_OPEN);
    assert_true(ev.fin);
    assert_int_equal(ev.headers->n, 3);
    v = spdy_header_get(ev.headers, "port", &len);
    assert_int_equal(len, 2);
    assert_memory_equal(v, "80", 2);
    assert_null(spdy_header_get(ev.headers, "por", &len));
    tear_down(&p);
}

/* Our own blocks, read by our own reader: both directions keep a state over many blocks. */
static void blocks_survive_a_round_trip(void **state)
{
    struct spdy_deflater *d;
    struct spdy_inflater *i;
    struct spdy_headers h;
    struct spdy_header one[2] = {{"streamtype", "stdout", 10, 6}, {"x", "", 1, 0}};
    struct buf b;

    assert_int_equal(spdy_deflater_new(&d), 0);
    assert_int_equal(spdy_inflater_new(&i), 0);
    buf_init(&b, 65536);
    for (int n = 0; n < 100; n++) {
        buf_clear(&b);
        assert_int_equal(spdy_deflate(d, one, (size_t)n % 3, &b), 0);
        assert_int_equal(spdy_inflate(i, b.data, b.used, &h), 0);
        assert_int_equal(h.n, n % 3);
        if (h.n)
            assert_memory_equal(h.list[0].value, "stdout", 6);
    }
    buf_done(&b);
    spdy_deflater_free(d);
    spdy_inflater_free(i);
}

static void pieces_of_a_large_frame_are_given_on(void **state)
{
    static uint8_t bytes[1 << 20];
    struct peer p;
    size_t n[4] = {0}, got = 0;

    set_up(&p, true);
    client_syn(&p.c, 1, 0, HEADERS(TYPE, "stdin"));
    client_data(&p.c, 1, 1, bytes, sizeof(bytes));
    assert_int_equal(run_counting(&p, 60000, n, &got), 0);
    assert_int_equal(got, sizeof(bytes));
    tear_down(&p);
}

/* ---- bad: what makes the connection end, and what only a stream */

static void opened(struct spdy_client *c)
{
    client_syn(c, 1, 0, HEADERS(TYPE, "stdin"));
}

static void no_zlib(struct spdy_client *c)
{
    client_control(c, 1, 0, "\0\0\0\1\0\0\0\0\0\0this is no zlib stream at all", 40);
}
static void header_bomb(struct spdy_client *c)
{
    static uint8_t zeros[SPDY_BLOCK_BYTES * 4];

    client_syn_raw(c, 1, 0, zeros, sizeof(zeros));
}
static void large_value(struct spdy_client *c)
{
    static uint8_t block[SPDY_BLOCK_BYTES + 1] = {0, 0, 0, 1, 0, 0, 0, 1, 'a', 0, 0, 0x40, 0};

    client_syn_raw(c, 1, 0, block, sizeof(block));
}
static void many_headers(struct spdy_client *c)
{
    uint8_t block[4 + (SPDY_HEADERS_MAX + 1) * 9];
    size_t at = 4;

    be32_store(block, SPDY_HEADERS_MAX + 1);
    for (uint8_t i = 0; i <= SPDY_HEADERS_MAX; i++, at += 9) {
        memset(block + at, 0, 9);
        block[at + 3] = 1;
        block[at + 4] = (uint8_t)('!' + i);
    }
    client_syn_raw(c, 1, 0, block, at);
}
static void count_of_four_billion(struct spdy_client *c)
{
    client_syn_raw(c, 1, 0, "\xff\xff\xff\xff", 4);
}
static void length_beyond_block(struct spdy_client *c)
{
    client_syn_raw(c, 1, 0,
                   "\0\0\0\1\xff\xff\xff\xff"
                   "a\0\0\0\0",
                   13);
}
static void rest_behind_block(struct spdy_client *c)
{
    client_syn_raw(c, 1, 0, "\0\0\0\0x", 5);
}
static void empty_block(struct spdy_client *c)
{
    client_syn_raw(c, 1, 0, "", 0);
}
static void same_name_twice(struct spdy_client *c)
{
    client_syn(c, 1, 0, HEADERS("a", "1", "a", "2"));
}
static void upper_case_name(struct spdy_client *c)
{
    client_syn(c, 1, 0, HEADERS("A", "1"));
}
static void empty_name(struct spdy_client *c)
{
    client_syn(c, 1, 0, HEADERS("", "1"));
}
static void end_of_zlib_stream(struct spdy_client *c)
{
    uint8_t p[128] = {0, 0, 0, 1};

    c->z.next_in = (uint8_t[]){0, 0, 0, 0};
    c->z.avail_in = 4;
    c->z.next_out = p + 10;
    c->z.avail_out = sizeof(p) - 10;
    assert_int_equal(deflate(&c->z, Z_FINISH), Z_STREAM_END);
    client_control(c, 1, 0, p, sizeof(p) - c->z.avail_out);
    client_control(c, 1, 0, p, sizeof(p) - c->z.avail_out);
}
static void id_twice(struct spdy_client *c)
{
    opened(c);
    opened(c);
}
static void id_of_a_closed_stream(struct spdy_client *c)
{
    opened(c);
    client_words(c, 3, 2, 1, SPDY_CANCEL);
    opened(c);
}
static void id_that_shrinks(struct spdy_client *c)
{
    client_syn(c, 5, 0, HEADERS(TYPE, "stdin"));
    client_syn(c, 3, 0, HEADERS(TYPE, "stdout"));
}
static void even_id(struct spdy_client *c)
{
    client_syn(c, 2, 0, HEADERS(TYPE, "stdin"));
}
static void id_zero(struct spdy_client *c)
{
    client_syn(c, 0, 0, HEADERS(TYPE, "stdin"));
}
static void short_syn(struct spdy_client *c)
{
    client_control(c, 1, 0, "\0\0\0\1\0\0\0\0\0", 9);
}
static void data_on_stream_zero(struct spdy_client *c)
{
    client_data(c, 0, 0, "x", 1);
}
static void data_on_an_even_stream(struct spdy_client *c)
{
    client_data(c, 2, 0, "x", 1);
}
static void data_before_its_stream(struct spdy_client *c)
{
    client_data(c, 1, 0, "x", 1);
}
static void data_after_fin(struct spdy_client *c)
{
    opened(c);
    client_data(c, 1, 1, "x", 1);
    client_data(c, 1, 0, "y", 1);
}
static void data_after_reset(struct spdy_client *c)
{
    opened(c);
    client_words(c, 3, 2, 1, SPDY_CANCEL);
    client_data(c, 1, 0, "y", 1);
}
static void reply_from_the_client(struct spdy_client *c)
{
    client_control(c, 2, 0, "\0\0\0\2", 4);
}
static void other_version(struct spdy_client *c)
{
    client_u32(c, 0x80020006);
    client_u32(c, 4);
    client_u32(c, 1);
}
static void huge_control_frame(struct spdy_client *c)
{
    client_u32(c, 0x80030001);
    client_u32(c, 0xffffff);
}
static void settings_lie(struct spdy_client *c)
{
    client_control(c, 4, 0, "\x20\0\0\0", 4);
}
static void settings_empty(struct spdy_client *c)
{
    client_control(c, 4, 0, "\0\0\0\0", 4);
}
static void short_settings(struct spdy_client *c)
{
    client_control(c, 4, 0, "\0\0", 2);
}
static void long_ping(struct spdy_client *c)
{
    client_words(c, 6, 2, 1, 1);
}
static void short_reset(struct spdy_client *c)
{
    client_words(c, 3, 1, 1, 0);
}
static void short_goaway(struct spdy_client *c)
{
    client_words(c, 7, 1, 0, 0);
}
static void window_of_nothing(struct spdy_client *c)
{
    opened(c);
    client_words(c, 9, 2, 1, 0);
}
static void window_overflow(struct spdy_client *c)
{
    opened(c);
    client_words(c, 9, 2, 1, 0x7fffffff - 65536);
    client_words(c, 9, 2, 1, 1);
}
static void window_within_bounds(struct spdy_client *c)
{
    opened(c);
    client_words(c, 9, 2, 1, 0x7fffffff - 65536);
    client_words(c, 9, 2, 0, 0xffffffff);
    client_words(c, 9, 2, 77, 1);
}
static void unidirectional(struct spdy_client *c)
{
    client_syn(c, 1, 2, HEADERS(TYPE, "stdin"));
}
static void too_many_streams(struct spdy_client *c)
{
    for (uint32_t i = 0; i < STREAMS + 1; i++)
        client_syn(c, 2 * i + 1, 0, HEADERS(TYPE, "stdin"));
}
static void unknown_control(struct spdy_client *c)
{
    client_control(c, 77, 0, "whatever", 8);
    opened(c);
}
static void answer_to_no_ping(struct spdy_client *c)
{
    client_words(c, 6, 1, 2, 0);
}
static void headers_of_an_unknown_stream(struct spdy_client *c)
{
    uint8_t *type;

    opened(c); /* a SYN_STREAM, made a HEADERS: six bytes of it would be read as the block */
    type = c->out.data + 3;
    *type = 8;
}

static const struct {
    const char *name;
    void (*build)(struct spdy_client *c);
    int r;           /* of spdy_next in the end */
    size_t n_rst;    /* answered */
    uint32_t status; /* of the last */
} bad[] = {
    {"no_zlib", no_zlib, -EPROTO, 0, 0},
    {"header_bomb", header_bomb, -EPROTO, 0, 0},
    {"large_value", large_value, -EPROTO, 0, 0},
    {"many_headers", many_headers, -EPROTO, 0, 0},
    {"count_of_four_billion", count_of_four_billion, -EPROTO, 0, 0},
    {"length_beyond_block", length_beyond_block, -EPROTO, 0, 0},
    {"rest_behind_block", rest_behind_block, -EPROTO, 0, 0},
    {"empty_block", empty_block, -EPROTO, 0, 0},
    {"same_name_twice", same_name_twice, -EPROTO, 0, 0},
    {"upper_case_name", upper_case_name, -EPROTO, 0, 0},
    {"empty_name", empty_name, -EPROTO, 0, 0},
    {"end_of_zlib_stream", end_of_zlib_stream, -EPROTO, 0, 0},
    {"id_twice", id_twice, -EPROTO, 0, 0},
    {"id_of_a_closed_stream", id_of_a_closed_stream, -EPROTO, 0, 0},
    {"id_that_shrinks", id_that_shrinks, -EPROTO, 0, 0},
    {"even_id", even_id, -EPROTO, 0, 0},
    {"id_zero", id_zero, -EPROTO, 0, 0},
    {"short_syn", short_syn, -EPROTO, 0, 0},
    {"data_on_stream_zero", data_on_stream_zero, -EPROTO, 0, 0},
    {"data_on_an_even_stream", data_on_an_even_stream, -EPROTO, 0, 0},
    {"reply_from_the_client", reply_from_the_client, -EPROTO, 0, 0},
    {"other_version", other_version, -EPROTO, 0, 0},
    {"huge_control_frame", huge_control_frame, -EPROTO, 0, 0},
    {"settings_lie", settings_lie, -EPROTO, 0, 0},
    {"short_settings", short_settings, -EPROTO, 0, 0},
    {"long_ping", long_ping, -EPROTO, 0, 0},
    {"short_reset", short_reset, -EPROTO, 0, 0},
    {"short_goaway", short_goaway, -EPROTO, 0, 0},
    {"headers_of_an_unknown_stream", headers_of_an_unknown_stream, -EPROTO, 0, 0},
    {"data_before_its_stream", data_before_its_stream, 0, 1, SPDY_INVALID_STREAM},
    {"data_after_fin", data_after_fin, 0, 1, SPDY_STREAM_ALREADY_CLOSED},
    {"data_after_reset_is_ignored", data_after_reset, 0, 0, 0},
    {"window_of_nothing", window_of_nothing, 0, 1, SPDY_FLOW_CONTROL_ERROR},
    {"window_overflow", window_overflow, 0, 1, SPDY_FLOW_CONTROL_ERROR},
    {"window_within_bounds", window_within_bounds, 0, 0, 0},
    {"unidirectional", unidirectional, 0, 1, SPDY_REFUSED_STREAM},
    {"too_many_streams", too_many_streams, 0, 1, SPDY_REFUSED_STREAM},
    {"settings_empty", settings_empty, 0, 0, 0},
    {"unknown_control_is_ignored", unknown_control, 0, 0, 0},
    {"answer_to_no_ping_is_ignored", answer_to_no_ping, 0, 0, 0},
};

static void bad_input_ends_what_it_must(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct peer p;

        print_message("# %s\n", bad[i].name);
        set_up(&p, true);
        bad[i].build(&p.c);
        assert_int_equal(run(&p), bad[i].r);
        read_answers(&p);
        assert_int_equal(p.n_rst, bad[i].n_rst);
        assert_int_equal(p.rst_status, bad[i].status);
        assert_int_equal(p.n_goaway, bad[i].r < 0);
        if (bad[i].r < 0) {
            struct spdy_event ev;

            assert_int_equal(p.goaway_status, SPDY_GOAWAY_PROTOCOL_ERROR);
            assert_int_equal(spdy_next(p.s, &ev), -EPROTO);
            assert_false(spdy_wants_input(p.s));
        }
        tear_down(&p);
    }
}

static void another_dictionary_is_refused(void **state)
{
    struct peer p;

    set_up(&p, false);
    (void)deflateSetDictionary(&p.c.z, (const uint8_t *)"another", 7);
    opened(&p.c);
    assert_int_equal(run(&p), -EPROTO);
    tear_down(&p);
}

/* zlib without a dictionary is zlib: some old clients do so. */
static void no_dictionary_is_read(void **state)
{
    struct peer p;

    set_up(&p, false);
    opened(&p.c);
    assert_int_equal(run(&p), 0);
    assert_int_equal(p.n_reply, 1);
    tear_down(&p);
}

/* A refused stream's block is read all the same: the next one still makes sense. */
static void compression_state_outlives_refusals(void **state)
{
    struct peer p;
    size_t n[4] = {0}, bytes = 0;

    set_up(&p, true);
    for (uint32_t i = 0; i < 10000; i++)
        client_syn(&p.c, 2 * i + 1, 0, HEADERS(TYPE, "stdin", "x-number", i % 2 ? "odd" : "even"));
    assert_int_equal(run_counting(&p, 4096, n, &bytes), 0);
    assert_int_equal(n[SPDY_EVENT_OPEN], STREAMS);
    assert_int_equal(p.n_rst, 10000 - STREAMS);
    assert_int_equal(spdy_stream_count(p.s), STREAMS);
    client_words(&p.c, 3, 2, 1, SPDY_CANCEL);
    client_syn(&p.c, 20001, 0, HEADERS(TYPE, "stdout"));
    assert_int_equal(run_counting(&p, 4096, n, &bytes), 0);
    assert_int_equal(n[SPDY_EVENT_OPEN], STREAMS + 1);
    tear_down(&p);
}

static void reset_storm_leaves_nothing(void **state)
{
    struct peer p;
    size_t n[4] = {0}, bytes = 0;

    set_up(&p, true);
    for (uint32_t i = 0; i < 10000; i++) {
        client_syn(&p.c, 2 * i + 1, 0, HEADERS(TYPE, "stdin"));
        client_words(&p.c, 3, 2, 2 * i + 1, SPDY_CANCEL);
        client_words(&p.c, 3, 2, 2 * i + 1, SPDY_CANCEL);
        client_words(&p.c, 3, 2, 0x7fffffff, SPDY_CANCEL);
    }
    assert_int_equal(run_counting(&p, 65536, n, &bytes), 0);
    assert_int_equal(n[SPDY_EVENT_OPEN], 10000);
    assert_int_equal(n[SPDY_EVENT_RESET], 10000);
    assert_int_equal(spdy_stream_count(p.s), 0);
    assert_int_equal(p.n_rst, 0); /* a reset is not answered */
    tear_down(&p);
}

/* A peer that pings and never reads is not answered for ever: input waits. */
static void ping_flood_stops_at_the_bound(void **state)
{
    struct peer p;
    struct spdy_event ev;
    const uint8_t *b;
    size_t fed = 0;

    set_up(&p, true);
    for (uint32_t i = 0; i < 4096; i++)
        client_words(&p.c, 6, 1, 2 * i + 1, 0);
    while (spdy_wants_input(p.s) && fed < 100) {
        assert_int_equal(spdy_feed(p.s, p.c.out.data, p.c.out.used), 0);
        assert_int_equal(spdy_next(p.s, &ev), 0);
        fed++;
    }
    assert_true(fed < 10);
    assert_true(spdy_is_paused(p.s));
    assert_true(spdy_out(p.s, &b) <= SPDY_OUT_PAUSE + 4096);
    read_answers(&p);
    assert_int_equal(spdy_next(p.s, &ev), 0);
    assert_false(spdy_is_paused(p.s));
    assert_true(spdy_wants_input(p.s));
    tear_down(&p);
}

static void a_slow_reader_stops_the_writer(void **state)
{
    static uint8_t bytes[SPDY_DATA_BYTES];
    struct peer p;
    size_t n = 0, taken;
    const uint8_t *b;

    set_up(&p, true);
    opened(&p.c);
    assert_int_equal(run(&p), 0);
    while (spdy_write(p.s, 1, bytes, sizeof(bytes), false) == 0)
        n++;
    assert_int_equal(n, SPDY_OUT_PAUSE / SPDY_DATA_BYTES);
    assert_int_equal(spdy_write(p.s, 1, bytes, 1, false), -EAGAIN);
    assert_int_equal(spdy_write(p.s, 1, bytes, sizeof(bytes) + 1, false), -EAGAIN);
    taken = spdy_out(p.s, &b);
    spdy_out_done(p.s, taken / 2); /* in the middle of a frame */
    assert_int_equal(spdy_write(p.s, 1, bytes, sizeof(bytes), false), 0);
    assert_int_equal(spdy_write(p.s, 1, bytes, 0, true), 0);
    assert_int_equal(spdy_write(p.s, 1, bytes, 1, false), -EPIPE);
    tear_down(&p);
}

static void truncation_anywhere_waits_for_more(void **state)
{
    struct peer whole;
    size_t len;

    set_up(&whole, true);
    opened(&whole.c);
    client_data(&whole.c, 1, 1, "abc", 3);
    len = whole.c.out.used;
    for (size_t cut = 0; cut < len; cut++) {
        struct spdy *s;
        struct spdy_event ev;
        int r;

        assert_int_equal(spdy_new(STREAMS, &s), 0);
        assert_int_equal(spdy_feed(s, whole.c.out.data, cut), 0);
        while ((r = spdy_next(s, &ev)) > 0)
            ;
        assert_int_equal(r, 0);
        spdy_free(s);
    }
    tear_down(&whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dictionary_is_the_protocols),
        cmocka_unit_test(streams_open_carry_data_and_close),
        cmocka_unit_test(headers_arrive_as_sent),
        cmocka_unit_test(blocks_survive_a_round_trip),
        cmocka_unit_test(pieces_of_a_large_frame_are_given_on),
        cmocka_unit_test(bad_input_ends_what_it_must),
        cmocka_unit_test(another_dictionary_is_refused),
        cmocka_unit_test(no_dictionary_is_read),
        cmocka_unit_test(compression_state_outlives_refusals),
        cmocka_unit_test(reset_storm_leaves_nothing),
        cmocka_unit_test(ping_flood_stops_at_the_bound),
        cmocka_unit_test(a_slow_reader_stops_the_writer),
        cmocka_unit_test(truncation_anywhere_waits_for_more),
    };
    return cmocka_run_group_tests_name("spdy", tests, NULL, NULL) != 0;
}
