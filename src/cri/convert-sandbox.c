/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/validate.h"

#define HANDLER_NAME "nexus-vmm"
#define PORTS_MAX 1024
#define DNS_SERVERS_MAX 32
#define DNS_LIST_MAX 64
#define DNS_WORD_MAX 255

static int metadata(const Runtime__V1__PodSandboxMetadata *m, struct sandbox_spec *ret,
                    struct error **err)
{
    int r;

    if (!m)
        return error_set(err, -EINVAL, "the sandbox has no metadata");
    r = check_name("sandbox name", m->name, LIMIT_NAME_MAX, err);
    if (r >= 0)
        r = check_name("sandbox namespace", m->namespace_, LIMIT_NAME_MAX, err);
    if (r >= 0)
        r = check_name("sandbox uid", m->uid, LIMIT_NAME_MAX, err);
    if (r < 0)
        return r;
    ret->name = str_dup(m->name);
    ret->namespace = str_dup(m->namespace_);
    ret->uid = str_dup(m->uid);
    ret->attempt = m->attempt;
    return 0;
}

static int words(const char *what, char **v, size_t n, size_t max, char ***ret, struct error **err)
{
    if (n > max)
        return error_set(err, -EINVAL, "more than %zu entries in %s", max, what);
    for (size_t i = 0; i < n; i++) {
        int r = check_word(what, v[i], DNS_WORD_MAX, err);
        if (r < 0)
            return r;
        strv_push(ret, v[i]);
    }
    return 0;
}

static int dns(const Runtime__V1__DNSConfig *m, struct dns_spec *ret, struct error **err)
{
    int r = 0;

    if (!m)
        return 0;
    ret->present = true;
    for (size_t i = 0; r >= 0 && i < m->n_servers; i++)
        r = check_ip("DNS server", m->servers[i], err);
    if (r >= 0)
        r = words("DNS servers", m->servers, m->n_servers, DNS_SERVERS_MAX, &ret->servers, err);
    if (r >= 0)
        r = words("DNS searches", m->searches, m->n_searches, DNS_LIST_MAX, &ret->searches, err);
    if (r >= 0)
        r = words("DNS options", m->options, m->n_options, DNS_LIST_MAX, &ret->options, err);
    return r;
}

static bool same_host_port(const struct port_mapping *a, const Runtime__V1__PortMapping *b)
{
    return b->host_port && a->host_port == b->host_port && a->protocol == (int32_t)b->protocol &&
           str_equal(a->host_ip ? a->host_ip : "", b->host_ip);
}

static int port(const Runtime__V1__PortMapping *m, struct sandbox_spec *ret, struct error **err)
{
    struct port_mapping *p;
    int r = check_range("port protocol", (int64_t)m->protocol, 0, 2, err);

    if (r >= 0)
        r = check_range("container_port", m->container_port, m->host_port ? 1 : 0, 65535, err);
    if (r >= 0)
        r = check_range("host_port", m->host_port, 0, 65535, err);
    if (r >= 0 && m->host_ip[0])
        r = check_ip("host_ip", m->host_ip, err);
    for (size_t i = 0; r >= 0 && i < ret->ports.count; i++)
        if (same_host_port(&ret->ports.items[i], m))
            r = error_set(err, -EINVAL, "host port %d is mapped twice", m->host_port);
    if (r < 0)
        return r;
    p = record_list_add(&ret->ports, sizeof(*p));
    p->protocol = (int32_t)m->protocol;
    p->container_port = m->container_port;
    p->host_port = m->host_port;
    p->host_ip = m->host_ip[0] ? str_dup(m->host_ip) : NULL;
    return 0;
}

static int ports(const Runtime__V1__PodSandboxConfig *m, struct sandbox_spec *ret,
                 struct error **err)
{
    int r = 0;

    if (m->n_port_mappings > PORTS_MAX)
        return error_set(err, -EINVAL, "more than %d port mappings", PORTS_MAX);
    for (size_t i = 0; r >= 0 && i < m->n_port_mappings; i++)
        r = port(m->port_mappings[i], ret, err);
    return r;
}

static int sysctls(const Runtime__V1__LinuxPodSandboxConfig *m, key_value_list *ret,
                   struct error **err)
{
    int r = map_from_cri("sysctls", (void *const *)m->sysctls, m->n_sysctls, ret, err);

    for (size_t i = 0; r >= 0 && i < ret->count; i++) {
        r = check_sysctl_name(ret->items[i].key, err);
        if (r >= 0)
            r = check_text("a sysctl value", ret->items[i].value, 1024, err);
        for (char *c = ret->items[i].key; r >= 0 && *c; c++)
            if (*c == '/')
                *c = '.';
        if (r >= 0)
            r = check_sysctl_namespaced(ret->items[i].key, err);
    }
    return r;
}

/* A sandbox has no process of its own: its seccomp profile is checked and has nothing to apply to. */
static int security(const Runtime__V1__LinuxSandboxSecurityContext *m, struct sandbox_spec *ret,
                    struct error **err)
{
    _cleanup_(freep) char *path = NULL;
    int32_t seccomp;
    int r;

    if (!m)
        return 0;
    r = namespaces_from_cri(m->namespace_options, &ret->namespaces, err);
    if (r >= 0 && ret->namespaces.pid == NAMESPACE_TARGET)
        r = error_set(err, -EINVAL, "a sandbox cannot join the PID namespace of a container");
    if (r >= 0)
        r = selinux_check(m->selinux_options, err);
    if (r >= 0)
        r = seccomp_from_cri(m->seccomp, m->seccomp_profile_path, &seccomp, &path, err);
    if (r >= 0)
        r = apparmor_check(m->apparmor, "", err);
    ret->privileged = m->privileged;
    return r;
}

static int linux_part(const Runtime__V1__LinuxPodSandboxConfig *m, struct sandbox_spec *ret,
                      struct error **err)
{
    int r;

    if (!m)
        return 0;
    r = check_text("cgroup_parent", m->cgroup_parent, 4096, err);
    if (r < 0)
        return r;
    ret->cgroup_parent = m->cgroup_parent[0] ? str_dup(m->cgroup_parent) : NULL;
    r = security(m->security_context, ret, err);
    if (r >= 0)
        r = sysctls(m, &ret->sysctls, err);
    if (r >= 0)
        r = resources_from_cri(m->resources, &ret->resources, err);
    if (r >= 0)
        r = resources_from_cri(m->overhead, &ret->overhead, err);
    return r;
}

int sandbox_spec_from_cri(const Runtime__V1__RunPodSandboxRequest *m, struct sandbox_spec *ret,
                          struct error **err)
{
    const Runtime__V1__PodSandboxConfig *c = m->config;
    int r;

    if (!c)
        return error_set(err, -EINVAL, "the request has no sandbox configuration");
    if (m->runtime_handler[0] && !str_equal(m->runtime_handler, HANDLER_NAME))
        return error_set(err, -EINVAL,
                         "runtime handler \"%.64s\" is unknown; there are \"\" and \"" HANDLER_NAME
                         "\"",
                         m->runtime_handler);
    ret->runtime_handler = str_dup(m->runtime_handler);
    r = metadata(c->metadata, ret, err);
    if (r >= 0)
        r = check_hostname("hostname", c->hostname, err);
    if (r >= 0 && c->log_directory[0])
        r = check_absolute_path("log_directory", c->log_directory, err);
    if (r < 0)
        return r;
    ret->hostname = c->hostname[0] ? str_dup(c->hostname) : NULL;
    ret->log_directory = c->log_directory[0] ? str_dup(c->log_directory) : NULL;
    if (c->windows)
        return error_set(err, -EOPNOTSUPP, "this is no Windows node");
    r = dns(c->dns_config, &ret->dns, err);
    if (r >= 0)
        r = ports(c, ret, err);
    if (r >= 0)
        r = map_from_cri("labels", (void *const *)c->labels, c->n_labels, &ret->labels, err);
    if (r >= 0)
        r = map_from_cri("annotations", (void *const *)c->annotations, c->n_annotations,
                         &ret->annotations, err);
    if (r >= 0)
        r = linux_part(c->linux, ret, err);
    return r;
}

/* ---- to CRI */

static Runtime__V1__PodSandboxMetadata *metadata_to_cri(struct arena *a,
                                                        const struct sandbox_spec *s)
{
    Runtime__V1__PodSandboxMetadata *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return NULL;
    runtime__v1__pod_sandbox_metadata__init(m);
    m->name = s->name;
    m->uid = s->uid;
    m->namespace_ = s->namespace;
    m->attempt = s->attempt;
    return m;
}

static Runtime__V1__PodSandboxState state_to_cri(const struct sandbox *s)
{
    return sandbox_is_ready(s) ? RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
                               : RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY;
}

Runtime__V1__PodSandbox *sandbox_to_cri(struct arena *a, const struct sandbox *s)
{
    Runtime__V1__PodSandbox *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return NULL;
    runtime__v1__pod_sandbox__init(m);
    m->id = (char *)(uintptr_t)s->id;
    m->metadata = metadata_to_cri(a, &s->spec);
    m->state = state_to_cri(s);
    m->created_at = (int64_t)s->status.created_at_ns;
    m->labels = map_to_cri(a, &s->spec.labels, &runtime__v1__pod_sandbox__labels_entry__descriptor,
                           &m->n_labels);
    m->annotations =
        map_to_cri(a, &s->spec.annotations,
                   &runtime__v1__pod_sandbox__annotations_entry__descriptor, &m->n_annotations);
    m->runtime_handler = s->spec.runtime_handler ? s->spec.runtime_handler : m->runtime_handler;
    return m->metadata && m->labels && m->annotations ? m : NULL;
}

static Runtime__V1__PodSandboxNetworkStatus *network_to_cri(struct arena *a,
                                                            const struct sandbox *s)
{
    Runtime__V1__PodSandboxNetworkStatus *m = arena_alloc(a, sizeof(*m));
    size_t n = strv_len(s->status.ips);

    if (!m)
        return NULL;
    runtime__v1__pod_sandbox_network_status__init(m);
    if (n == 0)
        return m;
    m->ip = s->status.ips[0];
    m->additional_ips = arena_alloc(a, n * sizeof(*m->additional_ips));
    for (size_t i = 1; m->additional_ips && i < n; i++) {
        Runtime__V1__PodIP *ip = arena_alloc(a, sizeof(*ip));
        if (!ip)
            return NULL;
        runtime__v1__pod_ip__init(ip);
        ip->ip = s->status.ips[i];
        m->additional_ips[m->n_additional_ips++] = ip;
    }
    return m->additional_ips ? m : NULL;
}

static Runtime__V1__LinuxPodSandboxStatus *linux_to_cri(struct arena *a, const struct sandbox *s)
{
    Runtime__V1__LinuxPodSandboxStatus *m = arena_alloc(a, sizeof(*m));
    Runtime__V1__Namespace *n = arena_alloc(a, sizeof(*n));
    Runtime__V1__NamespaceOption *o = arena_alloc(a, sizeof(*o));

    if (!m || !n || !o)
        return NULL;
    runtime__v1__linux_pod_sandbox_status__init(m);
    runtime__v1__namespace__init(n);
    runtime__v1__namespace_option__init(o);
    o->network = (Runtime__V1__NamespaceMode)s->spec.namespaces.network;
    o->pid = (Runtime__V1__NamespaceMode)s->spec.namespaces.pid;
    o->ipc = (Runtime__V1__NamespaceMode)s->spec.namespaces.ipc;
    if (s->spec.namespaces.target_id)
        o->target_id = s->spec.namespaces.target_id;
    n->options = o;
    m->namespaces = n;
    return m;
}

Runtime__V1__PodSandboxStatus *sandbox_status_to_cri(struct arena *a, const struct sandbox *s)
{
    Runtime__V1__PodSandboxStatus *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return NULL;
    runtime__v1__pod_sandbox_status__init(m);
    m->id = (char *)(uintptr_t)s->id;
    m->metadata = metadata_to_cri(a, &s->spec);
    m->state = state_to_cri(s);
    m->created_at = (int64_t)s->status.created_at_ns;
    m->network = network_to_cri(a, s);
    m->linux = linux_to_cri(a, s);
    m->labels =
        map_to_cri(a, &s->spec.labels, &runtime__v1__pod_sandbox_status__labels_entry__descriptor,
                   &m->n_labels);
    m->annotations = map_to_cri(a, &s->spec.annotations,
                                &runtime__v1__pod_sandbox_status__annotations_entry__descriptor,
                                &m->n_annotations);
    m->runtime_handler = s->spec.runtime_handler ? s->spec.runtime_handler : m->runtime_handler;
    return m->metadata && m->network && m->linux && m->labels && m->annotations ? m : NULL;
}
