/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/reference.h"

#include <string.h>

#include "base/limit.h"
#include "base/numparse.h"
#include "base/str.h"

#define NAME_MAX_BYTES 255 /* host and repository together */
#define TAG_MAX_BYTES 128
#define DEFAULT_HOST "docker.io"
#define LOWER_ALNUM "abcdefghijklmnopqrstuvwxyz0123456789"
#define ALNUM LOWER_ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

static bool contains_any(const char *s, size_t len, const char *set)
{
    return strcspn(s, set) < len;
}

/* The first part is a host if nothing in a repository looks like it. */
static bool looks_like_host(const char *s, size_t len)
{
    return contains_any(s, len, ".:") || contains_any(s, len, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") ||
           (len == 9 && strncmp(s, "localhost", 9) == 0);
}

static bool port_is_valid(const char *s)
{
    uint32_t port;

    return parse_u32(s, 65535, &port) == 0 && port > 0;
}

/* [hex and colons], a form of address that curl checks again. Returns what follows, or NULL. */
static const char *skip_bracketed(const char *s)
{
    size_t n = strspn(s + 1, "0123456789abcdefABCDEF:.");

    return n >= 2 && s[1 + n] == ']' ? s + n + 2 : NULL;
}

/* Labels of letters, digits and inner hyphens, joined by dots. Returns what follows, or NULL. */
static const char *skip_labels(const char *s)
{
    for (;;) {
        size_t n = strspn(s, ALNUM "-");

        if (n == 0 || s[0] == '-' || s[n - 1] == '-')
            return NULL;
        s += n;
        if (*s != '.')
            return s;
        s++;
    }
}

static bool host_is_valid(const char *host)
{
    const char *rest = host[0] == '[' ? skip_bracketed(host) : skip_labels(host);

    if (!rest)
        return false;
    return *rest == '\0' || (*rest == ':' && port_is_valid(rest + 1));
}

/* Components of [a-z0-9] runs joined by one '.', one or two '_', or any number of '-'. */
static bool repository_is_valid(const char *s)
{
    for (;;) {
        size_t n = strspn(s, LOWER_ALNUM);

        if (n == 0)
            return false;
        s += n;
        if (*s == '\0')
            return true;
        if (*s == '/' || *s == '.')
            s++;
        else if (*s == '_')
            s += s[1] == '_' ? 2 : 1;
        else if (*s == '-')
            s += strspn(s, "-");
        else
            return false;
    }
}

static bool tag_is_valid(const char *s)
{
    size_t n = strlen(s);

    return n > 0 && n <= TAG_MAX_BYTES && strspn(s, ALNUM "_.-") == n && s[0] != '.' && s[0] != '-';
}

/* Cuts "@digest" and ":tag" off name (in place). */
static int split_suffixes(char *name, char **ret_tag, struct oci_digest *ret_digest,
                          struct error **err)
{
    char *at = strchr(name, '@');
    char *slash, *colon;
    int r;

    *ret_tag = NULL;
    if (at) {
        *at = '\0';
        r = oci_digest_parse(at + 1, ret_digest);
        if (r < 0)
            return error_set(err, r, "the digest is not sha256: and 64 lower-case hex digits");
    }
    slash = strrchr(name, '/');
    colon = strrchr(name, ':');
    if (colon && (!slash || colon > slash)) {
        *colon = '\0';
        *ret_tag = colon + 1;
        if (!tag_is_valid(*ret_tag))
            return error_set(err, -EINVAL, "the tag is not valid");
    }
    return 0;
}

static int split_host(const char *name, struct oci_reference *ref, struct error **err)
{
    const char *slash = strchr(name, '/');

    if (slash && looks_like_host(name, (size_t)(slash - name))) {
        ref->host = str_ndup(name, (size_t)(slash - name));
        ref->repository = str_dup(slash + 1);
    } else {
        ref->host = str_dup(DEFAULT_HOST);
        ref->repository = str_dup(name);
    }
    if (!host_is_valid(ref->host))
        return error_set(err, -EINVAL, "the registry host is not valid");
    if (strcmp(ref->host, "index.docker.io") == 0) {
        free(ref->host);
        ref->host = str_dup(DEFAULT_HOST);
    }
    if (!repository_is_valid(ref->repository))
        return error_set(err, -EINVAL,
                         "the repository must be lower-case words joined by '/', '.', '_' or '-'");
    if (strcmp(ref->host, DEFAULT_HOST) == 0 && !strchr(ref->repository, '/')) {
        char *longer = str_printf("library/%s", ref->repository);
        free(ref->repository);
        ref->repository = longer;
    }
    if (strlen(ref->host) + 1 + strlen(ref->repository) > NAME_MAX_BYTES)
        return error_set(err, -EINVAL, "the name is longer than %d bytes", NAME_MAX_BYTES);
    return 0;
}

static int parse(char *name, struct oci_reference *ref, struct error **err)
{
    char *tag;
    int r;

    r = split_suffixes(name, &tag, &ref->digest, err);
    if (r < 0)
        return r;
    if (oci_hex_is_valid(name))
        return error_set(err, -EINVAL, "64 hex digits are an image id, not a name");
    r = split_host(name, ref, err);
    if (r < 0)
        return r;
    if (!oci_digest_is_set(&ref->digest))
        ref->tag = str_dup(tag ? tag : "latest");
    return 0;
}

int oci_reference_parse(const char *text, struct oci_reference *ret, struct error **err)
{
    struct oci_reference ref = {0};
    char *name;
    int r;

    if (!*text)
        return error_set(err, -EINVAL, "the image reference is empty");
    if (strnlen(text, LIMIT_REFERENCE_BYTES + 1) > LIMIT_REFERENCE_BYTES)
        return error_set(err, -EINVAL, "the image reference is too long");
    name = str_dup(text);
    r = parse(name, &ref, err);
    free(name);
    if (r < 0) {
        oci_reference_done(&ref);
        return error_prefix(err, r, "image reference '%.300s'",
                            str_is_clean(text, strlen(text)) ? text : "(unprintable)");
    }
    *ret = ref;
    return 0;
}

void oci_reference_done(struct oci_reference *ref)
{
    free(ref->host);
    free(ref->repository);
    free(ref->tag);
    memset(ref, 0, sizeof(*ref));
}

char *oci_reference_name(const struct oci_reference *ref)
{
    return str_printf("%s/%s", ref->host, ref->repository);
}

char *oci_reference_text(const struct oci_reference *ref)
{
    if (oci_digest_is_set(&ref->digest))
        return oci_reference_with_digest(ref, &ref->digest);
    return str_printf("%s/%s:%s", ref->host, ref->repository, ref->tag);
}

char *oci_reference_with_digest(const struct oci_reference *ref, const struct oci_digest *digest)
{
    return str_printf("%s/%s@" OCI_DIGEST_PREFIX "%s", ref->host, ref->repository, digest->hex);
}
