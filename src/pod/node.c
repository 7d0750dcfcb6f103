/* SPDX-License-Identifier: Apache-2.0 */
/* The node: stores, directories, maps, lookups, and the operations that are neither a sandbox's nor a
 * container's plan. */
#include "pod/node.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/log.h"
#include "base/str.h"
#include "pod/node-internal.h"
#include "pod/scratch.h"
#include "pod/vmm-client.h"
#include "pod/volume-update.h"

static int open_below(const char *dir, const char *name, mode_t mode, int *ret, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("%s/%s", dir, name);

    *ret = dir_open_or_make(path, mode);
    return *ret < 0 ? error_set(err, *ret, "cannot open directory %s: %s", path, strerror(-*ret))
                    : 0;
}

static int open_store(const char *dir, const char *name, struct store_queue *queue,
                      struct store **ret, struct error **err)
{
    _cleanup_(freep) char *path = str_printf("%s/%s", dir, name);

    return store_open(path, queue, ret, err);
}

static int open_streams(struct node *n, struct error **err)
{
    const struct stream_link_config config = {
        .run_dir = n->config.run_dir,
        .vmm_dirfd = n->vmm_dirfd,
        .program = n->config.stream_path,
        .log_level = n->config.log_level,
        .idle_ms = n->config.stream_idle_ms,
        .address = n->config.stream_address,
        .certificate = n->config.stream_certificate,
        .key = n->config.stream_key,
        .client_ca = n->config.stream_client_ca,
    };

    return stream_link_new(n->event, &config, &n->streams, err);
}

int node_new(sd_event *event, const struct node_config *config, struct image_store *images,
             struct node **ret, struct error **err)
{
    _cleanup_(node_freep) struct node *n = xcalloc(1, sizeof(*n));
    int r;

    n->event = sd_event_ref(event);
    n->config = *config;
    n->images = images;
    n->vmm_dirfd = n->scratch_dirfd = -EBADF;
    list_init(&n->order);
    list_init(&n->stats_waits);
    hashmap_init(&n->sandboxes);
    hashmap_init(&n->names);
    hashmap_init(&n->containers);
    r = waiter_queue_init(&n->answers, event);
    if (r < 0)
        return error_set(err, r, "cannot set up the event loop: %s", strerror(-r));
    r = boot_id_read(config->boot_id_path, n->boot_id, err);
    if (r >= 0)
        r = open_store(config->state_dir, "sandboxes", config->store_queue, &n->sandbox_store, err);
    if (r >= 0)
        r = open_store(config->state_dir, "containers", config->store_queue, &n->container_store,
                       err);
    if (r >= 0)
        r = open_below(config->state_dir, "scratch", 0700, &n->scratch_dirfd, err);
    if (r >= 0)
        r = open_below(config->run_dir, "vmm", 0700, &n->vmm_dirfd, err);
    if (r >= 0)
        r = cgroup_fs_open(config->cgroup_root, &n->cgroups, err);
    if (r >= 0)
        r = open_streams(n, err);
    if (r >= 0)
        r = volumes_init(n, err);
    if (r >= 0)
        r = worker_new(event, &n->host_worker, err);
    if (r >= 0)
        r = worker_new(event, &n->files_worker, err);
    if (r >= 0)
        r = worker_new(event, &n->stats_worker, err);
    if (r < 0)
        return r;
    *ret = TAKE(n);
    return 0;
}

void node_free(struct node *n)
{
    if (!n)
        return;
    while (n->order.next && !list_is_empty(&n->order))
        sandbox_free(list_first(&n->order, struct sandbox, order));
    volumes_done(n);
    worker_free(n->host_worker);
    worker_free(n->files_worker);
    worker_free(n->stats_worker);
    if (n->stats_waits.next)
        stats_end(n);
    stream_link_free(n->streams);
    if (n->answers.done.next)
        waiter_queue_done(&n->answers);
    sd_event_source_disable_unref(n->recovery_timer);
    strv_free(n->strangers);
    hashmap_done(&n->sandboxes);
    hashmap_done(&n->names);
    hashmap_done(&n->containers);
    store_free(n->sandbox_store);
    store_free(n->container_store);
    cgroup_fs_free(n->cgroups);
    (void)close_fd(n->vmm_dirfd);
    (void)close_fd(n->scratch_dirfd);
    sd_event_unref(n->event);
    free(n);
}

bool node_has_shares(const struct node *n)
{
    return share_program(&n->config) != NULL;
}

bool node_is_ready(const struct node *n)
{
    return n->ready;
}

/* ---- lookup */

int node_require_ready(const struct node *n, struct error **err)
{
    if (!n->ready)
        return error_set_class(err, ERROR_UNAVAILABLE, -EAGAIN,
                               "nexusd has just started and is still finding its pods again");
    return 0;
}

static int check_id(const struct node *n, const char *id, struct error **err)
{
    size_t len = strnlen(id, LIMIT_ID_MAX + 1);

    if (node_require_ready(n, err) < 0)
        return -EAGAIN;
    if (len == 0 || len > LIMIT_ID_MAX)
        return error_set(err, -EINVAL, "an id has 1 to %d characters", LIMIT_ID_MAX);
    if (strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != len)
        return error_set(err, -EINVAL, "an id has only lower-case letters, digits and '-'");
    return 0;
}

/* The object of that id, else the only one it is a prefix of. *ret NULL: none. */
static int find_in(const struct hashmap *m, const char *id, void **ret, struct error **err)
{
    size_t i;
    void *v;

    *ret = hashmap_get(m, id);
    if (*ret)
        return 0;
    hashmap_foreach (v, i, m) {
        if (!str_starts(m->slots[i].key, id))
            continue;
        if (*ret)
            return error_set(err, -EINVAL, "id %s is ambiguous", id);
        *ret = v;
    }
    return 0;
}

int node_find_sandbox(struct node *n, const char *id, struct sandbox **ret, struct error **err)
{
    void *found = NULL;
    int r = check_id(n, id, err);

    if (r >= 0)
        r = find_in(&n->sandboxes, id, &found, err);
    if (r < 0)
        return r;
    if (!found)
        return error_set(err, -ENOENT, "no sandbox %s", id);
    *ret = found;
    return 0;
}

int node_find_container(struct node *n, const char *id, struct container **ret, struct error **err)
{
    void *found = NULL;
    int r = check_id(n, id, err);

    if (r >= 0)
        r = find_in(&n->containers, id, &found, err);
    if (r < 0)
        return r;
    if (!found)
        return error_set(err, -ENOENT, "no container %s", id);
    *ret = found;
    return 0;
}

static bool is_older(const struct sandbox *a, const struct sandbox *b)
{
    if (a->status.created_at_ns != b->status.created_at_ns)
        return a->status.created_at_ns < b->status.created_at_ns;
    return strcmp(a->id, b->id) < 0;
}

struct sandbox *node_next_sandbox(struct node *n, struct sandbox *prev)
{
    struct list *at = prev ? prev->order.next : n->order.next;

    for (; at && at != &n->order; at = at->next) {
        struct sandbox *s = list_entry(at, struct sandbox, order);
        if (sandbox_is_listed(s))
            return s;
    }
    return NULL;
}

void node_order_sandbox(struct node *n, struct sandbox *s)
{
    struct list *at;

    list_remove(&s->order);
    at = n->order.prev;
    while (at != &n->order && is_older(s, list_entry(at, struct sandbox, order)))
        at = at->prev;
    list_append(at->next, &s->order); /* before the one that is younger */
}

struct container *sandbox_next_container(struct sandbox *s, struct container *prev)
{
    struct list *at = prev ? prev->node.next : s->containers.next;

    for (; at != &s->containers; at = at->next) {
        struct container *c = list_entry(at, struct container, node);
        if (container_is_listed(c))
            return c;
    }
    return NULL;
}

size_t node_sandbox_count(const struct node *n)
{
    return hashmap_count(&n->sandboxes);
}

size_t node_container_count(const struct node *n)
{
    return hashmap_count(&n->containers);
}

/* ---- status */

int node_runtime_status(struct node *n, struct error **err)
{
    const struct node_config *c = &n->config;
    const struct {
        const char *path, *what;
        int mode;
    } needed[] = {
        {c->kvm_path, "KVM", R_OK | W_OK},
        {c->vmm_path, "nexus-vmm", X_OK},
        {c->kernel_path, "the guest kernel", R_OK},
        {c->initramfs_path, "the guest's initramfs", R_OK},
    };

    for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
        if (access(needed[i].path, needed[i].mode) < 0)
            return error_set_class(err, ERROR_UNAVAILABLE, -errno, "%s at %s cannot be used: %s",
                                   needed[i].what, needed[i].path, strerror(errno));
    return 0;
}

int node_network_status(struct node *n, struct error **err)
{
    return cni_status(n->config.cni_conf_dir, n->config.cni_bin_dirs, NULL, err);
}

const char *node_cgroup_text(struct node *n)
{
    return cgroup_fs_describe(n->cgroups);
}

bool node_cgroup_is_v2(struct node *n)
{
    return cgroup_fs_mode(n->cgroups) == CGROUP_MODE_V2;
}

/* ---- exec: no plan, nothing to undo */

int node_find_running(struct node *n, const char *id, struct container **ret, struct error **err)
{
    int r = node_find_container(n, id, ret, err);

    if (r < 0)
        return r;
    if (container_on((*ret)->state, CONTAINER_EV_USE) != CONTAINER_DO_ALLOW)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "container %s is %s, not running",
                               (*ret)->id, container_state_name((*ret)->state));
    if (!(*ret)->sandbox->client || (*ret)->sandbox->hello_pending)
        return error_set_class(err, ERROR_UNAVAILABLE, -ENOTCONN,
                               "nexus-vmm of container %s is not connected at the moment", id);
    return 0;
}

int node_exec(struct node *n, const char *id, char *const *command, uint64_t timeout_ms,
              vmm_exec_fn fn, void *userdata, struct vmm_exec **ret, struct error **err)
{
    Nexus__ExecSpec spec = NEXUS__EXEC_SPEC__INIT;
    Nexus__ProcessSpec process = NEXUS__PROCESS_SPEC__INIT;
    char name[LIMIT_ID_MAX + 8];
    struct container *c = NULL;
    int r = node_find_running(n, id, &c, err);

    if (r < 0)
        return r;
    process.n_args = strv_len(command);
    process.args = (char **)(uintptr_t)command; /* only read */
    spec.container_id = c->id;
    spec.process = &process;
    spec.late_start = true;
    sandbox_socket_name(c->sandbox, name);
    return vmm_exec_start(n->event, n->vmm_dirfd, name, &spec, timeout_ms, fn, userdata, ret, err);
}

/* ---- streaming */

static int offer(struct node *n, const struct sandbox *s, Nexus__StreamOffer *o,
                 const struct stream_channels *channels, stream_url_fn fn, void *userdata,
                 struct stream_call **ret, struct error **err)
{
    char name[LIMIT_ID_MAX + 8];

    sandbox_socket_name(s, name);
    o->vmm_socket = name;
    if (channels) {
        o->in = channels->in;
        o->out = channels->out;
        o->err = channels->err;
        o->tty = channels->tty;
    }
    return stream_link_offer(n->streams, o, fn, userdata, ret, err);
}

int node_open_exec(struct node *n, const char *id, char *const *command,
                   const struct stream_channels *channels, stream_url_fn fn, void *userdata,
                   struct stream_call **ret, struct error **err)
{
    Nexus__StreamOffer o = NEXUS__STREAM_OFFER__INIT;
    Nexus__ExecSpec spec = NEXUS__EXEC_SPEC__INIT;
    Nexus__ProcessSpec process = NEXUS__PROCESS_SPEC__INIT;
    char term[] = "TERM=xterm";
    char *env[] = {term};
    struct container *c = NULL;
    int r = node_find_running(n, id, &c, err);

    if (r < 0)
        return r;
    process.n_args = strv_len(command);
    process.args = (char **)(uintptr_t)command; /* only read */
    process.tty = channels->tty;
    process.env = env;
    process.n_env = channels->tty ? 1 : 0;
    spec.container_id = c->id;
    spec.process = &process;
    spec.open_stdin = channels->in;
    o.target_case = NEXUS__STREAM_OFFER__TARGET_EXEC;
    o.exec = &spec;
    return offer(n, c->sandbox, &o, channels, fn, userdata, ret, err);
}

int node_open_attach(struct node *n, const char *id, const struct stream_channels *channels,
                     stream_url_fn fn, void *userdata, struct stream_call **ret, struct error **err)
{
    Nexus__StreamOffer o = NEXUS__STREAM_OFFER__INIT;
    Nexus__AttachSpec spec = NEXUS__ATTACH_SPEC__INIT;
    struct container *c = NULL;
    int r = node_find_running(n, id, &c, err);

    if (r < 0)
        return r;
    spec.container_id = c->id;
    spec.open_stdin = channels->in && c->spec.open_stdin;
    o.target_case = NEXUS__STREAM_OFFER__TARGET_ATTACH;
    o.attach = &spec;
    return offer(n, c->sandbox, &o, channels, fn, userdata, ret, err);
}

int node_open_forward(struct node *n, const char *sandbox_id, const int32_t *ports, size_t n_ports,
                      stream_url_fn fn, void *userdata, struct stream_call **ret,
                      struct error **err)
{
    Nexus__StreamOffer o = NEXUS__STREAM_OFFER__INIT;
    uint32_t numbers[LIMIT_STREAM_PORTS];
    struct sandbox *s = NULL;
    int r = node_find_sandbox(n, sandbox_id, &s, err);

    if (r < 0)
        return r;
    if (s->state != SANDBOX_READY)
        return error_set_class(err, ERROR_PRECONDITION, -ESTALE, "sandbox %s is %s, not ready",
                               s->id, sandbox_state_name(s->state));
    if (n_ports > LIMIT_STREAM_PORTS)
        return error_set(err, -EINVAL, "more than %d ports at once", LIMIT_STREAM_PORTS);
    for (size_t i = 0; i < n_ports; i++)
        numbers[i] = (uint32_t)ports[i];
    o.n_ports = n_ports;
    o.ports = numbers;
    o.target_case = NEXUS__STREAM_OFFER__TARGET_FORWARD;
    o.forward = true;
    return offer(n, s, &o, NULL, fn, userdata, ret, err);
}

/* ---- for people and tests */

void node_each_failpoint(void (*fn)(const char *name, void *userdata), void *userdata)
{
    static const struct plan *const plans[] = {
        &sandbox_run_plan,     &sandbox_stop_plan,   &sandbox_remove_plan,   &container_create_plan,
        &container_start_plan, &container_stop_plan, &container_remove_plan,
    };

    for (size_t i = 0; i < ARRAY_SIZE(plans); i++)
        plan_each_failpoint(plans[i], fn, userdata);
    fn("pod.run.spawned", userdata);
    volume_update_each_failpoint(fn, userdata);
}
