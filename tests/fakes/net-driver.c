/* SPDX-License-Identifier: Apache-2.0 */
/* The net and cgroup modules as commands, for tests in Python; one line of JSON each on stdout.
 *
 *   net-driver netns-create PATH | netns-remove PATH
 *   net-driver config NETNS IFNAME
 *   net-driver add|del|check CONF_DIR BIN_DIRS(:) ID NETNS IFNAME [--port PROTO:HOST:CONTAINER[:IP]]…
 *              [--network FILE] [--result FILE] [--deadline MS] [--cancel MS]
 *   net-driver guest NETNS CNI_IF TAP GUEST_NETNS    couples TAP and CNI_IF and stands in for the VM:
 *              frames of TAP go to and from eth0 of GUEST_NETNS until stdin ends
 *   net-driver cgroup ROOT COMMAND ARG…              see run_cgroup()
 * Exit code 0, or 1 with {"error": text, "class": name, "code": errno}. */
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "base/error.h"
#include "base/fdpass.h"
#include "base/file.h"
#include "base/numparse.h"
#include "base/str.h"
#include "cgroup/cgroup.h"
#include "net/cni.h"
#include "net/netns.h"
#include "net/tap.h"

#define FRAME_MAX 70000

static void print_json(json_t *doc)
{
    (void)json_dumpf(doc, stdout, JSON_COMPACT);
    (void)fputc('\n', stdout);
    (void)fflush(stdout);
    json_decref(doc);
}

static int fail(int r, const struct error *err)
{
    print_json(json_pack("{s:s,s:s,s:i}", "error", error_text(err, r), "class",
                         error_class_name(error_class_of(err, r)), "code", -r));
    return 1;
}

static int usage(void)
{
    (void)fprintf(stderr, "net-driver: see the head of net-driver.c\n");
    return 2;
}

/* ---------------------------------------------------------------- waiting for a child's work */

struct work {
    sd_event *event;
    struct net_task *task;
    int r, fd;
    struct net_config *config; /* where data goes; NULL: nowhere */
    struct error **err;
};

static void on_work_done(void *userdata, int r, int fd, const void *data, const struct error *err)
{
    struct work *w = userdata;

    w->r = r;
    w->fd = fd;
    if (data && w->config)
        *w->config = *(const struct net_config *)data;
    if (r < 0)
        (void)error_set_class(w->err, (int)error_class_of(err, r), r, "%s", error_text(err, r));
    (void)sd_event_exit(w->event, 0);
}

static void work_init(struct work *w, struct net_config *config, struct error **err)
{
    *w = (struct work){.fd = -EBADF, .config = config, .err = err};
    if (sd_event_new(&w->event) < 0)
        abort();
}

/* r: of the call that started it. */
static int work_wait(struct work *w, int r)
{
    if (r == 0)
        (void)sd_event_loop(w->event);
    sd_event_unref(w->event);
    return r < 0 ? r : w->r;
}

static int make_netns(const char *path, int *ret_fd, struct error **err)
{
    struct work w;
    int r;

    work_init(&w, NULL, err);
    r = work_wait(&w, netns_create(w.event, path, on_work_done, &w, &w.task, err));
    *ret_fd = w.fd;
    return r;
}

static int make_tap(int ns, const char *name, int *ret_fd, struct error **err)
{
    struct work w;
    int r;

    work_init(&w, NULL, err);
    r = work_wait(&w, tap_create(w.event, ns, name, on_work_done, &w, &w.task, err));
    *ret_fd = w.fd;
    return r;
}

static int redirect(int ns, const char *cni_if, const char *tap, struct net_config *ret,
                    struct error **err)
{
    struct work w;

    work_init(&w, ret, err);
    return work_wait(&w, tap_redirect(w.event, ns, cni_if, tap, on_work_done, &w, &w.task, err));
}

static int read_config(int ns, const char *ifname, struct net_config *ret, struct error **err)
{
    struct work w;

    work_init(&w, ret, err);
    return work_wait(&w, net_read_config(w.event, ns, ifname, on_work_done, &w, &w.task, err));
}

/* ---------------------------------------------------------------- namespaces */

static int run_netns_create(char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(closep) int fd = -EBADF;
    int r = make_netns(argv[0], &fd, &err);

    if (r < 0)
        return fail(r, err);
    print_json(json_pack("{s:I}", "inode", (json_int_t)netns_inode(fd)));
    return 0;
}

static int run_netns_remove(char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = netns_remove(argv[0], &err);

    if (r < 0)
        return fail(r, err);
    print_json(json_object());
    return 0;
}

static json_t *config_to_json(const struct net_config *c)
{
    json_t *addresses = json_array(), *routes = json_array();

    for (size_t i = 0; i < c->n_addresses; i++)
        (void)json_array_append_new(addresses, json_string(c->addresses[i]));
    for (size_t i = 0; i < c->n_routes; i++)
        (void)json_array_append_new(
            routes, json_pack("{s:s,s:s,s:I}", "destination", c->routes[i].destination, "gateway",
                              c->routes[i].gateway, "metric", (json_int_t)c->routes[i].metric));
    return json_pack("{s:s,s:I,s:o,s:o}", "mac", c->mac, "mtu", (json_int_t)c->mtu, "addresses",
                     addresses, "routes", routes);
}

static int run_config(char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(closep) int fd = -EBADF;
    struct net_config config;
    int r = netns_open(argv[0], &fd, &err);

    if (r == 0)
        r = read_config(fd, argv[1], &config, &err);
    if (r < 0)
        return fail(r, err);
    print_json(config_to_json(&config));
    return 0;
}

/* ---------------------------------------------------------------- a guest without a VM */

static int copy_frame(int from, int to)
{
    static uint8_t frame[FRAME_MAX];
    ssize_t n = read(from, frame, sizeof(frame));

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (write(to, frame, (size_t)n) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO)
        return -errno;
    return 0;
}

static int pump(int a, int b)
{
    struct pollfd p[] = {
        {.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    int r = 0;

    while (r == 0) {
        char byte;

        if (poll(p, 3, -1) < 0 && errno != EINTR)
            return -errno;
        if (p[0].revents)
            r = copy_frame(a, b);
        if (r == 0 && p[1].revents)
            r = copy_frame(b, a);
        if (p[2].revents && read(0, &byte, 1) <= 0)
            return 0;
    }
    return r;
}

static int run_guest(char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(closep) int ns = -EBADF, guest = -EBADF, tap = -EBADF, eth = -EBADF;
    struct net_config config;
    int r;

    r = netns_open(argv[0], &ns, &err);
    if (r == 0)
        r = netns_open(argv[3], &guest, &err);
    if (r == 0)
        r = make_tap(ns, argv[2], &tap, &err);
    if (r == 0)
        r = make_tap(guest, "eth0", &eth, &err);
    if (r == 0)
        r = redirect(ns, argv[1], argv[2], &config, &err);
    if (r == 0) /* again: it has to be harmless */
        r = redirect(ns, argv[1], argv[2], &config, &err);
    if (r < 0)
        return fail(r, err);
    print_json(config_to_json(&config));
    r = pump(tap, eth);
    return r < 0 ? fail(r, NULL) : 0;
}

/* ---------------------------------------------------------------- CNI */

struct cni_run {
    sd_event *event;
    struct cni_call *call;
    int exit_code;
};

static void on_done(struct cni_call *call, int r, struct cni_result *result,
                    const struct error *err, void *userdata)
{
    struct cni_run *run = userdata;
    json_t *ips, *doc;

    run->call = NULL;
    run->exit_code = r < 0 ? fail(r, err) : 0;
    if (r == 0 && !result)
        print_json(json_object());
    if (r == 0 && result) {
        ips = json_array();
        for (size_t i = 0; i < result->n_ips; i++)
            (void)json_array_append_new(ips, json_string(result->ips[i].cidr));
        doc = json_pack("{s:o,s:s,s:o}", "ips", ips, "mac", result->mac, "result",
                        json_loads(result->json, 0, NULL));
        print_json(doc);
    }
    (void)sd_event_exit(run->event, 0);
}

static int on_cancel_time(sd_event_source *s, uint64_t usec, void *userdata)
{
    struct cni_run *run = userdata;

    if (run->call)
        cni_call_cancel(run->call);
    return 0;
}

static char **split(const char *text, char sep)
{
    char **v = NULL;

    while (*text) {
        const char *end = strchrnul(text, sep);
        _cleanup_(freep) char *part = str_ndup(text, (size_t)(end - text));

        strv_push(&v, part);
        text = end + (*end == sep);
    }
    return v;
}

#define PORTS_MAX 16
struct cni_options {
    struct cni_port_mapping ports[PORTS_MAX];
    char **port_parts[PORTS_MAX];
    size_t n_ports;
    char *network, *result; /* text of the files */
    uint64_t deadline_ms, cancel_ms;
};

static int parse_port(struct cni_options *o, const char *text)
{
    char **v = split(text, ':');
    struct cni_port_mapping *m = &o->ports[o->n_ports];

    if (o->n_ports == PORTS_MAX || strv_len(v) < 3 || parse_u32(v[1], 65535, &m->host_port) < 0 ||
        parse_u32(v[2], 65535, &m->container_port) < 0) {
        strv_free(v);
        return -EINVAL;
    }
    m->protocol = v[0];
    m->host_ip = v[3];
    o->port_parts[o->n_ports++] = v;
    return 0;
}

static int parse_options(char **argv, struct cni_options *o)
{
    int r = 0;

    for (; r == 0 && argv[0]; argv += 2) {
        if (!argv[1])
            return -EINVAL;
        if (str_equal(argv[0], "--port"))
            r = parse_port(o, argv[1]);
        else if (str_equal(argv[0], "--network"))
            r = file_read_all(AT_FDCWD, argv[1], CNI_CONF_BYTES_MAX, &o->network, NULL);
        else if (str_equal(argv[0], "--result"))
            r = file_read_all(AT_FDCWD, argv[1], CNI_CONF_BYTES_MAX, &o->result, NULL);
        else if (str_equal(argv[0], "--deadline"))
            r = parse_u64(argv[1], 3600000, &o->deadline_ms);
        else if (str_equal(argv[0], "--cancel"))
            r = parse_u64(argv[1], 3600000, &o->cancel_ms);
        else
            r = -EINVAL;
    }
    return r;
}

static int start_call(struct cni_run *run, const char *command, const struct cni_network *net,
                      const struct cni_request *req, const char *result, struct error **err)
{
    if (str_equal(command, "add"))
        return cni_add(run->event, net, req, on_done, run, &run->call, err);
    if (str_equal(command, "del"))
        return cni_del(run->event, net, req, result, on_done, run, &run->call, err);
    return cni_check(run->event, net, req, result, on_done, run, &run->call, err);
}

static int run_cni(const char *command, char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;
    struct cni_options o = {0};
    struct cni_run run = {.exit_code = 1};
    char **bins = split(argv[1], ':');
    struct cni_request req;
    int r = parse_options(argv + 5, &o);

    if (r < 0)
        return usage();
    req = (struct cni_request){.container_id = argv[2],
                               .netns = argv[3],
                               .ifname = argv[4],
                               .pod_namespace = "default",
                               .pod_name = "pod",
                               .pod_uid = "uid",
                               .ports = o.ports,
                               .n_ports = o.n_ports,
                               .bin_dirs = bins,
                               .deadline_ms = o.deadline_ms};
    r = o.network ? cni_network_parse(o.network, strlen(o.network), "saved", &net, &err)
                  : cni_load(argv[0], &net, &err);
    if (r == 0)
        r = sd_event_default(&run.event) < 0 ? -EIO : 0;
    if (r == 0)
        r = start_call(&run, command, net, &req, o.result, &err);
    if (r == 0 && o.cancel_ms)
        r = sd_event_add_time_relative(run.event, NULL, CLOCK_MONOTONIC, o.cancel_ms * 1000, 1,
                                       on_cancel_time, &run);
    if (r >= 0)
        (void)sd_event_loop(run.event);
    else
        run.exit_code = fail(r, err);
    sd_event_unref(run.event);
    for (size_t i = 0; i < o.n_ports; i++)
        strv_free(o.port_parts[i]);
    strv_free(bins);
    free(o.network);
    free(o.result);
    return run.exit_code;
}

static int run_leftovers(char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    int r = cni_kill_leftovers(argv, &err);

    if (r < 0)
        return fail(r, err);
    print_json(json_pack("{s:i}", "killed", r));
    return 0;
}

/* ---------------------------------------------------------------- cgroups */

static int cgroup_command(struct cgroup_fs *fs, char **argv, struct error **err)
{
    const struct cgroup_limits limits = {
        .memory_max_bytes = 64U << 20, .pids_max = 32, .cpu_weight = 50};
    _cleanup_(freep) char *path = NULL;
    struct cgroup_usage u;
    unsigned missing = 0;
    uint32_t pid = 0;
    int r = -EINVAL;

    if (str_equal(argv[0], "create")) { /* PARENT NAME */
        r = cgroup_create(fs, argv[1], argv[2], &limits, &path, &missing, err);
        if (r == 0)
            print_json(json_pack("{s:s,s:i}", "path", path, "missing", (int)missing));
    } else if (str_equal(argv[0], "add")) { /* PATH PID */
        r = parse_u32(argv[2], INT32_MAX, &pid);
        if (r == 0)
            r = cgroup_add_pid(fs, argv[1], (pid_t)pid, err);
    } else if (str_equal(argv[0], "remove")) { /* PATH */
        r = cgroup_remove(fs, argv[1], 5000, err);
    } else if (str_equal(argv[0], "usage")) { /* PATH */
        r = cgroup_read_usage(fs, argv[1], &u, err);
        if (r == 0)
            print_json(json_pack("{s:I,s:I}", "pids", (json_int_t)u.pids_current, "memory",
                                 (json_int_t)u.memory_current_bytes));
    } else if (str_equal(argv[0], "mode")) {
        print_json(json_pack("{s:s,s:s}", "mode", cgroup_mode_name(cgroup_fs_mode(fs)), "text",
                             cgroup_fs_describe(fs)));
        r = 0;
    }
    return r;
}

/* ROOT create PARENT NAME | add PATH PID | remove PATH - | usage PATH - | mode - - */
static int run_cgroup(char **argv)
{
    _cleanup_(error_freep) struct error *err = NULL;
    _cleanup_(cgroup_fs_freep) struct cgroup_fs *fs = NULL;
    int r = cgroup_fs_open(argv[0], &fs, &err);

    if (r == 0)
        r = cgroup_command(fs, argv + 1, &err);
    return r < 0 ? fail(r, err) : 0;
}

int main(int argc, char **argv)
{
    const char *c = argc > 1 ? argv[1] : "";

    if (str_equal(c, "netns-create") && argc == 3)
        return run_netns_create(argv + 2);
    if (str_equal(c, "netns-remove") && argc == 3)
        return run_netns_remove(argv + 2);
    if (str_equal(c, "config") && argc == 4)
        return run_config(argv + 2);
    if (str_equal(c, "guest") && argc == 6)
        return run_guest(argv + 2);
    if ((str_equal(c, "add") || str_equal(c, "del") || str_equal(c, "check")) && argc >= 7)
        return run_cni(c, argv + 2);
    if (str_equal(c, "leftovers") && argc >= 3)
        return run_leftovers(argv + 2);
    if (str_equal(c, "cgroup") && argc == 6)
        return run_cgroup(argv + 2);
    return usage();
}
