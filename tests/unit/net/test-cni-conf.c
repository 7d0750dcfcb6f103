/* SPDX-License-Identifier: Apache-2.0 */
/* CNI configuration: which file counts, what is refused and why, what a plugin is given. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "lib/test.h"
#include "net/cni-internal.h"
#include "net/cni.h"

#define LIST(members) "{\"cniVersion\":\"1.0.0\",\"name\":\"n\"," members "}"
#define PLUGIN(members) LIST("\"plugins\":[{" members "}]")
#define P255                                                                    \
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" \
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static const struct {
    const char *name, *in;
    const char *why; /* part of the message; NULL: accepted */
} rows[] = {
    {"list_is_accepted", PLUGIN("\"type\":\"bridge\""), NULL},
    {"single_conf_is_accepted", "{\"cniVersion\":\"0.3.1\",\"name\":\"n\",\"type\":\"bridge\"}",
     NULL},
    {"newest_of_versions_counts",
     "{\"cniVersions\":[\"0.3.1\",\"1.1.0\",\"9.9.9\"],\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}"
     "]}",
     NULL},
    {"type_of_255_bytes", PLUGIN("\"type\":\"" P255 "\""), NULL},
    {"empty_file", "", "empty"},
    {"byte_order_mark", "\xef\xbb\xbf{}", "line 1"},
    {"trailing_comma", PLUGIN("\"type\":\"a\","), "line 1"},
    {"duplicate_key", PLUGIN("\"type\":\"a\",\"type\":\"b\""), "duplicate"},
    {"infinite_number", PLUGIN("\"type\":\"a\",\"x\":1e400"), "real number overflow"},
    {"not_a_number", PLUGIN("\"type\":\"a\",\"x\":NaN"), "line 1"},
    {"invalid_utf8", PLUGIN("\"type\":\"a\",\"x\":\"\xff\""), "unable to decode"},
    {"lone_surrogate", PLUGIN("\"type\":\"a\",\"x\":\"\\ud800\""), "line 1"},
    {"two_values", PLUGIN("\"type\":\"a\"") "{}", "end of file"},
    {"array", "[]", "no JSON object"},
    {"no_name", "{\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"a\"}]}", "name is missing"},
    {"name_with_slash",
     "{\"cniVersion\":\"1.0.0\",\"name\":\"a/b\",\"plugins\":[{\"type\":\"a\"}]}", "name"},
    {"name_with_space",
     "{\"cniVersion\":\"1.0.0\",\"name\":\"a b\",\"plugins\":[{\"type\":\"a\"}]}", "name"},
    {"name_with_dash", "{\"cniVersion\":\"1.0.0\",\"name\":\"-a\",\"plugins\":[{\"type\":\"a\"}]}",
     "name"},
    {"no_version", "{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}", "cniVersion is missing"},
    {"unknown_version", "{\"cniVersion\":\"9.9.9\",\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}",
     "\"9.9.9\" is not supported"},
    {"old_version", "{\"cniVersion\":\"0.2.0\",\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}",
     "not supported"},
    {"version_is_a_number", "{\"cniVersion\":1,\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}",
     "no string"},
    {"no_plugins", LIST("\"x\":1"), "plugins is missing"},
    {"empty_plugins", LIST("\"plugins\":[]"), "plugins is missing or empty"},
    {"plugins_is_an_object", LIST("\"plugins\":{}"), "plugins is missing or empty"},
    {"plugin_is_a_string", LIST("\"plugins\":[\"bridge\"]"), "plugins[0] is no object"},
    {"no_type", PLUGIN("\"x\":1"), "plugins[0].type is missing"},
    {"type_leaves_the_directory", PLUGIN("\"type\":\"../../bin/sh\""), "bare file name"},
    {"type_is_absolute", PLUGIN("\"type\":\"/bin/sh\""), "bare file name"},
    {"type_is_dot_dot", PLUGIN("\"type\":\"..\""), "bare file name"},
    {"type_of_256_bytes", PLUGIN("\"type\":\"b" P255 "\""), "bare file name"},
    {"type_is_empty", PLUGIN("\"type\":\"\""), "bare file name"},
    {"ipam_type_leaves", PLUGIN("\"type\":\"a\",\"ipam\":{\"type\":\"../x\"}"), "ipam.type"},
    {"ipam_type_is_a_number", PLUGIN("\"type\":\"a\",\"ipam\":{\"type\":1}"), "ipam.type"},
    {"previous_result_in_the_file", PLUGIN("\"type\":\"a\",\"prevResult\":{}"), "only the runtime"},
    {"runtime_config_in_the_file", PLUGIN("\"type\":\"a\",\"runtimeConfig\":{}"),
     "only the runtime"},
    {"capabilities_is_an_array", PLUGIN("\"type\":\"a\",\"capabilities\":[]"), "capabilities"},
    {"disable_check_is_a_string", LIST("\"disableCheck\":\"true\",\"plugins\":[{\"type\":\"a\"}]"),
     "disableCheck must be"},
    {"disable_gc_is_a_string", LIST("\"disableGC\":\"true\",\"plugins\":[{\"type\":\"a\"}]"),
     "disableGC must be"},
};

static void list_is_accepted_or_refused_with_the_reason(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(cni_network_freep) struct cni_network *net = NULL;
        _cleanup_(error_freep) struct error *err = NULL;
        int r = cni_network_parse(rows[i].in, strlen(rows[i].in), "/etc/x.conflist", &net, &err);

        print_message("# %s: %s\n", rows[i].name, r < 0 ? err->message : "ok");
        if (!rows[i].why) {
            assert_int_equal(r, 0);
            assert_string_equal(net->name, "n");
            continue;
        }
        assert_int_equal(r, -EINVAL);
        assert_int_equal(err->class, ERROR_UNAVAILABLE);
        assert_non_null(strstr(err->message, "/etc/x.conflist"));
        assert_non_null(strstr(err->message, rows[i].why));
    }
}

static void versions_are_chosen_and_ordered(void **state)
{
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;

    assert_int_equal(cni_network_parse(rows[2].in, strlen(rows[2].in), "f", &net, NULL), 0);
    assert_string_equal(net->version, "1.1.0");
    assert_int_equal(cni_version_at_least("0.4.0", "0.4.0"), 1);
    assert_int_equal(cni_version_at_least("0.3.1", "0.4.0"), 0);
    assert_int_equal(cni_version_at_least("2.0.0", "0.4.0"), -EINVAL);
}

static void saved_list_is_the_same_list(void **state)
{
    const char *text =
        LIST("\"disableCheck\":true,\"plugins\":[{\"type\":\"bridge\",\"mtu\":1400,\"x\":[1.5]},"
             "{\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true,\"mac\":true}}]");
    _cleanup_(cni_network_freep) struct cni_network *a = NULL, *b = NULL;

    assert_int_equal(cni_network_parse(text, strlen(text), "f", &a, NULL), 0);
    assert_int_equal(cni_network_parse(a->json, strlen(a->json), "saved", &b, NULL), 0);
    assert_string_equal(a->json, b->json);
    assert_true(b->disable_check);
    assert_int_equal(b->n_plugins, 2);
    assert_int_equal(b->plugins[0].capabilities, 0);
    assert_int_equal(b->plugins[1].capabilities, CNI_CAP_PORT_MAPPINGS);
}

static void bounds_hold_before_the_parser(void **state)
{
    char *deep = xcalloc(100001, 1);
    char *wide = xcalloc(60001, 1);
    char *big = xcalloc(CNI_CONF_BYTES_MAX + 2, 1);
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;
    _cleanup_(error_freep) struct error *e1 = NULL, *e2 = NULL, *e3 = NULL;

    memset(deep, '[', 100000);
    for (size_t i = 0; i < 60000; i += 3)
        memcpy(wide + i, "[],", 3);
    memset(big, ' ', CNI_CONF_BYTES_MAX + 1);
    assert_int_equal(cni_network_parse(deep, 100000, "f", &net, &e1), -EINVAL);
    assert_non_null(strstr(e1->message, "nested deeper"));
    assert_int_equal(cni_network_parse(wide, 60000, "f", &net, &e2), -EINVAL);
    assert_non_null(strstr(e2->message, "tokens"));
    assert_int_equal(cni_network_parse(big, CNI_CONF_BYTES_MAX + 1, "f", &net, &e3), -EINVAL);
    assert_non_null(strstr(e3->message, "longer than"));
    free(deep);
    free(wide);
    free(big);
    /* brackets inside a string are no depth; exactly the limit is allowed */
    assert_int_equal(json_input_bounds("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[\"", 41), 0);
    assert_int_equal(json_input_bounds("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 32), 0);
    assert_int_equal(json_input_bounds("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 33), -E2BIG);
}

static void put(const char *dir, const char *name, const char *text)
{
    _cleanup_(freep) char *path = str_printf("%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, text, strlen(text)), 0);
    close(fd);
}

static void first_file_by_name_counts_even_if_bad(void **state)
{
    char dir[] = "/tmp/nexus-cni-XXXXXX";
    struct cni_network *net = NULL;
    struct error *err = NULL;

    assert_non_null(mkdtemp(dir));
    assert_int_equal(cni_load("/nonexistent/net.d", &net, &err), -ENOENT);
    assert_non_null(strstr(err->message, "no such directory"));
    assert_int_equal(error_class_of(err, -ENOENT), ERROR_UNAVAILABLE);
    error_free(TAKE(err));

    put(dir, "00.txt", "not CNI");
    put(dir, ".00.conflist", "{}");
    assert_int_equal(cni_load(dir, &net, &err), -ENOENT);
    error_free(TAKE(err));

    put(dir, "20.conflist",
        "{\"cniVersion\":\"1.0.0\",\"name\":\"later\",\"plugins\":[{\"type\":\"a\"}]}");
    put(dir, "10.conf", "{\"cniVersion\":\"1.0.0\",\"name\":\"first\",\"type\":\"a\"}");
    assert_int_equal(cni_load(dir, &net, NULL), 0);
    assert_string_equal(net->name, "first");
    cni_network_free(net);

    put(dir, "10.conf", "{\"cniVersion\":");
    assert_int_equal(cni_load(dir, &net, &err), -EINVAL);
    assert_non_null(strstr(err->message, "/10.conf: "));
    error_free(TAKE(err));

    _cleanup_(freep) char *fifo = str_printf("%s/05.conflist", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(cni_load(dir, &net, &err), -EINVAL); /* and does not wait for a writer */
    error_free(err);
    (void)dir_remove_tree(AT_FDCWD, dir);
}

static void status_names_the_plugin_that_is_missing(void **state)
{
    char dir[] = "/tmp/nexus-cni-XXXXXX";
    char *bins[] = {(char[]){"/nonexistent/bin"}, dir, NULL};
    struct error *err = NULL;

    assert_non_null(mkdtemp(dir));
    put(dir, "10.conflist", LIST("\"plugins\":[{\"type\":\"br\",\"ipam\":{\"type\":\"loc\"}}]"));
    assert_int_equal(cni_status(dir, bins, NULL, &err), -ENOENT);
    assert_non_null(strstr(err->message, "\"br\" is in none of /nonexistent/bin, /tmp/"));
    error_free(TAKE(err));
    put(dir, "br", "#!/bin/sh\n");
    assert_int_equal(cni_status(dir, bins, NULL, &err), -ENOENT);
    assert_non_null(strstr(err->message, "\"loc\""));
    error_free(TAKE(err));
    put(dir, "loc", "#!/bin/sh\n");
    assert_int_equal(cni_status(dir, bins, NULL, &err), 0);
    assert_null(err);
    (void)dir_remove_tree(AT_FDCWD, dir);
}

/* ---------------------------------------------------------------- requests */

static char debian_dir[] = "/usr/lib/cni", local_dir[] = "/opt/cni/bin";
static char *bin_dirs[] = {debian_dir, local_dir, NULL};

static struct cni_request good_request(void)
{
    return (struct cni_request){.container_id = "abc123",
                                .netns = "/run/netns/x",
                                .ifname = "eth0",
                                .pod_namespace = "default",
                                .pod_name = "web-0",
                                .pod_uid = "u-1",
                                .bin_dirs = bin_dirs};
}

static void environment_is_complete_and_nothing_else(void **state)
{
    struct cni_request req = good_request();
    struct cni_params p;
    char **env;

    assert_int_equal(cni_params_init(&p, CNI_ADD, &req, NULL), 0);
    env = cni_params_environment(&p, CNI_ADD);
    assert_int_equal(strv_len(env), 7);
    assert_true(strv_contains(env, "CNI_COMMAND=ADD"));
    assert_true(strv_contains(env, "CNI_CONTAINERID=abc123"));
    assert_true(strv_contains(env, "CNI_NETNS=/run/netns/x"));
    assert_true(strv_contains(env, "CNI_IFNAME=eth0"));
    assert_true(strv_contains(env, "CNI_PATH=/usr/lib/cni:/opt/cni/bin"));
    assert_true(
        strv_contains(env, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;"
                           "K8S_POD_INFRA_CONTAINER_ID=abc123;K8S_POD_UID=u-1"));
    strv_free(env);
    cni_params_done(&p);

    req.netns = NULL;
    assert_int_equal(cni_params_init(&p, CNI_DEL, &req, NULL), 0);
    env = cni_params_environment(&p, CNI_DEL);
    assert_true(strv_contains(env, "CNI_NETNS="));
    strv_free(env);
    cni_params_done(&p);
}

static void bad_requests_are_refused(void **state)
{
    struct cni_port_mapping port = {"tcp", 80, 80, NULL};
    static const struct {
        const char *name, *id, *ifname, *netns, *pod, *protocol;
        uint32_t host_port, container_port;
        const char *host_ip;
    } bad[] = {
        {"no_id", "", "eth0", "/n", "p", "tcp", 1, 1, NULL},
        {"id_with_slash", "a/b", "eth0", "/n", "p", "tcp", 1, 1, NULL},
        {"no_ifname", "a", "", "/n", "p", "tcp", 1, 1, NULL},
        {"ifname_of_16_bytes", "a", "eth0567890123456", "/n", "p", "tcp", 1, 1, NULL},
        {"ifname_with_colon", "a", "eth0:1", "/n", "p", "tcp", 1, 1, NULL},
        {"add_without_netns", "a", "eth0", "", "p", "tcp", 1, 1, NULL},
        {"relative_netns", "a", "eth0", "n", "p", "tcp", 1, 1, NULL},
        {"second_argument_in_the_name", "a", "eth0", "/n", "p;IP=1.2.3.4", "tcp", 1, 1, NULL},
        {"newline_in_the_name", "a", "eth0", "/n", "p\nq", "tcp", 1, 1, NULL},
        {"unknown_protocol", "a", "eth0", "/n", "p", "icmp", 1, 1, NULL},
        {"host_port_0", "a", "eth0", "/n", "p", "tcp", 0, 1, NULL},
        {"host_port_65536", "a", "eth0", "/n", "p", "tcp", 65536, 1, NULL},
        {"container_port_0", "a", "eth0", "/n", "p", "tcp", 1, 0, NULL},
        {"junk_host_ip", "a", "eth0", "/n", "p", "tcp", 1, 1, "localhost"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct cni_request req = good_request();
        struct cni_params p;

        print_message("# %s\n", bad[i].name);
        port = (struct cni_port_mapping){bad[i].protocol, bad[i].host_port, bad[i].container_port,
                                         bad[i].host_ip};
        req.container_id = bad[i].id;
        req.ifname = bad[i].ifname;
        req.netns = bad[i].netns;
        req.pod_name = bad[i].pod;
        req.ports = &port;
        req.n_ports = 1;
        assert_int_equal(cni_params_init(&p, CNI_ADD, &req, NULL), -EINVAL);
    }
}

static void input_has_what_the_plugin_can_do_and_no_more(void **state)
{
    const char *text =
        LIST("\"plugins\":[{\"type\":\"bridge\",\"name\":\"liar\"},{\"type\":\"portmap\","
             "\"capabilities\":{\"portMappings\":true,\"dns\":true},\"snat\":true}]");
    _cleanup_(cni_network_freep) struct cni_network *net = NULL;
    struct cni_port_mapping ports[] = {{"tcp", 8080, 80, ""}, {"udp", 53, 5353, "127.0.0.1"}};
    char *servers[] = {(char[]){"10.0.0.10"}, NULL};
    struct cni_request req = good_request();
    struct cni_params p;
    _cleanup_(json_decrefp) json_t *prev = json_pack("{s:s}", "cniVersion", "1.0.0");
    char *in;

    req.ports = ports;
    req.n_ports = 2;
    req.dns_servers = servers;
    assert_int_equal(cni_network_parse(text, strlen(text), "f", &net, NULL), 0);
    assert_int_equal(cni_params_init(&p, CNI_ADD, &req, NULL), 0);
    in = cni_plugin_input(net, 0, &p, NULL);
    assert_string_equal(in, "{\"type\":\"bridge\",\"name\":\"n\",\"cniVersion\":\"1.0.0\"}");
    free(in);
    in = cni_plugin_input(net, 1, &p, prev);
    assert_string_equal(
        in,
        "{\"type\":\"portmap\",\"snat\":true,\"runtimeConfig\":{\"portMappings\":["
        "{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"},"
        "{\"hostPort\":53,\"containerPort\":5353,\"protocol\":\"udp\",\"hostIP\":\"127.0.0.1\"}],"
        "\"dns\":{\"servers\":[\"10.0.0.10\"]}},\"name\":\"n\",\"cniVersion\":\"1.0.0\","
        "\"prevResult\":{\"cniVersion\":\"1.0.0\"}}");
    free(in);
    cni_params_done(&p);
}

static void plugin_text_becomes_one_clean_line(void **state)
{
    static const struct {
        const char *in, *out;
        size_t max;
    } text[] = {
        {"a\nb\n\n", "a b", 99}, {"\x1b[31mred", "?[31mred", 99},
        {"abc", "ab", 2},        {"\xc3\xa4\xc3\xb6", "\xc3\xa4", 3},
        {"\xff\xfe", "??", 99},  {"", "", 9},
    };

    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        _cleanup_(freep) char *out = cni_printable(text[i].in, strlen(text[i].in), text[i].max);
        assert_string_equal(out, text[i].out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_is_accepted_or_refused_with_the_reason),
        cmocka_unit_test(versions_are_chosen_and_ordered),
        cmocka_unit_test(saved_list_is_the_same_list),
        cmocka_unit_test(bounds_hold_before_the_parser),
        cmocka_unit_test(first_file_by_name_counts_even_if_bad),
        cmocka_unit_test(status_names_the_plugin_that_is_missing),
        cmocka_unit_test(environment_is_complete_and_nothing_else),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(input_has_what_the_plugin_can_do_and_no_more),
        cmocka_unit_test(plugin_text_becomes_one_clean_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
