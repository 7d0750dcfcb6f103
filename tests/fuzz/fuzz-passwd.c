/* SPDX-License-Identifier: Apache-2.0 */
/* The image's user database: the first byte chooses how the user is asked for, then up to three
 * parts separated by 0xff: the name, passwd, group. */
#include <stdlib.h>
#include <string.h>

#include "agent/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct text part(const uint8_t **p, size_t *left)
{
    const uint8_t *end = *left ? memchr(*p, 0xff, *left) : NULL;
    size_t len = end ? (size_t)(end - *p) : *left;
    struct text t = {.p = (const char *)*p, .len = len};

    *p += len + (end ? 1 : 0);
    *left -= len + (end ? 1 : 0);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct user_identity id;
    struct user_request req = {0};
    struct error *err = NULL;
    struct text name, passwd, group;
    char *who;

    if (size < 1)
        return 0;
    const uint8_t *p = data + 1;
    size_t left = size - 1;
    name = part(&p, &left);
    passwd = part(&p, &left);
    group = part(&p, &left);
    who = strndup(name.p, name.len);
    if (!who)
        return 0;
    if (data[0] & 1)
        req.username = who;
    else
        req.image_user = who;
    if (data[0] & 2) {
        req.has_uid = true;
        req.uid = data[0];
    }
    if (user_resolve(&req, passwd, group, &id, &err) == 0 && strlen(id.home) >= USER_HOME_MAX)
        abort();
    error_free(err);
    free(who);
    return 0;
}
