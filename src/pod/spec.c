/* SPDX-License-Identifier: Apache-2.0 */
#include "pod/spec.h"

#include <string.h>

#include "base/str.h"

static const struct record_field key_value_fields[] = {
    RECORD_FIELD(STR, key_value, key),
    RECORD_FIELD(STR, key_value, value),
};
const struct record_desc key_value_desc = RECORD_DESC(key_value, key_value_fields);

static const struct record_field namespace_fields[] = {
    RECORD_FIELD(I32, namespace_options, network),
    RECORD_FIELD(I32, namespace_options, pid),
    RECORD_FIELD(I32, namespace_options, ipc),
    RECORD_FIELD(STR, namespace_options, target_id),
};
static const struct record_desc namespace_desc = RECORD_DESC(namespace_options, namespace_fields);

static const struct record_field port_fields[] = {
    RECORD_FIELD(I32, port_mapping, protocol),
    RECORD_FIELD(I32, port_mapping, container_port),
    RECORD_FIELD(I32, port_mapping, host_port),
    RECORD_FIELD(STR, port_mapping, host_ip),
};
static const struct record_desc port_desc = RECORD_DESC(port_mapping, port_fields);

static const struct record_field resources_fields[] = {
    RECORD_FIELD(I64, resources_spec, cpu_period_us),
    RECORD_FIELD(I64, resources_spec, cpu_quota_us),
    RECORD_FIELD(I64, resources_spec, cpu_shares),
    RECORD_FIELD(I64, resources_spec, memory_limit_bytes),
    RECORD_FIELD(I64, resources_spec, oom_score_adj),
    RECORD_FIELD(STR, resources_spec, cpuset_cpus),
    RECORD_FIELD(STR, resources_spec, cpuset_mems),
    RECORD_FIELD(I64, resources_spec, memory_swap_limit_bytes),
    RECORD_SUB(LIST, resources_spec, unified, key_value_desc),
};
const struct record_desc resources_spec_desc = RECORD_DESC(resources_spec, resources_fields);

static const struct record_field dns_fields[] = {
    RECORD_FIELD(BOOL, dns_spec, present),
    RECORD_FIELD(STRV, dns_spec, servers),
    RECORD_FIELD(STRV, dns_spec, searches),
    RECORD_FIELD(STRV, dns_spec, options),
};
static const struct record_desc dns_desc = RECORD_DESC(dns_spec, dns_fields);

static const struct record_field sandbox_spec_fields[] = {
    RECORD_FIELD(STR, sandbox_spec, name),
    RECORD_FIELD(STR, sandbox_spec, uid),
    RECORD_FIELD(STR, sandbox_spec, namespace),
    RECORD_FIELD(U32, sandbox_spec, attempt),
    RECORD_FIELD(STR, sandbox_spec, runtime_handler),
    RECORD_FIELD(STR, sandbox_spec, hostname),
    RECORD_FIELD(STR, sandbox_spec, log_directory),
    RECORD_FIELD(STR, sandbox_spec, cgroup_parent),
    RECORD_SUB(LIST, sandbox_spec, labels, key_value_desc),
    RECORD_SUB(LIST, sandbox_spec, annotations, key_value_desc),
    RECORD_SUB(STRUCT, sandbox_spec, dns, dns_desc),
    RECORD_SUB(LIST, sandbox_spec, ports, port_desc),
    RECORD_SUB(LIST, sandbox_spec, sysctls, key_value_desc),
    RECORD_SUB(STRUCT, sandbox_spec, namespaces, namespace_desc),
    RECORD_FIELD(BOOL, sandbox_spec, privileged),
    RECORD_SUB(STRUCT, sandbox_spec, resources, resources_spec_desc),
    RECORD_SUB(STRUCT, sandbox_spec, overhead, resources_spec_desc),
};
const struct record_desc sandbox_spec_desc = RECORD_DESC(sandbox_spec, sandbox_spec_fields);

static const struct record_field mount_fields[] = {
    RECORD_FIELD(STR, mount_spec, container_path),
    RECORD_FIELD(STR, mount_spec, host_path),
    RECORD_FIELD(BOOL, mount_spec, readonly),
    RECORD_FIELD(BOOL, mount_spec, recursive_read_only),
    RECORD_FIELD(I32, mount_spec, propagation),
    RECORD_FIELD(BOOL, mount_spec, selinux_relabel),
    RECORD_FIELD(STR, mount_spec, image),
    RECORD_FIELD(STR, mount_spec, user_specified_image),
    RECORD_FIELD(STR, mount_spec, image_sub_path),
};
static const struct record_desc mount_desc = RECORD_DESC(mount_spec, mount_fields);

static const struct record_field device_fields[] = {
    RECORD_FIELD(STR, device_spec, host_path),
    RECORD_FIELD(STR, device_spec, container_path),
    RECORD_FIELD(STR, device_spec, permissions),
};
static const struct record_desc device_desc = RECORD_DESC(device_spec, device_fields);

static const struct record_field security_fields[] = {
    RECORD_FIELD(BOOL, security_spec, privileged),
    RECORD_SUB(STRUCT, security_spec, namespaces, namespace_desc),
    RECORD_FIELD(BOOL, security_spec, has_user),
    RECORD_FIELD(U32, security_spec, user),
    RECORD_FIELD(BOOL, security_spec, has_group),
    RECORD_FIELD(U32, security_spec, group),
    RECORD_FIELD(STR, security_spec, username),
    RECORD_FIELD(U32V, security_spec, supplemental_groups),
    RECORD_FIELD(BOOL, security_spec, strict_groups),
    RECORD_FIELD(BOOL, security_spec, readonly_rootfs),
    RECORD_FIELD(BOOL, security_spec, no_new_privs),
    RECORD_FIELD(BOOL, security_spec, has_capabilities),
    RECORD_FIELD(STRV, security_spec, add_capabilities),
    RECORD_FIELD(STRV, security_spec, drop_capabilities),
    RECORD_FIELD(STRV, security_spec, ambient_capabilities),
    RECORD_FIELD(STRV, security_spec, masked_paths),
    RECORD_FIELD(STRV, security_spec, readonly_paths),
    RECORD_FIELD(I32, security_spec, seccomp),
    RECORD_FIELD(STR, security_spec, seccomp_path),
};
static const struct record_desc security_desc = RECORD_DESC(security_spec, security_fields);

static const struct record_field container_spec_fields[] = {
    RECORD_FIELD(STR, container_spec, name),
    RECORD_FIELD(U32, container_spec, attempt),
    RECORD_FIELD(STR, container_spec, image),
    RECORD_FIELD(STR, container_spec, user_specified_image),
    RECORD_FIELD(STRV, container_spec, command),
    RECORD_FIELD(STRV, container_spec, args),
    RECORD_FIELD(STR, container_spec, working_dir),
    RECORD_SUB(LIST, container_spec, envs, key_value_desc),
    RECORD_SUB(LIST, container_spec, mounts, mount_desc),
    RECORD_SUB(LIST, container_spec, devices, device_desc),
    RECORD_SUB(LIST, container_spec, labels, key_value_desc),
    RECORD_SUB(LIST, container_spec, annotations, key_value_desc),
    RECORD_FIELD(STR, container_spec, log_path),
    RECORD_FIELD(BOOL, container_spec, open_stdin),
    RECORD_FIELD(BOOL, container_spec, stdin_once),
    RECORD_FIELD(BOOL, container_spec, tty),
    RECORD_FIELD(I32, container_spec, stop_signal),
    RECORD_SUB(STRUCT, container_spec, resources, resources_spec_desc),
    RECORD_SUB(STRUCT, container_spec, security, security_desc),
};
const struct record_desc container_spec_desc = RECORD_DESC(container_spec, container_spec_fields);

void sandbox_spec_clear(struct sandbox_spec *s)
{
    record_clear(&sandbox_spec_desc, s);
}

void container_spec_clear(struct container_spec *s)
{
    record_clear(&container_spec_desc, s);
}

void key_value_add(key_value_list *l, const char *key, const char *value)
{
    struct key_value *kv = record_list_add(l, sizeof(*kv));

    kv->key = str_dup(key);
    kv->value = str_dup(value);
}

const char *key_value_get(const key_value_list *l, const char *key)
{
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->items[i].key, key) == 0)
            return l->items[i].value;
    return NULL;
}

static int compare(const void *a, const void *b)
{
    const struct key_value *x = a, *y = b;

    return strcmp(x->key, y->key);
}

void key_value_sort(key_value_list *l)
{
    if (l->count)
        qsort(l->items, l->count, sizeof(*l->items), compare);
}

bool key_value_contains(const key_value_list *l, const key_value_list *want)
{
    for (size_t i = 0; i < want->count; i++) {
        const char *value = key_value_get(l, want->items[i].key);
        if (!value || strcmp(value, want->items[i].value) != 0)
            return false;
    }
    return true;
}
