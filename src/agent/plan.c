/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/plan.h"

#include <string.h>
#include <sys/resource.h>

#include "base/str.h"

#define SECCOMP_INSN_BYTES 8
#define SECCOMP_BYTES_MAX (4096 * SECCOMP_INSN_BYTES) /* the kernel's limit */
#define ENV_SPARE 8                                   /* room for plan_env_default() */

static const struct {
    const char *name;
    int resource;
} rlimit_names[] = {
    {"AS", RLIMIT_AS},           {"CORE", RLIMIT_CORE},         {"CPU", RLIMIT_CPU},
    {"DATA", RLIMIT_DATA},       {"FSIZE", RLIMIT_FSIZE},       {"LOCKS", RLIMIT_LOCKS},
    {"MEMLOCK", RLIMIT_MEMLOCK}, {"MSGQUEUE", RLIMIT_MSGQUEUE}, {"NICE", RLIMIT_NICE},
    {"NOFILE", RLIMIT_NOFILE},   {"NPROC", RLIMIT_NPROC},       {"RSS", RLIMIT_RSS},
    {"RTPRIO", RLIMIT_RTPRIO},   {"RTTIME", RLIMIT_RTTIME},     {"SIGPENDING", RLIMIT_SIGPENDING},
    {"STACK", RLIMIT_STACK},
};

/* PID 1's own limits come from the kernel and suit no application: these are what a service on a
 * usual node gets. */
static const struct plan_rlimit rlimit_defaults[] = {
    {RLIMIT_NOFILE, 1024, 524288, true},
    {RLIMIT_NPROC, UINT64_MAX, UINT64_MAX, true}, /* pids.max counts instead */
    {RLIMIT_CORE, 0, UINT64_MAX, true},
};

int plan_rlimit_parse(const char *name)
{
    if (str_starts(name, "RLIMIT_"))
        name += strlen("RLIMIT_");
    for (size_t i = 0; i < ARRAY_SIZE(rlimit_names); i++)
        if (strcmp(rlimit_names[i].name, name) == 0)
            return rlimit_names[i].resource;
    return -EINVAL;
}

static size_t key_len(const char *setting)
{
    const char *eq = strchr(setting, '=');

    return eq ? (size_t)(eq - setting) : strlen(setting);
}

static char **env_slot(struct process_plan *p, const char *key, size_t len)
{
    for (size_t i = 0; i < p->n_env; i++)
        if (strncmp(p->env[i], key, len) == 0 && p->env[i][len] == '=')
            return &p->env[i];
    return NULL;
}

const char *plan_env_get(const struct process_plan *p, const char *key)
{
    size_t len = strlen(key);

    for (size_t i = 0; i < p->n_env; i++)
        if (strncmp(p->env[i], key, len) == 0 && p->env[i][len] == '=')
            return p->env[i] + len + 1;
    return NULL;
}

void plan_env_default(struct process_plan *p, const char *key, const char *value)
{
    if (p->n_env == p->env_room || plan_env_get(p, key))
        return;
    p->env[p->n_env++] = str_printf("%s=%s", key, value);
}

static int env_add(struct process_plan *p, char *const *env, size_t n, struct error **err)
{
    for (size_t i = 0; i < n; i++) {
        size_t len = key_len(env[i]);
        char **slot;

        if (len == 0 || env[i][len] != '=')
            return error_set(err, -EINVAL, "environment: \"%.64s\" is no KEY=value", env[i]);
        slot = env_slot(p, env[i], len);
        if (slot)
            *slot = env[i];
        else
            p->env[p->n_env++] = env[i];
    }
    return 0;
}

static int set_env(struct process_plan *p, const Nexus__ProcessSpec *base,
                   const Nexus__ProcessSpec *more, struct error **err)
{
    size_t n_more = more ? more->n_env : 0;
    int r;

    if (base->n_env > PLAN_ENV_MAX || n_more > PLAN_ENV_MAX - base->n_env)
        return error_set(err, -E2BIG, "environment: more than %d variables", PLAN_ENV_MAX);
    p->env_room = base->n_env + n_more + ENV_SPARE;
    p->env = calloc(p->env_room + 1, sizeof(*p->env));
    if (!p->env)
        return error_set(err, -ENOMEM, "environment");
    r = env_add(p, base->env, base->n_env, err);
    if (r == 0 && more)
        r = env_add(p, more->env, more->n_env, err);
    return r;
}

static int set_args(struct process_plan *p, const Nexus__ProcessSpec *s, struct error **err)
{
    if (s->n_args == 0)
        return error_set(err, -EINVAL, "no command");
    p->args = calloc(s->n_args + 1, sizeof(*p->args));
    if (!p->args)
        return error_set(err, -ENOMEM, "arguments");
    for (size_t i = 0; i < s->n_args; i++)
        p->args[i] = s->args[i];
    return 0;
}

static int set_cwd(struct process_plan *p, const char *cwd, struct error **err)
{
    if (cwd && *cwd && *cwd != '/')
        return error_set(err, -EINVAL, "working directory \"%.256s\" is not absolute", cwd);
    p->cwd = cwd && *cwd ? cwd : "/";
    return 0;
}

static bool user_is_set(const Nexus__User *u)
{
    return u &&
           (u->has_uid || u->has_gid || *u->username || *u->image_user || u->n_supplemental_groups);
}

static void set_user(struct process_plan *p, const Nexus__User *u)
{
    if (!u)
        return;
    p->user = (struct user_request){
        .image_user = u->image_user,
        .has_uid = u->has_uid,
        .uid = u->uid,
        .username = u->username,
        .has_gid = u->has_gid,
        .gid = u->gid,
        .groups = u->supplemental_groups,
        .n_groups = u->n_supplemental_groups,
        .strict = u->strict_groups,
    };
}

static int rlimit_put(struct process_plan *p, struct plan_rlimit l, struct error **err)
{
    size_t i = 0;

    while (i < p->n_rlimits && p->rlimits[i].resource != l.resource)
        i++;
    if (i == PLAN_RLIMITS_MAX)
        return error_set(err, -E2BIG, "more than %d resource limits", PLAN_RLIMITS_MAX);
    p->rlimits[i] = l;
    if (i == p->n_rlimits)
        p->n_rlimits++;
    return 0;
}

static int set_rlimits(struct process_plan *p, const Nexus__ProcessSpec *s, struct error **err)
{
    for (size_t i = 0; i < ARRAY_SIZE(rlimit_defaults); i++)
        (void)rlimit_put(p, rlimit_defaults[i], NULL);
    for (size_t i = 0; i < s->n_rlimits; i++) {
        const Nexus__Rlimit *l = s->rlimits[i];
        int resource = plan_rlimit_parse(l->name);
        int r;

        if (resource < 0)
            return error_set(err, -EINVAL, "resource limit \"%.64s\" is unknown", l->name);
        if (l->soft > l->hard)
            return error_set(err, -EINVAL, "resource limit %s: soft is above hard", l->name);
        r = rlimit_put(p, (struct plan_rlimit){resource, l->soft, l->hard, false}, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static void set_capabilities(struct process_plan *p, const Nexus__ContainerSpec *spec,
                             const Nexus__ProcessSpec *s)
{
    if (s->has_capabilities) {
        p->capabilities = s->capabilities;
        p->ambient = s->ambient_capabilities & s->capabilities;
    } else {
        p->capabilities = spec->privileged ? UINT64_MAX : PLAN_CAPABILITIES_DEFAULT;
        p->ambient = 0;
    }
}

/* The kernel checks what is in it. */
static int set_seccomp(struct process_plan *p, const Nexus__ContainerSpec *spec, struct error **err)
{
    if (spec->seccomp.len % SECCOMP_INSN_BYTES || spec->seccomp.len > SECCOMP_BYTES_MAX)
        return error_set(err, -EINVAL, "a seccomp filter of %zu bytes", spec->seccomp.len);
    p->seccomp = spec->seccomp.data;
    p->n_seccomp = spec->seccomp.len / SECCOMP_INSN_BYTES;
    return 0;
}

static int check_oom_score(int v, struct error **err)
{
    if (v < -1000 || v > 1000)
        return error_set(err, -EINVAL, "oom_score_adj %d is out of range", v);
    return 0;
}

int plan_for_container(const Nexus__ContainerSpec *spec, struct process_plan *ret,
                       struct error **err)
{
    const Nexus__ProcessSpec *s = spec->process;
    struct process_plan p = {0};
    int r;

    if (!s)
        return error_set(err, -EINVAL, "no process");
    r = check_oom_score(s->oom_score_adj, err);
    if (r == 0)
        r = set_args(&p, s, err);
    if (r == 0)
        r = set_env(&p, s, NULL, err);
    if (r == 0)
        r = set_cwd(&p, s->cwd, err);
    if (r == 0)
        r = set_rlimits(&p, s, err);
    if (r == 0)
        r = set_seccomp(&p, spec, err);
    if (r < 0) {
        plan_done(&p);
        return r;
    }
    p.tty = s->tty;
    p.no_new_privs = s->no_new_privs;
    p.oom_score_adj = s->oom_score_adj;
    set_user(&p, s->user);
    set_capabilities(&p, spec, s);
    *ret = p;
    return 0;
}

int plan_for_exec(const Nexus__ContainerSpec *spec, const Nexus__ProcessSpec *exec,
                  const struct user_identity *identity, struct process_plan *ret,
                  struct error **err)
{
    const Nexus__ProcessSpec *base = spec->process;
    struct process_plan p = {0};
    int r;

    if (!exec || !base)
        return error_set(err, -EINVAL, "no process");
    r = check_oom_score(exec->oom_score_adj, err);
    if (r == 0)
        r = set_args(&p, exec, err);
    if (r == 0)
        r = set_env(&p, base, exec, err);
    if (r == 0)
        r = set_cwd(&p, *exec->cwd ? exec->cwd : base->cwd, err);
    if (r == 0)
        r = set_rlimits(&p, exec->n_rlimits ? exec : base, err);
    if (r == 0)
        r = set_seccomp(&p, spec, err);
    if (r < 0) {
        plan_done(&p);
        return r;
    }
    p.tty = exec->tty;
    p.no_new_privs = base->no_new_privs || exec->no_new_privs;
    p.oom_score_adj = exec->oom_score_adj ? exec->oom_score_adj : base->oom_score_adj;
    if (user_is_set(exec->user)) {
        set_user(&p, exec->user);
    } else {
        set_user(&p, base->user);
        p.identity = identity;
    }
    set_capabilities(&p, spec, exec->has_capabilities ? exec : base);
    *ret = p;
    return 0;
}

void plan_done(struct process_plan *p)
{
    free(p->args);
    free(p->env);
    p->args = p->env = NULL;
    p->n_env = 0;
}
