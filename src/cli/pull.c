/* SPDX-License-Identifier: Apache-2.0 */
/* nexus pull: images from registries. */
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/command.h"
#include "cli/pull-image.h"

static const char *arg_creds;
static bool arg_quiet;

/* One line of stdin; a terminal does not show it. NULL: there is none. */
static char *read_password(void)
{
    struct termios old, quiet;
    bool terminal = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &old) == 0;
    char line[1024];
    char *ok;

    if (terminal) {
        (void)fputs("Password: ", stderr);
        quiet = old;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    ok = fgets(line, sizeof(line), stdin);
    if (terminal) {
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
        (void)fputc('\n', stderr);
    }
    if (!ok)
        return NULL;
    line[strcspn(line, "\r\n")] = '\0';
    return str_dup(line);
}

static int run_pull(struct cli *cli, int argc, char **argv)
{
    _cleanup_(freep) char *username = str_dup_or_null(arg_creds), *password = NULL;
    struct pull_auth auth = {.username = username};
    int r;

    if (username) {
        char *colon = strchr(username, ':');

        if (colon) {
            *colon = '\0';
            password = str_dup(colon + 1);
        } else {
            password = read_password();
        }
        if (!password)
            return cli_usage("pull", "--creds %s has no password, and stdin has none", username);
        auth.password = password;
    }
    r = cli_connect(cli);
    for (int i = 0; r == 0 && i < argc; i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        _cleanup_(freep) char *ref = NULL;

        r = pull_image(cli, argv[i], &auth, arg_quiet, &ref, &err);
        if (r < 0)
            return cli_fail(r, err, "cannot pull %s", argv[i]);
        printf("%s\n", ref);
        (void)fflush(stdout);
    }
    return r;
}

static const struct cli_option options[] = {
    {0, "creds", "USER[:PASSWORD]", "credentials; without a password it is read from stdin",
     OPTION_STRING, &arg_creds},
    {'q', "quiet", NULL, "no progress", OPTION_FLAG, &arg_quiet},
    {0},
};

const struct command command_pull = {
    .name = "pull",
    .synopsis = "IMAGE...",
    .summary = "Pull images from their registries.",
    .description = "Prints the id of each image. Progress goes to stderr: one changing line on a\n"
                   "terminal, a line for each tenth otherwise.",
    .options = options,
    .min_args = 1,
    .max_args = -1,
    .run = run_pull,
};
