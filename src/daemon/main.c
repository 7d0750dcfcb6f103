/* SPDX-License-Identifier: Apache-2.0 */
/* nexusd: the node daemon of Nexus-VMM. Options here, the rest in daemon.c. */
#include <getopt.h>
#include <stdio.h>

#include "base/log.h"
#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/journal.h"
#include "daemon/stream-check.h"
#include "pod/node.h"

static const char help[] =
    "Usage: nexusd [OPTION]…\n"
    "Serves CRI v1 on a unix socket and runs each pod in a microVM of its own.\n\n"
    "  -c, --config PATH   configuration (default: " CONFIG_DEFAULT_PATH ", which may be missing)\n"
    "      --check-config  read the configuration and the certificate it names, report\n"
    "                      the first mistake, and leave\n"
    "      --failpoints    list the names that NEXUS_FAILPOINTS understands, and leave\n"
    "      --version       print the version and leave\n"
    "  -h, --help          print this and leave\n\n"
    "SIGTERM and SIGINT end nexusd and leave the pods running; it finds them again when it "
    "starts.\n";

#ifdef NEXUS_FAILPOINTS
static void print_name(const char *name, void *userdata)
{
    (void)puts(name);
}

static int print_failpoints(void)
{
    node_each_failpoint(print_name, NULL);
    return 0;
}
#else
static int print_failpoints(void)
{
    (void)fputs("nexusd: built without failpoints\n", stderr);
    return 1;
}
#endif

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, 'k'},
        {"failpoints", no_argument, NULL, 'f'},   {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(config_done) struct config config;
    const char *path = NULL;
    int check = 0, option, r;

    log_init("nexusd");
    config_init(&config);
    while ((option = getopt_long(argc, argv, "c:h", options, NULL)) >= 0) {
        switch (option) {
        case 'c':
            path = optarg;
            break;
        case 'k':
            check = 1;
            break;
        case 'f':
            return print_failpoints();
        case 'v':
            (void)puts("nexusd " NEXUS_VERSION);
            return 0;
        case 'h':
            (void)fputs(help, stdout);
            return 0;
        default:
            return 2;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "nexusd: unexpected argument %s (see --help)\n", argv[optind]);
        return 2;
    }
    r = config_load(&config, path, &err);
    if (r >= 0)
        r = stream_check(&config, &err);
    if (r < 0 || check) {
        (void)fprintf(r < 0 ? stderr : stdout, "%s\n",
                      r < 0 ? error_text(err, r) : "the configuration is good");
        return r < 0 ? 1 : 0;
    }
    journal_set_up(config.log_target);
    if (!getenv("NEXUS_LOG"))
        log_set_level((enum log_level)log_level_parse(config.log_level));
    r = daemon_run(&config, &err);
    if (r < 0)
        log_error("cannot go on: %s", error_text(err, r));
    return r < 0 ? 1 : r;
}
