/* SPDX-License-Identifier: Apache-2.0 */
/* nexus pods: the sandboxes, each a microVM. */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/table.h"
#include "gen/cri/cri.pb-c.h"

static bool arg_ready, arg_quiet;

static void print_table(const Runtime__V1__ListPodSandboxResponse *list)
{
    static const char *const headings[] = {"POD",       "CREATED", "STATE",   "NAME",
                                           "NAMESPACE", "ATTEMPT", "HANDLER", NULL};
    _cleanup_(table_freep) struct table *t = table_new(headings);
    char text[HUMAN_SIZE];

    for (size_t i = 0; i < list->n_items; i++) {
        const Runtime__V1__PodSandbox *p = list->items[i];
        const Runtime__V1__PodSandboxMetadata *m = p->metadata;

        table_add(t, human_id(p->id, text));
        table_add(t, human_ago(p->created_at, clock_real_ns(), text));
        table_add(t, p->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY ? "ready"
                                                                               : "not-ready");
        table_add(t, m ? m->name : "");
        table_add(t, m ? m->namespace_ : "");
        (void)snprintf(text, sizeof(text), "%u", m ? m->attempt : 0);
        table_add(t, text);
        table_add(t, *p->runtime_handler ? p->runtime_handler : "(default)");
    }
    table_print(t);
}

static int run_pods(struct cli *cli, int argc, char **argv)
{
    Runtime__V1__ListPodSandboxRequest rq = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
    Runtime__V1__PodSandboxFilter filter = RUNTIME__V1__POD_SANDBOX_FILTER__INIT;
    Runtime__V1__PodSandboxStateValue ready = RUNTIME__V1__POD_SANDBOX_STATE_VALUE__INIT;
    ANSWER(Runtime__V1__ListPodSandboxResponse, list);
    _cleanup_(error_freep) struct error *err = NULL;
    int r = cli_connect(cli);

    if (r != 0)
        return r;
    if (arg_ready)
        filter.state = &ready;
    rq.filter = &filter;
    r = cli_call(cli, "RuntimeService/ListPodSandbox", &rq.base,
                 &runtime__v1__list_pod_sandbox_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(list), &err);
    if (r < 0)
        return cli_fail(r, err, "cannot list pods");
    if (cli->json)
        return json_print(json_from_message(&list->base));
    if (arg_quiet)
        for (size_t i = 0; i < list->n_items; i++)
            printf("%s\n", list->items[i]->id);
    else
        print_table(list);
    return CLI_OK;
}

static const struct cli_option options[] = {
    {'r', "ready", NULL, "only those that are ready", OPTION_FLAG, &arg_ready},
    {'q', "quiet", NULL, "ids alone, in full", OPTION_FLAG, &arg_quiet},
    {0},
};

const struct command command_pods = {
    .name = "pods",
    .synopsis = "",
    .summary = "List pods.",
    .options = options,
    .lists = true,
    .run = run_pods,
};
