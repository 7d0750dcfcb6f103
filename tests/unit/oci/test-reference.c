/* SPDX-License-Identifier: Apache-2.0 */
/* oci: references normalise as containerd's do, and what is none is refused. */
#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "oci/config.h"
#include "oci/reference.h"

#define HEX "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

static const struct {
    const char *in;
    const char *out; /* NULL: refused */
    int r;
} rows[] = {
    {"busybox", "docker.io/library/busybox:latest", 0},
    {"busybox:1.36", "docker.io/library/busybox:1.36", 0},
    {"me/app", "docker.io/me/app:latest", 0},
    {"docker.io/busybox", "docker.io/library/busybox:latest", 0},
    {"index.docker.io/busybox", "docker.io/library/busybox:latest", 0},
    {"docker.io/library/busybox", "docker.io/library/busybox:latest", 0},
    {"localhost/x", "localhost/x:latest", 0},
    {"localhost:5000/x", "localhost:5000/x:latest", 0},
    {"localhost:5000", "docker.io/library/localhost:5000", 0},
    {"127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t", 0},
    {"[::1]:5000/x:y", "[::1]:5000/x:y", 0},
    {"UPPER/x", "UPPER/x:latest", 0},
    {"gcr.io/k8s-staging-cri-tools/test-image-1",
     "gcr.io/k8s-staging-cri-tools/test-image-1:latest", 0},
    {"registry.k8s.io/e2e-test-images/busybox:1.29-2",
     "registry.k8s.io/e2e-test-images/busybox:1.29-2", 0},
    {"x@sha256:" HEX, "docker.io/library/x@sha256:" HEX, 0},
    {"x:tag@sha256:" HEX, "docker.io/library/x@sha256:" HEX, 0},
    {"a.b/c__d/e---f.g_h", "a.b/c__d/e---f.g_h:latest", 0},
    {"", NULL, -EINVAL},
    {" busybox", NULL, -EINVAL},
    {"busybox ", NULL, -EINVAL},
    {"busybox:", NULL, -EINVAL},
    {"busybox:.x", NULL, -EINVAL},
    {"busybox:a/b", NULL, -EINVAL},
    {"Busybox", NULL, -EINVAL},
    {"a.b/Busybox", NULL, -EINVAL},
    {"../x", NULL, -EINVAL},
    {"a/../x", NULL, -EINVAL},
    {"/x", NULL, -EINVAL},
    {"a//x", NULL, -EINVAL},
    {"a/x/", NULL, -EINVAL},
    {"a.b/", NULL, -EINVAL},
    {"a..b/x", NULL, -EINVAL},
    {"a.b:0/x", NULL, -EINVAL},
    {"a.b:65536/x", NULL, -EINVAL},
    {"a.b:5x/x", NULL, -EINVAL},
    {"-a.b/x", NULL, -EINVAL},
    {"[::1/x", NULL, -EINVAL},
    {"[]/x", NULL, -EINVAL},
    {"a.b:80:80/x", NULL, -EINVAL},
    {"x___y", NULL, -EINVAL},
    {"x..y", NULL, -EINVAL},
    {"x_", NULL, -EINVAL},
    {"http://a.b/x", NULL, -EINVAL},
    {"user@a.b/x", NULL, -EINVAL},
    {HEX, NULL, -EINVAL},
    {"sha256:" HEX, "docker.io/library/sha256:" HEX, 0}, /* a tag; ids are looked up before */
    {"x@sha256:" HEX "0", NULL, -EINVAL},
    {"x@sha256:97", NULL, -EINVAL},
    {"x@sha256:9700F9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf", NULL, -EINVAL},
    {"x@sha256:../../../../../etc/passwd", NULL, -EINVAL},
    {"x@md5:d41d8cd98f00b204e9800998ecf8427e", NULL, -EOPNOTSUPP},
    {"x@", NULL, -EINVAL},
    {"x@@", NULL, -EINVAL},
    {"a.b/x\n", NULL, -EINVAL},
    {"a.b/\xc3\xbc", NULL, -EINVAL},
};

static void references_normalise_or_are_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct oci_reference ref = {0};
        struct error *err = NULL;
        int r = oci_reference_parse(rows[i].in, &ref, &err);

        print_message("# '%s'\n", rows[i].in);
        assert_int_equal(r, rows[i].r);
        assert_int_equal(err != NULL, r < 0);
        if (r == 0) {
            char *text = oci_reference_text(&ref);
            assert_string_equal(text, rows[i].out);
            free(text);
            assert_true((ref.tag != NULL) != oci_digest_is_set(&ref.digest));
        }
        oci_reference_done(&ref);
        error_free(err);
    }
}

static void lengths_are_limited(void **state)
{
    static char text[LIMIT_REFERENCE_BYTES + 2];
    struct oci_reference ref = {0};

    memset(text, 'a', sizeof(text) - 1);
    assert_int_equal(oci_reference_parse(text, &ref, NULL), -EINVAL);
    text[256 - strlen("docker.io/library/")] = '\0'; /* one byte too many with what is added */
    assert_int_equal(oci_reference_parse(text, &ref, NULL), -EINVAL);
    text[255 - strlen("docker.io/library/")] = '\0';
    assert_int_equal(oci_reference_parse(text, &ref, NULL), 0);
    oci_reference_done(&ref);
    memset(text, 'a', sizeof(text) - 1);
    text[1] = ':';
    text[2 + 129] = '\0';
    assert_int_equal(oci_reference_parse(text, &ref, NULL), -EINVAL);
    text[2 + 128] = '\0';
    assert_int_equal(oci_reference_parse(text, &ref, NULL), 0);
    oci_reference_done(&ref);
}

static const struct {
    const char *user;
    int64_t uid;
    const char *name;
    int r;
} users[] = {
    {"", 0, NULL, 0},
    {"0", 0, NULL, 0},
    {"1002", 1002, NULL, 0},
    {"1003:1004", 1003, NULL, 0},
    {"www-data", -1, "www-data", 0},
    {"www-data:1004", -1, "www-data", 0},
    {":5", 0, NULL, 0},
    {"4294967294", 4294967294LL, NULL, 0},
    {"4294967295", -1, NULL, -EINVAL},
    {"4294967296", -1, NULL, -EINVAL},
    {"99999999999999999999", -1, NULL, -EINVAL},
    {"-1", -1, NULL, -EINVAL},
    {"+0", -1, NULL, -EINVAL},
    {"0x0", -1, "0x0", 0},
};

static void a_number_that_is_no_uid_is_never_a_name(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
        char *name;
        int64_t uid;

        print_message("# '%s'\n", users[i].user);
        assert_int_equal(oci_user_parse(users[i].user, &uid, &name), users[i].r);
        assert_int_equal(uid, users[i].uid);
        assert_true(str_equal(name, users[i].name));
        free(name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(references_normalise_or_are_refused),
        cmocka_unit_test(lengths_are_limited),
        cmocka_unit_test(a_number_that_is_no_uid_is_never_a_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
