/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/limit.h"
#include "grpc/request-internal.h"

enum {
    SEEN_METHOD = 1,
    SEEN_SCHEME = 2,
    SEEN_PATH = 4,
    SEEN_AUTHORITY = 8,
    SEEN_CONTENT_TYPE = 16,
    SEEN_TIMEOUT = 32,
    SEEN_TRACEPARENT = 64,
};
#define SEEN_REQUIRED (SEEN_METHOD | SEEN_SCHEME | SEEN_PATH)

void grpc_request_init(struct grpc_request *r, struct arena *arena)
{
    *r = (struct grpc_request){
        .arena = arena, .path = "", .traceparent = "", .timeout_ns = UINT64_MAX};
}

/* The first thing wrong is the one that is told. */
static void refuse(struct grpc_request *r, enum grpc_status st, const char *text)
{
    if (!r->text) {
        r->status = st;
        r->text = text;
    }
}

/* A copy in the arena; without memory the request is refused and "" stands in. */
static const char *keep(struct grpc_request *r, const uint8_t *value, size_t len)
{
    char *s = arena_alloc(r->arena, len + 1);

    if (!s) {
        refuse(r, GRPC_RESOURCE_EXHAUSTED, "no memory for the request's headers");
        return "";
    }
    memcpy(s, value, len);
    return s;
}

static bool equals(const uint8_t *bytes, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(bytes, text, len) == 0;
}

static bool name_is_valid(const uint8_t *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint8_t c = name[i];
        if (c <= 0x20 || c >= 0x7f || (c >= 'A' && c <= 'Z') || (c == ':' && i > 0))
            return false;
    }
    return len > 0 && !(len == 1 && name[0] == ':');
}

static bool value_is_valid(const uint8_t *value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (value[i] == '\0' || value[i] == '\r' || value[i] == '\n')
            return false;
    return true;
}

/* "application/grpc", "application/grpc+proto", either with parameters. */
static bool content_type_is_grpc(const uint8_t *value, size_t len)
{
    static const char base[] = "application/grpc", proto[] = "+proto";
    size_t at = sizeof(base) - 1;

    if (len < at || memcmp(value, base, at) != 0)
        return false;
    if (len - at >= sizeof(proto) - 1 && memcmp(value + at, proto, sizeof(proto) - 1) == 0)
        at += sizeof(proto) - 1;
    return at == len || value[at] == ';' || value[at] == ' ';
}

/* version "00", 32, 16 and 2 lower-case hex digits: W3C trace context. */
static bool traceparent_is_valid(const uint8_t *value, size_t len)
{
    static const char shape[] = "xx-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";

    if (len != sizeof(shape) - 1)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool hex = (value[i] >= '0' && value[i] <= '9') || (value[i] >= 'a' && value[i] <= 'f');
        if (shape[i] == 'x' ? !hex : value[i] != '-')
            return false;
    }
    return true;
}

/* True the first time; a second time the request is malformed. */
static bool once(struct grpc_request *r, unsigned bit)
{
    if (r->seen & bit)
        r->malformed = true;
    r->seen |= bit;
    return !r->malformed;
}

static void pseudo_header(struct grpc_request *r, const uint8_t *name, size_t name_len,
                          const uint8_t *value, size_t value_len)
{
    if (r->regular_seen) {
        r->malformed = true;
    } else if (equals(name, name_len, ":method")) {
        if (once(r, SEEN_METHOD))
            r->is_post = equals(value, value_len, "POST");
    } else if (equals(name, name_len, ":scheme")) {
        (void)once(r, SEEN_SCHEME); /* http on a unix socket; https from a client that insists */
    } else if (equals(name, name_len, ":path")) {
        if (once(r, SEEN_PATH))
            r->path = keep(r, value, value_len);
    } else if (equals(name, name_len, ":authority")) {
        (void)once(r, SEEN_AUTHORITY); /* any: kubelets before 1.31 send the socket's path */
    } else {
        r->malformed = true;
    }
}

static void regular_header(struct grpc_request *r, const uint8_t *name, size_t name_len,
                           const uint8_t *value, size_t value_len)
{
    static const char *const hop_by_hop[] = {"connection", "keep-alive", "proxy-connection",
                                             "transfer-encoding", "upgrade"};

    r->regular_seen = true;
    for (size_t i = 0; i < sizeof(hop_by_hop) / sizeof(hop_by_hop[0]); i++)
        if (equals(name, name_len, hop_by_hop[i]))
            r->malformed = true;
    if (equals(name, name_len, "te")) {
        if (!equals(value, value_len, "trailers"))
            r->malformed = true;
    } else if (equals(name, name_len, "content-type")) {
        if (once(r, SEEN_CONTENT_TYPE))
            r->is_grpc = content_type_is_grpc(value, value_len);
    } else if (equals(name, name_len, "grpc-timeout")) {
        if (once(r, SEEN_TIMEOUT) &&
            grpc_timeout_parse((const char *)value, value_len, &r->timeout_ns) < 0)
            refuse(r, GRPC_INVALID_ARGUMENT,
                   "grpc-timeout must be 1 to 8 digits and one of H M S m u n");
    } else if (equals(name, name_len, "traceparent")) {
        if (!(r->seen & SEEN_TRACEPARENT) && traceparent_is_valid(value, value_len))
            r->traceparent = keep(r, value, value_len);
        r->seen |= SEEN_TRACEPARENT;
    }
    /* everything else is metadata nobody here reads, "-bin" values included */
}

void grpc_request_header(struct grpc_request *r, const uint8_t *name, size_t name_len,
                         const uint8_t *value, size_t value_len)
{
    size_t bytes = name_len + value_len + 32; /* both are below 64 KiB each by HPACK's limits */

    if (!checked_add(r->list_bytes, bytes, &r->list_bytes))
        r->list_bytes = SIZE_MAX;
    if (r->list_bytes > LIMIT_GRPC_HEADER_LIST_BYTES) {
        refuse(r, GRPC_RESOURCE_EXHAUSTED, "the request's headers are larger than 16 KiB");
        return;
    }
    if (!name_is_valid(name, name_len) || !value_is_valid(value, value_len))
        r->malformed = true;
    else if (name[0] == ':')
        pseudo_header(r, name, name_len, value, value_len);
    else
        regular_header(r, name, name_len, value, value_len);
}

enum grpc_verdict grpc_request_check(struct grpc_request *r)
{
    if (r->list_bytes > LIMIT_GRPC_HEADER_LIST_BYTES)
        return GRPC_REQUEST_STATUS; /* what is missing may be what was not kept */
    if (r->malformed || (r->seen & SEEN_REQUIRED) != SEEN_REQUIRED)
        return GRPC_REQUEST_RESET;
    if (!r->is_grpc)
        return GRPC_REQUEST_TYPE;
    if (!r->is_post)
        refuse(r, GRPC_UNIMPLEMENTED, "gRPC requests use the HTTP method POST");
    return r->text ? GRPC_REQUEST_STATUS : GRPC_REQUEST_OK;
}

int grpc_timeout_parse(const char *text, size_t len, uint64_t *ret_ns)
{
    static const struct {
        char unit;
        uint64_t ns;
    } units[] = {{'H', 3600000000000ULL}, {'M', 60000000000ULL}, {'S', 1000000000ULL},
                 {'m', 1000000ULL},       {'u', 1000ULL},        {'n', 1ULL}};
    uint64_t value = 0;

    if (len < 2 || len > 9)
        return -EINVAL;
    for (size_t i = 0; i + 1 < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -EINVAL;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (units[i].unit != text[len - 1])
            continue;
        if (!checked_mul(value, units[i].ns, ret_ns))
            *ret_ns = UINT64_MAX;
        return 0;
    }
    return -EINVAL;
}

void grpc_timeout_format(uint64_t timeout_ms, char out[16])
{
    uint64_t seconds = timeout_ms / 1000 + (timeout_ms % 1000 != 0);
    uint64_t hours = seconds / 3600 + (seconds % 3600 != 0);

    if (timeout_ms <= 99999999)
        (void)snprintf(out, 16, "%um", (unsigned)timeout_ms);
    else if (seconds <= 99999999)
        (void)snprintf(out, 16, "%uS", (unsigned)seconds);
    else
        (void)snprintf(out, 16, "%uH", hours > 99999999 ? 99999999U : (unsigned)hours);
}
