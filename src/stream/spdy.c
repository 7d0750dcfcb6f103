/* SPDX-License-Identifier: Apache-2.0 */
/* Start at spdy_next: a data frame is handed on piece by piece as it comes, a control frame is taken whole. */
#include "stream/spdy.h"

#include <string.h>

#include "base/checked.h"
#include "base/le.h"

#define FRAME_HEADER 8
#define CONTROL_BIT 0x80000000U
#define VERSION 3
#define ID_MASK 0x7fffffffU
#define FLAG_FIN 1
#define FLAG_UNIDIRECTIONAL 2
#define WINDOW_INITIAL 65536
#define WINDOW_MAX 0x7fffffffU
#define OUT_SLACK \
    (96U << 10) /* the largest write and the answers to one event, above SPDY_OUT_PAUSE */

enum frame_type {
    SYN_STREAM = 1,
    SYN_REPLY = 2,
    RST_STREAM = 3,
    SETTINGS = 4,
    PING = 6,
    GOAWAY = 7,
    HEADERS = 8,
    WINDOW_UPDATE = 9,
};

struct stream {
    uint32_t id;
    uint32_t window;         /* what the peer lets us send; only its overflow is of interest */
    bool peer_over, we_over; /* both: it is taken off the table */
};

struct spdy {
    struct buf in; /* bytes not looked at; consumed in front at each feed */
    size_t in_done;
    struct spdy_inflater *inflater;
    struct spdy_deflater *deflater;
    struct spdy_headers headers; /* of the event given out */
    struct stream *streams;      /* owned; in the order of their ids */
    size_t n_streams, max_streams;
    uint32_t last_id; /* the highest the peer has opened */
    /* of the data frame that is coming */
    uint32_t data_left, data_id;
    bool data_fin, data_open;
    struct buf out;
    size_t out_done;
    bool over; /* a GOAWAY for an error is queued */
};

int spdy_new(size_t max_streams, struct spdy **ret)
{
    _cleanup_(spdy_freep) struct spdy *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    buf_init(&s->in, FRAME_HEADER + SPDY_CONTROL_BYTES + SPDY_FEED_BYTES);
    buf_init(&s->out, SPDY_OUT_PAUSE + OUT_SLACK);
    s->max_streams = max_streams;
    s->streams = calloc(max_streams, sizeof(*s->streams));
    if (!s->streams)
        return -ENOMEM;
    r = spdy_inflater_new(&s->inflater);
    if (r == 0)
        r = spdy_deflater_new(&s->deflater);
    if (r < 0)
        return r;
    *ret = TAKE(s);
    return 0;
}

void spdy_free(struct spdy *s)
{
    if (!s)
        return;
    buf_done(&s->in);
    buf_done(&s->out);
    spdy_inflater_free(s->inflater);
    spdy_deflater_free(s->deflater);
    free(s->streams);
    free(s);
}

/* ---- streams */

/* NULL: not (or no more) open. */
static struct stream *find(const struct spdy *s, uint32_t id)
{
    size_t low = 0, high = s->n_streams;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (s->streams[middle].id == id)
            return &s->streams[middle];
        if (s->streams[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static void drop(struct spdy *s, struct stream *stream)
{
    size_t at = (size_t)(stream - s->streams);

    if (s->data_id == stream->id)
        s->data_open = false; /* what is still to come of its frame is thrown away */
    s->n_streams--;
    memmove(stream, stream + 1, (s->n_streams - at) * sizeof(*stream));
}

static void drop_if_over(struct spdy *s, struct stream *stream)
{
    if (stream->peer_over && stream->we_over)
        drop(s, stream);
}

bool spdy_has_stream(const struct spdy *s, uint32_t stream)
{
    return find(s, stream) != NULL;
}

size_t spdy_stream_count(const struct spdy *s)
{
    return s->n_streams;
}

/* ---- output */

static size_t waiting(const struct spdy *s)
{
    return s->out.used - s->out_done;
}

size_t spdy_out(const struct spdy *s, const uint8_t **ret)
{
    *ret = waiting(s) ? s->out.data + s->out_done : NULL;
    return waiting(s);
}

void spdy_out_done(struct spdy *s, size_t n)
{
    s->out_done += n;
    if (waiting(s) == 0) {
        buf_clear(&s->out);
        s->out_done = 0;
    }
}

/* Room for len bytes at the end; NULL without memory. */
static uint8_t *reserve(struct spdy *s, size_t len)
{
    if (s->out_done > SPDY_OUT_PAUSE / 2 || s->out.used + len > s->out.max) {
        buf_consume(&s->out, s->out_done);
        s->out_done = 0;
    }
    return buf_reserve(&s->out, len);
}

/* A control frame of up to two words. Lost without memory: the peer then waits until it gives up. */
static void put_control(struct spdy *s, enum frame_type type, size_t words, uint32_t a, uint32_t b)
{
    uint8_t *p = reserve(s, FRAME_HEADER + 8);

    if (!p)
        return;
    be32_store(p, CONTROL_BIT | VERSION << 16 | (uint32_t)type);
    be32_store(p + 4, (uint32_t)words * 4);
    be32_store(p + 8, a);
    if (words > 1)
        be32_store(p + 12, b);
    s->out.used += FRAME_HEADER + words * 4;
}

void spdy_accept(struct spdy *s, uint32_t stream)
{
    _cleanup_(buf_done) struct buf block;
    uint8_t *p;

    buf_init(&block, SPDY_CONTROL_BYTES);
    if (spdy_deflate(s->deflater, NULL, 0, &block) < 0)
        return;
    p = reserve(s, FRAME_HEADER + 4 + block.used);
    if (!p)
        return;
    be32_store(p, CONTROL_BIT | VERSION << 16 | SYN_REPLY);
    be32_store(p + 4, (uint32_t)(4 + block.used));
    be32_store(p + 8, stream);
    memcpy(p + 12, block.data, block.used);
    s->out.used += FRAME_HEADER + 4 + block.used;
}

void spdy_reset(struct spdy *s, uint32_t id, enum spdy_status status)
{
    struct stream *stream = find(s, id);

    if (!stream)
        return;
    drop(s, stream);
    put_control(s, RST_STREAM, 2, id, status);
}

int spdy_write(struct spdy *s, uint32_t id, const void *bytes, size_t len, bool fin)
{
    struct stream *stream = find(s, id);
    uint8_t *p;

    if (!stream)
        return -ENOENT;
    if (stream->we_over)
        return -EPIPE;
    if (len && waiting(s) >= SPDY_OUT_PAUSE)
        return -EAGAIN;
    if (len > SPDY_DATA_BYTES)
        return -EMSGSIZE;
    p = reserve(s, FRAME_HEADER + len);
    if (!p)
        return -ENOMEM;
    be32_store(p, id);
    be32_store(p + 4, (fin ? FLAG_FIN << 24 : 0U) | (uint32_t)len);
    if (len)
        memcpy(p + FRAME_HEADER, bytes, len);
    s->out.used += FRAME_HEADER + len;
    if (fin) {
        stream->we_over = true;
        drop_if_over(s, stream);
    }
    return 0;
}

void spdy_goaway(struct spdy *s, enum spdy_goaway status)
{
    put_control(s, GOAWAY, 2, s->last_id, status);
}

/* ---- input */

static int fail(struct spdy *s, int r)
{
    spdy_goaway(s, r == -ENOMEM ? SPDY_GOAWAY_INTERNAL_ERROR : SPDY_GOAWAY_PROTOCOL_ERROR);
    s->over = true;
    return r == -ENOMEM ? r : -EPROTO;
}

bool spdy_is_paused(const struct spdy *s)
{
    return s->in.used > s->in_done && waiting(s) >= SPDY_OUT_PAUSE;
}

bool spdy_wants_input(const struct spdy *s)
{
    return !s->over && s->in.used - s->in_done < FRAME_HEADER + SPDY_CONTROL_BYTES &&
           waiting(s) < SPDY_OUT_PAUSE;
}

int spdy_feed(struct spdy *s, const void *bytes, size_t len)
{
    buf_consume(&s->in, s->in_done);
    s->in_done = 0;
    return buf_append(&s->in, bytes, len);
}

/* 1: *ret is an event; 0: the frame is dealt with; errno. So do all on_… below. */
static int on_syn_stream(struct spdy *s, uint8_t flags, const uint8_t *p, size_t len,
                         struct spdy_event *ret)
{
    uint32_t id;
    int r;

    if (len < 10)
        return -EPROTO;
    id = be32_load(p) & ID_MASK;
    r = spdy_inflate(s->inflater, p + 10, len - 10, &s->headers);
    if (r < 0)
        return r;
    if (id % 2 == 0 || id <= s->last_id)
        return -EPROTO; /* not the peer's to open, or opened before */
    s->last_id = id;
    if (flags & FLAG_UNIDIRECTIONAL || s->n_streams == s->max_streams) {
        put_control(s, RST_STREAM, 2, id, SPDY_REFUSED_STREAM);
        return 0;
    }
    s->streams[s->n_streams++] =
        (struct stream){.id = id, .window = WINDOW_INITIAL, .peer_over = flags & FLAG_FIN};
    *ret = (struct spdy_event){
        .type = SPDY_EVENT_OPEN, .stream = id, .fin = flags & FLAG_FIN, .headers = &s->headers};
    return 1;
}

static int on_rst_stream(struct spdy *s, const uint8_t *p, size_t len, struct spdy_event *ret)
{
    struct stream *stream;

    if (len != 8)
        return -EPROTO;
    stream = find(s, be32_load(p) & ID_MASK);
    if (!stream)
        return 0;
    *ret = (struct spdy_event){.type = SPDY_EVENT_RESET, .stream = stream->id};
    drop(s, stream);
    return 1;
}

/* Headers of a stream that is open already mean nothing here; the block must be read all the same. */
static int on_headers(struct spdy *s, const uint8_t *p, size_t len)
{
    uint32_t id;
    int r;

    if (len < 4)
        return -EPROTO;
    id = be32_load(p) & ID_MASK;
    r = spdy_inflate(s->inflater, p + 4, len - 4, &s->headers);
    if (r == 0 && id > s->last_id)
        put_control(s, RST_STREAM, 2, id, SPDY_INVALID_STREAM);
    return r;
}

static int on_window_update(struct spdy *s, const uint8_t *p, size_t len, struct spdy_event *ret)
{
    uint32_t id, delta;
    struct stream *stream;

    if (len != 8)
        return -EPROTO;
    id = be32_load(p) & ID_MASK;
    delta = be32_load(p + 4) & ID_MASK;
    stream = find(s, id);
    if (!stream)
        return 0; /* 0 is the connection, which waits for no window either */
    if (delta > 0 && delta <= WINDOW_MAX - stream->window) {
        stream->window += delta;
        return 0;
    }
    *ret = (struct spdy_event){.type = SPDY_EVENT_RESET, .stream = id};
    spdy_reset(s, id, SPDY_FLOW_CONTROL_ERROR);
    return 1;
}

static int on_control(struct spdy *s, unsigned type, uint8_t flags, const uint8_t *p, size_t len,
                      struct spdy_event *ret)
{
    switch (type) {
    case SYN_STREAM:
        return on_syn_stream(s, flags, p, len, ret);
    case RST_STREAM:
        return on_rst_stream(s, p, len, ret);
    case SETTINGS: /* of flow control and the like: nothing that is used */
        return len >= 4 && len - 4 == (uint64_t)be32_load(p) * 8 ? 0 : -EPROTO;
    case PING:
        if (len != 4)
            return -EPROTO;
        if (be32_load(p) % 2) /* the peer's own; an even one answers a ping we never sent */
            put_control(s, PING, 1, be32_load(p), 0);
        return 0;
    case GOAWAY:
        if (len != 8)
            return -EPROTO;
        *ret = (struct spdy_event){.type = SPDY_EVENT_GOAWAY};
        return 1;
    case HEADERS:
        return on_headers(s, p, len);
    case WINDOW_UPDATE:
        return on_window_update(s, p, len, ret);
    case SYN_REPLY: /* we open no streams */
        return -EPROTO;
    default: /* of an extension: ignored */
        return 0;
    }
}

/* A data frame begins. */
static int on_data_header(struct spdy *s, uint32_t id, uint8_t flags, uint32_t len,
                          struct spdy_event *ret)
{
    struct stream *stream = find(s, id);

    s->data_id = id;
    s->data_left = len;
    s->data_fin = flags & FLAG_FIN;
    s->data_open = stream && !stream->peer_over;
    if (id == 0 || (!stream && id % 2 == 0))
        return -EPROTO;
    if (!stream && id > s->last_id) /* before its SYN_STREAM */
        put_control(s, RST_STREAM, 2, id, SPDY_INVALID_STREAM);
    if (stream && stream->peer_over) {
        *ret = (struct spdy_event){.type = SPDY_EVENT_RESET, .stream = id};
        spdy_reset(s, id, SPDY_STREAM_ALREADY_CLOSED);
        return 1;
    }
    if (len > 0 || !s->data_open || !s->data_fin)
        return 0;
    *ret = (struct spdy_event){.type = SPDY_EVENT_DATA, .stream = id, .fin = true};
    stream->peer_over = true;
    drop_if_over(s, stream);
    return 1;
}

/* What is here of the data frame that is coming. */
static int take_data(struct spdy *s, struct spdy_event *ret)
{
    size_t n = min_of((size_t)s->data_left, s->in.used - s->in_done);
    const uint8_t *p = s->in.data + s->in_done;
    struct stream *stream;
    bool fin;

    s->in_done += n;
    s->data_left -= (uint32_t)n;
    if (n == 0 || !s->data_open)
        return 0;
    fin = s->data_fin && s->data_left == 0;
    *ret = (struct spdy_event){
        .type = SPDY_EVENT_DATA, .stream = s->data_id, .data = p, .len = n, .fin = fin};
    stream = find(s, s->data_id);
    if (fin && stream) {
        stream->peer_over = true;
        drop_if_over(s, stream);
    }
    return 1;
}

/* 1: an event; 0: dealt with; -EAGAIN: it is not all here; errno. */
static int take_frame(struct spdy *s, struct spdy_event *ret)
{
    size_t have = s->in.used - s->in_done;
    const uint8_t *p;
    uint32_t head, len;
    uint8_t flags;

    if (have < FRAME_HEADER)
        return -EAGAIN;
    p = s->in.data + s->in_done;
    head = be32_load(p);
    flags = p[4];
    len = be32_load(p + 4) & 0xffffff;
    if (!(head & CONTROL_BIT)) {
        s->in_done += FRAME_HEADER;
        return on_data_header(s, head, flags, len, ret);
    }
    if ((head >> 16 & 0x7fff) != VERSION || len > SPDY_CONTROL_BYTES)
        return -EPROTO;
    if (have < FRAME_HEADER + (size_t)len)
        return -EAGAIN;
    s->in_done += FRAME_HEADER + (size_t)len;
    return on_control(s, head & 0xffff, flags, p + FRAME_HEADER, len, ret);
}

int spdy_next(struct spdy *s, struct spdy_event *ret)
{
    int r = 0;

    if (s->over)
        return -EPROTO;
    while (r == 0 && waiting(s) < SPDY_OUT_PAUSE) {
        if (s->data_left > 0 && s->in.used == s->in_done)
            return 0;
        r = s->data_left > 0 ? take_data(s, ret) : take_frame(s, ret);
    }
    if (r == -EAGAIN)
        return 0;
    return r < 0 ? fail(s, r) : r;
}
