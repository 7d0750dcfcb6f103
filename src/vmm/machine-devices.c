/* SPDX-License-Identifier: Apache-2.0 */
/* What stands behind the virtio windows: the table of cold devices, and the windows of the hot slots,
 * which machine-regions.c fills. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "kvm/acpi.h"
#include "kvm/bus.h"
#include "kvm/gmem.h"
#include "kvm/vm.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/device.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vmm/console.h"
#include "vmm/machine-internal.h"

#define GUEST_CID 3U
#define VSOCK_WINDOW 1U

/* ---------------------------------------------------------------- cold devices */

/* 0 with a device, or without one (*ret NULL) where the configuration has none. */
static int make_net(struct machine *m, struct virtio_device **ret)
{
    struct virtio_net_config cfg = {.tap_fd = m->cfg.tap_fd, .mtu = m->cfg.mtu};

    if (cfg.tap_fd < 0)
        return 0;
    memcpy(cfg.mac, m->cfg.mac, sizeof(cfg.mac));
    return virtio_net_new(m->loop, &cfg, ret);
}

static int make_vsock(struct machine *m, struct virtio_device **ret)
{
    int r = vsock_new(m->loop, GUEST_CID, &m->vsock);

    if (r < 0)
        return r;
    *ret = vsock_device(m->vsock);
    return 0;
}

static int make_scratch(struct machine *m, struct virtio_device **ret)
{
    struct virtio_blk_config cfg = {.fd = m->cfg.scratch_fd, .discard = true, .serial = "scratch"};
    struct stat st;

    if (cfg.fd < 0)
        return 0;
    if (fstat(cfg.fd, &st) < 0)
        return -errno;
    cfg.bytes = (uint64_t)st.st_size & ~511ULL;
    return virtio_blk_new(m->loop, &cfg, ret);
}

static int make_rng(struct machine *m, struct virtio_device **ret)
{
    (void)m;
    return virtio_rng_new(ret);
}

static void console_sink(const uint8_t *bytes, size_t n, void *userdata)
{
    console_write(userdata, bytes, n);
}

static int make_console(struct machine *m, struct virtio_device **ret)
{
    if (m->cfg.console_fd < 0)
        return 0; /* nobody reads: the early console carries a panic's text */
    return virtio_console_new(console_sink, m->console, ret);
}

/* by window; GSI is LAYOUT_GSI_COLD + window */
static const struct {
    const char *name;
    int (*make)(struct machine *m, struct virtio_device **ret);
} cold_devices[] = {
    {"net", make_net}, {"vsock", make_vsock},     {"scratch", make_scratch},
    {"rng", make_rng}, {"console", make_console},
};
_Static_assert(ARRAY_SIZE(cold_devices) <= COLD_DEVICES_MAX, "a window per device");

/* ---------------------------------------------------------------- windows */

static void window_read(void *userdata, uint64_t offset, void *data, uint32_t len)
{
    virtio_mmio_access(userdata, offset, data, len, /* is_write= */ false);
}

static void window_write(void *userdata, uint64_t offset, const void *data, uint32_t len)
{
    uint8_t copy[8];

    memcpy(copy, data, len);
    virtio_mmio_access(userdata, offset, copy, len, /* is_write= */ true);
}

static const struct bus_ops window_ops = {.read = window_read, .write = window_write};

static int window_new(struct machine *m, unsigned number, uint32_t gsi, struct virtio_mmio **ret)
{
    int fd = machine_gsi_fd(m, gsi), r;

    if (fd < 0)
        return fd;
    r = virtio_mmio_new(m->loop, m->mem, fd, ret);
    if (r < 0)
        return r;
    return bus_add_mmio(m->bus, LAYOUT_MMIO_WINDOW(number), LAYOUT_MMIO_BYTES, &window_ops, *ret);
}

static uint64_t notify_gpa(unsigned window)
{
    return LAYOUT_MMIO_WINDOW(window) + VIRTIO_MMIO_NOTIFY;
}

void machine_window_unwire(struct machine *m, struct virtio_mmio *w, unsigned window)
{
    for (unsigned q = 0; q < virtio_mmio_queue_count(w); q++)
        (void)vm_remove_ioeventfd(m->vm, virtio_mmio_kick_fd(w, q), notify_gpa(window), q);
}

int machine_window_attach(struct machine *m, struct virtio_mmio *w, unsigned window,
                          struct virtio_device *dev)
{
    int r = virtio_mmio_attach(w, dev);

    if (r < 0) {
        virtio_device_free(dev);
        return r;
    }
    for (unsigned q = 0; q < virtio_mmio_queue_count(w) && r >= 0; q++)
        r = vm_add_ioeventfd(m->vm, virtio_mmio_kick_fd(w, q), notify_gpa(window), q);
    if (r < 0) {
        machine_window_unwire(m, w, window);
        virtio_mmio_detach(w);
    }
    return r;
}

static uint32_t hot_gsi(unsigned slot)
{
    return LAYOUT_GSI_HOT + slot % LAYOUT_GSI_HOT_LINES;
}

static int cold_new(struct machine *m, unsigned n, struct error **err)
{
    struct virtio_device *dev = NULL;
    int r = cold_devices[n].make(m, &dev);

    if (r >= 0 && dev) {
        r = window_new(m, n, LAYOUT_GSI_COLD + n, &m->cold[n].window);
        if (r < 0)
            virtio_device_free(dev);
        else
            r = machine_window_attach(m, m->cold[n].window, n, dev);
    }
    if (r < 0)
        return error_set(err, r, "device %s", cold_devices[n].name);
    m->cold[n].name = cold_devices[n].name;
    return 0;
}

int machine_devices_new(struct machine *m, struct error **err)
{
    int r = 0;

    for (unsigned n = 0; n < ARRAY_SIZE(cold_devices) && r >= 0; n++)
        r = cold_new(m, n, err);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS && r >= 0; i++)
        r = window_new(m, LAYOUT_MMIO_HOT + i, hot_gsi(i), &m->hot[i].window);
    if (r >= 0)
        r = window_new(m, LAYOUT_MMIO_SHARE, LAYOUT_GSI_SHARE, &m->share.window);
    if (r < 0)
        return error_set(err, r, "hot slots");
    r = machine_gsi_fd(m, LAYOUT_GSI_GED);
    return r < 0 ? error_set(err, r, "event device") : 0;
}

int machine_devices_describe(struct machine *m, struct error **err)
{
    struct acpi_device devices[COLD_DEVICES_MAX + 1 + LAYOUT_HOT_SLOTS];
    struct acpi_config cfg = {
        .cpus = m->cfg.cpus,
        .devices = devices,
        .ged_gsi = LAYOUT_GSI_GED,
        .serial = m->cfg.console_fd >= 0,
        .pvpanic = true,
    };
    struct acpi_tables tables;
    struct span span;
    int r;

    for (unsigned n = 0; n < COLD_DEVICES_MAX; n++)
        if (m->cold[n].window)
            devices[cfg.n++] = (struct acpi_device){
                .window = (uint32_t)LAYOUT_MMIO_WINDOW(n),
                .gsi = LAYOUT_GSI_COLD + n,
                .present_bit = -1,
            };
    devices[cfg.n++] = (struct acpi_device){
        .window = (uint32_t)LAYOUT_MMIO_WINDOW(LAYOUT_MMIO_SHARE),
        .gsi = LAYOUT_GSI_SHARE,
        .present_bit = -1,
    };
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        devices[cfg.n++] = (struct acpi_device){
            .window = (uint32_t)LAYOUT_MMIO_WINDOW(LAYOUT_MMIO_HOT + i),
            .gsi = hot_gsi(i),
            .present_bit = (int)i,
            .shared = true,
        };
    r = gmem_span(m->mem, LAYOUT_ACPI, LAYOUT_ACPI_END - LAYOUT_ACPI, GMEM_WRITE, &span);
    if (r >= 0)
        r = acpi_build(&cfg, span.ptr, span.len, LAYOUT_ACPI, &tables);
    if (r >= 0)
        r = gmem_span(m->mem, tables.state_gpa, sizeof(uint32_t) * ACPI_STATE_WORDS, GMEM_WRITE,
                      &span);
    if (r < 0)
        return error_set(err, r, "firmware tables");
    m->state_words = span.ptr;
    return 0;
}

void machine_devices_stop(struct machine *m)
{
    for (unsigned n = 0; n < COLD_DEVICES_MAX; n++)
        if (m->cold[n].window)
            virtio_mmio_stop(m->cold[n].window);
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        if (m->hot[i].window)
            virtio_mmio_stop(m->hot[i].window);
    if (m->share.window)
        virtio_mmio_stop(m->share.window);
}

void machine_devices_release(struct machine *m)
{
    for (unsigned n = 0; n < COLD_DEVICES_MAX; n++)
        if (m->cold[n].window && n != VSOCK_WINDOW)
            virtio_mmio_detach(m->cold[n].window);
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        virtio_mmio_detach(m->hot[i].window);
    machine_share_done(m);
    virtio_mmio_detach(m->share.window);
}

void machine_devices_quiesce(struct machine *m)
{
    if (m->cold[VSOCK_WINDOW].window)
        virtio_mmio_quiesce(m->cold[VSOCK_WINDOW].window);
}

void machine_devices_free(struct machine *m)
{
    for (unsigned n = 0; n < COLD_DEVICES_MAX; n++)
        virtio_mmio_free(m->cold[n].window);
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        virtio_mmio_free(m->hot[i].window);
    machine_share_done(m);
    virtio_mmio_free(m->share.window);
    machine_regions_free(m);
}

/* ---------------------------------------------------------------- counters */

static void add_window(const char *name, const struct virtio_counters *c, machine_counter_fn add,
                       void *ctx)
{
    const struct {
        const char *what;
        uint64_t value;
    } rows[] = {
        {"accesses", c->accesses},     {"rejected", c->rejected}, {"kicks", c->kicks},
        {"interrupts", c->interrupts}, {"failures", c->failures},
    };
    char full[64];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        (void)snprintf(full, sizeof(full), "virtio.%s.%s", name, rows[i].what);
        add(ctx, full, rows[i].value);
    }
}

void machine_devices_counters(struct machine *m, machine_counter_fn add, void *ctx)
{
    struct virtio_counters c, sum = {0};
    uint64_t regions = 0;

    for (unsigned n = 0; n < COLD_DEVICES_MAX; n++) {
        if (!m->cold[n].window)
            continue;
        virtio_mmio_counters(m->cold[n].window, &c);
        add_window(m->cold[n].name, &c, add, ctx);
    }
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++) {
        virtio_mmio_counters(m->hot[i].window, &c);
        sum.accesses += c.accesses;
        sum.rejected += c.rejected;
        sum.kicks += c.kicks;
        sum.interrupts += c.interrupts;
        sum.failures += c.failures;
        regions += m->hot[i].region && !m->hot[i].parked;
    }
    add_window("pmem", &sum, add, ctx);
    virtio_mmio_counters(m->share.window, &c);
    add_window("fs", &c, add, ctx);
    add(ctx, "regions", regions);
}
