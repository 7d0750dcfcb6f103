/* SPDX-License-Identifier: Apache-2.0 */
/* Results of ADD: form, limits, and whether they answer what was asked. Sans-IO; fuzzed. The order
 * is interfaces, ips (which point at interfaces), routes (which borrow gateways of ips), dns. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/limit.h"
#include "base/numparse.h"
#include "base/str.h"
#include "net/cni-internal.h"
#include "net/cni.h"

struct address {
    int family;
    unsigned prefix; /* bits; of an address without prefix: all */
    union {
        struct in_addr v4;
        struct in6_addr v6;
        uint8_t bytes[16];
    } a;
};

/* ---------------------------------------------------------------- addresses */

/* "1.2.3.4", or with "/24" if cidr. Leading zeros, zones and v4-mapped forms are refused. */
static int parse_address(const char *text, bool cidr, struct address *ret)
{
    char host[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    uint32_t prefix = 0;
    unsigned bits;

    if (len == 0 || len >= sizeof(host) || cidr != (slash != NULL))
        return -EINVAL;
    memcpy(host, text, len);
    host[len] = '\0';
    *ret = (struct address){0};
    if (inet_pton(AF_INET, host, &ret->a.v4) == 1)
        ret->family = AF_INET;
    else if (inet_pton(AF_INET6, host, &ret->a.v6) == 1)
        ret->family = AF_INET6;
    else
        return -EINVAL;
    if (ret->family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&ret->a.v6))
        return -EINVAL;
    bits = ret->family == AF_INET ? 32 : 128;
    ret->prefix = bits;
    if (cidr) {
        if (parse_u32(slash + 1, bits, &prefix) < 0)
            return -EINVAL;
        ret->prefix = prefix;
    }
    return 0;
}

/* An address that a host can have: not unspecified, loopback, multicast or broadcast. */
static bool is_host_address(const struct address *a)
{
    if (a->family == AF_INET6)
        return !IN6_IS_ADDR_UNSPECIFIED(&a->a.v6) && !IN6_IS_ADDR_LOOPBACK(&a->a.v6) &&
               !IN6_IS_ADDR_MULTICAST(&a->a.v6);
    return a->a.bytes[0] != 0 && a->a.bytes[0] != 127 && a->a.bytes[0] < 224;
}

static void format_address(const struct address *a, char out[CNI_ADDRESS_SIZE])
{
    if (!inet_ntop(a->family, &a->a, out, CNI_ADDRESS_SIZE))
        out[0] = '\0'; /* cannot be: the family is one of two and there is room */
}

static void format_cidr(const struct address *a, char out[CNI_ADDRESS_SIZE])
{
    format_address(a, out);
    size_t n = strlen(out);
    (void)snprintf(out + n, CNI_ADDRESS_SIZE - n, "/%u", a->prefix);
}

/* ---------------------------------------------------------------- form */

/* The array of that name, or NULL if it is absent or null. */
static int get_array(const json_t *doc, const char *key, size_t max, json_t **ret,
                     struct error **err)
{
    json_t *v = json_object_get(doc, key);

    *ret = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_array(v))
        return error_set(err, -EBADMSG, "%s is no array", key);
    if (json_array_size(v) > max)
        return error_set(err, -E2BIG, "%s has %zu entries, more than %zu", key, json_array_size(v),
                         max);
    *ret = v;
    return 0;
}

/* The string of that name, NULL if absent or null. */
static int get_string(const json_t *obj, const char *key, const char **ret)
{
    const json_t *v = json_object_get(obj, key);

    *ret = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_string(v))
        return -EBADMSG;
    *ret = json_string_value(v);
    return 0;
}

/* A non-negative integer up to max, 0 if absent or null. */
static int get_number(const json_t *obj, const char *key, uint32_t max, uint32_t *ret)
{
    const json_t *v = json_object_get(obj, key);

    *ret = 0;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > max)
        return -EBADMSG;
    *ret = (uint32_t)json_integer_value(v);
    return 0;
}

/* ---------------------------------------------------------------- interfaces */

static int parse_mac(const char *text, char out[18])
{
    uint8_t b[6];

    if (strlen(text) != 17)
        return -EBADMSG;
    for (size_t i = 0; i < 6; i++) {
        unsigned v = 0;

        for (size_t k = 0; k < 2; k++) {
            char c = text[i * 3 + k];

            if (c >= '0' && c <= '9')
                v = v * 16 + (unsigned)(c - '0');
            else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
                v = v * 16 + (unsigned)((c | 0x20) - 'a') + 10;
            else
                return -EBADMSG;
        }
        if (i < 5 && text[i * 3 + 2] != ':')
            return -EBADMSG;
        b[i] = (uint8_t)v;
    }
    if (b[0] & 1) /* multicast */
        return -EBADMSG;
    (void)snprintf(out, 18, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
    return 0;
}

/* One interface: on the host (no sandbox), or in our namespace under our name. */
static int read_interface(struct cni_result *res, const json_t *e, size_t i,
                          const struct cni_expect *x, bool *ret_ours, struct error **err)
{
    const char *name, *mac, *sandbox;
    uint32_t mtu;

    if (!json_is_object(e) || get_string(e, "name", &name) < 0 || get_string(e, "mac", &mac) < 0 ||
        get_string(e, "sandbox", &sandbox) < 0 || get_number(e, "mtu", 1U << 20, &mtu) < 0)
        return error_set(err, -EBADMSG, "interfaces[%zu] is malformed", i);
    if (!name || !cni_ifname_is_valid(name))
        return error_set(err, -EBADMSG, "interfaces[%zu].name is no interface name", i);
    if (!sandbox || !*sandbox)
        return 0;
    if (x->netns && !str_equal(sandbox, x->netns)) {
        _cleanup_(freep) char *shown = cni_printable(sandbox, strlen(sandbox), 128);
        return error_set(err, -EBADMSG, "interfaces[%zu].sandbox is %s, asked was %s", i, shown,
                         x->netns);
    }
    if (x->ifname && !str_equal(name, x->ifname))
        return 0; /* a second one in the pod's namespace is the plugin's affair */
    if (mac && *mac && parse_mac(mac, res->mac) < 0)
        return error_set(err, -EBADMSG, "interfaces[%zu].mac is no unicast MAC address", i);
    res->mtu = mtu;
    *ret_ours = true;
    return 0;
}

/* ret_ours[i]: interface i is the one that was asked for. */
static int read_interfaces(struct cni_result *res, const json_t *doc, const struct cni_expect *x,
                           bool ret_ours[CNI_INTERFACES_MAX], size_t *ret_n, struct error **err)
{
    bool found = false;
    json_t *list, *e;
    size_t i;
    int r;

    r = get_array(doc, "interfaces", CNI_INTERFACES_MAX, &list, err);
    if (r < 0)
        return r;
    json_array_foreach (list, i, e) {
        ret_ours[i] = false;
        r = read_interface(res, e, i, x, &ret_ours[i], err);
        if (r < 0)
            return r;
        found |= ret_ours[i];
    }
    *ret_n = list ? json_array_size(list) : 0;
    if (*ret_n > 0 && !found && x->ifname)
        return error_set(err, -EBADMSG, "interfaces do not contain %s in the pod's namespace",
                         x->ifname);
    return 0;
}

/* ---------------------------------------------------------------- ips, routes, dns */

/* Index into interfaces: absent, or one that is there and ours. */
static int check_ip_interface(const json_t *e, const bool *ours, size_t n)
{
    const json_t *v = json_object_get(e, "interface");

    if (!v || json_is_null(v))
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (json_int_t)n <= json_integer_value(v))
        return -EBADMSG;
    return ours[json_integer_value(v)] ? 0 : -EBADMSG;
}

static int read_ip(const json_t *e, size_t i, const bool *ours, size_t n_interfaces,
                   struct cni_ip *ret, struct error **err)
{
    const char *text, *gateway, *version;
    struct address a, gw;

    if (!json_is_object(e) || get_string(e, "address", &text) < 0 ||
        get_string(e, "version", &version) < 0 || get_string(e, "gateway", &gateway) < 0)
        return error_set(err, -EBADMSG, "ips[%zu] is malformed", i);
    if (!text || parse_address(text, true, &a) < 0 || a.prefix == 0 || !is_host_address(&a))
        return error_set(err, -EBADMSG, "ips[%zu].address is no host address with prefix", i);
    if (version && !str_equal(version, a.family == AF_INET ? "4" : "6"))
        return error_set(err, -EBADMSG, "ips[%zu].version contradicts its address", i);
    if (check_ip_interface(e, ours, n_interfaces) < 0)
        return error_set(err, -EBADMSG,
                         "ips[%zu].interface does not point at the interface that was asked for",
                         i);
    ret->family = a.family;
    ret->prefix = a.prefix;
    format_address(&a, ret->address);
    format_cidr(&a, ret->cidr);
    if (!gateway || !*gateway)
        return 0;
    if (parse_address(gateway, false, &gw) < 0 || gw.family != a.family || !is_host_address(&gw))
        return error_set(err, -EBADMSG, "ips[%zu].gateway is no address of its family", i);
    format_address(&gw, ret->gateway);
    return 0;
}

static int read_ips(struct cni_result *res, const json_t *doc, const bool *ours,
                    size_t n_interfaces, struct error **err)
{
    json_t *list, *e;
    size_t i;
    int r;

    r = get_array(doc, "ips", CNI_IPS_MAX, &list, err);
    if (r < 0 || !list || json_array_size(list) == 0)
        return r;
    res->ips = xcalloc(json_array_size(list), sizeof(*res->ips));
    json_array_foreach (list, i, e) {
        r = read_ip(e, i, ours, n_interfaces, &res->ips[i], err);
        if (r < 0)
            return r;
        res->n_ips++;
    }
    return 0;
}

static const char *first_gateway(const struct cni_result *res, int family)
{
    for (size_t i = 0; i < res->n_ips; i++)
        if (res->ips[i].family == family && res->ips[i].gateway[0])
            return res->ips[i].gateway;
    return "";
}

static int read_route(const struct cni_result *res, const json_t *e, size_t i,
                      struct cni_route *ret, struct error **err)
{
    const char *dst, *gateway;
    struct address a, gw;
    uint32_t scope;

    if (!json_is_object(e) || get_string(e, "dst", &dst) < 0 || get_string(e, "gw", &gateway) < 0 ||
        get_number(e, "priority", UINT32_MAX, &ret->metric) < 0 ||
        get_number(e, "scope", 255, &scope) < 0)
        return error_set(err, -EBADMSG, "routes[%zu] is malformed", i);
    if (!dst || parse_address(dst, true, &a) < 0)
        return error_set(err, -EBADMSG, "routes[%zu].dst is no address with prefix", i);
    ret->family = a.family;
    format_cidr(&a, ret->destination);
    if (!gateway || !*gateway) {
        if (scope < 253) /* RT_SCOPE_LINK: deliberately without gateway */
            (void)snprintf(ret->gateway, sizeof(ret->gateway), "%s", first_gateway(res, a.family));
        return 0;
    }
    if (parse_address(gateway, false, &gw) < 0 || gw.family != a.family || !is_host_address(&gw))
        return error_set(err, -EBADMSG, "routes[%zu].gw is no address of its family", i);
    format_address(&gw, ret->gateway);
    return 0;
}

static int read_routes(struct cni_result *res, const json_t *doc, struct error **err)
{
    json_t *list, *e;
    size_t i;
    int r;

    r = get_array(doc, "routes", CNI_ROUTES_MAX, &list, err);
    if (r < 0 || !list || json_array_size(list) == 0)
        return r;
    res->routes = xcalloc(json_array_size(list), sizeof(*res->routes));
    json_array_foreach (list, i, e) {
        r = read_route(res, e, i, &res->routes[i], err);
        if (r < 0)
            return r;
        res->n_routes++;
    }
    return 0;
}

/* A word for resolv.conf: it must not be able to begin a new line or field there. */
static bool is_dns_word(const char *s)
{
    size_t n = strlen(s);

    if (n == 0 || n > 255)
        return false;
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f)
            return false;
    return true;
}

static int read_words(const json_t *dns, const char *key, bool addresses, char ***ret,
                      struct error **err)
{
    json_t *list, *e;
    size_t i;
    int r;

    r = get_array(dns, key, CNI_DNS_MAX, &list, err);
    if (r < 0)
        return r;
    json_array_foreach (list, i, e) {
        struct address a;
        const char *s = json_string_value(e);

        if (!s || !is_dns_word(s) || (addresses && parse_address(s, false, &a) < 0))
            return error_set(err, -EBADMSG, "dns.%s[%zu] is no %s", key, i,
                             addresses ? "address" : "word of printable characters");
        strv_push(ret, s);
    }
    return 0;
}

static int read_dns(struct cni_result *res, const json_t *doc, struct error **err)
{
    const json_t *dns = json_object_get(doc, "dns");
    const char *domain;
    int r;

    if (!dns || json_is_null(dns))
        return 0;
    if (!json_is_object(dns) || get_string(dns, "domain", &domain) < 0)
        return error_set(err, -EBADMSG, "dns is malformed");
    if (domain && *domain && !is_dns_word(domain))
        return error_set(err, -EBADMSG, "dns.domain is no word of printable characters");
    if (domain && *domain)
        res->dns.domain = str_dup(domain);
    r = read_words(dns, "nameservers", true, &res->dns.nameservers, err);
    if (r == 0)
        r = read_words(dns, "search", false, &res->dns.searches, err);
    if (r == 0)
        r = read_words(dns, "options", false, &res->dns.options, err);
    return r;
}

/* ---------------------------------------------------------------- the whole */

static int check_version(const json_t *doc, const struct cni_expect *x, struct error **err)
{
    const char *v = json_string_value(json_object_get(doc, "cniVersion"));

    if (!v)
        return error_set(err, -EBADMSG, "cniVersion is missing or no string");
    if (!cni_version_is_known(v) || (x->version && !str_equal(v, x->version))) {
        _cleanup_(freep) char *shown = cni_printable(v, strlen(v), 32);
        return error_set(err, -EBADMSG, "cniVersion is \"%s\", asked was %s", shown,
                         x->version ? x->version : "0.3.0 to 1.1.0");
    }
    return 0;
}

int cni_result_parse(const char *text, size_t len, const struct cni_expect *expect,
                     struct cni_result **ret, struct error **err)
{
    static const struct cni_expect anything;
    const struct cni_expect *x = expect ? expect : &anything;
    _cleanup_(cni_result_freep) struct cni_result *res = xcalloc(1, sizeof(*res));
    _cleanup_(json_decrefp) json_t *doc = NULL;
    bool ours[CNI_INTERFACES_MAX];
    size_t n_interfaces = 0;
    char why[256];
    int r;

    if (len == 0)
        return error_set(err, -EBADMSG, "the result is empty");
    r = json_input_parse(text, len, LIMIT_CNI_STDOUT_BYTES, &doc, why, sizeof(why));
    if (r < 0) {
        _cleanup_(freep) char *shown = cni_printable(why, strlen(why), 200);
        return error_set(err, r == -EMSGSIZE ? -E2BIG : r, "the result is no acceptable JSON: %s",
                         shown);
    }
    if (!json_is_object(doc))
        return error_set(err, -EBADMSG, "the result is no JSON object");
    r = check_version(doc, x, err);
    if (r == 0)
        r = read_interfaces(res, doc, x, ours, &n_interfaces, err);
    if (r == 0)
        r = read_ips(res, doc, ours, n_interfaces, err);
    if (r == 0)
        r = read_routes(res, doc, err);
    if (r == 0)
        r = read_dns(res, doc, err);
    if (r < 0)
        return r;
    res->json = json_dumps(doc, JSON_COMPACT);
    if (!res->json)
        return error_set(err, -ENOMEM, "out of memory for a CNI result");
    *ret = TAKE(res);
    return 0;
}

void cni_result_free(struct cni_result *res)
{
    if (!res)
        return;
    free(res->ips);
    free(res->routes);
    strv_free(res->dns.nameservers);
    strv_free(res->dns.searches);
    strv_free(res->dns.options);
    free(res->dns.domain);
    free(res->json);
    free(res);
}

int cni_error_parse(const char *text, size_t len, char **ret_text, unsigned *ret_code)
{
    _cleanup_(json_decrefp) json_t *doc = NULL;
    _cleanup_(freep) char *msg = NULL, *details = NULL;
    const char *m, *d;
    uint32_t code;
    char why[256];

    if (json_input_parse(text, len, LIMIT_CNI_STDOUT_BYTES, &doc, why, sizeof(why)) < 0 ||
        !json_is_object(doc) || !json_object_get(doc, "code") ||
        get_number(doc, "code", UINT32_MAX, &code) < 0 || get_string(doc, "msg", &m) < 0 ||
        get_string(doc, "details", &d) < 0)
        return 0;
    msg = cni_printable(m ? m : "", m ? strlen(m) : 0, 1024);
    details = cni_printable(d ? d : "", d ? strlen(d) : 0, 512);
    *ret_text = str_printf("%s%s%s", *msg ? msg : "no message", *details ? "; " : "", details);
    *ret_code = code;
    return 1;
}
