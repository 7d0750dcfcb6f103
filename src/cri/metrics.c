/* SPDX-License-Identifier: Apache-2.0 */
/* ListMetricDescriptors, ListPodSandboxMetrics, StreamPodSandboxMetrics: the numbers of stats.c under the names
 * that cAdvisor gave them. Two tables say what there is: of containers, and of a pod's network. A number
 * that was not told is left out. */
#include <stddef.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "cri/list.h"
#include "pod/stats.h"

#define LABELS_MAX 9
#define US_PER_S 1000000U
#define NS_PER_S 1000000000U
#define INTERFACE "eth0"
#define DISK "scratch"

static const char *const base_labels[] = {"id", "name", "image", "container", "pod", "namespace"};
#define BASE_LABELS ARRAY_SIZE(base_labels)

/* One metric with one or two series. */
struct metric {
    const char *name, *help;
    bool counter;
    const char *labels[4]; /* beside the base */
    bool (*get)(const struct container *c, const struct metric *m, unsigned series, uint64_t *ret);
    unsigned kinds[2];        /* of the series, for get_number */
    unsigned divisor;         /* 0: 1 */
    unsigned n_series;        /* 0: 1 */
    const char *values[2][3]; /* of labels, by series */
};

/* ---- containers */

static bool get_number(const struct container *c, const struct metric *m, unsigned series,
                       uint64_t *ret)
{
    if (!numbers_get(container_numbers(c), m->kinds[series], ret))
        return false;
    if (m->divisor)
        *ret /= m->divisor;
    return true;
}

static bool get_last_seen(const struct container *c, const struct metric *m, unsigned series,
                          uint64_t *ret)
{
    *ret = container_numbers(c)->time_ns / NS_PER_S;
    return true;
}

static bool get_start(const struct container *c, const struct metric *m, unsigned series,
                      uint64_t *ret)
{
    *ret = c->status.started_at_ns / NS_PER_S;
    return true;
}

static bool get_working_set(const struct container *c, const struct metric *m, unsigned series,
                            uint64_t *ret)
{
    return numbers_working_set(container_numbers(c), ret);
}

/* 0: as many as there can be. */
static bool get_threads_max(const struct container *c, const struct metric *m, unsigned series,
                            uint64_t *ret)
{
    if (!numbers_get(container_numbers(c), STATS(TASKS_MAX), ret))
        *ret = 0;
    return true;
}

static bool get_period(const struct container *c, const struct metric *m, unsigned series,
                       uint64_t *ret)
{
    int64_t us = c->spec.resources.cpu_period_us;

    *ret = us > 0 ? (uint64_t)us : 100000;
    return true;
}

static bool get_quota(const struct container *c, const struct metric *m, unsigned series,
                      uint64_t *ret)
{
    *ret = (uint64_t)c->spec.resources.cpu_quota_us;
    return c->spec.resources.cpu_quota_us > 0;
}

static bool get_shares(const struct container *c, const struct metric *m, unsigned series,
                       uint64_t *ret)
{
    *ret = c->spec.resources.cpu_shares > 0 ? (uint64_t)c->spec.resources.cpu_shares : 1024;
    return true;
}

/* 0: none. */
static bool get_limit(const struct container *c, const struct metric *m, unsigned series,
                      uint64_t *ret)
{
    *ret = (uint64_t)c->spec.resources.memory_limit_bytes;
    return true;
}

static bool get_swap_limit(const struct container *c, const struct metric *m, unsigned series,
                           uint64_t *ret)
{
    int64_t both = c->spec.resources.memory_swap_limit_bytes;

    *ret = both > 0 ? (uint64_t)both : 0;
    return true;
}

#define COUNTER .counter = true
#define NUMBER(kind) .get = get_number, .kinds = {STATS(kind)}
#define OF_DISK .labels = {"device"}, .values = {{DISK}}

static const struct metric container_metrics[] = {
    {"container_blkio_device_usage_total", "Bytes read from and written to devices", COUNTER,
     .labels = {"device", "operation"}, .get = get_number,
     .kinds = {STATS(IO_READ_BYTES), STATS(IO_WRITE_BYTES)}, .n_series = 2,
     .values = {{DISK, "Read"}, {DISK, "Write"}}},
    {"container_cpu_cfs_periods_total", "Periods of the CPU quota that passed", COUNTER,
     NUMBER(CPU_PERIODS)},
    {"container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota was used up",
     COUNTER, NUMBER(CPU_THROTTLED_PERIODS)},
    {"container_cpu_cfs_throttled_seconds_total", "Time in which the CPU quota was used up",
     COUNTER, NUMBER(CPU_THROTTLED_US), .divisor = US_PER_S},
    {"container_cpu_system_seconds_total", "CPU time of the guest's kernel", COUNTER,
     NUMBER(CPU_SYSTEM_US), .divisor = US_PER_S},
    {"container_cpu_usage_seconds_total", "CPU time", COUNTER, NUMBER(CPU_US), .divisor = US_PER_S},
    {"container_cpu_user_seconds_total", "CPU time of programs", COUNTER, NUMBER(CPU_USER_US),
     .divisor = US_PER_S},
    {"container_file_descriptors", "Open files of the container's processes", NUMBER(OPEN_FILES)},
    {"container_fs_inodes_free", "Free inodes of the pod's scratch disk", OF_DISK,
     NUMBER(DISK_FREE_INODES)},
    {"container_fs_inodes_total", "Inodes of the pod's scratch disk", OF_DISK,
     NUMBER(DISK_ALL_INODES)},
    {"container_fs_limit_bytes", "Size of the pod's scratch disk", OF_DISK,
     NUMBER(DISK_LIMIT_BYTES)},
    {"container_fs_reads_bytes_total", "Bytes read from devices", COUNTER, OF_DISK,
     NUMBER(IO_READ_BYTES)},
    {"container_fs_reads_total", "Reads from devices", COUNTER, OF_DISK, NUMBER(IO_READS)},
    {"container_fs_usage_bytes", "Size of the writable layer", OF_DISK, NUMBER(DISK_BYTES)},
    {"container_fs_writes_bytes_total", "Bytes written to devices", COUNTER, OF_DISK,
     NUMBER(IO_WRITE_BYTES)},
    {"container_fs_writes_total", "Writes to devices", COUNTER, OF_DISK, NUMBER(IO_WRITES)},
    {"container_last_seen", "When the guest told these numbers, in seconds since the epoch",
     .get = get_last_seen},
    {"container_memory_cache", "Memory with pages of files", NUMBER(MEMORY_FILE)},
    {"container_memory_failcnt", "How often the memory limit was hit", COUNTER,
     NUMBER(MEMORY_LIMIT_HITS)},
    {"container_memory_failures_total", "Page faults", COUNTER, .labels = {"failure_type", "scope"},
     .get = get_number, .kinds = {STATS(PAGE_FAULTS), STATS(MAJOR_PAGE_FAULTS)}, .n_series = 2,
     .values = {{"pgfault", "container"}, {"pgmajfault", "container"}}},
    {"container_memory_kernel_usage", "Memory of the guest's kernel for the container",
     NUMBER(MEMORY_KERNEL)},
    {"container_memory_mapped_file", "Memory with mapped pages of files",
     NUMBER(MEMORY_FILE_MAPPED)},
    {"container_memory_max_usage_bytes", "Most memory ever used", NUMBER(MEMORY_PEAK)},
    {"container_memory_rss", "Anonymous memory", NUMBER(MEMORY_ANON)},
    {"container_memory_swap", "Memory that is swapped out", NUMBER(SWAP)},
    {"container_memory_usage_bytes", "Memory, with all caches", NUMBER(MEMORY)},
    {"container_memory_working_set_bytes", "Memory without inactive pages of files",
     .get = get_working_set},
    {"container_oom_events_total", "Processes that were killed for the memory limit", COUNTER,
     NUMBER(OOM_KILLS)},
    {"container_processes", "Processes of the container", NUMBER(PROCESSES)},
    {"container_sockets", "Open sockets of the container's processes", NUMBER(OPEN_SOCKETS)},
    {"container_spec_cpu_period", "Period of the CPU quota in microseconds", .get = get_period},
    {"container_spec_cpu_quota", "CPU quota in microseconds", .get = get_quota},
    {"container_spec_cpu_shares", "CPU shares", .get = get_shares},
    {"container_spec_memory_limit_bytes", "Memory limit; 0: none", .get = get_limit},
    {"container_spec_memory_swap_limit_bytes", "Limit of memory and swap together; 0: none",
     .get = get_swap_limit},
    {"container_start_time_seconds", "When the container was started, in seconds since the epoch",
     .get = get_start},
    {"container_threads", "Threads in the container", NUMBER(TASKS)},
    {"container_threads_max", "Most threads in the container; 0: no limit", .get = get_threads_max},
};

/* ---- the pod's network: what the TAP sends, the pod receives */

#define NET(field) offsetof(struct if_counters, field)

static const struct {
    const char *name, *help;
    size_t offset;
} network_metrics[] = {
    {"container_network_receive_bytes_total", "Bytes received", NET(tx_bytes)},
    {"container_network_receive_errors_total", "Errors in receiving", NET(tx_errors)},
    {"container_network_receive_packets_dropped_total", "Packets not received", NET(tx_dropped)},
    {"container_network_receive_packets_total", "Packets received", NET(tx_packets)},
    {"container_network_transmit_bytes_total", "Bytes sent", NET(rx_bytes)},
    {"container_network_transmit_errors_total", "Errors in sending", NET(rx_errors)},
    {"container_network_transmit_packets_dropped_total", "Packets not sent", NET(rx_dropped)},
    {"container_network_transmit_packets_total", "Packets sent", NET(rx_packets)},
};

/* ---- descriptors */

static Runtime__V1__MetricDescriptor *descriptor(struct arena *a, const char *name,
                                                 const char *help, const char *const *labels)
{
    Runtime__V1__MetricDescriptor *m =
        MESSAGE(a, Runtime__V1__MetricDescriptor, runtime__v1__metric_descriptor__init);

    if (!m)
        return NULL;
    m->name = text_of(name);
    m->help = text_of(help);
    m->label_keys = arena_alloc(a, LABELS_MAX * sizeof(char *));
    for (size_t i = 0; m->label_keys && i < BASE_LABELS; i++)
        m->label_keys[m->n_label_keys++] = text_of(base_labels[i]);
    for (size_t i = 0; m->label_keys && labels[i]; i++)
        m->label_keys[m->n_label_keys++] = text_of(labels[i]);
    return m->label_keys ? m : NULL;
}

void cri_list_metric_descriptors(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    static const char *const interface[] = {"interface", NULL};
    struct arena *a = grpc_call_arena(call);
    struct item_list l;
    int r = item_list_init(&l, a, ARRAY_SIZE(container_metrics) + ARRAY_SIZE(network_metrics));

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(container_metrics); i++)
        r = item_list_add(&l, descriptor(a, container_metrics[i].name, container_metrics[i].help,
                                         container_metrics[i].labels));
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(network_metrics); i++)
        r = item_list_add(
            &l, descriptor(a, network_metrics[i].name, network_metrics[i].help, interface));
    if (r < 0)
        rpc_no_memory(call);
    else
        list_reply(call, &runtime__v1__list_metric_descriptors_response__descriptor, &l);
}

/* ---- values */

/* The base's values, with room for more. NULL: no memory. */
static char **labels_of(struct arena *a, const struct sandbox *s, const struct container *c)
{
    char **v = arena_alloc(a, LABELS_MAX * sizeof(*v));

    if (!v)
        return NULL;
    v[0] = text_of(c ? c->id : s->id);
    v[1] = text_of(c ? c->spec.name : s->spec.name);
    v[2] = text_of(c ? c->spec.image : "");
    v[3] = text_of(c ? c->spec.name : "");
    v[4] = s->spec.name;
    v[5] = s->spec.namespace;
    return v;
}

static char **with_labels(struct arena *a, char **base, const char *const *more, size_t n)
{
    char **v = n ? arena_alloc(a, LABELS_MAX * sizeof(*v)) : base;

    if (!v || n == 0)
        return v;
    memcpy(v, base, BASE_LABELS * sizeof(*v));
    for (size_t i = 0; i < n; i++)
        v[BASE_LABELS + i] = text_of(more[i]);
    return v;
}

static Runtime__V1__Metric *metric(struct arena *a, const char *name, bool counter,
                                   uint64_t time_ns, uint64_t value, char **labels, size_t n_more)
{
    Runtime__V1__Metric *m = MESSAGE(a, Runtime__V1__Metric, runtime__v1__metric__init);
    Runtime__V1__UInt64Value *v =
        MESSAGE(a, Runtime__V1__UInt64Value, runtime__v1__uint64_value__init);

    if (!m || !v || !labels)
        return NULL;
    v->value = value;
    m->name = text_of(name);
    m->timestamp = time_ns > INT64_MAX ? INT64_MAX : (int64_t)time_ns;
    m->metric_type = counter ? RUNTIME__V1__METRIC_TYPE__COUNTER : RUNTIME__V1__METRIC_TYPE__GAUGE;
    m->label_values = labels;
    m->n_label_values = BASE_LABELS + n_more;
    m->value = v;
    return m;
}

static size_t label_count(const struct metric *m)
{
    size_t n = 0;

    while (m->labels[n])
        n++;
    return n;
}

static int add_metric(struct arena *a, struct item_list *l, const struct container *c,
                      const struct metric *m, char **base)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < (m->n_series ? m->n_series : 1); i++) {
        size_t n = label_count(m);
        uint64_t value;

        if (m->get(c, m, i, &value))
            r = item_list_add(l, metric(a, m->name, m->counter, container_numbers(c)->time_ns,
                                        value, with_labels(a, base, m->values[i], n), n));
    }
    return r;
}

static Runtime__V1__ContainerMetrics *container_metrics_of(struct arena *a,
                                                           const struct container *c)
{
    Runtime__V1__ContainerMetrics *m =
        MESSAGE(a, Runtime__V1__ContainerMetrics, runtime__v1__container_metrics__init);
    char **base = labels_of(a, c->sandbox, c);
    struct item_list l;
    int r = item_list_init(&l, a, 2 * ARRAY_SIZE(container_metrics));

    for (size_t i = 0; m && base && r == 0 && i < ARRAY_SIZE(container_metrics); i++)
        r = add_metric(a, &l, c, &container_metrics[i], base);
    if (!m || !base || r < 0)
        return NULL;
    m->container_id = text_of(c->id);
    m->metrics = (Runtime__V1__Metric **)l.items;
    m->n_metrics = l.n;
    return m;
}

static int add_network(struct arena *a, const struct sandbox *s, struct item_list *l)
{
    static const char *const interface[] = {INTERFACE};
    const struct host_numbers *host = sandbox_host_numbers(s);
    char **labels = labels_of(a, s, NULL);
    int r = labels ? 0 : -ENOMEM;

    if (!host || !host->has_net || r < 0)
        return r;
    labels = with_labels(a, labels, interface, 1);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(network_metrics); i++) {
        uint64_t value;

        memcpy(&value, (const char *)&host->net + network_metrics[i].offset, sizeof(value));
        r = item_list_add(
            l, metric(a, network_metrics[i].name, true, host->time_ns, value, labels, 1));
    }
    return r;
}

static Runtime__V1__PodSandboxMetrics *pod_metrics_of(struct arena *a, struct sandbox *s)
{
    Runtime__V1__PodSandboxMetrics *m =
        MESSAGE(a, Runtime__V1__PodSandboxMetrics, runtime__v1__pod_sandbox_metrics__init);
    struct item_list own, containers;
    int r = m ? item_list_init(&own, a, ARRAY_SIZE(network_metrics)) : -ENOMEM;

    if (r == 0)
        r = item_list_for_containers(&containers, a, s);
    if (r == 0)
        r = add_network(a, s, &own);
    for (struct container *c = NULL; r == 0 && (c = sandbox_next_container(s, c));)
        if (container_cri_state(c) == CONTAINER_CRI_RUNNING && container_numbers(c))
            r = item_list_add(&containers, container_metrics_of(a, c));
    if (r < 0)
        return NULL;
    m->pod_sandbox_id = text_of(s->id);
    m->metrics = (Runtime__V1__Metric **)own.items;
    m->n_metrics = own.n;
    m->container_metrics = (Runtime__V1__ContainerMetrics **)containers.items;
    m->n_container_metrics = containers.n;
    return m;
}

static bool is_ready(const struct sandbox *s, const void *arg)
{
    return sandbox_is_ready(s);
}

static bool metric_list(struct rpc *rpc, struct item_list *l)
{
    struct arena *a = grpc_call_arena(rpc->call);
    struct sandbox *s = NULL;
    int r = item_list_init(l, a, node_sandbox_count(rpc->cri->node));

    while (r == 0 && (s = node_next_sandbox(rpc->cri->node, s)))
        if (sandbox_is_ready(s))
            r = item_list_add(l, pod_metrics_of(a, s));
    if (r < 0)
        rpc_no_memory(rpc->call);
    return r == 0;
}

static void reply_list(struct rpc *rpc, const char *id)
{
    struct item_list l;

    if (metric_list(rpc, &l))
        list_reply(rpc->call, &runtime__v1__list_pod_sandbox_metrics_response__descriptor, &l);
}

static void reply_stream(struct rpc *rpc, const char *id)
{
    struct item_list l;

    if (metric_list(rpc, &l))
        list_stream(rpc->call, &runtime__v1__stream_pod_sandbox_metrics_response__descriptor, &l);
}

void cri_list_pod_sandbox_metrics(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    rpc_begin_stats(ud, call, NULL, is_ready, NULL, reply_list);
}

void cri_stream_pod_sandbox_metrics(struct grpc_call *call, const ProtobufCMessage *m, void *ud)
{
    RPC_SCOPE(call);
    rpc_begin_stats(ud, call, NULL, is_ready, NULL, reply_stream);
}
