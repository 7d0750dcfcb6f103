/* SPDX-License-Identifier: Apache-2.0 */
/* What goes into a plugin: environment and stdin, from a request that is checked first. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/str.h"
#include "net/cni-internal.h"
#include "net/cni.h"

#define PLUGIN_PATH_ENV "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const char *cni_command_name(enum cni_command cmd)
{
    static const char *const names[] = {
        [CNI_ADD] = "ADD", [CNI_DEL] = "DEL", [CNI_CHECK] = "CHECK"};

    return names[cmd];
}

char *cni_printable(const char *text, size_t len, size_t max)
{
    bool utf8 = utf8_is_valid((const uint8_t *)text, len);
    size_t n = 0;
    char *out;

    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == ' ' || text[len - 1] == '\0'))
        len--;
    if (len > max) {
        len = max;
        while (utf8 && len > 0 && ((uint8_t)text[len] & 0xc0) == 0x80) /* not within a character */
            len--;
    }
    out = xcalloc(len + 1, 1);
    for (size_t i = 0; i < len; i++) {
        uint8_t c = (uint8_t)text[i];

        if (c == '\n' || c == '\t' || c == '\r')
            out[n++] = ' ';
        else if (c < ' ' || c == 0x7f || (c >= 0x80 && !utf8))
            out[n++] = '?';
        else
            out[n++] = (char)c;
    }
    out[n] = '\0';
    return out;
}

/* ---------------------------------------------------------------- the request */

static int check_arg(const char *what, const char *s, struct error **err)
{
    size_t len = s ? strlen(s) : 0;

    if (len > 1024 || (s && (!str_is_clean(s, len) || strpbrk(s, ";="))))
        return error_set(
            err, -EINVAL,
            "CNI: the pod's %s must be printable, without ';' and '=', 1024 bytes at most", what);
    return 0;
}

static void append_arg(char **args, const char *key, const char *value)
{
    char *more;

    if (!value)
        return;
    more = str_printf("%s;%s=%s", *args, key, value);
    free(*args);
    *args = more;
}

static int build_args(struct cni_params *p, const struct cni_request *req, struct error **err)
{
    int r = check_arg("namespace", req->pod_namespace, err);

    if (r == 0)
        r = check_arg("name", req->pod_name, err);
    if (r == 0)
        r = check_arg("uid", req->pod_uid, err);
    if (r < 0)
        return r;
    p->args = str_dup("IgnoreUnknown=1");
    append_arg(&p->args, "K8S_POD_NAMESPACE", req->pod_namespace);
    append_arg(&p->args, "K8S_POD_NAME", req->pod_name);
    append_arg(&p->args, "K8S_POD_INFRA_CONTAINER_ID", req->container_id);
    append_arg(&p->args, "K8S_POD_UID", req->pod_uid);
    return 0;
}

static bool is_address(const char *s)
{
    struct in6_addr a;

    return inet_pton(AF_INET, s, &a) == 1 || inet_pton(AF_INET6, s, &a) == 1;
}

static int add_port(json_t *list, const struct cni_port_mapping *m, size_t i, struct error **err)
{
    json_t *e;

    if (!str_equal(m->protocol, "tcp") && !str_equal(m->protocol, "udp") &&
        !str_equal(m->protocol, "sctp"))
        return error_set(err, -EINVAL, "port mapping %zu: protocol must be tcp, udp or sctp", i);
    if (m->host_port < 1 || m->host_port > 65535 || m->container_port < 1 ||
        m->container_port > 65535)
        return error_set(err, -EINVAL,
                         "port mapping %zu: ports must be 1 to 65535 (host %u, container %u)", i,
                         m->host_port, m->container_port);
    if (m->host_ip && *m->host_ip && !is_address(m->host_ip))
        return error_set(err, -EINVAL, "port mapping %zu: host address is no IP address", i);
    e = json_pack("{s:i,s:i,s:s}", "hostPort", (int)m->host_port, "containerPort",
                  (int)m->container_port, "protocol", m->protocol);
    if (m->host_ip && *m->host_ip)
        (void)json_object_set_new(e, "hostIP", json_string(m->host_ip));
    return json_array_append_new(list, e) < 0
               ? error_set(err, -ENOMEM, "out of memory for port mappings")
               : 0;
}

static int build_ports(struct cni_params *p, const struct cni_request *req, struct error **err)
{
    int r = 0;

    if (req->n_ports == 0)
        return 0;
    if (req->n_ports > CNI_PORTS_MAX)
        return error_set(err, -E2BIG, "more than %d port mappings", CNI_PORTS_MAX);
    p->port_mappings = json_array();
    for (size_t i = 0; r == 0 && i < req->n_ports; i++)
        r = add_port(p->port_mappings, &req->ports[i], i, err);
    return r;
}

static int set_words(json_t *obj, const char *key, char *const *words, struct error **err)
{
    json_t *list;

    if (!words || !words[0])
        return 0;
    list = json_array();
    for (size_t i = 0; words[i]; i++)
        if (i >= CNI_DNS_MAX || json_array_append_new(list, json_string(words[i])) < 0) {
            json_decref(list);
            return error_set(err, -EINVAL, "dns %s: more than %d entries, or one that is no UTF-8",
                             key, CNI_DNS_MAX);
        }
    return json_object_set_new(obj, key, list) < 0
               ? error_set(err, -ENOMEM, "out of memory for dns")
               : 0;
}

static int build_dns(struct cni_params *p, const struct cni_request *req, struct error **err)
{
    int r;

    p->dns = json_object();
    r = set_words(p->dns, "servers", req->dns_servers, err);
    if (r == 0)
        r = set_words(p->dns, "searches", req->dns_searches, err);
    if (r == 0)
        r = set_words(p->dns, "options", req->dns_options, err);
    if (r == 0 && json_object_size(p->dns) == 0) {
        json_decref(p->dns);
        p->dns = NULL;
    }
    return r;
}

static int build_path(struct cni_params *p, const struct cni_request *req, struct error **err)
{
    p->path = str_dup("");
    p->bin_dirs = strv_dup(req->bin_dirs);
    for (size_t i = 0; req->bin_dirs && req->bin_dirs[i]; i++) {
        char *more;

        if (req->bin_dirs[i][0] != '/' || strchr(req->bin_dirs[i], ':'))
            return error_set(err, -EINVAL, "CNI plugin directory %s: must be absolute, without ':'",
                             req->bin_dirs[i]);
        more = str_printf("%s%s%s", p->path, i ? ":" : "", req->bin_dirs[i]);
        free(p->path);
        p->path = more;
    }
    return 0;
}

int cni_params_init(struct cni_params *p, enum cni_command cmd, const struct cni_request *req,
                    struct error **err)
{
    const char *netns = req->netns ? req->netns : "";
    int r;

    *p = (struct cni_params){0};
    if (!req->container_id || !cni_name_is_valid(req->container_id))
        return error_set(err, -EINVAL, "CNI: no valid container id");
    if (!req->ifname || !cni_ifname_is_valid(req->ifname))
        return error_set(err, -EINVAL, "CNI: no valid interface name");
    if (*netns ? *netns != '/' : cmd != CNI_DEL)
        return error_set(err, -EINVAL, "CNI: the network namespace must be an absolute path");
    p->container_id = str_dup(req->container_id);
    p->ifname = str_dup(req->ifname);
    p->netns = str_dup(netns);
    r = build_path(p, req, err);
    if (r == 0)
        r = build_args(p, req, err);
    if (r == 0)
        r = build_ports(p, req, err);
    if (r == 0)
        r = build_dns(p, req, err);
    if (r < 0)
        cni_params_done(p);
    return r;
}

void cni_params_done(struct cni_params *p)
{
    free(p->container_id);
    free(p->netns);
    free(p->ifname);
    free(p->args);
    free(p->path);
    strv_free(p->bin_dirs);
    json_decref(p->port_mappings);
    json_decref(p->dns);
    *p = (struct cni_params){0};
}

/* ---------------------------------------------------------------- what the plugin sees */

static void push_env(char ***env, const char *key, const char *value)
{
    _cleanup_(freep) char *line = str_printf("%s=%s", key, value);

    strv_push(env, line);
}

char **cni_params_environment(const struct cni_params *p, enum cni_command cmd)
{
    char **env = NULL;

    push_env(&env, "CNI_COMMAND", cni_command_name(cmd));
    push_env(&env, "CNI_CONTAINERID", p->container_id);
    push_env(&env, "CNI_NETNS", p->netns);
    push_env(&env, "CNI_IFNAME", p->ifname);
    push_env(&env, "CNI_ARGS", p->args);
    push_env(&env, "CNI_PATH", p->path);
    strv_push(&env, PLUGIN_PATH_ENV);
    return env;
}

char *cni_plugin_input(const struct cni_network *net, size_t index, const struct cni_params *p,
                       const json_t *prev_result)
{
    const struct cni_plugin *plugin = &net->plugins[index];
    _cleanup_(json_decrefp) json_t *in = json_copy(plugin->conf), *runtime = json_object();

    if (!in || !runtime)
        return NULL;
    (void)json_object_del(in, "capabilities");
    if ((plugin->capabilities & CNI_CAP_PORT_MAPPINGS) && p->port_mappings)
        (void)json_object_set(runtime, "portMappings", p->port_mappings);
    if ((plugin->capabilities & CNI_CAP_DNS) && p->dns)
        (void)json_object_set(runtime, "dns", p->dns);
    if (json_object_size(runtime) > 0)
        (void)json_object_set(in, "runtimeConfig", runtime);
    (void)json_object_set_new(in, "name", json_string(net->name));
    (void)json_object_set_new(in, "cniVersion", json_string(net->version));
    if (prev_result && json_object_set_new(in, "prevResult", json_deep_copy(prev_result)) < 0)
        return NULL;
    return json_dumps(in, JSON_COMPACT);
}
