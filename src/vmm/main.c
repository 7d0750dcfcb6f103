/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-vmm: one pod's virtual machine. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "vmm/options.h"
#include "vmm/program.h"
#include "vmm/resources.h"

/* A message may carry many descriptors at a time. */
static void raise_open_files(void)
{
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return;
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        log_warning_errno(-errno, "limit of open files stays where it was");
}

/* Where rights will be given up: everything is open, no thread exists, no guest byte was read. */
static int confine(void)
{
    return 0;
}

static int fail(enum exit_code code, const struct error *err, int r)
{
    (void)fprintf(stderr, "nexus-vmm: %s", error_text(err, r));
    if (code != EXIT_CODE_USAGE)
        (void)fprintf(stderr, ": %s", strerror(-r));
    (void)fprintf(stderr, "%s\n", code == EXIT_CODE_USAGE ? "; see nexus-vmm --help" : "");
    return (int)code;
}

int main(int argc, char **argv)
{
    uint64_t spawn_ns = clock_mono_ns();
    _cleanup_(error_freep) struct error *err = NULL;
    struct resources res;
    struct options options;
    int r;

    log_init("nexus-vmm");
    r = options_parse(argc, argv, &options, &err);
    if (r < 0)
        return fail(EXIT_CODE_USAGE, err, r);
    if (options.help || options.version) {
        (void)fputs(options.help ? options_usage() : "nexus-vmm " NEXUS_VERSION "\n", stdout);
        return EXIT_CODE_OK;
    }
    r = resources_open(&options, &res, &err);
    if (r < 0)
        return fail(EXIT_CODE_SETUP, err, r);
    raise_open_files();
    LOG_SCOPE(vm, "vm", options.id);
    r = confine();
    if (r >= 0)
        r = program_run(&options, &res, spawn_ns, &err);
    resources_close(&res);
    return r < 0 ? fail(EXIT_CODE_SETUP, err, r) : r;
}
