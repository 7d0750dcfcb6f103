/* SPDX-License-Identifier: Apache-2.0 */
/* oci: manifests, indexes and configs: what is legal is read, what could mean two things is refused. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "oci/config.h"
#include "oci/manifest.h"

#define HEX "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
#define DESC(type, size) \
    "{\"mediaType\":\"" type "\",\"digest\":\"sha256:" HEX "\",\"size\":" size "}"
#define LAYER DESC("application/vnd.oci.image.layer.v1.tar+gzip", "10")
#define CONFIG DESC("application/vnd.oci.image.config.v1+json", "10")
#define GOOD "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" LAYER "]}"

static const struct {
    const char *name, *text, *type;
    int r;
    size_t entries;
} rows[] = {
    {"manifest_without_media_type", GOOD, NULL, 0, 1},
    {"manifest_with_header", GOOD, OCI_TYPE_MANIFEST "; charset=utf-8", 0, 1},
    {"no_layers", "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[]}", NULL, 0, 0},
    {"empty_index", "{\"schemaVersion\":2,\"manifests\":[]}", NULL, 0, 0},
    {"index", "{\"schemaVersion\":2,\"manifests\":[" LAYER "," LAYER "]}", OCI_TYPE_INDEX, 0, 2},
    {"header_says_index", GOOD, OCI_TYPE_INDEX, -EBADMSG, 0},
    {"body_says_list",
     "{\"schemaVersion\":2,\"mediaType\":\"" OCI_TYPE_DOCKER_LIST "\",\"config\":" CONFIG
     ",\"layers\":[]}",
     NULL, -EBADMSG, 0},
    {"manifests_and_layers", "{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}", NULL, -EBADMSG,
     0},
    {"neither", "{\"schemaVersion\":2}", NULL, -EBADMSG, 0},
    {"no_config", "{\"schemaVersion\":2,\"layers\":[]}", NULL, -EBADMSG, 0},
    {"schema_1", "{\"schemaVersion\":1,\"fsLayers\":[]}", NULL, -EOPNOTSUPP, 0},
    {"schema_3", "{\"schemaVersion\":3,\"manifests\":[]}", NULL, -EBADMSG, 0},
    {"no_schema", "{\"manifests\":[]}", NULL, -EBADMSG, 0},
    {"schema_text", "{\"schemaVersion\":\"2\",\"manifests\":[]}", NULL, -EBADMSG, 0},
    {"layers_twice", "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[],\"layers\":[]}",
     NULL, -EBADMSG, 0},
    {"layers_object", "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":{}}", NULL, -EBADMSG,
     0},
    {"size_negative",
     "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" DESC("x", "-1") "]}", NULL, -EBADMSG,
     0},
    {"size_zero", "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" DESC("x", "0") "]}",
     NULL, 0, 1},
    {"size_2_63",
     "{\"schemaVersion\":2,\"config\":" CONFIG
     ",\"layers\":[" DESC("x", "9223372036854775808") "]}",
     NULL, -EBADMSG, 0},
    {"size_real", "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" DESC("x", "1.5") "]}",
     NULL, -EBADMSG, 0},
    {"config_over_limit", "{\"schemaVersion\":2,\"config\":" DESC("x", "4194305") ",\"layers\":[]}",
     NULL, -EBADMSG, 0},
    {"no_digest", "{\"schemaVersion\":2,\"config\":{\"size\":1},\"layers\":[]}", NULL, -EBADMSG, 0},
    {"digest_path",
     "{\"schemaVersion\":2,\"config\":{\"size\":1,\"digest\":\"sha256:../../x\"},\"layers\":[]}",
     NULL, -EBADMSG, 0},
    {"digest_sha512",
     "{\"schemaVersion\":2,\"config\":{\"size\":1,\"digest\":\"sha512:" HEX HEX
     "\"},\"layers\":[]}",
     NULL, -EOPNOTSUPP, 0},
    {"nul_in_text", "{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{\"a\":\"\\u0000\"}}",
     NULL, -EBADMSG, 0},
    {"list", "[]", NULL, -EBADMSG, 0},
    {"two_values", GOOD GOOD, NULL, -EBADMSG, 0},
    {"empty", "", NULL, -EBADMSG, 0},
};

static void documents(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct oci_document doc = {0};
        struct error *err = NULL;
        int r;

        print_message("# %s\n", rows[i].name);
        r = oci_document_parse(rows[i].text, strlen(rows[i].text), rows[i].type, &doc, &err);
        assert_int_equal(r, rows[i].r);
        assert_int_equal(err != NULL, r < 0);
        assert_int_equal(doc.n_entries, rows[i].entries);
        oci_document_done(&doc);
        error_free(err);
    }
}

static void truncation_at_every_byte_is_refused(void **state)
{
    struct oci_document doc;

    for (size_t cut = 0; cut < strlen(GOOD); cut++)
        assert_int_equal(oci_document_parse(GOOD, cut, NULL, &doc, NULL), -EBADMSG);
}

static void repeat(struct buf *b, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(buf_append(b, text, strlen(text)), 0);
}

static int parse_layers(size_t n)
{
    struct oci_document doc = {0};
    struct buf b;
    int r;

    buf_init(&b, 64 << 20);
    repeat(&b, "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" LAYER, 1);
    repeat(&b, "," LAYER, n - 1);
    repeat(&b, "]}", 1);
    r = oci_document_parse(b.data, b.used, NULL, &doc, NULL);
    oci_document_done(&doc);
    buf_done(&b);
    return r;
}

static int parse_shape(const char *open, const char *close, size_t n)
{
    struct oci_document doc = {0};
    struct buf b;
    int r;

    buf_init(&b, 64 << 20);
    repeat(&b, "{\"schemaVersion\":2,\"manifests\":[],\"x\":", 1);
    repeat(&b, open, n);
    repeat(&b, "1", 1);
    repeat(&b, close, n);
    repeat(&b, "}", 1);
    r = oci_document_parse(b.data, b.used, NULL, &doc, NULL);
    oci_document_done(&doc);
    buf_done(&b);
    return r;
}

static void limits_hold_at_their_edges(void **state)
{
    assert_int_equal(parse_layers(LIMIT_IMAGE_LAYERS), 0);
    assert_int_equal(parse_layers(LIMIT_IMAGE_LAYERS + 1), -E2BIG);
    assert_int_equal(parse_layers(10000), -E2BIG);
    assert_int_equal(parse_shape("[", "]", LIMIT_JSON_DEPTH - 1), 0);
    assert_int_equal(parse_shape("[", "]", LIMIT_JSON_DEPTH), -E2BIG);
    assert_int_equal(parse_shape("[", "]", 1000000), -E2BIG);
    assert_int_equal(parse_shape("[1,", "]", LIMIT_JSON_DEPTH - 1), 0);
    assert_int_equal(parse_shape(" ", " ", LIMIT_MANIFEST_BYTES), -E2BIG);
}

static void the_index_entry_for_linux_is_chosen(void **state)
{
#define ENTRY(size, platform) "{\"digest\":\"sha256:" HEX "\",\"size\":" size platform "}"
    static const char text[] = "{\"schemaVersion\":2,\"manifests\":[" ENTRY("1", "") "," ENTRY(
        "2",
        ",\"platform\":{"
        "\"os\":"
        "\"windows\","
        "\"architecture\":"
        "\"amd64\"}") "," ENTRY("3", ",\"platform\":{\"os\":\"linux\",\"architecture\":"
                                     "\"amd64\",\"variant\":"
                                     "\"v3\"}") "," ENTRY("4", ",\"platform\":{\"os\":"
                                                               "\"linux\",\"architecture\":"
                                                               "\"amd64\",\"variant\":"
                                                               "\"v1\"}") "," ENTRY("5", ",\"plat"
                                                                                         "f"
                                                                                         "orm\":{"
                                                                                         "\"os\":"
                                                                                         "\"linux"
                                                                                         "\","
                                                                                         "\"archi"
                                                                                         "t"
                                                                                         "ecture"
                                                                                         "\""
                                                                                         ":\"amd6"
                                                                                         "4"
                                                                                         "\"}") "]"
                                                                                                "}";
    struct oci_document doc;

    assert_int_equal(oci_document_parse(text, strlen(text), NULL, &doc, NULL), 0);
    assert_int_equal(oci_index_choose(&doc, "amd64")->size, 5);
    assert_null(oci_index_choose(&doc, "arm64"));
    oci_document_done(&doc);
}

static const struct {
    const char *type;
    int r;
} layer_types[] = {
    {"application/vnd.oci.image.layer.v1.tar", 0},
    {"application/vnd.oci.image.layer.v1.tar+gzip", 0},
    {"application/vnd.oci.image.layer.v1.tar+zstd", 0},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", 0},
    {"application/vnd.docker.image.rootfs.diff.tar.zstd", 0},
    {"application/vnd.oci.image.layer.v1.tar+bzip2", -EOPNOTSUPP},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", -EOPNOTSUPP},
    {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", -EOPNOTSUPP},
    {"application/vnd.cncf.helm.chart.content.v1.tar+gzip", -EOPNOTSUPP},
    {"", -EOPNOTSUPP},
};

static void layers_of_other_kinds_are_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(layer_types); i++) {
        struct oci_descriptor d = {.media_type = str_dup(layer_types[i].type)};

        print_message("# %s\n", layer_types[i].type);
        assert_int_equal(oci_layer_check(&d, NULL), layer_types[i].r);
        free(d.media_type);
    }
}

static const struct {
    const char *name, *text;
    int r;
    size_t layers;
} configs[] = {
    {"full",
     "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Entrypoint\":[\"/"
     "a\"],\"Cmd\":[\"b\"],"
     "\"Env\":[\"A=b\"],\"User\":\"1:2\",\"WorkingDir\":\"/"
     "w\",\"StopSignal\":\"SIGINT\",\"Labels\":{\"x\":"
     "\"y\"}},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:" HEX "\"]},\"history\":[]}",
     0, 1},
    {"no_process", "{\"rootfs\":{\"type\":\"layers\"}}", 0, 0},
    {"null_vectors",
     "{\"config\":{\"Cmd\":null},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":null}}", 0, 0},
    {"no_rootfs", "{}", -EBADMSG, 0},
    {"other_rootfs", "{\"rootfs\":{\"type\":\"layers+base\"}}", -EOPNOTSUPP, 0},
    {"diff_ids_text", "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":\"x\"}}", -EBADMSG, 0},
    {"diff_id_bad", "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:1\"]}}", -EBADMSG, 0},
    {"diff_id_number", "{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[1]}}", -EBADMSG, 0},
    {"cmd_text", "{\"config\":{\"Cmd\":\"sh\"},\"rootfs\":{\"type\":\"layers\"}}", -EBADMSG, 0},
    {"env_of_numbers", "{\"config\":{\"Env\":[1]},\"rootfs\":{\"type\":\"layers\"}}", -EBADMSG, 0},
    {"nul_in_entrypoint",
     "{\"config\":{\"Entrypoint\":[\"/bin/sh\\u0000x\"]},\"rootfs\":{\"type\":\"layers\"}}",
     -EBADMSG, 0},
    {"config_list", "{\"config\":[],\"rootfs\":{\"type\":\"layers\"}}", -EBADMSG, 0},
};

static void image_configs(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(configs); i++) {
        struct oci_config c = {0};

        print_message("# %s\n", configs[i].name);
        assert_int_equal(oci_config_parse(configs[i].text, strlen(configs[i].text), &c, NULL),
                         configs[i].r);
        assert_int_equal(c.n_diff_ids, configs[i].layers);
        oci_config_done(&c);
    }
}

static void the_process_survives_our_own_json(void **state)
{
    struct oci_config c;
    struct oci_process p;
    json_t *doc;

    assert_int_equal(oci_config_parse(configs[0].text, strlen(configs[0].text), &c, NULL), 0);
    doc = oci_process_to_json(&c.process);
    assert_int_equal(oci_process_from_json(doc, &p, NULL), 0);
    assert_string_equal(p.entrypoint[0], "/a");
    assert_string_equal(p.cmd[0], "b");
    assert_string_equal(p.env[0], "A=b");
    assert_string_equal(p.user, "1:2");
    assert_string_equal(p.working_dir, "/w");
    assert_string_equal(p.stop_signal, "SIGINT");
    json_decref(doc);
    oci_process_done(&p);
    oci_config_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(truncation_at_every_byte_is_refused),
        cmocka_unit_test(limits_hold_at_their_edges),
        cmocka_unit_test(the_index_entry_for_linux_is_chosen),
        cmocka_unit_test(layers_of_other_kinds_are_refused),
        cmocka_unit_test(image_configs),
        cmocka_unit_test(the_process_survives_our_own_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
