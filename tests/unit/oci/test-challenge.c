/* SPDX-License-Identifier: Apache-2.0 */
/* oci: the challenge of a registry is understood in every legal spelling, and nothing else is. */
#include <string.h>

#include "base/str.h"
#include "lib/test.h"
#include "oci/challenge.h"

static const struct {
    const char *header;
    int r;
    enum oci_auth_scheme scheme;
    const char *realm, *service, *scope;
} rows[] = {
    {"Bearer "
     "realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/"
     "b:pull\"",
     0, OCI_AUTH_BEARER, "https://auth.docker.io/token", "registry.docker.io",
     "repository:a/b:pull"},
    {"Basic realm=\"x\"", 0, OCI_AUTH_BASIC, "x", NULL, NULL},
    {"basic", 0, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"  ,, BEARER  realm = \"a\" , service = b ,", 0, OCI_AUTH_BEARER, "a", "b", NULL},
    {"Basic realm=\"x\", Bearer realm=\"y\"", 0, OCI_AUTH_BEARER, "y", NULL, NULL},
    {"Bearer realm=\"y\", Basic realm=\"x\"", 0, OCI_AUTH_BEARER, "y", NULL, NULL},
    {"Negotiate, Basic realm=\"x\"", 0, OCI_AUTH_BASIC, "x", NULL, NULL},
    {"Negotiate YWJj==, Basic realm=\"x\"", 0, OCI_AUTH_BASIC, "x", NULL, NULL},
    {"Bearer realm=\"a\\\"b\"", 0, OCI_AUTH_BEARER, "a\"b", NULL, NULL},
    {"Bearer realm=\"first\",realm=\"second\"", 0, OCI_AUTH_BEARER, "first", NULL, NULL},
    {"Bearer realm=\"\"", 0, OCI_AUTH_BEARER, "", NULL, NULL},
    {"Digest realm=\"x\"", -EOPNOTSUPP, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"Bearer service=\"x\"", -EINVAL, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"Bearer realm=\"x", -EINVAL, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"Bearer realm=", -EINVAL, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"Bearer \"x\"", -EINVAL, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"=", -EINVAL, OCI_AUTH_BASIC, NULL, NULL, NULL},
    {"", -EINVAL, OCI_AUTH_BASIC, NULL, NULL, NULL},
};

static void challenges(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct oci_challenge c = {0};

        print_message("# %s\n", rows[i].header);
        assert_int_equal(oci_challenge_parse(rows[i].header, &c), rows[i].r);
        if (rows[i].r == 0) {
            assert_int_equal(c.scheme, rows[i].scheme);
            assert_true(str_equal(c.realm, rows[i].realm));
            assert_true(str_equal(c.service, rows[i].service));
            assert_true(str_equal(c.scope, rows[i].scope));
        }
        oci_challenge_done(&c);
    }
}

static void a_header_over_the_limit_is_refused(void **state)
{
    char *header = malloc(1 << 20);
    struct oci_challenge c;

    memset(header, 'x', 1 << 20);
    memcpy(header, "Bearer realm=\"", 14);
    header[(1 << 20) - 1] = '\0';
    assert_int_equal(oci_challenge_parse(header, &c), -E2BIG);
    free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(challenges),
        cmocka_unit_test(a_header_over_the_limit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
