/* SPDX-License-Identifier: Apache-2.0 */
/* config: defaults without a file, every key settable, mistakes told with their line, and the shipped
 * file documents every key with its default. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "daemon/config.h"
#include "lib/test.h"

static int parse(struct config *c, const char *text, struct error **err)
{
    config_init(c);
    return config_parse(c, "x.yaml", text, strlen(text), err);
}

static void empty_file_means_defaults(void **state)
{
    static const char *const empty[] = {"", "# nothing\n", "---\n", "{}\n"};

    for (size_t i = 0; i < ARRAY_SIZE(empty); i++) {
        struct config c;

        assert_int_equal(parse(&c, empty[i], NULL), 0);
        assert_string_equal(c.listen, "/run/nexus/nexusd.sock");
        assert_string_equal(c.log_level, "info");
        assert_int_equal(c.vm_memory, 256 << 20);
        assert_int_equal(c.vm_boot_timeout_ms, 60000);
        assert_int_equal(c.mapper_update_burst, 4);
        assert_int_equal(c.mapper_update_interval_ms, 1000);
        assert_int_equal(strv_len(c.network_bin_dirs), 2);
        assert_int_equal(strv_len(c.vm_arguments), 0);
        config_done(&c);
    }
}

static void keys_are_read(void **state)
{
    struct config c;
    _cleanup_(error_freep) struct error *err = NULL;
    int r = parse(&c,
                  "state_dir: /tmp/a\n"
                  "log: {level: debug, target: stderr}\n"
                  "vm:\n"
                  "  memory: 1G\n"
                  "  cpus: 4\n"
                  "  arguments: [--cmdline-append, 'a b']\n"
                  "  boot_timeout: 500ms\n"
                  "mapper: {update_burst: 0, update_interval: 30s}\n"
                  "network:\n"
                  "  bin_dirs: [/x]\n"
                  "images:\n"
                  "  registries:\n"
                  "    - host: docker.io\n"
                  "      endpoints: ['http://127.0.0.1:5000', 'https://m']\n"
                  "      only_endpoints: true\n"
                  "    - host: localhost:5000\n"
                  "      plain_http: true\n",
                  &err);

    assert_null(err);
    assert_int_equal(r, 0);
    assert_string_equal(c.state_dir, "/tmp/a");
    assert_string_equal(c.log_level, "debug");
    assert_int_equal(c.vm_memory, 1 << 30);
    assert_int_equal(c.vm_cpus, 4);
    assert_string_equal(c.vm_arguments[1], "a b");
    assert_int_equal(c.vm_boot_timeout_ms, 500);
    assert_int_equal(c.mapper_update_burst, 0);
    assert_int_equal(c.mapper_update_interval_ms, 30000);
    assert_int_equal(strv_len(c.network_bin_dirs), 1);
    assert_int_equal(c.n_registries, 2);
    assert_string_equal(c.registries[0].endpoints[1], "https://m");
    assert_true(c.registries[0].only_endpoints);
    assert_false(c.registries[0].plain_http);
    assert_true(c.registries[1].plain_http);
    assert_null(c.registries[1].endpoints);
    config_done(&c);
}

static void streams_leave_loopback_with_tls_only(void **state)
{
    static const char *const good[] = {
        "stream: {address: 127.0.0.2}\n",
        "stream: {address: '::1'}\n",
        "stream: {tls_certificate: '', tls_key: '', tls_client_ca: ''}\n",
        "stream: {tls_certificate: /a, tls_key: /b}\n",
        "stream: {address: 192.0.2.1, tls_certificate: /a, tls_key: /b, tls_client_ca: /c}\n",
        "stream: {address: '2001:db8::1', tls_certificate: /a, tls_key: /b}\n",
    };

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct config c;

        print_message("# %s", good[i]);
        assert_int_equal(parse(&c, good[i], NULL), 0);
        assert_true(!c.stream_tls_certificate == !strstr(good[i], "/a"));
        config_done(&c);
    }
}

static void mistakes_name_line_and_key(void **state)
{
    static const struct {
        const char *text, *where;
    } rows[] = {
        {"listen: /a\nlisten: /b\n", "x.yaml:2: listen is there twice"},
        {"\nvm:\n  memry: 1G\n", "x.yaml:3: unknown key vm.memry"},
        {"memory: 1G\n", "x.yaml:1: unknown key memory"},
        {"vm: 3\n", "x.yaml:1: vm must be a mapping"},
        {"vm: {memory: -1}\n", "x.yaml:1: vm.memory must be a size"},
        {"vm: {memory: 0}\n", "vm.memory must be a size"},
        {"vm: {memory: 1.5G}\n", "vm.memory must be a size"},
        {"vm: {memory: [1G]}\n", "vm.memory must be a size"},
        {"vm: {memory: 128G}\n", "vm.memory is larger than vm.memory_max"},
        {"vm: {cpus: 17}\n", "vm.cpus must be a count from 1 to 16"},
        {"vm: {cpus: 4, cpus_max: 2}\n", "vm.cpus is larger"},
        {"mapper: {update_burst: 1001}\n", "mapper.update_burst must be a number from 0 to 1000"},
        {"mapper: {update_interval: 0s}\n", "mapper.update_interval must be a time span"},
        {"vm: {arguments: --x}\n", "vm.arguments must be a list"},
        {"state_dir: var/lib\n", "state_dir must be a path that begins with /"},
        {"log: {level: loud}\n", "log.level must be a word, one of: info"},
        {"network: {bin_dirs: [x]}\n", "network.bin_dirs must hold absolute paths"},
        {"network: {timeout: soon}\n", "network.timeout must be a time span"},
        {"images: {registries: {}}\n", "images.registries must be a list"},
        {"images: {registries: [{plain_http: true}]}\n", "host is missing"},
        {"images: {registries: [{host: a, http: true}]}\n", "images.registries: unknown key"},
        {"images: {registries: [{host: a, plain_http: yes}]}\n", "must be true or false"},
        {"stream: {address: localhost}\n", "stream.address must be an address, IPv4 or IPv6"},
        {"stream: {address: 0.0.0.0}\n", "of one interface"},
        {"stream: {address: '::'}\n", "of one interface"},
        {"stream: {address: ''}\n", "of one interface"},
        {"stream: {address: 192.0.2.1}\n", "192.0.2.1 is not of loopback: that needs"},
        {"stream: {address: '2001:db8::1'}\n", "is not of loopback"},
        {"stream: {tls_certificate: a.pem}\n", "stream.tls_certificate must be a path"},
        {"stream: {tls_certificate: /a}\n", "come together"},
        {"stream: {tls_key: /a}\n", "come together"},
        {"stream: {tls_client_ca: /a}\n", "nothing without"},
        {"stream: {program: ''}\n", "stream.program must be a path"},
        {"a: [\n", "x.yaml:2:"},
        {"- a\n", "x.yaml:1: the configuration must be a mapping"},
        {"? [a]\n: b\n", "a key that is no word"},
        {"listen: \"/a\\0b\"\n", "listen must be a path"},
        {"a: &x [*x]\n", "unknown key a"},
        {"\xff\n", "x.yaml:1:"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        struct config c;

        print_message("# %s\n", rows[i].where);
        assert_int_equal(parse(&c, rows[i].text, &err), -EINVAL);
        assert_non_null(err);
        if (!strstr(err->message, rows[i].where))
            print_error("got: %s\n", err->message);
        assert_non_null(strstr(err->message, rows[i].where));
        config_done(&c);
    }
}

static void named_file_must_exist(void **state)
{
    _cleanup_(error_freep) struct error *err = NULL;
    struct config c;

    config_init(&c);
    assert_int_equal(config_load(&c, "/nonexistent/nexusd.yaml", &err), -ENOENT);
    config_done(&c);
}

/* ---- the shipped file */

static const char *shipped;
static int documented;

static void is_documented(const char *key, const char *type, const char *def, void *userdata)
{
    const char *dot = strchr(key, '.');
    _cleanup_(freep) char *line = str_printf("\n%s%s:", dot ? "  " : "", dot ? dot + 1 : key);

    if (!strstr(shipped, line))
        print_error("packaging/nexusd.yaml does not have %s\n", key);
    assert_non_null(strstr(shipped, line));
    documented++;
}

static void shipped_file_documents_every_key_with_its_default(void **state)
{
    _cleanup_(freep) char *text = NULL;
    _cleanup_(error_freep) struct error *err = NULL;
    struct config c, defaults;
    size_t len = 0;

    assert_int_equal(
        file_read_all(AT_FDCWD, TEST_DATA "/../../packaging/nexusd.yaml", 1 << 20, &text, &len), 0);
    shipped = text;
    config_each_key(is_documented, NULL);
    assert_true(documented > 20);
    config_init(&c);
    config_init(&defaults);
    assert_int_equal(config_parse(&c, "nexusd.yaml", text, len, &err), 0);
    assert_string_equal(c.vm_program, defaults.vm_program);
    assert_int_equal(c.vm_memory, defaults.vm_memory);
    assert_int_equal(c.scratch_size, defaults.scratch_size);
    assert_int_equal(c.network_timeout_ms, defaults.network_timeout_ms);
    assert_int_equal(strv_len(c.network_bin_dirs), strv_len(defaults.network_bin_dirs));
    assert_string_equal(c.cgroup_driver, defaults.cgroup_driver);
    assert_string_equal(c.log_target, defaults.log_target);
    assert_string_equal(c.mapper_kubelet_root, defaults.mapper_kubelet_root);
    assert_int_equal(strv_len(c.mapper_directories), strv_len(defaults.mapper_directories));
    assert_string_equal(c.mapper_data, defaults.mapper_data);
    assert_int_equal(c.mapper_update_burst, defaults.mapper_update_burst);
    assert_int_equal(c.mapper_update_interval_ms, defaults.mapper_update_interval_ms);
    assert_int_equal(c.images_stall_timeout_ms, defaults.images_stall_timeout_ms);
    config_done(&c);
    config_done(&defaults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_file_means_defaults),
        cmocka_unit_test(keys_are_read),
        cmocka_unit_test(streams_leave_loopback_with_tls_only),
        cmocka_unit_test(mistakes_name_line_and_key),
        cmocka_unit_test(named_file_must_exist),
        cmocka_unit_test(shipped_file_documents_every_key_with_its_default),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL) != 0;
}
