/* SPDX-License-Identifier: Apache-2.0 */
/* nexus: the person's command. Finds the subcommand and hands over. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/command.h"

static void print_help(void)
{
    printf("Usage: nexus [--address ADDRESS] COMMAND [OPTION...] [ARGUMENT...]\n\n"
           "Works with pods, containers and images of nexusd, or of another CRI server.\n\n"
           "Commands:\n");
    for (size_t i = 0; commands[i]; i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    printf("\nOptions:\n"
           "      --address ADDRESS   socket of the server (default " CLI_DEFAULT_ADDRESS ",\n"
           "                          or $NEXUS_ADDRESS)\n"
           "  -o, --output FORMAT     where a list is printed: table (default) or json\n"
           "      --version           print the version of nexus\n"
           "  -h, --help              print this; after a command, print its own help\n\n"
           "Exit codes: 0 done · 1 failed · 2 wrong command line · 3 the server does not answer.\n"
           "run and exec end with the code of the command they ran, or 125 if nexus failed.\n");
}

/* The value of the common option at argv[*i] ("--output=X", "--output X", "-o X"), or NULL. */
static const char *common_value(char **argv, int argc, int *i, const char *letter, const char *name)
{
    size_t len = strlen(name);

    if ((letter && strcmp(argv[*i], letter) == 0) || strcmp(argv[*i], name) == 0)
        return *i + 1 < argc ? argv[++*i] : "";
    if (strncmp(argv[*i], name, len) == 0 && argv[*i][len] == '=')
        return argv[*i] + len + 1;
    return NULL;
}

/* Options before the subcommand. Index of the subcommand, or -1 - exit code. */
static int parse_common(struct cli *cli, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value;

        if (argv[i][0] != '-')
            return i;
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            print_help();
            return -1 - CLI_OK;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("nexus %s\n", NEXUS_VERSION);
            return -1 - CLI_OK;
        }
        value = common_value(argv, argc, &i, NULL, "--address");
        if (value) {
            cli->address = value;
            continue;
        }
        value = common_value(argv, argc, &i, "-o", "--output");
        if (!value)
            return -1 - cli_usage(NULL, "there is no option %s", argv[i]);
        if (!option_set_output(cli, NULL, value))
            return -1 - CLI_USAGE;
    }
    print_help();
    return -1 - CLI_USAGE;
}

int main(int argc, char **argv)
{
    const char *address = getenv("NEXUS_ADDRESS");
    struct cli cli = {.address = address && *address ? address : CLI_DEFAULT_ADDRESS};
    const struct command *cmd;
    int at, n, code;

    log_init("nexus");
    (void)signal(SIGPIPE, SIG_IGN);
    at = parse_common(&cli, argc, argv);
    if (at < 0)
        return -1 - at;
    cmd = command_find(argv[at]);
    if (!cmd)
        return cli_usage(NULL, "there is no command %s", argv[at]);
    argv += at;
    n = options_parse(cmd, &cli, argc - at, argv);
    if (n < 0)
        return -1 - n;
    code = cmd->run(&cli, n, argv);
    grpc_client_free(cli.client);
    if (fflush(stdout) != 0 && code == CLI_OK)
        code = cli_say(CLI_FAILED, "cannot write the output");
    return code;
}
