/* SPDX-License-Identifier: Apache-2.0 */
/* cli: what people read (sizes, times, ids, progress), what they type (CPUs, ports), JSON of messages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/pull-image.h"
#include "cli/run-config.h"
#include "cli/table.h"
#include "lib/test.h"

static void sizes(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {{0, "0 B"},
                {999, "999 B"},
                {1000, "1.0 kB"},
                {1949, "1.9 kB"},
                {999999, "999.9 kB"},
                {1000000, "1.0 MB"},
                {4300000000ULL, "4.3 GB"},
                {UINT64_MAX, "18.4 EB"}};
    char out[HUMAN_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_string_equal(human_bytes(rows[i].bytes, out), rows[i].text);
}

static void times(void **state)
{
    static const struct {
        uint64_t seconds;
        const char *text;
    } rows[] = {{0, "0 seconds ago"}, {1, "1 second ago"},      {59, "59 seconds ago"},
                {60, "1 minute ago"}, {3599, "59 minutes ago"}, {7200, "2 hours ago"},
                {86400, "1 day ago"}, {8640000, "100 days ago"}};
    const uint64_t now = 2000000000ULL * 1000000000ULL;
    char out[HUMAN_SIZE];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_string_equal(human_ago((int64_t)(now - rows[i].seconds * 1000000000ULL), now, out),
                            rows[i].text);
    assert_string_equal(human_ago(0, now, out), "-");
    assert_string_equal(human_ago(INT64_MAX, now, out), "0 seconds ago"); /* clocks differ */
    assert_string_equal(human_id("sha256:0123456789abcdef", out), "0123456789ab");
    assert_string_equal(human_id("short", out), "short");
}

static void text_of_others_is_cleaned(void **state)
{
    static const struct {
        const char *in, *out;
    } rows[] = {{"", ""},
                {"0", "0"},
                {"plain", "plain"},
                {"a\nb\x1b[2J", "a\\nb\\x1b[2J"},
                {"gr\xc3\xbcn", "gr\xc3\xbcn"},
                {"\xff\xfe", "\\xff\\xfe"}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(freep) char *clean = cli_clean(rows[i].in);
        assert_string_equal(clean, rows[i].out);
    }
}

static void cpus(void **state)
{
    static const struct {
        const char *text;
        int r;
        uint32_t thousandths;
    } rows[] = {{"1", 0, 1000},         {"0.5", 0, 500},        {"2.25", 0, 2250},
                {"0.001", 0, 1},        {"1024", 0, 1024000},   {"0", -EINVAL, 0},
                {"0.0", -EINVAL, 0},    {"1.", -EINVAL, 0},     {".5", -EINVAL, 0},
                {"1.2345", -EINVAL, 0}, {"-1", -EINVAL, 0},     {"1e3", -EINVAL, 0},
                {"1025", -EINVAL, 0},   {"1024.1", -EINVAL, 0}, {"", -EINVAL, 0}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        uint32_t n = 0;

        print_message("# '%s'\n", rows[i].text);
        assert_int_equal(parse_cpus(rows[i].text, &n), rows[i].r);
        assert_int_equal(n, rows[i].thousandths);
    }
}

static void ports(void **state)
{
    static const struct {
        const char *text;
        int r;
        const char *ip;
        int host, container, protocol;
    } rows[] = {{"8080:80", 0, "", 8080, 80, 0},
                {"53:53/udp", 0, "", 53, 53, 1},
                {"127.0.0.1:1:65535/tcp", 0, "127.0.0.1", 1, 65535, 0},
                {"[::1]:53:54/sctp", 0, "::1", 53, 54, 2},
                {"80", -EINVAL, "", 0, 0, 0},
                {"", -EINVAL, "", 0, 0, 0},
                {"0:80", -EINVAL, "", 0, 0, 0},
                {"80:0", -EINVAL, "", 0, 0, 0},
                {"80:65536", -EINVAL, "", 0, 0, 0},
                {":80:80", -EINVAL, "", 0, 0, 0},
                {"80:80/icmp", -EINVAL, "", 0, 0, 0},
                {"80:80/", -EINVAL, "", 0, 0, 0},
                {"a:b", -EINVAL, "", 0, 0, 0}};

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(arena_freep) struct arena *a = arena_new(4096);
        Runtime__V1__PortMapping m = RUNTIME__V1__PORT_MAPPING__INIT;

        print_message("# '%s'\n", rows[i].text);
        assert_int_equal(parse_port(a, rows[i].text, &m), rows[i].r);
        if (rows[i].r < 0)
            continue;
        assert_string_equal(m.host_ip, rows[i].ip);
        assert_int_equal(m.host_port, rows[i].host);
        assert_int_equal(m.container_port, rows[i].container);
        assert_int_equal((int)m.protocol, rows[i].protocol);
    }
}

static void progress_on_a_terminal_fits_its_line(void **state)
{
    struct progress p = {
        .image = "docker.io/library/busybox:latest", .terminal = true, .phase = -1};
    char out[256];

    for (unsigned columns = 1; columns < 300; columns++) {
        progress_format(&p, 1, 12300000, 40100000, columns, out);
        assert_int_equal(out[0], '\r');
        assert_true(strlen(out) - strlen("\r\033[K") < columns);
    }
    progress_format(&p, 1, 5, 0, 80, out); /* the total is not known yet */
    assert_string_equal(out, "\rdocker.io/library/busybox:latest: downloading 5 B\033[K");
    progress_format(&p, 1, 12300000, 40100000, 80, out);
    assert_string_equal(out, "\rbusybox:latest: downloading [=======                 ] 12.3 MB of "
                             "40.1 MB\033[K");
    progress_format(&p, 1, 12300000, 40100000, 60, out);
    assert_string_equal(out, "\rbusybox:latest: downloading 12.3 MB of 40.1 MB\033[K");
    progress_format(&p, 1, UINT64_MAX, 1, 0, out); /* more than announced; width unknown */
    assert_non_null(strstr(out, "[========================] 1 B of 1 B"));
    progress_format(&p, 99, 0, 0, 80, out);
    assert_non_null(strstr(out, "pulling"));
}

static void plain_progress_tells_each_tenth_once(void **state)
{
    struct progress p = {.image = "x", .phase = -1};
    char out[256];
    int lines = 0;

    for (uint64_t done = 0; done <= 1000; done++) {
        progress_format(&p, 1, done, 1000, 80, out);
        lines += out[0] != '\0';
    }
    assert_int_equal(lines, 11);
}

static void messages_become_json(void **state)
{
    Runtime__V1__ContainerStatusResponse m = RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INIT;
    Runtime__V1__ContainerStatus st = RUNTIME__V1__CONTAINER_STATUS__INIT;
    Runtime__V1__ContainerStatusResponse__InfoEntry info =
        RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INFO_ENTRY__INIT;
    Runtime__V1__ContainerStatusResponse__InfoEntry *infos[] = {&info};
    Runtime__V1__Mount mount = RUNTIME__V1__MOUNT__INIT, *mounts[] = {&mount};
    json_t *j, *s;

    st.id = (char[]){"a\xff"};
    st.created_at = INT64_MAX;
    st.exit_code = -1;
    st.state = RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED;
    st.stop_signal = (Runtime__V1__Signal)999;
    mount.readonly = true;
    st.mounts = mounts;
    st.n_mounts = 1;
    info.key = (char[]){"k"};
    info.value = (char[]){"v"};
    m.status = &st;
    m.info = infos;
    m.n_info = 1;
    j = json_from_message(&m.base);
    s = json_object_get(j, "status");
    assert_string_equal(json_string_value(json_object_get(s, "id")), "a\\xff");
    assert_string_equal(json_string_value(json_object_get(s, "createdAt")), "9223372036854775807");
    assert_int_equal(json_integer_value(json_object_get(s, "exitCode")), -1);
    assert_string_equal(json_string_value(json_object_get(s, "state")), "CONTAINER_EXITED");
    assert_int_equal(json_integer_value(json_object_get(s, "stopSignal")), 999);
    assert_true(
        json_is_true(json_object_get(json_array_get(json_object_get(s, "mounts"), 0), "readonly")));
    assert_null(json_object_get(s, "metadata"));
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "info"), "k")), "v");
    json_decref(j);
}

static void bytes_become_base64(void **state)
{
    static const char *const want[] = {"", "AA==", "AAE=", "AAEC", "AAECAw=="};
    static uint8_t bytes[] = {0, 1, 2, 3};

    for (size_t n = 0; n < ARRAY_SIZE(want); n++) {
        Runtime__V1__KeyValue m = RUNTIME__V1__KEY_VALUE__INIT;
        json_t *j;

        m.value = (ProtobufCBinaryData){.data = bytes, .len = n};
        j = json_from_message(&m.base);
        assert_string_equal(json_string_value(json_object_get(j, "value")), want[n]);
        json_decref(j);
    }
}

static void addresses(void **state)
{
    assert_string_equal(cli_address_path("unix:///run/x"), "/run/x");
    assert_string_equal(cli_address_path("unix:/run/x"), "/run/x");
    assert_string_equal(cli_address_path("/run/x"), "/run/x");
    assert_null(cli_address_path("run/x"));
    assert_null(cli_address_path("unix://run/x"));
    assert_null(cli_address_path("tcp://x"));
    assert_null(cli_address_path(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),
        cmocka_unit_test(times),
        cmocka_unit_test(text_of_others_is_cleaned),
        cmocka_unit_test(cpus),
        cmocka_unit_test(ports),
        cmocka_unit_test(progress_on_a_terminal_fits_its_line),
        cmocka_unit_test(plain_progress_tells_each_tenth_once),
        cmocka_unit_test(messages_become_json),
        cmocka_unit_test(bytes_become_base64),
        cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
