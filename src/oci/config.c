/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/config.h"

#include <string.h>

#include "base/limit.h"
#include "base/numparse.h"
#include "base/str.h"
#include "oci/json.h"

void oci_process_done(struct oci_process *p)
{
    strv_free(p->entrypoint);
    strv_free(p->cmd);
    strv_free(p->env);
    free(p->user);
    free(p->working_dir);
    free(p->stop_signal);
    memset(p, 0, sizeof(*p));
}

/* The names of the keys: the image config's and ours. */
struct process_keys {
    const char *entrypoint, *cmd, *env, *user, *working_dir, *stop_signal;
};
static const struct process_keys oci_keys = {"Entrypoint", "Cmd",        "Env",
                                             "User",       "WorkingDir", "StopSignal"};
static const struct process_keys our_keys = {"entrypoint", "cmd",         "env",
                                             "user",       "working_dir", "stop_signal"};

static int text_parse(const json_t *doc, const char *key, char **ret, struct error **err)
{
    const char *text;
    int r = oci_json_str(doc, key, &text, err);

    if (r == 0)
        *ret = str_dup(text ? text : "");
    return r;
}

static size_t strv_bytes(char *const *v)
{
    size_t n = 0;

    for (size_t i = 0; v && v[i]; i++)
        n += strlen(v[i]) + 1;
    return n;
}

static int process_parse(const json_t *doc, const struct process_keys *k, struct oci_process *p,
                         struct error **err)
{
    int r;

    if ((r = oci_json_strv(doc, k->entrypoint, OCI_CONFIG_STRINGS, &p->entrypoint, err)) < 0 ||
        (r = oci_json_strv(doc, k->cmd, OCI_CONFIG_STRINGS, &p->cmd, err)) < 0 ||
        (r = oci_json_strv(doc, k->env, OCI_CONFIG_STRINGS, &p->env, err)) < 0 ||
        (r = text_parse(doc, k->user, &p->user, err)) < 0 ||
        (r = text_parse(doc, k->working_dir, &p->working_dir, err)) < 0 ||
        (r = text_parse(doc, k->stop_signal, &p->stop_signal, err)) < 0)
        return r;
    if (strv_bytes(p->entrypoint) + strv_bytes(p->cmd) + strv_bytes(p->env) + strlen(p->user) +
            strlen(p->working_dir) + strlen(p->stop_signal) >
        OCI_PROCESS_BYTES)
        return error_set(err, -E2BIG, "env, entrypoint and cmd are larger than %u bytes",
                         OCI_PROCESS_BYTES);
    return 0;
}

static json_t *strv_to_json(char *const *v)
{
    json_t *list = json_array();

    for (size_t i = 0; v && v[i]; i++)
        (void)json_array_append_new(list, json_string(v[i]));
    return list;
}

json_t *oci_process_to_json(const struct oci_process *p)
{
    return json_pack("{s:o, s:o, s:o, s:s, s:s, s:s}", our_keys.entrypoint,
                     strv_to_json(p->entrypoint), our_keys.cmd, strv_to_json(p->cmd), our_keys.env,
                     strv_to_json(p->env), our_keys.user, p->user ? p->user : "",
                     our_keys.working_dir, p->working_dir ? p->working_dir : "",
                     our_keys.stop_signal, p->stop_signal ? p->stop_signal : "");
}

int oci_process_from_json(const json_t *doc, struct oci_process *ret, struct error **err)
{
    struct oci_process p = {0};
    int r;

    if (!json_is_object(doc))
        return error_set(err, -EBADMSG, "no process object");
    r = process_parse(doc, &our_keys, &p, err);
    if (r < 0) {
        oci_process_done(&p);
        return r;
    }
    *ret = p;
    return 0;
}

static int diff_ids_parse(const json_t *root, struct oci_config *c, struct error **err)
{
    const json_t *fs = json_object_get(root, "rootfs");
    const json_t *list = json_object_get(fs, "diff_ids");
    size_t n = json_array_size(list);
    const char *type;
    int r;

    if (!json_is_object(fs))
        return error_set(err, -EBADMSG, "no rootfs");
    r = oci_json_str(fs, "type", &type, err);
    if (r < 0)
        return r;
    if (!str_equal(type, "layers"))
        return error_set(err, -EOPNOTSUPP, "the rootfs is not of layers");
    if (list && !json_is_null(list) && !json_is_array(list))
        return error_set(err, -EBADMSG, "\"diff_ids\" is no list");
    if (n > LIMIT_IMAGE_LAYERS)
        return error_set(err, -E2BIG, "more than %d layers", LIMIT_IMAGE_LAYERS);
    c->diff_ids = xcalloc(n ? n : 1, sizeof(*c->diff_ids));
    for (size_t i = 0; i < n; i++) {
        r = oci_digest_parse(json_string_value(json_array_get(list, i)), &c->diff_ids[i]);
        if (r < 0)
            return error_set(err, r == -EOPNOTSUPP ? r : -EBADMSG, "diff_id %zu is not sha256", i);
    }
    c->n_diff_ids = n;
    return 0;
}

static int config_parse(const json_t *root, struct oci_config *c, struct error **err)
{
    const json_t *process = json_object_get(root, "config");
    json_t *none = NULL;
    int r;

    if ((r = text_parse(root, "architecture", &c->architecture, err)) < 0 ||
        (r = text_parse(root, "os", &c->os, err)) < 0)
        return r;
    if (!process || json_is_null(process))
        process = none = json_object();
    r = json_is_object(process) ? process_parse(process, &oci_keys, &c->process, err)
                                : error_set(err, -EBADMSG, "\"config\" is no object");
    json_decref(none);
    return r < 0 ? r : diff_ids_parse(root, c, err);
}

int oci_config_parse(const void *bytes, size_t len, struct oci_config *ret, struct error **err)
{
    struct oci_config c = {0};
    json_t *root;
    int r;

    r = oci_json_parse(bytes, len, LIMIT_IMAGE_CONFIG_BYTES, "the image config", &root, err);
    if (r < 0)
        return r;
    r = config_parse(root, &c, err);
    json_decref(root);
    if (r < 0) {
        oci_config_done(&c);
        return error_prefix(err, r, "image config");
    }
    *ret = c;
    return 0;
}

void oci_config_done(struct oci_config *c)
{
    free(c->architecture);
    free(c->os);
    oci_process_done(&c->process);
    free(c->diff_ids);
    memset(c, 0, sizeof(*c));
}

int oci_user_parse(const char *user, int64_t *ret_uid, char **ret_name)
{
    size_t n = strcspn(user, ":");
    _cleanup_(freep) char *name = str_ndup(user, n);
    uint32_t uid;

    *ret_uid = -1;
    *ret_name = NULL;
    if (n == 0) {
        *ret_uid = 0;
        return 0;
    }
    if (strspn(name, "+-0123456789") < n) {
        *ret_name = TAKE(name);
        return 0;
    }
    if (parse_u32(name, UINT32_MAX - 1, &uid) < 0)
        return -EINVAL;
    *ret_uid = uid;
    return 0;
}
