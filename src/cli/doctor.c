/* SPDX-License-Identifier: Apache-2.0 */
/* nexus doctor: what this machine lacks for microVM pods, and what to do about it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/doctor-check.h"
#include "cli/json.h"
#include "daemon/stream-check.h"

static const char *arg_config;
static bool arg_boot, arg_images;

static const char *const result_names[] = {"ok", "warning", "problem"};

struct tally {
    json_t *list; /* with --output json */
    unsigned problems, warnings;
};

static void tell(struct tally *t, const char *name, const struct finding *f)
{
    _cleanup_(freep) char *text = cli_clean(f->text);

    t->problems += f->result == FINDING_PROBLEM;
    t->warnings += f->result == FINDING_WARNING;
    if (t->list) {
        (void)json_array_append_new(t->list, json_pack("{s:s,s:s,s:s,s:s}", "check", name, "result",
                                                       result_names[f->result], "text", text,
                                                       "advice", f->advice));
        return;
    }
    printf("%-8s %-9s %s\n", result_names[f->result], name, text);
    if (f->advice[0])
        printf("%18s → %s\n", "", f->advice);
}

static void tell_image(void *userdata, const struct finding *f)
{
    tell(userdata, "images", f);
}

static int run_doctor(struct cli *cli, int argc, char **argv)
{
    _cleanup_(config_done) struct config config;
    _cleanup_(error_freep) struct error *err = NULL;
    struct doctor d = {
        .cli = cli,
        .address_given = strcmp(cli->address, CLI_DEFAULT_ADDRESS) != 0,
        .config_path = arg_config,
        .config = &config,
    };
    struct tally t = {.list = cli->json ? json_array() : NULL};

    config_init(&config);
    d.config_error = config_load(&config, arg_config, &err);
    if (d.config_error >= 0 && geteuid() == 0) /* others may not read the key */
        d.config_error = stream_check(&config, &err);
    if (d.config_error < 0)
        d.config_text = error_text(err, d.config_error);
    for (size_t i = 0; doctor_checks[i].name; i++) {
        struct finding f = {0};
        doctor_checks[i].run(&d, &f);
        tell(&t, doctor_checks[i].name, &f);
    }
    if (arg_images) {
        (void)fflush(stdout);
        doctor_check_images(&d, tell_image, &t);
    }
    if (arg_boot) {
        struct finding f = {0};
        (void)fflush(stdout);
        doctor_check_boot(&d, &f);
        tell(&t, "boot", &f);
    }
    if (t.list)
        (void)json_print(t.list);
    else if (t.problems)
        printf("\n%u problem%s: pods will not run until %s gone.\n", t.problems,
               t.problems == 1 ? "" : "s", t.problems == 1 ? "it is" : "they are");
    else
        printf("\nNothing is missing%s.\n", t.warnings ? ", but see the warnings" : "");
    return t.problems ? CLI_FAILED : CLI_OK;
}

static const struct cli_option options[] = {
    {0, "config", "FILE", "nexusd's configuration (default " CONFIG_DEFAULT_PATH ")", OPTION_STRING,
     &arg_config},
    {0, "images", NULL, "also read every file of every image and compare it with its digest",
     OPTION_FLAG, &arg_images},
    {0, "boot", NULL, "also boot a microVM up to its agent", OPTION_FLAG, &arg_boot},
    {0},
};

const struct command command_doctor = {
    .name = "doctor",
    .synopsis = "",
    .summary = "Check what this machine needs to run pods.",
    .description =
        "Each finding that is not good says what to do. The exit code is 1 if there is a\n"
        "problem. Nothing is changed.",
    .options = options,
    .lists = true,
    .run = run_doctor,
};
