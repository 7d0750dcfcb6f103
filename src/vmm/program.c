/* SPDX-License-Identifier: Apache-2.0 */
/* Wiring. With a control socket the process outlives its guest, so that nexusd can ask what happened;
 * without one its exit code tells. */
#include "vmm/program.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/str.h"
#include "event/loop.h"
#include "vmm/supervisor.h"
#include "vmm/transport-vsock.h"

#define SHARE_TAG "nexus" /* the agent mounts it by that */
#define POWEROFF_GRACE_MS 5000U
#define COUNTERS_BYTES_MAX (64U << 10)

struct program {
    const struct options *options;
    struct resources *res;
    struct loop *loop;
    struct machine *machine;
    struct transport_vsock *transport;
    struct supervisor *supervisor;
    struct loop_source *signals, *hello_timer;
    int signal_fd;
    uint64_t spawn_ns;
    bool has_control; /* nexusd decides when it ends */
    bool said_hello;
    bool finishing; /* exit code 0 whatever comes */
};

enum exit_code exit_code_of(enum machine_end end)
{
    switch (end) {
    case MACHINE_POWEROFF:
        return EXIT_CODE_OK;
    case MACHINE_RESET:
        return EXIT_CODE_RESET;
    case MACHINE_PANIC:
        return EXIT_CODE_PANIC;
    case MACHINE_TRIPLE_FAULT:
        return EXIT_CODE_TRIPLE_FAULT;
    case MACHINE_INTERNAL_ERROR:
        return EXIT_CODE_INTERNAL_ERROR;
    case MACHINE_STOPPED:
        return EXIT_CODE_STOPPED;
    }
    return EXIT_CODE_SETUP;
}

static Nexus__VmmState__End control_end_of(enum machine_end end)
{
    switch (end) {
    case MACHINE_POWEROFF:
        return NEXUS__VMM_STATE__END__POWEROFF;
    case MACHINE_RESET:
        return NEXUS__VMM_STATE__END__RESET;
    case MACHINE_PANIC:
        return NEXUS__VMM_STATE__END__PANIC;
    case MACHINE_TRIPLE_FAULT:
        return NEXUS__VMM_STATE__END__TRIPLE_FAULT;
    case MACHINE_INTERNAL_ERROR:
        return NEXUS__VMM_STATE__END__INTERNAL_ERROR;
    case MACHINE_STOPPED:
        return NEXUS__VMM_STATE__END__KILLED;
    }
    return NEXUS__VMM_STATE__END__INTERNAL_ERROR;
}

/* ---------------------------------------------------------------- counters */

static void add_json(void *ctx, const char *name, uint64_t value)
{
    struct buf *b = ctx;

    (void)buf_printf(b, "%s\"%s\":%" PRIu64, b->data[b->used - 1] == '{' ? "" : ",", name, value);
}

static void add_exit_json(void *ctx, const char *name, uint64_t value)
{
    if (str_starts(name, "kvm.exit."))
        add_json(ctx, name + strlen("kvm.exit."), value);
}

static void write_counters(struct program *p)
{
    struct buf b;

    if (p->res->counters < 0)
        return;
    buf_init(&b, COUNTERS_BYTES_MAX);
    (void)buf_printf(&b, "{");
    machine_counters(p->machine, add_json, &b);
    if (buf_printf(&b, "}\n") < 0 || write_full(p->res->counters, b.data, b.used) < 0)
        log_warning("the counters could not be written");
    buf_done(&b);
}

/* The line of --until-hello, on stdout. */
static void print_hello(struct program *p, const Nexus__AgentHello *hello)
{
    uint64_t now = clock_mono_ns(), first = machine_first_run_ns(p->machine);
    struct buf b;

    buf_init(&b, COUNTERS_BYTES_MAX);
    (void)buf_printf(&b, "{\"hello_ns\":%" PRIu64 ",\"spawn_to_kvm_run_ns\":%" PRIu64,
                     now - p->spawn_ns, first ? first - p->spawn_ns : 0);
    (void)buf_printf(&b, ",\"guest_boot_ns\":%" PRIu64 ",\"guest_ready_ns\":%" PRIu64,
                     hello->boot_ns, hello->ready_ns);
    (void)buf_printf(&b, ",\"exits\":{");
    machine_counters(p->machine, add_exit_json, &b);
    (void)buf_printf(&b, "},\"counters\":{");
    machine_counters(p->machine, add_json, &b);
    if (buf_printf(&b, "}}\n") < 0 || write_full(STDOUT_FILENO, b.data, b.used) < 0)
        log_warning("the hello line could not be written");
    buf_done(&b);
}

/* ---------------------------------------------------------------- what the supervisor asks for */

static int host_add_region(void *ud, const char *key, const char *what, const int *fds,
                           const uint64_t *segment_bytes, char *const *names, size_t n, bool more,
                           uint64_t *ret_gpa, uint64_t *ret_bytes, struct error **err)
{
    struct program *p = ud;

    return machine_add_region(p->machine, key, what, fds, segment_bytes, names, n, more, ret_gpa,
                              ret_bytes, err);
}

static void host_forget_region(void *ud, const char *key)
{
    struct program *p = ud;

    machine_forget_region(p->machine, key);
}

static uint32_t host_region_device(void *ud, uint64_t gpa)
{
    struct program *p = ud;

    return machine_region_device(p->machine, gpa);
}

static bool host_region_is_driven(void *ud, uint64_t gpa)
{
    struct program *p = ud;

    return machine_region_is_driven(p->machine, gpa);
}

static void host_count_region(void *ud, uint64_t gpa, uint64_t *ret_denied, uint64_t *ret_repaired)
{
    struct program *p = ud;

    machine_count_region(p->machine, gpa, ret_denied, ret_repaired);
}

static int host_remove_region(void *ud, uint64_t gpa)
{
    struct program *p = ud;

    return machine_remove_region(p->machine, gpa);
}

static bool host_may_park(void *ud, uint64_t gpa)
{
    struct program *p = ud;

    return machine_may_park(p->machine, gpa);
}

static int host_park_region(void *ud, uint64_t gpa)
{
    struct program *p = ud;

    return machine_park_region(p->machine, gpa);
}

static int host_add_share(void *ud, int fd, void (*done)(void *ctx, int r), void *ctx)
{
    struct program *p = ud;

    return machine_add_share(p->machine, fd, SHARE_TAG, done, ctx);
}

static int host_share_state(void *ud, uint32_t *ret_device)
{
    struct program *p = ud;

    *ret_device = machine_share_device();
    switch (machine_share_state(p->machine)) {
    case MACHINE_SHARE_LIVE:
        return 0;
    case MACHINE_SHARE_LOST:
        return -EIO;
    case MACHINE_SHARE_NONE:
    default:
        return -ENOENT;
    }
}

static void host_stop_vm(void *ud)
{
    struct program *p = ud;

    machine_stop(p->machine);
}

static void host_exit_process(void *ud, int code)
{
    struct program *p = ud;

    loop_exit(p->loop, code);
}

static void host_counters(void *ud, supervisor_counter_fn add, void *ctx)
{
    struct program *p = ud;

    machine_counters(p->machine, add, ctx);
}

static const struct supervisor_host_ops host_ops = {
    .add_region = host_add_region,
    .forget_region = host_forget_region,
    .region_device = host_region_device,
    .region_is_driven = host_region_is_driven,
    .count_region = host_count_region,
    .remove_region = host_remove_region,
    .may_park = host_may_park,
    .park_region = host_park_region,
    .add_share = host_add_share,
    .share_state = host_share_state,
    .stop_vm = host_stop_vm,
    .exit_process = host_exit_process,
    .counters = host_counters,
};

/* ---------------------------------------------------------------- events */

static void on_ended(enum machine_end end, const char *detail, void *userdata)
{
    struct program *p = userdata;

    log_info("guest ended: %s (%s)", machine_end_name(end), detail);
    supervisor_vm_ended(p->supervisor, control_end_of(end), detail);
    if (p->has_control)
        return;
    if (p->finishing)
        loop_exit(p->loop, EXIT_CODE_OK);
    else if (p->options->until_hello && !p->said_hello && end == MACHINE_STOPPED)
        loop_exit(p->loop, EXIT_CODE_NO_HELLO);
    else
        loop_exit(p->loop, (int)exit_code_of(end));
}

static void add_stage(void *ctx, const char *name, uint64_t value)
{
    struct buf *b = ctx;
    size_t len = strlen(name);

    if (str_starts(name, "boot.") && len > 8 && strcmp(name + len - 3, "_ns") == 0)
        (void)buf_printf(b, " %.*s=%" PRIu64 "us", (int)len - 8, name + 5, value / 1000);
}

/* Since the process began (spawned: on the monotonic clock); the guest's own since its kernel did. */
static void log_stages(struct program *p, const Nexus__AgentHello *hello)
{
    struct buf b;

    buf_init(&b, COUNTERS_BYTES_MAX);
    machine_counters(p->machine, add_stage, &b);
    log_info("guest booted: spawned=%" PRIu64 "us%.*s hello=%" PRIu64 "us guest_init=%" PRIu64
             "us guest_early=%" PRIu64 "us guest_ready=%" PRIu64 "us",
             p->spawn_ns / 1000, (int)b.used, (const char *)b.data,
             (clock_mono_ns() - p->spawn_ns) / 1000, hello->boot_ns / 1000, hello->early_ns / 1000,
             hello->ready_ns / 1000);
    buf_done(&b);
}

static void on_hello(void *userdata, const Nexus__AgentHello *hello)
{
    struct program *p = userdata;

    p->said_hello = true;
    log_stages(p, hello);
    if (p->has_control)
        return;
    loop_timer_set(p->hello_timer, UINT64_MAX);
    print_hello(p, hello);
    p->finishing = true;
    supervisor_shutdown(p->supervisor, POWEROFF_GRACE_MS);
}

static void on_hello_timeout(struct loop_source *s, void *userdata)
{
    struct program *p = userdata;

    (void)s;
    log_error("the agent did not say hello within %" PRIu64 " ms", p->options->hello_timeout_ms);
    machine_stop(p->machine);
}

static void on_signal(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct program *p = userdata;
    struct signalfd_siginfo info;

    (void)s;
    (void)events;
    if (read(fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (!p->has_control) {
        p->said_hello = true; /* it is not the agent that is missing */
        machine_stop(p->machine);
    } else if (info.ssi_signo == SIGTERM) {
        supervisor_shutdown(p->supervisor, 0);
    }
}

/* ---------------------------------------------------------------- set-up */

static int watch_signals(struct program *p)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (p->signal_fd < 0)
        return -errno;
    return loop_add_io(p->loop, p->signal_fd, LOOP_READ, on_signal, p, &p->signals);
}

static int start_machine(struct program *p, struct error **err)
{
    const struct options *o = p->options;
    struct machine_config cfg = {
        .cpus = o->cpus,
        .ram_bytes = o->memory_bytes,
        .kvm_fd = p->res->kvm,
        .kernel_fd = p->res->kernel,
        .initramfs_fd = p->res->initramfs,
        .tap_fd = p->res->net,
        .scratch_fd = p->res->scratch,
        .console_fd = p->res->console,
        .mtu = o->mtu,
        .cmdline_append = o->cmdline_append,
        .id = o->id,
        .spawn_ns = p->spawn_ns,
    };

    memcpy(cfg.mac, o->mac, sizeof(cfg.mac));
    return machine_new(p->loop, &cfg, on_ended, p, &p->machine, err);
}

static int start_supervisor(struct program *p)
{
    int r = transport_vsock_new(machine_vsock(p->machine), &p->transport);

    if (r < 0)
        return r;
    r = supervisor_new(p->loop, transport_vsock_transport(p->transport),
                       p->has_control ? p->res->control : -1, &host_ops, p, &p->supervisor);
    if (r < 0)
        return r;
    if (p->has_control)
        p->res->control = -EBADF; /* the supervisor's now */
    supervisor_set_sandbox_id(p->supervisor, p->options->id);
    if (p->has_control || p->options->until_hello)
        supervisor_on_hello(p->supervisor, on_hello, p);
    if (!p->options->until_hello)
        return 0;
    r = loop_add_timer(p->loop, on_hello_timeout, p, &p->hello_timer);
    if (r >= 0)
        loop_timer_set_after_ms(p->hello_timer, p->options->hello_timeout_ms);
    return r;
}

static int start(struct program *p, struct error **err)
{
    int r = loop_new(&p->loop);

    if (r >= 0)
        r = watch_signals(p);
    if (r < 0)
        return error_set(err, r, "event loop");
    r = start_machine(p, err);
    if (r < 0)
        return r;
    r = start_supervisor(p);
    if (r < 0)
        return error_set(err, r, "supervisor");
    return machine_start(p->machine, err);
}

static void program_done(struct program *p)
{
    supervisor_free(p->supervisor);
    transport_vsock_free(p->transport);
    machine_free(p->machine);
    loop_remove(p->hello_timer);
    loop_remove(p->signals);
    p->signal_fd = close_fd(p->signal_fd);
    loop_free(p->loop);
}

int program_run(const struct options *options, struct resources *res, uint64_t spawn_ns,
                struct error **err)
{
    struct program p = {
        .options = options,
        .res = res,
        .signal_fd = -EBADF,
        .spawn_ns = spawn_ns,
        .has_control = res->control >= 0 && !options->until_hello,
    };
    int r = start(&p, err);

    if (r >= 0) {
        r = loop_run(p.loop);
        write_counters(&p);
    }
    program_done(&p);
    return r;
}
