/* SPDX-License-Identifier: Apache-2.0 */
/* The virtual machine's part of KVM. The order of the calls is the one KVM wants. */
#include "kvm/vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/str.h"
#include "kvm/layout.h"

struct vm {
    int kvm_fd; /* borrowed */
    int fd;
    struct gmem *mem; /* borrowed */
    struct kvm_cpuid2 *cpuid;
    struct vm_caps caps;
    uint64_t gpa_limit;
};

static const struct {
    unsigned long cap;
    int min;
    const char *name;
} required[] = {
    {KVM_CAP_IRQCHIP, 1, "IRQCHIP"},
    {KVM_CAP_USER_MEMORY, 1, "USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, 1, "SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, 1, "EXT_CPUID"},
    {KVM_CAP_IRQFD, 1, "IRQFD"},
    {KVM_CAP_IOEVENTFD, 1, "IOEVENTFD"},
    {KVM_CAP_MP_STATE, 1, "MP_STATE"},
    {KVM_CAP_READONLY_MEM, 1, "READONLY_MEM"},
    {KVM_CAP_IMMEDIATE_EXIT, 1, "IMMEDIATE_EXIT"},
    {KVM_CAP_ADJUST_CLOCK, 1, "ADJUST_CLOCK"},
    {KVM_CAP_NR_MEMSLOTS, (int)GMEM_SLOTS, "NR_MEMSLOTS"},
};

static int kvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
    int r;

    do
        r = ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}
#define kvm_ioctl_ptr(fd, request, p) kvm_ioctl(fd, request, (unsigned long)(uintptr_t)(p))

static int check_caps(struct vm *vm, struct error **err)
{
    int r;

    r = kvm_ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
    if (r < 0)
        return error_set(err, r, "not a KVM device");
    if (r != KVM_API_VERSION)
        return error_set(err, -EOPNOTSUPP, "KVM API version %d, need %d", r, KVM_API_VERSION);
    for (size_t i = 0; i < ARRAY_SIZE(required); i++) {
        r = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, required[i].cap);
        if (r < required[i].min)
            return error_set(err, -EOPNOTSUPP, "this host's KVM lacks KVM_CAP_%s (has %d, need %d)",
                             required[i].name, r, required[i].min);
    }
    r = kvm_ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (r < (int)sizeof(struct kvm_run))
        return error_set(err, r < 0 ? r : -EOPNOTSUPP, "KVM_GET_VCPU_MMAP_SIZE");
    vm->caps.vcpu_mmap_bytes = (uint32_t)r;
    r = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    vm->caps.max_vcpus = r > 0 ? (uint32_t)r : 1;
    r = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
    vm->caps.max_slots = (uint32_t)r;
    r = kvm_ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER);
    vm->caps.tsc_deadline = r > 0;
    vm->caps.pvm_host = access("/sys/module/kvm_pvm", F_OK) == 0;
    return 0;
}

#define CPUID_ENTRIES_FIRST 128U
#define CPUID_ENTRIES_MAX 1024U

static int read_cpuid(struct vm *vm, struct error **err)
{
    int r = -E2BIG;

    for (uint32_t n = CPUID_ENTRIES_FIRST; r == -E2BIG && n <= CPUID_ENTRIES_MAX; n *= 2) {
        free(vm->cpuid);
        vm->cpuid = xcalloc(1, sizeof(*vm->cpuid) + n * sizeof(vm->cpuid->entries[0]));
        vm->cpuid->nent = n;
        r = kvm_ioctl_ptr(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, vm->cpuid);
    }
    if (r < 0)
        return error_set(err, r, "KVM_GET_SUPPORTED_CPUID");
    vm->gpa_limit = 1ULL << 36; /* what every x86-64 has */
    for (uint32_t i = 0; i < vm->cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &vm->cpuid->entries[i];
        uint32_t bits = e->eax & 0xFF;

        if (e->function == 0x80000008 && bits >= 36 && bits <= 52)
            vm->gpa_limit = 1ULL << bits;
    }
    return 0;
}

static int install_slot(struct vm *vm, unsigned index, const struct gmem_slot *slot)
{
    struct kvm_userspace_memory_region region = {
        .slot = index,
        .flags = slot->readonly ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->len,
        .userspace_addr = (uintptr_t)slot->hva,
    };

    return kvm_ioctl_ptr(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int create(struct vm *vm, struct error **err)
{
    uint64_t identity = LAYOUT_KVM_IDENTITY;
    struct gmem_slot slot;
    int r;

    vm->fd = kvm_ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return error_set(err, vm->fd, "KVM_CREATE_VM");
    (void)fcntl(vm->fd, F_SETFD, FD_CLOEXEC);
    r = kvm_ioctl_ptr(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    if (r < 0)
        return error_set(err, r, "KVM_SET_IDENTITY_MAP_ADDR");
    r = kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS);
    if (r < 0)
        return error_set(err, r, "KVM_SET_TSS_ADDR");
    /* PIC, IOAPIC, LAPICs in the kernel; no PIT: kvm-clock and the TSC deadline timer do its work */
    r = kvm_ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0);
    if (r < 0)
        return error_set(err, r, "KVM_CREATE_IRQCHIP");
    for (unsigned i = 0; i < GMEM_SLOTS; i++) {
        if (!gmem_slot_get(vm->mem, i, &slot))
            continue;
        r = install_slot(vm, i, &slot);
        if (r < 0)
            return error_set(err, r, "memory slot %u at 0x%llx", i, (unsigned long long)slot.gpa);
    }
    return 0;
}

int vm_new(int kvm_fd, struct gmem *mem, struct vm **ret, struct error **err)
{
    _cleanup_(vm_freep) struct vm *vm = xcalloc(1, sizeof(*vm));
    int r;

    vm->kvm_fd = kvm_fd;
    vm->fd = -EBADF;
    vm->mem = mem;
    r = check_caps(vm, err);
    if (r < 0)
        return r;
    r = read_cpuid(vm, err);
    if (r < 0)
        return r;
    if (gmem_ram_end(mem) > vm->gpa_limit)
        return error_set(err, -E2BIG, "guest memory ends above what this host's CPUs can address");
    r = create(vm, err);
    if (r < 0)
        return r;
    *ret = TAKE(vm);
    return 0;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    vm->fd = close_fd(vm->fd);
    free(vm->cpuid);
    free(vm);
}

const struct vm_caps *vm_get_caps(const struct vm *vm)
{
    return &vm->caps;
}

struct gmem *vm_get_gmem(const struct vm *vm)
{
    return vm->mem;
}

int vm_get_fd(const struct vm *vm)
{
    return vm->fd;
}

const struct kvm_cpuid2 *vm_get_cpuid(const struct vm *vm)
{
    return vm->cpuid;
}

uint64_t vm_get_gpa_limit(const struct vm *vm)
{
    return vm->gpa_limit;
}

int vm_add_readonly(struct vm *vm, uint64_t gpa, const void *hva, uint64_t len)
{
    struct gmem_slot slot;
    int index, r;

    index = gmem_add_readonly(vm->mem, gpa, hva, len);
    if (index < 0)
        return index;
    if (!gmem_slot_get(vm->mem, (unsigned)index, &slot) || !slot.readonly)
        return -EROFS; /* a slot without the flag is never offered */
    r = install_slot(vm, (unsigned)index, &slot);
    if (r < 0)
        (void)gmem_remove_readonly(vm->mem, gpa);
    return r;
}

int vm_remove_readonly(struct vm *vm, uint64_t gpa)
{
    struct gmem_slot none = {.gpa = gpa};
    int index = gmem_remove_readonly(vm->mem, gpa);

    if (index < 0)
        return index;
    return install_slot(vm, (unsigned)index, &none);
}

static int ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t datamatch, uint32_t flags)
{
    struct kvm_ioeventfd io = {
        .datamatch = datamatch,
        .addr = gpa,
        .len = 4,
        .fd = fd,
        .flags = KVM_IOEVENTFD_FLAG_DATAMATCH | flags,
    };

    return kvm_ioctl_ptr(vm->fd, KVM_IOEVENTFD, &io);
}

int vm_add_ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t datamatch)
{
    return ioeventfd(vm, fd, gpa, datamatch, 0);
}

int vm_remove_ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t datamatch)
{
    return ioeventfd(vm, fd, gpa, datamatch, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

int vm_add_irqfd(struct vm *vm, int fd, uint32_t gsi)
{
    struct kvm_irqfd irq = {.fd = (uint32_t)fd, .gsi = gsi};

    return kvm_ioctl_ptr(vm->fd, KVM_IRQFD, &irq);
}

int vm_remove_irqfd(struct vm *vm, int fd, uint32_t gsi)
{
    struct kvm_irqfd irq = {.fd = (uint32_t)fd, .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN};

    return kvm_ioctl_ptr(vm->fd, KVM_IRQFD, &irq);
}
