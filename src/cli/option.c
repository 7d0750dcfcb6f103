/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a subcommand: from the table to getopt_long and to the text of --help. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/numparse.h"
#include "base/str.h"
#include "cli/command.h"

#define OPTIONS_MAX 24
#define HELP_COLUMN 26

enum { CODE_ADDRESS = 1000, CODE_OUTPUT, CODE_HELP, CODE_OWN = 2000 };

bool option_set_output(struct cli *cli, const char *command, const char *value)
{
    if (strcmp(value, "json") == 0)
        cli->json = true;
    else if (strcmp(value, "table") == 0)
        cli->json = false;
    else
        return (void)cli_usage(command, "--output is json or table, not %s", value), false;
    return true;
}

static void help_line(const char *left, const char *text)
{
    size_t len = strlen(left);

    if (len + 2 > HELP_COLUMN)
        printf("%s\n%*s%s\n", left, HELP_COLUMN, "", text);
    else
        printf("%s%*s%s\n", left, (int)(HELP_COLUMN - len), "", text);
}

static void help_option(const struct cli_option *o)
{
    char left[96], letter[8] = "    ";

    if (o->letter)
        (void)snprintf(letter, sizeof(letter), "-%c, ", o->letter);
    (void)snprintf(left, sizeof(left), "  %s--%s%s%s", letter, o->name, o->arg ? " " : "",
                   o->arg ? o->arg : "");
    help_line(left, o->help);
}

void command_help(const struct command *cmd)
{
    printf("Usage: nexus %s [OPTION...]%s%s\n\n%s\n", cmd->name, cmd->synopsis[0] ? " " : "",
           cmd->synopsis, cmd->summary);
    if (cmd->description)
        printf("\n%s\n", cmd->description);
    printf("\nOptions:\n");
    for (const struct cli_option *o = cmd->options; o && o->name; o++)
        help_option(o);
    if (cmd->lists)
        help_line("  -o, --output FORMAT", "table (default) or json");
    help_line("      --address ADDRESS", "socket of the server (default " CLI_DEFAULT_ADDRESS ")");
    help_line("  -h, --help", "print this");
}

static bool set_value(const struct command *cmd, const struct cli_option *o, const char *arg)
{
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->value = true;
        return true;
    case OPTION_STRING:
        *(const char **)o->value = arg;
        return true;
    case OPTION_LIST:
        strv_push(o->value, arg);
        return true;
    case OPTION_NUMBER:
        if (parse_u64(arg, UINT32_MAX, o->value) == 0)
            return true;
        (void)cli_usage(cmd->name, "--%s takes a number, not %s", o->name, arg);
        return false;
    }
    return false;
}

/* The table as getopt wants it. letters has 2 * OPTIONS_MAX + 16 bytes. */
static void make_getopt(const struct command *cmd, struct option *longs, char *letters)
{
    size_t n = 0, l = 0;

    if (cmd->runs)
        letters[l++] = '+';
    letters[l++] = ':';
    for (const struct cli_option *o = cmd->options; o && o->name && n < OPTIONS_MAX; o++, n++) {
        longs[n] = (struct option){o->name, o->arg ? required_argument : no_argument, NULL,
                                   CODE_OWN + (int)n};
        if (o->letter)
            letters[l++] = o->letter;
        if (o->letter && o->arg)
            letters[l++] = ':';
    }
    longs[n++] = (struct option){"address", required_argument, NULL, CODE_ADDRESS};
    longs[n++] = (struct option){"help", no_argument, NULL, CODE_HELP};
    if (cmd->lists)
        longs[n++] = (struct option){"output", required_argument, NULL, CODE_OUTPUT};
    longs[n] = (struct option){NULL, 0, NULL, 0};
    letters[l] = '\0';
    strncat(letters, cmd->lists ? "ho:" : "h", 6);
}

static const struct cli_option *own_option(const struct command *cmd, int code)
{
    if (code >= CODE_OWN)
        return &cmd->options[code - CODE_OWN];
    for (const struct cli_option *o = cmd->options; o && o->name; o++)
        if (o->letter && o->letter == code)
            return o;
    return NULL;
}

/* One option. 0, or -1 - exit code. */
static int take_option(const struct command *cmd, struct cli *cli, int code, char **argv)
{
    const struct cli_option *o;

    switch (code) {
    case CODE_ADDRESS:
        cli->address = optarg;
        return 0;
    case CODE_HELP:
    case 'h':
        command_help(cmd);
        return -1 - CLI_OK;
    case ':':
        return -1 - cli_usage(cmd->name, "%s wants an argument", argv[optind - 1]);
    case '?':
        return -1 - cli_usage(cmd->name, "there is no option %s", argv[optind - 1]);
    default:
        break;
    }
    o = code == CODE_OUTPUT ? NULL : own_option(cmd, code);
    if (o)
        return set_value(cmd, o, optarg) ? 0 : -1 - CLI_USAGE;
    return option_set_output(cli, cmd->name, optarg) ? 0 : -1 - CLI_USAGE;
}

int options_parse(const struct command *cmd, struct cli *cli, int argc, char **argv)
{
    struct option longs[OPTIONS_MAX + 4];
    char letters[2 * OPTIONS_MAX + 16];
    int code, n;

    make_getopt(cmd, longs, letters);
    optind = 1;
    opterr = 0;
    while ((code = getopt_long(argc, argv, letters, longs, NULL)) >= 0) {
        int r = take_option(cmd, cli, code, argv);
        if (r < 0)
            return r;
    }
    n = argc - optind;
    memmove(argv, argv + optind, (size_t)(n + 1) * sizeof(*argv));
    if (cmd->runs && n > 1 && strcmp(argv[1], "--") == 0) {
        memmove(argv + 1, argv + 2, (size_t)(n - 1) * sizeof(*argv));
        n--;
    }
    if (n < cmd->min_args)
        return -1 - cli_usage(cmd->name, "%s is missing",
                              cmd->synopsis[0] == '[' ? "an argument" : "what to work on");
    if (cmd->max_args >= 0 && n > cmd->max_args)
        return -1 - cli_usage(cmd->name, "%s is one argument too many", argv[cmd->max_args]);
    return n;
}
