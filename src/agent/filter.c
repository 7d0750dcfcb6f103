/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/filter.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/btf.h"

/* ---- system calls */

#define X86_64_SOCKET 41
#define X32_BIT 0x40000000U
#define I386_SOCKET 359
#define I386_SOCKETCALL 102 /* its arguments are in memory: no filter can see the family */
#define SOCKETCALL_SOCKET 1
#define IO_URING_SETUP 425 /* in both tables; a ring opens sockets behind every filter's back */

#define DATA(field) ((uint32_t)offsetof(struct seccomp_data, field))
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, DATA(field))
#define JUMP_EQ(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (yes), (no))
#define RET_ERRNO(e) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)(e))
#define RET_ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

int filter_install_syscalls(struct error **err)
{
    struct sock_filter code[] = {
        /* 0 */ LOAD(arch),
        /* 1 */ JUMP_EQ(AUDIT_ARCH_X86_64, 1, 0),
        /* 2 */ JUMP_EQ(AUDIT_ARCH_I386, 4, 8),
        /* 3 x86-64, x32 */ LOAD(nr),
        /* 4 */ BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~X32_BIT),
        /* 5 */ JUMP_EQ(X86_64_SOCKET, 7, 0),
        /* 6 */ JUMP_EQ(IO_URING_SETUP, 13, 5),
        /* 7 i386 */ LOAD(nr),
        /* 8 */ JUMP_EQ(I386_SOCKET, 4, 0),
        /* 9 */ JUMP_EQ(IO_URING_SETUP, 10, 0),
        /* 10 */ JUMP_EQ(I386_SOCKETCALL, 0, 1),
        /* 11 */ BPF_JUMP(BPF_JMP | BPF_JA, 4, 0, 0),
        /* 12 */ RET_ALLOW,
        /* 13 the family */ LOAD(args[0]),
        /* 14 */ JUMP_EQ(AF_VSOCK, 0, 3),
        /* 15 */ RET_ERRNO(EAFNOSUPPORT),
        /* 16 socketcall: callers fall back to socket */ LOAD(args[0]),
        /* 17 */ JUMP_EQ(SOCKETCALL_SOCKET, 2, 0),
        /* 18 */ RET_ALLOW,
        /* 19 */ RET_ALLOW,
        /* 20 */ RET_ERRNO(ENOSYS),
    };

#ifndef __x86_64__
#error "the numbers above are those of x86-64"
#endif
    return filter_install(code, ARRAY_SIZE(code), err);
}

int filter_install(const void *code, size_t n, struct error **err)
{
    struct sock_fprog prog = {.len = (unsigned short)n,
                              .filter = (struct sock_filter *)(uintptr_t)code};

    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0)
        return error_set(err, -errno, "system call filter");
    return 0;
}

/* ---- programs on hooks; the first: no vsock, for anybody */

enum { R0, R1, R2, R3, R4, R5 };

#define INSN(op, d, s, o, i) \
    ((struct bpf_insn){.code = (op), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})

/* Of the kernel's interface, newer than some of its headers. */
#define PROG_TYPE_LSM 29
#define ATTACH_LSM_MAC 27

/* The program on the kernel's function that calls the hook, for as long as *ret_fd is open. */
static int attach_lsm(const char *function, const struct bpf_insn *code, size_t n, int *ret_fd,
                      struct error **err)
{
    /* the kernel takes programs of this kind under the GPL only; these lines are, too */
    static const char license[] = "GPL";
    _cleanup_(closep) int btf = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
    _cleanup_(closep) int prog = -EBADF;
    union bpf_attr load, attach;
    uint32_t hook = 0;
    int r = btf < 0 ? -errno : btf_find_function(btf, function, &hook);

    if (r < 0)
        return error_set(err, r, "type information of the kernel");
    memset(&load, 0, sizeof(load));
    load.prog_type = PROG_TYPE_LSM;
    load.expected_attach_type = ATTACH_LSM_MAC;
    load.attach_btf_id = hook;
    load.insn_cnt = (uint32_t)n;
    load.insns = (uint64_t)(uintptr_t)code;
    load.license = (uint64_t)(uintptr_t)license;
    prog = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
    if (prog < 0)
        return error_set(err, -errno, "%s: load", function);
    memset(&attach, 0, sizeof(attach));
    attach.raw_tracepoint.prog_fd = (uint32_t)prog;
    *ret_fd = (int)syscall(SYS_bpf, BPF_RAW_TRACEPOINT_OPEN, &attach, sizeof(attach));
    return *ret_fd < 0 ? error_set(err, -errno, "%s: attach", function) : 0;
}

int filter_guard_vsock(int *ret_fd, struct error **err)
{
    const struct bpf_insn code[] = {
        INSN(BPF_LDX | BPF_MEM | BPF_DW, R2, R1, 0, 0), /* the family */
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 0),
        INSN(BPF_JMP | BPF_JNE | BPF_K, R2, 0, 1, AF_VSOCK),
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, -EAFNOSUPPORT),
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };

    return attach_lsm("bpf_lsm_socket_create", code, ARRAY_SIZE(code), ret_fd, err);
}

/* ---- watches */

#define WORD_BYTES 4096U /* the page that has it */

static int word_new(void)
{
    union bpf_attr map;

    memset(&map, 0, sizeof(map));
    map.map_type = BPF_MAP_TYPE_ARRAY;
    map.key_size = map.value_size = sizeof(uint32_t);
    map.max_entries = 1;
    map.map_flags = BPF_F_MMAPABLE;
    return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map));
}

int filter_note_watches(int *ret_fd, const _Atomic uint32_t **ret_word, struct error **err)
{
    _cleanup_(closep) int map = word_new();
    const struct bpf_insn code[] = {
        INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_pid_tgid),
        INSN(BPF_ALU64 | BPF_RSH | BPF_K, R0, 0, 0, 32),
        INSN(BPF_JMP | BPF_JEQ | BPF_K, R0, 0, 3, 1), /* the agent's own */
        INSN(BPF_LD | BPF_DW | BPF_IMM, R1, BPF_PSEUDO_MAP_VALUE, 0, map),
        INSN(0, 0, 0, 0, 0),
        INSN(BPF_ST | BPF_MEM | BPF_W, R1, 0, 0, 1),
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 0),
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    void *page;
    int r;

    if (map < 0)
        return error_set(err, -errno, "a word for watches");
    page = mmap(NULL, WORD_BYTES, PROT_READ, MAP_SHARED, map, 0);
    if (page == MAP_FAILED)
        return error_set(err, -errno, "a word for watches: mapping it");
    r = attach_lsm("bpf_lsm_path_notify", code, ARRAY_SIZE(code), ret_fd, err);
    if (r < 0) {
        (void)munmap(page, WORD_BYTES);
        return r;
    }
    *ret_word = page;
    return 0;
}

/* ---- devices */

#define ANY UINT32_MAX
static const struct {
    uint32_t type, major, minor;
} allowed[] = {
    {BPF_DEVCG_DEV_CHAR, 1, 3},     /* null */
    {BPF_DEVCG_DEV_CHAR, 1, 5},     /* zero */
    {BPF_DEVCG_DEV_CHAR, 1, 7},     /* full */
    {BPF_DEVCG_DEV_CHAR, 1, 8},     /* random */
    {BPF_DEVCG_DEV_CHAR, 1, 9},     /* urandom */
    {BPF_DEVCG_DEV_CHAR, 5, 0},     /* tty */
    {BPF_DEVCG_DEV_CHAR, 5, 1},     /* console: a bind of the terminal */
    {BPF_DEVCG_DEV_CHAR, 5, 2},     /* ptmx */
    {BPF_DEVCG_DEV_CHAR, 136, ANY}, /* pts */
};

#define CTX(reg, field) \
    INSN(BPF_LDX | BPF_MEM | BPF_W, reg, R1, offsetof(struct bpf_cgroup_dev_ctx, field), 0)

static size_t device_program(struct bpf_insn *p)
{
    size_t n = 0;

    p[n++] = CTX(R2, access_type); /* access << 16 | type */
    p[n++] = INSN(BPF_ALU | BPF_MOV | BPF_X, R3, R2, 0, 0);
    p[n++] = INSN(BPF_ALU | BPF_RSH | BPF_K, R3, 0, 0, 16);
    p[n++] = INSN(BPF_ALU | BPF_AND | BPF_K, R2, 0, 0, 0xffff);
    p[n++] = CTX(R4, major);
    p[n++] = CTX(R5, minor);
    /* only making a node: allowed */
    p[n++] = INSN(BPF_JMP | BPF_JNE | BPF_K, R3, 0, 2, BPF_DEVCG_ACC_MKNOD);
    p[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 1);
    p[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
        bool any = allowed[i].minor == ANY;
        short skip = any ? 3 : 4;

        p[n++] = INSN(BPF_JMP | BPF_JNE | BPF_K, R2, 0, skip, (int)allowed[i].type);
        p[n++] = INSN(BPF_JMP | BPF_JNE | BPF_K, R4, 0, (short)(skip - 1), (int)allowed[i].major);
        if (!any)
            p[n++] = INSN(BPF_JMP | BPF_JNE | BPF_K, R5, 0, 2, (int)allowed[i].minor);
        p[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 1);
        p[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    p[n++] = INSN(BPF_ALU64 | BPF_MOV | BPF_K, R0, 0, 0, 0);
    p[n++] = INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    return n;
}

int filter_attach_devices(int cgroup_fd, struct error **err)
{
    static const char license[] = "Apache-2.0";
    struct bpf_insn code[16 + 5 * ARRAY_SIZE(allowed)];
    union bpf_attr load, attach;
    long prog;
    int r = 0;

    memset(&load, 0, sizeof(load));
    load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    load.insn_cnt = (uint32_t)device_program(code);
    load.insns = (uint64_t)(uintptr_t)code;
    load.license = (uint64_t)(uintptr_t)license;
    prog = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
    if (prog < 0)
        return error_set(err, -errno, "device filter: load");
    memset(&attach, 0, sizeof(attach));
    attach.target_fd = (uint32_t)cgroup_fd;
    attach.attach_bpf_fd = (uint32_t)prog;
    attach.attach_type = BPF_CGROUP_DEVICE;
    if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach)) < 0)
        r = error_set(err, -errno, "device filter: attach");
    (void)close_fd((int)prog); /* the cgroup keeps it */
    return r;
}
