/* SPDX-License-Identifier: Apache-2.0 */
/* nexus version: of this command and of the server. */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/command.h"
#include "cli/json.h"
#include "gen/cri/cri.pb-c.h"

static int run_version(struct cli *cli, int argc, char **argv)
{
    Runtime__V1__VersionRequest rq = RUNTIME__V1__VERSION_REQUEST__INIT;
    ANSWER(Runtime__V1__VersionResponse, v);
    _cleanup_(error_freep) struct error *err = NULL;
    int r;

    if (!cli->json)
        printf("nexus    %s\n", NEXUS_VERSION);
    r = cli_connect(cli);
    if (r != 0)
        return r;
    rq.version = (char[]){"0.1.0"};
    r = cli_call(cli, "RuntimeService/Version", &rq.base,
                 &runtime__v1__version_response__descriptor, CLI_TIMEOUT_MS, ANSWER_AT(v), &err);
    if (r < 0)
        return cli_fail(r, err, "cannot ask the server for its version");
    if (cli->json) {
        json_t *j = json_from_message(&v->base);
        (void)json_object_set_new(j, "clientVersion", json_string(NEXUS_VERSION));
        return json_print(j);
    }
    {
        _cleanup_(freep) char *name = cli_clean(v->runtime_name);
        _cleanup_(freep) char *version = cli_clean(v->runtime_version);
        _cleanup_(freep) char *api = cli_clean(v->runtime_api_version);

        printf("%-8s %s\nCRI      %s\n", name, version, api);
    }
    return CLI_OK;
}

const struct command command_version = {
    .name = "version",
    .synopsis = "",
    .summary = "Print the versions of nexus and of the server.",
    .lists = true,
    .run = run_version,
};
