/* SPDX-License-Identifier: Apache-2.0 */
/* nexusd's configuration: one YAML file, every key in one table (config.c) with its type and default.
 * An unknown key, a key twice, or a value of another type is an error that names file and line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "image/image-store.h"

#define CONFIG_DEFAULT_PATH "/etc/nexus/nexusd.yaml"
#define CONFIG_BYTES_MAX (1U << 20)

struct config { /* strings and vectors are owned */
    char *listen, *state_dir, *run_dir, *boot_id_file;
    char *log_level, *log_target;
    char *vm_program, *vm_kernel, *vm_initramfs, *vm_modules, *vm_kvm;
    char **vm_arguments;
    uint64_t vm_memory, vm_memory_max, vm_memory_overhead, vm_host_overhead; /* bytes */
    uint64_t vm_cpus, vm_cpus_max;
    uint64_t vm_boot_timeout_ms;
    uint64_t scratch_size; /* bytes */
    char *scratch_mkfs;
    char *share_program;
    char *mapper_kubelet_root, *mapper_data;
    char **mapper_directories;
    uint64_t mapper_update_burst; /* 0: updates are not paced */
    uint64_t mapper_update_interval_ms;
    char *network_conf_dir, *network_netns_dir;
    char **network_bin_dirs;
    uint64_t network_timeout_ms;
    char *cgroup_root, *cgroup_driver;
    char *images_dir, *images_pull_program;
    char *stream_program, *stream_address;
    char *stream_tls_certificate, *stream_tls_key, *stream_tls_client_ca; /* NULL: none */
    uint64_t stream_idle_timeout_ms;
    uint64_t images_stall_timeout_ms;
    struct image_registry *registries; /* owned, with its strings */
    size_t n_registries;
};

/* The defaults. */
void config_init(struct config *c);
void config_done(struct config *c);
/* Reads text over the defaults in *c. name: for messages. -EINVAL. */
int config_parse(struct config *c, const char *name, const char *text, size_t len,
                 struct error **err);
/* path NULL: CONFIG_DEFAULT_PATH, which may be missing; one that is named may not. */
int config_load(struct config *c, const char *path, struct error **err);
/* Calls fn with each key, its type in words and its default: for the test that every key is documented. */
void config_each_key(void (*fn)(const char *key, const char *type, const char *def, void *userdata),
                     void *userdata);
