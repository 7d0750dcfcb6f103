/* SPDX-License-Identifier: Apache-2.0 */
/* nexus run: a pod with one container, its log until it exits, its exit code; then all of it is removed.
 *
 * From the pod's creation on, signals are taken through a signalfd: a first one stops the container and
 * the clean-up still happens, a second one stops it without grace. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/str.h"
#include "cli/command.h"
#include "cli/follow.h"
#include "cli/object.h"
#include "cli/pull-image.h"
#include "cli/resolve.h"
#include "cli/run-config.h"

#define DEFAULT_LOG_ROOT "/var/log/nexus"
#define DEFAULT_HANDLER "nexus-vmm"
#define ARENA_BYTES (4U << 20)

static const char *arg_name, *arg_memory, *arg_cpus, *arg_pod, *arg_workdir, *arg_user;
static const char *arg_handler = DEFAULT_HANDLER, *arg_log_root = DEFAULT_LOG_ROOT;
static char **arg_env, **arg_publish;
static bool arg_keep, arg_detach, arg_pull;
static uint64_t arg_grace = 10;

struct run {
    struct cli *cli;
    struct arena *arena; /* owned */
    struct run_plan plan;
    char *pod_id, *container_id; /* owned; NULL until they exist */
    int signal_fd;               /* owned */
    unsigned signals;            /* taken so far */
    int first_signal;
    struct grpc_client_call *stops[2]; /* owned; StopContainer calls under way */
};

static void run_done(struct run *run)
{
    for (size_t i = 0; i < ARRAY_SIZE(run->stops); i++)
        grpc_client_call_free(run->stops[i]);
    (void)close_fd(run->signal_fd);
    free(run->pod_id);
    free(run->container_id);
    arena_free(run->arena);
}

/* ---- signals */

static int take_signals_by_fd(struct run *run, struct error **err)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return run->signal_fd < 0 ? error_set(err, -errno, "cannot take signals") : 0;
}

/* While the container runs: stop it; the second time at once. Its exit is seen as any other. */
static void on_signal(int signo, void *ud)
{
    Runtime__V1__StopContainerRequest rq = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
    struct run *run = ud;

    if (run->signals == 0)
        run->first_signal = signo;
    if (run->signals++ >= ARRAY_SIZE(run->stops) || !run->cli->client)
        return;
    rq.container_id = run->container_id;
    rq.timeout = run->signals == 1 ? (int64_t)arg_grace : 0;
    (void)grpc_client_start(run->cli->client, "/runtime.v1.RuntimeService/StopContainer", &rq.base,
                            &runtime__v1__stop_container_response__descriptor, CLI_NO_TIMEOUT,
                            &run->stops[run->signals - 1], NULL);
}

/* Before it runs: note it; the step under way is finished, then everything is undone. */
static bool interrupted(struct run *run)
{
    struct signalfd_siginfo si;

    while (read(run->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        if (run->signals++ == 0)
            run->first_signal = (int)si.ssi_signo;
    }
    return run->signals > 0;
}

/* ---- steps */

static int get_image(struct run *run, const char *image, struct error **err)
{
    _cleanup_(freep) char *id = NULL;
    int r = arg_pull ? 0 : image_present(run->cli, image, &id, err);

    if (r != 0)
        return r;
    return pull_image(run->cli, image, NULL, /* quiet= */ false, &id, err);
}

static int start_pod(struct run *run, struct error **err)
{
    Runtime__V1__RunPodSandboxRequest rq = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
    ANSWER(Runtime__V1__RunPodSandboxResponse, answer);
    int r;

    rq.config = run->plan.pod;
    rq.runtime_handler = (char *)(uintptr_t)arg_handler;
    r = cli_call(run->cli, "RuntimeService/RunPodSandbox", &rq.base,
                 &runtime__v1__run_pod_sandbox_response__descriptor, CLI_TIMEOUT_START_MS,
                 ANSWER_AT(answer), err);
    if (r == 0)
        run->pod_id = str_dup(answer->pod_sandbox_id);
    return r;
}

/* The configuration CreateContainer wants of a pod that somebody else made: who it is. */
static int use_pod(struct run *run, struct error **err)
{
    Runtime__V1__PodSandboxStatusRequest rq = RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__PodSandboxStatusResponse, answer);
    Runtime__V1__PodSandboxMetadata *m = run->plan.pod->metadata;
    enum object_kind kind;
    int r = resolve(run->cli, arg_pod, OBJECT_POD, &kind, &run->pod_id, err);

    if (r < 0)
        return r;
    rq.pod_sandbox_id = run->pod_id;
    r = cli_call(run->cli, "RuntimeService/PodSandboxStatus", &rq.base,
                 &runtime__v1__pod_sandbox_status_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r < 0)
        return r;
    if (answer->status && answer->status->metadata) {
        m->name = arena_strdup(run->arena, answer->status->metadata->name);
        m->uid = arena_strdup(run->arena, answer->status->metadata->uid);
        m->namespace_ = arena_strdup(run->arena, answer->status->metadata->namespace_);
        m->attempt = answer->status->metadata->attempt;
    }
    run->plan.pod->hostname = (char[]){""};
    run->plan.pod->log_directory = run->plan.pod->hostname;
    return 0;
}

static int create_container(struct run *run, struct error **err)
{
    Runtime__V1__CreateContainerRequest rq = RUNTIME__V1__CREATE_CONTAINER_REQUEST__INIT;
    ANSWER(Runtime__V1__CreateContainerResponse, answer);
    int r;

    rq.pod_sandbox_id = run->pod_id;
    rq.config = run->plan.container;
    rq.sandbox_config = run->plan.pod;
    r = cli_call(run->cli, "RuntimeService/CreateContainer", &rq.base,
                 &runtime__v1__create_container_response__descriptor, CLI_TIMEOUT_MS,
                 ANSWER_AT(answer), err);
    if (r == 0)
        run->container_id = str_dup(answer->container_id);
    return r;
}

static int start_container(struct run *run, struct error **err)
{
    Runtime__V1__StartContainerRequest rq = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
    ANSWER(Runtime__V1__StartContainerResponse, answer);

    rq.container_id = run->container_id;
    return cli_call(run->cli, "RuntimeService/StartContainer", &rq.base,
                    &runtime__v1__start_container_response__descriptor, CLI_TIMEOUT_MS,
                    ANSWER_AT(answer), err);
}

static int open_log(struct run *run, struct log_file **ret, struct error **err)
{
    ANSWER(Runtime__V1__ContainerStatusResponse, answer);
    int r = container_status(run->cli, run->container_id, &answer, err);

    if (r < 0)
        return r;
    if (!*answer->status->log_path)
        return cli_say(0, "the pod has no log directory: no output will be shown");
    return log_file_open(answer->status->log_path, UINT64_MAX, /* follow= */ true, ret, err);
}

/* Shows the output until the end. The container's code in *ret_code. */
static int follow(struct run *run, int *ret_code, struct error **err)
{
    _cleanup_(log_file_closep) struct log_file *log = NULL;
    _cleanup_(exit_watch_done) struct exit_watch watch = {0};
    _cleanup_(freep) char *reason = NULL;
    struct follow f = {
        .watch = &watch, .signal_fd = run->signal_fd, .on_signal = on_signal, .ud = run};
    int r;

    exit_watch_start(&watch, run->cli, run->container_id);
    r = start_container(run, err);
    if (r == 0)
        r = open_log(run, &log, err);
    if (r < 0)
        return r;
    f.log = log;
    r = follow_until_exit(&f, ret_code, &reason, err);
    if (r == 0 && reason && strcmp(reason, "OOMKilled") == 0)
        (void)cli_say(0, "the container was killed: it used more memory than it may");
    return r;
}

/* ---- the whole */

static void remove_logs(const struct run *run)
{
    _cleanup_(closep) int dir = open(arg_log_root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir >= 0 && run->plan.log_name)
        (void)dir_remove_tree(dir, run->plan.log_name);
}

/* Undoes what was done, as far as it got; says what stays. */
static void clean_up(struct run *run)
{
    _cleanup_(error_freep) struct error *err = NULL;
    const char *what = arg_pod ? run->container_id : run->pod_id;
    int r = 0;

    if (!what)
        return;
    if (!run->cli->client)
        r = cli_reconnect(run->cli, &err);
    if (r == 0 && arg_pod) {
        r = container_remove(run->cli, run->container_id, &err);
    } else if (r == 0) {
        r = pod_stop(run->cli, run->pod_id, &err);
        if (r == 0)
            r = pod_remove(run->cli, run->pod_id, &err);
    }
    if (r < 0)
        (void)cli_say(0, "%s stays, \"nexus rm --force %.12s\" removes it: %s",
                      arg_pod ? "the container" : "the pod", what, error_text(err, r));
    else if (!arg_pod)
        remove_logs(run);
}

static int setup(struct run *run, struct error **err)
{
    int r = get_image(run, run->plan.container->image->image, err);

    if (r >= 0)
        r = take_signals_by_fd(run, err);
    if (r >= 0)
        r = arg_pod ? use_pod(run, err) : start_pod(run, err);
    if (r >= 0 && interrupted(run))
        return error_set(err, -ECANCELED, "interrupted");
    if (r >= 0)
        r = create_container(run, err);
    if (r >= 0 && interrupted(run))
        return error_set(err, -ECANCELED, "interrupted");
    return r;
}

static int run_it(struct run *run)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int code = CLI_RUN_FAILED, r = setup(run, &err);

    if (r >= 0 && arg_detach) {
        r = start_container(run, &err);
        if (r >= 0) {
            printf("%s\n", run->container_id);
            return CLI_OK;
        }
    } else if (r >= 0) {
        r = follow(run, &code, &err);
    }
    if (r == -ECANCELED && run->signals > 0)
        code = 128 + run->first_signal;
    else if (r < 0)
        (void)cli_say(0, "cannot run %s: %s", run->plan.container->image->image,
                      error_text(err, r));
    if (!arg_keep)
        clean_up(run);
    else if (run->container_id)
        (void)cli_say(0, "kept: pod %.12s, container %.12s", run->pod_id, run->container_id);
    return r < 0 && r != -ECANCELED ? CLI_RUN_FAILED : code & 0xff;
}

static int run_run(struct cli *cli, int argc, char **argv)
{
    _cleanup_(run_done) struct run run = {.cli = cli, .signal_fd = -EBADF};
    _cleanup_(error_freep) struct error *err = NULL;
    struct run_config config = {
        .name = arg_name,
        .image = argv[0],
        .memory = arg_memory,
        .cpus = arg_cpus,
        .workdir = arg_workdir,
        .user = arg_user,
        .env = arg_env,
        .publish = arg_publish,
        .command = argv + 1,
        .n_command = (size_t)argc - 1,
        .log_root = arg_log_root,
    };
    int r;

    run.arena = arena_new(ARENA_BYTES);
    r = run_plan_make(run.arena, &config, &run.plan, &err);
    if (r < 0)
        return cli_usage("run", "%s", error_text(err, r));
    if (arg_pod && arg_publish)
        return cli_usage("run", "--publish belongs to a new pod, --pod names one that exists");
    if (cli_connect(cli) != 0)
        return CLI_RUN_FAILED;
    r = run_it(&run);
    strv_free(arg_env);
    strv_free(arg_publish);
    return r;
}

static const struct cli_option options[] = {
    {'n', "name", "NAME", "name of pod and container (default: from the image)", OPTION_STRING,
     &arg_name},
    {'e', "env", "NAME[=VALUE]", "set a variable, or pass one on; may be repeated", OPTION_LIST,
     &arg_env},
    {'m', "memory", "SIZE", "memory of the pod, such as 256M or 2G", OPTION_STRING, &arg_memory},
    {'c', "cpus", "NUMBER", "CPUs of the pod, such as 2 or 0.5", OPTION_STRING, &arg_cpus},
    {'p', "publish", "[IP:]PORT:PORT", "a port of this host to one of the pod; may be repeated",
     OPTION_LIST, &arg_publish},
    {'w', "workdir", "PATH", "directory the command starts in", OPTION_STRING, &arg_workdir},
    {'u', "user", "USER[:GROUP]", "user the command runs as", OPTION_STRING, &arg_user},
    {0, "pod", "POD", "run in this pod instead of a new one", OPTION_STRING, &arg_pod},
    {0, "pull", NULL, "pull even if the image is here", OPTION_FLAG, &arg_pull},
    {'d', "detach", NULL, "print the container's id and leave it running", OPTION_FLAG,
     &arg_detach},
    {'k', "keep", NULL, "do not remove the pod afterwards", OPTION_FLAG, &arg_keep},
    {0, "grace", "SECONDS", "between the stop signal and SIGKILL (default 10)", OPTION_NUMBER,
     &arg_grace},
    {0, "handler", "NAME", "runtime handler (default " DEFAULT_HANDLER ")", OPTION_STRING,
     &arg_handler},
    {0, "log-dir", "PATH", "where logs are kept (default " DEFAULT_LOG_ROOT ")", OPTION_STRING,
     &arg_log_root},
    {0},
};

const struct command command_run = {
    .name = "run",
    .synopsis = "IMAGE [--] [ARG...]",
    .summary = "Run an image in a microVM.",
    .description =
        "Pulls the image if it is not here, makes a pod with one container, shows what it\n"
        "writes until it exits, and removes it all. Arguments replace the image's command and\n"
        "are given to its entrypoint. There is no stdin. Ctrl-C stops the container, a second\n"
        "one kills it. The exit code is the container's, or 125 if nexus failed.",
    .options = options,
    .runs = true,
    .min_args = 1,
    .max_args = -1,
    .run = run_run,
};
