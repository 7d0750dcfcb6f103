/* SPDX-License-Identifier: Apache-2.0 */
/* One HTTP GET or POST at a time over libcurl, its body read as a stream. One object per thread.
 *
 * Policy, the same for every request: https only unless the endpoint is configured as plain http (then a
 * redirect may go to either), at most LIMIT_PULL_REDIRECTS redirects, certificates verified, credentials
 * through curl's own options so that they stay with their host, no transfer below 1 KiB/s for long,
 * never to a link-local address. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/error.h"

struct http;
struct http_settings {
    uint32_t low_speed_s; /* under 1 KiB/s for so long: ended */
    uint32_t connect_timeout_ms;
    int stop_fd; /* readable: give up with -ECANCELED; -EBADF: none. Borrowed */
};

/* NULL without memory. s is copied. */
struct http *http_new(const struct http_settings *s);
void http_free(struct http *h);
DEFINE_CLEANUP(struct http *, http_free);

struct http_request {
    const char *url;
    bool plain_http_ok;
    const char *accept;    /* header lines' value, or NULL */
    const char *user_pass; /* "user:password" for Basic, or NULL */
    const char *bearer;    /* token, or NULL */
    const char *form;      /* body of a POST, application/x-www-form-urlencoded; NULL: GET */
    uint64_t from;         /* ask for the bytes from here on */
    const char *ca_pem;    /* NULL: the system's */
};

struct http_response {
    long status;
    char content_type[256];
    char authenticate[8193]; /* WWW-Authenticate, the values joined with ", " */
    uint64_t range_start;    /* of a 206 */
    int64_t retry_after_s;   /* -1: none */
};

/* Sends the request and waits for the final response's head; the body follows with http_read. Ends a
 * transfer that was going on. Classes of errors: unavailable (may be tried again), denied (certificate,
 * protocol), invalid (too many redirects), cancelled. */
int http_open(struct http *h, const struct http_request *req, struct http_response *ret,
              struct error **err);
/* Bytes of the body; 0 at its end; an errno as above: it ended early. */
ssize_t http_read(struct http *h, void *buf, size_t len, struct error **err);
/* The whole body into out (whose max holds: -E2BIG). */
int http_read_all(struct http *h, struct buf *out, struct error **err);
void http_close(struct http *h);

/* text percent-encoded for a query or form, appended to out. */
int http_escape(struct buf *out, const char *text);
