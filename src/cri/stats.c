/* SPDX-License-Identifier: Apache-2.0 */
/* ContainerStats, PodSandboxStats, their lists and streams. The node refreshes what is asked for and then the
 * answer is made of what it knows: what did not come in time is told as it was, with its time. */
#include "pod/stats.h"

#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/list.h"

static Runtime__V1__UInt64Value *number(struct arena *a, uint64_t v)
{
    Runtime__V1__UInt64Value *m =
        MESSAGE(a, Runtime__V1__UInt64Value, runtime__v1__uint64_value__init);

    if (m)
        m->value = v;
    return m;
}

/* NULL if the kind was not told; no memory looks the same, and costs that one number. */
static Runtime__V1__UInt64Value *told(struct arena *a, const struct cgroup_numbers *n,
                                      unsigned kind)
{
    uint64_t v;

    return numbers_get(n, kind, &v) ? number(a, v) : NULL;
}

static int64_t time_of(uint64_t ns)
{
    return ns > INT64_MAX ? INT64_MAX : (int64_t)ns;
}

static Runtime__V1__CpuUsage *cpu_to_cri(struct arena *a, uint64_t time_ns, uint64_t used_ns,
                                         const struct cpu_rate *rate)
{
    Runtime__V1__CpuUsage *m = MESSAGE(a, Runtime__V1__CpuUsage, runtime__v1__cpu_usage__init);

    if (!m)
        return NULL;
    m->timestamp = time_of(time_ns);
    m->usage_core_nano_seconds = number(a, used_ns);
    if (rate->known)
        m->usage_nano_cores = number(a, rate->nano_cores);
    return m;
}

/* ---- containers */

static Runtime__V1__ContainerAttributes *attributes(struct arena *a, const struct container *c)
{
    Runtime__V1__ContainerAttributes *m =
        MESSAGE(a, Runtime__V1__ContainerAttributes, runtime__v1__container_attributes__init);

    if (!m)
        return NULL;
    m->id = text_of(c->id);
    m->metadata = MESSAGE(a, Runtime__V1__ContainerMetadata, runtime__v1__container_metadata__init);
    if (!m->metadata)
        return NULL;
    m->metadata->name = c->spec.name;
    m->metadata->attempt = c->spec.attempt;
    m->labels =
        map_to_cri(a, &c->spec.labels, &runtime__v1__container_attributes__labels_entry__descriptor,
                   &m->n_labels);
    m->annotations = map_to_cri(a, &c->spec.annotations,
                                &runtime__v1__container_attributes__annotations_entry__descriptor,
                                &m->n_annotations);
    return m->labels && m->annotations ? m : NULL;
}

static Runtime__V1__MemoryUsage *guest_memory(struct arena *a, const struct container *c,
                                              const struct cgroup_numbers *n)
{
    Runtime__V1__MemoryUsage *m =
        MESSAGE(a, Runtime__V1__MemoryUsage, runtime__v1__memory_usage__init);
    uint64_t limit = (uint64_t)c->spec.resources.memory_limit_bytes, set;

    if (!m || !numbers_working_set(n, &set))
        return NULL;
    m->timestamp = time_of(n->time_ns);
    m->working_set_bytes = number(a, set);
    if (limit)
        m->available_bytes = number(a, limit > set ? limit - set : 0);
    m->usage_bytes = told(a, n, STATS(MEMORY));
    m->rss_bytes = told(a, n, STATS(MEMORY_ANON));
    m->page_faults = told(a, n, STATS(PAGE_FAULTS));
    m->major_page_faults = told(a, n, STATS(MAJOR_PAGE_FAULTS));
    return m;
}

/* The layer is on the pod's scratch disk, which is a file beside the images. */
static Runtime__V1__FilesystemUsage *writable_layer(struct cri *cri, struct arena *a,
                                                    const struct cgroup_numbers *n)
{
    Runtime__V1__FilesystemUsage *m =
        MESSAGE(a, Runtime__V1__FilesystemUsage, runtime__v1__filesystem_usage__init);
    Runtime__V1__FilesystemIdentifier *id =
        MESSAGE(a, Runtime__V1__FilesystemIdentifier, runtime__v1__filesystem_identifier__init);
    struct image_fs_info info;
    uint64_t bytes;

    if (!m || !id || !numbers_get(n, STATS(DISK_BYTES), &bytes))
        return NULL;
    image_fs_info(cri->images, &info);
    id->mountpoint = text_of(info.mountpoint);
    m->timestamp = time_of(n->time_ns);
    m->fs_id = id;
    m->used_bytes = number(a, bytes);
    m->inodes_used = told(a, n, STATS(DISK_INODES));
    return m;
}

static Runtime__V1__SwapUsage *swap(struct arena *a, const struct cgroup_numbers *n)
{
    Runtime__V1__SwapUsage *m = MESSAGE(a, Runtime__V1__SwapUsage, runtime__v1__swap_usage__init);
    uint64_t used;

    if (!m || !numbers_get(n, STATS(SWAP), &used))
        return NULL;
    m->timestamp = time_of(n->time_ns);
    m->swap_usage_bytes = number(a, used);
    m->swap_available_bytes = number(a, 0); /* guests have none */
    return m;
}

static Runtime__V1__ContainerStats *container_stats(struct cri *cri, struct arena *a,
                                                    const struct container *c)
{
    Runtime__V1__ContainerStats *m =
        MESSAGE(a, Runtime__V1__ContainerStats, runtime__v1__container_stats__init);
    const struct cgroup_numbers *n = container_numbers(c);
    uint64_t used;

    if (!m)
        return NULL;
    m->attributes = attributes(a, c);
    if (!m->attributes)
        return NULL;
    if (!n) /* it never ran, or its guest has not answered yet */
        return m;
    if (numbers_cpu_ns(n, &used))
        m->cpu = cpu_to_cri(a, n->time_ns, used, &n->rate);
    m->memory = guest_memory(a, c, n);
    m->writable_layer = writable_layer(cri, a, n);
    m->swap = swap(a, n);
    return m;
}

static bool is_running(const struct container *c)
{
    return container_cri_state(c) == CONTAINER_CRI_RUNNING;
}

static bool container_matches(const struct container *c, const Runtime__V1__ContainerStatsFilter *f)
{
    if (!is_running(c))
        return false;
    if (!f)
        return true;
    if (!str_starts(c->id, f->id) || !str_starts(c->sandbox->id, f->pod_sandbox_id))
        return false;
    return labels_match(&c->spec.labels, (void *const *)f->label_selector, f->n_label_selector);
}

static bool has_match(const struct sandbox *s, const void *arg)
{
    const struct container *c;

    list_foreach (c, &s->containers, node)
        if (container_is_listed(c) && container_matches(c, arg))
            return true;
    return false;
}

static bool is_that(const struct sandbox *s, const void *arg)
{
    return s == arg;
}

void rpc_begin_stats(struct cri *cri, struct grpc_call *call, const void *request,
                     bool (*wanted)(const struct sandbox *s, const void *arg), const void *arg,
                     void (*reply)(struct rpc *rpc, const char *id))
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct rpc *rpc = rpc_new(cri, call, reply);
    int r;

    if (!rpc)
        return;
    rpc->request = request;
    r = node_refresh_stats(cri->node, wanted, arg, rpc_done, rpc, &rpc->waiter, &err);
    if (r < 0)
        rpc_fail(call, r, &err);
}

static int find_container(struct cri *cri, const char *id, struct container **ret,
                          struct error **err)
{
    int r = node_find_container(cri->node, id, ret, err);

    if (r >= 0 && !container_is_listed(*ret))
        r = error_set(err, -ENOENT, "no container %s", id);
    return r;
}

static void reply_container(struct rpc *rpc, const char *id)
{
    const Runtime__V1__ContainerStatsRequest *req = rpc->request;
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__ContainerStatsResponse out = RUNTIME__V1__CONTAINER_STATS_RESPONSE__INIT;
    struct container *c = NULL;
    int r = find_container(rpc->cri, req->container_id, &c, &err); /* it may have gone meanwhile */

    if (r < 0) {
        rpc_fail(rpc->call, r, &err);
        return;
    }
    out.stats = container_stats(rpc->cri, grpc_call_arena(rpc->call), c);
    if (out.stats)
        grpc_call_reply(rpc->call, &out.base);
    else
        rpc_no_memory(rpc->call);
}

void cri_container_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ContainerStatsRequest *req = (const void *)m;
    _cleanup_(error_freep) struct error *err = NULL;
    struct container *c = NULL;
    int r = find_container(ud, req->container_id, &c, &err);

    if (r < 0)
        rpc_fail(call, r, &err);
    else
        rpc_begin_stats(ud, call, req, is_that, c->sandbox, reply_container);
}

/* Those that have numbers. False: the call was answered. */
static bool container_list(struct rpc *rpc, const Runtime__V1__ContainerStatsFilter *filter,
                           struct item_list *l)
{
    struct cri *cri = rpc->cri;
    struct arena *a = grpc_call_arena(rpc->call);
    struct sandbox *s = NULL;
    int r = item_list_init(l, a, node_container_count(cri->node));

    while (r == 0 && (s = node_next_sandbox(cri->node, s))) {
        for (struct container *c = NULL; r == 0 && (c = sandbox_next_container(s, c));) {
            if (!container_matches(c, filter))
                continue;
            if (container_numbers(c))
                r = item_list_add(l, container_stats(cri, a, c));
            else
                log_debug("container %s has no numbers yet and is left out", c->id);
        }
    }
    if (r < 0)
        rpc_no_memory(rpc->call);
    return r == 0;
}

static void reply_container_list(struct rpc *rpc, const char *id)
{
    const Runtime__V1__ListContainerStatsRequest *req = rpc->request;
    struct item_list l;

    if (container_list(rpc, req->filter, &l))
        list_reply(rpc->call, &runtime__v1__list_container_stats_response__descriptor, &l);
}

void cri_list_container_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ListContainerStatsRequest *req = (const void *)m;

    rpc_begin_stats(ud, call, req, has_match, req->filter, reply_container_list);
}

static void stream_container_list(struct rpc *rpc, const char *id)
{
    const Runtime__V1__StreamContainerStatsRequest *req = rpc->request;
    struct item_list l;

    if (container_list(rpc, req->filter, &l))
        list_stream(rpc->call, &runtime__v1__stream_container_stats_response__descriptor, &l);
}

void cri_stream_container_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StreamContainerStatsRequest *req = (const void *)m;

    rpc_begin_stats(ud, call, req, has_match, req->filter, stream_container_list);
}

/* ---- sandboxes */

static Runtime__V1__PodSandboxAttributes *pod_attributes(struct arena *a, const struct sandbox *s)
{
    Runtime__V1__PodSandboxAttributes *m =
        MESSAGE(a, Runtime__V1__PodSandboxAttributes, runtime__v1__pod_sandbox_attributes__init);
    Runtime__V1__PodSandbox *as_listed = sandbox_to_cri(a, s);

    if (!m || !as_listed)
        return NULL;
    m->id = as_listed->id;
    m->metadata = as_listed->metadata;
    m->labels =
        map_to_cri(a, &s->spec.labels,
                   &runtime__v1__pod_sandbox_attributes__labels_entry__descriptor, &m->n_labels);
    m->annotations = map_to_cri(a, &s->spec.annotations,
                                &runtime__v1__pod_sandbox_attributes__annotations_entry__descriptor,
                                &m->n_annotations);
    return m->labels && m->annotations ? m : NULL;
}

/* What the pod costs its node: the VM with all that is in it. */
static Runtime__V1__MemoryUsage *host_memory(struct arena *a, const struct host_numbers *n)
{
    Runtime__V1__MemoryUsage *m =
        MESSAGE(a, Runtime__V1__MemoryUsage, runtime__v1__memory_usage__init);
    uint64_t file = n->memory_inactive_file_bytes;

    if (!m)
        return NULL;
    m->timestamp = time_of(n->time_ns);
    m->usage_bytes = number(a, n->memory_bytes);
    m->working_set_bytes = number(a, n->memory_bytes > file ? n->memory_bytes - file : 0);
    m->rss_bytes = number(a, n->memory_rss_bytes);
    m->page_faults = number(a, n->page_faults);
    m->major_page_faults = number(a, n->major_page_faults);
    return m;
}

static Runtime__V1__NetworkUsage *network(struct arena *a, const struct host_numbers *n)
{
    Runtime__V1__NetworkUsage *m =
        MESSAGE(a, Runtime__V1__NetworkUsage, runtime__v1__network_usage__init);
    Runtime__V1__NetworkInterfaceUsage *i =
        MESSAGE(a, Runtime__V1__NetworkInterfaceUsage, runtime__v1__network_interface_usage__init);
    Runtime__V1__NetworkInterfaceUsage **list = arena_alloc(a, sizeof(*list));

    if (!m || !i || !list)
        return NULL;
    m->timestamp = time_of(n->time_ns);
    i->name = text_of("eth0"); /* the pod's name for it; what the TAP sends, the pod receives */
    i->rx_bytes = number(a, n->net.tx_bytes);
    i->rx_errors = number(a, n->net.tx_errors);
    i->tx_bytes = number(a, n->net.rx_bytes);
    i->tx_errors = number(a, n->net.rx_errors);
    list[0] = i;
    m->default_interface = i;
    m->interfaces = list;
    m->n_interfaces = 1;
    return m;
}

static Runtime__V1__ProcessUsage *processes(struct arena *a, const struct cgroup_numbers *n)
{
    Runtime__V1__ProcessUsage *m =
        MESSAGE(a, Runtime__V1__ProcessUsage, runtime__v1__process_usage__init);

    if (!m)
        return NULL;
    m->timestamp = time_of(n->time_ns);
    m->process_count = told(a, n, STATS(TASKS));
    return m;
}

static int pod_containers(struct cri *cri, struct arena *a, struct sandbox *s,
                          Runtime__V1__LinuxPodSandboxStats *m)
{
    struct item_list l;
    int r = item_list_for_containers(&l, a, s);

    for (struct container *c = NULL; r == 0 && (c = sandbox_next_container(s, c));)
        if (is_running(c) && container_numbers(c))
            r = item_list_add(&l, container_stats(cri, a, c));
    m->containers = (Runtime__V1__ContainerStats **)l.items;
    m->n_containers = l.n;
    return r;
}

static Runtime__V1__PodSandboxStats *pod_stats(struct cri *cri, struct arena *a, struct sandbox *s)
{
    Runtime__V1__PodSandboxStats *m =
        MESSAGE(a, Runtime__V1__PodSandboxStats, runtime__v1__pod_sandbox_stats__init);
    Runtime__V1__LinuxPodSandboxStats *l =
        MESSAGE(a, Runtime__V1__LinuxPodSandboxStats, runtime__v1__linux_pod_sandbox_stats__init);
    const struct host_numbers *host = sandbox_host_numbers(s);
    const struct cgroup_numbers *guest = sandbox_guest_numbers(s);

    if (!m || !l)
        return NULL;
    m->attributes = pod_attributes(a, s);
    m->linux = l;
    if (host) {
        l->cpu = cpu_to_cri(a, host->time_ns, host->cpu_us * 1000, &host->rate);
        l->memory = host_memory(a, host);
    }
    if (host && host->has_net)
        l->network = network(a, host);
    if (guest)
        l->process = processes(a, guest);
    return m->attributes && pod_containers(cri, a, s, l) == 0 ? m : NULL;
}

static bool pod_matches(const struct sandbox *s, const void *arg)
{
    const Runtime__V1__PodSandboxStatsFilter *f = arg;

    if (!sandbox_is_ready(s))
        return false;
    return !f ||
           (str_starts(s->id, f->id) &&
            labels_match(&s->spec.labels, (void *const *)f->label_selector, f->n_label_selector));
}

static int find_sandbox(struct cri *cri, const char *id, struct sandbox **ret, struct error **err)
{
    int r = node_find_sandbox(cri->node, id, ret, err);

    if (r >= 0 && !sandbox_is_listed(*ret))
        r = error_set(err, -ENOENT, "no sandbox %s", id);
    return r;
}

static void reply_pod(struct rpc *rpc, const char *id)
{
    const Runtime__V1__PodSandboxStatsRequest *req = rpc->request;
    _cleanup_(error_freep) struct error *err = NULL;
    Runtime__V1__PodSandboxStatsResponse out = RUNTIME__V1__POD_SANDBOX_STATS_RESPONSE__INIT;
    struct sandbox *s = NULL;
    int r = find_sandbox(rpc->cri, req->pod_sandbox_id, &s, &err);

    if (r < 0) {
        rpc_fail(rpc->call, r, &err);
        return;
    }
    out.stats = pod_stats(rpc->cri, grpc_call_arena(rpc->call), s);
    if (out.stats)
        grpc_call_reply(rpc->call, &out.base);
    else
        rpc_no_memory(rpc->call);
}

void cri_pod_sandbox_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__PodSandboxStatsRequest *req = (const void *)m;
    _cleanup_(error_freep) struct error *err = NULL;
    struct sandbox *s = NULL;
    int r = find_sandbox(ud, req->pod_sandbox_id, &s, &err);

    if (r < 0)
        rpc_fail(call, r, &err);
    else
        rpc_begin_stats(ud, call, req, is_that, s, reply_pod);
}

static bool pod_list(struct rpc *rpc, const Runtime__V1__PodSandboxStatsFilter *filter,
                     struct item_list *l)
{
    struct node *n = rpc->cri->node;
    struct arena *a = grpc_call_arena(rpc->call);
    struct sandbox *s = NULL;
    int r = item_list_init(l, a, node_sandbox_count(n));

    while (r == 0 && (s = node_next_sandbox(n, s)))
        if (pod_matches(s, filter))
            r = item_list_add(l, pod_stats(rpc->cri, a, s));
    if (r < 0)
        rpc_no_memory(rpc->call);
    return r == 0;
}

static void reply_pod_list(struct rpc *rpc, const char *id)
{
    const Runtime__V1__ListPodSandboxStatsRequest *req = rpc->request;
    struct item_list l;

    if (pod_list(rpc, req->filter, &l))
        list_reply(rpc->call, &runtime__v1__list_pod_sandbox_stats_response__descriptor, &l);
}

void cri_list_pod_sandbox_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__ListPodSandboxStatsRequest *req = (const void *)m;

    rpc_begin_stats(ud, call, req, pod_matches, req->filter, reply_pod_list);
}

static void stream_pod_list(struct rpc *rpc, const char *id)
{
    const Runtime__V1__StreamPodSandboxStatsRequest *req = rpc->request;
    struct item_list l;

    if (pod_list(rpc, req->filter, &l))
        list_stream(rpc->call, &runtime__v1__stream_pod_sandbox_stats_response__descriptor, &l);
}

void cri_stream_pod_sandbox_stats(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    const Runtime__V1__StreamPodSandboxStatsRequest *req = (const void *)m;

    rpc_begin_stats(ud, call, req, pod_matches, req->filter, stream_pod_list);
}
