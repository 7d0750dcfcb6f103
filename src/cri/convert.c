/* SPDX-License-Identifier: Apache-2.0 */
/* What sandboxes and containers share. */
#include "cri/convert.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cri/validate.h"
#include "pod/signal-name.h"

#define MAP_ENTRIES_MAX 10000
#define MAP_BYTES_MAX (512U << 10)

/* ---- maps */

int map_from_cri(const char *what, void *const *entries, size_t n, key_value_list *ret,
                 struct error **err)
{
    size_t bytes = 0;

    if (n > MAP_ENTRIES_MAX)
        return error_set(err, -EINVAL, "%s has more than %d entries", what, MAP_ENTRIES_MAX);
    for (size_t i = 0; i < n; i++) {
        const struct map_entry *e = entries[i];

        bytes += strlen(e->key) + strlen(e->value);
        if (bytes > MAP_BYTES_MAX)
            return error_set(err, -EINVAL, "%s is larger than %u bytes", what, MAP_BYTES_MAX);
        if (!e->key[0])
            return error_set(err, -EINVAL, "%s has an empty key", what);
        key_value_add(ret, e->key, e->value);
    }
    key_value_sort(ret); /* stable for what matters: equal keys on the wire are a client's fault */
    for (size_t i = 1; i < ret->count; i++)
        if (strcmp(ret->items[i - 1].key, ret->items[i].key) == 0)
            return error_set(err, -EINVAL, "%s has a key twice", what);
    return 0;
}

void *map_to_cri(struct arena *a, const key_value_list *l, const ProtobufCMessageDescriptor *type,
                 size_t *ret_n)
{
    struct map_entry **entries = arena_alloc(a, (l->count + 1) * sizeof(*entries));

    for (size_t i = 0; entries && i < l->count; i++) {
        entries[i] = arena_alloc(a, type->sizeof_message);
        if (!entries[i])
            return NULL;
        protobuf_c_message_init(type, entries[i]);
        entries[i]->key = l->items[i].key;
        entries[i]->value = l->items[i].value;
    }
    *ret_n = l->count;
    return entries;
}

/* ---- signals: by the names of the generated enum */

static int parse_enum_name(const char *name)
{
    char text[32];
    const char *rest = name + strlen("SIGNAL_SIG");

    if (!str_starts(name, "SIGNAL_SIG"))
        return 0; /* RUNTIME_DEFAULT */
    if (str_starts(rest, "RTMINPLUS"))
        (void)snprintf(text, sizeof(text), "RTMIN+%s", rest + strlen("RTMINPLUS"));
    else if (str_starts(rest, "RTMAXMINUS"))
        (void)snprintf(text, sizeof(text), "RTMAX-%s", rest + strlen("RTMAXMINUS"));
    else
        (void)snprintf(text, sizeof(text), "%s", rest);
    return signal_parse(text);
}

int signal_from_cri(int value)
{
    const ProtobufCEnumValue *v =
        protobuf_c_enum_descriptor_get_value(&runtime__v1__signal__descriptor, value);

    return v ? parse_enum_name(v->name) : -EINVAL;
}

int signal_to_cri(int signal)
{
    const ProtobufCEnumDescriptor *d = &runtime__v1__signal__descriptor;

    for (unsigned i = 0; signal > 0 && i < d->n_values; i++)
        if (parse_enum_name(d->values[i].name) == signal)
            return d->values[i].value;
    return 0;
}

/* ---- namespaces, resources, security profiles */

static int check_mode(const char *what, int mode, struct error **err)
{
    return mode >= NAMESPACE_POD && mode <= NAMESPACE_TARGET
               ? 0
               : error_set(err, -EINVAL, "%s namespace mode %d is unknown", what, mode);
}

int namespaces_from_cri(const Runtime__V1__NamespaceOption *m, struct namespace_options *ret,
                        struct error **err)
{
    if (!m)
        return 0;
    if (check_mode("network", (int)m->network, err) < 0 ||
        check_mode("pid", (int)m->pid, err) < 0 || check_mode("ipc", (int)m->ipc, err) < 0)
        return -EINVAL;
    if ((int)m->network == NAMESPACE_NODE)
        return error_set(err, -EOPNOTSUPP,
                         "hostNetwork is not possible: the pod runs in a VM with its own kernel");
    if ((int)m->ipc == NAMESPACE_NODE)
        return error_set(err, -EOPNOTSUPP,
                         "hostIPC is not possible: the pod runs in a VM with its own kernel");
    if ((int)m->pid == NAMESPACE_TARGET && !m->target_id[0])
        return error_set(err, -EINVAL, "PID namespace mode TARGET without a target_id");
    if ((int)m->network != NAMESPACE_POD || (int)m->ipc != NAMESPACE_POD)
        return error_set(err, -EOPNOTSUPP,
                         "network and IPC namespaces are the pod's: other modes are not supported");
    if (m->userns_options && (int)m->userns_options->mode != NAMESPACE_NODE)
        return error_set(err, -EOPNOTSUPP,
                         "user namespaces (hostUsers: false) are not supported; the pod has a "
                         "kernel of its own");
    ret->network = (int32_t)m->network;
    ret->pid = (int32_t)m->pid;
    ret->ipc = (int32_t)m->ipc;
    ret->target_id = m->target_id[0] ? str_dup(m->target_id) : NULL;
    return 0;
}

static int check_resources(const Runtime__V1__LinuxContainerResources *m, struct error **err)
{
    int r = check_range("cpu_period", m->cpu_period, 0, 1000000, err);

    if (r >= 0 && m->cpu_quota > 0)
        r = check_range("cpu_period", m->cpu_period, 1000, 1000000, err);
    if (r >= 0)
        r = check_range("cpu_quota", m->cpu_quota, -1, INT64_C(1) << 40, err);
    if (r >= 0)
        r = check_range("cpu_shares", m->cpu_shares, 0, 262144, err);
    if (r >= 0)
        r = check_range("memory_limit_in_bytes", m->memory_limit_in_bytes, 0, INT64_C(1) << 50,
                        err);
    if (r >= 0)
        r = check_range("memory_swap_limit_in_bytes", m->memory_swap_limit_in_bytes, -1,
                        INT64_C(1) << 50, err);
    if (r >= 0)
        r = check_range("oom_score_adj", m->oom_score_adj, -1000, 1000, err);
    if (r >= 0)
        r = check_cpu_list("cpuset_cpus", m->cpuset_cpus, err);
    if (r >= 0)
        r = check_cpu_list("cpuset_mems", m->cpuset_mems, err);
    for (size_t i = 0; r >= 0 && i < m->n_hugepage_limits; i++)
        if (m->hugepage_limits[i]->limit > 0)
            r = error_set(err, -EOPNOTSUPP, "huge pages are not supported");
    for (size_t i = 0; r >= 0 && i < m->n_unified; i++)
        if (!str_equal(m->unified[i]->key, "memory.oom.group") ||
            !str_equal(m->unified[i]->value, "1"))
            r = error_set(err, -EOPNOTSUPP, "cgroup setting %.64s=%.64s is not supported",
                          m->unified[i]->key, m->unified[i]->value);
    return r;
}

int resources_from_cri(const Runtime__V1__LinuxContainerResources *m, struct resources_spec *ret,
                       struct error **err)
{
    int r;

    if (!m)
        return 0;
    r = check_resources(m, err);
    if (r < 0)
        return r;
    ret->cpu_period_us = m->cpu_period;
    ret->cpu_quota_us = m->cpu_quota;
    ret->cpu_shares = m->cpu_shares;
    ret->memory_limit_bytes = m->memory_limit_in_bytes;
    ret->memory_swap_limit_bytes = m->memory_swap_limit_in_bytes;
    ret->oom_score_adj = m->oom_score_adj;
    ret->cpuset_cpus = m->cpuset_cpus[0] ? str_dup(m->cpuset_cpus) : NULL;
    ret->cpuset_mems = m->cpuset_mems[0] ? str_dup(m->cpuset_mems) : NULL;
    return map_from_cri("unified", (void *const *)m->unified, m->n_unified, &ret->unified, err);
}

static int localhost(const char *path, int32_t *ret_mode, char **ret_path, struct error **err)
{
    int r = check_absolute_path("the seccomp profile's path", path, err);

    if (r < 0)
        return r;
    *ret_mode = SECCOMP_LOCALHOST;
    *ret_path = str_dup(path);
    return 0;
}

static int seccomp_path_from_cri(const char *path, int32_t *ret_mode, char **ret_path,
                                 struct error **err)
{
    if (!path[0] || str_equal(path, "unconfined"))
        *ret_mode = SECCOMP_UNCONFINED;
    else if (str_equal(path, "runtime/default") || str_equal(path, "docker/default"))
        *ret_mode = SECCOMP_DEFAULT;
    else if (str_starts(path, "localhost/"))
        return localhost(path + strlen("localhost/"), ret_mode, ret_path, err);
    else
        return error_set(err, -EINVAL, "seccomp profile \"%.128s\" is unknown", path);
    return 0;
}

int seccomp_from_cri(const Runtime__V1__SecurityProfile *m, const char *path, int32_t *ret_mode,
                     char **ret_path, struct error **err)
{
    const char *ref;

    if (!m)
        return seccomp_path_from_cri(path, ret_mode, ret_path, err);
    ref = m->localhost_ref;
    if ((int)m->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost)
        return localhost(str_starts(ref, "localhost/") ? ref + strlen("localhost/") : ref, ret_mode,
                         ret_path, err);
    if ((int)m->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault)
        *ret_mode = SECCOMP_DEFAULT;
    else if ((int)m->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined)
        *ret_mode = SECCOMP_UNCONFINED;
    else
        return error_set(err, -EINVAL, "seccomp profile type %d is unknown", (int)m->profile_type);
    return 0;
}

int apparmor_check(const Runtime__V1__SecurityProfile *m, const char *path, struct error **err)
{
    const char *name = path;

    if (m && (int)m->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined)
        return 0;
    if (!m && (!path[0] || str_equal(path, "unconfined")))
        return 0;
    if (m)
        name = (int)m->profile_type == RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault
                   ? "runtime/default"
                   : m->localhost_ref;
    return error_set(err, -EOPNOTSUPP,
                     "AppArmor profile %.128s: AppArmor is not supported, a VM has a kernel of its "
                     "own, without the node's profiles",
                     name);
}

int selinux_check(const Runtime__V1__SELinuxOption *m, struct error **err)
{
    if (!m || (!m->user[0] && !m->role[0] && !m->type[0] && !m->level[0]))
        return 0;
    return error_set(err, -EOPNOTSUPP, "SELinux labels of the host cannot be applied in a VM");
}
