/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/config.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "base/file.h"
#include "base/log.h"
#include "base/numparse.h"
#include "base/str.h"

enum type {
    TYPE_PATH,    /* char *; absolute. Without a default it may be empty: NULL */
    TYPE_WORD,    /* char *; one of the words in def, the first is the default */
    TYPE_ADDRESS, /* char *; IPv4 or IPv6, of one interface */
    TYPE_LIST,    /* char ** */
    TYPE_PATHS,   /* char **; absolute */
    TYPE_SIZE,    /* uint64_t bytes */
    TYPE_COUNT,   /* uint64_t 1-16 */
    TYPE_NUMBER,  /* uint64_t 0-1000 */
    TYPE_SPAN,    /* uint64_t milliseconds */
};
static const char *const type_names[] = {
    [TYPE_PATH] = "path",      [TYPE_WORD] = "word",   [TYPE_ADDRESS] = "address",
    [TYPE_LIST] = "list",      [TYPE_SIZE] = "size",   [TYPE_COUNT] = "count",
    [TYPE_SPAN] = "time span", [TYPE_PATHS] = "paths", [TYPE_NUMBER] = "number",
};

#define KEY(name_, type_, member_, default_)                            \
    {                                                                   \
        name_, TYPE_##type_, offsetof(struct config, member_), default_ \
    }
static const struct key {
    const char *name; /* "section.key" */
    enum type type;
    size_t offset;
    const char *def; /* words: all, blank between; lists: blank between */
} keys[] = {
    KEY("listen", PATH, listen, "/run/nexus/nexusd.sock"),
    KEY("state_dir", PATH, state_dir, "/var/lib/nexus"),
    KEY("run_dir", PATH, run_dir, "/run/nexus"),
    KEY("boot_id_file", PATH, boot_id_file, "/proc/sys/kernel/random/boot_id"),
    KEY("log.level", WORD, log_level, "info error warning notice debug"),
    KEY("log.target", WORD, log_target, "auto stderr journal"),
    KEY("vm.program", PATH, vm_program, "/usr/libexec/nexus/nexus-vmm"),
    KEY("vm.kernel", PATH, vm_kernel, "/usr/libexec/nexus/vmlinux"),
    KEY("vm.initramfs", PATH, vm_initramfs, "/usr/libexec/nexus/initramfs.cpio"),
    KEY("vm.modules", PATH, vm_modules, "/usr/libexec/nexus/modules.erofs"),
    KEY("vm.kvm", PATH, vm_kvm, "/dev/kvm"),
    KEY("vm.arguments", LIST, vm_arguments, ""),
    KEY("vm.memory", SIZE, vm_memory, "256M"),
    KEY("vm.memory_max", SIZE, vm_memory_max, "64G"),
    KEY("vm.memory_overhead", SIZE, vm_memory_overhead, "64M"),
    KEY("vm.host_overhead", SIZE, vm_host_overhead, "64M"),
    KEY("vm.cpus", COUNT, vm_cpus, "1"),
    KEY("vm.cpus_max", COUNT, vm_cpus_max, "16"),
    KEY("vm.boot_timeout", SPAN, vm_boot_timeout_ms, "60s"),
    KEY("scratch.size", SIZE, scratch_size, "8G"),
    KEY("scratch.mkfs", PATH, scratch_mkfs, "/usr/sbin/mkfs.ext4"),
    KEY("share.program", PATH, share_program, "/usr/libexec/virtiofsd"),
    KEY("mapper.kubelet_root", PATH, mapper_kubelet_root, "/var/lib/kubelet"),
    KEY("mapper.directories", PATHS, mapper_directories, ""),
    KEY("mapper.data", WORD, mapper_data, "map copy"),
    KEY("mapper.update_burst", NUMBER, mapper_update_burst, "4"),
    KEY("mapper.update_interval", SPAN, mapper_update_interval_ms, "1s"),
    KEY("network.conf_dir", PATH, network_conf_dir, "/etc/cni/net.d"),
    KEY("network.bin_dirs", PATHS, network_bin_dirs, "/opt/cni/bin /usr/lib/cni"),
    KEY("network.netns_dir", PATH, network_netns_dir, "/run/netns"),
    KEY("network.timeout", SPAN, network_timeout_ms, "60s"),
    KEY("cgroup.root", PATH, cgroup_root, "/sys/fs/cgroup"),
    KEY("cgroup.driver", WORD, cgroup_driver, "systemd cgroupfs"),
    KEY("images.dir", PATH, images_dir, "/var/lib/nexus/images"),
    KEY("images.pull_program", PATH, images_pull_program, "/usr/libexec/nexus/nexus-pull"),
    KEY("images.stall_timeout", SPAN, images_stall_timeout_ms, "5m"),
    KEY("stream.program", PATH, stream_program, "/usr/libexec/nexus/nexus-stream"),
    KEY("stream.address", ADDRESS, stream_address, "127.0.0.1"),
    KEY("stream.tls_certificate", PATH, stream_tls_certificate, ""),
    KEY("stream.tls_key", PATH, stream_tls_key, ""),
    KEY("stream.tls_client_ca", PATH, stream_tls_client_ca, ""),
    KEY("stream.idle_timeout", SPAN, stream_idle_timeout_ms, "4h"),
};

#define SIZE_MAX_BYTES (1ULL << 44)
#define SPAN_MAX_MS (24ULL * 3600 * 1000)
#define CPUS_MAX 16
#define NUMBER_MAX 1000

static char **split(const char *text)
{
    _cleanup_(freep) char *copy = str_dup(text);
    char *rest = copy, *word, **v = NULL;

    while ((word = strsep(&rest, " ")))
        if (*word)
            strv_push(&v, word);
    return v;
}

/* ---- values */

static int set_word(char **field, const struct key *key, const char *value)
{
    _cleanup_(strv_freep) char **words = split(key->def);

    if (!strv_contains(words, value))
        return -EINVAL;
    free(*field);
    *field = str_dup(value);
    return 0;
}

static int set_number(uint64_t *field, enum type type, const char *value)
{
    uint64_t n = 0;
    int r = type == TYPE_SIZE   ? parse_size(value, SIZE_MAX_BYTES, &n)
            : type == TYPE_SPAN ? parse_span_ms(value, SPAN_MAX_MS, &n)
                                : parse_u64(value, type == TYPE_NUMBER ? NUMBER_MAX : CPUS_MAX, &n);

    if (r < 0 || (n == 0 && type != TYPE_NUMBER))
        return r < 0 ? r : -EINVAL;
    *field = n;
    return 0;
}

enum scope { SCOPE_NONE, SCOPE_ANY, SCOPE_LOOPBACK, SCOPE_OTHER };

/* Whom an address lets in; ANY: all interfaces. */
static enum scope address_scope(const char *text)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, text, &v4) == 1)
        return v4.s_addr == htonl(INADDR_ANY)  ? SCOPE_ANY
               : ntohl(v4.s_addr) >> 24 == 127 ? SCOPE_LOOPBACK
                                               : SCOPE_OTHER;
    if (inet_pton(AF_INET6, text, &v6) != 1)
        return SCOPE_NONE;
    return IN6_IS_ADDR_UNSPECIFIED(&v6) ? SCOPE_ANY
           : IN6_IS_ADDR_LOOPBACK(&v6)  ? SCOPE_LOOPBACK
                                        : SCOPE_OTHER;
}

static int set_text(char **field, const char *value)
{
    free(*field);
    *field = *value ? str_dup(value) : NULL;
    return 0;
}

static int set_scalar(struct config *c, const struct key *key, const char *value)
{
    void *field = (char *)c + key->offset;

    switch (key->type) {
    case TYPE_PATH:
        return value[0] == '/' || (!*value && !*key->def) ? set_text(field, value) : -EINVAL;
    case TYPE_ADDRESS: /* clients are told it: it must be one */
        return address_scope(value) > SCOPE_ANY ? set_text(field, value) : -EINVAL;
    case TYPE_WORD:
        return set_word(field, key, value);
    case TYPE_SIZE:
    case TYPE_COUNT:
    case TYPE_NUMBER:
    case TYPE_SPAN:
        return set_number(field, key->type, value);
    case TYPE_LIST:
    case TYPE_PATHS:
        break;
    }
    return -EINVAL;
}

void config_init(struct config *c)
{
    memset(c, 0, sizeof(*c));
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const struct key *k = &keys[i];
        _cleanup_(strv_freep) char **words = split(k->def);

        if (k->type == TYPE_LIST || k->type == TYPE_PATHS)
            *(char ***)(void *)((char *)c + k->offset) = TAKE(words);
        else
            (void)set_scalar(c, k, words ? words[0] : "");
    }
}

static void registry_done(struct image_registry *r)
{
    free((char *)(uintptr_t)r->host);
    strv_free((char **)(uintptr_t)r->endpoints);
    free((char *)(uintptr_t)r->ca_file);
}

void config_done(struct config *c)
{
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        void *field = (char *)c + keys[i].offset;

        if (keys[i].type == TYPE_PATH || keys[i].type == TYPE_WORD || keys[i].type == TYPE_ADDRESS)
            free(*(char **)field);
        else if (keys[i].type == TYPE_LIST || keys[i].type == TYPE_PATHS)
            strv_free(*(char ***)field);
    }
    for (size_t i = 0; i < c->n_registries; i++)
        registry_done(&c->registries[i]);
    free(c->registries);
    memset(c, 0, sizeof(*c));
}

/* ---- the document */

struct reader {
    struct config *config;
    const char *name;
    yaml_document_t *doc;
    bool seen[ARRAY_SIZE(keys)];
    bool seen_registries;
    struct error **err;
};

static int bad(const struct reader *r, const yaml_node_t *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int bad(const struct reader *r, const yaml_node_t *node, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return error_set(r->err, -EINVAL, "%s:%zu: %s", r->name, node->start_mark.line + 1, text);
}

/* The scalar's text, or NULL when it is none or has a NUL. */
static const char *scalar(const yaml_node_t *node)
{
    const char *text;

    if (!node || node->type != YAML_SCALAR_NODE)
        return NULL;
    text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

static int read_list(struct reader *r, const yaml_node_t *node, const char *name, bool paths,
                     char ***ret)
{
    _cleanup_(strv_freep) char **v = NULL;

    if (node->type != YAML_SEQUENCE_NODE)
        return bad(r, node, "%s must be a list", name);
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = yaml_document_get_node(r->doc, *i);
        const char *text = scalar(item);

        if (!text || !*text || (paths && text[0] != '/'))
            return bad(r, item ? item : node, "%s must hold %s", name,
                       paths ? "absolute paths" : "words");
        strv_push(&v, text);
    }
    strv_free(*ret);
    *ret = TAKE(v);
    return 0;
}

static int read_key(struct reader *r, size_t index, const yaml_node_t *key_node,
                    const yaml_node_t *value)
{
    const struct key *key = &keys[index];
    const char *text;

    if (r->seen[index])
        return bad(r, key_node, "%s is there twice", key->name);
    r->seen[index] = true;
    if (key->type == TYPE_LIST || key->type == TYPE_PATHS)
        return read_list(r, value, key->name, key->type == TYPE_PATHS,
                         (char ***)(void *)((char *)r->config + key->offset));
    text = scalar(value);
    if (!text || set_scalar(r->config, key, text) < 0)
        return bad(r, value, "%s must be a%s %s%s%s", key->name,
                   key->type == TYPE_ADDRESS ? "n" : "", type_names[key->type],
                   key->type == TYPE_WORD ? ", one of: " : "",
                   key->type == TYPE_WORD      ? key->def
                   : key->type == TYPE_SIZE    ? " (256M, 8G)"
                   : key->type == TYPE_SPAN    ? " (60s, 5m)"
                   : key->type == TYPE_PATH    ? " that begins with /"
                   : key->type == TYPE_NUMBER  ? " from 0 to 1000"
                   : key->type == TYPE_ADDRESS ? ", IPv4 or IPv6, of one interface (127.0.0.1, ::1)"
                                               : " from 1 to 16");
    return 0;
}

static int read_bool(struct reader *r, const yaml_node_t *node, const char *name, bool *ret)
{
    const char *text = scalar(node);

    if (!str_equal(text, "true") && !str_equal(text, "false"))
        return bad(r, node, "%s must be true or false", name);
    *ret = str_equal(text, "true");
    return 0;
}

static int read_registry_field(struct reader *r, struct image_registry *reg,
                               const yaml_node_t *key_node, const yaml_node_t *value)
{
    const char *key = scalar(key_node), *text = scalar(value);
    char **endpoints = NULL;
    int k;

    if (str_equal(key, "host") && text && *text && !reg->host) {
        reg->host = str_dup(text);
        return 0;
    }
    if (str_equal(key, "endpoints") && !reg->endpoints) {
        k = read_list(r, value, "endpoints", false, &endpoints);
        reg->endpoints = (const char *const *)(uintptr_t)endpoints;
        return k;
    }
    if (str_equal(key, "only_endpoints"))
        return read_bool(r, value, key, &reg->only_endpoints);
    if (str_equal(key, "plain_http"))
        return read_bool(r, value, key, &reg->plain_http);
    if (str_equal(key, "mirror_credentials"))
        return read_bool(r, value, key, &reg->mirror_credentials);
    if (str_equal(key, "ca_file") && text && text[0] == '/' && !reg->ca_file) {
        reg->ca_file = str_dup(text);
        return 0;
    }
    return bad(r, key_node, "images.registries: unknown key, key twice, or bad value: %.64s",
               key ? key : "(no word)");
}

static int read_registries(struct reader *r, const yaml_node_t *key_node, const yaml_node_t *node)
{
    struct config *c = r->config;

    if (r->seen_registries)
        return bad(r, key_node, "images.registries is there twice");
    r->seen_registries = true;
    if (node->type != YAML_SEQUENCE_NODE)
        return bad(r, node, "images.registries must be a list");
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = yaml_document_get_node(r->doc, *i);
        struct image_registry *reg;

        if (!item || item->type != YAML_MAPPING_NODE)
            return bad(r, item ? item : node,
                       "images.registries: each entry is a mapping with "
                       "host");
        c->registries = xrealloc(c->registries, c->n_registries + 1, sizeof(*reg));
        reg = &c->registries[c->n_registries++];
        memset(reg, 0, sizeof(*reg));
        for (yaml_node_pair_t *p = item->data.mapping.pairs.start; p < item->data.mapping.pairs.top;
             p++) {
            int k = read_registry_field(r, reg, yaml_document_get_node(r->doc, p->key),
                                        yaml_document_get_node(r->doc, p->value));
            if (k < 0)
                return k;
        }
        if (!reg->host)
            return bad(r, item, "images.registries: host is missing");
    }
    return 0;
}

/* True if some key lies below the section. */
static bool is_section(const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (strncmp(keys[i].name, name, n) == 0 && keys[i].name[n] == '.')
            return true;
    return false;
}

static int read_mapping(struct reader *r, const yaml_node_t *node, const char *section)
{
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *key_node = yaml_document_get_node(r->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(r->doc, p->value);
        const char *key = scalar(key_node);
        char name[128];
        size_t i = 0;
        int k;

        if (!key || !value)
            return bad(r, node, "a key that is no word");
        (void)snprintf(name, sizeof(name), "%s%s%.80s", section, section[0] ? "." : "", key);
        while (i < ARRAY_SIZE(keys) && strcmp(keys[i].name, name) != 0)
            i++;
        if (i < ARRAY_SIZE(keys))
            k = read_key(r, i, key_node, value);
        else if (str_equal(name, "images.registries"))
            k = read_registries(r, key_node, value);
        else if (!section[0] && is_section(name) && value->type == YAML_MAPPING_NODE)
            k = read_mapping(r, value, name);
        else if (!section[0] && is_section(name))
            k = bad(r, value, "%s must be a mapping", name);
        else
            k = bad(r, key_node, "unknown key %s", name);
        if (k < 0)
            return k;
    }
    return 0;
}

static int check_whole(const struct config *c, const char *name, struct error **err)
{
    if (c->vm_memory > c->vm_memory_max)
        return error_set(err, -EINVAL, "%s: vm.memory is larger than vm.memory_max", name);
    if (c->vm_cpus > c->vm_cpus_max)
        return error_set(err, -EINVAL, "%s: vm.cpus is larger than vm.cpus_max", name);
    if (!c->stream_tls_certificate != !c->stream_tls_key)
        return error_set(err, -EINVAL,
                         "%s: stream.tls_certificate and stream.tls_key come together", name);
    if (c->stream_tls_client_ca && !c->stream_tls_certificate)
        return error_set(err, -EINVAL,
                         "%s: stream.tls_client_ca is nothing without stream.tls_certificate",
                         name);
    if (address_scope(c->stream_address) != SCOPE_LOOPBACK && !c->stream_tls_certificate)
        return error_set(err, -EINVAL,
                         "%s: stream.address %s is not of loopback: that needs "
                         "stream.tls_certificate",
                         name, c->stream_address);
    return 0;
}

int config_parse(struct config *c, const char *name, const char *text, size_t len,
                 struct error **err)
{
    struct reader r = {.config = c, .name = name, .err = err};
    yaml_parser_t parser;
    yaml_document_t doc;
    yaml_node_t *root;
    int k = 0;

    if (!yaml_parser_initialize(&parser))
        return error_set(err, -ENOMEM, "no memory for a YAML parser");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (!yaml_parser_load(&parser, &doc)) {
        k = error_set(err, -EINVAL, "%s:%zu: %s", name, parser.problem_mark.line + 1,
                      parser.problem ? parser.problem : "no YAML");
        yaml_parser_delete(&parser);
        return k;
    }
    r.doc = &doc;
    root = yaml_document_get_root_node(&doc);
    if (root && root->type == YAML_MAPPING_NODE)
        k = read_mapping(&r, root, "");
    else if (root && !(root->type == YAML_SCALAR_NODE && root->data.scalar.length == 0))
        k = bad(&r, root, "the configuration must be a mapping");
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
    return k < 0 ? k : check_whole(c, name, err);
}

int config_load(struct config *c, const char *path, struct error **err)
{
    _cleanup_(freep) char *text = NULL;
    const char *name = path ? path : CONFIG_DEFAULT_PATH;
    size_t len = 0;
    int r = file_read_all(AT_FDCWD, name, CONFIG_BYTES_MAX, &text, &len);

    if (r == -ENOENT && !path)
        return 0;
    if (r < 0)
        return error_set(err, r, "cannot read configuration %s: %s", name, strerror(-r));
    return config_parse(c, name, text, len, err);
}

void config_each_key(void (*fn)(const char *key, const char *type, const char *def, void *userdata),
                     void *userdata)
{
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        _cleanup_(freep) char *word = NULL;
        if (keys[i].type == TYPE_WORD)
            word = str_ndup(keys[i].def, strcspn(keys[i].def, " "));
        fn(keys[i].name, type_names[keys[i].type], word ? word : keys[i].def, userdata);
    }
}
