/* SPDX-License-Identifier: Apache-2.0 */
/* options: each option lands in its field, each mistake is refused by name; cmdline: what boot depends
 * on is there. */
#include <string.h>

#include "lib/test.h"
#include "vmm/cmdline.h"
#include "vmm/options.h"

#define BASE "nexus-vmm", "--id", "a-1", "--kernel", "fd:4"

static const struct {
    const char *name;
    const char *argv[12];
    const char *says; /* NULL: accepted */
} rows[] = {
    {"smallest", {BASE}, NULL},
    {"everything",
     {BASE, "--cpus=16", "--memory=512M", "--net=fd:6", "--mac=02:aa:BB:00:01:fe", "--control=fd:8",
      "--until-hello"},
     NULL},
    {"tap_by_name", {BASE, "--net", "tap:bench0"}, NULL},
    {"help_needs_nothing", {"nexus-vmm", "--help"}, NULL},
    {"no_id", {"nexus-vmm", "--kernel", "k"}, "--id is missing"},
    {"no_kernel", {"nexus-vmm", "--id", "a"}, "--kernel is missing"},
    {"id_with_slash", {"nexus-vmm", "--id", "a/b", "--kernel", "k"}, "--id a/b"},
    {"empty_id", {"nexus-vmm", "--id", "", "--kernel", "k"}, "--id"},
    {"no_cpu", {BASE, "--cpus", "0"}, "--cpus"},
    {"too_many_cpus", {BASE, "--cpus", "17"}, "--cpus"},
    {"memory_below_limit", {BASE, "--memory", "62M"}, "--memory"},
    {"memory_at_limit", {BASE, "--memory", "64M"}, NULL},
    {"memory_no_multiple", {BASE, "--memory", "129M"}, "--memory"},
    {"memory_absurd", {BASE, "--memory", "999999999T"}, "--memory"},
    {"fd_of_stdin", {BASE, "--scratch", "fd:0"}, "--scratch"},
    {"fd_negative", {BASE, "--scratch", "fd:-1"}, "--scratch"},
    {"fd_no_number", {BASE, "--scratch", "fd:x"}, "--scratch"},
    {"empty_path", {BASE, "--scratch", ""}, "--scratch"},
    {"control_as_path", {BASE, "--control", "/run/x.sock"}, "--control"},
    {"net_as_path", {BASE, "--net", "eth0"}, "--net"},
    {"net_name_too_long", {BASE, "--net", "tap:0123456789abcdef"}, "--net"},
    {"mac_multicast", {BASE, "--mac", "01:00:00:00:00:01"}, "--mac"},
    {"mac_short", {BASE, "--mac", "02:00:00:00:00"}, "--mac"},
    {"mac_no_hex", {BASE, "--mac", "02:00:00:00:00:0g"}, "--mac"},
    {"mtu_too_small", {BASE, "--mtu", "67"}, "--mtu"},
    {"mtu_too_large", {BASE, "--mtu", "65536"}, "--mtu"},
    {"unknown_option", {BASE, "--frobnicate"}, "--frobnicate"},
    {"missing_value", {BASE, "--cpus"}, "--cpus needs a value"},
    {"stray_argument", {BASE, "stray"}, "stray"},
};

static void options_are_taken_or_refused_by_name(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        char *argv[13] = {0};
        struct options o;
        int argc = 0, r;

        print_message("# %s\n", rows[i].name);
        for (; rows[i].argv[argc]; argc++)
            argv[argc] = (char *)(uintptr_t)rows[i].argv[argc];
        r = options_parse(argc, argv, &o, &err);
        assert_int_equal(r, rows[i].says ? -EINVAL : 0);
        if (rows[i].says)
            assert_non_null(strstr(error_text(err, r), rows[i].says));
    }
}

static void values_land_in_their_fields(void **state)
{
    static const uint8_t mac[6] = {0x02, 0xAA, 0xBB, 0, 1, 0xFE};
    const char *const args[] = {BASE,
                                "--cpus",
                                "3",
                                "--memory",
                                "1G",
                                "--initramfs",
                                "/x",
                                "--net",
                                "fd:6",
                                "--mac",
                                "02:aa:BB:00:01:fe",
                                "--mtu",
                                "1400",
                                "--cmdline-append",
                                "a b",
                                "--hello-timeout",
                                "5s"};
    char *argv[ARRAY_SIZE(args) + 1] = {0};
    struct options o;

    for (size_t i = 0; i < ARRAY_SIZE(args); i++)
        argv[i] = (char *)(uintptr_t)args[i];
    assert_int_equal(options_parse((int)ARRAY_SIZE(args), argv, &o, NULL), 0);
    assert_string_equal(o.id, "a-1");
    assert_int_equal(o.cpus, 3);
    assert_true(o.memory_bytes == 1ULL << 30);
    assert_true(o.kernel.fd == 4 && !o.kernel.path);
    assert_true(o.initramfs.fd < 0 && strcmp(o.initramfs.path, "/x") == 0);
    assert_true(o.net.fd == 6 && o.scratch.fd < 0 && !o.scratch.path);
    assert_string_equal(o.kvm.path, "/dev/kvm");
    assert_memory_equal(o.mac, mac, 6);
    assert_int_equal(o.mtu, 1400);
    assert_string_equal(o.cmdline_append, "a b");
    assert_true(o.hello_timeout_ms == 5000 && !o.until_hello);
}

static void parse_id(const char *id, struct options *ret)
{
    const char *const args[] = {"nexus-vmm", "--id", id, "--kernel", "k"};
    char *argv[ARRAY_SIZE(args) + 1] = {0};

    for (size_t i = 0; i < ARRAY_SIZE(args); i++)
        argv[i] = (char *)(uintptr_t)args[i];
    assert_int_equal(options_parse((int)ARRAY_SIZE(args), argv, ret, NULL), 0);
}

static void default_address_is_local_and_stable(void **state)
{
    struct options a, b, c;

    parse_id("one", &a);
    parse_id("one", &b);
    parse_id("two", &c);
    assert_memory_equal(a.mac, b.mac, 6);
    assert_memory_not_equal(a.mac, c.mac, 6);
    assert_int_equal(a.mac[0], 0x02);
}

static void every_option_is_in_the_help(void **state)
{
    static const char *const names[] = {
        "--id",       "--cpus",        "--memory",        "--kvm",
        "--kernel",   "--initramfs",   "--net",           "--mac",
        "--mtu",      "--scratch",     "--control",       "--console",
        "--counters", "--until-hello", "--hello-timeout", "--cmdline-append",
        "--help",     "--version"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_non_null(strstr(options_usage(), names[i]));
}

static void kernel_arguments_fit_the_console(void **state)
{
    _cleanup_(freep) char *silent = cmdline_build(false, NULL);
    _cleanup_(freep) char *talking = cmdline_build(true, "nexus.test=1 b=2");

    assert_non_null(strstr(silent, "panic=-1"));
    assert_non_null(strstr(silent, "reboot=a"));
    assert_non_null(strstr(silent, "8250.nr_uarts=0"));
    assert_null(strstr(silent, "console=hvc0"));
    assert_non_null(strstr(talking, "console=hvc0"));
    assert_null(strstr(talking, "nomodule")); /* stock kernels live from modules */
    assert_non_null(strstr(talking, " nexus.test=1 b=2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_taken_or_refused_by_name),
        cmocka_unit_test(values_land_in_their_fields),
        cmocka_unit_test(default_address_is_local_and_stable),
        cmocka_unit_test(every_option_is_in_the_help),
        cmocka_unit_test(kernel_arguments_fit_the_console),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
