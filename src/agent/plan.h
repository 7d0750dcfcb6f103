/* SPDX-License-Identifier: Apache-2.0 */
/* From a ProcessSpec to what a child process is told to become: everything that can be checked
 * before a process exists is checked here. Sans-IO. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/user.h"
#include "base/error.h"
#include "gen/msg/nexus.pb-c.h"

#define PLAN_RLIMITS_MAX 16
#define PLAN_ENV_MAX 8192
/* What container runtimes give by default: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
 * setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap. */
#define PLAN_CAPABILITIES_DEFAULT UINT64_C(0xa80425fb)
#define PLAN_PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct plan_rlimit {
    int resource; /* RLIMIT_… */
    uint64_t soft, hard;
    bool is_default; /* not asked for: where it may not be raised, what there is will do */
};

/* Strings are borrowed from the specs it was made of; the vectors are owned. */
struct process_plan {
    char **args; /* owned, NULL-terminated, at least one */
    char **env;  /* owned, NULL-terminated; of two settings of a key the later one counts */
    size_t n_env;
    size_t env_room; /* settings env has room for */
    const char *cwd; /* absolute */
    bool tty;
    struct user_request user;
    const struct user_identity *identity; /* borrowed; user is resolved already. NULL: it is not */
    bool no_new_privs;
    uint64_t capabilities; /* bounding, permitted, effective */
    uint64_t ambient;      /* a subset of them; also inheritable */
    struct plan_rlimit rlimits[PLAN_RLIMITS_MAX];
    size_t n_rlimits;
    int oom_score_adj;
    const void *seccomp; /* borrowed; struct sock_filter[] */
    size_t n_seccomp;    /* of them; 0: no filter */
};

/* The first process of a container. 0; -EINVAL; -E2BIG. */
int plan_for_container(const Nexus__ContainerSpec *spec, struct process_plan *ret,
                       struct error **err);
/* A further process: what exec leaves unset is as in the container. identity: borrowed; whom the container's
 * first process runs as, NULL if it is not known. */
int plan_for_exec(const Nexus__ContainerSpec *spec, const Nexus__ProcessSpec *exec,
                  const struct user_identity *identity, struct process_plan *ret,
                  struct error **err);
/* Frees the vectors. */
void plan_done(struct process_plan *p);

/* The value of a variable, or NULL. */
const char *plan_env_get(const struct process_plan *p, const char *key);
/* Adds "key=value" unless key is set. value is copied; the copy lives as long as the process does
 * (meant for the child, just before it becomes the program). */
void plan_env_default(struct process_plan *p, const char *key, const char *value);
/* RLIMIT_… of "RLIMIT_NOFILE" or "NOFILE", or -EINVAL. */
int plan_rlimit_parse(const char *name);
