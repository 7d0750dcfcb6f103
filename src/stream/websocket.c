/* SPDX-License-Identifier: Apache-2.0 */
/* Start at websocket_next: a frame is taken when it is whole; fragments are put together in message. */
#include "stream/websocket.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/buf.h"
#include "base/str.h"

#define HEADER_MAX 14
#define CONTROL_MAX 125
#define OUT_SLACK \
    (96U << 10) /* the largest message and the answers to one frame, above the pause */
#define FIN 0x80
#define RESERVED 0x70
#define MASKED 0x80

enum opcode {
    CONTINUATION = 0,
    TEXT = 1,
    BINARY = 2,
    CLOSE = 8,
    PING = 9,
    PONG = 10,
};

struct websocket {
    struct buf in;
    size_t in_done;
    struct buf message;         /* fragments so far */
    bool fragmented, text, got; /* got: message was given out */
    struct buf out;
    size_t out_done;
    bool closed; /* a close was sent */
    bool over;   /* nothing more is read */
};

int websocket_new(struct websocket **ret)
{
    struct websocket *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    buf_init(&w->in, HEADER_MAX + WEBSOCKET_MESSAGE_BYTES + WEBSOCKET_FEED_BYTES);
    buf_init(&w->message, WEBSOCKET_MESSAGE_BYTES);
    buf_init(&w->out, WEBSOCKET_OUT_PAUSE + OUT_SLACK);
    *ret = w;
    return 0;
}

void websocket_free(struct websocket *w)
{
    if (!w)
        return;
    buf_done(&w->in);
    buf_done(&w->message);
    buf_done(&w->out);
    free(w);
}

/* ---- output */

static size_t waiting(const struct websocket *w)
{
    return w->out.used - w->out_done;
}

size_t websocket_out(const struct websocket *w, const uint8_t **ret)
{
    *ret = waiting(w) ? w->out.data + w->out_done : NULL;
    return waiting(w);
}

void websocket_out_done(struct websocket *w, size_t n)
{
    w->out_done += n;
    if (waiting(w) == 0) {
        buf_clear(&w->out);
        w->out_done = 0;
    }
}

static int put_frame(struct websocket *w, enum opcode opcode, const void *bytes, size_t len)
{
    uint8_t *p;
    size_t head = len > CONTROL_MAX ? 10 : 2; /* the peer need not see the shortest form */

    if (w->closed)
        return -EPIPE;
    if (len > CONTROL_MAX && len <= UINT16_MAX)
        head = 4;
    if (w->out_done > WEBSOCKET_OUT_PAUSE / 2 || w->out.used + head + len > w->out.max) {
        buf_consume(&w->out, w->out_done);
        w->out_done = 0;
    }
    p = buf_reserve(&w->out, head + len);
    if (!p)
        return -ENOMEM;
    memset(p, 0, head);
    p[0] = (uint8_t)(FIN | opcode);
    p[1] = head == 2 ? (uint8_t)len : head == 4 ? 126 : 127;
    for (size_t i = 0; head > 2 && i < (head == 4 ? 2U : 4U); i++)
        p[head - 1 - i] = (uint8_t)(len >> (8 * i));
    if (len)
        memcpy(p + head, bytes, len);
    w->out.used += head + len;
    return 0;
}

int websocket_write(struct websocket *w, bool text, const void *bytes, size_t len)
{
    if (waiting(w) >= WEBSOCKET_OUT_PAUSE)
        return -EAGAIN;
    if (len > WEBSOCKET_SEND_BYTES)
        return -EMSGSIZE;
    return put_frame(w, text ? TEXT : BINARY, bytes, len);
}

void websocket_close(struct websocket *w, enum websocket_close code)
{
    const uint8_t bytes[2] = {(uint8_t)(code >> 8), (uint8_t)code};

    (void)put_frame(w, CLOSE, bytes, sizeof(bytes));
    w->closed = true;
}

/* ---- input */

struct frame {
    uint8_t head;
    enum opcode opcode;
    uint8_t *data; /* unmasked in place */
    size_t len;
};

/* The negative close code that tells what is wrong. */
#define BAD(code) (-(int)(code))

bool websocket_wants_input(const struct websocket *w)
{
    return !w->over && w->in.used - w->in_done < HEADER_MAX + WEBSOCKET_MESSAGE_BYTES &&
           waiting(w) < WEBSOCKET_OUT_PAUSE;
}

bool websocket_is_paused(const struct websocket *w)
{
    return w->in.used > w->in_done && waiting(w) >= WEBSOCKET_OUT_PAUSE;
}

int websocket_feed(struct websocket *w, const void *bytes, size_t len)
{
    buf_consume(&w->in, w->in_done);
    w->in_done = 0;
    return buf_append(&w->in, bytes, len);
}

/* Bytes of the header, or 0: it is not all here; the length of the payload in *ret. */
static int read_header(const uint8_t *p, size_t have, uint64_t *ret)
{
    size_t extra = (p[1] & 127) == 126 ? 2 : (p[1] & 127) == 127 ? 8 : 0;
    uint64_t len = p[1] & 127;

    if (have < 2 + extra)
        return 0;
    if (extra)
        len = 0;
    for (size_t i = 0; i < extra; i++)
        len = len << 8 | p[2 + i];
    if ((extra == 2 && len < 126) || (extra == 8 && (len <= UINT16_MAX || len >> 63)))
        return BAD(WEBSOCKET_PROTOCOL_ERROR);
    *ret = len;
    return (int)(2 + extra);
}

static bool is_control(enum opcode o)
{
    return o >= CLOSE;
}

static int check_start(const struct websocket *w, uint8_t head, bool masked)
{
    enum opcode o = head & 15;

    if (head & RESERVED || !masked || (o > BINARY && o < CLOSE) || o > PONG)
        return BAD(WEBSOCKET_PROTOCOL_ERROR);
    if (is_control(o) ? !(head & FIN) : (o == CONTINUATION) != w->fragmented)
        return BAD(WEBSOCKET_PROTOCOL_ERROR);
    return 0;
}

/* 1: *ret is a frame; 0: not all here; a negative close code. */
static int take_frame(struct websocket *w, struct frame *ret)
{
    size_t have = w->in.used - w->in_done;
    uint64_t len = 0;
    uint8_t *p;
    int head, r;

    if (have < 2)
        return 0;
    p = w->in.data + w->in_done;
    r = check_start(w, p[0], p[1] & MASKED);
    if (r < 0)
        return r;
    head = read_header(p, have, &len);
    if (head <= 0)
        return head;
    if (is_control(p[0] & 15) && len > CONTROL_MAX)
        return BAD(WEBSOCKET_PROTOCOL_ERROR);
    if (len > WEBSOCKET_MESSAGE_BYTES - (w->fragmented ? w->message.used : 0))
        return BAD(WEBSOCKET_TOO_BIG);
    if (have < (size_t)head + 4 + len)
        return 0;
    *ret = (struct frame){p[0], p[0] & 15, p + head + 4, (size_t)len};
    for (size_t i = 0; i < ret->len; i++)
        ret->data[i] ^= p[(size_t)head + i % 4];
    w->in_done += (size_t)head + 4 + ret->len;
    return 1;
}

/* RFC 6455 section 7.4: codes that may be on the wire. */
static bool is_good_code(unsigned code)
{
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
           (code >= 3000 && code <= 4999);
}

static int on_close(struct websocket *w, const struct frame *f, struct websocket_message *ret)
{
    unsigned code = f->len >= 2 ? (unsigned)f->data[0] << 8 | f->data[1] : WEBSOCKET_NORMAL;

    if (f->len == 1 || !is_good_code(code))
        return BAD(WEBSOCKET_PROTOCOL_ERROR);
    if (f->len > 2 && !utf8_is_valid(f->data + 2, f->len - 2))
        return BAD(WEBSOCKET_BAD_DATA);
    websocket_close(w, (enum websocket_close)code);
    w->over = true;
    *ret = (struct websocket_message){.close = true};
    return 1;
}

static int give(struct websocket *w, uint8_t *data, size_t len, struct websocket_message *ret)
{
    if (w->text && len && !utf8_is_valid(data, len))
        return BAD(WEBSOCKET_BAD_DATA);
    *ret = (struct websocket_message){.text = w->text, .data = data, .len = len};
    return 1;
}

/* 1: a message; 0: dealt with; a negative close code. */
static int on_frame(struct websocket *w, const struct frame *f, struct websocket_message *ret)
{
    int r;

    switch ((int)f->opcode) {
    case PING:
        r = put_frame(w, PONG, f->data, f->len);
        return r == -ENOMEM ? BAD(WEBSOCKET_INTERNAL_ERROR) : 0;
    case PONG:
        return 0;
    case CLOSE:
        return on_close(w, f, ret);
    case TEXT:
    case BINARY:
        w->text = f->opcode == TEXT;
        w->fragmented = !(f->head & FIN);
        if (!w->fragmented)
            return give(w, f->data, f->len, ret);
        break;
    default:
        w->fragmented = !(f->head & FIN);
        break;
    }
    if (buf_append(&w->message, f->data, f->len) < 0)
        return BAD(WEBSOCKET_INTERNAL_ERROR);
    if (w->fragmented)
        return 0;
    w->got = true;
    return give(w, w->message.data, w->message.used, ret);
}

int websocket_next(struct websocket *w, struct websocket_message *ret)
{
    struct frame f;
    int r = 0;

    if (w->got)
        buf_clear(&w->message);
    w->got = false;
    while (r == 0 && !w->over && waiting(w) < WEBSOCKET_OUT_PAUSE) {
        r = take_frame(w, &f);
        if (r == 0)
            return 0;
        if (r > 0)
            r = on_frame(w, &f, ret);
    }
    if (r >= 0)
        return r;
    websocket_close(w, (enum websocket_close) - r);
    w->over = true;
    return r == BAD(WEBSOCKET_INTERNAL_ERROR) ? -ENOMEM : -EPROTO;
}

/* ---- handshake */

int websocket_accept_key(const char *key, char ret[WEBSOCKET_ACCEPT_SIZE])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char bytes[24], md[EVP_MAX_MD_SIZE];
    char text[24 + sizeof(guid)];
    unsigned n = 0;

    /* 16 bytes are 22 characters and two of padding */
    if (strlen(key) != 24 || strcmp(key + 22, "==") != 0 || key[21] == '=' ||
        EVP_DecodeBlock(bytes, (const unsigned char *)key, 24) != 18)
        return -EINVAL;
    memcpy(text, key, 24);
    memcpy(text + 24, guid, sizeof(guid));
    if (EVP_Digest(text, sizeof(text) - 1, md, &n, EVP_sha1(), NULL) != 1 || n != 20)
        return -EINVAL;
    (void)EVP_EncodeBlock((unsigned char *)ret, md, (int)n);
    return 0;
}
