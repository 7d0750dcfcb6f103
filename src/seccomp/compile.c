/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "seccomp/profile.h"

#define OPTIMIZE_TREE 2 /* a binary tree: eight comparisons to a call instead of hundreds */

static void release(scmp_filter_ctx *ctx)
{
    if (*ctx)
        seccomp_release(*ctx);
}

static int add_arches(scmp_filter_ctx ctx, const struct syscall_profile *p, struct error **err)
{
    for (size_t i = 0; i < p->n_arches; i++) {
        int r = seccomp_arch_add(ctx, p->arches[i]);
        if (r < 0 && r != -EEXIST)
            return error_set(err, r, "architecture %#x", p->arches[i]);
    }
    return 0;
}

static int add(scmp_filter_ctx ctx, const struct syscall_rule *rule, int nr, size_t n,
               const struct scmp_arg_cmp *args, struct error **err)
{
    int r = seccomp_rule_add_array(ctx, rule->action, nr, (unsigned)n, args);

    if (r == -EEXIST) /* said before: what came first counts */
        return 0;
    return r < 0
               ? error_set_class(err, ERROR_INVALID, r, "rule for %s: %s", rule->name, strerror(-r))
               : 0;
}

static bool same_argument_twice(const struct syscall_rule *rule)
{
    unsigned seen = 0;

    for (size_t i = 0; i < rule->n_args; i++) {
        if (seen >> rule->args[i].index & 1)
            return true;
        seen |= 1U << rule->args[i].index;
    }
    return false;
}

/* Two conditions on one argument are alternatives, as every other runtime has it: libseccomp takes one. */
static int add_rule(scmp_filter_ctx ctx, const struct syscall_rule *rule, int nr,
                    struct error **err)
{
    struct scmp_arg_cmp args[SECCOMP_ARGS_MAX];
    int r = 0;

    for (size_t i = 0; i < rule->n_args; i++)
        args[i] = (struct scmp_arg_cmp){rule->args[i].index, (enum scmp_compare)rule->args[i].op,
                                        rule->args[i].value, rule->args[i].value_two};
    if (!same_argument_twice(rule))
        return add(ctx, rule, nr, rule->n_args, args, err);
    for (size_t i = 0; r == 0 && i < rule->n_args; i++)
        r = add(ctx, rule, nr, 1, &args[i], err);
    return r;
}

static bool permits(uint32_t action)
{
    return action == SCMP_ACT_ALLOW || action == SCMP_ACT_LOG;
}

static int add_rules(scmp_filter_ctx ctx, const struct syscall_profile *p, struct error **err)
{
    for (size_t i = 0; i < p->n_rules; i++) {
        const struct syscall_rule *rule = &p->rules[i];
        int nr = seccomp_syscall_resolve_name(rule->name);
        int r;

        if (rule->action == p->default_action)
            continue; /* says nothing, and libseccomp refuses it */
        if (nr == __NR_SCMP_ERROR && permits(rule->action) && !permits(p->default_action))
            continue; /* newer than the library: it stays forbidden */
        if (nr == __NR_SCMP_ERROR)
            return error_set_class(err, ERROR_INVALID, -EINVAL,
                                   "system call \"%s\" is unknown, and the rule for it forbids",
                                   rule->name);
        r = add_rule(ctx, rule, nr, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int export(scmp_filter_ctx ctx, void **ret, size_t *ret_len, struct error **err)
{
    _cleanup_(closep) int fd = memfd_create("seccomp", MFD_CLOEXEC);
    char *bytes = NULL;
    struct stat st;
    int r;

    if (fd < 0)
        return error_set(err, -errno, "memory file: %s", strerror(errno));
    r = seccomp_export_bpf(ctx, fd);
    if (r < 0)
        return error_set_class(err, ERROR_INVALID, r, "no filter can be made of it: %s",
                               strerror(-r));
    if (fstat(fd, &st) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return error_set(err, -errno, "memory file: %s", strerror(errno));
    if (st.st_size > (off_t)SECCOMP_BPF_BYTES_MAX)
        return error_set_class(err, ERROR_INVALID, -E2BIG,
                               "its filter has %lld instructions; the kernel takes %u",
                               (long long)st.st_size / 8, SECCOMP_BPF_BYTES_MAX / 8);
    r = fd_read_all(fd, SECCOMP_BPF_BYTES_MAX, &bytes, ret_len);
    if (r < 0)
        return error_set(err, r, "memory file: %s", strerror(-r));
    *ret = bytes;
    return 0;
}

int syscall_profile_compile(const struct syscall_profile *p, void **ret, size_t *ret_len,
                            struct error **err)
{
    _cleanup_(release) scmp_filter_ctx ctx = seccomp_init(p->default_action);
    int r;

    if (!ctx)
        return error_set_class(err, ERROR_INVALID, -EINVAL, "default action %#x",
                               p->default_action);
    (void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, OPTIMIZE_TREE); /* libseccomp 2.5 */
    r = add_arches(ctx, p, err);
    if (r == 0)
        r = add_rules(ctx, p, err);
    return r < 0 ? r : export(ctx, ret, ret_len, err);
}
