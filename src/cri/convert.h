/* SPDX-License-Identifier: Apache-2.0 */
/* CRI messages ⇄ the pod model. From CRI: every field is checked; what we do not do is refused by
 * name, never ignored. To CRI: messages in arena memory, borrowing strings of the model. */
#pragma once

#include "base/arena.h"
#include "gen/cri/cri.pb-c.h"
#include "pod/node.h"

/* -EINVAL, -EOPNOTSUPP. *ret (zeroed before) is to be cleared by the caller in any case. */
int sandbox_spec_from_cri(const Runtime__V1__RunPodSandboxRequest *m, struct sandbox_spec *ret,
                          struct error **err);
/* sandbox: whose container it is to be. */
int container_spec_from_cri(const Runtime__V1__ContainerConfig *m,
                            const struct sandbox_spec *sandbox, struct container_spec *ret,
                            struct error **err);
/* Shared by both. */
int namespaces_from_cri(const Runtime__V1__NamespaceOption *m, struct namespace_options *ret,
                        struct error **err);
int resources_from_cri(const Runtime__V1__LinuxContainerResources *m, struct resources_spec *ret,
                       struct error **err);
/* path: the deprecated field, which counts where there is no message. *ret_path is the caller's. */
int seccomp_from_cri(const Runtime__V1__SecurityProfile *m, const char *path, int32_t *ret_mode,
                     char **ret_path, struct error **err);
/* AppArmor and SELinux are of the host's kernel: only what asks for neither is taken. */
int apparmor_check(const Runtime__V1__SecurityProfile *m, const char *path, struct error **err);
int selinux_check(const Runtime__V1__SELinuxOption *m, struct error **err);

/* NULL: no memory. */
Runtime__V1__PodSandbox *sandbox_to_cri(struct arena *a, const struct sandbox *s);
Runtime__V1__PodSandboxStatus *sandbox_status_to_cri(struct arena *a, const struct sandbox *s);
Runtime__V1__Container *container_to_cri(struct arena *a, const struct container *c);
Runtime__V1__ContainerStatus *container_status_to_cri(struct arena *a, const struct container *c);

/* Any map<string, string> entry list: they share one layout.
 */
struct map_entry { /* layout of every generated …Entry of strings */
    ProtobufCMessage base;
    char *key;
    char *value;
};
void *map_to_cri(struct arena *a, const key_value_list *l, const ProtobufCMessageDescriptor *type,
                 size_t *ret_n);
/* Entries into a sorted list; a key that comes twice keeps its last value, as maps do. */
int map_from_cri(const char *what, void *const *entries, size_t n, key_value_list *ret,
                 struct error **err);

/* CRI's number of a signal, 0 if it has none; and back: the signal, 0 for the default, -EINVAL. */
int signal_to_cri(int signal);
int signal_from_cri(int value);
