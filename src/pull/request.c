/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/request.h"

#include <string.h>

#include <openssl/evp.h>

#include "base/str.h"
#include "oci/json.h"

static void wipe_free(char *secret)
{
    if (secret)
        explicit_bzero(secret, strlen(secret));
    free(secret);
}

void pull_request_done(struct pull_request *r)
{
    oci_reference_done(&r->reference);
    free(r->tag);
    free(r->architecture);
    for (size_t i = 0; i < r->n_endpoints; i++) {
        free(r->endpoints[i].url);
        free(r->endpoints[i].ca_pem);
    }
    wipe_free(r->user_pass);
    wipe_free(r->identity_token);
    wipe_free(r->registry_token);
    strv_free(r->doubtful);
    memset(r, 0, sizeof(*r));
}

static bool has_text(const char *s)
{
    return s && *s;
}

/* A header is made of it: printable ASCII only. */
static bool is_header_safe(const char *s)
{
    for (; *s; s++)
        if (*s < 0x21 || *s > 0x7e)
            return false;
    return true;
}

/* base64 of "user:password", as docker's config has it. */
static int decode_auth(const char *text, char **ret, struct error **err)
{
    size_t n = strlen(text), pad = 0;
    unsigned char *out;
    int len;

    if (n == 0 || n % 4 || n > 65536)
        return error_set(err, -EINVAL, "auth is no base64");
    while (pad < 2 && text[n - 1 - pad] == '=')
        pad++;
    out = xcalloc(1, n);
    len = EVP_DecodeBlock(out, (const unsigned char *)text, (int)n);
    if (len < (int)pad || memchr(out, 0, (size_t)len - pad) ||
        !memchr(out, ':', (size_t)len - pad)) {
        explicit_bzero(out, n);
        free(out);
        return error_set(err, -EINVAL, "auth is no base64 of user:password");
    }
    out[(size_t)len - pad] = '\0';
    *ret = (char *)out;
    return 0;
}

static int auth_parse(const json_t *auth, struct pull_request *r, struct error **err)
{
    const char *user, *pass, *both, *identity, *registry;
    int n;

    if (!auth || json_is_null(auth))
        return 0;
    if (!json_is_object(auth))
        return error_set(err, -EINVAL, "auth is no object");
    if ((n = oci_json_str(auth, "username", &user, err)) < 0 ||
        (n = oci_json_str(auth, "password", &pass, err)) < 0 ||
        (n = oci_json_str(auth, "auth", &both, err)) < 0 ||
        (n = oci_json_str(auth, "identity_token", &identity, err)) < 0 ||
        (n = oci_json_str(auth, "registry_token", &registry, err)) < 0)
        return n;
    if (has_text(registry) && !is_header_safe(registry))
        return error_set(err, -EINVAL, "the registry token has bytes no token has");
    if (has_text(registry))
        r->registry_token = str_dup(registry);
    if (has_text(identity))
        r->identity_token = str_dup(identity);
    if (has_text(user) && strchr(user, ':'))
        return error_set(err, -EINVAL, "the user name contains a colon");
    if (has_text(user) || has_text(pass))
        r->user_pass = str_printf("%s:%s", user ? user : "", pass ? pass : "");
    else if (has_text(both))
        return decode_auth(both, &r->user_pass, err);
    return 0;
}

static int endpoint_parse(const json_t *obj, struct pull_endpoint *e, struct error **err)
{
    const char *url, *pem;
    size_t n;
    int r;

    if (!json_is_object(obj))
        return error_set(err, -EINVAL, "an endpoint is no object");
    if ((r = oci_json_str(obj, "url", &url, err)) < 0 ||
        (r = oci_json_str(obj, "ca_pem", &pem, err)) < 0)
        return r;
    if (!url || (!str_starts(url, "https://") && !str_starts(url, "http://")) ||
        strpbrk(url, "@?# \t\r\n"))
        return error_set(err, -EINVAL, "an endpoint is no plain http or https address");
    n = strlen(url);
    while (url[n - 1] == '/')
        n--;
    e->url = str_ndup(url, n);
    e->ca_pem = has_text(pem) ? str_dup(pem) : NULL;
    e->credentials = json_is_true(json_object_get(obj, "credentials"));
    return 0;
}

static int endpoints_parse(const json_t *list, struct pull_request *r, struct error **err)
{
    size_t n = json_array_size(list);

    if (n > PULL_ENDPOINTS)
        return error_set(err, -EINVAL, "more than %d endpoints", PULL_ENDPOINTS);
    for (size_t i = 0; i < n; i++) {
        int k = endpoint_parse(json_array_get(list, i), &r->endpoints[i], err);

        if (k < 0)
            return k;
        r->n_endpoints = i + 1;
    }
    return 0;
}

static int number(const json_t *root, const char *key, uint64_t min, uint64_t max, uint32_t def,
                  uint32_t *ret, struct error **err)
{
    uint64_t n = def;
    int r = oci_json_u64(root, key, min, max, &n, err);

    *ret = (uint32_t)n;
    return r == -ENOENT ? 0 : r;
}

static int where_parse(const json_t *root, struct pull_request *r, struct error **err)
{
    uint32_t layout;
    int n = number(root, "layout", 3, 1023, 0, &layout, err);

    if (n < 0)
        return n;
    r->layout_fd = layout ? (int)layout : -EBADF;
    n = endpoints_parse(json_object_get(root, "endpoints"), r, err);
    if (n < 0)
        return n;
    if (r->layout_fd < 0 && r->n_endpoints == 0)
        return error_set(err, -EINVAL, "neither endpoints nor a layout");
    return 0;
}

static int request_parse(const json_t *root, struct pull_request *r, struct error **err)
{
    const char *reference, *tag, *arch;
    int n;

    if ((n = oci_json_str(root, "reference", &reference, err)) < 0 ||
        (n = oci_json_str(root, "tag", &tag, err)) < 0 ||
        (n = oci_json_str(root, "architecture", &arch, err)) < 0)
        return n;
    if (!tag || strspn(tag, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(tag) || !*tag ||
        strlen(tag) > 32)
        return error_set(err, -EINVAL, "no usable tag");
    r->tag = str_dup(tag);
    r->architecture = str_dup(has_text(arch) ? arch : "amd64");
    if ((n = oci_reference_parse(reference ? reference : "", &r->reference, err)) < 0 ||
        (n = where_parse(root, r, err)) < 0 ||
        (n = number(root, "concurrency", 1, PULL_CONCURRENCY_MAX, 3, &r->concurrency, err)) < 0 ||
        (n = number(root, "retry_base_ms", 1, 60000, 500, &r->retry_base_ms, err)) < 0 ||
        (n = number(root, "low_speed_s", 1, 3600, 60, &r->low_speed_s, err)) < 0 ||
        (n = oci_json_strv(root, "doubtful", PULL_DOUBTFUL_MAX, &r->doubtful, err)) < 0)
        return n;
    return auth_parse(json_object_get(root, "auth"), r, err);
}

int pull_request_parse(const void *bytes, size_t len, struct pull_request *ret, struct error **err)
{
    struct pull_request req = {.layout_fd = -EBADF};
    json_t *root;
    int r;

    r = oci_json_parse(bytes, len, PULL_REQUEST_BYTES, "the pull request", &root, err);
    if (r < 0)
        return r;
    r = request_parse(root, &req, err);
    json_decref(root);
    if (r < 0) {
        pull_request_done(&req);
        return r;
    }
    *ret = req;
    return 0;
}
