/* SPDX-License-Identifier: Apache-2.0 */
/* nexus rm: containers and pods. */
#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/exit-watch.h"
#include "cli/object.h"
#include "cli/resolve.h"

static bool arg_force;

static int pod_is_ready(struct cli *cli, const char *id, struct error **err)
{
    Runtime__V1__PodSandboxStatusRequest rq = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__PodSandboxStatusResponse, answer);
    int r;

    rq.pod_sandbox_id = (char *)(uintptr_t)id;
    r = cli_call(cli, "RuntimeService/PodSandboxStatus", &rq.base,
                 &runtime__v1__pod_sandbox_status_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r < 0)
        return r;
    return answer->status && answer->status->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY;
}

static int container_is_running(struct cli *cli, const char *id, struct error **err)
{
    ANSWER(Runtime__V1__ContainerStatusResponse, answer);
    int r = container_status(cli, id, &answer, err);

    return r < 0 ? r : answer->status->state == RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
}

static int remove_one(struct cli *cli, const char *name, struct error **err)
{
    _cleanup_(freep) char *id = NULL;
    enum object_kind kind;
    int r = resolve(cli, name, OBJECT_CONTAINER | OBJECT_POD, &kind, &id, err);

    if (r == 0 && !arg_force) {
        r = kind == OBJECT_CONTAINER ? container_is_running(cli, id, err)
                                     : pod_is_ready(cli, id, err);
        if (r > 0)
            return error_set_class(err, ERROR_PRECONDITION, -EBUSY,
                                   "it runs: stop it first, or use --force");
    }
    if (r == 0 && kind == OBJECT_POD)
        r = pod_stop(cli, id, err);
    if (r < 0)
        return r;
    return kind == OBJECT_CONTAINER ? container_remove(cli, id, err) : pod_remove(cli, id, err);
}

static int run_rm(struct cli *cli, int argc, char **argv)
{
    int code = cli_connect(cli);

    for (int i = 0; i < argc && cli->client; i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        int r = remove_one(cli, argv[i], &err);

        if (r < 0)
            code = cli_fail(r, err, "cannot remove %s", argv[i]);
        else
            printf("%s\n", argv[i]);
    }
    return code;
}

static const struct cli_option options[] = {
    {'f', "force", NULL, "also what still runs", OPTION_FLAG, &arg_force},
    {0},
};

const struct command command_rm = {
    .name = "rm",
    .synopsis = "CONTAINER|POD...",
    .summary = "Remove containers or pods.",
    .description = "A pod goes with all its containers. Logs stay.",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .run = run_rm,
};
