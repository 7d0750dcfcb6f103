/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles of seccomp: what is read, what is refused and why, and what the compiled program says about
 * single calls, by an interpreter of classic BPF. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/buf.h"
#include "base/str.h"
#include "lib/test.h"
#include "seccomp/profile.h"

#define CAP(c) (1ULL << (c))
#define I386_MOUNT 21
#define NR_clone3 435
#define NR_io_uring_setup 425

static uint32_t jump(const struct sock_filter *i, uint32_t a)
{
    switch (BPF_OP(i->code)) {
    case BPF_JA:
        return i->k;
    case BPF_JEQ:
        return a == i->k ? i->jt : i->jf;
    case BPF_JGT:
        return a > i->k ? i->jt : i->jf;
    case BPF_JGE:
        return a >= i->k ? i->jt : i->jf;
    case BPF_JSET:
        return a & i->k ? i->jt : i->jf;
    default:
        fail_msg("jump %#x", i->code);
        return 0;
    }
}

static uint32_t run(const void *bpf, size_t len, const struct seccomp_data *d)
{
    const struct sock_filter *code = bpf;
    uint32_t a = 0, mem[BPF_MEMWORDS] = {0};

    for (size_t pc = 0; pc < len / sizeof(*code); pc++) {
        const struct sock_filter *i = &code[pc];

        switch (BPF_CLASS(i->code)) {
        case BPF_LD:
            if (BPF_MODE(i->code) == BPF_ABS) {
                assert_true(i->k <= sizeof(*d) - 4);
                memcpy(&a, (const char *)d + i->k, 4);
            } else {
                a = mem[i->k];
            }
            break;
        case BPF_ST:
            mem[i->k] = a;
            break;
        case BPF_ALU:
            assert_int_equal(BPF_OP(i->code), BPF_AND);
            a &= i->k;
            break;
        case BPF_JMP:
            pc += jump(i, a);
            break;
        case BPF_RET:
            return i->k;
        default:
            fail_msg("instruction %#x", i->code);
        }
    }
    fail_msg("no return");
    return 0;
}

struct filter {
    void *bpf;
    size_t len;
};

static uint32_t says(const struct filter *f, uint32_t arch, long nr, uint64_t arg0)
{
    struct seccomp_data d = {.nr = (int)nr, .arch = arch, .args = {arg0}};

    return run(f->bpf, f->len, &d);
}

static void compile(const struct syscall_profile *p, struct filter *ret)
{
    _cleanup_(error_freep) struct error *err = NULL;

    if (syscall_profile_compile(p, &ret->bpf, &ret->len, &err) < 0)
        fail_msg("%s", err->message);
    assert_true(ret->len > 0 && ret->len % 8 == 0 && ret->len <= SECCOMP_BPF_BYTES_MAX);
}

static struct filter filter_of(const char *text)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct syscall_profile p = {0};
    struct filter f = {0};

    if (syscall_profile_parse(text, strlen(text), &p, &err) < 0)
        fail_msg("%s: %s", text, err->message);
    compile(&p, &f);
    syscall_profile_done(&p);
    return f;
}

#define ERRNO(e) (SECCOMP_RET_ERRNO | (uint32_t)(e))
#define X64 AUDIT_ARCH_X86_64
#define ALLOW_ALL "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":["
#define DENY_ALL "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"syscalls\":["

static void says_what_the_file_says(void **state)
{
    static const struct {
        const char *text;
        uint32_t arch;
        long nr;
        uint64_t arg0;
        uint32_t want;
    } rows[] = {
        {ALLOW_ALL "]}", X64, SYS_read, 0, SECCOMP_RET_ALLOW},
        {ALLOW_ALL "{\"names\":[\"chmod\",\"fchmodat\"],\"action\":\"SCMP_ACT_ERRNO\"}]}", X64,
         SYS_fchmodat, 0, ERRNO(EPERM)},
        {ALLOW_ALL "{\"names\":[\"chmod\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":38}]}", X64,
         SYS_chmod, 0, ERRNO(38)},
        {ALLOW_ALL "{\"names\":[\"chmod\"],\"action\":\"SCMP_ACT_ERRNO\"}]}", X64, SYS_fchmod, 0,
         SECCOMP_RET_ALLOW},
        {"{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":5}", X64, SYS_read, 0,
         ERRNO(5)},
        {"{\"defaultAction\":\"SCMP_ACT_KILL\"}", X64, SYS_read, 0, SECCOMP_RET_KILL_THREAD},
        {"{\"defaultAction\":\"SCMP_ACT_KILL_PROCESS\",\"syscalls\":null}", X64, SYS_read, 0,
         SECCOMP_RET_KILL_PROCESS},
        {"{\"defaultAction\":\"SCMP_ACT_TRAP\"}", X64, SYS_read, 0, SECCOMP_RET_TRAP},
        {"{\"defaultAction\":\"SCMP_ACT_LOG\"}", X64, SYS_read, 0, SECCOMP_RET_LOG},
        {"{\"defaultAction\":\"SCMP_ACT_TRACE\",\"defaultErrnoRet\":9}", X64, SYS_read, 0,
         SECCOMP_RET_TRACE | 9},
        /* calls newer than the library stay forbidden where the default forbids */
        {DENY_ALL "{\"names\":[\"no_such_call\",\"read\"],\"action\":\"SCMP_ACT_ALLOW\"}]}", X64,
         SYS_read, 0, SECCOMP_RET_ALLOW},
        /* two conditions on one argument: either; on two: both */
        {DENY_ALL "{\"names\":[\"socket\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
                  "{\"index\":0,\"value\":1,\"op\":\"SCMP_CMP_EQ\"},"
                  "{\"index\":0,\"value\":2,\"op\":\"SCMP_CMP_EQ\"}]}]}",
         X64, SYS_socket, 2, SECCOMP_RET_ALLOW},
        {DENY_ALL "{\"names\":[\"socket\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
                  "{\"index\":0,\"value\":1,\"op\":\"SCMP_CMP_EQ\"},"
                  "{\"index\":1,\"value\":2,\"op\":\"SCMP_CMP_EQ\"}]}]}",
         X64, SYS_socket, 1, ERRNO(EPERM)},
        {DENY_ALL
         "{\"names\":[\"clone\"],\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
         "{\"index\":0,\"value\":2114060288,\"valueTwo\":0,\"op\":\"SCMP_CMP_MASKED_EQ\"}]}]}",
         X64, SYS_clone, CLONE_NEWNS, ERRNO(EPERM)},
        /* another architecture than those named is none of the program's */
        {ALLOW_ALL "]}", AUDIT_ARCH_I386, 3, 0, SECCOMP_RET_KILL_THREAD},
        {"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86\","
         "\"SCMP_ARCH_AARCH64\"]}",
         AUDIT_ARCH_I386, 3, 0, SECCOMP_RET_ALLOW},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct filter f = filter_of(rows[i].text);
        uint32_t got = says(&f, rows[i].arch, rows[i].nr, rows[i].arg0);

        if (got != rows[i].want)
            fail_msg("%s: %#x", rows[i].text, got);
        free(f.bpf);
    }
}

static void refuses_what_is_no_profile(void **state)
{
    static const struct {
        const char *text, *why;
        int class;
    } rows[] = {
        {"", "JSON", ERROR_INVALID},
        {"hello", "JSON", ERROR_INVALID},
        {"[]", "object", ERROR_INVALID},
        {"{}", "\"defaultAction\" is missing", ERROR_INVALID},
        {"{\"defaultAction\":7}", "no string", ERROR_INVALID},
        {"{\"defaultAction\":\"ALLOW\"}", "\"ALLOW\" is unknown", ERROR_INVALID},
        {"{\"defaultAction\":\"SCMP_ACT_NOTIFY\"}", "listener", ERROR_UNSUPPORTED},
        {"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":\"/x\"}", "listener",
         ERROR_UNSUPPORTED},
        {"{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":4096}", "defaultErrnoRet",
         ERROR_INVALID},
        {"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"defaultAction\":\"SCMP_ACT_KILL\"}", "JSON",
         ERROR_INVALID},
        {"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_Z80\"]}", "Z80",
         ERROR_INVALID},
        {"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"flags\":[\"X\"]}", "flag", ERROR_INVALID},
        {"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":{}}", "no list", ERROR_INVALID},
        {ALLOW_ALL "7]}", "rule 1", ERROR_INVALID},
        {ALLOW_ALL "{\"names\":[],\"action\":\"SCMP_ACT_ERRNO\"}]}", "no \"names\"", ERROR_INVALID},
        {ALLOW_ALL "{\"names\":[\"Read!\"],\"action\":\"SCMP_ACT_ERRNO\"}]}", "no name of",
         ERROR_INVALID},
        {ALLOW_ALL "{\"names\":[\"read\"]}]}", "\"action\" is missing", ERROR_INVALID},
        {ALLOW_ALL "{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ERRNO\",\"args\":["
                   "{\"index\":6,\"value\":1,\"op\":\"SCMP_CMP_EQ\"}]}]}",
         "\"index\"", ERROR_INVALID},
        {ALLOW_ALL "{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ERRNO\",\"args\":["
                   "{\"index\":0,\"value\":1,\"op\":\"==\"}]}]}",
         "op \"==\"", ERROR_INVALID},
        {ALLOW_ALL "{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ERRNO\",\"includes\":"
                   "{\"caps\":[\"CAP_SYS_ADMIN\"]}}]}",
         "includes", ERROR_INVALID},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        struct syscall_profile p = {0};

        if (syscall_profile_parse(rows[i].text, strlen(rows[i].text), &p, &err) >= 0)
            fail_msg("taken: %s", rows[i].text);
        assert_int_equal(err->class, rows[i].class);
        if (!strstr(err->message, rows[i].why))
            fail_msg("%s: %s", rows[i].text, err->message);
    }
}

static void a_rule_that_forbids_what_nobody_knows_is_an_error(void **state)
{
    static const char text[] =
        ALLOW_ALL "{\"names\":[\"no_such_call\"],\"action\":\"SCMP_ACT_ERRNO\"}]}";
    _cleanup_(error_freep) struct error *err = NULL;
    struct syscall_profile p = {0};
    void *bpf = NULL;
    size_t len;

    assert_int_equal(syscall_profile_parse(text, sizeof(text) - 1, &p, NULL), 0);
    assert_int_equal(syscall_profile_compile(&p, &bpf, &len, &err), -EINVAL);
    assert_int_equal(err->class, ERROR_INVALID);
    assert_non_null(strstr(err->message, "no_such_call"));
    syscall_profile_done(&p);
}

/* Rules of a profile, each with its own condition, written as a file. */
static char *many(size_t rules, size_t args)
{
    struct buf b;

    buf_init(&b, 4 << 20);
    (void)buf_printf(&b,
                     "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_X86\","
                     "\"SCMP_ARCH_X32\"],\"syscalls\":[");
    for (size_t i = 0; i < rules; i++) {
        (void)buf_printf(&b, "%s{\"names\":[\"ioctl\"],\"action\":\"SCMP_ACT_ERRNO\",\"args\":[",
                         i ? "," : "");
        for (size_t k = 0; k < args; k++)
            (void)buf_printf(&b, "%s{\"index\":%zu,\"value\":%zu,\"op\":\"SCMP_CMP_EQ\"}",
                             k ? "," : "", k, i * 6 + k);
        (void)buf_printf(&b, "]}");
    }
    (void)buf_printf(&b, "]}");
    return buf_take_str(&b);
}

static void the_limits_hold(void **state)
{
    static const struct {
        size_t rules, args;
        int parses;
        bool compiles;
    } rows[] = {{200, 1, 0, true},      {256, 1, 0, true},  {257, 1, -E2BIG, false},
                {128, 2, 0, true},      {85, 3, 0, true},   {42, 6, 0, true},
                {43, 6, -E2BIG, false}, {4096, 0, 0, true}, {4097, 0, -E2BIG, false}};
    _cleanup_(error_freep) struct error *err = NULL;
    char *big = xcalloc(10 << 20, 1);
    struct syscall_profile p = {0};

    memset(big, ' ', 10 << 20);
    assert_int_equal(syscall_profile_parse(big, 10 << 20, &p, &err), -E2BIG);
    assert_int_equal(err->class, ERROR_INVALID);
    assert_non_null(strstr(err->message, "1048576"));
    free(big);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(freep) char *text = many(rows[i].rules, rows[i].args);
        _cleanup_(error_freep) struct error *why = NULL;
        clock_t begin = clock();
        void *bpf = NULL;
        size_t len = 0;
        int r = syscall_profile_parse(text, strlen(text), &p, &why);

        assert_int_equal(r, rows[i].parses);
        if (r < 0)
            continue;
        r = syscall_profile_compile(&p, &bpf, &len, &why);
        if ((r == 0) != rows[i].compiles)
            fail_msg("%zu: %d %s", rows[i].rules, r, error_text(why, r));
        print_message("%zu rules of %zu: %zu bytes of file, %s, %ld ms\n", rows[i].rules,
                      rows[i].args, strlen(text), r < 0 ? why->message : "compiled",
                      (long)((clock() - begin) * 1000 / CLOCKS_PER_SEC));
        free(bpf);
        syscall_profile_done(&p);
    }
}

static void the_default_depends_on_capabilities(void **state)
{
    static const struct {
        uint64_t capabilities;
        uint32_t arch;
        long nr;
        uint64_t arg0;
        uint32_t want;
    } rows[] = {
        {0, X64, SYS_read, 0, SECCOMP_RET_ALLOW},
        {0, X64, SYS_execve, 0, SECCOMP_RET_ALLOW},
        {0, X64, SYS_clone, 0x11, SECCOMP_RET_ALLOW},
        {0, X64, SYS_clone, CLONE_NEWUSER, ERRNO(EPERM)},
        {0, X64, NR_clone3, 0, ERRNO(ENOSYS)},
        {0, X64, SYS_unshare, CLONE_NEWUSER, ERRNO(EPERM)},
        {0, X64, SYS_mount, 0, ERRNO(EPERM)},
        {0, AUDIT_ARCH_I386, I386_MOUNT, 0, ERRNO(EPERM)},
        {0, AUDIT_ARCH_I386, 3, 0, SECCOMP_RET_ALLOW},
        {0, X64, SYS_keyctl, 0, ERRNO(EPERM)},
        {0, X64, NR_io_uring_setup, 0, ERRNO(EPERM)},
        {0, X64, SYS_bpf, 0, ERRNO(EPERM)},
        {0, X64, SYS_ptrace, 0, SECCOMP_RET_ALLOW},
        {0, X64, SYS_socket, 2, SECCOMP_RET_ALLOW},
        {0, X64, SYS_socket, 40, ERRNO(EPERM)},
        {0, X64, SYS_personality, 0xffffffff, SECCOMP_RET_ALLOW},
        {0, X64, SYS_personality, 0x40000, ERRNO(EPERM)},
        {0, X64, 9999, 0, ERRNO(EPERM)},
        {CAP(CAP_SYS_ADMIN), X64, SYS_mount, 0, SECCOMP_RET_ALLOW},
        {CAP(CAP_SYS_ADMIN), X64, SYS_clone, CLONE_NEWUSER, SECCOMP_RET_ALLOW},
        {CAP(CAP_SYS_ADMIN), X64, NR_clone3, 0, SECCOMP_RET_ALLOW},
        {CAP(CAP_SYS_ADMIN), X64, SYS_keyctl, 0, ERRNO(EPERM)},
        {CAP(CAP_SYS_CHROOT), X64, SYS_chroot, 0, SECCOMP_RET_ALLOW},
        {CAP(CAP_SYS_TIME), X64, SYS_clock_settime, 0, SECCOMP_RET_ALLOW},
        {CAP(CAP_SYS_TIME), X64, SYS_reboot, 0, ERRNO(EPERM)},
        {UINT64_MAX, X64, SYS_reboot, 0, SECCOMP_RET_ALLOW},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct syscall_profile p = {0};
        struct filter f = {0};
        uint32_t got;

        syscall_profile_default(rows[i].capabilities, &p);
        compile(&p, &f);
        got = says(&f, rows[i].arch, rows[i].nr, rows[i].arg0);
        if (got != rows[i].want)
            fail_msg("row %zu: %#x", i, got);
        free(f.bpf);
        syscall_profile_done(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_the_file_says),
        cmocka_unit_test(refuses_what_is_no_profile),
        cmocka_unit_test(a_rule_that_forbids_what_nobody_knows_is_an_error),
        cmocka_unit_test(the_limits_hold),
        cmocka_unit_test(the_default_depends_on_capabilities),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
