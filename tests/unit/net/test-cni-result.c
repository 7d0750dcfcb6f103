/* SPDX-License-Identifier: Apache-2.0 */
/* CNI results: what is taken from a good one, and each way in which one can be bad. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "net/cni-internal.h"
#include "net/cni.h"

static const struct cni_expect expect = {"1.0.0", "eth0", "/run/netns/x"};

#define V "\"cniVersion\":\"1.0.0\""
#define IF                                                                                 \
    "\"interfaces\":[{\"name\":\"br0\",\"mac\":\"aa:00:00:00:00:01\"},{\"name\":\"eth0\"," \
    "\"mac\":\"AA:bb:CC:dd:ee:0f\",\"sandbox\":\"/run/netns/x\"}]"
#define WITH(members) "{" V "," IF "," members "}"
#define IP(members) WITH("\"ips\":[{" members "}]")

static const char bridge_result[] = WITH(
    "\"ips\":[{\"interface\":1,\"address\":\"10.88.0.7/16\",\"gateway\":\"10.88.0.1\"},"
    "{\"interface\":1,\"address\":\"FD88::0:7/64\",\"gateway\":\"fd88::1\"}],"
    "\"routes\":[{\"dst\":\"0.0.0.0/0\"},{\"dst\":\"::/0\",\"gw\":\"fd88::2\"},"
    "{\"dst\":\"192.168.0.0/24\",\"priority\":7}],"
    "\"dns\":{\"nameservers\":[\"10.0.0.10\"],\"domain\":\"cluster.local\",\"search\":[\"svc\"],"
    "\"options\":[\"ndots:5\"]}");

static void good_result_is_read_in_full(void **state)
{
    _cleanup_(cni_result_freep) struct cni_result *res = NULL;

    assert_int_equal(cni_result_parse(bridge_result, strlen(bridge_result), &expect, &res, NULL),
                     0);
    assert_string_equal(res->mac, "aa:bb:cc:dd:ee:0f");
    assert_int_equal(res->n_ips, 2);
    assert_int_equal(res->ips[0].family, AF_INET);
    assert_string_equal(res->ips[0].address, "10.88.0.7");
    assert_string_equal(res->ips[0].cidr, "10.88.0.7/16");
    assert_string_equal(res->ips[0].gateway, "10.88.0.1");
    assert_int_equal(res->ips[1].family, AF_INET6);
    assert_string_equal(res->ips[1].cidr, "fd88::7/64"); /* canonical */
    assert_int_equal(res->n_routes, 3);
    assert_string_equal(res->routes[0].destination, "0.0.0.0/0");
    assert_string_equal(res->routes[0].gateway, "10.88.0.1"); /* borrowed from ips */
    assert_string_equal(res->routes[1].gateway, "fd88::2");
    assert_int_equal(res->routes[2].metric, 7);
    assert_string_equal(res->dns.nameservers[0], "10.0.0.10");
    assert_string_equal(res->dns.domain, "cluster.local");
    assert_string_equal(res->dns.searches[0], "svc");
    assert_string_equal(res->dns.options[0], "ndots:5");

    /* what is saved reads the same */
    _cleanup_(cni_result_freep) struct cni_result *again = NULL;
    assert_int_equal(cni_result_parse(res->json, strlen(res->json), &expect, &again, NULL), 0);
    assert_string_equal(again->json, res->json);
}

static const struct {
    const char *name, *in;
    const char *why; /* NULL: accepted */
} rows[] = {
    {"no_interfaces_is_allowed", "{" V ",\"ips\":[{\"address\":\"10.0.0.2/24\"}]}", NULL},
    {"null_members_are_absent",
     "{" V ",\"interfaces\":null,\"ips\":null,\"routes\":null,\"dns\":null}", NULL},
    {"no_ips_is_well_formed", WITH("\"ips\":[]"), NULL},
    {"gateway_outside_the_subnet", IP("\"address\":\"10.0.0.2/32\",\"gateway\":\"169.254.1.1\""),
     NULL},
    {"old_version_member", IP("\"version\":\"4\",\"address\":\"10.0.0.2/24\""), NULL},
    {"link_scope_route", WITH("\"routes\":[{\"dst\":\"10.0.0.0/8\",\"scope\":253}]"), NULL},
    {"empty", "", "empty"},
    {"null", "null", "JSON"},
    {"array", "[]", "no JSON object"},
    {"text_before", "warning: x\n{" V "}", "JSON"},
    {"text_after", "{" V "}\ndone", "JSON"},
    {"two_values", "{" V "}{" V "}", "JSON"},
    {"partial", "{" V ",\"ips\":[", "JSON"},
    {"duplicate_key", "{" V "," V "}", "duplicate"},
    {"invalid_utf8", "{" V ",\"x\":\"\xc3\"}", "unable to decode"},
    {"number_over_64_bits", "{" V ",\"x\":18446744073709551616}", "JSON"},
    {"no_version", "{}", "cniVersion is missing"},
    {"version_is_a_number", "{\"cniVersion\":1}", "cniVersion is missing"},
    {"unknown_version", "{\"cniVersion\":\"9.9.9\"}", "\"9.9.9\""},
    {"another_version", "{\"cniVersion\":\"0.4.0\"}", "asked was 1.0.0"},
    {"interfaces_is_an_object", "{" V ",\"interfaces\":{}}", "interfaces is no array"},
    {"interface_is_a_number", "{" V ",\"interfaces\":[1]}", "interfaces[0] is malformed"},
    {"interface_without_name", "{" V ",\"interfaces\":[{}]}", "interfaces[0].name"},
    {"interface_of_16_bytes", "{" V ",\"interfaces\":[{\"name\":\"eth4567890123456\"}]}",
     "interfaces[0].name"},
    {"interface_with_slash", "{" V ",\"interfaces\":[{\"name\":\"a/b\"}]}", "interfaces[0].name"},
    {"foreign_namespace",
     "{" V ",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"/run/netns/y\"}]}",
     "asked was /run/netns/x"},
    {"other_interface_name",
     "{" V ",\"interfaces\":[{\"name\":\"eth1\",\"sandbox\":\"/run/netns/x\"}]}",
     "do not contain eth0"},
    {"host_interfaces_only", "{" V ",\"interfaces\":[{\"name\":\"eth0\"}]}", "do not contain eth0"},
    {"junk_mac",
     "{" V ",\"interfaces\":[{\"name\":\"eth0\",\"mac\":\"aa:bb\",\"sandbox\":\"/run/netns/x\"}]}",
     "mac"},
    {"multicast_mac",
     "{" V ",\"interfaces\":[{\"name\":\"eth0\",\"mac\":\"01:00:5e:00:00:01\",\"sandbox\":\"/run/"
     "netns/x\"}]}",
     "mac"},
    {"ip_is_a_string", WITH("\"ips\":[\"10.0.0.2/24\"]"), "ips[0] is malformed"},
    {"ip_without_address", IP("\"gateway\":\"10.0.0.1\""), "ips[0].address"},
    {"ip_without_prefix", IP("\"address\":\"10.0.0.2\""), "ips[0].address"},
    {"prefix_0", IP("\"address\":\"10.0.0.2/0\""), "ips[0].address"},
    {"prefix_33", IP("\"address\":\"10.0.0.2/33\""), "ips[0].address"},
    {"prefix_129", IP("\"address\":\"fd00::2/129\""), "ips[0].address"},
    {"prefix_is_text", IP("\"address\":\"10.0.0.2/x\""), "ips[0].address"},
    {"prefix_is_signed", IP("\"address\":\"10.0.0.2/+8\""), "ips[0].address"},
    {"v4_mapped", IP("\"address\":\"::ffff:10.0.0.2/120\""), "ips[0].address"},
    {"zone", IP("\"address\":\"fe80::1%eth0/64\""), "ips[0].address"},
    {"loopback", IP("\"address\":\"127.0.0.2/8\""), "ips[0].address"},
    {"multicast", IP("\"address\":\"224.0.0.2/8\""), "ips[0].address"},
    {"unspecified", IP("\"address\":\"::/64\""), "ips[0].address"},
    {"long_address",
     IP("\"address\":\"1111111111111111111111111111111111111111111111111111111/8\""),
     "ips[0].address"},
    {"version_contradicts", IP("\"version\":\"6\",\"address\":\"10.0.0.2/24\""), "ips[0].version"},
    {"gateway_of_the_other_family", IP("\"address\":\"10.0.0.2/24\",\"gateway\":\"fd00::1\""),
     "ips[0].gateway"},
    {"gateway_with_prefix", IP("\"address\":\"10.0.0.2/24\",\"gateway\":\"10.0.0.1/24\""),
     "ips[0].gateway"},
    {"interface_index_out_of_range", IP("\"interface\":2,\"address\":\"10.0.0.2/24\""),
     "ips[0].interface"},
    {"interface_index_negative", IP("\"interface\":-1,\"address\":\"10.0.0.2/24\""),
     "ips[0].interface"},
    {"interface_index_huge", IP("\"interface\":9223372036854775807,\"address\":\"10.0.0.2/24\""),
     "ips[0].interface"},
    {"interface_index_is_text", IP("\"interface\":\"1\",\"address\":\"10.0.0.2/24\""),
     "ips[0].interface"},
    {"interface_index_of_the_host_side", IP("\"interface\":0,\"address\":\"10.0.0.2/24\""),
     "ips[0].interface"},
    {"route_without_dst", WITH("\"routes\":[{}]"), "routes[0].dst"},
    {"route_without_prefix", WITH("\"routes\":[{\"dst\":\"10.0.0.0\"}]"), "routes[0].dst"},
    {"route_gateway_of_the_other_family",
     WITH("\"routes\":[{\"dst\":\"0.0.0.0/0\",\"gw\":\"fd00::1\"}]"), "routes[0].gw"},
    {"route_metric_negative", WITH("\"routes\":[{\"dst\":\"0.0.0.0/0\",\"priority\":-1}]"),
     "routes[0] is malformed"},
    {"dns_is_an_array", WITH("\"dns\":[]"), "dns is malformed"},
    {"nameserver_is_a_name", WITH("\"dns\":{\"nameservers\":[\"ns.example\"]}"),
     "dns.nameservers[0]"},
    {"search_with_newline", WITH("\"dns\":{\"search\":[\"a\\nnameserver 6.6.6.6\"]}"),
     "dns.search[0]"},
    {"option_with_space", WITH("\"dns\":{\"options\":[\"a b\"]}"), "dns.options[0]"},
    {"domain_with_newline", WITH("\"dns\":{\"domain\":\"a\\nb\"}"), "dns.domain"},
};

static void result_is_accepted_or_refused_with_the_place(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(cni_result_freep) struct cni_result *res = NULL;
        _cleanup_(error_freep) struct error *err = NULL;
        int r = cni_result_parse(rows[i].in, strlen(rows[i].in), &expect, &res, &err);

        print_message("# %s: %s\n", rows[i].name, r < 0 ? err->message : "ok");
        if (!rows[i].why) {
            assert_int_equal(r, 0);
            continue;
        }
        assert_int_equal(r, -EBADMSG);
        assert_null(res);
        assert_non_null(strstr(err->message, rows[i].why));
    }
}

static void any_cut_of_a_result_is_refused(void **state)
{
    for (size_t len = 0; len < strlen(bridge_result); len++) {
        _cleanup_(cni_result_freep) struct cni_result *res = NULL;
        assert_int_equal(cni_result_parse(bridge_result, len, &expect, &res, NULL), -EBADMSG);
    }
}

/* {V, key: [entry × n]} */
static char *repeated(const char *key, const char *entry, size_t n, size_t *ret_len)
{
    size_t size = n * (strlen(entry) + 1) + 128;
    char *text = xcalloc(size, 1);
    size_t at = (size_t)snprintf(text, size, "{" V ",\"%s\":[", key);

    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%s", i ? "," : "", entry);
    at += (size_t)snprintf(text + at, size - at, "]}");
    *ret_len = at;
    return text;
}

static void lists_are_limited(void **state)
{
    static const struct {
        const char *key, *entry;
        size_t limit;
    } lists[] = {
        {"ips", "{\"address\":\"10.0.0.2/24\"}", CNI_IPS_MAX},
        {"routes", "{\"dst\":\"10.0.0.0/8\"}", CNI_ROUTES_MAX},
        {"interfaces", "{\"name\":\"a\"}", CNI_INTERFACES_MAX},
    };
    const struct cni_expect any = {"1.0.0", NULL, NULL};

    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        for (size_t n = lists[i].limit; n <= lists[i].limit + 1; n++) {
            _cleanup_(cni_result_freep) struct cni_result *res = NULL;
            size_t len;
            _cleanup_(freep) char *text = repeated(lists[i].key, lists[i].entry, n, &len);

            print_message("# %s × %zu\n", lists[i].key, n);
            assert_int_equal(cni_result_parse(text, len, &any, &res, NULL),
                             n <= lists[i].limit ? 0 : -E2BIG);
        }
}

static void size_depth_and_tokens_are_limited(void **state)
{
    struct cni_result *res = NULL;
    char *big = xcalloc(LIMIT_CNI_STDOUT_BYTES + 1, 1);
    char deep[64];
    size_t len;
    char *wide = repeated("x", "[]", 30000, &len);

    memset(big, ' ', LIMIT_CNI_STDOUT_BYTES + 1);
    assert_int_equal(cni_result_parse(big, LIMIT_CNI_STDOUT_BYTES + 1, &expect, &res, NULL),
                     -E2BIG);
    assert_int_equal(cni_result_parse(big, LIMIT_CNI_STDOUT_BYTES, &expect, &res, NULL), -EBADMSG);
    memset(deep, '[', sizeof(deep));
    assert_int_equal(cni_result_parse(deep, sizeof(deep), &expect, &res, NULL), -E2BIG);
    assert_int_equal(cni_result_parse(wide, len, &expect, &res, NULL), -E2BIG);
    free(big);
    free(wide);
}

static void error_objects_are_told_from_results(void **state)
{
    static const struct {
        const char *in, *text;
        unsigned code;
        int r;
    } errors[] = {
        {"{\"cniVersion\":\"1.0.0\",\"code\":7,\"msg\":\"bad\",\"details\":\"line 3\"}",
         "bad; line 3", 7, 1},
        {"{\"code\":11,\"msg\":\"later\\u001b[1m\\n\"}", "later?[1m", 11, 1},
        {"{\"code\":5}", "no message", 5, 1},
        {"{\"cniVersion\":\"1.0.0\"}", NULL, 0, 0},
        {"{\"code\":\"7\"}", NULL, 0, 0},
        {"{\"code\":-1}", NULL, 0, 0},
        {"{\"code\":7,\"msg\":[]}", NULL, 0, 0},
        {"panic: runtime error", NULL, 0, 0},
        {"", NULL, 0, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        _cleanup_(freep) char *text = NULL;
        unsigned code = 0;

        assert_int_equal(cni_error_parse(errors[i].in, strlen(errors[i].in), &text, &code),
                         errors[i].r);
        if (errors[i].r) {
            assert_string_equal(text, errors[i].text);
            assert_int_equal(code, errors[i].code);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_result_is_read_in_full),
        cmocka_unit_test(result_is_accepted_or_refused_with_the_place),
        cmocka_unit_test(any_cut_of_a_result_is_refused),
        cmocka_unit_test(lists_are_limited),
        cmocka_unit_test(size_depth_and_tokens_are_limited),
        cmocka_unit_test(error_objects_are_told_from_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
