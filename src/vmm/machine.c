/* SPDX-License-Identifier: Apache-2.0 */
/* Assembly of the machine, the vCPU threads, and how it ends. An end is noted by whoever sees it first
 * (a vCPU thread, or machine_stop), stops every vCPU, and is reported from the loop once all threads
 * are gone. */
#include "vmm/machine.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "event/loop.h"
#include "kvm/boot.h"
#include "kvm/bus.h"
#include "kvm/gmem.h"
#include "kvm/serial.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "mapper/fault.h"
#include "vmm/cmdline.h"
#include "vmm/console.h"
#include "vmm/machine-internal.h"

#define VCPU_STACK_BYTES (256U << 10)

const char *machine_end_name(enum machine_end end)
{
    static const char *const names[MACHINE_END_COUNT] = {
        "power-off", "reset", "panic", "triple fault", "internal error", "stopped"};

    return (unsigned)end < MACHINE_END_COUNT ? names[end] : "?";
}

static void stage_done(struct machine *m, enum boot_stage stage)
{
    m->stage_ns[stage] = clock_mono_ns() - m->cfg.spawn_ns;
}

/* ---------------------------------------------------------------- the end */

static void stop_vcpus(struct machine *m)
{
    for (uint32_t i = 0; i < m->cfg.cpus; i++)
        if (m->vcpus[i].vcpu)
            vcpu_stop(m->vcpus[i].vcpu);
}

/* Any thread. The first end counts; on_ended comes from the loop. */
static void note_end(struct machine *m, enum machine_end end, const char *detail)
{
    const uint64_t one = 1;
    bool first;

    (void)pthread_mutex_lock(&m->end_lock);
    first = !m->ended;
    if (first) {
        m->ended = true;
        m->end = end;
        (void)snprintf(m->end_detail, sizeof(m->end_detail), "%s", detail);
    }
    (void)pthread_mutex_unlock(&m->end_lock);
    if (!first)
        return;
    stop_vcpus(m);
    if (write(m->end_fd, &one, sizeof(one)) < 0)
        log_debug("end of the machine already signalled");
}

/* A reset or triple fault right after a panic is that panic. */
static void note_end_or_panic(struct machine *m, enum machine_end end, const char *detail)
{
    char text[sizeof(m->end_detail)];

    if (console_panic(m->console, text, sizeof(text)))
        note_end(m, MACHINE_PANIC, text);
    else
        note_end(m, end, detail);
}

static void vcpu_ended(struct machine *m, const struct vcpu_result *result)
{
    switch (result->end) {
    case VCPU_END_STOPPED:
        break;
    case VCPU_END_TRIPLE_FAULT:
        note_end_or_panic(m, MACHINE_TRIPLE_FAULT, result->detail);
        break;
    case VCPU_END_SYSTEM_EVENT:
        note_end_or_panic(m, MACHINE_RESET, result->detail);
        break;
    case VCPU_END_FAULT:
    case VCPU_END_INTERNAL_ERROR:
        note_end(m, MACHINE_INTERNAL_ERROR, result->detail);
        break;
    }
}

static void join_vcpus(struct machine *m)
{
    stop_vcpus(m);
    machine_devices_stop(m); /* a vCPU may wait for this thread to serve a register write */
    for (uint32_t i = 0; i < m->cfg.cpus; i++) {
        if (m->vcpus[i].started)
            (void)pthread_join(m->vcpus[i].thread, NULL);
        m->vcpus[i].started = false;
    }
}

/* A guest that is over holds no memory, however long its process is still asked about it. What it put
 * into the vsock's rings is taken first: whoever heard on_ended does that on the loop's next turn. */
static void on_release(struct loop_source *s, void *userdata)
{
    struct machine *m = userdata;
    struct gmem_slot slot;

    if (m->release_turns-- > 0) {
        loop_defer_arm(s);
        return;
    }
    machine_devices_quiesce(m);
    for (unsigned i = 0; i < GMEM_SLOTS; i++)
        if (gmem_slot_get(m->mem, i, &slot) && !slot.readonly)
            (void)gmem_discard(m->mem, slot.gpa, slot.len);
}

static void on_end(struct loop_source *s, int fd, unsigned events, void *userdata)
{
    struct machine *m = userdata;
    uint64_t n;

    (void)s;
    (void)events;
    if (read(fd, &n, sizeof(n)) < 0 || m->reported)
        return;
    m->reported = true;
    join_vcpus(m);
    machine_devices_release(m);
    m->on_ended(m->end, m->end_detail, m->userdata);
    m->release_turns = 1;
    loop_defer_arm(m->release);
}

void machine_stop(struct machine *m)
{
    note_end(m, MACHINE_STOPPED, "stopped by the host");
}

/* ---------------------------------------------------------------- ports */

#define SLEEP_ENABLE 0x20U
#define SLEEP_TYPE(v) ((unsigned)(v) >> 2 & 7U)
#define S5 5U
#define SLEEP_WOKEN 0x80U

static void sleep_write(void *userdata, uint64_t offset, const void *data, uint32_t len)
{
    const uint8_t *v = data;

    (void)len;
    if (offset == 0 && (*v & SLEEP_ENABLE) && SLEEP_TYPE(*v) == S5)
        note_end(userdata, MACHINE_POWEROFF, "the guest powered off");
}

static void sleep_read(void *userdata, uint64_t offset, void *data, uint32_t len)
{
    (void)userdata;
    memset(data, 0, len);
    if (offset == 1)
        *(uint8_t *)data = SLEEP_WOKEN;
}

static void reset_write(void *userdata, uint64_t offset, const void *data, uint32_t len)
{
    (void)offset;
    (void)len;
    if (*(const uint8_t *)data == LAYOUT_RESET_VALUE)
        note_end_or_panic(userdata, MACHINE_RESET, "the guest reset itself");
}

#define PVPANIC_PANICKED 1U

static void pvpanic_read(void *userdata, uint64_t offset, void *data, uint32_t len)
{
    (void)userdata;
    (void)offset;
    memset(data, 0, len);
    *(uint8_t *)data = PVPANIC_PANICKED; /* the events that are understood */
}

static void pvpanic_write(void *userdata, uint64_t offset, const void *data, uint32_t len)
{
    (void)offset;
    (void)len;
    if (*(const uint8_t *)data & PVPANIC_PANICKED)
        note_end_or_panic(userdata, MACHINE_PANIC, "the guest's kernel panicked");
}

static const struct bus_ops sleep_ops = {.read = sleep_read, .write = sleep_write};
static const struct bus_ops reset_ops = {.write = reset_write};
static const struct bus_ops pvpanic_ops = {.read = pvpanic_read, .write = pvpanic_write};

static int ports_new(struct machine *m)
{
    int irq = machine_gsi_fd(m, LAYOUT_GSI_COM1), r;

    if (irq < 0)
        return irq;
    r = console_new(m->loop, m->cfg.console_fd, &m->console);
    if (r >= 0)
        r = serial_new(irq, console_put, m->console, &m->serial);
    if (r >= 0)
        r = bus_add_port(m->bus, LAYOUT_PORT_COM1, SERIAL_PORTS, &serial_bus_ops, m->serial);
    if (r >= 0)
        r = bus_add_port(m->bus, LAYOUT_PORT_SLEEP, 2, &sleep_ops, m);
    if (r >= 0)
        r = bus_add_port(m->bus, LAYOUT_PORT_RESET, 1, &reset_ops, m);
    if (r >= 0)
        r = bus_add_port(m->bus, LAYOUT_PORT_PVPANIC, 1, &pvpanic_ops, m);
    return r;
}

/* ---------------------------------------------------------------- assembly */

int machine_gsi_fd(struct machine *m, uint32_t gsi)
{
    int fd, r;

    if (gsi >= IOAPIC_PINS)
        return -EINVAL;
    if (m->gsi_fd[gsi] >= 0)
        return m->gsi_fd[gsi];
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    r = vm_add_irqfd(m->vm, fd, gsi);
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    m->gsi_fd[gsi] = fd;
    return fd;
}

static int load(struct machine *m, struct boot_info *ret, struct error **err)
{
    _cleanup_(freep) char *cmdline = cmdline_build(m->cfg.console_fd >= 0, m->cfg.cmdline_append);
    const struct boot_config cfg = {
        .kernel_fd = m->cfg.kernel_fd,
        .initramfs_fd = m->cfg.initramfs_fd,
        .cmdline = cmdline,
    };
    int r = boot_load(m->mem, &cfg, ret, err);

    if (r < 0)
        return r;
    m->kernel_copied_bytes = ret->copied_bytes;
    m->kernel_skipped_bytes = ret->skipped_bytes;
    return machine_devices_describe(m, err);
}

static int vcpus_new(struct machine *m, const struct boot_info *boot, struct error **err)
{
    for (uint32_t i = 0; i < m->cfg.cpus; i++) {
        const struct vcpu_config cfg = {
            .index = i,
            .cpus = m->cfg.cpus,
            .bus = m->bus,
            .repair = machine_repair,
            .denied = machine_denied,
            .userdata = m,
        };
        int r = vcpu_new(m->vm, &cfg, &m->vcpus[i].vcpu, err);

        if (r >= 0)
            r = vcpu_setup(m->vcpus[i].vcpu, boot->entry, boot->start_info, err);
        if (r < 0)
            return r;
        m->vcpus[i].machine = m;
    }
    return 0;
}

static int end_new(struct machine *m)
{
    int r;

    m->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->end_fd < 0)
        return -errno;
    r = loop_add_defer(m->loop, on_release, m, &m->release);
    if (r < 0)
        return r;
    return loop_add_io(m->loop, m->end_fd, LOOP_READ, on_end, m, &m->end_source);
}

static int assemble(struct machine *m, struct error **err)
{
    struct boot_info boot;
    int r;

    if (!m->cfg.cpus || m->cfg.cpus > LIMIT_VCPUS)
        return error_set(err, -EINVAL, "%" PRIu32 " CPUs: 1 to %d", m->cfg.cpus, LIMIT_VCPUS);
    r = gmem_new(m->cfg.ram_bytes, &m->mem);
    if (r < 0)
        return error_set(err, r, "guest memory of %" PRIu64 " MiB", m->cfg.ram_bytes >> 20);
    r = vm_new(m->cfg.kvm_fd, m->mem, &m->vm, err);
    if (r < 0)
        return r;
    stage_done(m, STAGE_VM);
    r = bus_new(&m->bus);
    if (r >= 0)
        r = end_new(m);
    if (r >= 0)
        r = ports_new(m);
    if (r >= 0)
        r = vcpu_init_signals();
    if (r >= 0)
        r = machine_regions_init(m);
    if (r >= 0)
        r = machine_share_init(m);
    if (r < 0)
        return error_set(err, r, "console and ports");
    r = machine_devices_new(m, err);
    if (r < 0)
        return r;
    stage_done(m, STAGE_DEVICES);
    r = load(m, &boot, err);
    if (r < 0)
        return r;
    stage_done(m, STAGE_LOADED);
    r = vcpus_new(m, &boot, err);
    stage_done(m, STAGE_VCPUS);
    return r;
}

int machine_new(struct loop *loop, const struct machine_config *cfg, machine_ended_fn on_ended,
                void *userdata, struct machine **ret, struct error **err)
{
    _cleanup_(machine_freep) struct machine *m = xcalloc(1, sizeof(*m));
    int r;

    m->loop = loop;
    m->cfg = *cfg;
    m->on_ended = on_ended;
    m->userdata = userdata;
    m->end_fd = m->fault_fd = -EBADF;
    list_init(&m->partials);
    for (size_t i = 0; i < IOAPIC_PINS; i++)
        m->gsi_fd[i] = -EBADF;
    (void)pthread_mutex_init(&m->end_lock, NULL);
    (void)pthread_mutex_init(&m->regions_lock, NULL);
    r = assemble(m, err);
    m->cfg.cmdline_append = NULL; /* was borrowed for this call */
    if (r < 0)
        return r;
    *ret = TAKE(m);
    return 0;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    join_vcpus(m);
    for (uint32_t i = 0; i < LIMIT_VCPUS; i++)
        vcpu_free(m->vcpus[i].vcpu);
    machine_devices_free(m);
    serial_free(m->serial);
    console_free(m->console);
    loop_remove(m->release);
    loop_remove(m->end_source);
    m->end_fd = close_fd(m->end_fd);
    bus_free(m->bus);
    vm_free(m->vm);
    for (size_t i = 0; i < IOAPIC_PINS; i++)
        m->gsi_fd[i] = close_fd(m->gsi_fd[i]);
    gmem_free(m->mem);
    (void)pthread_mutex_destroy(&m->end_lock);
    (void)pthread_mutex_destroy(&m->regions_lock);
    free(m);
}

/* ---------------------------------------------------------------- running */

static void *vcpu_main(void *arg)
{
    struct vcpu_thread *t = arg;
    struct vcpu_result result;
    const char *id = t->machine->cfg.id;
    LOG_SCOPE(vm, "vm", id ? id : "");

    vcpu_run(t->vcpu, &result);
    vcpu_ended(t->machine, &result);
    return NULL;
}

/* Signals are the loop's thread's; vCPUs take the kick alone. */
static void block_signals(sigset_t *ret_old)
{
    sigset_t set;

    (void)sigfillset(&set);
    (void)sigdelset(&set, SIGUSR1);
    (void)sigdelset(&set, SIGBUS);
    (void)sigdelset(&set, SIGSEGV);
    (void)pthread_sigmask(SIG_BLOCK, &set, ret_old);
}

int machine_start(struct machine *m, struct error **err)
{
    pthread_attr_t attr;
    sigset_t old;
    int r = 0;

    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, VCPU_STACK_BYTES);
    block_signals(&old);
    for (uint32_t i = 0; i < m->cfg.cpus && r == 0; i++) {
        struct vcpu_thread *t = &m->vcpus[i];
        char name[16];

        r = pthread_create(&t->thread, &attr, vcpu_main, t);
        if (r != 0)
            break;
        t->started = true;
        (void)snprintf(name, sizeof(name), "vcpu%" PRIu32, i);
        (void)pthread_setname_np(t->thread, name);
    }
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
    if (r != 0)
        return error_set(err, -r, "vCPU threads"); /* machine_free stops those that run */
    return 0;
}

struct vsock *machine_vsock(struct machine *m)
{
    return m->vsock;
}

uint64_t machine_first_run_ns(const struct machine *m)
{
    return vcpu_first_run_ns(m->vcpus[0].vcpu);
}

void machine_counters(struct machine *m, machine_counter_fn add, void *ctx)
{
    static const char *const stages[BOOT_STAGES] = {"boot.vm_ns", "boot.devices_ns",
                                                    "boot.loaded_ns", "boot.vcpus_ns"};
    uint64_t first = machine_first_run_ns(m);

    for (unsigned c = 0; c < VCPU_COUNTERS; c++) {
        uint64_t sum = 0;
        char name[48];

        for (uint32_t i = 0; i < m->cfg.cpus; i++)
            sum += vcpu_count(m->vcpus[i].vcpu, (enum vcpu_counter)c);
        (void)snprintf(name, sizeof(name), "kvm.exit.%s", vcpu_counter_name((enum vcpu_counter)c));
        add(ctx, name, sum);
    }
    for (unsigned i = 0; i < BOOT_STAGES; i++)
        add(ctx, stages[i], m->stage_ns[i]);
    add(ctx, "boot.kvm_run_ns", first ? first - m->cfg.spawn_ns : 0);
    add(ctx, "boot.kernel_copied_bytes", m->kernel_copied_bytes);
    add(ctx, "boot.kernel_skipped_bytes", m->kernel_skipped_bytes);
    add(ctx, "console.dropped_bytes", console_dropped(m->console));
    add(ctx, "mapper.sigbus_pages", fault_count());
    machine_devices_counters(m, add, ctx);
}
