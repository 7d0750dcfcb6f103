/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest's write to a read-only region leaves behind, and what a lost page of a file: a count of that
 * region and a line that names it, however loud another region is. No KVM: the part of the machine that is
 * asked is made by hand. */
#include <errno.h>
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
    list_init(&m->partials);
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

static int add(struct machine *m, const char *key, uint64_t pages, uint64_t *gpa)
{
    int fd = memfd_create("more", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    const uint64_t size = pages * RO_REGION_PAGE;
    uint64_t bytes = 0;
    int r;

    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, key, strlen(key), 0), (ssize_t)strlen(key));
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
    r = machine_add_region(m, key, "", &fd, &size, NULL, 1, false, gpa, &bytes, NULL);
    (void)close(fd);
    assert_true(r < 0 || bytes == RO_REGION_ALIGN);
    return r;
}

static const char *text_at(const struct machine *m, unsigned slot)
{
    struct ro_region_slot view;

    ro_region_slot(m->hot[slot].region, &view);
    return view.hva;
}

static void parked_region_shows_nothing_and_takes_the_next(void **state)
{
    struct machine *m = *state;
    uint64_t gpa = 0;

    assert_int_equal(machine_park_region(m, GPA_A + 4096), -ENOENT);
    assert_true(machine_may_park(m, GPA_B));
    assert_int_equal(machine_park_region(m, GPA_B), 0);
    assert_string_equal(text_at(m, 3), "");
    machine_denied(m, GPA_B + 8);
    assert_non_null(strstr(lines[n_lines - 1], "parked"));
    assert_int_equal(add(m, "next", 1, &gpa), 0);
    assert_int_equal(gpa, GPA_B);
    assert_string_equal(text_at(m, 3), "next");
    assert_string_equal(m->hot[3].key, "next");
    assert_int_equal(denied(m, GPA_B), 0); /* a new region's own count */
    assert_string_equal(m->hot[0].key, "vol-1");
}

static void a_file_that_cannot_be_mapped_leaves_it_parked(void **state)
{
    struct machine *m = *state;
    const uint64_t bytes = RO_REGION_PAGE;
    uint64_t gpa = 0, size = 0;
    int fd = memfd_create("unsealed", MFD_CLOEXEC);

    assert_true(machine_may_park(m, GPA_B));
    assert_int_equal(machine_park_region(m, GPA_B), 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(
        machine_add_region(m, "bad", "", &fd, &bytes, NULL, 1, false, &gpa, &size, NULL), -EACCES);
    (void)close(fd);
    assert_true(m->hot[3].parked);
    assert_int_equal(add(m, "good", 1, &gpa), 0);
    assert_int_equal(gpa, GPA_B);
}

static void few_are_parked_and_small_ones_only(void **state)
{
    struct machine *m = *state;
    unsigned n = 0;

    m->hot[0].bytes = 2 * RO_REGION_ALIGN;
    assert_false(machine_may_park(m, GPA_A));
    assert_false(machine_may_park(m, GPA_A - RO_REGION_ALIGN));
    m->hot[0].bytes = RO_REGION_ALIGN;
    for (unsigned i = 4; i < 4 + LIMIT_PARKED; i++)
        put(m, i, GPA_B + (i - 3) * RO_REGION_ALIGN, "more", NULL);
    for (unsigned i = 4; i < 4 + LIMIT_PARKED; i++)
        n += machine_may_park(m, GPA_B + (i - 3) * RO_REGION_ALIGN);
    assert_int_equal(n, LIMIT_PARKED); /* asked for is as good as parked */
    assert_false(machine_may_park(m, GPA_B));
    assert_true(machine_may_park(m, GPA_B + RO_REGION_ALIGN)); /* it is counted already */
}

static int file_of(const char *path, char fill, uint64_t bytes)
{
    static char page[RO_REGION_PAGE];
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    memset(page, fill, sizeof(page));
    for (uint64_t at = 0; at < bytes; at += sizeof(page))
        assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
    return fd;
}

/* Which file of which region, from which place on; and a noisy region hides no other here either. */
static void a_lost_page_is_told_with_its_file(void **state)
{
    struct machine *m = *state;
    int a = file_of("lost-a", 'a', 3 * RO_REGION_PAGE), b = file_of("lost-b", 'b', RO_REGION_PAGE);
    struct ro_region_segment files[] = {
        {open("lost-a", O_RDONLY | O_CLOEXEC), 3 * RO_REGION_PAGE, "creds/..data/a"},
        {open("lost-b", O_RDONLY | O_CLOEXEC), RO_REGION_PAGE, "creds/..data/b\n"},
    };
    uint64_t denied, repaired;

    ro_region_free(m->hot[0].region);
    assert_int_equal(ro_region_new(files, 2, &m->hot[0].region, NULL), 0);
    assert_false(machine_repair(m));
    assert_int_equal(n_lines, 0);
    assert_int_equal(ftruncate(a, (off_t)RO_REGION_PAGE), 0);
    assert_int_equal(ftruncate(b, 0), 0);
    assert_true(machine_repair(m));
    assert_int_equal(n_lines, 1);
    assert_string_equal(
        lines[0], "region vol-1 (secret creds): file creds/..data/a was cut short on the host or "
                  "cannot be read (I/O error): from offset 4096 on 3 pages are zeros now, pages "
                  "of 1 more files among them");
    machine_count_region(m, GPA_A, &denied, &repaired);
    assert_int_equal(repaired, 3);
    assert_false(machine_repair(m));
    for (size_t i = 0; i < 2; i++)
        (void)close(files[i].fd);
    (void)close(a);
    (void)close(b);
    (void)unlink("lost-a");
    (void)unlink("lost-b");
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(writes_are_counted_per_region),
        T(a_loud_region_hides_no_other),
        T(parked_region_shows_nothing_and_takes_the_next),
        T(a_file_that_cannot_be_mapped_leaves_it_parked),
        T(few_are_parked_and_small_ones_only),
        T(a_lost_page_is_told_with_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
