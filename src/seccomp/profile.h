/* SPDX-License-Identifier: Apache-2.0 */
/* Seccomp profiles as data: the OCI runtime specification's JSON, read or made up for RuntimeDefault, and
 * the BPF program that libseccomp makes of them. Pure, but for a memory file while compiling. Any thread,
 * one at a time: libseccomp has state of its own. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define SECCOMP_FILE_BYTES_MAX (1U << 20)
#define SECCOMP_RULES_MAX 4096 /* names of all rules together; a kernel has some 450 system calls */
#define SECCOMP_ARGS_MAX 6
#define SECCOMP_CONDITIONS_MAX 256 /* of all rules together: more do not fit into a filter */
#define SECCOMP_ARCHES_MAX 3
#define SECCOMP_BPF_BYTES_MAX (4096U * 8) /* the kernel's own limit */

struct syscall_arg {
    uint32_t index; /* 0 to 5 */
    uint32_t op;    /* enum scmp_compare */
    uint64_t value, value_two;
};

struct syscall_rule {
    char *name;      /* owned */
    uint32_t action; /* SCMP_ACT_… with its errno */
    uint32_t n_args;
    struct syscall_arg args[SECCOMP_ARGS_MAX];
};

struct syscall_profile {
    uint32_t default_action;
    uint32_t arches[SECCOMP_ARCHES_MAX]; /* SCMP_ARCH_… of x86, besides the native one */
    size_t n_arches;
    struct syscall_rule *rules; /* owned */
    size_t n_rules;
    size_t n_conditions;
};

/* 0 and *ret; -EBADMSG: no JSON, or no profile; -E2BIG: a limit; -EOPNOTSUPP: what is understood and
 * not offered (SCMP_ACT_NOTIFY). The class is ERROR_INVALID or ERROR_UNSUPPORTED. */
int syscall_profile_parse(const void *bytes, size_t len, struct syscall_profile *ret,
                          struct error **err);
/* What RuntimeDefault means for a process with these capabilities (bits): everything that programs
 * use, with what reaches beyond the container only beside the capability for it. Anything else: EPERM. */
void syscall_profile_default(uint64_t capabilities, struct syscall_profile *ret);
/* struct sock_filter[], *ret_len a multiple of 8 and at most SECCOMP_BPF_BYTES_MAX; the caller frees.
 * A name that libseccomp does not know is left out of rules that permit more than the default does;
 * in any other rule it is -EINVAL. -E2BIG: the program is too long. */
int syscall_profile_compile(const struct syscall_profile *p, void **ret, size_t *ret_len,
                            struct error **err);
/* The default profile compiled, from memory if it was asked for before. The caller frees. Any thread. */
int syscall_filter_default(uint64_t capabilities, void **ret, size_t *ret_len, struct error **err);
void syscall_profile_done(struct syscall_profile *p);
