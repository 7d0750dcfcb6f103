/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration lists: which file counts, what is right about it. Start at cni_load(). */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "net/cni-internal.h"
#include "net/cni.h"

#define CONF_FILES_MAX 1000

/* The node's configuration is bad, not what the caller asked for: it may try again later. */
#define conf_error(err, ...) error_set_class(err, ERROR_UNAVAILABLE, -EINVAL, __VA_ARGS__)

static const char *const versions[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}; /* ascending */

static int version_index(const char *v)
{
    for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
        if (str_equal(v, versions[i]))
            return (int)i;
    return -EINVAL;
}

bool cni_version_is_known(const char *v)
{
    return version_index(v) >= 0;
}

int cni_version_at_least(const char *a, const char *b)
{
    int ia = version_index(a), ib = version_index(b);

    return ia < 0 || ib < 0 ? -EINVAL : ia >= ib;
}

bool cni_name_is_valid(const char *s)
{
    size_t n = 0;

    for (; s[n]; n++) {
        bool alnum = (s[n] >= 'a' && s[n] <= 'z') || (s[n] >= 'A' && s[n] <= 'Z') ||
                     (s[n] >= '0' && s[n] <= '9');

        if (!alnum && (n == 0 || !strchr("_.-", s[n])))
            return false;
    }
    return n > 0 && n <= 255;
}

bool cni_type_is_valid(const char *s)
{
    return cni_name_is_valid(s);
}

bool cni_ifname_is_valid(const char *s)
{
    size_t n = strlen(s);

    if (n == 0 || n > 15 || str_equal(s, ".") || str_equal(s, ".."))
        return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] == 0x7f || s[i] == '/' || s[i] == ':')
            return false;
    return true;
}

/* ---------------------------------------------------------------- one list */

static unsigned read_capabilities(const json_t *conf)
{
    const json_t *caps = json_object_get(conf, "capabilities");

    return (json_is_true(json_object_get(caps, "portMappings")) ? (unsigned)CNI_CAP_PORT_MAPPINGS
                                                                : 0U) |
           (json_is_true(json_object_get(caps, "dns")) ? (unsigned)CNI_CAP_DNS : 0U);
}

static int read_plugin(struct cni_network *net, json_t *conf, struct error **err)
{
    static const char *const reserved[] = {"prevResult", "runtimeConfig"};
    struct cni_plugin *p = &net->plugins[net->n_plugins];
    const json_t *type = json_object_get(conf, "type"),
                 *caps = json_object_get(conf, "capabilities");
    const json_t *ipam = json_object_get(json_object_get(conf, "ipam"), "type");

    if (!json_is_object(conf))
        return conf_error(err, "%s: plugins[%zu] is no object", net->file, net->n_plugins);
    if (!json_is_string(type))
        return conf_error(err, "%s: plugins[%zu].type is missing or no string", net->file,
                          net->n_plugins);
    if (!cni_type_is_valid(json_string_value(type)))
        return conf_error(
            err,
            "%s: plugins[%zu].type must be the bare file name of a plugin ([A-Za-z0-9_.-], "
            "255 at most)",
            net->file, net->n_plugins);
    if (ipam && (!json_is_string(ipam) || !cni_type_is_valid(json_string_value(ipam))) &&
        !str_equal(json_string_value(ipam), ""))
        return conf_error(err, "%s: plugins[%zu].ipam.type must be the bare file name of a plugin",
                          net->file, net->n_plugins);
    if (caps && !json_is_object(caps))
        return conf_error(err, "%s: plugins[%zu].capabilities is no object", net->file,
                          net->n_plugins);
    for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
        if (json_object_get(conf, reserved[i]))
            return conf_error(err, "%s: plugins[%zu] has \"%s\", which only the runtime sets",
                              net->file, net->n_plugins, reserved[i]);
    p->type = str_dup(json_string_value(type));
    p->capabilities = read_capabilities(conf);
    p->conf = json_incref(conf);
    net->n_plugins++;
    return 0;
}

/* cniVersion, or the newest of cniVersions (1.1.0) that we speak. */
static int read_version(struct cni_network *net, const json_t *doc, struct error **err)
{
    const json_t *v = json_object_get(doc, "cniVersion"),
                 *all = json_object_get(doc, "cniVersions"), *e;
    int best = -1;
    size_t i;

    if (json_is_string(v))
        best = version_index(json_string_value(v));
    json_array_foreach (all, i, e) {
        int k = json_is_string(e) ? version_index(json_string_value(e)) : -EINVAL;

        if (k > best)
            best = k;
    }
    if (best >= 0) {
        net->version = str_dup(versions[best]);
        return 0;
    }
    if (!v)
        return conf_error(err, "%s: cniVersion is missing; write one of 0.3.0 to 1.1.0", net->file);
    if (!json_is_string(v))
        return conf_error(err, "%s: cniVersion is no string", net->file);
    _cleanup_(freep) char *shown = cni_printable(json_string_value(v), json_string_length(v), 32);
    return conf_error(err,
                      "%s: cniVersion \"%s\" is not supported; 0.3.0, 0.3.1, 0.4.0, 1.0.0 "
                      "and 1.1.0 are",
                      net->file, shown);
}

static int read_flag(const struct cni_network *net, const json_t *doc, const char *key, bool *ret,
                     struct error **err)
{
    const json_t *v = json_object_get(doc, key);

    if (v && !json_is_boolean(v))
        return conf_error(err, "%s: %s must be true or false", net->file, key);
    *ret = json_is_true(v);
    return 0;
}

static int read_list(struct cni_network *net, json_t *doc, struct error **err)
{
    json_t *plugins = json_object_get(doc, "plugins"), *e;
    const json_t *name = json_object_get(doc, "name");
    bool unused;
    size_t i;
    int r;

    if (!json_is_object(doc))
        return conf_error(err, "%s: no JSON object", net->file);
    if (!json_is_string(name) || !cni_name_is_valid(json_string_value(name)))
        return conf_error(err,
                          "%s: name is missing or not of [A-Za-z0-9][A-Za-z0-9_.-]*, 255 at most",
                          net->file);
    net->name = str_dup(json_string_value(name));
    r = read_version(net, doc, err);
    if (r == 0)
        r = read_flag(net, doc, "disableCheck", &net->disable_check, err);
    if (r == 0)
        r = read_flag(net, doc, "disableGC", &unused, err);
    if (r < 0)
        return r;
    if (!json_is_array(plugins) || json_array_size(plugins) == 0)
        return conf_error(err, "%s: plugins is missing or empty", net->file);
    if (json_array_size(plugins) > CNI_PLUGINS_MAX)
        return conf_error(err, "%s: more than %d plugins", net->file, CNI_PLUGINS_MAX);
    json_array_foreach (plugins, i, e) {
        r = read_plugin(net, e, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A single plugin's configuration (.conf) as the list that it stands for. Takes doc. */
static json_t *list_from_single(json_t *doc)
{
    json_t *name = json_object_get(doc, "name"), *version = json_object_get(doc, "cniVersion");
    json_t *list = json_object();

    if (name)
        (void)json_object_set(list, "name", name);
    if (version)
        (void)json_object_set(list, "cniVersion", version);
    (void)json_object_set_new(list, "plugins", json_pack("[o]", doc));
    return list;
}

int cni_network_parse(const char *text, size_t len, const char *file, struct cni_network **ret,
                      struct error **err)
{
    _cleanup_(cni_network_freep) struct cni_network *net = xcalloc(1, sizeof(*net));
    _cleanup_(json_decrefp) json_t *doc = NULL;
    char why[256];
    int r;

    net->file = str_dup(file);
    r = json_input_parse(text, len, CNI_CONF_BYTES_MAX, &doc, why, sizeof(why));
    if (r < 0) {
        _cleanup_(freep) char *shown = cni_printable(why, strlen(why), 200);
        return conf_error(err, "%s: %s", file, len ? shown : "the file is empty");
    }
    if (json_is_object(doc) && !json_object_get(doc, "plugins") && json_object_get(doc, "type"))
        doc = list_from_single(TAKE(doc));
    r = read_list(net, doc, err);
    if (r < 0)
        return r;
    net->json = json_dumps(doc, JSON_COMPACT);
    if (!net->json)
        return error_set(err, -ENOMEM, "%s: out of memory", file);
    *ret = TAKE(net);
    return 0;
}

void cni_network_free(struct cni_network *net)
{
    if (!net)
        return;
    for (size_t i = 0; i < net->n_plugins; i++) {
        free(net->plugins[i].type);
        json_decref(net->plugins[i].conf);
    }
    free(net->name);
    free(net->version);
    free(net->file);
    free(net->json);
    free(net);
}

/* ---------------------------------------------------------------- the directory */

static bool is_conf_name(const char *name)
{
    return name[0] != '.' &&
           (str_ends(name, ".conflist") || str_ends(name, ".conf") || str_ends(name, ".json"));
}

/* The first name in byte order. -ENOENT: none. */
static int first_conf(const char *conf_dir, char **ret, struct error **err)
{
    _cleanup_(freep) char *first = NULL;
    DIR *d = opendir(conf_dir);
    struct dirent *e;
    size_t n = 0;

    if (!d && errno != ENOENT)
        return error_set(err, -errno, "cannot read CNI configuration directory %s: %s", conf_dir,
                         strerror(errno));
    while (d && (e = readdir(d)) && n < CONF_FILES_MAX) {
        if (!is_conf_name(e->d_name))
            continue;
        n++;
        if (!first || strcmp(e->d_name, first) < 0) {
            free(first);
            first = str_dup(e->d_name);
        }
    }
    if (d)
        closedir(d);
    if (!first)
        return error_set_class(
            err, ERROR_UNAVAILABLE, -ENOENT,
            "no CNI configuration (*.conflist, *.conf, *.json) in %s%s: install your "
            "network's, or copy 10-nexus.conflist there",
            conf_dir, d ? "" : " (no such directory)");
    *ret = TAKE(first);
    return 0;
}

int cni_load(const char *conf_dir, struct cni_network **ret, struct error **err)
{
    _cleanup_(freep) char *name = NULL, *path = NULL, *text = NULL;
    size_t len;
    int r;

    r = first_conf(conf_dir, &name, err);
    if (r < 0)
        return r;
    path = str_printf("%s/%s", conf_dir, name);
    r = file_read_all(AT_FDCWD, path, CNI_CONF_BYTES_MAX, &text, &len);
    if (r == -EINVAL)
        return conf_error(err, "%s: no regular file", path);
    if (r == -EFBIG)
        return conf_error(err, "%s: larger than %u bytes", path, CNI_CONF_BYTES_MAX);
    if (r < 0)
        return error_set_class(err, ERROR_UNAVAILABLE, r, "cannot read %s: %s", path, strerror(-r));
    return cni_network_parse(text, len, path, ret, err);
}

/* ---------------------------------------------------------------- plugins on disk */

int cni_find_plugin(const char *type, char *const *bin_dirs, char **ret, struct error **err)
{
    _cleanup_(freep) char *dirs = str_dup("");

    for (size_t i = 0; bin_dirs && bin_dirs[i]; i++) {
        _cleanup_(freep) char *path = str_printf("%s/%s", bin_dirs[i], type);
        struct stat st;
        char *more;

        if (!stat(path, &st) && S_ISREG(st.st_mode) && (st.st_mode & 0111)) {
            *ret = TAKE(path);
            return 0;
        }
        more = str_printf("%s%s%s", dirs, *dirs ? ", " : "", bin_dirs[i]);
        free(dirs);
        dirs = more;
    }
    return error_set_class(err, ERROR_UNAVAILABLE, -ENOENT,
                           "CNI plugin \"%s\" is in none of %s: install it (Debian: package "
                           "containernetworking-plugins) or correct the list of plugin directories",
                           type, *dirs ? dirs : "(no directories configured)");
}

int cni_status(const char *conf_dir, char *const *bin_dirs, struct cni_network **ret,
               struct error **err)
{
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;
    int r = cni_load(conf_dir, &net, err);

    for (size_t i = 0; r == 0 && i < net->n_plugins; i++) {
        _cleanup_(freep) char *path = NULL, *ipam_path = NULL;
        const char *ipam = json_string_value(
            json_object_get(json_object_get(net->plugins[i].conf, "ipam"), "type"));

        r = cni_find_plugin(net->plugins[i].type, bin_dirs, &path, err);
        if (r == 0 && ipam && *ipam)
            r = cni_find_plugin(ipam, bin_dirs, &ipam_path, err);
        if (r < 0)
            return error_prefix(err, r, "%s", net->file);
    }
    if (r == 0 && ret)
        *ret = TAKE(net);
    return r;
}
