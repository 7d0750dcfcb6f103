/* SPDX-License-Identifier: Apache-2.0 */
/* nexus stop: containers by signal and grace, pods at once. */
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/object.h"
#include "cli/resolve.h"

static uint64_t arg_grace = 10;

static int stop_one(struct cli *cli, const char *name, struct error **err)
{
    _cleanup_(freep) char *id = NULL;
    enum object_kind kind;
    int r = resolve(cli, name, OBJECT_CONTAINER | OBJECT_POD, &kind, &id, err);

    if (r < 0)
        return r;
    return kind == OBJECT_CONTAINER ? container_stop(cli, id, arg_grace, err)
                                    : pod_stop(cli, id, err);
}

static int run_stop(struct cli *cli, int argc, char **argv)
{
    int code = cli_connect(cli);

    for (int i = 0; i < argc && cli->client; i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        int r = stop_one(cli, argv[i], &err);

        if (r < 0)
            code = cli_fail(r, err, "cannot stop %s", argv[i]);
        else
            printf("%s\n", argv[i]);
    }
    return code;
}

static const struct cli_option options[] = {
    {0, "grace", "SECONDS", "time between the stop signal and SIGKILL (default 10)", OPTION_NUMBER,
     &arg_grace},
    {0},
};

const struct command command_stop = {
    .name = "stop",
    .synopsis = "CONTAINER|POD...",
    .summary = "Stop containers or pods.",
    .description =
        "A container gets its stop signal, and SIGKILL after the grace. A pod is stopped at\n"
        "once with all its containers, and gives its network back.",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .run = run_stop,
};
