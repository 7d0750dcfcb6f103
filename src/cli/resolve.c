/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/resolve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "gen/cri/cri.pb-c.h"

#define LISTED_MAX 5 /* candidates told in an error */

/* The better the smaller. */
enum match { MATCH_ID, MATCH_NAME, MATCH_PREFIX, MATCH_NONE };

struct search {
    const char *text;
    enum match best;
    unsigned count; /* objects that match as well as best */
    enum object_kind kind;
    char *id;       /* owned; the first of them */
    char list[256]; /* their ids and names */
};

static void search_done(struct search *s)
{
    free(s->id);
}

static enum match match_of(const char *text, const char *id, const char *name)
{
    if (strcmp(text, id) == 0)
        return MATCH_ID;
    if (strcmp(text, name) == 0)
        return MATCH_NAME;
    return str_starts(id, text) ? MATCH_PREFIX : MATCH_NONE;
}

static void search_offer(struct search *s, enum object_kind kind, const char *id, const char *name)
{
    enum match m = match_of(s->text, id, name);
    size_t used;

    if (m == MATCH_NONE || m > s->best)
        return;
    if (m < s->best) {
        s->best = m;
        s->count = 0;
        s->list[0] = '\0';
    }
    if (s->count++ == 0) {
        free(s->id);
        s->id = str_dup(id);
        s->kind = kind;
    }
    used = strlen(s->list);
    if (s->count <= LISTED_MAX)
        (void)snprintf(s->list + used, sizeof(s->list) - used, "%s%.12s (%s)", used ? ", " : "", id,
                       name);
}

static int search_containers(struct cli *cli, struct search *s, struct error **err)
{
    Runtime__V1__ListContainersRequest rq = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
    ANSWER(Runtime__V1__ListContainersResponse, list);
    int r = cli_call(cli, "RuntimeService/ListContainers", &rq.base,
                     &runtime__v1__list_containers_response__descriptor, CLI_TIMEOUT_MS,
                     ANSWER_AT(list), err);

    for (size_t i = 0; r == 0 && i < list->n_containers; i++) {
        const Runtime__V1__Container *c = list->containers[i];
        search_offer(s, OBJECT_CONTAINER, c->id, c->metadata ? c->metadata->name : "");
    }
    return r;
}

static int search_pods(struct cli *cli, struct search *s, struct error **err)
{
    Runtime__V1__ListPodSandboxRequest rq = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
    ANSWER(Runtime__V1__ListPodSandboxResponse, list);
    int r = cli_call(cli, "RuntimeService/ListPodSandbox", &rq.base,
                     &runtime__v1__list_pod_sandbox_response__descriptor, CLI_TIMEOUT_MS,
                     ANSWER_AT(list), err);

    for (size_t i = 0; r == 0 && i < list->n_items; i++) {
        const Runtime__V1__PodSandbox *p = list->items[i];
        search_offer(s, OBJECT_POD, p->id, p->metadata ? p->metadata->name : "");
    }
    return r;
}

int resolve(struct cli *cli, const char *text, unsigned kinds, enum object_kind *ret_kind,
            char **ret_id, struct error **err)
{
    _cleanup_(search_done) struct search s = {.text = text, .best = MATCH_NONE};
    const char *what = kinds == OBJECT_CONTAINER ? "container"
                       : kinds == OBJECT_POD     ? "pod"
                                                 : "container or pod";
    int r = 0;

    if (!*text)
        return error_set(err, -EINVAL, "an empty name means no %s", what);
    if (kinds & OBJECT_CONTAINER)
        r = search_containers(cli, &s, err);
    if (r == 0 && kinds & OBJECT_POD)
        r = search_pods(cli, &s, err);
    if (r < 0)
        return r;
    if (s.count == 0)
        return error_set(err, -ENOENT, "there is no %s %s", what, text);
    if (s.count > 1)
        return error_set(err, -EINVAL, "%s means %u of them: %s%s", text, s.count, s.list,
                         s.count > LISTED_MAX ? ", …" : "");
    *ret_kind = s.kind;
    *ret_id = TAKE(s.id);
    return 0;
}

int resolve_container(struct cli *cli, const char *text, char **ret_id, struct error **err)
{
    enum object_kind kind;

    return resolve(cli, text, OBJECT_CONTAINER, &kind, ret_id, err);
}
