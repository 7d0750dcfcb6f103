/* SPDX-License-Identifier: Apache-2.0 */
/* nexus pods: the sandboxes, each a microVM. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/pod-memory.h"
#include "cli/table.h"
#include "gen/cri/cri.pb-c.h"

static bool arg_ready, arg_quiet, arg_memory;

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

/* ---- memory */

#define MEMORY_CELLS 6

static pid_t pid_of(const json_t *info, const char *key)
{
    json_int_t pid = json_integer_value(json_object_get(info, key));

    return pid > 1 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

/* What the pod's verbose status names: nexus-vmm, virtiofsd. 0: none runs, or the server is another one. */
static int find_processes(struct cli *cli, char *id, pid_t *ret, pid_t *ret_virtiofsd,
                          struct error **err)
{
    Runtime__V1__PodSandboxStatusRequest rq = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__PodSandboxStatusResponse, answer);
    int r;

    *ret = *ret_virtiofsd = 0;
    rq.pod_sandbox_id = id;
    rq.verbose = true;
    r = cli_call(cli, "RuntimeService/PodSandboxStatus", &rq.base,
                 &runtime__v1__pod_sandbox_status_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r == -ENOENT) /* removed meanwhile */
        return 0;
    for (size_t i = 0; r == 0 && i < answer->n_info; i++) {
        json_t *info = json_loads(answer->info[i]->value, 0, NULL);

        if (strcmp(answer->info[i]->key, "info") == 0) {
            *ret = pid_of(info, "pid");
            *ret_virtiofsd = pid_of(info, "virtiofsdPid");
        }
        json_decref(info);
    }
    return r;
}

/* *ret_there false: the pod has no VM. */
static int memory_of(struct cli *cli, char *id, struct pod_memory *ret, bool *ret_there,
                     struct error **err)
{
    pid_t pid, virtiofsd;
    int r = find_processes(cli, id, &pid, &virtiofsd, err);

    *ret_there = false;
    if (r < 0 || pid == 0)
        return r;
    r = pod_memory_read(pid, id, ret, err);
    if (r == -ESRCH) {
        error_free(TAKE(*err));
        return 0;
    }
    if (r == 0 && virtiofsd > 0)
        r = pod_memory_add_virtiofsd(virtiofsd, ret, err);
    *ret_there = r == 0;
    return r;
}

static json_t *memory_to_json(const struct pod_memory *m)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "guestRssBytes",
                     (json_int_t)m->guest_rss, "vmmPrivateBytes", (json_int_t)m->vmm_private,
                     "virtiofsdBytes", (json_int_t)m->virtiofsd, "regionMappedBytes",
                     (json_int_t)m->region_mapped, "regionResidentBytes",
                     (json_int_t)m->region_resident, "regionShareBytes",
                     (json_int_t)m->region_share, "totalBytes", (json_int_t)pod_memory_total(m));
}

static void add_memory(struct table *t, const struct pod_memory *m)
{
    const uint64_t cells[MEMORY_CELLS] = {m->guest_rss,     m->vmm_private,  m->virtiofsd,
                                          m->region_mapped, m->region_share, pod_memory_total(m)};
    char text[HUMAN_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(cells); i++)
        table_add(t, human_bytes(cells[i], text));
}

static void add_no_memory(struct table *t)
{
    for (int i = 0; i < MEMORY_CELLS; i++)
        table_add(t, "-");
}

static int show_memory(struct cli *cli, const Runtime__V1__ListPodSandboxResponse *list)
{
    static const char *const headings[] = {
        "POD", "NAME", "GUEST RSS", "VMM PRIVATE", "VIRTIOFSD", "REGIONS", "SHARE", "TOTAL", NULL};
    _cleanup_(table_freep) struct table *t = table_new(headings);
    json_t *doc = json_from_message(&list->base), *items = json_object_get(doc, "items");
    struct pod_memory sum = {0};
    char text[HUMAN_SIZE];

    for (size_t i = 0; i < list->n_items; i++) {
        const Runtime__V1__PodSandbox *p = list->items[i];
        _cleanup_(error_freep) struct error *err = NULL;
        struct pod_memory m = {0};
        bool there;
        int r = memory_of(cli, p->id, &m, &there, &err);

        if (r < 0) {
            json_decref(doc);
            return cli_fail(r, err, "pod %s", human_id(p->id, text));
        }
        pod_memory_add(&sum, &m);
        (void)json_object_set_new(json_array_get(items, i), "memory",
                                  there ? memory_to_json(&m) : json_null());
        table_add(t, human_id(p->id, text));
        table_add(t, p->metadata ? p->metadata->name : "");
        if (there)
            add_memory(t, &m);
        else
            add_no_memory(t);
    }
    if (cli->json) {
        (void)json_object_set_new(doc, "memory", memory_to_json(&sum));
        return json_print(doc);
    }
    json_decref(doc);
    table_add(t, "");
    table_add(t, "sum");
    add_memory(t, &sum);
    table_print(t);
    return CLI_OK;
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
    if (arg_memory && !arg_quiet)
        return show_memory(cli, list);
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
    {'m', "memory", NULL, "what each costs in memory (as root)", OPTION_FLAG, &arg_memory},
    {0},
};

const struct command command_pods = {
    .name = "pods",
    .synopsis = "",
    .summary = "List pods.",
    .description =
        "With --memory: the guest's RAM as far as it is used, what nexus-vmm has for itself, and\n"
        "the virtiofsd of a pod with host directories, the images and volumes mapped into the\n"
        "guest, and the pod's share of those in the page cache, where each page is divided by\n"
        "the number of pods that have it. The total is RAM, nexus-vmm, virtiofsd and share.",
    .options = options,
    .lists = true,
    .run = run_pods,
};
