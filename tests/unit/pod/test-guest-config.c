/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest is told: arguments and environment by the image's and the pod's rules, capabilities, small
 * files, addresses and DNS. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "lib/test.h"
#include "net/tap.h"
#include "pod/capability.h"
#include "pod/node-internal.h"
#include "pod/signal-name.h"

static struct world {
    struct sandbox sandbox;
    struct container container;
    struct image image;
    struct arena *arena;
    uint8_t filter[8];
    struct copied_file copied[4]; /* of the mounts, read by add_mount() where they can be */
} w;

static char **list(const char *text)
{
    _cleanup_(freep) char *copy = str_dup(text);
    char *rest = copy, *word, **v = NULL;

    while ((word = strsep(&rest, " ")))
        if (*word)
            strv_push(&v, word);
    return v;
}

static char *join(char **v, size_t n)
{
    struct buf b;

    buf_init(&b, 65536);
    for (size_t i = 0; i < n; i++)
        (void)buf_printf(&b, "%s%s", i ? " " : "", v[i]);
    return b.used ? buf_take_str(&b) : str_dup("");
}

static int set_up(void **state)
{
    memset(&w, 0, sizeof(w));
    w.sandbox.spec.name = str_dup("pod");
    w.container.sandbox = &w.sandbox;
    w.container.image = &w.image;
    w.container.spec.name = str_dup("ctr");
    (void)snprintf(w.container.id, sizeof(w.container.id), "0123");
    w.arena = arena_new(4 << 20);
    return 0;
}

static int tear_down(void **state)
{
    sandbox_spec_clear(&w.sandbox.spec);
    container_spec_clear(&w.container.spec);
    strv_free(w.image.process.entrypoint);
    strv_free(w.image.process.cmd);
    strv_free(w.image.process.env);
    arena_free(w.arena);
    for (size_t i = 0; i < ARRAY_SIZE(w.copied); i++)
        free(w.copied[i].bytes);
    return 0;
}

static Nexus__ContainerSpec *build(struct error **err)
{
    const struct container_files f = {
        .n = ARRAY_SIZE(w.copied), .copied = w.copied, .seccomp = w.filter, .seccomp_len = 8};

    return guest_container_spec(w.arena, &w.container, &f, err);
}

static void arguments_follow_command_args_entrypoint_cmd(void **state)
{
    static const struct {
        const char *entrypoint, *cmd, *command, *args, *want; /* want NULL: refused */
    } rows[] = {
        {"e1 e2", "c1", "", "", "e1 e2 c1"},
        {"", "c1 c2", "", "", "c1 c2"},
        {"e1", "", "", "", "e1"},
        {"e1", "c1", "", "a1 a2", "e1 a1 a2"},
        {"e1", "c1", "x1", "", "x1"},
        {"e1", "c1", "x1", "a1", "x1 a1"},
        {"", "c1", "", "a1", "a1"},
        {"", "", "", "", NULL},
        {"", "", "x1", "", "x1"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        Nexus__ContainerSpec *spec;

        (void)tear_down(NULL); /* of the row before */
        assert_int_equal(set_up(NULL), 0);
        w.image.process.entrypoint = list(rows[i].entrypoint);
        w.image.process.cmd = list(rows[i].cmd);
        w.container.spec.command = list(rows[i].command);
        w.container.spec.args = list(rows[i].args);
        spec = build(&err);
        assert_int_equal(spec != NULL, rows[i].want != NULL);
        if (spec) {
            _cleanup_(freep) char *got = join(spec->process->args, spec->process->n_args);
            assert_string_equal(got, rows[i].want);
        } else {
            assert_int_equal(err->class, ERROR_INVALID);
        }
    }
}

static void environment_is_the_images_then_the_pods(void **state)
{
    Nexus__ContainerSpec *spec;
    _cleanup_(freep) char *got = NULL;

    w.container.spec.command = list("x");
    w.container.spec.tty = true;
    w.image.process.env = list("A=image B=image NOVALUE");
    key_value_add(&w.container.spec.envs, "B", "pod");
    key_value_add(&w.container.spec.envs, "C", "a=b");
    spec = build(NULL);
    assert_non_null(spec);
    got = join(spec->process->env, spec->process->n_env);
    assert_string_equal(got, "A=image B=pod PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:"
                             "/sbin:/bin HOSTNAME=pod TERM=xterm C=a=b");
}

static void capabilities_are_default_minus_drop_plus_add(void **state)
{
    const uint64_t net_admin = 1ULL << 12, chown = 1ULL << 0, sys_time = 1ULL << 25;
    const uint64_t def = capability_default(), all = capability_all();
    const struct {
        const char *add, *drop;
        bool privileged;
        uint64_t want;
    } rows[] = {
        {"", "", false, def},
        {"NET_ADMIN", "", false, def | net_admin},
        {"", "CAP_CHOWN", false, def & ~chown},
        {"", "ALL", false, 0},
        {"cap_chown", "ALL", false, chown},
        {"ALL", "", false, all},
        {"ALL", "SYS_TIME", false, all & ~sys_time},
        {"CHOWN", "CHOWN", false, def}, /* asked for by name: it is there */
        {"", "ALL", true, all},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        Nexus__ContainerSpec *spec;

        (void)tear_down(NULL); /* of the row before */
        assert_int_equal(set_up(NULL), 0);
        w.container.spec.command = list("x");
        w.container.spec.security.add_capabilities = list(rows[i].add);
        w.container.spec.security.drop_capabilities = list(rows[i].drop);
        w.container.spec.security.privileged = rows[i].privileged;
        spec = build(NULL);
        assert_non_null(spec);
        assert_true(spec->process->has_capabilities);
        assert_int_equal(spec->process->capabilities, rows[i].want);
    }
}

static void the_security_context_is_told(void **state)
{
    struct security_spec *s = &w.container.spec.security;
    struct device_spec *d = record_list_add(&w.container.spec.devices, sizeof(*d));
    Nexus__ContainerSpec *spec;

    w.container.spec.command = list("x");
    d->host_path = str_dup("/dev/zero");
    d->container_path = str_dup("/dev/my");
    s->masked_paths = list("/proc/kcore");
    s->readonly_paths = list("/proc/sys /proc/bus");
    s->strict_groups = true;
    s->namespaces.pid = NAMESPACE_TARGET;
    s->namespaces.target_id = str_dup("abc");
    memcpy(w.filter, "12345678", 8);
    spec = build(NULL);
    assert_non_null(spec);
    assert_int_equal(spec->n_devices, 1);
    assert_string_equal(spec->devices[0]->name, "zero");
    assert_string_equal(spec->devices[0]->path, "/dev/my");
    assert_int_equal(spec->n_masked_paths, 1);
    assert_int_equal(spec->n_readonly_paths, 2);
    assert_true(spec->process->user->strict_groups);
    assert_string_equal(spec->pids_of, "abc");
    assert_false(spec->share_pod_pids);
    assert_int_equal(spec->seccomp.len, 8);
    assert_memory_equal(spec->seccomp.data, "12345678", 8);
    s->privileged = true; /* nothing is hidden from it */
    s->namespaces.pid = NAMESPACE_NODE;
    spec = build(NULL);
    assert_non_null(spec);
    assert_int_equal(spec->n_masked_paths + spec->n_readonly_paths, 0);
    assert_string_equal(spec->pids_of, "");
    assert_true(spec->share_pod_pids);
    assert_string_equal(guest_device_name("/dev/null"), "null");
    assert_null(guest_device_name("/dev/sda"));
    assert_null(guest_device_name("/dev/"));
    assert_null(guest_device_name("null"));
}

static void add_mount(const char *host, const char *path, bool readonly)
{
    struct mount_spec *m = record_list_add(&w.container.spec.mounts, sizeof(*m));

    m->host_path = str_dup(host);
    m->container_path = str_dup(path);
    m->readonly = readonly;
    (void)copied_file_read(m, &w.copied[w.container.spec.mounts.count - 1], NULL);
}

static void small_files_are_copied_and_the_rest_refused(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL;
    Nexus__ContainerSpec *spec;

    w.container.spec.command = list("x");
    add_mount("/proc/sys/kernel/ostype", "/etc/os", true);
    assert_int_equal(guest_check_mount(&w.container.spec.mounts.items[0], &err), 0);
    spec = build(&err);
    assert_non_null(spec);
    assert_int_equal(spec->n_files, 1);
    assert_string_equal(spec->files[0]->path, "/etc/os");
    assert_int_equal(spec->files[0]->content.len, 6);
    assert_memory_equal(spec->files[0]->content.data, "Linux\n", 6);
    assert_true(spec->files[0]->readonly);
    add_mount("/etc", "/a", false);
    assert_int_equal(guest_check_mount(&w.container.spec.mounts.items[1], &err), -EOPNOTSUPP);
    assert_non_null(strstr(err->message, "mount of /etc at /a"));
}

static void host_directories_and_memory_are_parts_of_shares(void **state)
{
    char names[3][8] = {"c1-0", "c1-1", "ram"};
    struct container_share shares[4] = {
        {.kind = SHARE_HOST, .name = names[0]},
        {.kind = SHARE_HOST, .name = names[1]},
        {.kind = SHARE_MEMORY, .name = names[2], .bytes = 4096, .mode = 01777, .gid = 7},
        {.kind = SHARE_NONE},
    };
    Nexus__ContainerSpec *spec;

    w.container.spec.command = list("x");
    add_mount("/a", "/mnt/a", true);
    add_mount("/b", "/mnt/b", true);
    w.container.spec.mounts.items[1].recursive_read_only = true;
    add_mount("/ram", "/mnt/ram", true);
    add_mount("/proc/sys/kernel/ostype", "/etc/os", true);
    w.container.shares = shares;
    spec = build(NULL);
    w.container.shares = NULL;
    assert_non_null(spec);
    assert_int_equal(spec->n_files, 1);
    assert_int_equal(spec->n_volumes, 3);
    assert_true(spec->volumes[0]->share && spec->volumes[0]->writable); /* the host says no */
    assert_string_equal(spec->volumes[0]->part, "c1-0");
    assert_string_equal(spec->volumes[0]->destination, "/mnt/a");
    assert_true(spec->volumes[1]->share && !spec->volumes[1]->writable);
    assert_true(!spec->volumes[2]->share && !spec->volumes[2]->writable);
    assert_string_equal(spec->volumes[2]->volume, "ram");
    assert_int_equal(spec->volumes[2]->memory_bytes, 4096);
    assert_int_equal(spec->volumes[2]->mode, 01777);
    assert_int_equal(spec->volumes[2]->gid, 7);
}

/* Only when the region with them is in the VM. */
static void kernel_modules_go_by_what_the_container_may_do(void **state)
{
    struct container_share share = {.kind = SHARE_HOST, .name = (char[]){"c1-0"}};
    const struct {
        const char *add;
        bool privileged, shares, there;
        const char *want;
    } rows[] = {
        {"", false, false, true, ""},
        {"SYS_ADMIN", false, false, true, ""},
        {"NET_ADMIN", false, false, true, "bridge"},
        {"", true, false, true, "bridge"},
        {"", false, true, true, "virtiofs"},
        {"ALL", false, true, true, "virtiofs bridge"},
        {"NET_ADMIN", false, false, false, ""},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char *lists[MODULE_LISTS_MAX];
        _cleanup_(freep) char *told = NULL;
        Nexus__ContainerSpec *spec;

        (void)tear_down(NULL); /* of the row before */
        assert_int_equal(set_up(NULL), 0);
        w.container.spec.command = list("x");
        w.container.spec.security.add_capabilities = list(rows[i].add);
        w.container.spec.security.privileged = rows[i].privileged;
        w.container.has_modules = rows[i].there;
        if (rows[i].shares) {
            add_mount("/a", "/mnt/a", true);
            w.container.shares = &share;
        }
        spec = build(NULL);
        w.container.shares = NULL;
        assert_non_null(spec);
        for (size_t k = 0; k < spec->n_modules; k++) {
            lists[k] = spec->modules[k]->list;
            assert_string_equal(spec->modules[k]->region, MODULES_REGION);
        }
        told = join(lists, spec->n_modules);
        assert_string_equal(told, rows[i].want);
    }
}

static const struct {
    const char *name, *annotation; /* NULL: none */
    const char *path;
    bool readonly, want;
} termination_rows[] = {
    {"kubelet_says_where", "/var/end", "/var/end", false, true},
    {"kubelet_says_elsewhere", "/var/end", "/dev/termination-log", false, false},
    {"without_a_word_at_its_default", NULL, "/dev/termination-log", false, true},
    {"readonly_is_never_written", NULL, "/dev/termination-log", true, false},
    {"others_stay_copies", NULL, "/etc/hosts", false, false},
};

static void termination_log_is_the_writable_file_kubelet_names(void **state)
{
    char path[] = "/tmp/nexus-test-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    for (size_t i = 0; i < ARRAY_SIZE(termination_rows); i++) {
        Nexus__ContainerSpec *spec;
        const struct mount_spec *m;

        print_message("# %s\n", termination_rows[i].name);
        tear_down(NULL);
        set_up(NULL);
        strv_push(&w.container.spec.command, "true");
        if (termination_rows[i].annotation)
            key_value_add(&w.container.spec.annotations,
                          "io.kubernetes.container.terminationMessagePath",
                          termination_rows[i].annotation);
        add_mount(path, "/first", false);
        add_mount(path, termination_rows[i].path, termination_rows[i].readonly);
        m = guest_termination_mount(&w.container);
        assert_ptr_equal(m, termination_rows[i].want ? &w.container.spec.mounts.items[1] : NULL);
        spec = build(NULL);
        assert_non_null(spec);
        assert_int_equal(spec->n_files, 2);
        assert_false(spec->files[0]->comes_back);
        assert_int_equal(spec->files[1]->comes_back, termination_rows[i].want);
    }
    close(fd);
    (void)unlink(path);
}

static void termination_file_is_opened_only_if_it_is_one(void **state)
{
    char dir[] = "/tmp/nexus-test-XXXXXX", path[64], other[64];
    _cleanup_(error_freep) struct error *err = NULL;
    int fd = -EBADF;

    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    (void)snprintf(other, sizeof(other), "%s/other", dir);
    assert_int_equal(termination_file_open(path, &fd, &err), -ENOENT);
    assert_int_equal(error_class_of(err, -ENOENT), ERROR_INVALID);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(termination_file_open(path, &fd, NULL),
                     -ENXIO); /* nobody reads: not waited for */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/etc/hosts", path), 0);
    assert_int_equal(termination_file_open(path, &fd, NULL), -ELOOP);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(termination_file_open(dir, &fd, NULL), -EISDIR);
    assert_int_equal(close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666)), 0);
    assert_int_equal(link(path, other), 0);
    assert_int_equal(termination_file_open(path, &fd, NULL), -EMLINK);
    assert_int_equal(unlink(other), 0);
    assert_int_equal(termination_file_open(path, &fd, NULL), 0);
    assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND), O_WRONLY);
    close(fd);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void mapped_mounts_are_volumes_and_no_files(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct container_volume ref = {.volume = str_dup("v-7"), .destination = str_dup("/creds")};
    struct pod_volume v = {.rec = {.name = str_dup("v-7"), .live = true}};
    Nexus__ContainerSpec *spec;

    list_init(&w.sandbox.volumes);
    list_append(&w.sandbox.volumes, &v.node);
    w.container.spec.command = list("x");
    add_mount("/nonexistent/secret", "/creds", false);
    add_mount("/proc/sys/kernel/ostype", "/etc/os", true);
    w.container.status.volumes.items = &ref;
    w.container.status.volumes.count = 1;
    assert_null(build(&err)); /* its region went meanwhile */
    assert_non_null(strstr(err->message, "mount at /creds: its volume is gone"));
    v.rec.region = str_dup("vol-3");
    spec = build(NULL);
    assert_non_null(spec);
    assert_int_equal(spec->n_files, 1);
    assert_string_equal(spec->files[0]->path, "/etc/os");
    assert_int_equal(spec->n_volumes, 1);
    assert_string_equal(spec->volumes[0]->volume, "v-7");
    assert_string_equal(spec->volumes[0]->region, "vol-3");
    assert_string_equal(spec->volumes[0]->part, "v-7");
    assert_string_equal(spec->volumes[0]->destination, "/creds");
    assert_true(spec->volumes[0]->live);
    record_clear(&volume_record_desc, &v.rec);
    record_clear(&container_volume_desc, &ref);
}

static void mounted_images_are_volumes_and_no_files(void **state)
{
    struct image_mount found = {.destination = str_dup("/model"), .image_id = str_dup("sha256:1")};
    struct mount_spec *m = record_list_add(&w.container.spec.mounts, sizeof(*m));
    Nexus__ContainerSpec *spec;

    list_init(&w.sandbox.volumes);
    w.container.spec.command = list("x");
    m->container_path = str_dup("/model");
    m->image = str_dup("models/big:1");
    m->image_sub_path = str_dup("weights");
    m->readonly = true;
    w.container.status.image_mounts.items = &found;
    w.container.status.image_mounts.count = 1;
    spec = build(NULL);
    assert_non_null(spec);
    assert_int_equal(spec->n_files, 0);
    assert_int_equal(spec->n_volumes, 1);
    assert_string_equal(spec->volumes[0]->region, "sha256:1");
    assert_string_equal(spec->volumes[0]->part, "");
    assert_string_equal(spec->volumes[0]->sub_path, "weights");
    assert_string_equal(spec->volumes[0]->destination, "/model");
    assert_false(spec->volumes[0]->live);
    record_clear(&image_mount_desc, &found);
}

static void sandbox_settings_carry_network_and_dns(void **state)
{
    struct net_config *net = xcalloc(1, sizeof(*net));
    Nexus__SandboxConfig *c;
    static const char want[] =
        "search a.example b.example\nnameserver 10.0.0.10\noptions ndots:5\n";

    (void)snprintf(net->mac, sizeof(net->mac), "02:00:00:00:00:01");
    net->mtu = 1400;
    net->n_addresses = 2;
    (void)snprintf(net->addresses[0], sizeof(net->addresses[0]), "10.0.0.2/24");
    (void)snprintf(net->addresses[1], sizeof(net->addresses[1]), "fd00::2/64");
    net->n_routes = 1;
    (void)snprintf(net->routes[0].destination, sizeof(net->routes[0].destination), "0.0.0.0/0");
    (void)snprintf(net->routes[0].gateway, sizeof(net->routes[0].gateway), "10.0.0.1");
    w.sandbox.spec.dns.present = true;
    w.sandbox.spec.dns.servers = list("10.0.0.10");
    w.sandbox.spec.dns.searches = list("a.example b.example");
    w.sandbox.spec.dns.options = list("ndots:5");
    key_value_add(&w.sandbox.spec.sysctls, "net.core.somaxconn", "9");
    c = guest_sandbox_config(w.arena, &w.sandbox, net, NULL);
    assert_non_null(c);
    assert_string_equal(c->hostname, "pod"); /* without one of its own: the pod's name */
    assert_int_equal(c->resolv_conf.len, strlen(want));
    assert_memory_equal(c->resolv_conf.data, want, strlen(want));
    assert_int_equal(c->n_interfaces, 1);
    assert_string_equal(c->interfaces[0]->mac, net->mac);
    assert_int_equal(c->interfaces[0]->mtu, 1400);
    assert_string_equal(c->interfaces[0]->addresses[1], "fd00::2/64");
    assert_string_equal(c->interfaces[0]->routes[0]->gateway, "10.0.0.1");
    assert_string_equal(c->sysctls[0]->name, "net.core.somaxconn");
    free(net);
}

static void empty_dns_is_an_empty_file(void **state)
{
    struct net_config *net = xcalloc(1, sizeof(*net));
    Nexus__SandboxConfig *c;

    w.sandbox.spec.dns.present = true;
    w.sandbox.spec.hostname = str_dup("own.name");
    c = guest_sandbox_config(w.arena, &w.sandbox, net, NULL);
    assert_non_null(c);
    assert_int_equal(c->resolv_conf.len, 0);
    assert_string_equal(c->hostname, "own.name");
    free(net);
}

static void signals_have_many_names(void **state)
{
    static const struct {
        const char *name;
        int signal;
    } rows[] = {{"SIGTERM", 15},       {"TERM", 15},    {"term", 15},      {"15", 15},
                {"SIGRTMIN+3", 37},    {"RTMAX-1", 63}, {"RTMIN", 34},     {"SIGCLD", 17},
                {"0", -EINVAL},        {"65", -EINVAL}, {"SIG", -EINVAL},  {"", -EINVAL},
                {"RTMIN+31", -EINVAL}, {"-9", -EINVAL}, {"KILL ", -EINVAL}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(signal_parse(rows[i].name), rows[i].signal);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(arguments_follow_command_args_entrypoint_cmd),
        T(environment_is_the_images_then_the_pods),
        T(capabilities_are_default_minus_drop_plus_add),
        T(the_security_context_is_told),
        T(small_files_are_copied_and_the_rest_refused),
        T(host_directories_and_memory_are_parts_of_shares),
        T(kernel_modules_go_by_what_the_container_may_do),
        T(termination_log_is_the_writable_file_kubelet_names),
        T(termination_file_is_opened_only_if_it_is_one),
        T(mapped_mounts_are_volumes_and_no_files),
        T(mounted_images_are_volumes_and_no_files),
        T(sandbox_settings_carry_network_and_dns),
        T(empty_dns_is_an_empty_file),
        T(signals_have_many_names),
    };
    return cmocka_run_group_tests_name("guest-config", tests, NULL, NULL) != 0;
}
