/* SPDX-License-Identifier: Apache-2.0 */
/* From the model to the messages that the guest gets: sandbox settings, container specs. Everything is
 * built in one arena; whatever does not fit is a clean error. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/str.h"
#include "net/tap.h"
#include "pod/capability.h"
#include "pod/node-internal.h"

/* kubelet tells the place with every container; without it the mount at its default is the one */
#define TERMINATION_PATH_ANNOTATION "io.kubernetes.container.terminationMessagePath"
#define TERMINATION_PATH_DEFAULT "/dev/termination-log"
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#define NEW(a, type, init)                         \
    __extension__({                                \
        type *new_ = arena_alloc(a, sizeof(type)); \
        if (new_)                                  \
            init(new_);                            \
        new_;                                      \
    })

static int no_memory(struct error **err)
{
    return error_set(err, -E2BIG, "the settings are too large");
}

/* ---- sandbox */

static void add_line(struct buf *b, const char *key, char *const *values)
{
    if (!values || !*values)
        return;
    (void)buf_printf(b, "%s", key);
    for (; *values; values++)
        (void)buf_printf(b, " %s", *values);
    (void)buf_printf(b, "\n");
}

/* No DNS settings: those of the node, read in the step files. */
static int resolv_conf(struct arena *a, const struct sandbox *s, ProtobufCBinaryData *ret,
                       struct error **err)
{
    const struct dns_spec *dns = &s->spec.dns;
    _cleanup_(buf_done) struct buf b;

    buf_init(&b, GUEST_FILE_BYTES);
    if (dns->present) {
        add_line(&b, "search", dns->searches);
        for (char *const *d = dns->servers; d && *d; d++)
            (void)buf_printf(&b, "nameserver %s\n", *d);
        add_line(&b, "options", dns->options);
    } else if (s->files.resolv_conf) {
        (void)buf_append(&b, s->files.resolv_conf, s->files.resolv_conf_len);
    }
    ret->len = b.used;
    ret->data = b.used ? arena_memdup(a, b.data, b.used) : NULL;
    return b.used && !ret->data ? no_memory(err) : 0;
}

static Nexus__Interface *interface(struct arena *a, const struct net_config *net)
{
    Nexus__Interface *i = NEW(a, Nexus__Interface, nexus__interface__init);

    if (!i)
        return NULL;
    i->name = arena_strdup(a, CNI_IFNAME);
    i->mac = arena_strdup(a, net->mac);
    i->mtu = net->mtu;
    i->addresses = arena_alloc(a, (net->n_addresses + 1) * sizeof(char *));
    i->routes = arena_alloc(a, (net->n_routes + 1) * sizeof(Nexus__Route *));
    if (!i->name || !i->mac || !i->addresses || !i->routes)
        return NULL;
    for (size_t k = 0; k < net->n_addresses; k++) {
        i->addresses[k] = arena_strdup(a, net->addresses[k]);
        if (!i->addresses[k])
            return NULL;
    }
    i->n_addresses = net->n_addresses;
    for (size_t k = 0; k < net->n_routes; k++) {
        Nexus__Route *r = NEW(a, Nexus__Route, nexus__route__init);
        if (!r)
            return NULL;
        r->destination = arena_strdup(a, net->routes[k].destination);
        r->gateway = arena_strdup(a, net->routes[k].gateway);
        r->metric = net->routes[k].metric;
        if (!r->destination || !r->gateway)
            return NULL;
        i->routes[k] = r;
    }
    i->n_routes = net->n_routes;
    return i;
}

static int sysctls(struct arena *a, const key_value_list *l, Nexus__SandboxConfig *c)
{
    c->sysctls = arena_alloc(a, (l->count + 1) * sizeof(Nexus__Sysctl *));
    for (size_t i = 0; c->sysctls && i < l->count; i++) {
        Nexus__Sysctl *s = NEW(a, Nexus__Sysctl, nexus__sysctl__init);
        if (!s)
            return -ENOMEM;
        s->name = arena_strdup(a, l->items[i].key);
        s->value = arena_strdup(a, l->items[i].value);
        if (!s->name || !s->value)
            return -ENOMEM;
        c->sysctls[c->n_sysctls++] = s;
    }
    return c->sysctls ? 0 : -ENOMEM;
}

/* A pod without a host name of its own is called by its name, as far as that fits. */
static char *host_name(struct arena *a, const struct sandbox_spec *spec)
{
    const char *name = spec->hostname && spec->hostname[0] ? spec->hostname : spec->name;

    return arena_printf(a, "%.63s", name);
}

Nexus__SandboxConfig *guest_sandbox_config(struct arena *a, const struct sandbox *s,
                                           const struct net_config *net, struct error **err)
{
    Nexus__SandboxConfig *c = NEW(a, Nexus__SandboxConfig, nexus__sandbox_config__init);

    if (!c) {
        (void)no_memory(err);
        return NULL;
    }
    c->hostname = host_name(a, &s->spec);
    if (resolv_conf(a, s, &c->resolv_conf, err) < 0)
        return NULL;
    c->interfaces = arena_alloc(a, sizeof(Nexus__Interface *));
    if (c->interfaces)
        c->interfaces[0] = interface(a, net);
    if (!c->hostname || !c->interfaces || !c->interfaces[0] ||
        sysctls(a, &s->spec.sysctls, c) < 0) {
        (void)no_memory(err);
        return NULL;
    }
    c->n_interfaces = 1;
    return c;
}

/* ---- container: mounts as small files */

static int refuse_mount(const struct mount_spec *m, const char *why, struct error **err)
{
    return error_set(
        err, -EOPNOTSUPP,
        "mount of %s at %s: %s; a VM gets Secret, ConfigMap, projected and downward API "
        "volumes, and regular files up to 64 KiB",
        m->host_path, m->container_path, why);
}

int guest_check_mount(const struct mount_spec *m, struct error **err)
{
    struct stat st;

    if (stat(m->host_path, &st) < 0)
        return error_set_class(err, ERROR_INVALID, -errno, "mount of %s at %s: %s", m->host_path,
                               m->container_path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return refuse_mount(m, "it is a directory of the host", err);
    if (!S_ISREG(st.st_mode))
        return refuse_mount(m, "it is no regular file", err);
    if (st.st_size > (off_t)GUEST_FILE_BYTES)
        return refuse_mount(m, "it is larger than that", err);
    return 0;
}

bool guest_mount_is_volume(const struct container *c, const struct mount_spec *m)
{
    if (m->image || container_share_at(c, (size_t)(m - c->spec.mounts.items)))
        return true;
    for (size_t i = 0; i < c->status.volumes.count; i++)
        if (str_equal(c->status.volumes.items[i].destination, m->container_path))
            return true;
    return false;
}

const struct mount_spec *guest_termination_mount(const struct container *c)
{
    const char *path = key_value_get(&c->spec.annotations, TERMINATION_PATH_ANNOTATION);

    if (!path)
        path = TERMINATION_PATH_DEFAULT;
    for (size_t i = 0; i < c->spec.mounts.count; i++) {
        const struct mount_spec *m = &c->spec.mounts.items[i];

        if (!m->readonly && strcmp(m->container_path, path) == 0 && !guest_mount_is_volume(c, m))
            return m;
    }
    return NULL;
}

static Nexus__InlineFile *inline_file(struct arena *a, const struct mount_spec *m,
                                      const struct copied_file *from)
{
    Nexus__InlineFile *f = NEW(a, Nexus__InlineFile, nexus__inline_file__init);

    if (!f)
        return NULL;
    f->path = arena_strdup(a, m->container_path);
    f->content.len = from->len;
    f->content.data = (uint8_t *)from->bytes;
    f->mode = from->mode;
    f->readonly = m->readonly;
    return f->path ? f : NULL;
}

static int files(struct arena *a, const struct container *c, const struct copied_file *copied,
                 Nexus__ContainerSpec *out, struct error **err)
{
    const struct mount_spec *termination = guest_termination_mount(c);
    size_t n = c->spec.mounts.count;

    out->files = arena_alloc(a, (n + 1) * sizeof(Nexus__InlineFile *));
    for (size_t i = 0; out->files && i < n; i++) {
        const struct mount_spec *m = &c->spec.mounts.items[i];
        Nexus__InlineFile *f;

        if (guest_mount_is_volume(c, m))
            continue;
        f = inline_file(a, m, &copied[i]);
        if (!f)
            return no_memory(err);
        f->comes_back = m == termination;
        out->files[out->n_files++] = f;
    }
    return out->files ? 0 : no_memory(err);
}

/* ---- container: mapped volumes */

static Nexus__VolumeMount *volume_mount(struct arena *a, const struct container_volume *ref,
                                        const struct pod_volume *v)
{
    Nexus__VolumeMount *m = NEW(a, Nexus__VolumeMount, nexus__volume_mount__init);

    if (!m)
        return NULL;
    m->volume = arena_strdup(a, v->rec.name);
    m->region = arena_strdup(a, v->rec.region);
    m->part = arena_strdup(a, v->rec.name);
    m->live = v->rec.live;
    m->destination = arena_strdup(a, ref->destination);
    return m->volume && m->region && m->part && m->destination ? m : NULL;
}

/* All of an image, or what is below a path in it. */
static Nexus__VolumeMount *image_volume(struct arena *a, const struct mount_spec *spec,
                                        const struct image_mount *image)
{
    Nexus__VolumeMount *m = NEW(a, Nexus__VolumeMount, nexus__volume_mount__init);

    if (!m)
        return NULL;
    m->volume = arena_strdup(a, "image");
    m->region = arena_strdup(a, image->image_id);
    m->destination = arena_strdup(a, spec->container_path);
    if (spec->image_sub_path)
        m->sub_path = arena_strdup(a, spec->image_sub_path);
    return m->volume && m->region && m->destination && m->sub_path ? m : NULL;
}

static int image_volumes(struct arena *a, const struct container *c, Nexus__ContainerSpec *out,
                         struct error **err)
{
    for (size_t i = 0; i < c->spec.mounts.count; i++) {
        const struct mount_spec *m = &c->spec.mounts.items[i];
        const struct image_mount *image =
            m->image ? container_image_mount(c, m->container_path) : NULL;

        if (!image)
            continue;
        out->volumes[out->n_volumes] = image_volume(a, m, image);
        if (!out->volumes[out->n_volumes++])
            return no_memory(err);
    }
    return 0;
}

/* Part of the pod's share, where the host has seen to what is read-only; or memory of the guest. */
static Nexus__VolumeMount *shared_volume(struct arena *a, const struct mount_spec *spec,
                                         const struct container_share *share)
{
    Nexus__VolumeMount *m = NEW(a, Nexus__VolumeMount, nexus__volume_mount__init);

    if (!m)
        return NULL;
    m->share = share->kind == SHARE_HOST;
    m->volume = arena_strdup(a, m->share ? "share" : share->name);
    m->destination = arena_strdup(a, spec->container_path);
    m->writable = !spec->recursive_read_only && (m->share || !spec->readonly);
    if (m->share)
        m->part = arena_strdup(a, share->name);
    else
        m->memory_bytes = share->bytes ? share->bytes : UINT64_MAX;
    m->mode = share->mode;
    m->gid = share->gid;
    return m->volume && m->destination && m->part ? m : NULL;
}

static int shared_volumes(struct arena *a, const struct container *c, Nexus__ContainerSpec *out,
                          struct error **err)
{
    for (size_t i = 0; i < c->spec.mounts.count; i++) {
        const struct container_share *share = container_share_at(c, i);

        if (!share)
            continue;
        out->volumes[out->n_volumes] = shared_volume(a, &c->spec.mounts.items[i], share);
        if (!out->volumes[out->n_volumes++])
            return no_memory(err);
    }
    return 0;
}

static int volumes(struct arena *a, const struct container *c, Nexus__ContainerSpec *out,
                   struct error **err)
{
    size_t n = c->status.volumes.count;

    out->volumes = arena_alloc(a, (n + c->spec.mounts.count + 1) * sizeof(Nexus__VolumeMount *));
    for (size_t i = 0; out->volumes && i < n; i++) {
        const struct container_volume *ref = &c->status.volumes.items[i];
        const struct pod_volume *v = volume_by_name(c->sandbox, ref->volume);

        if (!v || !v->rec.region)
            return error_set(err, -ESTALE, "mount at %s: its volume is gone", ref->destination);
        out->volumes[out->n_volumes] = volume_mount(a, ref, v);
        if (!out->volumes[out->n_volumes++])
            return no_memory(err);
    }
    if (!out->volumes)
        return no_memory(err);
    return image_volumes(a, c, out, err) < 0 ? -EINVAL : shared_volumes(a, c, out, err);
}

/* ---- container: process */

static char **copy_vector(struct arena *a, char *const *v, size_t *ret_n)
{
    size_t n = strv_len(v);
    char **copy = arena_alloc(a, (n + 1) * sizeof(char *));

    for (size_t i = 0; copy && i < n; i++)
        if (!(copy[i] = arena_strdup(a, v[i])))
            return NULL;
    *ret_n = n;
    return copy;
}

/* command replaces the entrypoint and drops the image's cmd; args replace cmd. */
static int arguments(struct arena *a, const struct container_spec *spec,
                     const struct oci_process *image, Nexus__ProcessSpec *p, struct error **err)
{
    char *const *first = spec->command && *spec->command ? spec->command : image->entrypoint;
    char *const *second = spec->args && *spec->args ? spec->args : NULL;
    size_t n1 = 0, n2 = 0;
    char **one, **two;

    if (!second && !(spec->command && *spec->command))
        second = image->cmd;
    one = copy_vector(a, first, &n1);
    two = copy_vector(a, second, &n2);
    p->args = arena_alloc(a, (n1 + n2 + 1) * sizeof(char *));
    if (!one || !two || !p->args)
        return no_memory(err);
    memcpy(p->args, one, n1 * sizeof(char *));
    memcpy(p->args + n1, two, n2 * sizeof(char *));
    p->n_args = n1 + n2;
    if (p->n_args == 0 || (!p->args[0][0] && p->n_args == 1))
        return error_set_class(err, ERROR_INVALID, -EINVAL,
                               "no command: neither the container nor its image names one");
    return 0;
}

static bool sets_variable(const char *entry, const char *key)
{
    size_t n = strlen(key);

    return strncmp(entry, key, n) == 0 && entry[n] == '=';
}

static int set_variable(struct arena *a, Nexus__ProcessSpec *p, const char *key, const char *value)
{
    char *entry = arena_printf(a, "%s=%s", key, value);

    if (!entry)
        return -ENOMEM;
    for (size_t i = 0; i < p->n_env; i++)
        if (sets_variable(p->env[i], key)) {
            p->env[i] = entry;
            return 0;
        }
    p->env[p->n_env++] = entry;
    return 0;
}

static bool has_variable(const Nexus__ProcessSpec *p, const char *key)
{
    for (size_t i = 0; i < p->n_env; i++)
        if (sets_variable(p->env[i], key))
            return true;
    return false;
}

static int environment(struct arena *a, const struct container *c, Nexus__ProcessSpec *p,
                       struct error **err)
{
    const struct oci_process *image = &c->image->process;
    char *host = host_name(a, &c->sandbox->spec);
    size_t n = 0;
    char **base = copy_vector(a, image->env, &n);
    int r = 0;

    p->env = arena_alloc(a, (n + c->spec.envs.count + 4) * sizeof(char *));
    if (!base || !p->env || !host)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        if (strchr(base[i], '='))
            p->env[p->n_env++] = base[i];
    if (!has_variable(p, "PATH"))
        r = set_variable(a, p, "PATH", DEFAULT_PATH);
    if (r >= 0)
        r = set_variable(a, p, "HOSTNAME", host);
    if (r >= 0 && c->spec.tty && !has_variable(p, "TERM"))
        r = set_variable(a, p, "TERM", "xterm");
    for (size_t i = 0; r >= 0 && i < c->spec.envs.count; i++)
        r = set_variable(a, p, c->spec.envs.items[i].key, c->spec.envs.items[i].value);
    return r < 0 ? no_memory(err) : 0;
}

static Nexus__User *user(struct arena *a, const struct container *c)
{
    const struct security_spec *s = &c->spec.security;
    Nexus__User *u = NEW(a, Nexus__User, nexus__user__init);

    if (!u)
        return NULL;
    u->image_user = arena_strdup(a, c->image->process.user ? c->image->process.user : "");
    u->has_uid = s->has_user;
    u->uid = s->user;
    u->username = arena_strdup(a, s->username ? s->username : "");
    u->has_gid = s->has_group;
    u->gid = s->group;
    u->n_supplemental_groups = s->supplemental_groups.count;
    u->strict_groups = s->strict_groups;
    u->supplemental_groups = arena_memdup(a, s->supplemental_groups.items,
                                          s->supplemental_groups.count * sizeof(uint32_t));
    return u->image_user && u->username && (u->supplemental_groups || !u->n_supplemental_groups)
               ? u
               : NULL;
}

static uint64_t capability_set(char *const *names)
{
    uint64_t set = 0;

    for (; names && *names; names++) {
        int bit = capability_parse(*names);
        if (strcasecmp(*names, "ALL") == 0)
            set = capability_all();
        else if (bit >= 0)
            set |= 1ULL << bit;
    }
    return set;
}

uint64_t guest_capabilities(const struct security_spec *s)
{
    uint64_t add = capability_set(s->add_capabilities);
    uint64_t drop = capability_set(s->drop_capabilities);

    if (s->privileged)
        return capability_all();
    if (drop == capability_all()) /* "drop ALL, add X": X stays */
        return add;
    return (capability_default() & ~drop) | (add == capability_all() ? add & ~drop : add);
}

static void capabilities(const struct security_spec *s, Nexus__ProcessSpec *p)
{
    p->has_capabilities = true;
    p->capabilities = guest_capabilities(s);
    p->ambient_capabilities = capability_set(s->ambient_capabilities) & p->capabilities;
}

static Nexus__ProcessSpec *process(struct arena *a, const struct container *c, struct error **err)
{
    const struct oci_process *image = &c->image->process;
    Nexus__ProcessSpec *p = NEW(a, Nexus__ProcessSpec, nexus__process_spec__init);
    const char *cwd =
        c->spec.working_dir && c->spec.working_dir[0] ? c->spec.working_dir : image->working_dir;

    if (!p) {
        (void)no_memory(err);
        return NULL;
    }
    if (arguments(a, &c->spec, image, p, err) < 0 || environment(a, c, p, err) < 0)
        return NULL;
    p->cwd = arena_strdup(a, cwd && cwd[0] ? cwd : "/");
    p->user = user(a, c);
    p->tty = c->spec.tty;
    p->no_new_privs = c->spec.security.no_new_privs;
    p->oom_score_adj = (int32_t)c->spec.resources.oom_score_adj;
    capabilities(&c->spec.security, p);
    if (!p->cwd || !p->user) {
        (void)no_memory(err);
        return NULL;
    }
    return p;
}

Nexus__Resources *guest_resources(struct arena *a, const struct resources_spec *s)
{
    Nexus__Resources *r = NEW(a, Nexus__Resources, nexus__resources__init);

    if (!r)
        return NULL;
    r->memory_limit_bytes = s->memory_limit_bytes;
    r->cpu_quota_us = s->cpu_quota_us;
    r->cpu_period_us = s->cpu_period_us;
    r->cpu_shares = (uint64_t)s->cpu_shares;
    r->cpuset_cpus = arena_strdup(a, s->cpuset_cpus ? s->cpuset_cpus : "");
    r->memory_swap_limit_bytes = s->memory_swap_limit_bytes;
    return r->cpuset_cpus ? r : NULL;
}

const char *guest_device_name(const char *host_path)
{
    static const char *const names[] = {"null", "zero", "full", "random", "urandom", "tty"};

    for (size_t i = 0; str_starts(host_path, "/dev/") && i < ARRAY_SIZE(names); i++)
        if (str_equal(host_path + strlen("/dev/"), names[i]))
            return names[i];
    return NULL;
}

static int devices(struct arena *a, const struct container *c, Nexus__ContainerSpec *out)
{
    size_t n = c->spec.devices.count;

    out->devices = arena_alloc(a, (n + 1) * sizeof(Nexus__DeviceNode *));
    for (size_t i = 0; out->devices && i < n; i++) {
        const struct device_spec *d = &c->spec.devices.items[i];
        Nexus__DeviceNode *node = NEW(a, Nexus__DeviceNode, nexus__device_node__init);

        if (!node)
            return -ENOMEM;
        node->name = arena_strdup(a, guest_device_name(d->host_path));
        node->path = arena_strdup(a, d->container_path);
        if (!node->name || !node->path)
            return -ENOMEM;
        out->devices[out->n_devices++] = node;
    }
    return out->devices ? 0 : -ENOMEM;
}

static int modules(struct arena *a, const struct container *c, Nexus__ContainerSpec *out)
{
    const char *lists[MODULE_LISTS_MAX];
    size_t n = c->has_modules ? container_module_lists(c, lists) : 0;

    out->modules = arena_alloc(a, (n + 1) * sizeof(Nexus__ModuleList *));
    for (size_t i = 0; out->modules && i < n; i++) {
        Nexus__ModuleList *m = NEW(a, Nexus__ModuleList, nexus__module_list__init);

        if (!m)
            return -ENOMEM;
        m->list = arena_strdup(a, lists[i]);
        m->region = arena_strdup(a, MODULES_REGION);
        if (!m->list || !m->region)
            return -ENOMEM;
        out->modules[out->n_modules++] = m;
    }
    return out->modules ? 0 : -ENOMEM;
}

Nexus__ContainerSpec *guest_container_spec(struct arena *a, const struct container *c,
                                           const struct container_files *f, struct error **err)
{
    const struct security_spec *s = &c->spec.security;
    Nexus__ContainerSpec *out = NEW(a, Nexus__ContainerSpec, nexus__container_spec__init);

    if (!out) {
        (void)no_memory(err);
        return NULL;
    }
    out->process = process(a, c, err);
    if (!out->process || files(a, c, f->copied, out, err) < 0 || volumes(a, c, out, err) < 0)
        return NULL;
    out->id = arena_strdup(a, c->id);
    out->name = arena_strdup(a, c->spec.name);
    out->readonly_rootfs = s->readonly_rootfs;
    out->resources = guest_resources(a, &c->spec.resources);
    out->open_stdin = c->spec.open_stdin;
    out->stdin_once = c->spec.stdin_once;
    out->share_pod_pids = s->namespaces.pid == NAMESPACE_POD || s->namespaces.pid == NAMESPACE_NODE;
    out->privileged = s->privileged;
    out->pids_of =
        arena_strdup(a, s->namespaces.pid == NAMESPACE_TARGET ? s->namespaces.target_id : "");
    /* privileged: nothing is hidden and nothing forbidden */
    out->masked_paths =
        copy_vector(a, s->privileged ? NULL : s->masked_paths, &out->n_masked_paths);
    out->readonly_paths =
        copy_vector(a, s->privileged ? NULL : s->readonly_paths, &out->n_readonly_paths);
    out->seccomp.data = f->seccomp;
    out->seccomp.len = f->seccomp_len;
    if (devices(a, c, out) < 0 || modules(a, c, out) < 0 || !out->pids_of || !out->id ||
        !out->name || !out->resources || !out->masked_paths || !out->readonly_paths) {
        (void)no_memory(err);
        return NULL;
    }
    return out;
}
