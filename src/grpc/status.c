/* SPDX-License-Identifier: Apache-2.0 */
#include "grpc/status.h"

#include <stdint.h>
#include <string.h>

#include "base/limit.h"
#include "base/str.h"

static const char *const names[GRPC_STATUS_COUNT] = {
    [GRPC_OK] = "OK",
    [GRPC_CANCELLED] = "CANCELLED",
    [GRPC_UNKNOWN] = "UNKNOWN",
    [GRPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [GRPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [GRPC_NOT_FOUND] = "NOT_FOUND",
    [GRPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [GRPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [GRPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [GRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [GRPC_ABORTED] = "ABORTED",
    [GRPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [GRPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [GRPC_INTERNAL] = "INTERNAL",
    [GRPC_UNAVAILABLE] = "UNAVAILABLE",
    [GRPC_DATA_LOSS] = "DATA_LOSS",
    [GRPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

static const enum grpc_status by_class[ERROR_CLASS_COUNT] = {
    [ERROR_INTERNAL] = GRPC_INTERNAL,
    [ERROR_INVALID] = GRPC_INVALID_ARGUMENT,
    [ERROR_NOT_FOUND] = GRPC_NOT_FOUND,
    [ERROR_EXISTS] = GRPC_ALREADY_EXISTS,
    [ERROR_PRECONDITION] = GRPC_FAILED_PRECONDITION,
    [ERROR_EXHAUSTED] = GRPC_RESOURCE_EXHAUSTED,
    [ERROR_DENIED] = GRPC_PERMISSION_DENIED,
    [ERROR_UNSUPPORTED] = GRPC_UNIMPLEMENTED,
    [ERROR_CANCELLED] = GRPC_CANCELLED,
    [ERROR_DEADLINE] = GRPC_DEADLINE_EXCEEDED,
    [ERROR_UNAVAILABLE] = GRPC_UNAVAILABLE,
    [ERROR_GUEST] = GRPC_INTERNAL,
};

static const struct {
    enum error_class class;
    int code;
} by_status[GRPC_STATUS_COUNT] = {
    [GRPC_OK] = {ERROR_INTERNAL, EIO},
    [GRPC_CANCELLED] = {ERROR_CANCELLED, ECANCELED},
    [GRPC_UNKNOWN] = {ERROR_INTERNAL, EIO},
    [GRPC_INVALID_ARGUMENT] = {ERROR_INVALID, EINVAL},
    [GRPC_DEADLINE_EXCEEDED] = {ERROR_DEADLINE, ETIMEDOUT},
    [GRPC_NOT_FOUND] = {ERROR_NOT_FOUND, ENOENT},
    [GRPC_ALREADY_EXISTS] = {ERROR_EXISTS, EEXIST},
    [GRPC_PERMISSION_DENIED] = {ERROR_DENIED, EACCES},
    [GRPC_RESOURCE_EXHAUSTED] = {ERROR_EXHAUSTED, EMSGSIZE},
    [GRPC_FAILED_PRECONDITION] = {ERROR_PRECONDITION, EBUSY},
    [GRPC_ABORTED] = {ERROR_UNAVAILABLE, EAGAIN},
    [GRPC_OUT_OF_RANGE] = {ERROR_INVALID, ERANGE},
    [GRPC_UNIMPLEMENTED] = {ERROR_UNSUPPORTED, EOPNOTSUPP},
    [GRPC_INTERNAL] = {ERROR_INTERNAL, EIO},
    [GRPC_UNAVAILABLE] = {ERROR_UNAVAILABLE, EAGAIN},
    [GRPC_DATA_LOSS] = {ERROR_INTERNAL, EIO},
    [GRPC_UNAUTHENTICATED] = {ERROR_DENIED, EACCES},
};

static size_t row_of(enum grpc_status st)
{
    return (unsigned)st < GRPC_STATUS_COUNT ? (size_t)st : (size_t)GRPC_UNKNOWN;
}

const char *grpc_status_name(enum grpc_status st)
{
    return names[row_of(st)];
}

enum grpc_status grpc_status_from_class(enum error_class cls)
{
    return (unsigned)cls < ERROR_CLASS_COUNT ? by_class[cls] : GRPC_INTERNAL;
}

enum error_class grpc_status_to_class(enum grpc_status st)
{
    return by_status[row_of(st)].class;
}

int grpc_status_to_errno(enum grpc_status st)
{
    return by_status[row_of(st)].code;
}

/* Length of the valid UTF-8 sequence at s (left bytes), 0 if there is none. */
static size_t utf8_sequence(const uint8_t *s, size_t left)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

    return n <= left && utf8_is_valid(s, n) ? n : 0;
}

static size_t put_escaped(char *out, uint8_t byte)
{
    static const char digits[] = "0123456789ABCDEF";

    if (byte >= 0x20 && byte <= 0x7e && byte != '%') {
        out[0] = (char)byte;
        return 1;
    }
    out[0] = '%';
    out[1] = digits[byte >> 4];
    out[2] = digits[byte & 15];
    return 3;
}

size_t grpc_message_encode(const char *text, char *out)
{
    const uint8_t *s = (const uint8_t *)text;
    size_t left = strlen(text), used = 0, taken = 0;

    _Static_assert(GRPC_MESSAGE_SIZE > 3 * LIMIT_ERROR_TEXT_BYTES, "room for the longest text");
    while (left > 0) {
        size_t n = utf8_sequence(s, left), skip = n ? n : 1;

        if (taken + skip > LIMIT_ERROR_TEXT_BYTES)
            break;
        if (n == 0)
            out[used++] = '?';
        else if (n == 1 && (*s < 0x20 || *s == 0x7f))
            out[used++] = ' ';
        else
            for (size_t i = 0; i < n; i++)
                used += put_escaped(out + used, s[i]);
        taken += skip;
        s += skip;
        left -= skip;
    }
    out[used] = '\0';
    return used;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

size_t grpc_message_decode(char *text)
{
    char *out = text;

    for (const char *in = text; *in;) {
        int hi = in[0] == '%' ? hex_value(in[1]) : -1;
        int lo = hi >= 0 ? hex_value(in[2]) : -1;

        if (lo >= 0) {
            int c = hi * 16 + lo;
            *out++ = c ? (char)c : ' ';
            in += 3;
        } else {
            *out++ = *in++;
        }
    }
    *out = '\0';
    return (size_t)(out - text);
}
