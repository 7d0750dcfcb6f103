/* SPDX-License-Identifier: Apache-2.0 */
/* Containers: what the first process finds, how it ends, what is left. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cases.h"
#include "wire/message.h"

#define REGION_GPA UINT64_C(0x100000000)

/* ---- making containers */

Nexus__Reply *try_create_container(struct drive *d, const char *id, const char *script,
                                   void (*opts)(Nexus__ContainerSpec *spec))
{
    Nexus__AgentMessage m;
    Nexus__ContainerSpec spec;
    Nexus__ProcessSpec p;
    Nexus__Resources r;
    Nexus__User u;
    _cleanup_(freep) char *id_copy = str_dup(id);
    char *args[] = {text("sh"), text("-c"), text(script)};

    nexus__agent_message__init(&m);
    nexus__container_spec__init(&spec);
    nexus__process_spec__init(&p);
    nexus__resources__init(&r);
    nexus__user__init(&u);
    spec.id = id_copy;
    spec.rootfs_gpa = REGION_GPA;
    spec.process = &p;
    spec.resources = &r;
    p.user = &u;
    p.args = args;
    p.n_args = 3;
    if (opts)
        opts(&spec);
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_CREATE_CONTAINER;
    m.create_container = &spec;
    return drive_request(d, &m);
}

void create_container(struct drive *d, const char *id, const char *script,
                      void (*opts)(Nexus__ContainerSpec *spec))
{
    Nexus__Reply *r = try_create_container(d, id, script, opts);

    CHECK(!*r->error_class, "create %s: %s: %s", id, r->error_class, r->message);
    message_free(&r->base);
}

void remove_container(struct drive *d, const char *id)
{
    Nexus__AgentMessage m;
    Nexus__RemoveContainer rm;
    _cleanup_(freep) char *copy = str_dup(id);

    nexus__agent_message__init(&m);
    nexus__remove_container__init(&rm);
    rm.container_id = copy;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_REMOVE_CONTAINER;
    m.remove_container = &rm;
    drive_must(d, &m, "remove");
}

const struct outcome *run_container(struct drive *d, const char *id, const char *script,
                                    void (*opts)(Nexus__ContainerSpec *spec))
{
    static struct drive_stream *last;

    stream_close(last);
    create_container(d, id, script, opts);
    last = stream_start_container(d, id);
    stream_until_closed(last);
    (void)buf_text(&last->got.out);
    (void)buf_text(&last->got.err);
    remove_container(d, id);
    return &last->got;
}

static Nexus__Reply *signal_request(struct drive *d, const char *id, uint32_t signal, bool all)
{
    Nexus__AgentMessage m;
    Nexus__SignalContainer s;
    _cleanup_(freep) char *copy = str_dup(id);

    nexus__agent_message__init(&m);
    nexus__signal_container__init(&s);
    s.container_id = copy;
    s.signal = signal;
    s.all = all;
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_SIGNAL;
    m.signal = &s;
    return drive_request(d, &m);
}

/* ---- before the sandbox */

static void says_hello(struct drive *d)
{
    CHECK(d->hello->version == 1, "version %u", d->hello->version);
    CHECK(*d->hello->kernel_release, "no kernel release");
    CHECK(strcmp(d->hello->agent_version, NEXUS_VERSION) == 0, "%s", d->hello->agent_version);
    CHECK(d->hello->ready_ns >= d->hello->boot_ns && d->hello->boot_ns > 0, "times");
}

static void answers_ping_and_refuses_the_unknown(struct drive *d)
{
    Nexus__AgentMessage m;
    Nexus__Ping ping;
    Nexus__AgentMessage none;
    Nexus__Reply *r;

    nexus__agent_message__init(&m);
    nexus__ping__init(&ping);
    nexus__agent_message__init(&none);
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_PING;
    m.ping = &ping;
    drive_must(d, &m, "ping");
    r = drive_request(d, &none);
    CHECK(strcmp(r->error_class, "unsupported") == 0, "class %s", r->error_class);
    message_free(&r->base);
}

static void refuses_containers_before_the_sandbox(struct drive *d)
{
    Nexus__Reply *r = try_create_container(d, "early", "true", NULL);

    CHECK(strcmp(r->error_class, "precondition") == 0, "class %s", r->error_class);
    message_free(&r->base);
}

static int tap_fd = -1;

/* A network device in this namespace, named as a guest's would not be. */
static void make_tap(void)
{
    struct ifreq req;

    memset(&req, 0, sizeof(req));
    tap_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (tap_fd < 0)
        return;
    req.ifr_flags = IFF_TAP | IFF_NO_PI;
    (void)snprintf(req.ifr_name, sizeof(req.ifr_name), "virt0");
    CHECK(ioctl(tap_fd, (int)TUNSETIFF, &req) == 0, "tap");
}

static void setup_configures_the_sandbox(struct drive *d)
{
    Nexus__AgentMessage m;
    Nexus__SandboxConfig c;
    Nexus__Interface eth;
    Nexus__Route routes[3];
    Nexus__Sysctl ctl;
    Nexus__Interface *eths[] = {&eth};
    Nexus__Route *route_list[] = {&routes[0], &routes[1], &routes[2]};
    Nexus__Sysctl *ctls[] = {&ctl};
    char resolv[] = "nameserver 10.96.0.10\n";
    char *addrs[] = {text("10.77.0.5/32"), text("fd77::5/64")};

    nexus__agent_message__init(&m);
    nexus__sandbox_config__init(&c);
    nexus__interface__init(&eth);
    for (size_t i = 0; i < 3; i++)
        nexus__route__init(&routes[i]);
    nexus__sysctl__init(&ctl);
    make_tap();
    eth.name = text("eth0");
    eth.mac = text("02:00:00:00:00:77");
    eth.mtu = 1400;
    eth.addresses = addrs;
    eth.n_addresses = 2;
    routes[0].destination = text("0.0.0.0/0");
    routes[0].gateway = text("169.254.1.1"); /* covered by no address: on the link */
    routes[1].destination = text("::/0");
    routes[1].gateway = text("fd77::1");
    routes[2].destination = text("10.99.3.7/16"); /* host bits set */
    eth.routes = route_list;
    eth.n_routes = 3;
    ctl.name = text("net.ipv4.ip_unprivileged_port_start");
    ctl.value = text("77");
    c.hostname = text("pod-one");
    c.resolv_conf = (ProtobufCBinaryData){.data = (uint8_t *)resolv, .len = strlen(resolv)};
    c.sysctls = ctls;
    c.n_sysctls = 1;
    if (tap_fd >= 0) {
        c.interfaces = eths;
        c.n_interfaces = 1;
    }
    m.body_case = NEXUS__AGENT_MESSAGE__BODY_CONFIGURE;
    m.configure = &c;
    drive_must(d, &m, "configure");
    drive_must(d, &m, "configure again");
}

static void configures_the_network(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "net",
        "ip addr show; ip route; ip -6 route; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        NULL);
    const char *out = (const char *)o->out.data;

    CHECK(strstr(out, "LOOPBACK,UP"), "%s", out);
    CHECK(strstr(out, "77\n"), "%s", out);
    if (tap_fd < 0)
        return;
    CHECK(strstr(out, "eth0: <") && strstr(out, "mtu 1400"), "%s", out);
    CHECK(strstr(out, "02:00:00:00:00:77"), "%s", out);
    CHECK(strstr(out, "inet 10.77.0.5/32") && strstr(out, "inet6 fd77::5/64"), "%s", out);
    CHECK(!strstr(out, "tentative"), "duplicate address detection runs: %s", out);
    CHECK(strstr(out, "default via 169.254.1.1 dev eth0"), "%s", out);
    CHECK(strstr(out, "default via fd77::1 dev eth0"), "%s", out);
    CHECK(strstr(out, "10.99.0.0/16 dev eth0"), "%s", out);
}

/* ---- life */

static void runs_a_container_to_its_exit_code(struct drive *d)
{
    const struct outcome *o = run_container(d, "life-1", "echo out; echo err >&2; exit 3", NULL);

    CHECK(o->started && o->has_exit && o->code == 3 && o->signal == 0 && !o->oom, "code %d",
          o->code);
    CHECK(buf_is(&o->out, "out\n") && buf_is(&o->err, "err\n"), "%s / %s", o->out.data,
          o->err.data);
    CHECK(o->out_eof == 1 && o->err_eof == 1, "ends: %u %u", o->out_eof, o->err_eof);
}

static void tells_the_signal_that_killed(struct drive *d)
{
    struct drive_stream *s;
    Nexus__Reply *r;

    create_container(d, "life-2", "echo up; sleep 1000", NULL);
    s = stream_start_container(d, "life-2");
    stream_until_output(s, "up");
    r = signal_request(d, "life-2", SIGKILL, false);
    CHECK(!*r->error_class, "%s", r->message);
    message_free(&r->base);
    stream_until_closed(s);
    CHECK(s->got.code == 137 && s->got.signal == SIGKILL, "code %d signal %u", s->got.code,
          s->got.signal);
    CHECK(!s->got.oom, "no memory was short");
    stream_close(s);
    r = signal_request(d, "life-2", SIGTERM, false);
    CHECK(strcmp(r->error_class, "precondition") == 0, "class %s", r->error_class);
    message_free(&r->base);
    remove_container(d, "life-2");
}

static void delivers_term_to_pid_1_that_traps_it(struct drive *d)
{
    struct drive_stream *s;
    Nexus__Reply *r;

    create_container(d, "life-3",
                     "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done", NULL);
    s = stream_start_container(d, "life-3");
    stream_until_output(s, "up");
    r = signal_request(d, "life-3", SIGTERM, false);
    CHECK(!*r->error_class, "%s", r->message);
    message_free(&r->base);
    stream_until_closed(s);
    CHECK(s->got.code == 5 && buf_has(&s->got.out, "bye"), "code %d", s->got.code);
    stream_close(s);
    remove_container(d, "life-3");
}

static void signals_all_processes(struct drive *d)
{
    struct drive_stream *s;
    Nexus__Reply *r;

    create_container(d, "life-4", "sleep 1000 & echo up; wait $!; echo child ended $?", NULL);
    s = stream_start_container(d, "life-4");
    stream_until_output(s, "up");
    r = signal_request(d, "life-4", SIGTERM, true);
    CHECK(!*r->error_class, "%s", r->message);
    message_free(&r->base);
    stream_until_closed(s);
    CHECK(buf_has(&s->got.out, "child ended 143"), "%s", buf_text(&s->got.out));
    stream_close(s);
    remove_container(d, "life-4");
}

static void start_works_once(struct drive *d)
{
    struct drive_stream *s;

    create_container(d, "life-5", "true", NULL);
    s = stream_start_container(d, "life-5");
    stream_until_closed(s);
    stream_close(s);
    s = stream_start_container(d, "life-5");
    stream_until_closed(s);
    CHECK(s->got.has_error && strcmp(s->got.error_class, "precondition") == 0, "%s",
          s->got.error_class);
    stream_close(s);
    remove_container(d, "life-5");
    s = stream_start_container(d, "no-such");
    stream_until_closed(s);
    CHECK(s->got.has_error && strcmp(s->got.error_class, "not-found") == 0, "%s",
          s->got.error_class);
    stream_close(s);
}

static void refuses_a_taken_id_and_a_bad_one(struct drive *d)
{
    Nexus__Reply *r;

    create_container(d, "life-6", "true", NULL);
    r = try_create_container(d, "life-6", "true", NULL);
    CHECK(strcmp(r->error_class, "exists") == 0, "class %s", r->error_class);
    message_free(&r->base);
    remove_container(d, "life-6");
    remove_container(d, "life-6"); /* gone is gone */
    r = try_create_container(d, "../evil", "true", NULL);
    CHECK(strcmp(r->error_class, "invalid") == 0, "class %s", r->error_class);
    message_free(&r->base);
}

static void remove_kills_a_running_container(struct drive *d)
{
    struct drive_stream *s;

    create_container(d, "life-7", "sleep 1000 & sleep 1001 & echo up; sleep 1002", NULL);
    s = stream_start_container(d, "life-7");
    stream_until_output(s, "up");
    remove_container(d, "life-7");
    stream_until_closed(s);
    CHECK(s->got.has_exit && s->got.code == 137, "code %d", s->got.code);
    stream_close(s);
}

static void the_host_leaving_its_stream_kills_nothing(struct drive *d)
{
    struct drive_stream *s;
    const struct outcome *o;

    create_container(d, "life-8", "while :; do echo line line line line; done", NULL);
    s = stream_start_container(d, "life-8");
    stream_until_output(s, "line");
    stream_close(s);
    o = shell(d, "life-8", "echo alive");
    CHECK(buf_is(&o->out, "alive\n"), "error: %s", o->error_text);
    remove_container(d, "life-8");
}

/* ---- what it finds */

static void sees_only_its_own_mounts(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "see-1", "cut -d' ' -f5 /proc/self/mountinfo | sort | tr '\\n' ' '", NULL);

    CHECK(buf_is(&o->out, "/ /dev /dev/mqueue /dev/pts /dev/shm /etc/hostname /etc/hosts "
                          "/etc/resolv.conf /proc /sys /sys/fs/cgroup "),
          "%s", o->out.data);
}

static void is_pid_1_in_its_root_with_its_image(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "see-2", "echo $$; cat /data/file; ls -A / | tr '\\n' ' '", NULL);

    CHECK(buf_has(&o->out, "1\nfrom the image\n"), "%s%s", o->out.data, o->err.data);
    CHECK(!buf_has(&o->out, "put_old"), "%s", o->out.data);
}

static void inherits_no_descriptor(struct drive *d)
{
    const struct outcome *o = run_container(d, "see-3", "ls /proc/self/fd | tr '\\n' ' '", NULL);

    /* 3 is ls's own */
    CHECK(buf_is(&o->out, "0 1 2 3 "), "%s", o->out.data);
}

static void has_pod_files_and_names(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "see-4", "hostname; cat /etc/hostname /etc/resolv.conf /etc/hosts; echo $HOSTNAME",
        NULL);

    CHECK(buf_has(&o->out, "pod-one\npod-one\nnameserver 10.96.0.10\n127.0.0.1\tlocalhost\n"), "%s",
          o->out.data);
}

static void has_the_usual_devices(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "see-5",
        "for f in null zero full random urandom tty; do [ -c /dev/$f ] || echo no $f; done; "
        "for f in fd stdin stdout stderr ptmx; do [ -L /dev/$f ] || echo no $f; done; "
        "for f in shm mqueue pts; do [ -d /dev/$f ] || echo no $f; done; "
        "touch /dev/shm/x && echo shm; head -c 4 /dev/zero | wc -c; echo to-stdout > /dev/stdout",
        NULL);

    CHECK(buf_is(&o->out, "shm\n4\nto-stdout\n"), "%s / %s", o->out.data, o->err.data);
}

static void opens_no_device_it_made(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "see-6",
                      "mknod /dev/m c 1 1 && head -c 1 /dev/m || echo denied; "
                      "mknod /dev/n c 1 3 && echo x > /dev/n && echo null works; "
                      "mknod /data/z c 1 5 && head -c 1 /data/z || echo nodev",
                      NULL);

    CHECK(buf_is(&o->out, "denied\nnull works\nnodev\n"), "%s / %s", o->out.data, o->err.data);
}

static void has_the_default_environment(struct drive *d)
{
    const struct outcome *o = run_container(d, "see-7", "echo $PATH; echo $HOME; pwd", NULL);

    CHECK(
        buf_is(&o->out, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/root\n/\n"),
        "%s", o->out.data);
}

static void with_env_and_cwd(Nexus__ContainerSpec *spec)
{
    static char *env[3];
    char *const env_texts[3] = {text("A=1"), text("PATH=/bin"), text("A=2")};

    memcpy(env, env_texts, sizeof(env));
    spec->process->env = env;
    spec->process->n_env = 3;
    spec->process->cwd = text("/made/for/me");
}

static void uses_environment_and_working_directory(struct drive *d)
{
    const struct outcome *o = run_container(d, "see-8", "echo $A $PATH; pwd", with_env_and_cwd);

    CHECK(buf_is(&o->out, "2 /bin\n/made/for/me\n"), "%s%s", o->out.data, o->error_text);
}

static void as_app(Nexus__ContainerSpec *spec)
{
    static uint32_t groups[] = {4242};

    spec->process->user->image_user = text("app");
    spec->process->user->supplemental_groups = groups;
    spec->process->user->n_supplemental_groups = 1;
}

static void resolves_the_image_user(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "user-1",
                      "id -u; id -g; id -G; echo $HOME; echo mine > /dev/stdout; grep -c "
                      "0000000000000000 /proc/self/status",
                      as_app);

    CHECK(buf_has(&o->out, "1000\n100\n100 9 10 4242\n/home/app\nmine\n"), "%s%s%s", o->out.data,
          o->err.data, o->error_text);
    CHECK(o->has_user && o->uid == 1000 && o->gid == 100 && o->n_groups == 3, "%u %u %zu", o->uid,
          o->gid, o->n_groups);
    CHECK(o->groups[0] == 4242 && o->groups[1] == 10 && o->groups[2] == 9, "%u %u %u", o->groups[0],
          o->groups[1], o->groups[2]);
}

static void as_numbers(Nexus__ContainerSpec *spec)
{
    spec->process->user->has_uid = true;
    spec->process->user->uid = 4711;
    spec->process->user->has_gid = true;
    spec->process->user->gid = 4712;
    spec->process->no_new_privs = true;
}

static void runs_as_numbers_without_privileges(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "user-2", "id -u; id -g; grep -E 'CapEff|CapPrm|CapBnd|NoNewPrivs' /proc/self/status",
        as_numbers);

    CHECK(buf_has(&o->out, "4711\n4712\n"), "%s", o->out.data);
    CHECK(o->has_user && o->uid == 4711 && o->gid == 4712 && o->n_groups == 0, "%u %u %zu", o->uid,
          o->gid, o->n_groups);
    CHECK(buf_has(&o->out, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"
                           "CapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n"),
          "%s", o->out.data);
}

static void as_nobody_known(Nexus__ContainerSpec *spec)
{
    spec->process->user->username = text("ghost");
}

static void an_unknown_user_is_a_start_failure(struct drive *d)
{
    const struct outcome *o = run_container(d, "user-3", "true", as_nobody_known);

    CHECK(o->has_error && o->error_exit_code == 128 && !o->started, "code %d", o->error_exit_code);
    CHECK(strstr(o->error_text, "unable to find user ghost"), "%s", o->error_text);
}

static void with_ambient(Nexus__ContainerSpec *spec)
{
    spec->process->user->has_uid = true;
    spec->process->user->uid = 1000;
    spec->process->has_capabilities = true;
    spec->process->capabilities = 1U << 10 | 1U << 5;
    spec->process->ambient_capabilities = 1U << 10;
}

static void gives_capabilities_as_told(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "cap-1", "grep Cap /proc/self/status | tr -d '\\n'", with_ambient);

    CHECK(buf_is(&o->out,
                 "CapInh:\t0000000000000400CapPrm:\t0000000000000400CapEff:\t0000000000000400"
                 "CapBnd:\t0000000000000420CapAmb:\t0000000000000400"),
          "%s", o->out.data);
}

static void privileged(Nexus__ContainerSpec *spec)
{
    spec->privileged = true;
}

static void a_privileged_one_may_mount(struct drive *d)
{
    const struct outcome *o =
        run_container(d, "cap-2",
                      "mount -t tmpfs x /tmp && touch /tmp/y && echo mounted; "
                      "grep ' /sys ' /proc/self/mountinfo | grep -c ' rw,'",
                      privileged);
    CHECK(buf_is(&o->out, "mounted\n1\n"), "%s%s%s", o->out.data, o->err.data, o->error_text);
    o = run_container(d, "cap-3",
                      "mount -t tmpfs x /tmp || echo refused; "
                      "grep ' /sys ' /proc/self/mountinfo | grep -c ' ro,'",
                      NULL);
    CHECK(buf_is(&o->out, "refused\n1\n"), "%s%s", o->out.data, o->err.data);
}

static void with_files(Nexus__ContainerSpec *spec)
{
    static Nexus__InlineFile files[3];
    static Nexus__InlineFile *list[] = {&files[0], &files[1], &files[2]};

    for (size_t i = 0; i < 3; i++)
        nexus__inline_file__init(&files[i]);
    files[0].path = text("/etc/hosts");
    files[0].content = (ProtobufCBinaryData){.data = (uint8_t *)text("1.2.3.4 given\n"), .len = 14};
    files[1].path = text("/deep/er/secret");
    files[1].content = (ProtobufCBinaryData){.data = (uint8_t *)text("s3cret"), .len = 6};
    files[1].mode = 0400;
    files[1].readonly = true;
    files[2].path = text("/dev/termination-log");
    files[2].mode = 0666;
    spec->files = list;
    spec->n_files = 3;
    spec->readonly_rootfs = true;
}

static void gives_files_and_a_readonly_root(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "file-1",
        "cat /etc/hosts; cat /deep/er/secret; echo; stat -c %a /deep/er/secret; "
        "echo x > /deep/er/secret || echo ro file; echo done > /dev/termination-log && "
        "cat /dev/termination-log; touch /new || echo ro root; touch /dev/shm/ok && echo shm",
        with_files);

    CHECK(buf_is(&o->out, "1.2.3.4 given\ns3cret\n400\nro file\ndone\nro root\nshm\n"), "%s%s%s",
          o->out.data, o->err.data, o->error_text);
}

static void with_masks(Nexus__ContainerSpec *spec)
{
    static char *masked[3];
    char *const masked_texts[3] = {text("/proc/interrupts"), text("/data"), text("/no/such")};
    static char *readonly[3];
    char *const readonly_texts[3] = {text("/proc/sys"), text("/home"), text("/no/such")};

    memcpy(masked, masked_texts, sizeof(masked));
    memcpy(readonly, readonly_texts, sizeof(readonly));
    spec->masked_paths = masked;
    spec->n_masked_paths = 3;
    spec->readonly_paths = readonly;
    spec->n_readonly_paths = 3;
}

static void masks_and_protects_paths(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "mask-1",
        "ls /data | wc -l; wc -c < /proc/interrupts; touch /home/x || echo ro home; "
        "echo 1 > /proc/sys/kernel/domainname || echo ro sys; touch /tmp/x && echo tmp",
        with_masks);

    CHECK(buf_is(&o->out, "0\n0\nro home\nro sys\ntmp\n"), "%s%s%s", o->out.data, o->err.data,
          o->error_text);
}

static void shares_pids(Nexus__ContainerSpec *spec)
{
    spec->share_pod_pids = true;
}

static void shared_pids_are_not_a_namespace_of_its_own(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "pid-1", "[ $$ != 1 ] && echo shared; (sleep 1000 &) ; exit 0", shares_pids);

    CHECK(buf_is(&o->out, "shared\n") && o->code == 0, "%s", o->out.data);
}

static void with_rlimits(Nexus__ContainerSpec *spec)
{
    static Nexus__Rlimit limit;
    static Nexus__Rlimit *list[] = {&limit};

    nexus__rlimit__init(&limit);
    limit.name = text("RLIMIT_NOFILE");
    limit.soft = 77;
    limit.hard = 99;
    spec->process->rlimits = list;
    spec->process->n_rlimits = 1;
    spec->process->oom_score_adj = 555;
}

static void applies_rlimits_and_oom_score(struct drive *d)
{
    const struct outcome *o = run_container(
        d, "rlim-1", "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj", with_rlimits);

    CHECK(buf_is(&o->out, "77\n99\n555\n"), "%s%s", o->out.data, o->error_text);
}

static void with_tty(Nexus__ContainerSpec *spec)
{
    spec->process->tty = true;
    spec->open_stdin = true;
}

static void a_terminal_is_a_terminal(struct drive *d)
{
    static const uint8_t size[] = {0, 132, 0, 43};
    struct drive_stream *s;

    create_container(
        d, "tty-1",
        "tty; echo $TERM; [ -c /dev/console ] && echo console; read x; echo got $x; stty size; "
        "exec 2>/dev/null; kill -INT $$; exit 9",
        with_tty);
    s = stream_start_container(d, "tty-1");
    stream_until_output(s,
                        "console\r\n"); /* or the echo of what is sent comes before the line ends */
    stream_send(s, TLV_RESIZE, size, sizeof(size));
    stream_send(s, TLV_STDIN, "hello\n", 6);
    stream_until_closed(s);
    CHECK(buf_has(&s->got.out, "/dev/pts/0\r\nxterm\r\nconsole\r\n"), "%s", buf_text(&s->got.out));
    CHECK(buf_has(&s->got.out, "got hello\r\n43 132\r\n"), "%s", buf_text(&s->got.out));
    CHECK(s->got.out_eof == 1 && s->got.err_eof == 0 && s->got.err.used == 0, "ends");
    stream_close(s);
    remove_container(d, "tty-1");
}

static void with_stdin(Nexus__ContainerSpec *spec)
{
    spec->open_stdin = true;
}

static void stdin_of_a_container_can_stay_open(struct drive *d)
{
    struct drive_stream *s;

    create_container(d, "in-1", "read x; echo $x; cat; echo end", with_stdin);
    s = stream_start_container(d, "in-1");
    stream_send(s, TLV_STDIN, "one\ntwo", 7);
    stream_until_output(s, "two");
    stream_send(s, TLV_STDIN, NULL, 0);
    stream_until_closed(s);
    CHECK(buf_is(&s->got.out, "one\ntwoend\n"), "%s", buf_text(&s->got.out));
    stream_close(s);
    remove_container(d, "in-1");
}

static void a_link_in_the_image_cannot_move_proc(struct drive *d)
{
    _cleanup_(freep) char *link = str_printf("%s/region-100000000/sys", d->dir);
    const struct outcome *o;

    CHECK(symlink("/data", link) == 0, "symlink");
    o = run_container(d, "evil-1", "true", NULL);
    CHECK(o->has_error && strstr(o->error_text, "/sys is a symbolic link"), "%s", o->error_text);
    CHECK(unlink(link) == 0, "unlink");
}

static void an_absolute_link_stays_inside(struct drive *d)
{
    _cleanup_(freep) char *link = str_printf("%s/region-100000000/etc/resolv.conf", d->dir);
    const struct outcome *o;

    CHECK(symlink("/data/../../../../made-by-link", link) == 0, "symlink");
    o = run_container(d, "evil-2", "cat /etc/resolv.conf", NULL);
    CHECK(access("/made-by-link", F_OK) < 0, "the link led out of the container");
    /* a dangling link is no place for a file: refused, not followed */
    CHECK(o->has_error, "%s", o->out.data);
    CHECK(unlink(link) == 0, "unlink");
}

static void with_a_file_below_a_link(Nexus__ContainerSpec *spec)
{
    static Nexus__InlineFile file;
    static Nexus__InlineFile *list[] = {&file};

    nexus__inline_file__init(&file);
    file.path = text("/abs/sub/new");
    file.content = (ProtobufCBinaryData){.data = (uint8_t *)text("inside"), .len = 6};
    spec->files = list;
    spec->n_files = 1;
    spec->process->cwd = text("/abs/work");
}

static void mount_points_and_cwd_below_a_link_are_in_the_container(struct drive *d)
{
    _cleanup_(freep) char *link = str_printf("%s/region-100000000/abs", d->dir);
    const struct outcome *o;

    CHECK(symlink("/data", link) == 0, "symlink");
    o = run_container(d, "evil-3", "cat /data/sub/new; pwd", with_a_file_below_a_link);
    CHECK(buf_is(&o->out, "inside/data/work\n"), "%s%s", o->out.data, o->error_text);
    CHECK(access("/data/sub", F_OK) < 0, "made outside");
    CHECK(unlink(link) == 0, "unlink");
}

static void with_a_magic_cwd(Nexus__ContainerSpec *spec)
{
    spec->process->cwd = text("/proc/self/fd/7/../..");
}

static void a_magic_link_is_no_working_directory(struct drive *d)
{
    const struct outcome *o = run_container(d, "evil-4", "pwd", with_a_magic_cwd);

    CHECK(o->has_error && strstr(o->error_text, "working directory"), "%s%s", o->out.data,
          o->error_text);
}

static void a_magic_link_is_no_user_database(struct drive *d)
{
    _cleanup_(freep) char *passwd = str_printf("%s/region-100000000/etc/passwd", d->dir);
    _cleanup_(freep) char *aside = str_printf("%s/region-100000000/etc/passwd-", d->dir);
    const struct outcome *o;

    CHECK(rename(passwd, aside) == 0 && symlink("/proc/self/exe", passwd) == 0, "symlink");
    o = run_container(d, "evil-5", "true", NULL);
    CHECK(o->has_error && strstr(o->error_text, "/etc/passwd"), "%s", o->error_text);
    CHECK(unlink(passwd) == 0 && mkfifo(passwd, 0644) == 0, "fifo");
    o = run_container(d, "evil-6", "true", NULL);
    CHECK(o->has_error && strstr(o->error_text, "is no file"), "%s", o->error_text);
    CHECK(rename(aside, passwd) == 0, "rename");
}

const struct drive_case container_cases[] = {
    {"says_hello", says_hello, false},
    {"answers_ping_and_refuses_the_unknown", answers_ping_and_refuses_the_unknown, false},
    {"refuses_containers_before_the_sandbox", refuses_containers_before_the_sandbox, false},
    {"setup_configures_the_sandbox", setup_configures_the_sandbox, false},
    {"runs_a_container_to_its_exit_code", runs_a_container_to_its_exit_code, false},
    {"configures_the_network", configures_the_network, false},
    {"tells_the_signal_that_killed", tells_the_signal_that_killed, false},
    {"delivers_term_to_pid_1_that_traps_it", delivers_term_to_pid_1_that_traps_it, false},
    {"signals_all_processes", signals_all_processes, false},
    {"start_works_once", start_works_once, false},
    {"refuses_a_taken_id_and_a_bad_one", refuses_a_taken_id_and_a_bad_one, false},
    {"remove_kills_a_running_container", remove_kills_a_running_container, false},
    {"the_host_leaving_its_stream_kills_nothing", the_host_leaving_its_stream_kills_nothing, false},
    {"sees_only_its_own_mounts", sees_only_its_own_mounts, false},
    {"is_pid_1_in_its_root_with_its_image", is_pid_1_in_its_root_with_its_image, false},
    {"inherits_no_descriptor", inherits_no_descriptor, false},
    {"has_pod_files_and_names", has_pod_files_and_names, false},
    {"has_the_usual_devices", has_the_usual_devices, false},
    {"opens_no_device_it_made", opens_no_device_it_made, false},
    {"has_the_default_environment", has_the_default_environment, false},
    {"uses_environment_and_working_directory", uses_environment_and_working_directory, false},
    {"resolves_the_image_user", resolves_the_image_user, false},
    {"runs_as_numbers_without_privileges", runs_as_numbers_without_privileges, false},
    {"an_unknown_user_is_a_start_failure", an_unknown_user_is_a_start_failure, false},
    {"gives_capabilities_as_told", gives_capabilities_as_told, false},
    {"a_privileged_one_may_mount", a_privileged_one_may_mount, false},
    {"gives_files_and_a_readonly_root", gives_files_and_a_readonly_root, false},
    {"masks_and_protects_paths", masks_and_protects_paths, false},
    {"shared_pids_are_not_a_namespace_of_its_own", shared_pids_are_not_a_namespace_of_its_own,
     false},
    {"applies_rlimits_and_oom_score", applies_rlimits_and_oom_score, false},
    {"a_terminal_is_a_terminal", a_terminal_is_a_terminal, false},
    {"stdin_of_a_container_can_stay_open", stdin_of_a_container_can_stay_open, false},
    {"a_link_in_the_image_cannot_move_proc", a_link_in_the_image_cannot_move_proc, false},
    {"mount_points_and_cwd_below_a_link_are_in_the_container",
     mount_points_and_cwd_below_a_link_are_in_the_container, false},
    {"a_magic_link_is_no_working_directory", a_magic_link_is_no_working_directory, false},
    {"a_magic_link_is_no_user_database", a_magic_link_is_no_user_database, false},
    {"an_absolute_link_stays_inside", an_absolute_link_stays_inside, false},
};
const size_t n_container_cases = sizeof(container_cases) / sizeof(container_cases[0]);
