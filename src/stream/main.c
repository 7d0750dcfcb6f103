/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-stream: what exec, attach and port-forward clients connect to. Started by nexusd, which it outlives. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/fdpass.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"
#include "stream/confine.h"
#include "stream/server.h"
#include "stream/tls.h"

#define SPAN_MAX_MS (24ULL * 3600 * 1000)

static const char help[] =
    "Usage: nexus-stream --control fd:N --vmm-dir fd:N [OPTION]…\n"
    "       nexus-stream --check-tls CERTIFICATE KEY [CLIENT-CA]\n"
    "Serves exec, attach and port-forward clients. nexusd starts it and finds it again.\n\n"
    "      --control fd:N     listening unix socket on which nexusd makes its offers\n"
    "      --vmm-dir fd:N     directory of the control sockets of nexus-vmm\n"
    "      --address IP       where clients come in (default: 127.0.0.1)\n"
    "      --tls              with TLS; nexusd brings the certificate\n"
    "      --check-tls        say if these files could be that certificate, and leave\n"
    "      --idle SPAN        a client that is silent for so long is left (default: 4h)\n"
    "      --forsaken SPAN    end without nexusd and clients for so long (default: 10m)\n"
    "      --version          print the version and leave\n"
    "  -h, --help             print this and leave\n";

/* "fd:N" of an open descriptor, or -1. */
static int parse_fd(const char *text)
{
    uint32_t fd;

    if (!str_starts(text, "fd:") || parse_u32(text + 3, 1023, &fd) < 0 ||
        fcntl((int)fd, F_GETFD) < 0)
        return -1;
    (void)fd_set_cloexec((int)fd, 1);
    return (int)fd;
}

static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata)
{
    log_notice("ending on signal %u", si->ssi_signo);
    return sd_event_exit(sd_event_source_get_event(source), 0);
}

static int run(const struct server_config *config, struct error **err)
{
    _cleanup_(server_freep) struct server *server = NULL;
    sd_event *event = NULL;
    sigset_t set;
    int r = sd_event_new(&event);

    if (r < 0)
        return error_set(err, r, "cannot make an event loop: %s", strerror(-r));
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    (void)sd_event_add_signal(event, NULL, SIGTERM, on_terminate, NULL);
    (void)sd_event_add_signal(event, NULL, SIGINT, on_terminate, NULL);
    r = server_new(event, config, &server, err);
    if (r >= 0)
        r = confine(err);
    if (r >= 0) {
        log_notice("serving streams on %s", server_url(server));
        r = sd_event_loop(event);
    }
    server_free(TAKE(server));
    sd_event_unref(event);
    return r;
}

/* ---- --check-tls */

static int read_pem(const char *path, char **ret, size_t *ret_len, struct error **err)
{
    int r = file_read_all(AT_FDCWD, path, LIMIT_STREAM_PEM_BYTES, ret, ret_len);

    return r < 0 ? error_set(err, r, "%s: %s", path, strerror(-r)) : 0;
}

static int check_tls(char **paths, int n)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(tls_context_freep) struct tls_context *tls = NULL;
    char *texts[3] = {NULL};
    size_t lens[3] = {0};
    int r = n == 2 || n == 3 ? tls_prepare(&err) : -EINVAL;

    if (r < 0 && !err) {
        (void)fputs("nexus-stream: --check-tls takes two or three files (see --help)\n", stderr);
        return 2;
    }
    for (int i = 0; r >= 0 && i < n; i++)
        r = read_pem(paths[i], &texts[i], &lens[i], &err);
    if (r >= 0) {
        const struct tls_pem pem = {texts[0], lens[0], texts[1], lens[1], texts[2], lens[2]};

        r = tls_context_new(&pem, &tls, &err);
    }
    if (r >= 0 && n == 3 && lens[2] == 0)
        r = error_set(&err, -EINVAL, "%s is empty", paths[2]);
    if (r < 0)
        (void)fprintf(stderr, "%s\n", error_text(err, r));
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        if (texts[i])
            explicit_bzero(texts[i], lens[i]);
        free(texts[i]);
    }
    return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"control", required_argument, NULL, 'c'},  {"vmm-dir", required_argument, NULL, 'd'},
        {"address", required_argument, NULL, 'a'},  {"tls", no_argument, NULL, 't'},
        {"check-tls", no_argument, NULL, 'k'},      {"idle", required_argument, NULL, 'i'},
        {"forsaken", required_argument, NULL, 'f'}, {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0},
    };
    struct server_config config = {.control_fd = -1,
                                   .vmm_dirfd = -1,
                                   .address = "127.0.0.1",
                                   .idle_ms = 4ULL * 3600 * 1000,
                                   .forsaken_ms = 10ULL * 60 * 1000};
    _cleanup_(error_freep) struct error *err = NULL;
    int option, r = 0;

    log_init("nexus-stream");
    while ((option = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
        switch (option) {
        case 'c':
            config.control_fd = parse_fd(optarg);
            break;
        case 'd':
            config.vmm_dirfd = parse_fd(optarg);
            break;
        case 'a':
            config.address = optarg;
            break;
        case 't':
            config.tls = true;
            break;
        case 'k':
            return check_tls(argv + optind, argc - optind);
        case 'i':
            r = parse_span_ms(optarg, SPAN_MAX_MS, &config.idle_ms);
            break;
        case 'f':
            r = parse_span_ms(optarg, SPAN_MAX_MS, &config.forsaken_ms);
            break;
        case 'v':
            (void)puts("nexus-stream " NEXUS_VERSION);
            return 0;
        case 'h':
            (void)fputs(help, stdout);
            return 0;
        default:
            return 2;
        }
        if (r < 0) {
            (void)fprintf(stderr, "nexus-stream: %s is no time span\n", optarg);
            return 2;
        }
    }
    if (optind < argc || config.control_fd < 0 || config.vmm_dirfd < 0) {
        (void)fputs("nexus-stream: --control and --vmm-dir are descriptors (see --help)\n", stderr);
        return 2;
    }
    r = run(&config, &err);
    if (r < 0)
        log_error("cannot go on: %s", error_text(err, r));
    return r < 0 ? 1 : 0;
}
