/* SPDX-License-Identifier: Apache-2.0 */
/* nexus exec: a command in a running container, without a terminal. */
#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/resolve.h"
#include "gen/cri/cri.pb-c.h"

static bool arg_stdin, arg_tty;
static uint64_t arg_timeout;

static int print_output(const Runtime__V1__ExecSyncResponse *a)
{
    if (a->stdout.len)
        (void)fwrite(a->stdout.data, 1, a->stdout.len, stdout);
    if (a->stderr.len)
        (void)fwrite(a->stderr.data, 1, a->stderr.len, stderr);
    if (fflush(stdout) != 0)
        return cli_say(CLI_RUN_FAILED, "cannot write the output");
    return a->exit_code & 0xff;
}

static int run_exec(struct cli *cli, int argc, char **argv)
{
    Runtime__V1__ExecSyncRequest rq = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
    ANSWER(Runtime__V1__ExecSyncResponse, answer);
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *id = NULL;
    int r;

    if (arg_stdin || arg_tty)
        return cli_usage("exec",
                         "-i and -t need the streaming server, which is not part of this "
                         "version; without them the command's output is shown when it ends");
    if (cli_connect(cli) != 0)
        return CLI_RUN_FAILED;
    r = resolve_container(cli, argv[0], &id, &err);
    if (r == 0) {
        rq.container_id = id;
        rq.cmd = argv + 1;
        rq.n_cmd = (size_t)argc - 1;
        rq.timeout = (int64_t)arg_timeout;
        r = cli_call(cli, "RuntimeService/ExecSync", &rq.base,
                     &runtime__v1__exec_sync_response__descriptor,
                     arg_timeout ? (int64_t)arg_timeout * 1000 + CLI_TIMEOUT_MS : CLI_NO_TIMEOUT,
                     ANSWER_AT(answer), &err);
    }
    if (r < 0) {
        (void)cli_fail(r, err, "cannot run %s in %s", argv[1], argv[0]);
        return CLI_RUN_FAILED;
    }
    return print_output(answer);
}

static const struct cli_option options[] = {
    {'i', "stdin", NULL, "pass stdin on: not in this version", OPTION_FLAG, &arg_stdin},
    {'t', "tty", NULL, "with a terminal: not in this version", OPTION_FLAG, &arg_tty},
    {0, "timeout", "SECONDS", "end the command after this time (default: never)", OPTION_NUMBER,
     &arg_timeout},
    {0},
};

const struct command command_exec = {
    .name = "exec",
    .synopsis = "CONTAINER [--] COMMAND [ARG...]",
    .summary = "Run a command in a container.",
    .description =
        "The output is shown when the command has ended, stdout and stderr apart. The exit\n"
        "code is the command's: 127 if it is not there, 126 if it cannot be run, 125 if\n"
        "nexus failed.",
    .options = options,
    .runs = true,
    .min_args = 2,
    .max_args = -1,
    .run = run_exec,
};
