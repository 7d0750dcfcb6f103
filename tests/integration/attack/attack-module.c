/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What only a kernel can do to a guest-physical address: write to it through the direct map and through
 * mappings of every memory type, with every kind of store; reach device registers whoever owns them; name
 * the address to KVM as the place of its own shared structures. For the attack tests' guest, on a stock
 * kernel; built against the headers of that kernel. */
#include <asm/fpu/api.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kvm_para.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "attack.h"

#define ORDER get_order(ATTACK_BUFFER_BYTES)

static unsigned long buffer;

static int store_one(u8 *at, u32 kind)
{
    u64 value = 0xA77AC4A77AC4A77AULL, low, high;
    static u8 vector[32] __aligned(32) = {0xA7, 0x7A};
    void *to = at, *from = (void *)buffer;
    unsigned long n = 512;

    switch (kind) {
    case ATTACK_BYTE:
        __put_kernel_nofault(at, &value, u8, fault);
        break;
    case ATTACK_WORD:
        __put_kernel_nofault(at, &value, u64, fault);
        break;
    case ATTACK_STOSB:
        asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0xA7) : "memory");
        break;
    case ATTACK_MOVSB:
        asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    case ATTACK_MOVNTI:
        asm volatile("movnti %1, (%0)" : : "r"(at), "r"(value) : "memory");
        break;
    case ATTACK_XCHG:
        asm volatile("xchgq %0, (%1)" : "+r"(value) : "r"(at) : "memory");
        break;
    case ATTACK_CMPXCHG:
        low = *(volatile u64 *)at; /* a comparison that holds */
        asm volatile("lock cmpxchgq %2, (%1)" : "+a"(low) : "r"(at), "r"(value) : "memory", "cc");
        break;
    case ATTACK_XADD:
        asm volatile("lock xaddq %0, (%1)" : "+r"(value) : "r"(at) : "memory", "cc");
        break;
    case ATTACK_BTS:
        asm volatile("lock btsq $5, (%0)\n lock btrq $6, (%0)" : : "r"(at) : "memory", "cc");
        break;
    case ATTACK_CMPXCHG16B:
        low = *(volatile u64 *)at;
        high = ((volatile u64 *)at)[1];
        asm volatile("lock cmpxchg16b (%2)"
                     : "+a"(low), "+d"(high)
                     : "r"(at), "b"(value), "c"(value)
                     : "memory", "cc");
        break;
    case ATTACK_SSE:
    case ATTACK_AVX:
    case ATTACK_FXSAVE:
        if (kind == ATTACK_AVX && !boot_cpu_has(X86_FEATURE_AVX))
            return -EINVAL; /* not stored: that CPU has none */
        kernel_fpu_begin();
        if (kind == ATTACK_SSE)
            asm volatile("movups (%0), %%xmm0\n movups %%xmm0, (%1)"
                         :
                         : "r"(vector), "r"(at)
                         : "memory");
        else if (kind == ATTACK_FXSAVE)
            asm volatile("fxsave (%0)" : : "r"(at) : "memory");
        else
            asm volatile("vmovups (%0), %%ymm0\n vmovups %%ymm0, (%1)"
                         :
                         : "r"(vector), "r"(at)
                         : "memory");
        kernel_fpu_end();
        break;
    default:
        return -EINVAL;
    }
    return 0;
fault:
    return -EFAULT;
}

static u8 *map(u64 gpa, u64 bytes, u32 how)
{
    switch (how) {
    case ATTACK_DIRECT:
        return pfn_valid(PHYS_PFN(gpa)) ? phys_to_virt(gpa) : NULL;
    case ATTACK_WB:
        return memremap(gpa, bytes, MEMREMAP_WB);
    case ATTACK_WC:
        return (u8 __force *)ioremap_wc(gpa, bytes);
    case ATTACK_UC:
        return (u8 __force *)ioremap(gpa, bytes);
    default:
        return NULL;
    }
}

static void unmap(u8 *at, u32 how)
{
    if (how == ATTACK_WB)
        memunmap(at);
    else if (how != ATTACK_DIRECT)
        iounmap((void __iomem __force *)at);
}

static int stores(struct attack_stores *s)
{
    u8 *base = map(s->gpa, s->bytes, s->map);
    u64 at;

    if (!base)
        return -ENXIO;
    for (at = 0; at < s->bytes; at += s->stride) {
        int r = store_one(base + at, s->store);

        if (r == -EINVAL)
            break;
        if (r == 0)
            s->done++;
        else
            s->faults++;
        cond_resched();
    }
    unmap(base, s->map);
    return 0;
}

/* The page of registers used last stays mapped: a flood should flood. One caller at a time. */
static int reg(struct attack_register *a)
{
    static void __iomem *page;
    static u64 page_gpa;
    u64 start = a->gpa & PAGE_MASK;

    if (!page || page_gpa != start) {
        if (page)
            iounmap(page);
        page = ioremap(start, PAGE_SIZE);
        page_gpa = start;
    }
    if (!page)
        return -ENXIO;
    if (a->write)
        writel(a->value, page + (a->gpa - start));
    else
        a->value = readl(page + (a->gpa - start));
    return 0;
}

static void msr(struct attack_msr *a)
{
    if (!a->msr)
        a->result = (s64)kvm_hypercall2(KVM_HC_CLOCK_PAIRING, a->value, 0);
    else if (a->write)
        a->result = wrmsrl_safe(a->msr, a->value);
    else
        a->result = rdmsrl_safe(a->msr, &a->value);
}

static long attack_ioctl(struct file *file, unsigned int cmd, unsigned long user)
{
    union {
        struct attack_stores stores;
        struct attack_register reg;
        struct attack_msr msr;
        u64 buffer;
    } arg;
    int r = 0;

    if (_IOC_SIZE(cmd) > sizeof(arg) || copy_from_user(&arg, (void __user *)user, _IOC_SIZE(cmd)))
        return -EFAULT;
    switch (cmd) {
    case ATTACK_STORES:
        r = stores(&arg.stores);
        break;
    case ATTACK_REGISTER:
        r = reg(&arg.reg);
        break;
    case ATTACK_MSR:
        msr(&arg.msr);
        break;
    case ATTACK_BUFFER:
        arg.buffer = virt_to_phys((void *)buffer);
        break;
    default:
        return -ENOTTY;
    }
    return copy_to_user((void __user *)user, &arg, _IOC_SIZE(cmd)) ? -EFAULT : r;
}

static int attack_mmap(struct file *file, struct vm_area_struct *vma)
{
    if (vma->vm_pgoff || vma->vm_end - vma->vm_start > ATTACK_BUFFER_BYTES)
        return -EINVAL;
    return remap_pfn_range(vma, vma->vm_start, PHYS_PFN(virt_to_phys((void *)buffer)),
                           vma->vm_end - vma->vm_start, vma->vm_page_prot);
}

static const struct file_operations attack_fops = {
    .owner = THIS_MODULE,
    .unlocked_ioctl = attack_ioctl,
    .mmap = attack_mmap,
};

static struct miscdevice attack_device = {
    .minor = MISC_DYNAMIC_MINOR,
    .name = "nexus-attack",
    .fops = &attack_fops,
};

static int __init attack_init(void)
{
    buffer = __get_free_pages(GFP_KERNEL | __GFP_ZERO, ORDER);
    return buffer ? misc_register(&attack_device) : -ENOMEM;
}
module_init(attack_init);

MODULE_DESCRIPTION("writes where it must not");
MODULE_LICENSE("GPL");
