/* SPDX-License-Identifier: Apache-2.0 */
/* grpc/request: which headers make a request, and grpc-timeout both ways. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/limit.h"
#include "grpc/request-internal.h"
#include "lib/test.h"

#define GOOD_METHOD ":method", "POST", ":scheme", "http"
#define GOOD_REST "te", "trailers", "content-type", "application/grpc"

static const struct {
    const char *name;
    const char *headers[16]; /* name, value, …, NULL */
    enum grpc_verdict verdict;
    enum grpc_status status; /* with GRPC_REQUEST_STATUS */
} rows[] = {
    {"a_request", {GOOD_METHOD, ":path", "/a/B", GOOD_REST}, GRPC_REQUEST_OK, GRPC_OK},
    {"https_is_fine",
     {":method", "POST", ":scheme", "https", ":path", "/a/B", GOOD_REST},
     GRPC_REQUEST_OK,
     GRPC_OK},
    {"authority_of_old_kubelets",
     {GOOD_METHOD, ":authority", "/run/x.sock", ":path", "/a/B", GOOD_REST},
     GRPC_REQUEST_OK,
     GRPC_OK},
    {"nothing", {NULL}, GRPC_REQUEST_RESET, GRPC_OK},
    {"path_is_missing", {GOOD_METHOD, GOOD_REST}, GRPC_REQUEST_RESET, GRPC_OK},
    {"pseudo_after_regular",
     {GOOD_METHOD, "te", "trailers", ":path", "/a/B"},
     GRPC_REQUEST_RESET,
     GRPC_OK},
    {"te_is_not_trailers",
     {GOOD_METHOD, ":path", "/a/B", "te", "gzip", "content-type", "application/grpc"},
     GRPC_REQUEST_RESET,
     GRPC_OK},
    {"no_content_type", {GOOD_METHOD, ":path", "/a/B"}, GRPC_REQUEST_TYPE, GRPC_OK},
    {"json_content_type",
     {GOOD_METHOD, ":path", "/a/B", "content-type", "application/grpc+json"},
     GRPC_REQUEST_TYPE,
     GRPC_OK},
    {"get",
     {":method", "GET", ":scheme", "http", ":path", "/a/B", GOOD_REST},
     GRPC_REQUEST_STATUS,
     GRPC_UNIMPLEMENTED},
    {"bad_timeout",
     {GOOD_METHOD, ":path", "/a/B", GOOD_REST, "grpc-timeout", "soon"},
     GRPC_REQUEST_STATUS,
     GRPC_INVALID_ARGUMENT},
};

static void add(struct grpc_request *r, const char *name, const char *value)
{
    grpc_request_header(r, (const uint8_t *)name, strlen(name), (const uint8_t *)value,
                        strlen(value));
}

static void headers_are_judged(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(arena_freep) struct arena *a = arena_new(65536);
        struct grpc_request r;

        print_message("# %s\n", rows[i].name);
        grpc_request_init(&r, a);
        for (size_t h = 0; rows[i].headers[h]; h += 2)
            add(&r, rows[i].headers[h], rows[i].headers[h + 1]);
        assert_int_equal(grpc_request_check(&r), rows[i].verdict);
        if (rows[i].verdict == GRPC_REQUEST_STATUS)
            assert_int_equal(r.status, rows[i].status);
    }
}

static void path_timeout_and_trace_are_kept(void **state)
{
    static const char trace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    _cleanup_(arena_freep) struct arena *a = arena_new(65536);
    struct grpc_request r;

    grpc_request_init(&r, a);
    add(&r, ":method", "POST");
    add(&r, ":scheme", "http");
    add(&r, ":path", "/runtime.v1.RuntimeService/Version");
    add(&r, "content-type", "application/grpc");
    add(&r, "grpc-timeout", "250m");
    add(&r, "traceparent", trace);
    assert_int_equal(grpc_request_check(&r), GRPC_REQUEST_OK);
    assert_string_equal(r.path, "/runtime.v1.RuntimeService/Version");
    assert_string_equal(r.traceparent, trace);
    assert_int_equal(r.timeout_ns, 250000000);
}

static void trace_context_must_be_well_formed(void **state)
{
    static const char *const bad[] = {"", "00",
                                      "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
                                      "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01"};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_(arena_freep) struct arena *a = arena_new(65536);
        struct grpc_request r;

        grpc_request_init(&r, a);
        add(&r, "traceparent", bad[i]);
        assert_string_equal(r.traceparent, "");
        assert_false(r.malformed);
    }
}

static void list_limit_is_exact(void **state)
{
    static const size_t sizes[] = {LIMIT_GRPC_HEADER_LIST_BYTES - 1, LIMIT_GRPC_HEADER_LIST_BYTES,
                                   LIMIT_GRPC_HEADER_LIST_BYTES + 1};
    static char value[LIMIT_GRPC_HEADER_LIST_BYTES];

    memset(value, 'v', sizeof(value));
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        _cleanup_(arena_freep) struct arena *a = arena_new(65536);
        struct grpc_request r;

        grpc_request_init(&r, a);
        add(&r, ":method", "POST");
        add(&r, ":scheme", "http");
        add(&r, ":path", "/a/B");
        add(&r, "content-type", "application/grpc");
        grpc_request_header(&r, (const uint8_t *)"x", 1, (const uint8_t *)value,
                            sizes[i] - r.list_bytes - 33);
        assert_int_equal(r.list_bytes, sizes[i]);
        assert_int_equal(grpc_request_check(&r), sizes[i] > LIMIT_GRPC_HEADER_LIST_BYTES
                                                     ? GRPC_REQUEST_STATUS
                                                     : GRPC_REQUEST_OK);
    }
}

static const struct {
    const char *text;
    int r;
    uint64_t ns;
} timeouts[] = {
    {"1H", 0, 3600000000000ULL},
    {"2M", 0, 120000000000ULL},
    {"3S", 0, 3000000000ULL},
    {"4m", 0, 4000000},
    {"5u", 0, 5000},
    {"6n", 0, 6},
    {"0n", 0, 0},
    {"99999999n", 0, 99999999},
    {"99999999S", 0, 99999999000000000ULL},
    {"99999999H", 0, UINT64_MAX},
    {"", -EINVAL, 0},
    {"S", -EINVAL, 0},
    {"10", -EINVAL, 0},
    {"100000000S", -EINVAL, 0},
    {"-1S", -EINVAL, 0},
    {"+1S", -EINVAL, 0},
    {" 1S", -EINVAL, 0},
    {"1S ", -EINVAL, 0},
    {"1s", -EINVAL, 0},
    {"1.5S", -EINVAL, 0},
    {"0x1S", -EINVAL, 0},
};

static void timeouts_are_parsed(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(timeouts); i++) {
        uint64_t ns = 42;

        print_message("# '%s'\n", timeouts[i].text);
        assert_int_equal(grpc_timeout_parse(timeouts[i].text, strlen(timeouts[i].text), &ns),
                         timeouts[i].r);
        if (timeouts[i].r == 0)
            assert_true(ns == timeouts[i].ns);
    }
}

static void what_we_send_we_understand(void **state)
{
    static const uint64_t ms[] = {0,
                                  1,
                                  999,
                                  2000,
                                  99999999,
                                  100000000,
                                  100000001,
                                  99999999000ULL,
                                  99999999001ULL,
                                  4000000000000ULL};

    for (size_t i = 0; i < ARRAY_SIZE(ms); i++) {
        char text[16];
        uint64_t ns;

        grpc_timeout_format(ms[i], text);
        print_message("# %s\n", text);
        assert_int_equal(grpc_timeout_parse(text, strlen(text), &ns), 0);
        assert_true(ns / 1000000 >= ms[i]); /* never shorter than asked */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_judged),
        cmocka_unit_test(path_timeout_and_trace_are_kept),
        cmocka_unit_test(trace_context_must_be_well_formed),
        cmocka_unit_test(list_limit_is_exact),
        cmocka_unit_test(timeouts_are_parsed),
        cmocka_unit_test(what_we_send_we_understand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
