/* SPDX-License-Identifier: Apache-2.0 */
/* The head of one HTTP/1.1 request, as far as a server needs it that answers with an upgrade or an error and
 * then closes: no bodies, no second request. A proxy stands in front (kubelet), so what two parsers may read
 * in two ways is refused. Sans-IO. Source: RFC 9110, RFC 9112. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

#define HTTP_HEAD_BYTES (16U << 10)
#define HTTP_FIELDS_MAX 64

struct http_field {
    const char *name, *value; /* terminated; the value without blanks around it */
};
struct http_head {
    const char *method, *path, *query; /* query: after '?', may be "" */
    struct http_field fields[HTTP_FIELDS_MAX];
    size_t n;
};

/* Looks for a whole head at the front of bytes, and cuts it up in place. Its length in bytes, *ret borrows from
 * bytes; 0: not all here; -EMSGSIZE: too long, too many fields; -EBADMSG: malformed, or a body is to follow. */
ssize_t http_head_parse(char *bytes, size_t len, struct http_head *ret);

/* The next field of that name (any case) after prev (NULL: the first), or NULL. */
const struct http_field *http_head_next(const struct http_head *h, const char *name,
                                        const struct http_field *prev);
/* True if a field of that name has the token (any case) in its comma list. */
bool http_head_has(const struct http_head *h, const char *name, const char *token);
/* Walks the comma lists of all fields of that name in order: fn gets each token, and stops by returning true. */
bool http_head_each(const struct http_head *h, const char *name,
                    bool (*fn)(const char *token, size_t len, void *ud), void *ud);
