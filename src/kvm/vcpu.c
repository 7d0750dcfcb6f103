/* SPDX-License-Identifier: Apache-2.0 */
/* The run loop: one switch on the exit reason, everything else is a call. */
#include "kvm/vcpu.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "kvm/bus.h"
#include "kvm/cpuid.h"
#include "kvm/layout.h"
#include "kvm/vm.h"

#define KICK_SIGNAL SIGUSR1

/* A fault that repair can say nothing of: another vCPU was faster, or the page can be read by now. Then the
 * guest goes on at once; what comes back so often without a pause has another cause. */
#define UNEXPLAINED_MAX 8
#define UNEXPLAINED_PAUSE_NS 100000000ULL

struct vcpu {
    struct vm *vm; /* borrowed */
    struct vcpu_config cfg;
    int fd;
    struct kvm_run *run; /* mapping, run_bytes */
    size_t run_bytes;
    _Atomic bool stop;
    pthread_mutex_t thread_lock; /* guards the two below */
    pthread_t thread;
    bool has_thread;
    _Atomic uint64_t counters[VCPU_COUNTERS];
    _Atomic uint64_t first_run_ns;
    struct {
        const char *what; /* static text; NULL: none yet */
        uint64_t at;
    } last_exit; /* its thread's alone: the last that reached user space, for a post-mortem */
    unsigned unexplained;    /* faults in a row; its thread's alone */
    uint64_t unexplained_ns; /* when the last of them was looked into */
};

const char *vcpu_counter_name(enum vcpu_counter c)
{
    static const char *const names[VCPU_COUNTERS] = {"io",
                                                     "mmio",
                                                     "hlt",
                                                     "intr",
                                                     "shutdown",
                                                     "system_event",
                                                     "fail_entry",
                                                     "internal_error",
                                                     "memory_fault",
                                                     "other",
                                                     "readonly_writes",
                                                     "unclaimed_mmio",
                                                     "unclaimed_port",
                                                     "repaired_faults"};

    return (unsigned)c < VCPU_COUNTERS ? names[c] : "?";
}

static void count(struct vcpu *v, enum vcpu_counter c)
{
    atomic_fetch_add_explicit(&v->counters[c], 1, memory_order_relaxed);
}

uint64_t vcpu_count(const struct vcpu *v, enum vcpu_counter c)
{
    return atomic_load_explicit(&v->counters[c], memory_order_relaxed);
}

uint64_t vcpu_first_run_ns(const struct vcpu *v)
{
    return atomic_load_explicit(&v->first_run_ns, memory_order_relaxed);
}

static void on_kick(int sig)
{
    (void)sig; /* its arrival is the message */
}

int vcpu_init_signals(void)
{
    struct sigaction sa = {.sa_handler = on_kick};

    (void)sigemptyset(&sa.sa_mask);
    return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

int vcpu_new(struct vm *vm, const struct vcpu_config *cfg, struct vcpu **ret, struct error **err)
{
    _cleanup_(vcpu_freep) struct vcpu *v = xcalloc(1, sizeof(*v));
    void *run;

    v->vm = vm;
    v->cfg = *cfg;
    v->fd = -EBADF;
    (void)pthread_mutex_init(&v->thread_lock, NULL);
    v->fd = ioctl(vm_get_fd(vm), KVM_CREATE_VCPU, (unsigned long)cfg->index);
    if (v->fd < 0)
        return error_set(err, -errno, "KVM_CREATE_VCPU %" PRIu32, cfg->index);
    (void)fcntl(v->fd, F_SETFD, FD_CLOEXEC);
    v->run_bytes = vm_get_caps(vm)->vcpu_mmap_bytes;
    run = mmap(NULL, v->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED)
        return error_set(err, -errno, "mapping the run area of vCPU %" PRIu32, cfg->index);
    v->run = run;
    *ret = TAKE(v);
    return 0;
}

void vcpu_free(struct vcpu *v)
{
    if (!v)
        return;
    if (v->run)
        (void)munmap(v->run, v->run_bytes);
    v->fd = close_fd(v->fd);
    (void)pthread_mutex_destroy(&v->thread_lock);
    free(v);
}

/* ---------------------------------------------------------------- boot state */

static int set_cpuid(struct vcpu *v)
{
    struct cpuid_config cfg = {
        .cpu = v->cfg.index,
        .cpus = v->cfg.cpus,
        .tsc_deadline = vm_get_caps(v->vm)->tsc_deadline,
    };
    _cleanup_(freep) struct kvm_cpuid2 *cpuid = cpuid_build(vm_get_cpuid(v->vm), &cfg);

    if (!cpuid)
        return -ENOMEM;
    return ioctl(v->fd, KVM_SET_CPUID2, cpuid) < 0 ? -errno : 0;
}

static const struct {
    uint32_t index;
    uint64_t value;
} boot_msrs[] = {
    {0x1A0, 1},     /* IA32_MISC_ENABLE: fast strings */
    {0x2FF, 0x806}, /* MTRRdefType: enabled, write-back; pmem depends on it */
    {0x174, 0},     /* SYSENTER_CS, ESP, EIP */
    {0x175, 0},      {0x176, 0},      {0xC0000081, 0}, /* STAR, LSTAR, CSTAR, SYSCALL_MASK, KERNEL_GS_BASE */
    {0xC0000082, 0}, {0xC0000083, 0}, {0xC0000084, 0}, {0xC0000102, 0},
};

static int set_msrs(struct vcpu *v, uint32_t *ret_failed)
{
    _Alignas(struct kvm_msrs) uint8_t
        room[sizeof(struct kvm_msrs) + ARRAY_SIZE(boot_msrs) * sizeof(struct kvm_msr_entry)] = {0};
    struct kvm_msrs *msrs = (struct kvm_msrs *)(void *)room;
    int r;

    msrs->nmsrs = ARRAY_SIZE(boot_msrs);
    for (size_t i = 0; i < ARRAY_SIZE(boot_msrs); i++) {
        msrs->entries[i].index = boot_msrs[i].index;
        msrs->entries[i].data = boot_msrs[i].value;
    }
    r = ioctl(v->fd, KVM_SET_MSRS, msrs);
    if (r < 0)
        return -errno;
    if (r < (int)ARRAY_SIZE(boot_msrs)) { /* KVM stops at the first it refuses */
        *ret_failed = boot_msrs[r].index;
        return -EOPNOTSUPP;
    }
    return 0;
}

static int set_fpu(struct vcpu *v)
{
    struct kvm_fpu fpu = {.fcw = 0x37F, .mxcsr = 0x1F80};

    return ioctl(v->fd, KVM_SET_FPU, &fpu) < 0 ? -errno : 0;
}

#define LAPIC_LVT0 0x350
#define LAPIC_LVT1 0x360
#define LVT_MODE(m) ((uint32_t)(m) << 8)

static void lapic_set_mode(struct kvm_lapic_state *s, size_t reg, uint32_t mode)
{
    uint32_t value;

    memcpy(&value, s->regs + reg, sizeof(value));
    value = (value & ~LVT_MODE(7)) | LVT_MODE(mode);
    memcpy(s->regs + reg, &value, sizeof(value));
}

static int set_lapic(struct vcpu *v)
{
    struct kvm_lapic_state s;

    if (ioctl(v->fd, KVM_GET_LAPIC, &s) < 0)
        return -errno;
    lapic_set_mode(&s, LAPIC_LVT0, 7 /* ExtINT */);
    lapic_set_mode(&s, LAPIC_LVT1, 4 /* NMI */);
    return ioctl(v->fd, KVM_SET_LAPIC, &s) < 0 ? -errno : 0;
}

/* The selectors index the GDT that boot.c writes: code 0x08, data 0x10, TSS 0x18. */
static int set_sregs(struct vcpu *v)
{
    const struct kvm_segment code = {.base = 0,
                                     .limit = 0xFFFFFFFF,
                                     .selector = 0x08,
                                     .type = 0xB,
                                     .present = 1,
                                     .db = 1,
                                     .s = 1,
                                     .g = 1};
    const struct kvm_segment data = {.base = 0,
                                     .limit = 0xFFFFFFFF,
                                     .selector = 0x10,
                                     .type = 0x3,
                                     .present = 1,
                                     .db = 1,
                                     .s = 1,
                                     .g = 1};
    const struct kvm_segment tss = {
        .base = 0, .limit = 0x67, .selector = 0x18, .type = 0xB, .present = 1};
    struct kvm_sregs s;

    if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
        return -errno;
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.tr = tss;
    s.gdt.base = LAYOUT_GDT;
    s.gdt.limit = 4 * 8 - 1;
    s.idt.base = LAYOUT_IDT;
    s.idt.limit = 7;
    s.cr0 = 0x11; /* PE, and ET which is fixed */
    s.cr3 = 0;
    s.cr4 = 0;
    s.efer = 0;
    return ioctl(v->fd, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

static int set_regs(struct vcpu *v, uint64_t entry, uint64_t start_info)
{
    struct kvm_regs regs = {.rip = entry, .rbx = start_info, .rflags = 2};

    return ioctl(v->fd, KVM_SET_REGS, &regs) < 0 ? -errno : 0;
}

int vcpu_setup(struct vcpu *v, uint64_t entry, uint64_t start_info, struct error **err)
{
    uint32_t msr = 0;
    int r;

    r = set_cpuid(v); /* first: newer KVM judges MSRs by it */
    if (r < 0)
        return error_set(err, r, "CPUID of vCPU %" PRIu32, v->cfg.index);
    r = set_msrs(v, &msr);
    if (r < 0)
        return error_set(err, r, "MSR 0x%" PRIx32 " of vCPU %" PRIu32, msr, v->cfg.index);
    r = set_fpu(v);
    if (r < 0)
        return error_set(err, r, "FPU of vCPU %" PRIu32, v->cfg.index);
    r = set_lapic(v);
    if (r < 0)
        return error_set(err, r, "LAPIC of vCPU %" PRIu32, v->cfg.index);
    if (v->cfg.index != 0)
        return 0;
    r = set_sregs(v);
    if (r >= 0)
        r = set_regs(v, entry, start_info);
    if (r < 0)
        return error_set(err, r, "boot registers");
    return 0;
}

/* ---------------------------------------------------------------- running */

static void exit_port(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    uint32_t size = run->io.size;

    count(v, VCPU_EXIT_IO);
    v->last_exit.what = run->io.direction == KVM_EXIT_IO_IN ? "port read" : "port write";
    v->last_exit.at = run->io.port;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        bool claimed = run->io.direction == KVM_EXIT_IO_IN
                           ? bus_port_read(v->cfg.bus, run->io.port, data, size)
                           : bus_port_write(v->cfg.bus, run->io.port, data, size);

        if (!claimed)
            count(v, VCPU_UNCLAIMED_PORT);
    }
}

static void unclaimed_mmio(struct vcpu *v)
{
    const struct kvm_run *run = v->run;

    if (run->mmio.is_write && gmem_is_readonly(vm_get_gmem(v->vm), run->mmio.phys_addr)) {
        count(v, VCPU_READONLY_WRITES);
        if (v->cfg.denied)
            v->cfg.denied(v->cfg.userdata, run->mmio.phys_addr);
        return;
    }
    count(v, VCPU_UNCLAIMED_MMIO);
    log_limited(LOG_DEBUG, "guest %s at 0x%llx: nobody there",
                run->mmio.is_write ? "wrote" : "read", (unsigned long long)run->mmio.phys_addr);
}

static void exit_mmio(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    uint32_t len = run->mmio.len;
    bool claimed;

    count(v, VCPU_EXIT_MMIO);
    v->last_exit.what = run->mmio.is_write ? "write" : "read";
    v->last_exit.at = run->mmio.phys_addr;
    claimed = run->mmio.is_write
                  ? bus_mmio_write(v->cfg.bus, run->mmio.phys_addr, run->mmio.data, len)
                  : bus_mmio_read(v->cfg.bus, run->mmio.phys_addr, run->mmio.data, len);
    if (!claimed)
        unclaimed_mmio(v);
}

static void end_internal_error(struct vcpu *v, struct vcpu_result *ret)
{
    const struct kvm_run *run = v->run;
    uint32_t sub = run->internal.suberror;
    struct kvm_regs regs = {0};

    count(v, VCPU_EXIT_INTERNAL_ERROR);
    (void)ioctl(v->fd, KVM_GET_REGS, &regs);
    ret->end = VCPU_END_INTERNAL_ERROR;
    (void)snprintf(ret->detail, sizeof(ret->detail),
                   "KVM internal error, suberror %" PRIu32 "%s, rip 0x%llx%s", sub,
                   sub == KVM_INTERNAL_ERROR_EMULATION ? " (instruction emulation failed)" : "",
                   (unsigned long long)regs.rip,
                   vm_get_caps(v->vm)->pvm_host
                       ? "; this is a PVM host, on which stock kernels cannot run"
                       : "");
}

/* The registers tell where it was on Intel; KVM resets an AMD vCPU before it reports the shutdown. */
static void end_triple_fault(struct vcpu *v, struct vcpu_result *ret)
{
    struct kvm_sregs s = {0};
    struct kvm_regs r = {0};
    char where[96] = "registers already reset", last[48] = "";

    count(v, VCPU_EXIT_SHUTDOWN);
    if (ioctl(v->fd, KVM_GET_REGS, &r) == 0 && ioctl(v->fd, KVM_GET_SREGS, &s) == 0 &&
        (s.cr0 & 1 /* PE: cleared by a reset */))
        (void)snprintf(where, sizeof(where), "rip 0x%llx rsp 0x%llx cr2 0x%llx cr3 0x%llx",
                       (unsigned long long)r.rip, (unsigned long long)r.rsp,
                       (unsigned long long)s.cr2, (unsigned long long)s.cr3);
    if (v->last_exit.what)
        (void)snprintf(last, sizeof(last), "; last exit: %s at 0x%" PRIx64, v->last_exit.what,
                       v->last_exit.at);
    ret->end = VCPU_END_TRIPLE_FAULT;
    (void)snprintf(ret->detail, sizeof(ret->detail), "triple fault on vCPU %" PRIu32 ", %s%s",
                   v->cfg.index, where, last);
}

static void end_system_event(struct vcpu *v, struct vcpu_result *ret)
{
    count(v, VCPU_EXIT_SYSTEM_EVENT);
    ret->end = VCPU_END_SYSTEM_EVENT;
    (void)snprintf(ret->detail, sizeof(ret->detail), "KVM system event %" PRIu32,
                   v->run->system_event.type);
}

/* One return of KVM_RUN with success. False: *ret says how it ends. */
static bool dispatch(struct vcpu *v, struct vcpu_result *ret)
{
    struct kvm_run *run = v->run;

    switch (run->exit_reason) {
    case KVM_EXIT_MMIO:
        exit_mmio(v);
        return true;
    case KVM_EXIT_IO:
        exit_port(v);
        return true;
    case KVM_EXIT_HLT: /* not with an in-kernel irqchip; harmless */
        count(v, VCPU_EXIT_HLT);
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        count(v, VCPU_EXIT_INTR);
        return true;
    case KVM_EXIT_SHUTDOWN:
        end_triple_fault(v, ret);
        return false;
    case KVM_EXIT_SYSTEM_EVENT:
        end_system_event(v, ret);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        end_internal_error(v, ret);
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        count(v, VCPU_EXIT_FAIL_ENTRY);
        ret->end = VCPU_END_INTERNAL_ERROR;
        (void)snprintf(ret->detail, sizeof(ret->detail), "KVM entry failed, hardware reason 0x%llx",
                       (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        return false;
    default:
        count(v, VCPU_EXIT_OTHER);
        ret->end = VCPU_END_INTERNAL_ERROR;
        (void)snprintf(ret->detail, sizeof(ret->detail), "unknown KVM exit %" PRIu32,
                       run->exit_reason);
        return false;
    }
}

static bool may_try_again(struct vcpu *v)
{
    if (clock_mono_ns() - v->unexplained_ns > UNEXPLAINED_PAUSE_NS)
        v->unexplained = 0;
    return ++v->unexplained < UNEXPLAINED_MAX;
}

static bool repair(struct vcpu *v)
{
    bool again;

    if (!v->cfg.repair)
        return false;
    again = may_try_again(v);
    if (v->cfg.repair(v->cfg.userdata)) {
        v->unexplained = 0;
        again = true;
    }
    v->unexplained_ns = clock_mono_ns();
    return again;
}

/* KVM_RUN failed with errno e. True: go on. */
static bool run_failed(struct vcpu *v, int e, struct vcpu_result *ret)
{
    if (e == EINTR || e == EAGAIN) {
        count(v, VCPU_EXIT_INTR);
        return true;
    }
    if (e == EFAULT || e == EHWPOISON) { /* KVM_EXIT_MEMORY_FAULT comes with one of them too */
        count(v, VCPU_EXIT_MEMORY_FAULT);
        if (e == EFAULT && repair(v)) {
            count(v, VCPU_REPAIRED_FAULTS);
            return true;
        }
        ret->end = VCPU_END_FAULT;
        (void)snprintf(ret->detail, sizeof(ret->detail),
                       "the memory behind a guest page is gone (%s)",
                       e == EFAULT ? "EFAULT" : "EHWPOISON");
        return false;
    }
    ret->end = VCPU_END_INTERNAL_ERROR;
    (void)snprintf(ret->detail, sizeof(ret->detail), "KVM_RUN: errno %d", e);
    return false;
}

static void thread_set(struct vcpu *v, bool has)
{
    (void)pthread_mutex_lock(&v->thread_lock);
    v->thread = pthread_self();
    v->has_thread = has;
    (void)pthread_mutex_unlock(&v->thread_lock);
}

void vcpu_run(struct vcpu *v, struct vcpu_result *ret)
{
    bool go_on = true;

    *ret = (struct vcpu_result){.end = VCPU_END_STOPPED};
    thread_set(v, true);
    atomic_store_explicit(&v->first_run_ns, clock_mono_ns(), memory_order_relaxed);
    while (go_on && !atomic_load_explicit(&v->stop, memory_order_acquire)) {
        if (ioctl(v->fd, KVM_RUN, 0) < 0)
            go_on = run_failed(v, errno, ret);
        else
            go_on = dispatch(v, ret);
    }
    thread_set(v, false);
}

void vcpu_stop(struct vcpu *v)
{
    atomic_store_explicit(&v->stop, true, memory_order_release);
    /* seen by KVM_RUN on entry if the signal comes between the check above and the call */
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    (void)pthread_mutex_lock(&v->thread_lock);
    if (v->has_thread)
        (void)pthread_kill(v->thread, KICK_SIGNAL);
    (void)pthread_mutex_unlock(&v->thread_lock);
}
