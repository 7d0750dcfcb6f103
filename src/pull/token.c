/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/token.h"

#include <string.h>
#include <strings.h>

#include <curl/curl.h>

#include "base/limit.h"
#include "base/str.h"
#include "oci/json.h"

#define TOKEN_MAX 16384
#define CLIENT_ID "nexus-pull"

/* The host of a URL, lower-case by curl; NULL: not a URL. The caller frees with curl_free. */
static char *url_host(const char *url)
{
    CURLU *u = curl_url();
    char *host = NULL;

    if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK)
        (void)curl_url_get(u, CURLUPART_HOST, &host, 0);
    curl_url_cleanup(u);
    return host;
}

/* host, or a name below the domain that registry is in ("registry-1.docker.io" is in "docker.io"). */
static bool same_site(const char *registry, const char *host)
{
    const char *domain = strchr(registry, '.');
    size_t d, n = strlen(host);

    if (strcasecmp(registry, host) == 0)
        return true;
    if (registry[0] == '[' || strspn(registry, "0123456789.") == strlen(registry))
        return false; /* an address is in no domain */
    if (!domain || !strchr(domain + 1, '.'))
        domain = registry; /* "ghcr.io" itself is the domain */
    else
        domain++;
    if (!strchr(domain, '.'))
        return false;
    d = strlen(domain);
    return (n == d && strcasecmp(host, domain) == 0) ||
           (n > d && host[n - d - 1] == '.' && strcasecmp(host + n - d, domain) == 0);
}

bool token_realm_is_trusted(const char *endpoint_url, const char *realm)
{
    bool plain_ok = str_starts(endpoint_url, "http://");
    char *from, *to;
    bool ok;

    if (!str_starts(realm, "https://") && !(plain_ok && str_starts(realm, "http://")))
        return false;
    from = url_host(endpoint_url);
    to = url_host(realm);
    ok = from && to && same_site(from, to);
    curl_free(from);
    curl_free(to);
    return ok;
}

/* key=value, the value escaped. */
static int add_param(struct buf *b, char sep, const char *key, const char *value)
{
    int r;

    if (!value)
        return 0;
    r = buf_printf(b, "%c%s=", sep, key);
    return r < 0 ? r : http_escape(b, value);
}

/* The scope is ours: the registry's wish could ask for more than reading this repository. */
static int build_query(const struct pull_request *req, const struct oci_challenge *ch, bool post,
                       struct buf *b)
{
    _cleanup_(freep) char *scope = str_printf("repository:%s:pull", req->reference.repository);
    int r = 0;

    if (!post)
        r = buf_printf(b, "%s", ch->realm);
    if (r == 0)
        r = add_param(b, post ? 'x' : (strchr(ch->realm, '?') ? '&' : '?'), "scope", scope);
    if (r == 0)
        r = add_param(b, '&', "service", ch->service);
    if (r == 0 && post)
        r = add_param(b, '&', "grant_type", "refresh_token");
    if (r == 0 && post)
        r = add_param(b, '&', "client_id", CLIENT_ID);
    if (r == 0 && post)
        r = add_param(b, '&', "refresh_token", req->identity_token);
    return r < 0 ? r : buf_append(b, "", 1);
}

static int token_parse(const struct buf *body, char **ret, struct error **err)
{
    const char *token, *access;
    json_t *root;
    size_t n;
    int r = oci_json_parse(body->data, body->used, LIMIT_PULL_TOKEN_BYTES, "the token answer",
                           &root, err);

    if (r < 0)
        return r;
    r = oci_json_str(root, "token", &token, err);
    if (r == 0)
        r = oci_json_str(root, "access_token", &access, err);
    if (r == 0) {
        token = token && *token ? token : access;
        n = token ? strlen(token) : 0;
        if (n == 0 || n > TOKEN_MAX ||
            strspn(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrs"
                          "tuvwxyz0123456789-._~+/=") != n)
            r = error_set(err, -EBADMSG, "the token answer holds no usable token");
        else
            *ret = str_dup(token);
    }
    json_decref(root);
    return r;
}

static int ask(struct http *h, const struct http_request *hr, struct buf *body, struct error **err)
{
    struct http_response head;
    int r = http_open(h, hr, &head, err);

    if (r < 0)
        return r;
    if (head.status == 401 || head.status == 403 || head.status == 400)
        r = error_set(err, -EACCES, "access is denied (token service, HTTP %ld)", head.status);
    else if (head.status != 200)
        r = error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN, "the token service answers HTTP %ld",
                            head.status);
    else
        r = http_read_all(h, body, err);
    http_close(h);
    return r;
}

int token_fetch(struct http *h, const struct pull_request *req,
                const struct pull_endpoint *endpoint, const struct oci_challenge *challenge,
                char **ret, struct error **err)
{
    bool plain_ok = str_starts(endpoint->url, "http://");
    bool trusted = endpoint->credentials && token_realm_is_trusted(endpoint->url, challenge->realm);
    bool post = trusted && req->identity_token;
    _cleanup_(buf_done) struct buf query, body;
    struct http_request hr = {.plain_http_ok = plain_ok, .ca_pem = endpoint->ca_pem};
    int r;

    buf_init(&query, 256U << 10);
    buf_init(&body, LIMIT_PULL_TOKEN_BYTES);
    if (build_query(req, challenge, post, &query) < 0)
        return error_set(err, -EBADMSG, "the registry's challenge is too long");
    hr.url = post ? challenge->realm : (const char *)query.data;
    hr.form = post ? (const char *)query.data + 1 : NULL;
    if (trusted && !post)
        hr.user_pass = req->user_pass;
    r = ask(h, &hr, &body, err);
    if (r == 0)
        r = token_parse(&body, ret, err);
    if (body.used)
        explicit_bzero(body.data, body.used);
    if (query.used)
        explicit_bzero(query.data, query.used);
    if (r < 0 && endpoint->credentials && !trusted && (req->user_pass || req->identity_token))
        return error_prefix(
            err, r, "credentials are not sent to the foreign token service '%.200s'",
            str_is_clean(challenge->realm, strlen(challenge->realm)) ? challenge->realm : "?");
    return r;
}
