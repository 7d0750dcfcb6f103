/* SPDX-License-Identifier: Apache-2.0 */
/* A machine without a pod: boots the test guest and plays the host's part. Lines of the guest steer it:
 * "want region N" adds the next file as a region, "released" removes the newest one, "truncate" cuts the
 * first file to half a MiB. Everything the guest says goes to stdout, then the end and the counters.
 *   vmm-driver KERNEL INITRAMFS CPUS MEMORY CMDLINE [FILE...] */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/numparse.h"
#include "event/loop.h"
#include "lib/driver.h"
#include "vmm/machine.h"

struct driver {
    struct loop *loop;
    struct machine *machine;
    char **files;
    size_t n_files, next;
    uint64_t gpa; /* of the newest region */
    char line[1024];
    size_t used;
    enum machine_end end;
    char detail[256];
};

static void add_region(struct driver *d)
{
    _cleanup_(error_freep) struct error *err = NULL;
    const char *path = d->files[d->next++ % d->n_files];
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t bytes, mapped;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        die(path, NULL, -errno);
    bytes = ((uint64_t)st.st_size + 4095) & ~4095ULL;
    r = machine_add_region(d->machine, path, "a file", &fd, &bytes, NULL, 1, false, &d->gpa,
                           &mapped, &err);
    if (r < 0)
        die("add_region", err, r);
    printf("driver: region at 0x%" PRIx64 " of %" PRIu64 " bytes\n", d->gpa, mapped);
}

static void on_line(struct driver *d)
{
    puts(d->line);
    if (strstr(d->line, "test: want region"))
        add_region(d);
    if (strstr(d->line, "test: released"))
        printf("driver: removal gives %d\n", machine_remove_region(d->machine, d->gpa));
    if (strstr(d->line, "test: truncate"))
        printf("driver: truncation gives %d\n", truncate(d->files[0], 512 << 10));
    (void)fflush(stdout);
}

static void on_console(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct driver *d = userdata;
    char buf[1024];
    ssize_t n = read(fd, buf, sizeof(buf));

    if (n <= 0) {
        loop_io_set(s, 0);
        return;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (buf[i] == '\r')
            continue;
        if (buf[i] != '\n' && d->used + 1 < sizeof(d->line)) {
            d->line[d->used++] = buf[i];
            continue;
        }
        d->line[d->used] = 0;
        d->used = 0;
        on_line(d);
    }
}

static void print_counter(void *ctx, const char *name, uint64_t value)
{
    if (value)
        printf("counter: %s %" PRIu64 "\n", name, value);
}

static void on_ended(enum machine_end end, const char *detail, void *userdata)
{
    struct driver *d = userdata;

    d->end = end;
    (void)snprintf(d->detail, sizeof(d->detail), "%s", detail);
    loop_exit(d->loop, 0);
}

int main(int argc, char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct driver d = {.files = argv + 6};
    struct machine_config cfg = {.tap_fd = -1, .scratch_fd = -1, .spawn_ns = clock_mono_ns()};
    int pipes[2], r;

    if (argc < 6 || parse_u32(argv[3], 64, &cfg.cpus) < 0 ||
        parse_size(argv[4], UINT64_MAX, &cfg.ram_bytes) < 0)
        die("usage: vmm-driver KERNEL INITRAMFS CPUS MEMORY CMDLINE [FILE...]", NULL, -EINVAL);
    log_init("vmm-driver");
    d.n_files = (size_t)argc - 6;
    cfg.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    cfg.kernel_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    cfg.initramfs_fd = open(argv[2], O_RDONLY | O_CLOEXEC);
    cfg.cmdline_append = argv[5];
    if (cfg.kvm_fd < 0 || cfg.kernel_fd < 0 || cfg.initramfs_fd < 0 || pipe2(pipes, O_CLOEXEC) < 0)
        die("opening", NULL, -errno);
    cfg.console_fd = pipes[1];
    r = loop_new(&d.loop);
    if (r >= 0)
        r = loop_add_io(d.loop, pipes[0], LOOP_READ, on_console, &d, &(struct loop_source *){NULL});
    if (r < 0)
        die("loop", NULL, r);
    r = machine_new(d.loop, &cfg, on_ended, &d, &d.machine, &err);
    if (r >= 0)
        r = machine_start(d.machine, &err);
    if (r < 0)
        die("machine", err, r);
    r = loop_run(d.loop);
    while (loop_turn(d.loop, 0) > 0) /* what it still said */
        ;
    printf("driver: end %s (%s)\n", machine_end_name(d.end), d.detail);
    machine_counters(d.machine, print_counter, NULL);
    machine_free(d.machine);
    loop_free(d.loop);
    return r;
}
