/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the CNI part share: checks of names, the input of one plugin, its output. */
#pragma once

#include "net/cni.h"
#include "net/json-input.h"

enum cni_command { CNI_ADD, CNI_DEL, CNI_CHECK };

const char *cni_command_name(enum cni_command cmd);

/* The specification's names for networks and containers: [A-Za-z0-9][A-Za-z0-9_.-]*, 255 at most. */
bool cni_name_is_valid(const char *s);
/* A file name for a plugin: the same characters, so no '/' and no leading dot. */
bool cni_type_is_valid(const char *s);
/* 1-15 bytes, no '/', ':', white space or control byte, not "." or "..". */
bool cni_ifname_is_valid(const char *s);
/* 1 if version a is b or later; both of the known ones. -EINVAL: unknown. */
int cni_version_at_least(const char *a, const char *b);
bool cni_version_is_known(const char *v);

/* Text of a plugin for people: printable, one line, max bytes. Owned by the caller. */
char *cni_printable(const char *text, size_t len, size_t max);

/* Copy of a request that lives as long as its call. */
struct cni_params {
    char *container_id, *netns, *ifname;
    char *args; /* CNI_ARGS */
    char *path; /* CNI_PATH */
    char **bin_dirs;
    json_t *port_mappings; /* array, or NULL */
    json_t *dns;           /* object, or NULL */
};

/* Checks and copies. netns may be missing for DEL only. -EINVAL with the field and why. */
int cni_params_init(struct cni_params *p, enum cni_command cmd, const struct cni_request *req,
                    struct error **err);
void cni_params_done(struct cni_params *p);

/* The environment of one plugin: CNI_* and PATH, nothing inherited. Owned by the caller. */
char **cni_params_environment(const struct cni_params *p, enum cni_command cmd);

/* What a plugin reads on stdin: its own object with name, cniVersion, runtimeConfig (of the
 * capabilities it names) and prevResult; without "capabilities". Owned, compact; NULL: no memory. */
char *cni_plugin_input(const struct cni_network *net, size_t index, const struct cni_params *p,
                       const json_t *prev_result);

/* The executable of that type in the first bin dir that has it. -ENOENT names the directories and
 * what to do. ret: owned by the caller. */
int cni_find_plugin(const char *type, char *const *bin_dirs, char **ret, struct error **err);

/* An error object on stdout: {"code": …, "msg": …, "details": …}. 1 and *ret_text (owned, printable)
 * and *ret_code, or 0: stdout is something else. */
int cni_error_parse(const char *text, size_t len, char **ret_text, unsigned *ret_code);
