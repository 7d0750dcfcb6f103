/* SPDX-License-Identifier: Apache-2.0 */
/* curl pushes, we pull: the multi handle is driven only while a reader wants bytes, and a transfer whose
 * bytes nobody has read yet is paused. */
#include "pull/http.h"

#include <netinet/in.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include <curl/curl.h>

#include "base/checked.h"
#include "base/limit.h"
#include "base/numparse.h"
#include "base/str.h"

#define BODY_HIGH (512U << 10) /* held back before the transfer is paused */
#define BODY_MAX (16U << 20)   /* what curl may deliver at once on top */
#define LOW_SPEED_BYTES 1024
#define AGENT "nexus-pull/" NEXUS_VERSION

struct http {
    CURLM *multi;               /* owned */
    CURL *easy;                 /* owned */
    struct curl_slist *headers; /* owned; of the transfer */
    struct http_settings set;
    struct http_response *head; /* borrowed while the head is awaited */
    struct buf body;
    size_t body_at;
    bool active, head_done, paused, done, plain_ok;
    CURLcode result;
    char text[CURL_ERROR_SIZE];
};

/* Link-local addresses hold the cloud's metadata services; no registry lives there. */
static bool is_link_local(const struct sockaddr *sa, size_t len)
{
    if (sa->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;

        memcpy(&in, sa, sizeof(in));
        return (ntohl(in.sin_addr.s_addr) >> 16) == 0xa9fe;
    }
    if (sa->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;

        memcpy(&in6, sa, sizeof(in6));
        return IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr);
    }
    return false;
}

static curl_socket_t on_open_socket(void *clientp, curlsocktype purpose, struct curl_sockaddr *a)
{
    if (purpose != CURLSOCKTYPE_IPCXN || is_link_local(&a->addr, a->addrlen))
        return CURL_SOCKET_BAD;
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static void copy_value(char *out, size_t size, const char *v, size_t len)
{
    size_t used = strlen(out);

    if (used && used + 2 < size) {
        memcpy(out + used, ", ", 3);
        used += 2;
    }
    if (len >= size - used)
        len = size - used - 1;
    memcpy(out + used, v, len);
    out[used + len] = '\0';
}

static void note_header(struct http_response *head, const char *name, size_t name_len,
                        const char *v, size_t len)
{
    char num[32] = "";
    uint64_t n;

    if (name_len == 12 && strncasecmp(name, "Content-Type", 12) == 0) {
        head->content_type[0] = '\0';
        copy_value(head->content_type, sizeof(head->content_type), v, len);
    } else if (name_len == 16 && strncasecmp(name, "WWW-Authenticate", 16) == 0) {
        copy_value(head->authenticate, sizeof(head->authenticate), v, len);
    } else if (name_len == 11 && strncasecmp(name, "Retry-After", 11) == 0) {
        copy_value(num, sizeof(num), v, len);
        head->retry_after_s = parse_u64(num, INT32_MAX, &n) == 0 ? (int64_t)n : -1;
    } else if (name_len == 13 && strncasecmp(name, "Content-Range", 13) == 0) {
        if (len > 6 && strncasecmp(v, "bytes ", 6) == 0) {
            copy_value(num, sizeof(num), v + 6, strcspn(v + 6, "-\r\n"));
            head->range_start = parse_u64(num, INT64_MAX, &n) == 0 ? n : UINT64_MAX;
        }
    }
}

static void head_clear(struct http_response *head)
{
    memset(head, 0, sizeof(*head));
    head->retry_after_s = -1;
    head->range_start = UINT64_MAX;
}

/* Every response of a chain of redirects comes by; the last one's headers stay. */
static size_t on_header(char *line, size_t size, size_t n, void *userdata)
{
    struct http *h = userdata;
    size_t len = size * n;
    char *colon = memchr(line, ':', len);
    const char *v, *end = line + len;

    if (!h->head)
        return len;
    if (len > 5 && memcmp(line, "HTTP/", 5) == 0) {
        head_clear(h->head);
        return len;
    }
    if (!colon)
        return len;
    for (v = colon + 1; v < end && (*v == ' ' || *v == '\t'); v++)
        ;
    while (end > v && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
        end--;
    note_header(h->head, line, (size_t)(colon - line), v, (size_t)(end - v));
    return len;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *userdata)
{
    struct http *h = userdata;

    h->head_done = true;
    if (h->body.used - h->body_at >= BODY_HIGH) {
        h->paused = true;
        return CURL_WRITEFUNC_PAUSE;
    }
    return buf_append(&h->body, bytes, size * n) < 0 ? 0 : size * n;
}

struct http *http_new(const struct http_settings *s)
{
    _cleanup_(http_freep) struct http *h = xcalloc(1, sizeof(*h));

    h->set = *s;
    buf_init(&h->body, BODY_MAX);
    h->multi = curl_multi_init();
    h->easy = curl_easy_init();
    return h->multi && h->easy ? TAKE(h) : NULL;
}

void http_close(struct http *h)
{
    if (h->active)
        (void)curl_multi_remove_handle(h->multi, h->easy);
    h->active = h->head_done = h->paused = h->done = false;
    h->head = NULL;
    curl_slist_free_all(h->headers);
    h->headers = NULL;
    buf_clear(&h->body);
    h->body_at = 0;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    if (h->multi && h->easy)
        http_close(h);
    curl_easy_cleanup(h->easy);
    (void)curl_multi_cleanup(h->multi);
    buf_done(&h->body);
    free(h);
}

#define SET(opt, value) r = r ? r : curl_easy_setopt(h->easy, opt, value)

static CURLcode set_policy(struct http *h, const struct http_request *req)
{
    const char *protocols = req->plain_http_ok ? "http,https" : "https";
    CURLcode r = CURLE_OK;

    SET(CURLOPT_PROTOCOLS_STR, protocols);
    SET(CURLOPT_REDIR_PROTOCOLS_STR, protocols);
    SET(CURLOPT_FOLLOWLOCATION, 1L);
    SET(CURLOPT_MAXREDIRS, (long)LIMIT_PULL_REDIRECTS);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_LOW_SPEED_LIMIT, (long)LOW_SPEED_BYTES);
    SET(CURLOPT_LOW_SPEED_TIME, (long)h->set.low_speed_s);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)h->set.connect_timeout_ms);
    /* only for speed; refused while the buffer of a request before is kept, as after a host without address */
    (void)curl_easy_setopt(h->easy, CURLOPT_BUFFERSIZE, 256L << 10);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (req->ca_pem) {
        struct curl_blob blob = {(void *)(uintptr_t)req->ca_pem, strlen(req->ca_pem),
                                 CURL_BLOB_COPY};
        SET(CURLOPT_CAINFO_BLOB, &blob);
    }
    return r;
}

static CURLcode set_request(struct http *h, const struct http_request *req)
{
    CURLcode r = CURLE_OK;
    char range[32];

    SET(CURLOPT_ERRORBUFFER, h->text);
    SET(CURLOPT_URL, req->url);
    SET(CURLOPT_USERAGENT, AGENT);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, h);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, h);
    if (req->user_pass) {
        SET(CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        SET(CURLOPT_USERPWD, req->user_pass);
    } else if (req->bearer) {
        SET(CURLOPT_HTTPAUTH, (long)CURLAUTH_BEARER);
        SET(CURLOPT_XOAUTH2_BEARER, req->bearer);
    }
    if (req->form) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_COPYPOSTFIELDS, req->form);
    }
    if (req->from) {
        (void)snprintf(range, sizeof(range), "%llu-", (unsigned long long)req->from);
        SET(CURLOPT_RANGE, range);
    }
    if (req->accept) {
        _cleanup_(freep) char *line = str_printf("Accept: %s", req->accept);

        h->headers = curl_slist_append(NULL, line);
        if (!h->headers)
            return CURLE_OUT_OF_MEMORY;
        SET(CURLOPT_HTTPHEADER, h->headers);
    }
    return r;
}

static bool is_http_url(const struct http *h)
{
    const char *url = NULL;

    (void)curl_easy_getinfo(h->easy, CURLINFO_EFFECTIVE_URL, &url);
    return url &&
           (str_starts(url, h->plain_ok ? "http://" : "https://") || str_starts(url, "https://"));
}

/* What curl says, in our classes. */
static int transport_error(struct http *h, struct error **err)
{
    const char *text = h->text[0] ? h->text : curl_easy_strerror(h->result);

    switch ((int)h->result) {
    case CURLE_TOO_MANY_REDIRECTS:
        return error_set(err, -ELOOP, "more than %d redirects", LIMIT_PULL_REDIRECTS);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
        if (is_http_url(h)) /* the address was fine: what came back is older than HTTP/1.0 */
            return error_set_class(err, ERROR_UNAVAILABLE, -EPROTO,
                                   "the registry does not speak HTTP: %s", text);
        return error_set_class(err, ERROR_DENIED, -EPROTO,
                               "the address (or a redirect) is not allowed: %s", text);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return error_set_class(err, ERROR_DENIED, -EACCES,
                               "the registry's certificate is not trusted: %s", text);
    case CURLE_OPERATION_TIMEDOUT:
        return error_set_class(err, ERROR_UNAVAILABLE, -ETIMEDOUT, "the registry is too slow: %s",
                               text);
    case CURLE_OUT_OF_MEMORY:
        return error_set(err, -ENOMEM, "out of memory, or a header without end");
    case CURLE_WRITE_ERROR:
        return error_set(err, -E2BIG, "the registry sends more than can be held");
    default:
        return error_set_class(err, ERROR_UNAVAILABLE, -ECONNRESET,
                               "the registry cannot be reached or broke off: %s", text);
    }
}

/* Lets curl work until something came or the transfer ended. */
static int drive(struct http *h, struct error **err)
{
    struct curl_waitfd extra = {.fd = h->set.stop_fd, .events = CURL_WAIT_POLLIN};
    unsigned n_extra = h->set.stop_fd >= 0 ? 1 : 0;
    int running, left;
    CURLMsg *m;

    if (curl_multi_perform(h->multi, &running) != CURLM_OK)
        return error_set(err, -EIO, "the transfer engine failed");
    while ((m = curl_multi_info_read(h->multi, &left))) {
        if (m->msg == CURLMSG_DONE) {
            h->done = true;
            h->result = m->data.result;
        }
    }
    if (h->done || h->paused || h->body.used > h->body_at)
        return 0;
    if (curl_multi_poll(h->multi, n_extra ? &extra : NULL, n_extra, 1000, NULL) != CURLM_OK)
        return error_set(err, -EIO, "the transfer engine failed");
    if (n_extra && extra.revents)
        return error_set(err, -ECANCELED, "the pull was given up");
    return 0;
}

int http_open(struct http *h, const struct http_request *req, struct http_response *ret,
              struct error **err)
{
    CURLcode r;

    http_close(h);
    curl_easy_reset(h->easy);
    head_clear(ret);
    h->text[0] = '\0';
    h->plain_ok = req->plain_http_ok;
    r = set_policy(h, req);
    if (r == CURLE_OK)
        r = set_request(h, req);
    if (r != CURLE_OK)
        return error_set(err, r == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EINVAL,
                         "cannot set up the request: %s", curl_easy_strerror(r));
    if (curl_multi_add_handle(h->multi, h->easy) != CURLM_OK)
        return error_set(err, -ENOMEM, "cannot start the request");
    h->active = true;
    h->head = ret;
    while (!h->head_done && !h->done) {
        int n = drive(h, err);

        if (n < 0) {
            http_close(h);
            return n;
        }
    }
    h->head = NULL;
    (void)curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &ret->status);
    if (h->done && h->result != CURLE_OK && !h->head_done) {
        int n = transport_error(h, err);

        http_close(h);
        return n;
    }
    return 0;
}

ssize_t http_read(struct http *h, void *buf, size_t len, struct error **err)
{
    size_t n;

    while (h->body_at == h->body.used) {
        int r;

        buf_clear(&h->body);
        h->body_at = 0;
        if (h->paused) {
            h->paused = false;
            (void)curl_easy_pause(h->easy, CURLPAUSE_CONT);
            continue;
        }
        if (!h->active || h->done)
            return h->active && h->result != CURLE_OK ? transport_error(h, err) : 0;
        r = drive(h, err);
        if (r < 0)
            return r;
    }
    n = min_of(len, h->body.used - h->body_at);
    memcpy(buf, h->body.data + h->body_at, n);
    h->body_at += n;
    return (ssize_t)n;
}

int http_read_all(struct http *h, struct buf *out, struct error **err)
{
    uint8_t chunk[8192];

    for (;;) {
        ssize_t n = http_read(h, chunk, sizeof(chunk), err);

        if (n <= 0)
            return (int)n;
        if (buf_append(out, chunk, (size_t)n) < 0)
            return error_set(err, -E2BIG, "the answer is larger than %zu bytes", out->max);
    }
}

int http_escape(struct buf *out, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        int r = plain ? buf_append(out, text, 1) : buf_printf(out, "%%%02X", c);

        if (r < 0)
            return r;
    }
    return 0;
}
