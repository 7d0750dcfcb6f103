/* SPDX-License-Identifier: Apache-2.0 */
/* acpi: sums are zero, pointers lead where they should, the AML is what a reference compiler makes of
 * the same source, and a disassembler takes the largest DSDT apart without complaint. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/le.h"
#include "kvm/acpi.h"
#include "kvm/aml.h"
#include "kvm/layout.h"
#include "lib/test.h"

#define GPA LAYOUT_ACPI
#define ROOM 0x20000U

static uint8_t out[ROOM];

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t s = 0;

    for (size_t i = 0; i < n; i++)
        s = (uint8_t)(s + p[i]);
    return s;
}

static const uint8_t *at(uint64_t gpa)
{
    assert_true(gpa >= GPA && gpa < GPA + ROOM);
    return out + (gpa - GPA);
}

static void check_table(uint64_t gpa, const char *signature)
{
    const uint8_t *t = at(gpa);

    assert_memory_equal(t, signature, 4);
    assert_int_equal(sum(t, le32_load(t + 4)), 0);
}

/* 5 cold devices and every hot slot: the largest machine. */
static void build_full(struct acpi_tables *ret)
{
    static struct acpi_device devices[5 + LAYOUT_HOT_SLOTS];
    struct acpi_config cfg = {
        .cpus = LIMIT_VCPUS,
        .devices = devices,
        .n = ARRAY_SIZE(devices),
        .ged_gsi = LAYOUT_GSI_GED,
        .serial = true,
        .pvpanic = true,
    };

    for (unsigned i = 0; i < cfg.n; i++) {
        unsigned window = i < 5 ? i : LAYOUT_MMIO_HOT + i - 5;

        devices[i] = (struct acpi_device){
            .window = (uint32_t)LAYOUT_MMIO_WINDOW(window),
            .gsi = i < 5 ? LAYOUT_GSI_COLD + i : LAYOUT_GSI_HOT + (i - 5) % LAYOUT_GSI_HOT_LINES,
            .present_bit = i < 5 ? -1 : (int)i - 5,
            .shared = i >= 5,
        };
    }
    assert_int_equal(acpi_build(&cfg, out, sizeof(out), GPA, ret), 0);
}

static void tables_are_linked_and_sum_to_zero(void **state)
{
    struct acpi_tables t;
    uint64_t xsdt, fadt, madt;

    build_full(&t);
    assert_memory_equal(out, "RSD PTR ", 8);
    assert_int_equal(sum(out, 20), 0);
    assert_int_equal(sum(out, 36), 0);
    xsdt = le64_load(out + 24);
    check_table(xsdt, "XSDT");
    assert_int_equal(le32_load(at(xsdt) + 4), 36 + 16);
    fadt = le64_load(at(xsdt) + 36);
    madt = le64_load(at(xsdt) + 44);
    check_table(fadt, "FACP");
    check_table(madt, "APIC");
    check_table(le64_load(at(fadt) + 140), "DSDT");
    assert_true(at(le64_load(at(fadt) + 140)) == out + t.dsdt_offset);
    assert_int_equal(le32_load(at(fadt) + 112), 1U << 20 | 1U << 10 | 1U << 5 | 1U << 4);
    assert_int_equal(le16_load(at(fadt) + 109), 1U << 5 | 1U << 2);
    assert_int_equal(le32_load(at(madt) + 4), 36 + 8 + 8 * LIMIT_VCPUS + 12);
    assert_true(t.state_gpa % 64 == 0 && le64_load(at(t.state_gpa)) == 0);
    assert_true(t.bytes < LAYOUT_ACPI_END - LAYOUT_ACPI);
}

/* The DSDT body of the recipe's source as iasl compiles it: one hot slot, one event device. */
static const uint8_t golden[] = "\x10\x41\x0D_SB_"
                                "\x5B\x80HPR_\x00\x0C\x00\xF0\x00\xC0\x0A\x04"
                                "\x5B\x81\x0BHPR_\x03PRES\x20"
                                "\x5B\x82\x47\x07HPC_"
                                "\x08_HID\x0D"
                                "ACPI0004\x00"
                                "\x08_UID\x0DHP\x00"
                                "\x5B\x82\x47\x05S000"
                                "\x08_HID\x0DLNRO0005\x00"
                                "\x08_UID\x0A\x10"
                                "\x08_CCA\x01"
                                "\x14\x14_STA\x00"
                                "\xA0\x0B\x7BPRES\x01\x00\xA4\x0A\x0F"
                                "\xA4\x00"
                                "\x08_CRS\x11\x1A\x0A\x17"
                                "\x86\x09\x00\x01\x00\x00\x01\xC0\x00\x10\x00\x00"
                                "\x89\x06\x00\x0B\x01\x14\x00\x00\x00\x79\x00"
                                "\x5B\x82\x35GED_"
                                "\x08_HID\x0D"
                                "ACPI0013\x00"
                                "\x08_CRS\x11\x0E\x0A\x0B"
                                "\x89\x06\x00\x03\x01\x05\x00\x00\x00\x79\x00"
                                "\x14\x0C_EVT\x09\x86HPC_\x00"
                                "\x08_S5_\x12\x07\x04\x0A\x05\x00\x00\x00";

static void aml_equals_the_reference_compiler(void **state)
{
    static const char *const fields[] = {"PRES"};
    static const uint8_t s5[] = {5, 0, 0, 0};
    uint8_t bytes[512];
    size_t sb, hpc, dev, m, used = 0;
    struct aml a;

    aml_init(&a, bytes, sizeof(bytes));
    sb = aml_begin_scope(&a, "_SB");
    aml_region(&a, "HPR", 0xC000F000, 4);
    aml_field_dwords(&a, "HPR", fields, 1);
    hpc = aml_begin_device(&a, "HPC");
    aml_name_string(&a, "_HID", "ACPI0004");
    aml_name_string(&a, "_UID", "HP");
    dev = aml_begin_device(&a, "S000");
    aml_name_string(&a, "_HID", "LNRO0005");
    aml_name_int(&a, "_UID", 16);
    aml_name_int(&a, "_CCA", 1);
    m = aml_begin_method(&a, "_STA", 0, false);
    aml_return_if_bits(&a, "PRES", 1, 0x0F);
    aml_end(&a, m);
    m = aml_begin_buffer_name(&a, "_CRS");
    aml_memory32(&a, 0xC0010000, 0x1000);
    aml_interrupt(&a, 20, true);
    aml_end_buffer(&a, m);
    aml_end(&a, dev);
    aml_end(&a, hpc);
    dev = aml_begin_device(&a, "GED");
    aml_name_string(&a, "_HID", "ACPI0013");
    m = aml_begin_buffer_name(&a, "_CRS");
    aml_interrupt(&a, 5, false);
    aml_end_buffer(&a, m);
    m = aml_begin_method(&a, "_EVT", 1, true);
    aml_notify(&a, "HPC");
    aml_end(&a, m);
    aml_end(&a, dev);
    aml_end(&a, sb);
    aml_name_bytes(&a, "_S5", s5, sizeof(s5));
    assert_int_equal(aml_finish(&a, &used), 0);
    assert_int_equal(used, sizeof(golden) - 1);
    assert_memory_equal(bytes, golden, used);
}

static void every_size_too_small_is_told(void **state)
{
    struct acpi_device d = {.window = 0xD0000000, .gsi = 5, .present_bit = -1};
    struct acpi_config cfg = {.cpus = 1, .devices = &d, .n = 1, .ged_gsi = 10};
    struct acpi_tables t = {0};
    size_t size = 0;

    for (; acpi_build(&cfg, out, size, GPA, &t) < 0; size++) {
        memset(out + size, 0xEE, 64);
        assert_int_equal(acpi_build(&cfg, out, size, GPA, &t), -E2BIG);
        assert_int_equal(out[size], 0xEE); /* nothing past the end */
        assert_true(size < sizeof(out) - 64);
    }
    assert_true(t.bytes == size);
}

static void wrong_configurations_are_refused(void **state)
{
    struct acpi_device d[2] = {{.present_bit = 3}, {.present_bit = 3}};
    struct acpi_config cfg = {.cpus = 1, .devices = d, .n = 2};
    struct acpi_tables t;

    assert_int_equal(acpi_build(&cfg, out, sizeof(out), GPA, &t), -EINVAL);
    d[1].present_bit = ACPI_STATE_BITS;
    assert_int_equal(acpi_build(&cfg, out, sizeof(out), GPA, &t), -EINVAL);
    d[1].present_bit = ACPI_STATE_BITS - 1;
    cfg.cpus = 0;
    assert_int_equal(acpi_build(&cfg, out, sizeof(out), GPA, &t), -EINVAL);
    cfg.cpus = LIMIT_VCPUS + 1;
    assert_int_equal(acpi_build(&cfg, out, sizeof(out), GPA, &t), -EINVAL);
}

/* Exit code of iasl -d on the file; its talk goes to log. */
static int run_iasl(const char *file, const char *log)
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0) {
        if (!freopen(log, "we", stdout) || dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
            _exit(126);
        execlp("iasl", "iasl", "-d", file, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static void disassembler_takes_the_dsdt(void **state)
{
    static const char *const wanted[] = {"ACPI0004",
                                         "ACPI0013",
                                         "PNP0501",
                                         "QEMU0001",
                                         "Device (V044)",
                                         "If ((GRP3 != WAS3))",
                                         "Field (HPR, ByteAcc,",
                                         "If ((PRS1 & 0x80000000))",
                                         "Notify (HPC7, Zero)"};
    char dir[] = "/tmp/nexus-acpi-XXXXXX";
    _cleanup_(freep) char *text = NULL, *said = NULL;
    char aml[64], log[64];
    struct acpi_tables t;
    int dirfd, code;

    build_full(&t);
    assert_non_null(mkdtemp(dir));
    dirfd = dir_open_or_make(dir, 0700);
    assert_true(dirfd >= 0);
    (void)snprintf(aml, sizeof(aml), "%s/dsdt.aml", dir);
    (void)snprintf(log, sizeof(log), "%s/log", dir);
    assert_int_equal(
        file_write_atomic(dirfd, "dsdt.aml", out + t.dsdt_offset, t.dsdt_bytes, 0600, false), 0);
    code = run_iasl(aml, log);
    if (code == 127)
        print_message("# iasl is not installed\n");
    if (code == 0) {
        assert_int_equal(file_read_all(dirfd, "log", 1U << 20, &said, NULL), 0);
        assert_null(strstr(said, "Error"));
        assert_null(strstr(said, "Warning"));
        assert_int_equal(file_read_all(dirfd, "dsdt.dsl", 1U << 20, &text, NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
            assert_non_null(strstr(text, wanted[i]));
    }
    dirfd = close_fd(dirfd);
    dirfd = dir_open_or_make("/tmp", 0700);
    assert_int_equal(dir_remove_tree(dirfd, dir + strlen("/tmp/")), 0);
    dirfd = close_fd(dirfd);
    if (code == 127)
        skip();
    assert_int_equal(code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_linked_and_sum_to_zero),
        cmocka_unit_test(aml_equals_the_reference_compiler),
        cmocka_unit_test(every_size_too_small_is_told),
        cmocka_unit_test(wrong_configurations_are_refused),
        cmocka_unit_test(disassembler_takes_the_dsdt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
