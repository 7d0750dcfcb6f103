/* SPDX-License-Identifier: Apache-2.0 */
/* A table: name, where it goes, how it is read. */
#include "vmm/options.h"

#include <getopt.h>
#include <string.h>

#include "base/limit.h"
#include "base/numparse.h"
#include "base/str.h"
#include "kvm/gmem.h"

#define HELLO_TIMEOUT_DEFAULT_MS 60000U
#define MEMORY_DEFAULT (256ULL << 20)

static const char usage[] =
    "Usage: nexus-vmm --id ID --kernel RES [OPTION...]\n"
    "Runs one pod's virtual machine. RES is fd:N (an inherited descriptor) or a path.\n"
    "\n"
    "  --id ID               1 to 64 of a-z 0-9 -\n"
    "  --cpus N              virtual CPUs (1)\n"
    "  --memory SIZE         guest memory, a multiple of 2M, at least 64M (256M)\n"
    "  --kvm RES             the KVM device (/dev/kvm)\n"
    "  --kernel RES          uncompressed vmlinux with a PVH entry\n"
    "  --initramfs RES       initial root file system\n"
    "  --net fd:N|tap:NAME   TAP device with IFF_VNET_HDR\n"
    "  --mac AA:BB:…         the guest's address on it (from the id)\n"
    "  --mtu N               told to the guest\n"
    "  --scratch RES         scratch disk, raw\n"
    "  --control fd:N        listening unix stream socket for the node daemon\n"
    "  --console RES         the guest kernel's messages go there; without it the kernel is "
    "silent\n"
    "  --cmdline-append STR  more kernel arguments\n"
    "  --counters RES        at the end, counters as one JSON line\n"
    "  --until-hello         boot, print one JSON line when the agent answers, power off\n"
    "  --hello-timeout SPAN  for that (60s)\n"
    "  --help, --version\n"
    "\n"
    "Without --control the exit code tells how the guest ended: 0 power-off, 10 reset, 11 panic,\n"
    "12 triple fault, 13 KVM internal error, 14 the agent did not answer in time, 15 stopped by a\n"
    "signal; 1 set-up failed, 2 wrong usage.\n";

const char *options_usage(void)
{
    return usage;
}

enum kind {
    KIND_STRING,
    KIND_CPUS,
    KIND_MEMORY,
    KIND_RESOURCE,
    KIND_FD,
    KIND_NET,
    KIND_MAC,
    KIND_MTU,
    KIND_SPAN,
    KIND_FLAG,
};

static const struct {
    const char *name;
    enum kind kind;
    size_t offset;
} table[] = {
    {"id", KIND_STRING, offsetof(struct options, id)},
    {"cpus", KIND_CPUS, offsetof(struct options, cpus)},
    {"memory", KIND_MEMORY, offsetof(struct options, memory_bytes)},
    {"kvm", KIND_RESOURCE, offsetof(struct options, kvm)},
    {"kernel", KIND_RESOURCE, offsetof(struct options, kernel)},
    {"initramfs", KIND_RESOURCE, offsetof(struct options, initramfs)},
    {"net", KIND_NET, offsetof(struct options, net)},
    {"mac", KIND_MAC, offsetof(struct options, mac)},
    {"mtu", KIND_MTU, offsetof(struct options, mtu)},
    {"scratch", KIND_RESOURCE, offsetof(struct options, scratch)},
    {"control", KIND_FD, offsetof(struct options, control)},
    {"console", KIND_RESOURCE, offsetof(struct options, console)},
    {"cmdline-append", KIND_STRING, offsetof(struct options, cmdline_append)},
    {"counters", KIND_RESOURCE, offsetof(struct options, counters)},
    {"until-hello", KIND_FLAG, offsetof(struct options, until_hello)},
    {"hello-timeout", KIND_SPAN, offsetof(struct options, hello_timeout_ms)},
    {"help", KIND_FLAG, offsetof(struct options, help)},
    {"version", KIND_FLAG, offsetof(struct options, version)},
};

static int parse_resource(const char *v, struct resource *ret)
{
    uint32_t fd;

    if (!*v)
        return -EINVAL;
    if (!str_starts(v, "fd:")) {
        *ret = (struct resource){.fd = -EBADF, .path = v};
        return 0;
    }
    if (parse_u32(v + 3, INT32_MAX, &fd) < 0 || fd < 3)
        return -EINVAL;
    *ret = (struct resource){.fd = (int)fd};
    return 0;
}

static int parse_net(const char *v, struct resource *ret)
{
    if (str_starts(v, "tap:") && v[4] && strlen(v + 4) < 16) {
        *ret = (struct resource){.fd = -EBADF, .path = v + 4};
        return 0;
    }
    return str_starts(v, "fd:") ? parse_resource(v, ret) : -EINVAL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Six pairs with colons; a unicast address. */
static int parse_mac(const char *v, uint8_t ret[6])
{
    uint8_t mac[6];

    if (strlen(v) != 17)
        return -EINVAL;
    for (size_t i = 0; i < 6; i++) {
        int high = hex_digit(v[3 * i]), low = hex_digit(v[3 * i + 1]);

        if (high < 0 || low < 0 || (i < 5 && v[3 * i + 2] != ':'))
            return -EINVAL;
        mac[i] = (uint8_t)(high << 4 | low);
    }
    if (mac[0] & 1)
        return -EINVAL;
    memcpy(ret, mac, sizeof(mac));
    return 0;
}

static int parse_memory(const char *v, uint64_t *ret)
{
    uint64_t bytes;
    int r = parse_size(v, GMEM_RAM_MAX, &bytes);

    if (r < 0)
        return r;
    if (bytes < GMEM_RAM_MIN || bytes % (2U << 20))
        return -EINVAL;
    *ret = bytes;
    return 0;
}

static int parse_cpus(const char *v, uint32_t *ret)
{
    uint32_t n;
    int r = parse_u32(v, LIMIT_VCPUS, &n);

    if (r < 0)
        return r;
    if (!n)
        return -EINVAL;
    *ret = n;
    return 0;
}

static int parse_mtu(const char *v, uint16_t *ret)
{
    uint32_t n;
    int r = parse_u32(v, UINT16_MAX, &n);

    if (r < 0)
        return r;
    if (n < 68)
        return -EINVAL;
    *ret = (uint16_t)n;
    return 0;
}

static int set_option(struct options *o, size_t row, const char *v)
{
    void *at = (char *)o + table[row].offset;

    switch (table[row].kind) {
    case KIND_STRING:
        *(const char **)at = v;
        return 0;
    case KIND_CPUS:
        return parse_cpus(v, at);
    case KIND_MEMORY:
        return parse_memory(v, at);
    case KIND_RESOURCE:
        return parse_resource(v, at);
    case KIND_FD:
        return str_starts(v, "fd:") ? parse_resource(v, at) : -EINVAL;
    case KIND_NET:
        return parse_net(v, at);
    case KIND_MAC:
        return parse_mac(v, at);
    case KIND_MTU:
        return parse_mtu(v, at);
    case KIND_SPAN:
        return parse_span_ms(v, UINT32_MAX, at);
    case KIND_FLAG:
        *(bool *)at = true;
        return 0;
    }
    return -EINVAL;
}

static bool id_is_valid(const char *id)
{
    size_t n = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-");

    return n > 0 && n <= LIMIT_ID_MAX && !id[n];
}

/* Locally administered, the same for the same id. */
static void mac_from_id(const char *id, uint8_t ret[6])
{
    uint64_t h = 0xCBF29CE484222325ULL; /* FNV-1a */

    for (; *id; id++)
        h = (h ^ (uint8_t)*id) * 0x100000001B3ULL;
    ret[0] = 0x02;
    for (size_t i = 1; i < 6; i++)
        ret[i] = (uint8_t)(h >> 8 * i);
}

static int check_complete(struct options *o, struct error **err)
{
    static const uint8_t none[6];

    if (!o->id)
        return error_set(err, -EINVAL, "--id is missing");
    if (!id_is_valid(o->id))
        return error_set(err, -EINVAL, "--id %s: 1 to %d of a-z 0-9 -", o->id, LIMIT_ID_MAX);
    if (o->kernel.fd < 0 && !o->kernel.path)
        return error_set(err, -EINVAL, "--kernel is missing");
    if (memcmp(o->mac, none, sizeof(none)) == 0)
        mac_from_id(o->id, o->mac);
    return 0;
}

static void set_defaults(struct options *o)
{
    const struct resource none = {.fd = -EBADF};

    *o = (struct options){
        .cpus = 1,
        .memory_bytes = MEMORY_DEFAULT,
        .hello_timeout_ms = HELLO_TIMEOUT_DEFAULT_MS,
    };
    o->kvm = (struct resource){.fd = -EBADF, .path = "/dev/kvm"};
    o->kernel = o->initramfs = o->net = o->scratch = none;
    o->control = o->console = o->counters = none;
}

int options_parse(int argc, char *const *argv, struct options *ret, struct error **err)
{
    struct option longs[ARRAY_SIZE(table) + 1] = {{0}};
    struct options o;
    int c, row = 0;

    set_defaults(&o);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        longs[i] = (struct option){
            .name = table[i].name,
            .has_arg = table[i].kind == KIND_FLAG ? no_argument : required_argument,
        };
    optind = 0; /* tests parse more than once */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", longs, &row)) >= 0) {
        const char *what = optind > 0 && optind <= argc ? argv[optind - 1] : "?";

        if (c == ':')
            return error_set(err, -EINVAL, "%s needs a value", what);
        if (c != 0)
            return error_set(err, -EINVAL, "%s: no such option", what);
        if (set_option(&o, (size_t)row, optarg) < 0)
            return error_set(err, -EINVAL, "--%s: cannot use \"%s\"", table[row].name, optarg);
    }
    if (!o.help && !o.version) {
        int r;

        if (optind < argc)
            return error_set(err, -EINVAL, "%s: only options are understood", argv[optind]);
        r = check_complete(&o, err);
        if (r < 0)
            return r;
    }
    *ret = o;
    return 0;
}
