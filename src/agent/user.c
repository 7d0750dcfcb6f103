/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/user.h"

#include <string.h>

#define PASSWD_FIELDS 7 /* name:x:uid:gid:gecos:home:shell */
#define GROUP_FIELDS 4  /* name:x:gid:member,member */
#define ID_MAX (UINT32_MAX - 1)

/* Takes the part of *rest before the first sep (or all of it) and moves *rest behind sep. False: rest
 * was used up before. */
static bool text_take(struct text *rest, char sep, struct text *ret)
{
    const char *end;

    if (!rest->p)
        return false;
    end = rest->len ? memchr(rest->p, sep, rest->len) : NULL;
    ret->p = rest->p;
    if (!end) {
        ret->len = rest->len;
        *rest = (struct text){0};
        return true;
    }
    ret->len = (size_t)(end - rest->p);
    rest->p = end + 1;
    rest->len -= ret->len + 1;
    return true;
}

static bool text_is(struct text t, struct text name)
{
    return t.len == name.len && (t.len == 0 || memcmp(t.p, name.p, t.len) == 0);
}

static struct text text_of(const char *s)
{
    return (struct text){.p = s, .len = strlen(s)};
}

static bool text_is_digits(struct text t)
{
    for (size_t i = 0; i < t.len; i++)
        if (t.p[i] < '0' || t.p[i] > '9')
            return false;
    return t.len > 0;
}

/* -1 is no id: system calls take it as "leave alone". */
static bool text_id(struct text t, uint32_t *ret)
{
    uint64_t v = 0;

    if (!text_is_digits(t) || t.len > 10)
        return false;
    for (size_t i = 0; i < t.len; i++)
        v = v * 10 + (uint64_t)(t.p[i] - '0');
    if (v > ID_MAX)
        return false;
    *ret = (uint32_t)v;
    return true;
}

static size_t split(struct text line, struct text *fields, size_t n)
{
    size_t i = 0;

    while (i < n && text_take(&line, ':', &fields[i]))
        i++;
    return i;
}

struct passwd_entry {
    struct text name;
    uint32_t uid, gid;
    struct text home;
};

/* The first well-formed entry with that name (name.p set) or that uid. */
static bool passwd_find(struct text passwd, const struct text *name, uint32_t uid,
                        struct passwd_entry *ret)
{
    struct text line, f[PASSWD_FIELDS];

    while (text_take(&passwd, '\n', &line)) {
        size_t n = split(line, f, PASSWD_FIELDS);
        struct passwd_entry e = {0};

        if (n < 4 || f[0].len == 0 || !text_id(f[2], &e.uid) || !text_id(f[3], &e.gid))
            continue;
        if (name ? !text_is(f[0], *name) : e.uid != uid)
            continue;
        e.name = f[0];
        if (n >= 6)
            e.home = f[5];
        *ret = e;
        return true;
    }
    return false;
}

static bool group_find(struct text group, struct text name, uint32_t *ret)
{
    struct text line, f[GROUP_FIELDS];

    while (text_take(&group, '\n', &line))
        if (split(line, f, GROUP_FIELDS) >= 3 && text_is(f[0], name) && text_id(f[2], ret))
            return true;
    return false;
}

static int group_add(struct user_identity *id, uint32_t gid, struct error **err)
{
    for (size_t i = 0; i < id->n_groups; i++)
        if (id->groups[i] == gid)
            return 0;
    if (id->n_groups == USER_GROUPS_MAX)
        return error_set(err, -E2BIG, "more than %d supplemental groups", USER_GROUPS_MAX);
    id->groups[id->n_groups++] = gid;
    return 0;
}

static bool has_member(struct text members, struct text user)
{
    struct text m;

    while (text_take(&members, ',', &m))
        if (text_is(m, user))
            return true;
    return false;
}

static int add_memberships(struct text group, struct text user, struct user_identity *id,
                           struct error **err)
{
    struct text line, f[GROUP_FIELDS];
    uint32_t gid;

    while (text_take(&group, '\n', &line)) {
        if (split(line, f, GROUP_FIELDS) < 4 || !text_id(f[2], &gid) || !has_member(f[3], user))
            continue;
        int r = group_add(id, gid, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Fills id->uid and the entry (name.p NULL: passwd does not know the uid). */
static int resolve_user(struct text who, struct text passwd, struct user_identity *id,
                        struct passwd_entry *entry, struct error **err)
{
    if (text_is_digits(who)) {
        if (!text_id(who, &id->uid))
            return error_set(err, -EINVAL, "user id \"%.*s\" is out of range", (int)who.len, who.p);
        (void)passwd_find(passwd, NULL, id->uid, entry);
        return 0;
    }
    if (!passwd_find(passwd, &who, 0, entry))
        return error_set(err, -EINVAL,
                         "unable to find user %.*s: no matching entries in passwd file",
                         (int)(who.len > 256 ? 256 : who.len), who.p);
    id->uid = entry->uid;
    return 0;
}

static int resolve_group(struct text who, struct text group, uint32_t *ret, struct error **err)
{
    if (text_is_digits(who)) {
        if (!text_id(who, ret))
            return error_set(err, -EINVAL, "group id \"%.*s\" is out of range", (int)who.len,
                             who.p);
        return 0;
    }
    if (!group_find(group, who, ret))
        return error_set(err, -EINVAL,
                         "unable to find group %.*s: no matching entries in group file",
                         (int)(who.len > 256 ? 256 : who.len), who.p);
    return 0;
}

static void set_home(struct user_identity *id, const struct passwd_entry *entry)
{
    bool usable = entry->home.len > 0 && entry->home.len < sizeof(id->home) &&
                  entry->home.p[0] == '/' && !memchr(entry->home.p, '\0', entry->home.len);
    struct text home = usable ? entry->home : text_of("/");

    memcpy(id->home, home.p, home.len);
    id->home[home.len] = '\0';
}

int user_resolve(const struct user_request *req, struct text passwd, struct text group,
                 struct user_identity *ret, struct error **err)
{
    struct passwd_entry entry = {0};
    struct text group_part = {0};
    int r = 0;

    ret->uid = 0;
    ret->n_groups = 0;
    if (req->has_uid) {
        ret->uid = req->uid;
        if (ret->uid > ID_MAX)
            return error_set(err, -EINVAL, "user id %u is out of range", ret->uid);
        (void)passwd_find(passwd, NULL, ret->uid, &entry);
    } else if (req->username && *req->username) {
        r = resolve_user(text_of(req->username), passwd, ret, &entry, err);
    } else if (req->image_user && *req->image_user) {
        struct text rest = text_of(req->image_user), user_part = {0};
        (void)text_take(&rest, ':', &user_part);
        group_part = rest;
        r = resolve_user(user_part.len ? user_part : text_of("0"), passwd, ret, &entry, err);
    } else {
        (void)passwd_find(passwd, NULL, 0, &entry);
    }
    if (r < 0)
        return r;
    ret->gid = entry.name.p ? entry.gid : 0;
    if (req->has_gid)
        ret->gid = req->gid;
    else if (group_part.len)
        r = resolve_group(group_part, group, &ret->gid, err);
    if (r >= 0 && ret->gid > ID_MAX)
        r = error_set(err, -EINVAL, "group id %u is out of range", ret->gid);
    for (size_t i = 0; r >= 0 && i < req->n_groups; i++)
        r = group_add(ret, req->groups[i], err);
    if (r >= 0 && entry.name.p && !req->strict)
        r = add_memberships(group, entry.name, ret, err);
    if (r < 0)
        return r;
    set_home(ret, &entry);
    return 0;
}
