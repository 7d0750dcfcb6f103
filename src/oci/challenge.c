/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/challenge.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

static const char token_bytes[] =
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

struct cursor {
    const char *p;
};

static void skip_space(struct cursor *c)
{
    c->p += strspn(c->p, " \t");
}

static void skip_separators(struct cursor *c)
{
    c->p += strspn(c->p, " \t,");
}

static char *take_token(struct cursor *c)
{
    size_t n = strspn(c->p, token_bytes);
    char *s = n ? str_ndup(c->p, n) : NULL;

    c->p += n;
    return s;
}

/* A quoted string with its escapes undone; NULL if it does not end. */
static char *take_quoted(struct cursor *c)
{
    char *out = str_dup(c->p), *w = out;

    for (c->p++; *c->p && *c->p != '"'; c->p++) {
        if (*c->p == '\\' && c->p[1])
            c->p++;
        *w++ = *c->p;
    }
    *w = '\0';
    if (*c->p != '"') {
        free(out);
        return NULL;
    }
    c->p++;
    return out;
}

static void keep_first(char **slot, char **value)
{
    if (!*slot)
        *slot = TAKE(*value);
}

/* One "name=value" if one stands here. 1 taken; 0: what stands here is a scheme; -EINVAL. */
static int take_param(struct cursor *c, struct oci_challenge *ch)
{
    struct cursor at = *c;
    _cleanup_(freep) char *name = take_token(&at);
    _cleanup_(freep) char *value = NULL;

    if (!name)
        return -EINVAL;
    skip_space(&at);
    if (*at.p != '=')
        return 0;
    at.p++;
    skip_space(&at);
    value = *at.p == '"' ? take_quoted(&at) : take_token(&at);
    if (!value)
        return -EINVAL;
    if (strcasecmp(name, "realm") == 0)
        keep_first(&ch->realm, &value);
    else if (strcasecmp(name, "service") == 0)
        keep_first(&ch->service, &value);
    else if (strcasecmp(name, "scope") == 0)
        keep_first(&ch->scope, &value);
    *c = at;
    return 1;
}

/* One challenge. *ret_known: its scheme is ours. */
static int take_challenge(struct cursor *c, struct oci_challenge *ch, bool *ret_known)
{
    _cleanup_(freep) char *scheme = take_token(c);
    int r = 1;

    if (!scheme)
        return -EINVAL;
    *ret_known = true;
    if (strcasecmp(scheme, "Bearer") == 0)
        ch->scheme = OCI_AUTH_BEARER;
    else if (strcasecmp(scheme, "Basic") == 0)
        ch->scheme = OCI_AUTH_BASIC;
    else
        *ret_known = false;
    skip_separators(c);
    while (r > 0 && *c->p) {
        r = take_param(c, ch);
        skip_separators(c);
    }
    if (r == -EINVAL && !*ret_known) { /* a token68 or worse of a scheme we do not speak */
        c->p += strcspn(c->p, ",");
        skip_separators(c);
        return 0;
    }
    return r < 0 ? r : 0;
}

int oci_challenge_parse(const char *header, struct oci_challenge *ret)
{
    struct oci_challenge best = {0};
    struct cursor c = {header};
    bool found = false;

    if (strnlen(header, OCI_CHALLENGE_BYTES + 1) > OCI_CHALLENGE_BYTES)
        return -E2BIG;
    skip_separators(&c);
    if (!*c.p)
        return -EINVAL;
    while (*c.p) {
        struct oci_challenge ch = {0};
        bool known;
        int r = take_challenge(&c, &ch, &known);

        if (r < 0) {
            oci_challenge_done(&ch);
            oci_challenge_done(&best);
            return r;
        }
        if (known && (!found || (best.scheme == OCI_AUTH_BASIC && ch.scheme == OCI_AUTH_BEARER))) {
            oci_challenge_done(&best);
            best = ch;
            found = true;
        } else {
            oci_challenge_done(&ch);
        }
    }
    if (!found)
        return -EOPNOTSUPP;
    if (best.scheme == OCI_AUTH_BEARER && !best.realm) {
        oci_challenge_done(&best);
        return -EINVAL;
    }
    *ret = best;
    return 0;
}

void oci_challenge_done(struct oci_challenge *c)
{
    free(c->realm);
    free(c->service);
    free(c->scope);
    memset(c, 0, sizeof(*c));
}
