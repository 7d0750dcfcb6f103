/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON of a profile. Keys of the specification that we do not know are refused where they would make
 * the filter stricter, and the rest of the document is as strict as oci/json.h makes it. */
#include "seccomp/profile.h"

#include <seccomp.h>
#include <string.h>

#include "base/str.h"
#include "oci/json.h"

#define ERRNO_MAX 4095

void syscall_profile_done(struct syscall_profile *p)
{
    for (size_t i = 0; i < p->n_rules; i++)
        free(p->rules[i].name);
    free(p->rules);
    memset(p, 0, sizeof(*p));
}

static int bad(struct error **err, const char *what, const char *value)
{
    return error_set_class(err, ERROR_INVALID, -EBADMSG, "%s \"%.64s\" is unknown", what, value);
}

/* ---- actions */

static const struct {
    const char *name;
    uint32_t action;
    bool with_errno;
} actions[] = {
    {"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW, false},
    {"SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0), true},
    {"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD, false},
    {"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD, false},
    {"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS, false},
    {"SCMP_ACT_TRAP", SCMP_ACT_TRAP, false},
    {"SCMP_ACT_TRACE", SCMP_ACT_TRACE(0), true},
    {"SCMP_ACT_LOG", SCMP_ACT_LOG, false},
};

static int action(const json_t *obj, const char *key, const char *errno_key, uint32_t *ret,
                  struct error **err)
{
    uint64_t code = EPERM;
    const char *name;
    int r = oci_json_str(obj, key, &name, err);

    if (r < 0)
        return r;
    if (!name)
        return error_set_class(err, ERROR_INVALID, -EBADMSG, "\"%s\" is missing", key);
    r = oci_json_u64(obj, errno_key, 0, ERRNO_MAX, &code, err);
    if (r < 0 && r != -ENOENT)
        return r;
    if (str_equal(name, "SCMP_ACT_NOTIFY"))
        return error_set(err, -EOPNOTSUPP,
                         "SCMP_ACT_NOTIFY needs a listener, which is not offered");
    for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
        if (str_equal(name, actions[i].name)) {
            *ret = actions[i].action | (actions[i].with_errno ? (uint32_t)code : 0);
            return 0;
        }
    return bad(err, key, name);
}

/* ---- conditions on arguments */

static const struct {
    const char *name;
    uint32_t op;
} operators[] = {
    {"SCMP_CMP_NE", SCMP_CMP_NE},
    {"SCMP_CMP_LT", SCMP_CMP_LT},
    {"SCMP_CMP_LE", SCMP_CMP_LE},
    {"SCMP_CMP_EQ", SCMP_CMP_EQ},
    {"SCMP_CMP_GE", SCMP_CMP_GE},
    {"SCMP_CMP_GT", SCMP_CMP_GT},
    {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
};

static int operator_parse(const json_t *obj, uint32_t *ret, struct error **err)
{
    const char *name;
    int r = oci_json_str(obj, "op", &name, err);

    if (r < 0)
        return r;
    for (size_t i = 0; name && i < ARRAY_SIZE(operators); i++)
        if (str_equal(name, operators[i].name)) {
            *ret = operators[i].op;
            return 0;
        }
    return bad(err, "op", name ? name : "");
}

static int arg_parse(const json_t *obj, struct syscall_arg *ret, struct error **err)
{
    uint64_t index = 0;
    int r = oci_json_u64(obj, "index", 0, SECCOMP_ARGS_MAX - 1, &index, err);

    if (r == -ENOENT)
        return error_set_class(err, ERROR_INVALID, -EBADMSG, "an argument has no \"index\"");
    if (r == 0)
        r = operator_parse(obj, &ret->op, err);
    if (r == 0)
        r = oci_json_u64(obj, "value", 0, INT64_MAX, &ret->value, err);
    if (r == 0 || r == -ENOENT)
        r = oci_json_u64(obj, "valueTwo", 0, INT64_MAX, &ret->value_two, err);
    ret->index = (uint32_t)index;
    return r == -ENOENT ? 0 : r;
}

static int args_parse(const json_t *obj, struct syscall_rule *ret, struct error **err)
{
    const json_t *list = json_object_get(obj, "args");
    size_t n = json_array_size(list);

    if (list && !json_is_null(list) && !json_is_array(list))
        return error_set_class(err, ERROR_INVALID, -EBADMSG, "\"args\" is no list");
    if (n > SECCOMP_ARGS_MAX)
        return error_set_class(err, ERROR_INVALID, -E2BIG, "more than %d \"args\"",
                               SECCOMP_ARGS_MAX);
    for (size_t i = 0; i < n; i++) {
        int r = arg_parse(json_array_get(list, i), &ret->args[i], err);
        if (r < 0)
            return r;
    }
    ret->n_args = (uint32_t)n;
    return 0;
}

/* ---- rules */

static bool is_syscall_name(const char *s)
{
    size_t n = strlen(s);

    return n > 0 && n <= 64 && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

/* The names of one rule share what is in *rule. */
static int names_parse(const json_t *obj, const struct syscall_rule *rule,
                       struct syscall_profile *p, struct error **err)
{
    const json_t *list = json_object_get(obj, "names");
    size_t n = json_array_size(list);

    if (n == 0)
        return error_set_class(err, ERROR_INVALID, -EBADMSG, "a rule has no \"names\"");
    if (n > SECCOMP_RULES_MAX - p->n_rules)
        return error_set_class(err, ERROR_INVALID, -E2BIG, "rules for more than %d system calls",
                               SECCOMP_RULES_MAX);
    p->n_conditions += n * rule->n_args;
    if (p->n_conditions > SECCOMP_CONDITIONS_MAX)
        return error_set_class(err, ERROR_INVALID, -E2BIG, "more than %d conditions on arguments",
                               SECCOMP_CONDITIONS_MAX);
    p->rules = xrealloc(p->rules, p->n_rules + n, sizeof(*p->rules));
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));

        if (!name || !is_syscall_name(name))
            return error_set_class(err, ERROR_INVALID, -EBADMSG,
                                   "\"%.64s\" is no name of a system call", name ? name : "");
        p->rules[p->n_rules] = *rule;
        p->rules[p->n_rules++].name = str_dup(name);
    }
    return 0;
}

static int rule_parse(const json_t *obj, struct syscall_profile *p, struct error **err)
{
    static const char *const conditional[] = {"includes", "excludes"};
    struct syscall_rule rule = {0};
    int r;

    /* another format's conditions: to look past them is to apply another profile */
    for (size_t i = 0; i < ARRAY_SIZE(conditional); i++)
        if (json_object_size(json_object_get(obj, conditional[i])) > 0)
            return error_set_class(err, ERROR_INVALID, -EBADMSG,
                                   "\"%s\" of a rule is none of the OCI format", conditional[i]);
    r = action(obj, "action", "errnoRet", &rule.action, err);
    if (r == 0)
        r = args_parse(obj, &rule, err);
    if (r == 0)
        r = names_parse(obj, &rule, p, err);
    return r;
}

static int rules_parse(const json_t *doc, struct syscall_profile *p, struct error **err)
{
    const json_t *list = json_object_get(doc, "syscalls");
    size_t n = json_array_size(list);

    if (list && !json_is_null(list) && !json_is_array(list))
        return error_set_class(err, ERROR_INVALID, -EBADMSG, "\"syscalls\" is no list");
    for (size_t i = 0; i < n; i++) {
        int r = rule_parse(json_array_get(list, i), p, err);
        if (r < 0)
            return error_prefix(err, r, "rule %zu", i + 1);
    }
    return 0;
}

/* ---- the rest */

static int arch_parse(const char *name, struct syscall_profile *p, struct error **err)
{
    static const struct {
        const char *name;
        uint32_t arch; /* 0: one that a guest does not have */
    } arches[] = {
        {"X86_64", SCMP_ARCH_X86_64},
        {"X86", SCMP_ARCH_X86},
        {"X32", SCMP_ARCH_X32},
        {"ARM", 0},
        {"AARCH64", 0},
        {"MIPS", 0},
        {"MIPS64", 0},
        {"MIPS64N32", 0},
        {"MIPSEL", 0},
        {"MIPSEL64", 0},
        {"MIPSEL64N32", 0},
        {"PPC", 0},
        {"PPC64", 0},
        {"PPC64LE", 0},
        {"S390", 0},
        {"S390X", 0},
        {"PARISC", 0},
        {"PARISC64", 0},
        {"RISCV64", 0},
        {"LOONGARCH64", 0},
        {"M68K", 0},
        {"SH", 0},
        {"SHEB", 0},
    };

    for (size_t i = 0; str_starts(name, "SCMP_ARCH_") && i < ARRAY_SIZE(arches); i++) {
        uint32_t arch = arches[i].arch;

        if (!str_equal(name + strlen("SCMP_ARCH_"), arches[i].name))
            continue;
        for (size_t k = 0; k < p->n_arches; k++)
            if (p->arches[k] == arch)
                return 0;
        if (arch)
            p->arches[p->n_arches++] = arch;
        return 0;
    }
    return bad(err, "architecture", name);
}

static int arches_parse(const json_t *doc, struct syscall_profile *p, struct error **err)
{
    _cleanup_(strv_freep) char **names = NULL;
    int r = oci_json_strv(doc, "architectures", 64, &names, err);

    for (size_t i = 0; r == 0 && names && names[i]; i++)
        r = arch_parse(names[i], p, err);
    return r;
}

/* How the filter is loaded, not what it says; none of them changes what a program may do. */
static int flags_parse(const json_t *doc, struct error **err)
{
    static const char *const known[] = {"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
                                        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                                        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"};
    _cleanup_(strv_freep) char **names = NULL;
    int r = oci_json_strv(doc, "flags", 64, &names, err);

    for (size_t i = 0; r == 0 && names && names[i]; i++) {
        size_t k = 0;

        while (k < ARRAY_SIZE(known) && !str_equal(names[i], known[k]))
            k++;
        if (k == ARRAY_SIZE(known))
            r = bad(err, "flag", names[i]);
    }
    return r;
}

static int listener_parse(const json_t *doc, struct error **err)
{
    const char *path;
    int r = oci_json_str(doc, "listenerPath", &path, err);

    if (r == 0 && path && *path)
        return error_set(err, -EOPNOTSUPP, "\"listenerPath\": a listener is not offered");
    return r;
}

int syscall_profile_parse(const void *bytes, size_t len, struct syscall_profile *ret,
                          struct error **err)
{
    struct syscall_profile p = {0};
    json_t *doc = NULL;
    int r = oci_json_parse(bytes, len, SECCOMP_FILE_BYTES_MAX, "the file", &doc, err);

    if (r == 0)
        r = action(doc, "defaultAction", "defaultErrnoRet", &p.default_action, err);
    if (r == 0)
        r = arches_parse(doc, &p, err);
    if (r == 0)
        r = flags_parse(doc, err);
    if (r == 0)
        r = listener_parse(doc, err);
    if (r == 0)
        r = rules_parse(doc, &p, err);
    json_decref(doc);
    if (r < 0) {
        syscall_profile_done(&p);
        if (err && *err && (*err)->class != ERROR_UNSUPPORTED)
            (*err)->class = ERROR_INVALID;
        return r;
    }
    *ret = p;
    return 0;
}
