/* SPDX-License-Identifier: Apache-2.0 */
/* Host directories and files of a pod's containers: one virtiofsd per pod, started when the first container
 * needs it, and its VM's virtio-fs device.
 *
 * virtiofsd serves an empty directory <run_dir>/vmm/<id>.share from a mount namespace of its own. What a
 * container mounts is bound there, into that namespace only (the host's own mount table never has it), as
 * "c<container>-<n>", before the guest hears of the container. What is read-only is so there, not in the
 * guest. With its VM's end virtiofsd ends, and with it everything that was bound. A virtiofsd that ends before
 * costs its pod I/O errors and nobody anything else; there is no second one for a VM.
 *
 * Nothing of it is on record: its process is known by a pid file, like nexus-vmm's, what is bound by names.
 * Thread: the loop's; what touches host paths is done by the files' worker. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct container;
struct node_config;
struct plan_run;
struct sandbox;
struct volume_roots;

enum share_kind {
    SHARE_NONE,
    SHARE_HOST,   /* a directory or file of the host's */
    SHARE_MEMORY, /* an emptyDir in memory: the guest's own, of the size that kubelet gave its */
};

/* How one mount of a container is served. */
struct container_share {
    enum share_kind kind;
    char *name; /* owned; HOST: what is bound; MEMORY: of the volume, in the pod */
    uint64_t bytes;
    uint32_t mode, gid;
};
void container_shares_free(struct container *c);
/* Of mount i of its spec; NULL: it is served otherwise. */
const struct container_share *container_share_at(const struct container *c, size_t i);

/* The program; NULL: this node has none, and what needs it is refused. Any thread. */
const char *share_program(const struct node_config *config);
/* An emptyDir in memory at that path? Any thread; looks at the file system. */
bool share_is_memory(const struct volume_roots *roots, const char *host_path,
                     struct container_share *ret);

/* A subPath of one? What the guest has of it is another memory: it cannot be given. The same. */
bool share_is_part_of_memory(const struct volume_roots *roots, const char *host_path);

/* Is one of its mounts a host directory or file? Once they are told apart. */
bool container_wants_share(const struct container *c);

/* Steps of the plans of CreateContainer and RemoveContainer. */
int create_share(struct plan_run *run, void *object, struct error **err);
int drop_share(struct plan_run *run, void *object, struct error **err);
void cancel_share(struct plan_run *run, void *object);
/* A container that was not created after all: what may be bound for it goes, by and by. */
void share_forget(struct container *c);

/* Its virtiofsd; 0: none runs. */
pid_t share_pid(const struct sandbox *s);

/* The VM has ended: process, directory, pid file. */
void share_end(struct sandbox *s);
/* What nexusd itself holds. */
void share_free(struct sandbox *s);
