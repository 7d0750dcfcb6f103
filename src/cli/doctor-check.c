/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor-check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/magic.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/str.h"
#include "cli/table.h"
#include "gen/cri/cri.pb-c.h"
#include "net/cni.h"

#define DISK_PROBLEM_BYTES (1ULL << 30)
#define DISK_WARNING_BYTES (5ULL << 30)
#define BOOT_TIMEOUT "30"

__attribute__((format(printf, 2, 3))) static void good(struct finding *f, const char *fmt, ...)
{
    va_list ap;

    f->result = FINDING_OK;
    va_start(ap, fmt);
    (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
}

__attribute__((format(printf, 4, 5))) static void bad(struct finding *f, enum finding_result result,
                                                      const char *advice, const char *fmt, ...)
{
    va_list ap;

    f->result = result;
    va_start(ap, fmt);
    (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
    (void)snprintf(f->advice, sizeof(f->advice), "%s", advice);
}

static void check_user(const struct doctor *d, struct finding *f)
{
    if (geteuid() == 0)
        good(f, "root");
    else
        bad(f, FINDING_WARNING, "run nexus doctor as root to see everything",
            "uid %u: some checks cannot tell", (unsigned)geteuid());
}

static void check_config(const struct doctor *d, struct finding *f)
{
    const char *path = d->config_path ? d->config_path : CONFIG_DEFAULT_PATH;

    if (d->config_error < 0)
        bad(f, FINDING_PROBLEM,
            "mend the file; nexusd.yaml(5) explains the keys, \"nexusd --check-config\" checks it",
            "%s", d->config_text);
    else if (access(path, F_OK) < 0)
        good(f, "%s is not there: defaults", path);
    else
        good(f, "%s", path);
}

/* ---- KVM */

static const struct {
    int cap;
    const char *name;
} kvm_caps[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},      {KVM_CAP_READONLY_MEM, "read-only memory"},
    {KVM_CAP_IRQCHIP, "interrupt controller"}, {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},          {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
};

static void check_kvm(const struct doctor *d, struct finding *f)
{
    const char *path = d->config->vm_kvm;
    _cleanup_(closep) int kvm = open(path, O_RDWR | O_CLOEXEC), vm = -EBADF;

    if (kvm < 0 && errno == ENOENT) {
        bad(f, FINDING_PROBLEM,
            "load kvm_intel or kvm_amd, and turn virtualization on in the firmware (or nested "
            "virtualization for this machine)",
            "%s is not there", path);
        return;
    }
    if (kvm < 0) {
        bad(f, FINDING_PROBLEM, "run as root, or join the group kvm", "%s cannot be opened: %s",
            path, strerror(errno));
        return;
    }
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        bad(f, FINDING_PROBLEM, "use a stable kernel: every KVM since Linux 2.6.22 speaks API 12",
            "%s speaks API %d", path, ioctl(kvm, KVM_GET_API_VERSION, 0));
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(kvm_caps); i++) {
        if (ioctl(kvm, KVM_CHECK_EXTENSION, kvm_caps[i].cap) > 0)
            continue;
        bad(f, FINDING_PROBLEM, "use a newer kernel, or a machine with full KVM", "%s lacks %s",
            path, kvm_caps[i].name);
        return;
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0)
        bad(f, FINDING_PROBLEM, "another hypervisor may hold the processor: see the kernel log",
            "%s makes no VM: %s", path, strerror(errno));
    else if (access("/sys/module/kvm_pvm", F_OK) == 0)
        bad(f, FINDING_WARNING,
            "try it: \"nexus doctor --boot\"; where it fails, the lab (lab/run) brings a KVM of "
            "its own",
            "this is a PVM host: stock guest kernels may not run on it");
    else
        good(f, "%s works", path);
}

static void check_tun(const struct doctor *d, struct finding *f)
{
    _cleanup_(closep) int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    if (fd >= 0)
        good(f, "/dev/net/tun works");
    else
        bad(f, FINDING_PROBLEM, "load the module: modprobe tun (as root)",
            "/dev/net/tun cannot be opened: %s", strerror(errno));
}

/* ---- cgroup, network */

static void check_cgroup(const struct doctor *d, struct finding *f)
{
    static const char *const needed[] = {"cpu", "memory", "pids"};
    const char *root = d->config->cgroup_root;
    _cleanup_(freep) char *path = str_printf("%s/cgroup.controllers", root), *text = NULL;
    struct statfs fs;

    if (statfs(root, &fs) < 0 || (unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC) {
        bad(f, FINDING_PROBLEM,
            "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there",
            "%s is no cgroup v2", root);
        return;
    }
    if (file_read_all(AT_FDCWD, path, 4096, &text, NULL) < 0)
        text = str_dup("");
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        _cleanup_(freep) char *copy = str_dup(text);
        char *rest = copy, *word;
        bool there = false;

        while ((word = strsep(&rest, " \n")))
            there = there || strcmp(word, needed[i]) == 0;
        if (there)
            continue;
        bad(f, FINDING_PROBLEM, "enable the controller (kernel command line: cgroup_enable=…)",
            "%s has no controller %s", root, needed[i]);
        return;
    }
    good(f, "%s: version 2 with cpu, memory, pids", root);
}

static void check_cni(const struct doctor *d, struct finding *f)
{
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = cni_status(d->config->network_conf_dir, d->config->network_bin_dirs, &net, &err);

    if (r < 0)
        bad(f, FINDING_PROBLEM,
            "install the plugins (Debian: containernetworking-plugins) and one configuration list "
            "(an example: packaging/cni/10-nexus.conflist)",
            "%s", error_text(err, r));
    else
        good(f, "network %s from %s, plugins present", net->name, net->file);
}

/* ---- files */

static void check_file(struct finding *f, const char *what, const char *path, int mode,
                       const char *advice)
{
    struct stat st;

    if (f->result != FINDING_OK)
        return;
    if (stat(path, &st) < 0)
        bad(f, FINDING_PROBLEM, advice, "%s: %s: %s", what, path, strerror(errno));
    else if (!S_ISREG(st.st_mode) || st.st_size == 0)
        bad(f, FINDING_PROBLEM, advice, "%s: %s is empty or no file", what, path);
    else if (access(path, mode) < 0)
        bad(f, FINDING_PROBLEM, "mend the permissions of that file", "%s: %s: %s", what, path,
            strerror(errno));
}

static void check_guest(const struct doctor *d, struct finding *f)
{
    static const char advice[] =
        "build them (make) and install them there, or name their places in nexusd.yaml under vm:";
    _cleanup_(closep) int fd = -EBADF;
    char magic[4] = "";

    good(f, "%s, %s", d->config->vm_kernel, d->config->vm_initramfs);
    check_file(f, "guest kernel", d->config->vm_kernel, R_OK, advice);
    check_file(f, "initramfs", d->config->vm_initramfs, R_OK, advice);
    check_file(f, "kernel modules", d->config->vm_modules, R_OK, advice);
    if (f->result != FINDING_OK)
        return;
    fd = open(d->config->vm_kernel, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read_full(fd, magic, 4) != 4 || memcmp(magic, "\177ELF", 4) != 0)
        bad(f, FINDING_PROBLEM,
            "it must be an uncompressed vmlinux: guest/extract-vmlinux makes one of a Debian "
            "kernel",
            "guest kernel: %s is no ELF file", d->config->vm_kernel);
}

static void check_programs(const struct doctor *d, struct finding *f)
{
    static const char advice[] = "install it, or name its place in nexusd.yaml";

    good(f, "nexus-vmm, nexus-pull, nexus-stream, mkfs.ext4");
    check_file(f, "monitor", d->config->vm_program, X_OK, advice);
    check_file(f, "pull helper", d->config->images_pull_program, X_OK, advice);
    check_file(f, "stream server", d->config->stream_program, X_OK, advice);
    check_file(f, "mkfs", d->config->scratch_mkfs, X_OK, "install e2fsprogs");
}

/* The part of path that exists. */
static char *existing_parent(const char *path)
{
    char *p = str_dup(path);

    while (access(p, F_OK) < 0) {
        char *slash = strrchr(p, '/');
        if (!slash || slash == p) {
            (void)snprintf(p, strlen(p) + 1, "/");
            break;
        }
        *slash = '\0';
    }
    return p;
}

static void check_disk(const struct doctor *d, struct finding *f)
{
    const char *const dirs[] = {d->config->state_dir, d->config->images_dir};

    for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
        _cleanup_(freep) char *at = existing_parent(dirs[i]);
        struct statvfs fs;
        uint64_t bytes;
        char text[HUMAN_SIZE];

        if (statvfs(at, &fs) < 0) {
            bad(f, FINDING_PROBLEM, "see that the file system works", "%s: %s", at,
                strerror(errno));
            return;
        }
        bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
        if (bytes < DISK_WARNING_BYTES || (fs.f_files > 0 && fs.f_favail < 10000)) {
            bad(f, bytes < DISK_PROBLEM_BYTES ? FINDING_PROBLEM : FINDING_WARNING,
                "free some space: \"nexus images\" and \"nexus rmi\", or another file system",
                "%s has %s and %llu inodes left", dirs[i], human_bytes(bytes, text),
                (unsigned long long)fs.f_favail);
            return;
        }
        if (i == 0)
            good(f, "%s free at %s", human_bytes(bytes, text), dirs[i]);
    }
}

/* ---- the server */

static void check_conditions(const Runtime__V1__StatusResponse *answer, struct finding *f)
{
    for (size_t i = 0; answer->status && i < answer->status->n_conditions; i++) {
        const Runtime__V1__RuntimeCondition *c = answer->status->conditions[i];

        if (c->status)
            continue;
        bad(f, FINDING_PROBLEM, "the reason says what is missing; its log says more",
            "nexusd: %s is false: %s %s", c->type, c->reason, c->message);
        return;
    }
}

static void check_server(const struct doctor *d, struct finding *f)
{
    Runtime__V1__VersionRequest rq = RUNTIME__V1__VERSION_REQUEST__INIT;
    Runtime__V1__StatusRequest status_rq = RUNTIME__V1__STATUS_REQUEST__INIT;
    ANSWER(Runtime__V1__VersionResponse, version);
    ANSWER(Runtime__V1__StatusResponse, status);
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(freep) char *address = NULL;
    int r;

    if (!d->address_given) { /* the configuration knows where nexusd listens */
        address = str_printf("unix://%s", d->config->listen);
        d->cli->address = address;
    }
    r = cli_reconnect(d->cli, &err);
    if (r < 0) {
        bad(f, FINDING_PROBLEM,
            r == -EACCES ? "run nexus doctor as root"
                         : "start it: systemctl start nexusd; why it stops: journalctl -u nexusd",
            "nexusd does not answer at %s: %s", d->cli->address, error_text(err, r));
        return;
    }
    r = cli_call(d->cli, "RuntimeService/Version", &rq.base,
                 &runtime__v1__version_response__descriptor, 10000, ANSWER_AT(version), &err);
    if (r == 0)
        r = cli_call(d->cli, "RuntimeService/Status", &status_rq.base,
                     &runtime__v1__status_response__descriptor, 10000, ANSWER_AT(status), &err);
    if (r < 0) {
        bad(f, FINDING_PROBLEM, "see its log: journalctl -u nexusd", "nexusd: %s",
            error_text(err, r));
        return;
    }
    good(f, "%s %s at %s", version->runtime_name, version->runtime_version, d->cli->address);
    check_conditions(status, f);
}

void doctor_check_boot(const struct doctor *d, struct finding *f)
{
    const struct config *c = d->config;
    char *argv[] = {c->vm_program,
                    (char[]){"--id"},
                    (char[]){"doctor"},
                    (char[]){"--cpus"},
                    (char[]){"1"},
                    (char[]){"--memory"},
                    (char[]){"256M"},
                    (char[]){"--kvm"},
                    c->vm_kvm,
                    (char[]){"--kernel"},
                    c->vm_kernel,
                    (char[]){"--initramfs"},
                    c->vm_initramfs,
                    (char[]){"--until-hello"},
                    (char[]){"--hello-timeout"},
                    (char[]){BOOT_TIMEOUT},
                    NULL};
    posix_spawn_file_actions_t fa;
    int status = 0, r;
    pid_t pid;

    (void)posix_spawn_file_actions_init(&fa);
    (void)posix_spawn_file_actions_addopen(&fa, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_addopen(&fa, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    r = posix_spawn(&pid, c->vm_program, &fa, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&fa);
    if (r != 0) {
        bad(f, FINDING_PROBLEM, "install nexus-vmm, or name its place in nexusd.yaml",
            "%s cannot be started: %s", c->vm_program, strerror(r));
        return;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        good(f, "a microVM came up and its agent said hello");
    else
        bad(f, FINDING_PROBLEM,
            "this machine's KVM cannot run the guest kernel (PVM hosts cannot), or the guest files "
            "are damaged; the lab (lab/run) works anywhere",
            "no hello from a microVM within " BOOT_TIMEOUT " s: nexus-vmm ended with %s %d",
            WIFEXITED(status) ? "code" : "signal",
            WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

const struct doctor_check doctor_checks[] = {
    {"user", check_user},
    {"config", check_config},
    {"kvm", check_kvm},
    {"tun", check_tun},
    {"cgroup", check_cgroup},
    {"network", check_cni},
    {"guest", check_guest},
    {"programs", check_programs},
    {"disk", check_disk},
    {"server", check_server},
    {NULL, NULL},
};
