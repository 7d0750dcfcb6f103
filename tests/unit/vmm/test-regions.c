/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest's write to a read-only region leaves behind: a count of that region and a line that names
 * it, however loud another region is. No KVM: the part of the machine that is asked is made by hand. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "lib/test.h"
#include "mapper/region.h"
#include "vmm/machine-internal.h"

#define GPA_A (4ULL << 30)
#define GPA_B (GPA_A + RO_REGION_ALIGN)

static char lines[64][512];
static unsigned n_lines;

static void on_line(enum log_level level, const char *fields, const char *text)
{
    if (n_lines < ARRAY_SIZE(lines))
        (void)snprintf(lines[n_lines++], sizeof(lines[0]), "%s", text);
}

static struct ro_region *region_new(void)
{
    int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct ro_region_segment segment = {.fd = fd, .bytes = RO_REGION_PAGE};
    struct ro_region *region = NULL;

    assert_int_equal(ftruncate(fd, (off_t)RO_REGION_PAGE), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
    assert_int_equal(ro_region_new(&segment, 1, &region, NULL), 0);
    (void)close(fd);
    return region;
}

static void put(struct machine *m, unsigned slot, uint64_t gpa, const char *key, const char *what)
{
    m->hot[slot].region = region_new();
    m->hot[slot].gpa = gpa;
    m->hot[slot].bytes = RO_REGION_ALIGN;
    m->hot[slot].key = str_dup(key);
    m->hot[slot].what = str_dup_or_null(what);
}

static int setup(void **state)
{
    struct machine *m = xcalloc(1, sizeof(*m));

    (void)pthread_mutex_init(&m->regions_lock, NULL);
    put(m, 0, GPA_A, "vol-1", "secret creds");
    put(m, 3, GPA_B, "plain", NULL);
    n_lines = 0;
    log_set_sink(on_line);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    struct machine *m = *state;

    log_set_sink(NULL);
    machine_regions_free(m);
    (void)pthread_mutex_destroy(&m->regions_lock);
    free(m);
    return 0;
}

static uint64_t denied(struct machine *m, uint64_t gpa)
{
    uint64_t count = UINT64_MAX, repaired = UINT64_MAX;

    machine_count_region(m, gpa, &count, &repaired);
    assert_int_equal(repaired, 0);
    return count;
}

static void writes_are_counted_per_region(void **state)
{
    struct machine *m = *state;

    for (unsigned i = 0; i < 5; i++)
        machine_denied(m, GPA_A + 8 * i);
    machine_denied(m, GPA_A + RO_REGION_ALIGN - 1);
    machine_denied(m, GPA_B);
    machine_denied(m, GPA_B + RO_REGION_ALIGN); /* just removed: nobody's */
    assert_int_equal(denied(m, GPA_A), 6);
    assert_int_equal(denied(m, GPA_B), 1);
    assert_int_equal(denied(m, GPA_B + RO_REGION_ALIGN), 0);
}

/* The limit is one for all regions and all tests of this program, so nothing depends on what is left. */
static void a_loud_region_hides_no_other(void **state)
{
    struct machine *m = *state;
    unsigned told;

    for (unsigned i = 0; i < 100000; i++)
        machine_denied(m, GPA_A + 4096);
    assert_int_equal(denied(m, GPA_A), 100000);
    assert_string_equal(lines[0],
                        "region vol-1 (secret creds): the guest wrote at offset 4096; dropped");
    told = n_lines;
    assert_in_range(told, 1, 3 * LOG_LIMIT_BURST);
    machine_denied(m, GPA_B + 77);
    assert_int_equal(n_lines, told + 1);
    assert_string_equal(lines[told], "region plain: the guest wrote at offset 77; dropped");
    machine_denied(m, GPA_B + 78);
    assert_in_range(n_lines, told + 1, told + 3);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(writes_are_counted_per_region),
        T(a_loud_region_hides_no_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
