/* SPDX-License-Identifier: Apache-2.0 */
/* nexus-vmm without a VM: the real supervisor over a guest in memory. Takes nexus-vmm's command line and
 * ignores what only a machine needs. NEXUS_FAKE_AGENT (text) and NEXUS_FAKE_AGENT_FILE (a file's text)
 * tell the guest what to do wrong, see fake-script.h; what fails depends on the sandbox with
 * NEXUS_FAKE_AGENT_DIR/<first 12 of the id, or whole id>. What it is told goes to NEXUS_FAKE_RECORD_DIR,
 * see fake-record.h. */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"
#include "event/loop.h"
#include "fakes/fake-agent.h"
#include "fakes/fake-record.h"
#include "fakes/mem-transport.h"
#include "vmm/supervisor.h"

#define RAM_TOP (1ULL << 32)
#define REGION_ALIGN (2ULL << 20)
#define SCRIPT_MAX (64U << 10)

struct machine {
    struct loop *loop;
    struct mem_transport *transport;
    struct fake_agent *agent;
    struct supervisor *sup;
    struct loop_source *signals;
    int signal_fd;
    uint64_t next_gpa;
    uint64_t partial;          /* bytes of a region that comes in pieces */
    struct fake_script script; /* its point "region" is ours, the others are the agent's */
    unsigned regions;
    uint64_t started_ns;
    bool until_hello;
};

struct options {
    const char *id, *control;
    bool until_hello;
};

/* ---- what the machine does for the supervisor */

static int add_region(void *ud, const char *key, const char *what, const int *fds,
                      const uint64_t *segment_bytes, char *const *names, size_t n, bool more,
                      uint64_t *ret_gpa, uint64_t *ret_bytes, struct error **err)
{
    struct machine *m = ud;
    const struct fake_rule *fail;
    uint64_t total = 0;

    fake_script_pass(&m->script, "region");
    fail = fake_script_due(&m->script, "fail", "region");
    if (fail) {
        m->partial = 0;
        return error_set(err, -(int)fail->arg, "told to fail");
    }
    for (size_t i = 0; i < n; i++) {
        struct stat st;

        if (segment_bytes[i] == 0 || segment_bytes[i] % 4096 || segment_bytes[i] > (1ULL << 40))
            return -EINVAL;
        if (fstat(fds[i], &st) < 0 || !S_ISREG(st.st_mode) ||
            ((uint64_t)st.st_size + 4095) / 4096 < segment_bytes[i] / 4096)
            return -EINVAL;
        total += segment_bytes[i];
    }
    if (m->regions == LIMIT_REGIONS)
        return -ENOSPC;
    m->partial += total; /* of one key at a time, as nexusd sends them */
    fake_record_region(key, fds, segment_bytes, n, more, m->next_gpa);
    if (more)
        return 0;
    total = m->partial;
    m->partial = 0;
    m->regions++;
    *ret_gpa = m->next_gpa;
    *ret_bytes = (total + REGION_ALIGN - 1) & ~(REGION_ALIGN - 1);
    m->next_gpa += *ret_bytes;
    return 0;
}

static void forget_region(void *ud, const char *key)
{
    struct machine *m = ud;

    m->partial = 0;
}

static int remove_region(void *ud, uint64_t gpa)
{
    struct machine *m = ud;

    m->regions--;
    fake_record_removed(gpa);
    return 0;
}

static void stop_vm(void *ud)
{
    struct machine *m = ud;

    fake_agent_free(TAKE(m->agent));
}

static void exit_process(void *ud, int code)
{
    struct machine *m = ud;

    loop_exit(m->loop, code);
}

static void counters(void *ud, supervisor_counter_fn add, void *ctx)
{
    struct machine *m = ud;

    add(ctx, "boot.spawn_ns", m->started_ns);
    add(ctx, "kvm.exits", 0);
}

static const struct supervisor_host_ops host_ops = {
    .add_region = add_region,
    .forget_region = forget_region,
    .remove_region = remove_region,
    .stop_vm = stop_vm,
    .exit_process = exit_process,
    .counters = counters,
};

/* ---- events */

static void on_guest_end(void *ud, Nexus__VmmState__End end, const char *detail)
{
    struct machine *m = ud;

    supervisor_vm_ended(m->sup, end, detail);
    if (m->until_hello)
        loop_exit(m->loop, 0);
}

static void on_hello(void *ud, const Nexus__AgentHello *hello)
{
    struct machine *m = ud;

    (void)printf("{\"hello_ns\":%llu,\"spawn_to_kvm_run_ns\":0,\"exits\":{}}\n",
                 (unsigned long long)(clock_mono_ns() - m->started_ns));
    (void)fflush(stdout);
    supervisor_shutdown(m->sup, 1000);
}

static void on_signal(struct loop_source *s, int fd, unsigned events, void *ud)
{
    struct machine *m = ud;
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        supervisor_shutdown(m->sup, 0);
}

/* ---- set-up */

static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"id", required_argument, NULL, 'i'},
        {"control", required_argument, NULL, 'c'},
        {"until-hello", no_argument, NULL, 'h'},
        /* a machine's business */
        {"cpus", required_argument, NULL, 0},
        {"memory", required_argument, NULL, 0},
        {"kvm", required_argument, NULL, 0},
        {"kernel", required_argument, NULL, 0},
        {"initramfs", required_argument, NULL, 0},
        {"net", required_argument, NULL, 0},
        {"mac", required_argument, NULL, 0},
        {"scratch", required_argument, NULL, 0},
        {"console", required_argument, NULL, 0},
        {"cmdline-append", required_argument, NULL, 0},
        {"counters", required_argument, NULL, 0},
        {"hello-timeout", required_argument, NULL, 0},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (c == 'i')
            o->id = optarg;
        else if (c == 'c')
            o->control = optarg;
        else if (c == 'h')
            o->until_hello = true;
        else if (c != 0)
            return -EINVAL;
    }
    if (!o->id || optind != argc || (!o->control && !o->until_hello)) {
        (void)fprintf(stderr, "usage: fake-vmm --id ID (--control fd:N|PATH | --until-hello)\n");
        return -EINVAL;
    }
    return 0;
}

static int listen_path(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(addr.sun_path) || fd < 0)
        return -EINVAL;
    memcpy(addr.sun_path, path, strlen(path));
    (void)unlink(path);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0)
        return -errno;
    return fd;
}

static int open_control(const char *control)
{
    uint32_t fd;

    if (!control)
        return -1;
    if (!str_starts(control, "fd:"))
        return listen_path(control);
    if (parse_u32(control + 3, 1 << 20, &fd) < 0 || fcntl((int)fd, F_GETFD) < 0)
        return -EBADF;
    return (int)fd;
}

static int add_script_file(struct fake_script *s, const char *path)
{
    _cleanup_(freep) char *text = NULL;
    int r = path ? file_read_all(AT_FDCWD, path, SCRIPT_MAX, &text, NULL) : 0;

    if (r == -ENOENT)
        return 0;
    return r < 0 ? r : fake_script_parse(s, text);
}

static int read_script(struct fake_script *s, const char *id)
{
    const char *dir = getenv("NEXUS_FAKE_AGENT_DIR");
    int r = fake_script_parse(s, getenv("NEXUS_FAKE_AGENT"));

    if (r == 0)
        r = add_script_file(s, getenv("NEXUS_FAKE_AGENT_FILE"));
    for (size_t len = 12; r == 0 && dir && len <= LIMIT_ID_MAX; len += LIMIT_ID_MAX - 12) {
        _cleanup_(freep) char *path = str_printf("%s/%.*s", dir, (int)len, id);

        r = add_script_file(s, path);
        if (strlen(id) <= len)
            break;
    }
    return r;
}

static void set_times(struct supervisor *sup, const struct fake_script *s)
{
    struct supervisor_times t = SUPERVISOR_TIMES_DEFAULT;
    const struct fake_rule *r = fake_script_setting(s, "times");
    uint32_t percent = r && r->arg ? (uint32_t)r->arg : 100;

    t.ping_ms = t.ping_ms * percent / 100;
    t.request_ms = t.request_ms * percent / 100;
    t.create_ms = t.create_ms * percent / 100;
    t.start_ms = t.start_ms * percent / 100;
    t.lost_grace_ms = t.lost_grace_ms * percent / 100;
    supervisor_set_times(sup, &t);
}

static int watch_signals(struct machine *m)
{
    sigset_t set;

    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return loop_add_io(m->loop, m->signal_fd, LOOP_READ, on_signal, m, &m->signals);
}

static int set_up(struct machine *m, const struct options *o)
{
    struct fake_script script = {0};
    int control = open_control(o->control);
    int r = read_script(&script, o->id);

    if (r < 0 || (o->control && control < 0))
        return r < 0 ? r : control;
    fake_record_open(getenv("NEXUS_FAKE_RECORD_DIR"), o->id);
    m->started_ns = clock_mono_ns();
    m->next_gpa = RAM_TOP;
    m->until_hello = o->until_hello;
    r = loop_new(&m->loop);
    if (r == 0)
        r = watch_signals(m);
    if (r == 0)
        r = mem_transport_new(m->loop, &m->transport);
    if (r == 0)
        r = supervisor_new(m->loop, mem_transport_host(m->transport), control, &host_ops, m,
                           &m->sup);
    if (r < 0)
        return r;
    supervisor_set_sandbox_id(m->sup, o->id);
    set_times(m->sup, &script);
    m->script = script;
    if (o->until_hello)
        supervisor_on_hello(m->sup, on_hello, m);
    m->agent = fake_agent_new(m->loop, mem_transport_guest(m->transport), &script, on_guest_end, m);
    return 0;
}

int main(int argc, char **argv)
{
    struct machine m = {.signal_fd = -EBADF};
    struct options o = {0};
    int r;

    log_init("fake-vmm");
    if (parse_options(argc, argv, &o) < 0)
        return 2;
    LOG_SCOPE(pod, "pod", o.id);
    r = set_up(&m, &o);
    if (r < 0) {
        log_error_errno(r, "cannot start");
        return 1;
    }
    r = loop_run(m.loop);
    supervisor_free(m.sup);
    fake_agent_free(m.agent);
    mem_transport_free(m.transport);
    loop_free(m.loop);
    (void)close_fd(m.signal_fd);
    return r < 0 ? 1 : r;
}
