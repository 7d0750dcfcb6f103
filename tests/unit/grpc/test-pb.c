/* SPDX-License-Identifier: Apache-2.0 */
/* grpc/pb: hostile protobuf is refused with words; what is accepted is text and fits the arena. */
#include <errno.h>
#include <string.h>

#include "gen/cri/cri.pb-c.h"
#include "grpc/pb-internal.h"
#include "lib/test.h"

#define RUN_POD (&runtime__v1__run_pod_sandbox_request__descriptor)
#define EXEC (&runtime__v1__exec_sync_request__descriptor)
#define CONFIG (&runtime__v1__pod_sandbox_config__descriptor)

static const struct {
    const char *name;
    const ProtobufCMessageDescriptor *type;
    uint8_t in[24];
    size_t len;
    int r;
    const char *why;
} rows[] = {
    {"empty_message", EXEC, {0}, 0, 0, NULL},
    {"text", EXEC, {0x0a, 2, 'i', 'd'}, 4, 0, NULL},
    {"ten_byte_varint_of_64_bits",
     EXEC,
     {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
     11,
     0,
     NULL},
    {"ten_byte_varint_of_more",
     EXEC,
     {0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
     11,
     -EBADMSG,
     "number"},
    {"eleven_byte_varint",
     EXEC,
     {0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
     12,
     -EBADMSG,
     "number"},
    {"tag_of_field_0", EXEC, {0x00, 0}, 2, -EBADMSG, "tag"},
    {"tag_above_29_bits", EXEC, {0x80, 0x80, 0x80, 0x80, 0x10, 0}, 6, -EBADMSG, "tag"},
    {"wire_type_3", EXEC, {0x0b}, 1, -EBADMSG, "wire type"},
    {"wire_type_4", EXEC, {0x0c}, 1, -EBADMSG, "wire type"},
    {"wire_type_6", EXEC, {0x0e}, 1, -EBADMSG, "wire type"},
    {"wire_type_7", EXEC, {0x0f}, 1, -EBADMSG, "wire type"},
    {"length_beyond_the_end", EXEC, {0x0a, 3, 'i', 'd'}, 4, -EBADMSG, "length"},
    {"length_of_2_63",
     EXEC,
     {0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
     11,
     -EBADMSG,
     "length"},
    {"cut_fixed64", EXEC, {0xf9, 0x01, 1, 2, 3}, 5, -EBADMSG, "cut"},
    {"cut_fixed32", EXEC, {0xfd, 0x01, 1, 2, 3}, 5, -EBADMSG, "cut"},
    {"unknown_fields",
     EXEC,
     {0xf9, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0xfd, 0x01, 1, 2, 3, 4},
     16,
     0,
     NULL},
    {"number_where_text_belongs", EXEC, {0x08, 1}, 2, -EBADMSG, "ExecSyncRequest"},
    {"latin1", EXEC, {0x0a, 1, 0xfc}, 3, -EILSEQ, "ExecSyncRequest.container_id"},
    {"nul", EXEC, {0x0a, 3, 'a', 0, 'b'}, 5, -EILSEQ, "ExecSyncRequest.container_id"},
    {"surrogate", EXEC, {0x12, 3, 0xed, 0xa0, 0x80}, 5, -EILSEQ, "ExecSyncRequest.cmd"},
    {"inside_a_submessage",
     RUN_POD,
     {0x0a, 5, 0x0a, 3, 0x0a, 1, 0xff},
     7,
     -EILSEQ,
     "PodSandboxMetadata.name"},
    {"map_without_key", CONFIG, {0x32, 2, 0x12, 0}, 4, 0, NULL},
    {"map_with_bad_text", CONFIG, {0x32, 3, 0x0a, 1, 0x80}, 5, -EILSEQ, "LabelsEntry.key"},
    {"submessage_cut", RUN_POD, {0x0a, 2, 0x0a, 3}, 4, -EBADMSG, "PodSandboxConfig"},
    {"unknown_enum_and_bool_2", CONFIG, {0x2a, 2, 0x08, 77}, 4, 0, NULL},
};

static void table(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(arena_freep) struct arena *a = arena_new(1 << 20);
        const ProtobufCMessage *m = NULL;
        char why[GRPC_PB_WHY_SIZE] = "";

        print_message("# %s\n", rows[i].name);
        assert_int_equal(grpc_pb_unpack(rows[i].type, a, rows[i].in, rows[i].len, &m, why),
                         rows[i].r);
        if (rows[i].why && !strstr(why, rows[i].why))
            fail_msg("'%s' does not say '%s'", why, rows[i].why);
        if (rows[i].r == 0)
            assert_ptr_equal(m->descriptor, rows[i].type);
    }
}

/* A message with a bit of everything, cut at each byte: never more than an error. */
static void valid_message_survives_any_cut(void **state)
{
    Runtime__V1__RunPodSandboxRequest rq = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
    Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
    Runtime__V1__PodSandboxMetadata meta = RUNTIME__V1__POD_SANDBOX_METADATA__INIT;
    Runtime__V1__PodSandboxConfig__LabelsEntry label =
        RUNTIME__V1__POD_SANDBOX_CONFIG__LABELS_ENTRY__INIT;
    Runtime__V1__PodSandboxConfig__LabelsEntry *labels[] = {&label, &label};
    uint8_t bytes[256];
    size_t len;

    meta.name = (char[]){"web-\xc3\xbc"};
    meta.attempt = UINT32_MAX;
    label.key = (char[]){"app"};
    label.value = (char[]){"web"};
    config.metadata = &meta;
    config.n_labels = 2;
    config.labels = labels;
    rq.config = &config;
    rq.runtime_handler = (char[]){"nexus-vmm"};
    len = protobuf_c_message_pack(&rq.base, bytes);
    for (size_t cut = 0; cut <= len; cut++) {
        _cleanup_(arena_freep) struct arena *a = arena_new(1 << 20);
        const ProtobufCMessage *m = NULL;
        char why[GRPC_PB_WHY_SIZE];
        int r = grpc_pb_unpack(RUN_POD, a, bytes, cut, &m, why);

        assert_true(r == 0 || r == -EBADMSG || r == -EILSEQ);
        if (cut == len) {
            const Runtime__V1__RunPodSandboxRequest *got =
                (const Runtime__V1__RunPodSandboxRequest *)m;
            assert_int_equal(r, 0);
            assert_string_equal(got->config->metadata->name, "web-\xc3\xbc");
            assert_int_equal(got->config->n_labels, 2);
        }
    }
}

static void memory_is_capped(void **state)
{
    _cleanup_(arena_freep) struct arena *a = arena_new(256 << 10);
    static uint8_t in[64 << 10];
    const ProtobufCMessage *m = NULL;
    char why[GRPC_PB_WHY_SIZE] = "";

    for (size_t i = 0; i < sizeof(in); i += 2)
        in[i] = 0x12; /* cmd: "" */
    assert_int_equal(grpc_pb_unpack(EXEC, a, in, sizeof(in), &m, why), -ENOBUFS);
    assert_non_null(strstr(why, "memory"));
}

/* Merging one submessage again and again copies what came before: the cap ends it early. */
static void repeated_singular_submessage_is_merged_or_refused(void **state)
{
    static uint8_t in[60000];
    const ProtobufCMessage *m = NULL;
    char why[GRPC_PB_WHY_SIZE] = "";
    _cleanup_(arena_freep) struct arena *a = arena_new(4 << 20);
    size_t len = 0;
    int r;

    while (len + 6 <= sizeof(in)) { /* config { labels {} labels {} } */
        static const uint8_t one[] = {0x0a, 4, 0x32, 0, 0x32, 0};
        memcpy(in + len, one, sizeof(one));
        len += sizeof(one);
    }
    r = grpc_pb_unpack(RUN_POD, a, in, len, &m, why);
    assert_true(r == 0 || r == -ENOBUFS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(valid_message_survives_any_cut),
        cmocka_unit_test(memory_is_capped),
        cmocka_unit_test(repeated_singular_submessage_is_merged_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
