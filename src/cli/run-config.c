/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/run-config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/numparse.h"
#include "base/str.h"

#define CPU_PERIOD_US 100000
#define MEMORY_MAX (1ULL << 44)
#define HOSTNAME_MAX 63

/* A message of that type in the arena, at its defaults. */
#define MAKE(a, type, init)                     \
    __extension__({                             \
        type *m_ = arena_alloc(a, sizeof(*m_)); \
        if (m_)                                 \
            init(m_);                           \
        m_;                                     \
    })

int parse_cpus(const char *text, uint32_t *ret)
{
    const char *dot = strchr(text, '.');
    _cleanup_(freep) char *whole = dot ? str_ndup(text, (size_t)(dot - text)) : str_dup(text);
    uint32_t n, fraction = 0;

    if (parse_u32(whole, 1024, &n) < 0)
        return -EINVAL;
    if (dot) {
        size_t digits = strlen(dot + 1);

        if (digits < 1 || digits > 3 || parse_u32(dot + 1, 999, &fraction) < 0)
            return -EINVAL;
        for (; digits < 3; digits++)
            fraction *= 10;
    }
    n = n * 1000 + fraction;
    if (n < 1 || n > 1024000)
        return -EINVAL;
    *ret = n;
    return 0;
}

static int parse_port_number(const char *text, int32_t *ret)
{
    uint32_t n;

    if (parse_u32(text, 65535, &n) < 0 || n == 0)
        return -EINVAL;
    *ret = (int32_t)n;
    return 0;
}

int parse_port(struct arena *a, const char *text, Runtime__V1__PortMapping *ret)
{
    char *copy = arena_strdup(a, text), *slash, *colon;

    if (!copy)
        return -ENOMEM;
    slash = strchr(copy, '/');
    if (slash) {
        *slash++ = '\0';
        if (strcmp(slash, "udp") == 0)
            ret->protocol = RUNTIME__V1__PROTOCOL__UDP;
        else if (strcmp(slash, "sctp") == 0)
            ret->protocol = RUNTIME__V1__PROTOCOL__SCTP;
        else if (strcmp(slash, "tcp") != 0)
            return -EINVAL;
    }
    colon = strrchr(copy, ':');
    if (!colon || parse_port_number(colon + 1, &ret->container_port) < 0)
        return -EINVAL;
    *colon = '\0';
    colon = strrchr(copy, ':');
    if (parse_port_number(colon ? colon + 1 : copy, &ret->host_port) < 0)
        return -EINVAL;
    if (!colon)
        return 0;
    *colon = '\0';
    if (copy[0] == '[' && colon > copy + 1 && colon[-1] == ']') {
        colon[-1] = '\0';
        copy++;
    }
    if (!*copy)
        return -EINVAL;
    ret->host_ip = copy;
    return 0;
}

/* "docker.io/library/busybox:1.36" → "busybox-3f9a1c": a name and a hostname nobody else has. */
static char *make_name(struct arena *a, const char *image)
{
    const char *base = strrchr(image, '/');
    char name[24], hex[7];
    size_t n = 0;

    for (const char *p = base ? base + 1 : image; *p && *p != ':' && *p != '@'; p++) {
        char c = *p >= 'A' && *p <= 'Z' ? (char)(*p - 'A' + 'a') : *p;
        bool good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

        if (n + 1 < sizeof(name) && (good || (n > 0 && name[n - 1] != '-')))
            name[n++] = good ? c : '-';
    }
    name[n] = '\0';
    random_hex(hex, 6);
    return arena_printf(a, "%s%s%s", n ? name : "run", n && name[n - 1] == '-' ? "" : "-", hex);
}

static int check_name(const char *name, struct error **err)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < len; i++) {
        bool good = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9');

        if (!good && !(name[i] == '-' && i > 0 && i + 1 < len))
            len = 0;
    }
    if (len == 0 || len > HOSTNAME_MAX)
        return error_set(err, -EINVAL,
                         "--name %s: a name has 1 to %d of a-z, 0-9 and -, with no - at its ends",
                         name, HOSTNAME_MAX);
    return 0;
}

static int make_resources(struct arena *a, const struct run_config *c,
                          Runtime__V1__LinuxContainerResources **ret, struct error **err)
{
    Runtime__V1__LinuxContainerResources *r =
        MAKE(a, Runtime__V1__LinuxContainerResources, runtime__v1__linux_container_resources__init);
    uint64_t memory = 0;
    uint32_t cpus = 0;

    if (!r)
        return error_set(err, -ENOMEM, "no memory");
    if (c->memory && (parse_size(c->memory, MEMORY_MAX, &memory) < 0 || memory == 0))
        return error_set(err, -EINVAL, "--memory takes a size such as 256M or 2G, not %s",
                         c->memory);
    if (c->cpus && parse_cpus(c->cpus, &cpus) < 0)
        return error_set(err, -EINVAL, "--cpus takes a number such as 2 or 0.5, not %s", c->cpus);
    r->memory_limit_in_bytes = (int64_t)memory;
    if (cpus) {
        r->cpu_period = CPU_PERIOD_US;
        r->cpu_quota = (int64_t)cpus * CPU_PERIOD_US / 1000;
        r->cpu_shares = (int64_t)cpus * 1024 / 1000;
    }
    *ret = r;
    return 0;
}

static int add_env(struct arena *a, const struct run_config *c, Runtime__V1__ContainerConfig *k,
                   struct error **err)
{
    size_t n = c->env ? strv_len(c->env) : 0;

    k->envs = arena_alloc(a, (n + 1) * sizeof(*k->envs));
    for (size_t i = 0; k->envs && i < n; i++) {
        Runtime__V1__KeyValue *kv = MAKE(a, Runtime__V1__KeyValue, runtime__v1__key_value__init);
        const char *equals = strchr(c->env[i], '=');
        const char *value = equals ? equals + 1 : getenv(c->env[i]);

        if (!value)
            return error_set(err, -EINVAL, "--env %s: there is no such variable here to pass on",
                             c->env[i]);
        if (equals == c->env[i])
            return error_set(err, -EINVAL, "--env %s has no name", c->env[i]);
        if (!kv)
            break;
        kv->key = equals ? arena_printf(a, "%.*s", (int)(equals - c->env[i]), c->env[i])
                         : arena_strdup(a, c->env[i]);
        kv->value =
            (ProtobufCBinaryData){.data = (uint8_t *)arena_strdup(a, value), .len = strlen(value)};
        k->envs[k->n_envs++] = kv;
    }
    return k->n_envs == n && k->envs ? 0 : error_set(err, -ENOMEM, "no memory");
}

static int add_ports(struct arena *a, const struct run_config *c, Runtime__V1__PodSandboxConfig *p,
                     struct error **err)
{
    size_t n = c->publish ? strv_len(c->publish) : 0;

    p->port_mappings = arena_alloc(a, (n + 1) * sizeof(*p->port_mappings));
    for (size_t i = 0; p->port_mappings && i < n; i++) {
        Runtime__V1__PortMapping *m =
            MAKE(a, Runtime__V1__PortMapping, runtime__v1__port_mapping__init);

        if (m && parse_port(a, c->publish[i], m) < 0)
            return error_set(err, -EINVAL,
                             "--publish takes [IP:]HOSTPORT:PORT[/tcp|udp|sctp], not %s",
                             c->publish[i]);
        p->port_mappings[p->n_port_mappings++] = m;
    }
    return p->port_mappings ? 0 : error_set(err, -ENOMEM, "no memory");
}

/* "1000", "1000:1000" or a name. */
static int set_user(struct arena *a, const struct run_config *c,
                    Runtime__V1__LinuxContainerSecurityContext *sc, struct error **err)
{
    const char *colon = c->user ? strchr(c->user, ':') : NULL;
    _cleanup_(freep) char *user =
        colon ? str_ndup(c->user, (size_t)(colon - c->user)) : str_dup_or_null(c->user);
    uint32_t id;

    if (!user)
        return 0;
    if (parse_u32(user, INT32_MAX, &id) == 0) {
        sc->run_as_user = MAKE(a, Runtime__V1__Int64Value, runtime__v1__int64_value__init);
        if (!sc->run_as_user)
            return error_set(err, -ENOMEM, "no memory");
        sc->run_as_user->value = id;
    } else {
        sc->run_as_username = arena_strdup(a, user);
    }
    if (!*user || (colon && parse_u32(colon + 1, INT32_MAX, &id) < 0))
        return error_set(err, -EINVAL, "--user takes NAME, UID or UID:GID, not %s", c->user);
    if (colon) {
        sc->run_as_group = MAKE(a, Runtime__V1__Int64Value, runtime__v1__int64_value__init);
        if (!sc->run_as_group)
            return error_set(err, -ENOMEM, "no memory");
        sc->run_as_group->value = id;
    }
    return 0;
}

static int make_pod(struct arena *a, const struct run_config *c, const char *name,
                    Runtime__V1__LinuxContainerResources *resources, struct run_plan *plan,
                    struct error **err)
{
    Runtime__V1__PodSandboxConfig *p =
        MAKE(a, Runtime__V1__PodSandboxConfig, runtime__v1__pod_sandbox_config__init);
    Runtime__V1__PodSandboxMetadata *m =
        MAKE(a, Runtime__V1__PodSandboxMetadata, runtime__v1__pod_sandbox_metadata__init);
    Runtime__V1__LinuxPodSandboxConfig *l =
        MAKE(a, Runtime__V1__LinuxPodSandboxConfig, runtime__v1__linux_pod_sandbox_config__init);
    char hex[33];

    if (!p || !m || !l)
        return error_set(err, -ENOMEM, "no memory");
    random_hex(hex, 32);
    m->name = arena_strdup(a, name);
    m->uid = arena_strdup(a, hex);
    m->namespace_ = arena_strdup(a, "nexus-run");
    l->resources = resources;
    p->metadata = m;
    p->hostname = m->name;
    p->linux = l;
    plan->log_name = arena_printf(a, "%s_%.12s", name, hex);
    plan->log_directory = arena_printf(a, "%s/%s", c->log_root, plan->log_name);
    p->log_directory = plan->log_directory;
    plan->pod = p;
    return add_ports(a, c, p, err);
}

static int make_container(struct arena *a, const struct run_config *c, const char *name,
                          Runtime__V1__LinuxContainerResources *resources, struct run_plan *plan,
                          struct error **err)
{
    Runtime__V1__ContainerConfig *k =
        MAKE(a, Runtime__V1__ContainerConfig, runtime__v1__container_config__init);
    Runtime__V1__ContainerMetadata *m =
        MAKE(a, Runtime__V1__ContainerMetadata, runtime__v1__container_metadata__init);
    Runtime__V1__LinuxContainerConfig *l =
        MAKE(a, Runtime__V1__LinuxContainerConfig, runtime__v1__linux_container_config__init);
    Runtime__V1__LinuxContainerSecurityContext *sc =
        MAKE(a, Runtime__V1__LinuxContainerSecurityContext,
             runtime__v1__linux_container_security_context__init);
    Runtime__V1__ImageSpec *image = MAKE(a, Runtime__V1__ImageSpec, runtime__v1__image_spec__init);
    int r;

    if (!k || !m || !l || !sc || !image)
        return error_set(err, -ENOMEM, "no memory");
    m->name = arena_strdup(a, name);
    image->image = arena_strdup(a, c->image);
    image->user_specified_image = image->image;
    k->metadata = m;
    k->image = image;
    k->args = c->command; /* the image's entrypoint stays, as with other commands of this kind */
    k->n_args = c->n_command;
    k->log_path = arena_printf(a, "%s.log", name);
    if (c->workdir)
        k->working_dir = arena_strdup(a, c->workdir);
    l->resources = resources;
    l->security_context = sc;
    k->linux = l;
    plan->container = k;
    r = set_user(a, c, sc, err);
    return r < 0 ? r : add_env(a, c, k, err);
}

int run_plan_make(struct arena *a, const struct run_config *c, struct run_plan *ret,
                  struct error **err)
{
    const char *name = c->name ? c->name : make_name(a, c->image);
    Runtime__V1__LinuxContainerResources *resources = NULL;
    int r = c->name ? check_name(name, err) : 0;

    if (r == 0)
        r = make_resources(a, c, &resources, err);
    if (r == 0)
        r = make_pod(a, c, name, resources, ret, err);
    if (r == 0)
        r = make_container(a, c, name, resources, ret, err);
    return r;
}
