/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <strings.h>

#include "base/limit.h"
#include "base/str.h"
#include "cri/convert.h"
#include "cri/validate.h"
#include "pod/capability.h"

#define ARGS_MAX 10000
#define ARGS_BYTES_MAX (512U << 10)
#define ENVS_MAX 10000
#define MOUNTS_MAX 1000
#define DEVICES_MAX 64
#define GROUPS_MAX 65536
#define UID_LAST INT32_MAX

static int vector(const char *what, char **v, size_t n, char ***ret, struct error **err)
{
    size_t bytes = 0;

    if (n > ARGS_MAX)
        return error_set(err, -EINVAL, "%s has more than %d elements", what, ARGS_MAX);
    for (size_t i = 0; i < n; i++) {
        bytes += strlen(v[i]) + 1;
        if (bytes > ARGS_BYTES_MAX)
            return error_set(err, -EINVAL, "%s is longer than %u bytes", what, ARGS_BYTES_MAX);
    }
    *ret = xcalloc(n + 1, sizeof(char *));
    for (size_t i = 0; i < n; i++)
        (*ret)[i] = str_dup(v[i]);
    return 0;
}

static int metadata(const Runtime__V1__ContainerConfig *m, struct container_spec *ret,
                    struct error **err)
{
    int r;

    if (!m->metadata)
        return error_set(err, -EINVAL, "the container has no metadata");
    r = check_name("container name", m->metadata->name, LIMIT_NAME_MAX, err);
    if (r < 0)
        return r;
    ret->name = str_dup(m->metadata->name);
    ret->attempt = m->metadata->attempt;
    if (!m->image || !m->image->image[0])
        return error_set(err, -EINVAL, "the container names no image");
    r = check_text("image", m->image->image, LIMIT_REFERENCE_BYTES, err);
    if (r >= 0)
        r = check_text("user_specified_image", m->image->user_specified_image,
                       LIMIT_REFERENCE_BYTES, err);
    if (r < 0)
        return r;
    ret->image = str_dup(m->image->image);
    ret->user_specified_image =
        m->image->user_specified_image[0] ? str_dup(m->image->user_specified_image) : NULL;
    return 0;
}

static int envs(const Runtime__V1__ContainerConfig *m, struct container_spec *ret,
                struct error **err)
{
    if (m->n_envs > ENVS_MAX)
        return error_set(err, -EINVAL, "more than %d environment variables", ENVS_MAX);
    for (size_t i = 0; i < m->n_envs; i++) {
        const Runtime__V1__KeyValue *e = m->envs[i];
        struct key_value *kv;

        if (!e->key[0] || strchr(e->key, '='))
            return error_set(err, -EINVAL, "an environment variable has no name or '=' in it");
        if (e->value.len && memchr(e->value.data, 0, e->value.len))
            return error_set(err, -EINVAL, "environment variable %.64s has a NUL in it", e->key);
        kv = record_list_add(&ret->envs, sizeof(*kv));
        kv->key = str_dup(e->key);
        kv->value = str_ndup(e->value.len ? (const char *)e->value.data : "", e->value.len);
    }
    return 0;
}

static bool is_reserved_target(const char *path)
{
    static const char *const reserved[] = {"/", "/proc", "/sys", "/dev"};

    for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
        if (strcmp(path, reserved[i]) == 0)
            return true;
    return str_starts(path, "/proc/") || str_starts(path, "/sys/");
}

static bool goes_up(const char *path)
{
    return strcmp(path, "..") == 0 || str_starts(path, "../") || strstr(path, "/../") ||
           str_ends(path, "/..");
}

static int check_image(const Runtime__V1__Mount *m, struct error **err)
{
    const char *sub = m->image_sub_path;
    int r = check_word("image of a mount", m->image->image, LIMIT_REFERENCE_BYTES, err);

    if (r >= 0)
        r = check_text("user_specified_image of a mount", m->image->user_specified_image,
                       LIMIT_REFERENCE_BYTES, err);
    if (r >= 0)
        r = check_text("image_sub_path", sub, PATH_MAX - 1, err);
    if (r < 0)
        return r;
    if (m->host_path[0])
        return error_set(err, -EINVAL, "the mount at %s has a host path and an image",
                         m->container_path);
    if (!m->readonly)
        return error_set(err, -EINVAL, "the image at %s has to be mounted read-only",
                         m->container_path);
    if (m->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE)
        return error_set(err, -EINVAL, "the image at %s has to be a private mount",
                         m->container_path);
    if (sub[0] == '/' || goes_up(sub))
        return error_set(err, -EINVAL, "the image at %s: %.256s is no path below it",
                         m->container_path, sub);
    return 0;
}

static void take_source(const Runtime__V1__Mount *m, struct mount_spec *out)
{
    if (!m->image) {
        out->host_path = str_dup(m->host_path);
        return;
    }
    out->image = str_dup(m->image->image);
    if (m->image->user_specified_image[0])
        out->user_specified_image = str_dup(m->image->user_specified_image);
    if (m->image_sub_path[0])
        out->image_sub_path = str_dup(m->image_sub_path);
}

static int mount(const Runtime__V1__Mount *m, struct container_spec *ret, struct error **err)
{
    struct mount_spec *out;
    int r = check_absolute_path("mount's container_path", m->container_path, err);

    if (r < 0)
        return r;
    r = m->image ? check_image(m, err)
                 : check_absolute_path("mount's host_path", m->host_path, err);
    if (r >= 0)
        r = check_range("mount propagation", (int64_t)m->propagation, 0, 2, err);
    if (r < 0)
        return r;
    if (m->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL)
        return error_set(err, -EOPNOTSUPP,
                         "bidirectional mount propagation is not possible: what is mounted in a "
                         "VM is not the host's");
    if (m->image_sub_path[0] && !m->image)
        return error_set(err, -EINVAL, "image_sub_path of %s without an image", m->container_path);
    if (m->n_mount_options)
        return error_set(err, -EOPNOTSUPP, "mount options are not supported");
    if (is_reserved_target(m->container_path))
        return error_set(err, -EINVAL, "nothing can be mounted at %s", m->container_path);
    if (m->recursive_read_only &&
        (!m->readonly || m->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE))
        return error_set(err, -EINVAL,
                         "recursive_read_only needs readonly and private propagation");
    if (m->n_uidmappings || m->n_gidmappings)
        return error_set(err, -EOPNOTSUPP, "id-mapped mounts are not supported");
    for (size_t i = 0; i < ret->mounts.count; i++)
        if (strcmp(ret->mounts.items[i].container_path, m->container_path) == 0)
            return error_set(err, -EINVAL, "two mounts at %s", m->container_path);
    out = record_list_add(&ret->mounts, sizeof(*out));
    out->container_path = str_dup(m->container_path);
    take_source(m, out);
    out->readonly = m->readonly;
    out->propagation = (int32_t)m->propagation;
    out->recursive_read_only = m->recursive_read_only;
    out->selinux_relabel = m->selinux_relabel;
    return 0;
}

static int device(const Runtime__V1__Device *m, struct container_spec *ret, struct error **err)
{
    struct device_spec *out;
    int r = check_absolute_path("device's host_path", m->host_path, err);

    if (r >= 0)
        r = check_absolute_path("device's container_path", m->container_path, err);
    if (r < 0)
        return r;
    if (is_reserved_target(m->container_path))
        return error_set(err, -EINVAL, "no device can be at %s", m->container_path);
    if (strlen(m->permissions) > 3 || strspn(m->permissions, "rwm") != strlen(m->permissions))
        return error_set(err, -EINVAL, "device permissions \"%.16s\" are not of \"rwm\"",
                         m->permissions);
    out = record_list_add(&ret->devices, sizeof(*out));
    out->host_path = str_dup(m->host_path);
    out->container_path = str_dup(m->container_path);
    out->permissions = str_dup(m->permissions);
    return 0;
}

static int devices(const Runtime__V1__ContainerConfig *m, struct container_spec *ret,
                   struct error **err)
{
    int r = 0;

    if (m->n_devices > DEVICES_MAX)
        return error_set(err, -EINVAL, "more than %d devices", DEVICES_MAX);
    for (size_t i = 0; r >= 0 && i < m->n_devices; i++)
        r = device(m->devices[i], ret, err);
    return r;
}

static int mounts(const Runtime__V1__ContainerConfig *m, struct container_spec *ret,
                  struct error **err)
{
    int r = 0;

    if (m->n_mounts > MOUNTS_MAX)
        return error_set(err, -EINVAL, "more than %d mounts", MOUNTS_MAX);
    for (size_t i = 0; r >= 0 && i < m->n_mounts; i++)
        r = mount(m->mounts[i], ret, err);
    if (r >= 0)
        r = devices(m, ret, err);
    if (r >= 0 && m->n_cdi_devices)
        return error_set(err, -EOPNOTSUPP, "CDI devices are not available in a VM");
    return r;
}

static int user(const Runtime__V1__LinuxContainerSecurityContext *m, struct security_spec *ret,
                struct error **err)
{
    int r = 0;

    if (m->run_as_user) {
        r = check_range("run_as_user", m->run_as_user->value, 0, UID_LAST, err);
        ret->has_user = true;
        ret->user = (uint32_t)m->run_as_user->value;
    }
    if (r >= 0 && m->run_as_group) {
        if (!m->run_as_user && !m->run_as_username[0])
            return error_set(err, -EINVAL, "run_as_group without run_as_user or run_as_username");
        r = check_range("run_as_group", m->run_as_group->value, 0, UID_LAST, err);
        ret->has_group = true;
        ret->group = (uint32_t)m->run_as_group->value;
    }
    if (r >= 0 && m->run_as_username[0]) {
        r = check_word("run_as_username", m->run_as_username, 256, err);
        if (r >= 0 && strchr(m->run_as_username, ':'))
            r = error_set(err, -EINVAL, "run_as_username has a ':'");
        ret->username = str_dup(m->run_as_username);
    }
    if (r < 0)
        return r;
    if (m->n_supplemental_groups > GROUPS_MAX)
        return error_set(err, -EINVAL, "more than %d supplemental groups", GROUPS_MAX);
    ret->supplemental_groups.items = xcalloc(m->n_supplemental_groups + 1, sizeof(uint32_t));
    for (size_t i = 0; i < m->n_supplemental_groups; i++) {
        r = check_range("a supplemental group", m->supplemental_groups[i], 0, UID_LAST, err);
        if (r < 0)
            return r;
        ret->supplemental_groups.items[i] = (uint32_t)m->supplemental_groups[i];
        ret->supplemental_groups.count++;
    }
    return 0;
}

static int capability_names(char **v, size_t n, char ***ret, struct error **err)
{
    if (n > 256)
        return error_set(err, -EINVAL, "more than 256 capabilities");
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(v[i], "ALL") != 0 && capability_parse(v[i]) < 0)
            return error_set(err, -EINVAL, "capability \"%.32s\" is unknown", v[i]);
        strv_push(ret, v[i]);
    }
    return 0;
}

static int paths(const char *what, char **v, size_t n, char ***ret, struct error **err)
{
    if (n > 1000)
        return error_set(err, -EINVAL, "more than 1000 %s", what);
    for (size_t i = 0; i < n; i++) {
        int r = check_absolute_path(what, v[i], err);
        if (r < 0)
            return r;
        strv_push(ret, v[i]);
    }
    return 0;
}

static int security(const Runtime__V1__LinuxContainerSecurityContext *m,
                    const struct sandbox_spec *sandbox, struct security_spec *ret,
                    struct error **err)
{
    int r;

    if (!m)
        return 0;
    if (m->privileged && !sandbox->privileged)
        return error_set(err, -EINVAL, "a privileged container needs a privileged sandbox");
    r = check_range("supplemental_groups_policy", (int64_t)m->supplemental_groups_policy,
                    RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Merge,
                    RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict, err);
    if (r < 0)
        return r;
    ret->strict_groups =
        m->supplemental_groups_policy == RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
    r = namespaces_from_cri(m->namespace_options, &ret->namespaces, err);
    if (r >= 0)
        r = selinux_check(m->selinux_options, err);
    if (r >= 0)
        r = seccomp_from_cri(m->seccomp, m->seccomp_profile_path, &ret->seccomp, &ret->seccomp_path,
                             err);
    if (r >= 0)
        r = apparmor_check(m->apparmor, m->apparmor_profile, err);
    if (r >= 0)
        r = user(m, ret, err);
    if (r >= 0 && m->capabilities) {
        const Runtime__V1__Capability *c = m->capabilities;
        ret->has_capabilities = true;
        r = capability_names(c->add_capabilities, c->n_add_capabilities, &ret->add_capabilities,
                             err);
        if (r >= 0)
            r = capability_names(c->drop_capabilities, c->n_drop_capabilities,
                                 &ret->drop_capabilities, err);
        if (r >= 0)
            r = capability_names(c->add_ambient_capabilities, c->n_add_ambient_capabilities,
                                 &ret->ambient_capabilities, err);
    }
    if (r >= 0)
        r = paths("masked_paths", m->masked_paths, m->n_masked_paths, &ret->masked_paths, err);
    if (r >= 0)
        r = paths("readonly_paths", m->readonly_paths, m->n_readonly_paths, &ret->readonly_paths,
                  err);
    ret->privileged = m->privileged;
    ret->readonly_rootfs = m->readonly_rootfs;
    ret->no_new_privs = m->no_new_privs;
    return r;
}

static int process(const Runtime__V1__ContainerConfig *m, struct container_spec *ret,
                   struct error **err)
{
    int r = vector("command", m->command, m->n_command, &ret->command, err);

    if (r >= 0)
        r = vector("args", m->args, m->n_args, &ret->args, err);
    if (r >= 0 && m->working_dir[0])
        r = check_absolute_path("working_dir", m->working_dir, err);
    if (r >= 0 && m->log_path[0])
        r = check_relative_path("log_path", m->log_path, err);
    if (r < 0)
        return r;
    ret->working_dir = m->working_dir[0] ? str_dup(m->working_dir) : NULL;
    ret->log_path = m->log_path[0] ? str_dup(m->log_path) : NULL;
    ret->open_stdin = m->stdin;
    ret->stdin_once = m->stdin_once;
    ret->tty = m->tty;
    ret->stop_signal = signal_from_cri((int)m->stop_signal);
    if (ret->stop_signal < 0)
        return error_set(err, -EINVAL, "stop signal %d is unknown", (int)m->stop_signal);
    return envs(m, ret, err);
}

int container_spec_from_cri(const Runtime__V1__ContainerConfig *m,
                            const struct sandbox_spec *sandbox, struct container_spec *ret,
                            struct error **err)
{
    int r;

    if (!m)
        return error_set(err, -EINVAL, "the request has no container configuration");
    if (m->windows)
        return error_set(err, -EOPNOTSUPP, "this is no Windows node");
    r = metadata(m, ret, err);
    if (r >= 0)
        r = process(m, ret, err);
    if (r >= 0)
        r = mounts(m, ret, err);
    if (r >= 0)
        r = map_from_cri("labels", (void *const *)m->labels, m->n_labels, &ret->labels, err);
    if (r >= 0)
        r = map_from_cri("annotations", (void *const *)m->annotations, m->n_annotations,
                         &ret->annotations, err);
    if (r >= 0 && m->linux)
        r = resources_from_cri(m->linux->resources, &ret->resources, err);
    if (r >= 0 && m->linux)
        r = security(m->linux->security_context, sandbox, &ret->security, err);
    return r;
}

/* ---- to CRI */

static Runtime__V1__ContainerMetadata *metadata_to_cri(struct arena *a,
                                                       const struct container_spec *s)
{
    Runtime__V1__ContainerMetadata *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return NULL;
    runtime__v1__container_metadata__init(m);
    m->name = s->name;
    m->attempt = s->attempt;
    return m;
}

static Runtime__V1__ImageSpec *image_to_cri(struct arena *a, const struct container *c)
{
    Runtime__V1__ImageSpec *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return NULL;
    runtime__v1__image_spec__init(m);
    m->image = c->spec.image;
    if (c->spec.user_specified_image)
        m->user_specified_image = c->spec.user_specified_image;
    return m;
}

Runtime__V1__Container *container_to_cri(struct arena *a, const struct container *c)
{
    Runtime__V1__Container *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return NULL;
    runtime__v1__container__init(m);
    m->id = (char *)(uintptr_t)c->id;
    m->pod_sandbox_id = c->sandbox->id;
    m->metadata = metadata_to_cri(a, &c->spec);
    m->image = image_to_cri(a, c);
    m->image_ref = c->status.image_ref;
    m->image_id = c->status.image_id;
    m->state = (Runtime__V1__ContainerState)container_cri_state(c);
    m->created_at = (int64_t)c->status.created_at_ns;
    m->labels = map_to_cri(a, &c->spec.labels, &runtime__v1__container__labels_entry__descriptor,
                           &m->n_labels);
    m->annotations =
        map_to_cri(a, &c->spec.annotations, &runtime__v1__container__annotations_entry__descriptor,
                   &m->n_annotations);
    return m->metadata && m->image && m->labels && m->annotations ? m : NULL;
}

static int mounted_image_to_cri(struct arena *a, const struct container *c,
                                const struct mount_spec *from, Runtime__V1__Mount *to)
{
    const struct image_mount *found = container_image_mount(c, from->container_path);
    Runtime__V1__ImageSpec *m = arena_alloc(a, sizeof(*m));

    if (!m)
        return -ENOMEM;
    runtime__v1__image_spec__init(m);
    m->image = from->image;
    if (from->user_specified_image)
        m->user_specified_image = from->user_specified_image;
    if (found)
        m->image_ref = found->image_id;
    to->image = m;
    if (from->image_sub_path)
        to->image_sub_path = from->image_sub_path;
    return 0;
}

static int mounts_to_cri(struct arena *a, const struct container *c,
                         Runtime__V1__ContainerStatus *m)
{
    const struct container_spec *s = &c->spec;

    m->mounts = arena_alloc(a, (s->mounts.count + 1) * sizeof(*m->mounts));
    for (size_t i = 0; m->mounts && i < s->mounts.count; i++) {
        const struct mount_spec *from = &s->mounts.items[i];
        Runtime__V1__Mount *to = arena_alloc(a, sizeof(*to));

        if (!to)
            return -ENOMEM;
        runtime__v1__mount__init(to);
        to->container_path = from->container_path;
        if (from->host_path)
            to->host_path = from->host_path;
        else if (mounted_image_to_cri(a, c, from, to) < 0)
            return -ENOMEM;
        to->readonly = from->readonly;
        to->propagation = (Runtime__V1__MountPropagation)from->propagation;
        to->recursive_read_only = from->recursive_read_only;
        to->selinux_relabel = from->selinux_relabel;
        m->mounts[m->n_mounts++] = to;
    }
    return m->mounts ? 0 : -ENOMEM;
}

static Runtime__V1__ContainerResources *resources_to_cri(struct arena *a,
                                                         const struct resources_spec *s)
{
    Runtime__V1__ContainerResources *m = arena_alloc(a, sizeof(*m));
    Runtime__V1__LinuxContainerResources *l = arena_alloc(a, sizeof(*l));

    if (!m || !l)
        return NULL;
    runtime__v1__container_resources__init(m);
    runtime__v1__linux_container_resources__init(l);
    l->cpu_period = s->cpu_period_us;
    l->cpu_quota = s->cpu_quota_us;
    l->cpu_shares = s->cpu_shares;
    l->memory_limit_in_bytes = s->memory_limit_bytes;
    l->memory_swap_limit_in_bytes = s->memory_swap_limit_bytes;
    l->oom_score_adj = s->oom_score_adj;
    if (s->cpuset_cpus)
        l->cpuset_cpus = s->cpuset_cpus;
    if (s->cpuset_mems)
        l->cpuset_mems = s->cpuset_mems;
    l->unified = map_to_cri(a, &s->unified,
                            &runtime__v1__linux_container_resources__unified_entry__descriptor,
                            &l->n_unified);
    m->linux = l;
    return l->unified ? m : NULL;
}

/* As the guest has told it, so not before the start. The primary group is one of the groups, first, as
 * kubelet's documentation has it. */
static int user_to_cri(struct arena *a, const struct container_status *s,
                       Runtime__V1__ContainerStatus *m)
{
    Runtime__V1__ContainerUser *user;
    Runtime__V1__LinuxContainerUser *l;

    if (!s->has_user)
        return 0;
    user = arena_alloc(a, sizeof(*user));
    l = arena_alloc(a, sizeof(*l));
    if (!user || !l)
        return -ENOMEM;
    runtime__v1__container_user__init(user);
    runtime__v1__linux_container_user__init(l);
    l->uid = s->uid;
    l->gid = s->gid;
    l->supplemental_groups = arena_alloc(a, (s->groups.count + 1) * sizeof(int64_t));
    if (!l->supplemental_groups)
        return -ENOMEM;
    l->supplemental_groups[l->n_supplemental_groups++] = s->gid;
    for (size_t i = 0; i < s->groups.count; i++)
        if (s->groups.items[i] != s->gid)
            l->supplemental_groups[l->n_supplemental_groups++] = s->groups.items[i];
    user->linux = l;
    m->user = user;
    return 0;
}

Runtime__V1__ContainerStatus *container_status_to_cri(struct arena *a, const struct container *c)
{
    Runtime__V1__ContainerStatus *m = arena_alloc(a, sizeof(*m));
    const struct container_status *s = &c->status;

    if (!m)
        return NULL;
    runtime__v1__container_status__init(m);
    m->id = (char *)(uintptr_t)c->id;
    m->metadata = metadata_to_cri(a, &c->spec);
    m->state = (Runtime__V1__ContainerState)container_cri_state(c);
    m->created_at = (int64_t)s->created_at_ns;
    m->started_at = (int64_t)s->started_at_ns;
    if (m->state == RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED) {
        m->finished_at = (int64_t)s->finished_at_ns;
        m->exit_code = s->exit_code;
        m->reason = s->reason ? s->reason : m->reason;
        m->message = s->message ? s->message : m->message;
    }
    m->image = image_to_cri(a, c);
    m->image_ref = s->image_ref;
    m->image_id = s->image_id;
    if (s->log_path)
        m->log_path = s->log_path;
    m->stop_signal = (Runtime__V1__Signal)signal_to_cri(s->stop_signal);
    m->resources = resources_to_cri(a, &c->spec.resources);
    m->labels = map_to_cri(a, &c->spec.labels,
                           &runtime__v1__container_status__labels_entry__descriptor, &m->n_labels);
    m->annotations = map_to_cri(a, &c->spec.annotations,
                                &runtime__v1__container_status__annotations_entry__descriptor,
                                &m->n_annotations);
    if (mounts_to_cri(a, c, m) < 0 || user_to_cri(a, s, m) < 0)
        return NULL;
    return m->metadata && m->image && m->resources && m->labels && m->annotations ? m : NULL;
}
