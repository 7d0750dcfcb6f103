/* SPDX-License-Identifier: Apache-2.0 */
/* A subcommand as data: parsed, explained (--help) and listed from one place. */
#pragma once

#include <stddef.h>

#include "cli/cli.h"

enum option_kind {
    OPTION_FLAG,   /* value: bool * */
    OPTION_STRING, /* value: const char ** */
    OPTION_LIST,   /* value: char *** (a strv, grows) */
    OPTION_NUMBER, /* value: uint64_t *; digits, at most UINT32_MAX */
};

struct cli_option {
    char letter;      /* 0: none */
    const char *name; /* NULL ends the table */
    const char *arg;  /* name of the argument; NULL with OPTION_FLAG */
    const char *help;
    enum option_kind kind;
    void *value; /* static */
};

struct command {
    const char *name;
    const char *synopsis;             /* after the options: "IMAGE [--] [COMMAND [ARG...]]" */
    const char *summary;              /* one line */
    const char *description;          /* paragraphs, 78 columns; NULL: the summary says it */
    const struct cli_option *options; /* NULL: only the common ones */
    bool lists;                       /* knows --output */
    bool runs;              /* options end at the first argument; failures of ours are 125 */
    int min_args, max_args; /* of positional arguments; max -1: any number */
    /* argv: positional arguments, NULL-terminated. Returns the exit code. */
    int (*run)(struct cli *cli, int argc, char **argv);
};

/* NULL-terminated, in the order of --help. */
extern const struct command *const commands[];
extern const struct command command_run, command_ps, command_pods, command_images, command_pull,
    command_exec, command_logs, command_inspect, command_stop, command_rm, command_rmi,
    command_doctor, command_version;

const struct command *command_find(const char *name);

/* Parses argv[1..]. The number of positional arguments (put at the front of argv, from argv[0] on), or
 * -1 - exit code when the command is over (help was asked, usage was wrong). */
int options_parse(const struct command *cmd, struct cli *cli, int argc, char **argv);
/* What --help prints. */
void command_help(const struct command *cmd);
/* Sets what the common options --address and --output say. False: a value is wrong, it was told. */
bool option_set_output(struct cli *cli, const char *command, const char *value);
