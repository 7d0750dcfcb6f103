/* SPDX-License-Identifier: Apache-2.0 */
/* pull: requests are checked, secrets are decoded and never told; tokens are asked of friends only. */
#include <string.h>

#include "base/str.h"
#include "lib/test.h"
#include "pull/request.h"
#include "pull/token.h"

#define REST ",\"tag\":\"t\",\"endpoints\":[{\"url\":\"https://a.b\"}]"
#define REQ(more) "{\"reference\":\"a.b/x\"" REST more "}"
#define AUTH(inside) REQ(",\"auth\":{" inside "}")

static const struct {
    const char *name, *text;
    int r;
    const char *user_pass;
} rows[] = {
    {"smallest", REQ(""), 0, NULL},
    {"no_reference", "{\"x\":1" REST "}", -EINVAL, NULL},
    {"no_endpoint", "{\"reference\":\"x\",\"tag\":\"t\"}", -EINVAL, NULL},
    {"layout", "{\"reference\":\"x\",\"tag\":\"t\",\"layout\":5}", 0, NULL},
    {"layout_is_stdin", "{\"reference\":\"x\",\"tag\":\"t\",\"layout\":0}", -EBADMSG, NULL},
    {"no_tag", "{\"reference\":\"x\",\"endpoints\":[{\"url\":\"https://a\"}]}", -EINVAL, NULL},
    {"tag_is_path", "{\"reference\":\"x\",\"tag\":\"../x\",\"layout\":5}", -EINVAL, NULL},
    {"endpoint_file",
     "{\"reference\":\"x\",\"tag\":\"t\",\"endpoints\":[{\"url\":\"file:///etc\"}]}", -EINVAL,
     NULL},
    {"endpoint_with_user",
     "{\"reference\":\"x\",\"tag\":\"t\",\"endpoints\":[{\"url\":\"https://u:p@a\"}]}", -EINVAL,
     NULL},
    {"endpoint_with_query",
     "{\"reference\":\"x\",\"tag\":\"t\",\"endpoints\":[{\"url\":\"https://a?x\"}]}", -EINVAL,
     NULL},
    {"no_threads", REQ(",\"concurrency\":0"), -EBADMSG, NULL},
    {"many_threads", REQ(",\"concurrency\":17"), -EBADMSG, NULL},
    {"user_and_password", AUTH("\"username\":\"u\",\"password\":\"p:q\""), 0, "u:p:q"},
    {"user_with_colon", AUTH("\"username\":\"u:v\",\"password\":\"p\""), -EINVAL, NULL},
    {"auth", AUTH("\"auth\":\"dXNlcjpwYXNz\""), 0, "user:pass"},
    {"auth_padded", AUTH("\"auth\":\"dTpwcA==\""), 0, "u:pp"},
    {"auth_junk", AUTH("\"auth\":\"!!!!\""), -EINVAL, NULL},
    {"auth_of_odd_length", AUTH("\"auth\":\"abc\""), -EINVAL, NULL},
    {"auth_without_colon", AUTH("\"auth\":\"dXNlcg==\""), -EINVAL, NULL},
    {"auth_with_nul", AUTH("\"auth\":\"dToAcA==\""), -EINVAL, NULL},
    {"auth_is_empty", AUTH("\"auth\":\"\",\"username\":\"\""), 0, NULL},
    {"user_wins_over_auth", AUTH("\"auth\":\"dXNlcjpwYXNz\",\"username\":\"u\",\"password\":\"p\""),
     0, "u:p"},
    {"registry_token_with_newline", AUTH("\"registry_token\":\"a\\r\\nX: y\""), -EINVAL, NULL},
    {"auth_list", REQ(",\"auth\":[]"), -EINVAL, NULL},
    {"no_object", "[]", -EBADMSG, NULL},
};

static void requests(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct pull_request req = {0};
        struct error *err = NULL;

        print_message("# %s\n", rows[i].name);
        assert_int_equal(pull_request_parse(rows[i].text, strlen(rows[i].text), &req, &err),
                         rows[i].r);
        assert_int_equal(err != NULL, rows[i].r < 0);
        assert_true(str_equal(req.user_pass, rows[i].user_pass));
        pull_request_done(&req);
        error_free(err);
    }
}

static const struct {
    const char *endpoint, *realm;
    bool trusted;
} realms[] = {
    {"https://registry-1.docker.io", "https://auth.docker.io/token", true},
    {"https://ghcr.io", "https://ghcr.io/token", true},
    {"https://ghcr.io", "https://auth.ghcr.io/token", true},
    {"https://ghcr.io", "https://other.io/token", false},
    {"https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true},
    {"https://r.example.org:5000", "https://auth.example.org", true},
    {"https://r.example.org", "https://evil.org/example.org", false},
    {"https://r.example.org", "https://evilexample.org", false},
    {"https://r.example.org", "https://r.example.org@evil.org/", false},
    {"https://r.example.org", "http://r.example.org/token", false},
    {"https://r.example.org", "file:///etc/passwd", false},
    {"https://r.example.org", "", false},
    {"http://127.0.0.1:5000", "http://127.0.0.1:5001/token", true},
    {"http://127.0.0.1:5000", "http://127.0.0.2/token", false},
    {"http://10.0.0.1", "http://1.0.0.1/", false},
    {"http://[::1]:5000", "http://[::1]/", true},
    {"http://[::1]:5000", "http://[::2]/", false},
    {"http://localhost:5000", "https://localhost/", true},
    {"http://localhost:5000", "http://a.localhost/", false},
    {"https://REG.example.org", "https://auth.EXAMPLE.org", true},
};

static void credentials_go_to_the_same_site_only(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(realms); i++) {
        print_message("# %s → %s\n", realms[i].endpoint, realms[i].realm);
        assert_int_equal(token_realm_is_trusted(realms[i].endpoint, realms[i].realm),
                         realms[i].trusted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(credentials_go_to_the_same_site_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
