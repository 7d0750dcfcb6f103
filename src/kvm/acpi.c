/* SPDX-License-Identifier: Apache-2.0 */
/* One function per table. A table is built in place; its header is completed when its length is
 * known. */
#include "kvm/acpi.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/le.h"
#include "kvm/aml.h"
#include "kvm/layout.h"

struct header {
    char signature[4];
    le32 length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    le32 oem_revision;
    char creator_id[4];
    le32 creator_revision;
};
_Static_assert(sizeof(struct header) == 36, "an ACPI table header is 36 bytes");

struct __attribute__((packed)) gas { /* generic address */
    uint8_t space, bits, offset, access;
    le64 address;
};
_Static_assert(sizeof(struct gas) == 12, "a generic address is 12 bytes");

#define FADT_BYTES 276U
#define FADT_BOOT_ARCH 109U
#define FADT_FLAGS 112U
#define FADT_RESET_REG 116U
#define FADT_RESET_VALUE 128U
#define FADT_MINOR 131U
#define FADT_X_DSDT 140U
#define FADT_SLEEP_CONTROL 244U
#define FADT_SLEEP_STATUS 256U
#define FADT_HYPERVISOR 268U

#define BOOT_ARCH_NO_VGA (1U << 2)
#define BOOT_ARCH_NO_RTC (1U << 5) /* without it rtc_cmos waits a second for a clock */
#define FADT_PWR_BUTTON (1U << 4)  /* power and sleep buttons are no fixed hardware */
#define FADT_SLP_BUTTON (1U << 5)
#define FADT_RESET_SUP (1U << 10)
#define FADT_HW_REDUCED (1U << 20)

struct writer {
    uint8_t *out;
    size_t size, used;
    uint64_t gpa;
};

static uint8_t byte_sum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + p[i]);
    return sum;
}

/* Room for the next table on a 64-byte border, zeroed; NULL: none left. */
static uint8_t *table_start(struct writer *w, size_t bytes)
{
    size_t at = (w->used + 63) & ~(size_t)63;

    if (at > w->size || bytes > w->size - at)
        return NULL;
    memset(w->out + at, 0, bytes);
    w->used = at + bytes;
    return w->out + at;
}

static uint64_t gpa_of(const struct writer *w, const uint8_t *p)
{
    return w->gpa + (uint64_t)(p - w->out);
}

static void table_finish(uint8_t *table, const char *signature, uint8_t revision, size_t bytes)
{
    struct header h = {
        .length = le32_of((uint32_t)bytes),
        .revision = revision,
        .oem_revision = le32_of(1),
        .creator_revision = le32_of(1),
    };

    memcpy(h.signature, signature, 4);
    memcpy(h.oem_id, "NEXUS ", 6);
    memcpy(h.oem_table_id, "NEXUSVMM", 8);
    memcpy(h.creator_id, "NXVM", 4);
    memcpy(table, &h, sizeof(h));
    table[offsetof(struct header, checksum)] = (uint8_t)-byte_sum(table, bytes);
}

/* ---------------------------------------------------------------- DSDT */

static const char *const state_fields[ACPI_STATE_WORDS] = {"PRS0", "PRS1"};

/* Its _UID is its window's number, by which the monitor tells the guest's agent of it. */
static void put_virtio(struct aml *a, const struct acpi_device *d)
{
    unsigned number = (unsigned)((d->window - LAYOUT_MMIO) / LAYOUT_MMIO_BYTES);
    char name[8];
    size_t dev, crs;

    (void)snprintf(name, sizeof(name), "V%03X", number & 0xFFFU);
    dev = aml_begin_device(a, name);
    aml_name_string(a, "_HID", "LNRO0005");
    aml_name_int(a, "_UID", number);
    aml_name_int(a, "_CCA", 1);
    if (d->present_bit >= 0) {
        unsigned bit = (unsigned)d->present_bit;
        size_t sta = aml_begin_method(a, "_STA", 0, false);

        aml_return_if_bits(a, state_fields[bit / 32], 1U << bit % 32, 0x0F);
        aml_end(a, sta);
    }
    crs = aml_begin_buffer_name(a, "_CRS");
    aml_memory32(a, d->window, LAYOUT_MMIO_BYTES);
    aml_interrupt(a, d->gsi, d->shared);
    aml_end_buffer(a, crs);
    aml_end(a, dev);
}

/* "HPC3": the name of a group's container, field or integer. */
struct group_name {
    char text[8];
};

static struct group_name group_name(const char *prefix, unsigned group)
{
    struct group_name n;

    (void)snprintf(n.text, sizeof(n.text), "%.3s%u", prefix, group % 10U);
    return n;
}

/* A notified container is looked at by the kernel with all that is in it, each device several times, whether it
 * changed or not: so there are several of them. */
static void put_container(struct aml *a, const struct acpi_config *cfg, unsigned group)
{
    const struct group_name name = group_name("HPC", group);
    size_t dev = aml_begin_device(a, name.text);

    aml_name_string(a, "_HID", "ACPI0004");
    aml_name_string(a, "_UID", name.text);
    for (size_t i = 0; i < cfg->n; i++)
        if (cfg->devices[i].present_bit >= 0 &&
            (unsigned)cfg->devices[i].present_bit / ACPI_GROUP_BITS == group)
            put_virtio(a, &cfg->devices[i]);
    aml_end(a, dev);
}

static void put_containers(struct aml *a, const struct acpi_config *cfg, uint64_t state_gpa)
{
    struct group_name names[ACPI_GROUPS];
    const char *fields[ACPI_GROUPS];

    aml_region(a, "HPR", (uint32_t)state_gpa, 4 * ACPI_STATE_WORDS);
    aml_field_dwords(a, "HPR", state_fields, ACPI_STATE_WORDS);
    for (unsigned g = 0; g < ACPI_GROUPS; g++) {
        names[g] = group_name("GRP", g);
        fields[g] = names[g].text;
    }
    aml_field_bytes(a, "HPR", fields, ACPI_GROUPS);
    for (unsigned g = 0; g < ACPI_GROUPS; g++)
        put_container(a, cfg, g);
}

/* Which groups are not what they were at the last event is found out here: of a change between the comparison and
 * the store the look that follows sees the whole. */
static void put_event_device(struct aml *a, uint32_t gsi)
{
    size_t dev = aml_begin_device(a, "GED"), crs, evt;

    aml_name_string(a, "_HID", "ACPI0013");
    crs = aml_begin_buffer_name(a, "_CRS");
    aml_interrupt(a, gsi, false);
    aml_end_buffer(a, crs);
    for (unsigned g = 0; g < ACPI_GROUPS; g++)
        aml_name_int(a, group_name("WAS", g).text, 0);
    evt = aml_begin_method(a, "_EVT", 1, true);
    for (unsigned g = 0; g < ACPI_GROUPS; g++) {
        const struct group_name is = group_name("GRP", g), was = group_name("WAS", g);
        size_t change = aml_begin_if_not_equal(a, is.text, was.text);

        aml_store(a, is.text, was.text);
        aml_notify(a, group_name("HPC", g).text);
        aml_end(a, change);
    }
    aml_end(a, evt);
    aml_end(a, dev);
}

static void put_serial(struct aml *a)
{
    size_t dev = aml_begin_device(a, "COM1"), crs;

    aml_name_string(a, "_HID", "PNP0501");
    aml_name_int(a, "_UID", 0);
    crs = aml_begin_buffer_name(a, "_CRS");
    aml_io(a, LAYOUT_PORT_COM1, 8);
    aml_irq_nibble(a, LAYOUT_GSI_COM1);
    aml_end_buffer(a, crs);
    aml_end(a, dev);
}

static void put_pvpanic(struct aml *a)
{
    size_t dev = aml_begin_device(a, "PEVT"), crs;

    aml_name_string(a, "_HID", "QEMU0001");
    crs = aml_begin_buffer_name(a, "_CRS");
    aml_io(a, LAYOUT_PORT_PVPANIC, 1);
    aml_end_buffer(a, crs);
    aml_end(a, dev);
}

static int put_dsdt(struct writer *w, const struct acpi_config *cfg, uint64_t state_gpa,
                    struct acpi_tables *ret, uint64_t *ret_gpa)
{
    static const uint8_t s5[4] = {5, 0, 0, 0};
    uint8_t *table = table_start(w, sizeof(struct header));
    struct aml a;
    size_t sb, used;

    if (!table)
        return -E2BIG;
    aml_init(&a, table + sizeof(struct header), w->size - w->used);
    sb = aml_begin_scope(&a, "_SB");
    for (size_t i = 0; i < cfg->n; i++)
        if (cfg->devices[i].present_bit < 0)
            put_virtio(&a, &cfg->devices[i]);
    put_containers(&a, cfg, state_gpa);
    put_event_device(&a, cfg->ged_gsi);
    if (cfg->serial)
        put_serial(&a);
    if (cfg->pvpanic)
        put_pvpanic(&a);
    aml_end(&a, sb);
    aml_name_bytes(&a, "_S5", s5, sizeof(s5));
    if (aml_finish(&a, &used) < 0)
        return -E2BIG;
    w->used += used;
    used += sizeof(struct header);
    table_finish(table, "DSDT", 2, used);
    ret->dsdt_offset = (size_t)(table - w->out);
    ret->dsdt_bytes = used;
    *ret_gpa = gpa_of(w, table);
    return 0;
}

/* ---------------------------------------------------------------- the others */

static void put_gas_port(uint8_t *at, uint16_t port)
{
    const struct gas g = {.space = 1 /* I/O */, .bits = 8, .access = 1, .address = le64_of(port)};

    memcpy(at, &g, sizeof(g));
}

static int put_fadt(struct writer *w, uint64_t dsdt, uint64_t *ret_gpa)
{
    uint8_t *t = table_start(w, FADT_BYTES);

    if (!t)
        return -E2BIG;
    le16_store(t + FADT_BOOT_ARCH, BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_RTC);
    le32_store(t + FADT_FLAGS,
               FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_RESET_SUP | FADT_HW_REDUCED);
    put_gas_port(t + FADT_RESET_REG, LAYOUT_PORT_RESET);
    t[FADT_RESET_VALUE] = LAYOUT_RESET_VALUE;
    t[FADT_MINOR] = 3;
    le64_store(t + FADT_X_DSDT, dsdt);
    put_gas_port(t + FADT_SLEEP_CONTROL, LAYOUT_PORT_SLEEP);
    put_gas_port(t + FADT_SLEEP_STATUS, LAYOUT_PORT_SLEEP + 1);
    memcpy(t + FADT_HYPERVISOR, "NEXUSVMM", 8);
    table_finish(t, "FACP", 6, FADT_BYTES);
    *ret_gpa = gpa_of(w, t);
    return 0;
}

static int put_madt(struct writer *w, uint32_t cpus, uint64_t *ret_gpa)
{
    const size_t lapic_bytes = 8, ioapic_bytes = 12;
    size_t bytes = sizeof(struct header) + 8 + cpus * lapic_bytes + ioapic_bytes;
    uint8_t *t = table_start(w, bytes), *at;

    if (!t)
        return -E2BIG;
    at = t + sizeof(struct header);
    le32_store(at, (uint32_t)LAYOUT_LAPIC); /* flags 0: no legacy PIC */
    at += 8;
    for (uint32_t i = 0; i < cpus; i++, at += lapic_bytes) {
        at[0] = 0; /* local APIC */
        at[1] = (uint8_t)lapic_bytes;
        at[2] = (uint8_t)i;    /* ACPI processor uid */
        at[3] = (uint8_t)i;    /* APIC id */
        le32_store(at + 4, 1); /* enabled */
    }
    at[0] = 1; /* IOAPIC, id 0, from GSI 0 */
    at[1] = (uint8_t)ioapic_bytes;
    le32_store(at + 4, (uint32_t)LAYOUT_IOAPIC);
    table_finish(t, "APIC", 5, bytes);
    *ret_gpa = gpa_of(w, t);
    return 0;
}

static int put_xsdt(struct writer *w, const uint64_t *tables, size_t n, uint64_t *ret_gpa)
{
    size_t bytes = sizeof(struct header) + n * sizeof(uint64_t);
    uint8_t *t = table_start(w, bytes);

    if (!t)
        return -E2BIG;
    for (size_t i = 0; i < n; i++)
        le64_store(t + sizeof(struct header) + i * sizeof(uint64_t), tables[i]);
    table_finish(t, "XSDT", 1, bytes);
    *ret_gpa = gpa_of(w, t);
    return 0;
}

#define RSDP_BYTES 36U

static void put_rsdp(uint8_t *t, uint64_t xsdt)
{
    memcpy(t, "RSD PTR ", 8);
    memcpy(t + 9, "NEXUS ", 6);
    t[15] = 2;
    le32_store(t + 20, RSDP_BYTES);
    le64_store(t + 24, xsdt);
    t[8] = (uint8_t)-byte_sum(t, 20);
    t[32] = (uint8_t)-byte_sum(t, RSDP_BYTES);
}

static int check_config(const struct acpi_config *cfg)
{
    uint64_t seen = 0;

    if (!cfg->cpus || cfg->cpus > LIMIT_VCPUS || cfg->n > 0xFFF)
        return -EINVAL;
    for (size_t i = 0; i < cfg->n; i++) {
        int bit = cfg->devices[i].present_bit;

        if (bit < 0)
            continue;
        if (bit >= (int)ACPI_STATE_BITS || (seen & 1ULL << bit))
            return -EINVAL;
        seen |= 1ULL << bit;
    }
    return 0;
}

int acpi_build(const struct acpi_config *cfg, uint8_t *out, size_t size, uint64_t gpa,
               struct acpi_tables *ret)
{
    struct writer w = {.out = out, .size = size, .gpa = gpa};
    struct acpi_tables t = {0};
    uint64_t dsdt, xsdt = 0, parts[2] = {0, 0};
    uint8_t *rsdp, *state;
    int r;

    r = check_config(cfg);
    if (r < 0)
        return r;
    rsdp = table_start(&w, RSDP_BYTES);
    state = table_start(&w, sizeof(uint32_t) * ACPI_STATE_WORDS);
    if (!rsdp || !state)
        return -E2BIG;
    t.state_gpa = cfg->state_gpa ? cfg->state_gpa : gpa_of(&w, state);
    r = put_dsdt(&w, cfg, t.state_gpa, &t, &dsdt);
    if (r >= 0)
        r = put_fadt(&w, dsdt, &parts[0]);
    if (r >= 0)
        r = put_madt(&w, cfg->cpus, &parts[1]);
    if (r >= 0)
        r = put_xsdt(&w, parts, ARRAY_SIZE(parts), &xsdt);
    if (r < 0)
        return r;
    put_rsdp(rsdp, xsdt);
    t.bytes = w.used;
    *ret = t;
    return 0;
}
