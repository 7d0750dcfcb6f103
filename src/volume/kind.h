/* SPDX-License-Identifier: Apache-2.0 */
/* What a mount's host path is: a read-only volume that kubelet writes (Secret, ConfigMap, projected,
 * downward API), one of the small files of a pod, or nothing that is mapped.
 *
 * Below kubelet's root, by layout (kubernetes pkg/kubelet/kubelet_getters.go, pkg/volume/util/subpath):
 *   pods/UID/volumes/kubernetes.io~PLUGIN/NAME      a volume; or a path in it
 *   pods/UID/volume-subpaths/NAME/CONTAINER/INDEX   kubelet's own bind mount of a file or directory of the
 *                                                   volume NAME; PLUGIN is found beside it
 *   pods/UID/etc-hosts
 *   pods/UID/containers/NAME/FILE                   the termination log
 * Below the listed directories, by content: the uppermost directory on the way that has a "..data" link.
 *
 * High tier. Any thread; no state. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define VOLUME_KUBELET_ROOT "/var/lib/kubelet"

/* Where to look. Absolute paths; they may be or contain symlinks, for they come from the configuration. */
struct volume_roots {
    const char *kubelet_root; /* NULL: VOLUME_KUBELET_ROOT */
    char *const *listed;      /* NULL-terminated, or NULL: directories recognised by content */
};

enum volume_place {
    VOLUME_PLACE_OTHER,           /* no layout of ours, or not to be trusted ("..") */
    VOLUME_PLACE_VOLUME,          /* at or in a volume of a pod, of whatever plugin */
    VOLUME_PLACE_SUBPATH,         /* at or in kubelet's bind mount of a part of a volume */
    VOLUME_PLACE_LISTED,          /* at or below a listed directory */
    VOLUME_PLACE_HOSTS,           /* a pod's /etc/hosts */
    VOLUME_PLACE_TERMINATION_LOG, /* a container's */
};

enum volume_plugin {
    VOLUME_PLUGIN_OTHER, /* emptyDir, hostPath, PVC, CSI …; or not known yet */
    VOLUME_PLUGIN_SECRET,
    VOLUME_PLUGIN_CONFIGMAP,
    VOLUME_PLUGIN_PROJECTED,
    VOLUME_PLUGIN_DOWNWARD_API,
    VOLUME_PLUGIN_CONTENT, /* a listed directory with "..data" */
};

/* "secret", "configmap", …; "other". */
const char *volume_plugin_name(enum volume_plugin plugin);

/* A host path taken apart. Pure: nothing is looked up. */
struct volume_path {
    enum volume_place place;
    enum volume_plugin plugin; /* of VOLUME */
    const char *base;   /* borrowed from the roots: kubelet's root, or the listed directory */
    char rel[PATH_MAX]; /* below base, cleaned; "": base itself */
    size_t root_len;    /* VOLUME, SUBPATH: bytes of rel that name the volume or the bind mount */
    char pod_uid[NAME_MAX + 1];
    char name[NAME_MAX + 1]; /* of the volume, or of the container that owns a termination log */
};
/* Slashes at the end, double ones and "." do not matter; a path with ".." is OTHER, since what it names
 * is for the kernel to say. 0; -EINVAL: not absolute; -ENAMETOOLONG. */
int volume_path_parse(const struct volume_roots *roots, const char *host_path,
                      struct volume_path *ret);

/* True for what kubelet lets "..data" point to: one name that begins with "..", has a third byte, and is
 * none of the writer's own ("..data", "..data_tmp"). Anything else could lead out of the volume. */
bool volume_data_target_is_valid(const char *target, size_t len);

enum volume_kind {
    VOLUME_NONE,       /* not mapped: the caller treats it as any host path */
    VOLUME_MAPPED,     /* fd is what the container is to see, for volume_scan */
    VOLUME_SMALL_FILE, /* a file that is copied in; place says which */
};

struct volume_mount {
    enum volume_kind kind;
    enum volume_place place;
    enum volume_plugin plugin;
    bool live;     /* MAPPED: the whole volume, follows "..data"; else it never updates */
    bool is_file;  /* MAPPED: a single regular file */
    char *base;    /* owned; as in volume_path, "" in SMALL_FILE and NONE */
    char *rel;     /* owned; of the volume itself if live, else of the host path */
    char *pod_uid; /* owned; "" if there is none */
    char *name;    /* owned; of the volume; "" if there is none */
    int fd;        /* owned; MAPPED: O_PATH directory or O_RDONLY file, else -EBADF */
};

/* Parses, looks once, opens. A MAPPED fd lies in a private read-only clone of the mount (where the process
 * may make one: CAP_SYS_ADMIN), so that neither it nor what is opened below it keeps kubelet from
 * unmounting the volume. No symlink is followed below base but those inside a volume on the way to a path
 * in it, and these cannot lead out.
 * 0, also for what is not mapped; -EINVAL: a bad path, or a symlink, FIFO, … where kubelet has none;
 * -ENOENT: a volume that is not there; -EACCES; other errnos of open. */
int volume_find(const struct volume_roots *roots, const char *host_path, struct volume_mount *ret,
                struct error **err);
void volume_mount_done(struct volume_mount *m);

/* Opens a live volume's directory again, as volume_find did. An fd, or errno: -ENOENT: it is gone. */
int volume_reopen(const char *base, const char *rel);
