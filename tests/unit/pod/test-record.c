/* SPDX-License-Identifier: Apache-2.0 */
/* record, spec, state: what is written reads back the same, damaged records are refused by name, every
 * cell of the state tables is decided. */
#include <string.h>

#include "base/str.h"
#include "lib/test.h"
#include "pod/record.h"
#include "pod/spec.h"
#include "pod/state.h"

static void fill(struct container_spec *s)
{
    s->name = str_dup("web");
    s->attempt = 7;
    s->image = str_dup("docker.io/library/busybox:latest");
    strv_push(&s->command, "sh");
    strv_push(&s->command, "");
    strv_push(&s->command, "a b");
    key_value_add(&s->envs, "B", "\xff\xfe raw");
    key_value_add(&s->envs, "A", "");
    key_value_add(&s->labels, "k", "v");
    s->tty = true;
    s->resources.memory_limit_bytes = 1LL << 40;
    s->resources.cpu_quota_us = -1;
    s->security.has_user = true;
    s->security.user = 0;
    s->security.supplemental_groups.items = xcalloc(2, sizeof(uint32_t));
    s->security.supplemental_groups.count = 2;
    s->security.supplemental_groups.items[1] = UINT32_MAX;
    {
        struct mount_spec *m = record_list_add(&s->mounts, sizeof(*m));
        m->container_path = str_dup("/etc/hosts");
        m->readonly = true;
    }
}

static void reads_back_what_it_wrote(void **state)
{
    struct container_spec a = {0}, b = {0};
    json_t *doc, *again;
    char *text;

    fill(&a);
    doc = record_to_json(&container_spec_desc, &a);
    text = json_dumps(doc, 0); /* it is text on disk */
    assert_non_null(text);
    again = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(record_from_json(&container_spec_desc, again, &b, NULL), 0);
    assert_true(record_equal(&container_spec_desc, &a, &b));
    assert_string_equal(b.envs.items[0].value, "\xff\xfe raw");
    assert_string_equal(b.command[1], "");
    assert_int_equal(b.security.supplemental_groups.items[1], UINT32_MAX);
    free(text);
    json_decref(doc);
    json_decref(again);
    b.attempt++;
    assert_false(record_equal(&container_spec_desc, &a, &b));
    container_spec_clear(&a);
    container_spec_clear(&b);
    assert_null(a.name);
}

static void copy_is_deep(void **state)
{
    struct container_spec a = {0}, b = {0};

    fill(&a);
    record_copy(&container_spec_desc, &a, &b);
    container_spec_clear(&a);
    assert_string_equal(b.name, "web");
    assert_string_equal(b.mounts.items[0].container_path, "/etc/hosts");
    container_spec_clear(&b);
}

static void wrong_types_are_refused_by_name(void **state)
{
    static const struct {
        const char *json, *where;
    } rows[] = {
        {"[]", "container_spec: no object"},
        {"{\"name\": 1}", "container_spec.name"},
        {"{\"attempt\": -1}", "container_spec.attempt"},
        {"{\"attempt\": 4294967296}", "container_spec.attempt"},
        {"{\"tty\": 1}", "container_spec.tty"},
        {"{\"command\": [1]}", "container_spec.command"},
        {"{\"command\": \"sh\"}", "container_spec.command"},
        {"{\"mounts\": {}}", "container_spec.mounts"},
        {"{\"mounts\": [[]]}", "container_spec.mounts: item 0"},
        {"{\"envs\": [{\"value\": {\"hex\": \"f\"}}]}", "key_value.value"},
        {"{\"envs\": [{\"value\": {\"hex\": \"00\"}}]}", "key_value.value"},
        {"{\"security\": {\"supplemental_groups\": [-1]}}", "security_spec.supplemental_groups"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(error_freep) struct error *err = NULL;
        struct container_spec s = {0};
        json_t *doc = json_loads(rows[i].json, 0, NULL);

        print_message("# %s\n", rows[i].json);
        assert_int_equal(record_from_json(&container_spec_desc, doc, &s, &err), -EBADMSG);
        assert_non_null(strstr(err->message, rows[i].where));
        container_spec_clear(&s);
        json_decref(doc);
    }
}

static void labels_compare_as_sets(void **state)
{
    key_value_list l = {0}, want = {0};

    key_value_add(&l, "b", "2");
    key_value_add(&l, "a", "1");
    key_value_sort(&l);
    assert_string_equal(l.items[0].key, "a");
    assert_true(key_value_contains(&l, &want));
    key_value_add(&want, "a", "1");
    assert_true(key_value_contains(&l, &want));
    key_value_add(&want, "b", "1");
    assert_false(key_value_contains(&l, &want));
    for (size_t i = 0; i < 2; i++) {
        free(l.items[i].key);
        free(l.items[i].value);
        free(want.items[i].key);
        free(want.items[i].value);
    }
    free(l.items);
    free(want.items);
}

static void every_cell_is_decided(void **state)
{
    /* only these may be ignored: nothing is left that the event could change */
    for (unsigned s = 0; s < SANDBOX_STATE_COUNT; s++) {
        assert_int_equal(sandbox_state_parse(sandbox_state_name(s)), s);
        for (unsigned e = 0; e < SANDBOX_EVENT_COUNT; e++)
            if (sandbox_on(s, e) == SANDBOX_DO_IGNORE)
                assert_int_equal(e, SANDBOX_EV_VM_GONE);
    }
    for (unsigned s = 0; s < CONTAINER_STATE_COUNT; s++) {
        assert_int_equal(container_state_parse(container_state_name(s)), s);
        for (unsigned e = 0; e < CONTAINER_EVENT_COUNT; e++)
            if (container_on(s, e) == CONTAINER_DO_IGNORE)
                assert_true(e == CONTAINER_EV_EXITED || e == CONTAINER_EV_VM_GONE);
    }
    assert_int_equal(sandbox_state_parse("ready "), -EINVAL);
    assert_int_equal(container_state_parse(NULL), -EINVAL);
}

static void only_ready_sandboxes_and_running_containers_are_used(void **state)
{
    for (unsigned s = 0; s < SANDBOX_STATE_COUNT; s++)
        assert_int_equal(sandbox_on(s, SANDBOX_EV_USE) == SANDBOX_DO_ALLOW, s == SANDBOX_READY);
    for (unsigned s = 0; s < CONTAINER_STATE_COUNT; s++) {
        assert_int_equal(container_on(s, CONTAINER_EV_USE) == CONTAINER_DO_ALLOW,
                         s == CONTAINER_RUNNING);
        assert_int_equal(container_on(s, CONTAINER_EV_START) == CONTAINER_DO_BEGIN_START,
                         s == CONTAINER_CREATED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_what_it_wrote),
        cmocka_unit_test(copy_is_deep),
        cmocka_unit_test(wrong_types_are_refused_by_name),
        cmocka_unit_test(labels_compare_as_sets),
        cmocka_unit_test(every_cell_is_decided),
        cmocka_unit_test(only_ready_sandboxes_and_running_containers_are_used),
    };
    return cmocka_run_group_tests_name("record", tests, NULL, NULL) != 0;
}
