/* SPDX-License-Identifier: Apache-2.0 */
/* agent-drive AGENT BUSYBOX PROBE [--guest] [CASE] | agent-drive --list: runs the real nexus-agent over unix sockets and
 * holds it to its promises, one line per case. Needs root; everything happens in namespaces it makes,
 * or (--guest) it is PID 1 of a throw-away guest and ends by powering it off. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/str.h"
#include "cases.h"

const char *probe_program;
static unsigned passed, failed, skipped;

static bool has_memory_controller(const struct drive *d)
{
    _cleanup_(freep) char *path = str_printf("%s/cgroup/cgroup.controllers", d->dir);
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    _cleanup_(freep) char *text = NULL;

    return fd >= 0 && fd_read_all(fd, 4096, &text, NULL) == 0 && strstr(text, "memory");
}

static void run_one(struct drive *d, const struct drive_case *c)
{
    if (c->needs_controllers && !has_memory_controller(d)) {
        (void)printf("skip %s (no cgroup v2 controllers here)\n", c->name);
        skipped++;
        return;
    }
    if (setjmp(case_jump) == 0) {
        c->run(d);
        (void)printf("ok %s\n", c->name);
        passed++;
    } else {
        (void)printf("not ok %s\n", c->name);
        failed++;
    }
    (void)fflush(stdout);
}

static void run_group(struct drive *d, const struct drive_case *cases, size_t n, const char *only)
{
    for (size_t i = 0; i < n; i++)
        if (!only || strcmp(cases[i].name, only) == 0 || strncmp(cases[i].name, "setup", 5) == 0)
            run_one(d, &cases[i]);
}

static void list_cases(const struct drive_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (void)printf("%s\n", cases[i].name);
}

static void stop(struct drive *d)
{
    drive_stop(d);
}

static void prepare_guest(void)
{
    (void)mkdir("/proc", 0755);
    (void)mkdir("/sys", 0755);
    (void)mkdir("/dev", 0755);
    (void)mkdir("/tmp", 0755);
    (void)mount("proc", "/proc", "proc", 0, NULL);
    (void)mount("sysfs", "/sys", "sysfs", 0, NULL);
    (void)mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
}

int main(int argc, char **argv)
{
    static struct drive d;
    const struct drive_case end = {.name = "shuts_down_and_ends_with_0", .run = stop};
    static const char *only;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list_cases(container_cases, n_container_cases);
        list_cases(exec_cases, n_exec_cases);
        list_cases(limit_cases, n_limit_cases);
        list_cases(termination_cases, n_termination_cases);
        list_cases(forward_cases, n_forward_cases);
        list_cases(security_cases, n_security_cases);
        list_cases(&end, 1);
        return 0;
    }
    if (argc < 4) {
        (void)fprintf(stderr, "usage: agent-drive AGENT BUSYBOX PROBE [--guest] [CASE]\n");
        return 2;
    }
    probe_program = argv[3];
    for (int i = 4; i < argc; i++) {
        if (strcmp(argv[i], "--guest") == 0)
            d.is_guest = true;
        else
            only = argv[i];
    }
    if (d.is_guest)
        prepare_guest();
    else if (geteuid() != 0) {
        (void)printf("skipped: needs root\n");
        return 77;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    if (setjmp(case_jump) != 0) {
        (void)printf("not ok start\n");
        return 1;
    }
    drive_start(&d, argv[1], argv[2]);
    run_group(&d, container_cases, n_container_cases, only);
    run_group(&d, exec_cases, n_exec_cases, only);
    run_group(&d, limit_cases, n_limit_cases, only);
    run_group(&d, termination_cases, n_termination_cases, only);
    run_group(&d, forward_cases, n_forward_cases, only);
    run_group(&d, security_cases, n_security_cases, only);
    run_one(&d, &end);
    (void)printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    (void)fflush(stdout);
    return failed != 0;
}
