/* SPDX-License-Identifier: Apache-2.0 */
#include "stream/http-head.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#define TOKEN_CHARS                                                    \
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklm" \
    "nopqrstuvwxyz"

/* The length of the head with its empty line, or 0. */
static size_t find_end(const char *bytes, size_t len)
{
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);

    return end ? (size_t)(end - bytes) + 4 : 0;
}

static bool is_token(const char *s)
{
    return *s && s[strspn(s, TOKEN_CHARS)] == '\0';
}

/* Cuts the line at *at off (it ends with CRLF, which is there). NULL: a stray CR, LF or NUL. */
static char *cut_line(char **at)
{
    char *line = *at, *end = strstr(line, "\r\n");

    if (!end)
        return NULL;
    *end = '\0';
    *at = end + 2;
    return strpbrk(line, "\r\n") ? NULL : line;
}

static int parse_request_line(char *line, struct http_head *ret)
{
    char *rest = line, *query;
    const char *method = strsep(&rest, " ");
    char *target = strsep(&rest, " ");

    if (!rest || strcmp(rest, "HTTP/1.1") != 0 || !is_token(method) || target[0] != '/')
        return -EBADMSG;
    for (const char *p = target; *p; p++)
        if (*p <= ' ' || *p > '~')
            return -EBADMSG;
    query = strchr(target, '?');
    if (query)
        *query++ = '\0';
    ret->method = method;
    ret->path = target;
    ret->query = query ? query : "";
    return 0;
}

static int parse_field(char *line, struct http_field *ret)
{
    char *colon = strchr(line, ':');
    char *value;
    size_t n;

    if (!colon)
        return -EBADMSG;
    *colon = '\0';
    if (!is_token(line)) /* a folded line, too: it begins with a blank */
        return -EBADMSG;
    ret->name = line;
    value = colon + 1 + strspn(colon + 1, " \t");
    n = strlen(value);
    while (n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t'))
        n--;
    value[n] = '\0';
    ret->value = value;
    for (const char *p = ret->value; *p; p++)
        if ((unsigned char)*p < ' ' && *p != '\t')
            return -EBADMSG;
    return 0;
}

/* No body, one host, one length. */
static int check_fields(const struct http_head *h)
{
    const struct http_field *length = http_head_next(h, "content-length", NULL);
    const struct http_field *host = http_head_next(h, "host", NULL);

    if (http_head_next(h, "transfer-encoding", NULL) || http_head_next(h, "expect", NULL))
        return -EBADMSG;
    if (length && (strcmp(length->value, "0") != 0 || http_head_next(h, "content-length", length)))
        return -EBADMSG;
    return host && !http_head_next(h, "host", host) ? 0 : -EBADMSG;
}

ssize_t http_head_parse(char *bytes, size_t len, struct http_head *ret)
{
    size_t end = find_end(bytes, len < HTTP_HEAD_BYTES ? len : HTTP_HEAD_BYTES);
    char *at = bytes, *line;
    int r;

    if (end == 0)
        return len < HTTP_HEAD_BYTES ? 0 : -EMSGSIZE;
    if (memchr(bytes, '\0', end))
        return -EBADMSG;
    bytes[end - 2] = '\0'; /* the empty line: strings end before it */
    ret->n = 0;
    line = cut_line(&at);
    r = line ? parse_request_line(line, ret) : -EBADMSG;
    while (r == 0 && *at) {
        if (ret->n == HTTP_FIELDS_MAX)
            return -EMSGSIZE;
        line = cut_line(&at);
        r = line ? parse_field(line, &ret->fields[ret->n++]) : -EBADMSG;
    }
    if (r == 0)
        r = check_fields(ret);
    return r < 0 ? r : (ssize_t)end;
}

const struct http_field *http_head_next(const struct http_head *h, const char *name,
                                        const struct http_field *prev)
{
    for (size_t i = prev ? (size_t)(prev - h->fields) + 1 : 0; i < h->n; i++)
        if (strcasecmp(h->fields[i].name, name) == 0)
            return &h->fields[i];
    return NULL;
}

bool http_head_each(const struct http_head *h, const char *name,
                    bool (*fn)(const char *token, size_t len, void *ud), void *ud)
{
    const struct http_field *f = NULL;

    while ((f = http_head_next(h, name, f))) {
        const char *p = f->value;

        while (*p) {
            size_t n;

            p += strspn(p, ", \t");
            n = strcspn(p, ", \t");
            if (n && fn(p, n, ud))
                return true;
            p += n;
        }
    }
    return false;
}

static bool is_same(const char *token, size_t len, void *ud)
{
    const char *wanted = ud;

    return strlen(wanted) == len && strncasecmp(token, wanted, len) == 0;
}

bool http_head_has(const struct http_head *h, const char *name, const char *token)
{
    return http_head_each(h, name, is_same, (void *)(uintptr_t)token);
}
