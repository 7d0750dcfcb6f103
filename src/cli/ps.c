/* SPDX-License-Identifier: Apache-2.0 */
/* nexus ps: the containers. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/resolve.h"
#include "cli/table.h"
#include "gen/cri/cri.pb-c.h"

static bool arg_all, arg_quiet;
static const char *arg_pod;

static const char *state_name(int state)
{
    static const char *const names[] = {"created", "running", "exited", "unknown"};

    return state >= 0 && state < 4 ? names[state] : "unknown";
}

static void print_table(const Runtime__V1__ListContainersResponse *list)
{
    static const char *const headings[] = {"CONTAINER", "IMAGE",   "CREATED", "STATE",
                                           "NAME",      "ATTEMPT", "POD",     NULL};
    _cleanup_(table_freep) struct table *t = table_new(headings);
    char text[HUMAN_SIZE];

    for (size_t i = 0; i < list->n_containers; i++) {
        const Runtime__V1__Container *c = list->containers[i];
        const char *image = c->image ? c->image->image : "";

        table_add(t, human_id(c->id, text));
        if (c->image && *c->image->user_specified_image)
            image = c->image->user_specified_image;
        table_add(t, strncmp(image, "sha256:", 7) == 0 ? human_id(image, text) : image);
        table_add(t, human_ago(c->created_at, clock_real_ns(), text));
        table_add(t, state_name((int)c->state));
        table_add(t, c->metadata ? c->metadata->name : "");
        (void)snprintf(text, sizeof(text), "%u", c->metadata ? c->metadata->attempt : 0);
        table_add(t, text);
        table_add(t, human_id(c->pod_sandbox_id, text));
    }
    table_print(t);
}

static int run_ps(struct cli *cli, int argc, char **argv)
{
    Runtime__V1__ListContainersRequest rq = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
    Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
    Runtime__V1__ContainerStateValue running = RUNTIME__V1__CONTAINER_STATE_VALUE__INIT;
    ANSWER(Runtime__V1__ListContainersResponse, list);
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *pod = NULL;
    enum object_kind kind;
    int r = cli_connect(cli);

    if (r != 0)
        return r;
    if (arg_pod) {
        r = resolve(cli, arg_pod, OBJECT_POD, &kind, &pod, &err);
        if (r < 0)
            return cli_fail(r, err, "cannot list containers");
        filter.pod_sandbox_id = pod;
    }
    running.state = RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
    if (!arg_all)
        filter.state = &running;
    rq.filter = &filter;
    r = cli_call(cli, "RuntimeService/ListContainers", &rq.base,
                 &runtime__v1__list_containers_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(list), &err);
    if (r < 0)
        return cli_fail(r, err, "cannot list containers");
    if (cli->json)
        return json_print(json_from_message(&list->base));
    if (arg_quiet)
        for (size_t i = 0; i < list->n_containers; i++)
            printf("%s\n", list->containers[i]->id);
    else
        print_table(list);
    return CLI_OK;
}

static const struct cli_option options[] = {
    {'a', "all", NULL, "also those that do not run", OPTION_FLAG, &arg_all},
    {'p', "pod", "POD", "only those of this pod", OPTION_STRING, &arg_pod},
    {'q', "quiet", NULL, "ids alone, in full", OPTION_FLAG, &arg_quiet},
    {0},
};

const struct command command_ps = {
    .name = "ps",
    .synopsis = "",
    .summary = "List containers.",
    .options = options,
    .lists = true,
    .run = run_ps,
};
