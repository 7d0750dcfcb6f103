/* SPDX-License-Identifier: Apache-2.0 */
/* What was asked for: a pod sandbox and a container as kubelet describes them, validated, in our own
 * words. src/cri converts CRI messages into these and back; record.h writes them to disk. All strings
 * are owned; absent ones are NULL. Lists of labels and annotations are sorted by key. */
#pragma once

#include "pod/record.h"

struct key_value {
    char *key;
    char *value;
};
typedef RECORD_LIST_OF(struct key_value) key_value_list;

/* The numbers of CRI's NamespaceMode, kept in records. */
enum namespace_mode {
    NAMESPACE_POD = 0,
    NAMESPACE_CONTAINER = 1,
    NAMESPACE_NODE = 2,
    NAMESPACE_TARGET = 3
};

struct namespace_options {
    int32_t network, pid, ipc; /* enum namespace_mode */
    char *target_id;
};

struct port_mapping {
    int32_t protocol; /* CRI: TCP 0, UDP 1, SCTP 2 */
    int32_t container_port;
    int32_t host_port; /* 0: none */
    char *host_ip;
};

struct resources_spec { /* 0: not set */
    int64_t cpu_period_us;
    int64_t cpu_quota_us;
    int64_t cpu_shares;
    int64_t memory_limit_bytes;
    int64_t oom_score_adj;
    char *cpuset_cpus;
    char *cpuset_mems;
    int64_t memory_swap_limit_bytes;
    key_value_list unified;
};

struct dns_spec {
    bool present; /* an empty one means an empty file, none means the host's */
    char **servers;
    char **searches;
    char **options;
};

struct sandbox_spec {
    char *name;
    char *uid;
    char *namespace; /* NOLINT: no keyword in C */
    uint32_t attempt;
    char *runtime_handler; /* "" or "nexus-vmm" */
    char *hostname;
    char *log_directory; /* absolute; NULL: no logs */
    char *cgroup_parent;
    key_value_list labels;
    key_value_list annotations;
    struct dns_spec dns;
    RECORD_LIST_OF(struct port_mapping) ports;
    key_value_list sysctls;
    struct namespace_options namespaces;
    bool privileged;
    struct resources_spec resources; /* sum of the containers' */
    struct resources_spec overhead;  /* of the RuntimeClass */
};

struct mount_spec {
    char *container_path;
    char *host_path;                                     /* NULL: image is mounted */
    char *image, *user_specified_image, *image_sub_path; /* NULL: none */
    bool readonly;
    bool recursive_read_only;
    int32_t propagation;
    bool selinux_relabel;
};

/* A device node for the container: one of those that every kernel has by itself. */
struct device_spec {
    char *host_path;
    char *container_path;
    char *permissions; /* of "rwm"; a container has all of them for these devices anyway */
};

enum seccomp_mode { SECCOMP_UNCONFINED = 0, SECCOMP_DEFAULT = 1, SECCOMP_LOCALHOST = 2 };

struct security_spec {
    bool privileged;
    struct namespace_options namespaces;
    bool has_user; /* run_as_user given */
    uint32_t user;
    bool has_group;
    uint32_t group;
    char *username;
    struct record_u32v supplemental_groups;
    bool strict_groups; /* those only, not the ones of the image's /etc/group */
    bool readonly_rootfs;
    bool no_new_privs;
    bool has_capabilities;
    char **add_capabilities; /* as kubelet wrote them, validated */
    char **drop_capabilities;
    char **ambient_capabilities;
    char **masked_paths;
    char **readonly_paths;
    int32_t seccomp;    /* enum seccomp_mode */
    char *seccomp_path; /* SECCOMP_LOCALHOST: absolute, of the node */
};

struct container_spec {
    char *name;
    uint32_t attempt;
    char *image;                /* as in the request: an id or a reference */
    char *user_specified_image; /* the text of the pod's spec */
    char **command;
    char **args;
    char *working_dir;
    key_value_list envs; /* in the order given */
    RECORD_LIST_OF(struct mount_spec) mounts;
    RECORD_LIST_OF(struct device_spec) devices;
    key_value_list labels;
    key_value_list annotations;
    char *log_path; /* relative to the sandbox's log_directory */
    bool open_stdin;
    bool stdin_once;
    bool tty;
    int32_t stop_signal; /* a signal number; 0: the image's, else SIGTERM */
    struct resources_spec resources;
    struct security_spec security;
};

extern const struct record_desc key_value_desc;
extern const struct record_desc resources_spec_desc;
extern const struct record_desc sandbox_spec_desc;
extern const struct record_desc container_spec_desc;

void sandbox_spec_clear(struct sandbox_spec *s);
void container_spec_clear(struct container_spec *s);

/* Appends a copy. */
void key_value_add(key_value_list *l, const char *key, const char *value);
/* The value of key, or NULL. Borrowed. */
const char *key_value_get(const key_value_list *l, const char *key);
void key_value_sort(key_value_list *l);
/* True if each entry of want is in l. */
bool key_value_contains(const key_value_list *l, const key_value_list *want);
