/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/registry.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/limit.h"
#include "base/str.h"
#include "oci/json.h"
#include "oci/manifest.h"
#include "pull/token.h"

#define ACCEPT_MANIFESTS \
    OCI_TYPE_INDEX ", " OCI_TYPE_MANIFEST ", " OCI_TYPE_DOCKER_LIST ", " OCI_TYPE_DOCKER_MANIFEST
#define AUTH_ROUNDS 2 /* a fresh token that is refused again is a no */
#define BACKOFF_MAX_MS 15000
#define ERROR_BODY_BYTES 4096

struct registry {
    const struct pull_request *req; /* borrowed */
    int stop_fd;                    /* borrowed */
    pthread_mutex_t lock;           /* of what follows */
    char *tokens[PULL_ENDPOINTS];   /* owned; bearer tokens */
    bool basic[PULL_ENDPOINTS];     /* the endpoint wants Basic */
    size_t good;                    /* endpoint that served last: asked first */
};

struct registry *registry_new(const struct pull_request *req, int stop_fd)
{
    struct registry *g = xcalloc(1, sizeof(*g));

    g->req = req;
    g->stop_fd = stop_fd;
    (void)pthread_mutex_init(&g->lock, NULL);
    for (size_t i = 0; i < req->n_endpoints; i++)
        if (req->registry_token && req->endpoints[i].credentials)
            g->tokens[i] = str_dup(req->registry_token);
    return g;
}

void registry_free(struct registry *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < PULL_ENDPOINTS; i++) {
        if (g->tokens[i])
            explicit_bzero(g->tokens[i], strlen(g->tokens[i]));
        free(g->tokens[i]);
    }
    (void)pthread_mutex_destroy(&g->lock);
    free(g);
}

/* One object being asked for, over all its tries. */
struct ask {
    struct registry *g;
    struct http *h;
    const char *path; /* "manifests/latest" */
    const char *accept;
    uint64_t from;  /* bytes already had */
    unsigned tries; /* used up */
    size_t endpoint;
    unsigned auth_rounds;
};

/* ---- waiting ---- */

static int wait_ms(struct registry *g, uint64_t ms, struct error **err)
{
    struct pollfd p = {.fd = g->stop_fd, .events = POLLIN};
    uint64_t end = clock_mono_ns() + ms * 1000000, now;

    while ((now = clock_mono_ns()) < end) {
        int n = poll(&p, 1, (int)((end - now) / 1000000 + 1));

        if (n > 0)
            return error_set(err, -ECANCELED, "the pull was given up");
    }
    return 0;
}

/* base · 2^tries, between half of it and all of it. */
static uint64_t backoff_ms(const struct ask *a)
{
    uint64_t ms = (uint64_t)a->g->req->retry_base_ms << min_of(a->tries, 10U);
    uint64_t dice;

    random_bytes(&dice, sizeof(dice));
    ms = min_of(ms, (uint64_t)BACKOFF_MAX_MS);
    return ms / 2 + dice % (ms / 2 + 1);
}

/* ---- authentication ---- */

static int answer_challenge(struct ask *a, const char *header, struct error **err)
{
    const struct pull_endpoint *e = &a->g->req->endpoints[a->endpoint];
    struct oci_challenge ch;
    char *token = NULL;
    int r;

    if (a->auth_rounds++ >= AUTH_ROUNDS)
        return error_set(err, -EACCES, "access is denied (HTTP 401 with credentials)");
    r = oci_challenge_parse(header, &ch);
    if (r < 0)
        return error_set(err, -EACCES, "access is denied, and the registry's challenge is %s",
                         r == -EOPNOTSUPP ? "of a scheme we do not speak" : "not understood");
    if (ch.scheme == OCI_AUTH_BASIC) {
        r = e->credentials && a->g->req->user_pass && a->auth_rounds == 1
                ? 0
                : error_set(err, -EACCES, "access is denied (HTTP 401): %s",
                            e->credentials && a->g->req->user_pass ? "wrong credentials"
                                                                   : "no credentials");
    } else {
        r = token_fetch(a->h, a->g->req, e, &ch, &token, err);
    }
    if (r == 0) {
        (void)pthread_mutex_lock(&a->g->lock);
        a->g->basic[a->endpoint] = ch.scheme == OCI_AUTH_BASIC;
        free(a->g->tokens[a->endpoint]);
        a->g->tokens[a->endpoint] = token;
        (void)pthread_mutex_unlock(&a->g->lock);
    }
    oci_challenge_done(&ch);
    return r;
}

/* ---- one try ---- */

static int send_request(struct ask *a, struct http_response *head, struct error **err)
{
    const struct pull_request *req = a->g->req;
    const struct pull_endpoint *e = &req->endpoints[a->endpoint];
    _cleanup_(freep) char *url =
        str_printf("%s/v2/%s/%s", e->url, req->reference.repository, a->path);
    _cleanup_(freep) char *token = NULL;
    struct http_request hr = {.url = url,
                              .plain_http_ok = str_starts(e->url, "http://"),
                              .accept = a->accept,
                              .from = a->from,
                              .ca_pem = e->ca_pem};

    (void)pthread_mutex_lock(&a->g->lock);
    token = str_dup_or_null(a->g->tokens[a->endpoint]);
    if (a->g->basic[a->endpoint])
        hr.user_pass = req->user_pass;
    (void)pthread_mutex_unlock(&a->g->lock);
    hr.bearer = token;
    return http_open(a->h, &hr, head, err);
}

/* The registry's own words, if they are words: errors[0].message. */
static void read_reason(struct http *h, char out[200])
{
    _cleanup_(buf_done) struct buf body;
    const char *text = NULL;
    json_t *root;

    out[0] = '\0';
    buf_init(&body, ERROR_BODY_BYTES);
    if (http_read_all(h, &body, NULL) < 0 ||
        oci_json_parse(body.data, body.used, ERROR_BODY_BYTES, "", &root, NULL) < 0)
        return;
    (void)oci_json_str(json_array_get(json_object_get(root, "errors"), 0), "message", &text, NULL);
    if (text && str_is_clean(text, strlen(text)))
        (void)snprintf(out, 200, ": %.180s", text);
    json_decref(root);
}

enum verdict { SERVED, AGAIN, NEXT_ENDPOINT, GIVE_UP };

static enum verdict judge_status(struct ask *a, const struct http_response *head,
                                 struct error **err, int *ret_r, uint64_t *ret_wait_ms)
{
    char reason[200];

    if (head->status == 200 || (head->status == 206 && a->from))
        return SERVED;
    if (head->status == 401) {
        *ret_r = answer_challenge(a, head->authenticate, err);
        *ret_wait_ms = 0;
        return *ret_r == 0 ? AGAIN : *ret_r == -ECANCELED ? GIVE_UP : NEXT_ENDPOINT;
    }
    read_reason(a->h, reason);
    if (head->status == 404) {
        *ret_r = error_set(err, -ENOENT, "the registry does not have it (HTTP 404)%s", reason);
        return NEXT_ENDPOINT;
    }
    if (head->status == 403) {
        *ret_r = error_set(err, -EACCES, "access is denied (HTTP 403)%s", reason);
        return NEXT_ENDPOINT;
    }
    if (head->status == 429 || head->status >= 500 || head->status == 408) {
        if (head->retry_after_s >= 0)
            *ret_wait_ms =
                (uint64_t)min_of(head->retry_after_s, (int64_t)LIMIT_PULL_RETRY_AFTER_S) * 1000;
        a->tries++;
        *ret_r = error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN,
                                 "the registry answers HTTP %ld%s%s", head->status,
                                 head->status == 429 ? " (too many requests)" : "", reason);
        return a->tries < LIMIT_PULL_TRIES ? AGAIN : NEXT_ENDPOINT;
    }
    *ret_r = error_set_class(err, ERROR_INTERNAL, -EPROTO, "the registry answers HTTP %ld%s",
                             head->status, reason);
    return GIVE_UP;
}

static enum verdict judge_failure(struct ask *a, const struct error *e, int r)
{
    if (r == -ECANCELED || error_class_of(e, r) != ERROR_UNAVAILABLE)
        return error_class_of(e, r) == ERROR_DENIED ? NEXT_ENDPOINT : GIVE_UP;
    a->tries++;
    return a->tries < LIMIT_PULL_TRIES ? AGAIN : NEXT_ENDPOINT;
}

/* Tries one endpoint until it serves (0) or this endpoint is done with. *ret_next: another one may be
 * asked. */
static int ask_endpoint(struct ask *a, struct http_response *head, bool *ret_next,
                        struct error **err)
{
    for (;;) {
        _cleanup_(error_freep) struct error *e = NULL;
        uint64_t ms = backoff_ms(a);
        enum verdict v;
        int r = send_request(a, head, &e);

        v = r < 0 ? judge_failure(a, e, r) : judge_status(a, head, &e, &r, &ms);
        if (v == SERVED)
            return 0;
        http_close(a->h);
        *ret_next = v == NEXT_ENDPOINT;
        if (v == GIVE_UP || v == NEXT_ENDPOINT) {
            if (err && !*err)
                *err = TAKE(e);
            return r;
        }
        r = wait_ms(a->g, ms, err);
        if (r < 0)
            return r;
    }
}

static size_t first_endpoint(struct registry *g)
{
    size_t n;

    (void)pthread_mutex_lock(&g->lock);
    n = g->good;
    (void)pthread_mutex_unlock(&g->lock);
    return n;
}

static void remember_endpoint(struct registry *g, size_t n)
{
    (void)pthread_mutex_lock(&g->lock);
    g->good = n;
    (void)pthread_mutex_unlock(&g->lock);
}

/* Opens the transfer at a->from. The error of the last endpoint asked is the one reported, unless it only
 * says that it does not have the object while another could not be asked. */
static int ask_open(struct ask *a, struct http_response *head, struct error **err)
{
    size_t n = a->g->req->n_endpoints, first = first_endpoint(a->g);
    _cleanup_(error_freep) struct error *kept = NULL;
    int r = -ENOENT, kept_r = -ENOENT;

    for (size_t i = 0; i < n; i++) {
        _cleanup_(error_freep) struct error *e = NULL;
        bool next = false;

        a->endpoint = (first + i) % n;
        a->auth_rounds = 0;
        if (i > 0)
            a->tries = 0;
        r = ask_endpoint(a, head, &next, &e);
        if (r == 0) {
            remember_endpoint(a->g, a->endpoint);
            return 0;
        }
        if (!kept || r != -ENOENT) {
            error_free(kept);
            kept = TAKE(e);
            kept_r = r;
        }
        if (!next)
            break;
    }
    if (err && !*err)
        *err = TAKE(kept);
    return kept_r;
}

int registry_manifest(struct registry *g, struct http *h, const char *name, struct buf *out,
                      char **ret_type, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("manifests/%s", name);
    struct ask a = {.g = g, .h = h, .path = path, .accept = ACCEPT_MANIFESTS};

    for (;;) {
        _cleanup_(error_freep) struct error *e = NULL;
        struct http_response head;
        int r = ask_open(&a, &head, err);

        if (r < 0)
            return r;
        buf_clear(out);
        r = http_read_all(h, out, &e);
        http_close(h);
        if (r == 0) {
            *ret_type = str_dup(head.content_type);
            return 0;
        }
        if (error_class_of(e, r) != ERROR_UNAVAILABLE || ++a.tries >= LIMIT_PULL_TRIES) {
            if (err)
                *err = TAKE(e);
            return r;
        }
        r = wait_ms(g, backoff_ms(&a), err);
        if (r < 0)
            return r;
    }
}

/* ---- blobs ---- */

struct blob_source {
    struct source base;
    struct ask ask;
    char *path;          /* owned */
    uint64_t size, seen; /* bytes */
    uint64_t skip;       /* of a server that does not resume: bytes to pass over */
    bool open;
};

static int blob_open(struct blob_source *b, struct error **err)
{
    struct http_response head;
    int r;

    b->ask.from = b->seen;
    r = ask_open(&b->ask, &head, err);
    if (r < 0)
        return r;
    b->skip = 0;
    if (b->seen && head.status == 200)
        b->skip = b->seen; /* from the start again: the same bytes, or the digest will tell */
    else if (b->seen && head.range_start != b->seen)
        return error_set(err, -EBADMSG, "the registry resumes at the wrong byte");
    b->open = true;
    return 0;
}

/* Reads and passes over what is to be skipped. */
static ssize_t blob_read_open(struct blob_source *b, void *buf, size_t len, struct error **err)
{
    for (;;) {
        ssize_t n =
            http_read(b->ask.h, buf, b->skip ? (size_t)min_of(b->skip, (uint64_t)len) : len, err);

        if (n <= 0 || !b->skip)
            return n;
        b->skip -= (uint64_t)n;
    }
}

static ssize_t blob_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct blob_source *b = container_of(s, struct blob_source, base);

    for (;;) {
        _cleanup_(error_freep) struct error *e = NULL;
        ssize_t n = b->open ? 0 : blob_open(b, err);

        if (n < 0)
            return n;
        n = blob_read_open(b, buf, len, &e);
        if (n > 0) {
            if (b->seen / (1U << 20) != (b->seen + (uint64_t)n) / (1U << 20))
                b->ask.tries = 0; /* it moves: the tries are for standing still */
            b->seen += (uint64_t)n;
            return n;
        }
        if (n == 0 && b->seen >= b->size)
            return 0;
        http_close(b->ask.h);
        b->open = false;
        if (n < 0 && error_class_of(e, (int)n) != ERROR_UNAVAILABLE) {
            if (err)
                *err = TAKE(e);
            return n;
        }
        if (++b->ask.tries >= LIMIT_PULL_TRIES)
            return error_set_class(err, ERROR_UNAVAILABLE, -ECONNRESET,
                                   "the transfer broke off after %" PRIu64 " of %" PRIu64
                                   " bytes, %d times; at last: %s",
                                   b->seen, b->size, LIMIT_PULL_TRIES,
                                   n < 0 ? error_text(e, (int)n) : "it ended early");
        n = wait_ms(b->ask.g, backoff_ms(&b->ask), err);
        if (n < 0)
            return n;
    }
}

static void blob_free(struct source *s)
{
    struct blob_source *b = container_of(s, struct blob_source, base);

    http_close(b->ask.h);
    free(b->path);
    free(b);
}

struct source *registry_blob(struct registry *g, struct http *h, const struct oci_digest *digest,
                             uint64_t size)
{
    struct blob_source *b = xcalloc(1, sizeof(*b));

    b->base = (struct source){blob_read, blob_free};
    b->path = str_printf("blobs/" OCI_DIGEST_PREFIX "%s", digest->hex);
    b->ask = (struct ask){.g = g, .h = h, .path = b->path};
    b->size = size;
    return &b->base;
}
