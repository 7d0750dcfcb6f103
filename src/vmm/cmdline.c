/* SPDX-License-Identifier: Apache-2.0 */
/* Each argument with its reason. Stock Debian kernels; tuned by counting exits until user space. */
#include "vmm/cmdline.h"

#include "base/cleanup.h"
#include "base/str.h"

static const char *const common[] = {
    "panic=-1",    /* a panic ends the VM at once */
    "reboot=a",    /* the default on hardware-reduced ACPI is EFI, then the keyboard */
    "pci=off",     /* no bus to scan */
    "i8042.noaux", /* no PS/2 */
    "i8042.nokbd",
    "no_timer_check",    /* no PIT to check against */
    "cryptomgr.notests", /* self-tests of ciphers */
    "random.trust_cpu=on",
    "rcupdate.rcu_expedited=1", /* grace periods of one-CPU boots are waits for nothing */
    "cgroup_no_v1=all",
};
/* Production: silent. The early console costs a few accesses and carries only a panic's text. */
static const char *const silent[] = {
    "quiet", "loglevel=1", "earlycon=uart8250,io,0x3f8,115200n8", "keep_bootcon", "8250.nr_uarts=0",
};
/* With a reader: the early console until hvc0 is there, which takes a line with few exits instead of two
 * for each byte; without its module the early console stays. */
static const char *const talking[] = {
    "console=hvc0",
    "earlycon=uart8250,io,0x3f8,115200n8",
    "loglevel=7",
    "8250.nr_uarts=0",
};

char *cmdline_build(bool console, const char *append)
{
    const char *const *more = console ? talking : silent;
    size_t n = console ? ARRAY_SIZE(talking) : ARRAY_SIZE(silent);
    char *line = str_dup(common[0]), *longer;

    for (size_t i = 1; i < ARRAY_SIZE(common) + n; i++) {
        const char *arg = i < ARRAY_SIZE(common) ? common[i] : more[i - ARRAY_SIZE(common)];

        longer = str_printf("%s %s", line, arg);
        free(line);
        line = longer;
    }
    if (append && *append) {
        longer = str_printf("%s %s", line, append);
        free(line);
        line = longer;
    }
    return line;
}
