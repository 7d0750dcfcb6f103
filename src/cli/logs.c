/* SPDX-License-Identifier: Apache-2.0 */
/* nexus logs: what a container wrote. Reads the file, which is on this machine, as root. */
#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/numparse.h"
#include "cli/command.h"
#include "cli/follow.h"
#include "cli/resolve.h"

#define TAIL_MAX 1000000

static bool arg_follow, arg_times;
static const char *arg_tail;

static int print_all(struct log_file *log)
{
    struct log_printer p = {.times = arg_times};
    int r = log_file_read(log, log_record_print, &p);

    if (r < 0 && r != -EPIPE)
        return cli_fail(r, NULL, "cannot read the log");
    return CLI_OK;
}

static int follow(struct cli *cli, const char *id, struct log_file *log)
{
    _cleanup_(exit_watch_done) struct exit_watch watch;
    _cleanup_(error_freep) struct error *err = NULL;
    struct follow f = {.log = log, .watch = &watch, .signal_fd = -1};
    int code = 0, r;

    f.printer.times = arg_times;
    exit_watch_start(&watch, cli, id);
    r = follow_until_exit(&f, &code, NULL, &err);
    if (r == -EPIPE || r == -ENOENT) /* nobody reads; or it was removed meanwhile */
        return CLI_OK;
    return r < 0 ? cli_fail(r, err, "cannot follow the log") : CLI_OK;
}

static int run_logs(struct cli *cli, int argc, char **argv)
{
    ANSWER(Runtime__V1__ContainerStatusResponse, answer);
    _cleanup_(log_file_closep) struct log_file *log = NULL;
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *id = NULL;
    uint64_t tail = UINT64_MAX;
    int r;

    if (arg_tail && parse_u64(arg_tail, TAIL_MAX, &tail) < 0)
        return cli_usage("logs", "--tail takes a number up to %d, not %s", TAIL_MAX, arg_tail);
    r = cli_connect(cli);
    if (r != 0)
        return r;
    r = resolve_container(cli, argv[0], &id, &err);
    if (r == 0)
        r = container_status(cli, id, &answer, &err);
    if (r == 0 && !*answer->status->log_path)
        return cli_say(CLI_FAILED,
                       "container %s has no log: its pod was made without a log "
                       "directory",
                       argv[0]);
    if (r == 0)
        r = log_file_open(answer->status->log_path, tail, arg_follow, &log, &err);
    if (r < 0)
        return cli_fail(r, err, "cannot show the log of %s", argv[0]);
    return arg_follow ? follow(cli, id, log) : print_all(log);
}

static const struct cli_option options[] = {
    {'f', "follow", NULL, "go on until the container exits", OPTION_FLAG, &arg_follow},
    {'n', "tail", "LINES", "only the last lines", OPTION_STRING, &arg_tail},
    {'t', "timestamps", NULL, "put the time before each line", OPTION_FLAG, &arg_times},
    {0},
};

const struct command command_logs = {
    .name = "logs",
    .synopsis = "CONTAINER",
    .summary = "Print what a container wrote.",
    .description = "Its stdout goes to stdout, its stderr to stderr.",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .run = run_logs,
};
