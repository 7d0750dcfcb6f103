/* SPDX-License-Identifier: Apache-2.0 */
/* mapper: a region is read-only on each of its three legs, shows the files byte for byte, and a file
 * cut short costs its reader zeros and nothing else. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/file.h"
#include "lib/test.h"
#include "mapper/fault.h"
#include "mapper/region.h"

#define PAGE RO_REGION_PAGE

enum kind { RDONLY, RDWR, WRONLY, SEALED, HALF_SEALED, PATH_ONLY, PIPE };

static uint8_t page_of[PAGE];

static int make_memfd(char fill, uint64_t bytes)
{
    int fd = memfd_create("segment", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_true(fd >= 0);
    memset(page_of, fill, sizeof(page_of));
    for (uint64_t at = 0; at < bytes; at += PAGE) {
        size_t n = bytes - at < PAGE ? (size_t)(bytes - at) : PAGE;

        assert_int_equal(write_full(fd, page_of, n), 0);
    }
    return fd;
}

static int reopen(int fd, int flags)
{
    char path[64];
    int again;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, flags | O_CLOEXEC);
    assert_true(again >= 0);
    (void)close(fd);
    return again;
}

/* A file of bytes of fill, opened as kind says. */
static int make_file(enum kind kind, char fill, uint64_t bytes)
{
    int fd, pipes[2];

    if (kind == PIPE) {
        assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
        (void)close(pipes[1]);
        return pipes[0];
    }
    fd = make_memfd(fill, bytes);
    switch (kind) {
    case RDONLY:
        return reopen(fd, O_RDONLY);
    case WRONLY:
        return reopen(fd, O_WRONLY);
    case PATH_ONLY:
        return reopen(fd, O_PATH);
    case SEALED:
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
        return fd;
    case HALF_SEALED:
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW), 0);
        return fd;
    case RDWR:
    case PIPE:
        break;
    }
    return fd;
}

static const struct {
    const char *name;
    enum kind kind;
    uint64_t file_bytes, bytes;
    int r;
} rows[] = {
    {"opened_read_only", RDONLY, PAGE, PAGE, 0},
    {"sealed_memfd", SEALED, PAGE, PAGE, 0},
    {"file_longer_than_announced", RDONLY, 3 * PAGE, PAGE, 0},
    {"last_page_in_part", RDONLY, PAGE + 1, 2 * PAGE, 0},
    {"writable_fd", RDWR, PAGE, PAGE, -EACCES},
    {"write_only_fd", WRONLY, PAGE, PAGE, -EACCES},
    {"may_still_shrink", HALF_SEALED, PAGE, PAGE, -EACCES},
    {"path_only_fd", PATH_ONLY, PAGE, PAGE, -EACCES},
    {"pipe", PIPE, PAGE, PAGE, -EINVAL},
    {"shorter_than_announced", RDONLY, PAGE, 2 * PAGE, -EINVAL},
    {"empty_file", RDONLY, 0, PAGE, -EINVAL},
    {"no_bytes", RDONLY, PAGE, 0, -EINVAL},
    {"part_of_a_page", RDONLY, PAGE, PAGE - 1, -EINVAL},
    {"absurd_size", RDONLY, PAGE, UINT64_MAX - PAGE + 1, -EINVAL},
};

static void first_leg_only_files_nobody_writes_through(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        _cleanup_(ro_region_freep) struct ro_region *g = NULL;
        _cleanup_(error_freep) struct error *err = NULL;
        struct ro_region_segment s = {make_file(rows[i].kind, 'a', rows[i].file_bytes),
                                      rows[i].bytes};

        print_message("# %s\n", rows[i].name);
        assert_int_equal(ro_region_new(&s, 1, &g, &err), rows[i].r);
        assert_true((g != NULL) == (rows[i].r == 0));
        (void)close(s.fd);
    }
}

static void second_leg_the_mapping_cannot_be_widened(void **state)
{
    for (int kind = RDONLY; kind <= SEALED; kind += SEALED - RDONLY) {
        _cleanup_(ro_region_freep) struct ro_region *g = NULL;
        struct ro_region_segment s = {make_file((enum kind)kind, 'a', PAGE), PAGE};
        struct ro_region_slot slot;

        assert_int_equal(ro_region_new(&s, 1, &g, NULL), 0);
        ro_region_slot(g, &slot);
        assert_true(mprotect((void *)(uintptr_t)slot.hva, PAGE, PROT_READ | PROT_WRITE) < 0);
        (void)close(s.fd);
    }
}

/* Runs fn in a child; the signal that ended it, 0 for a plain exit. */
static int signal_of(void (*fn)(void *), void *arg)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        (void)signal(SIGSEGV, SIG_DFL);
        fn(arg);
        _exit(0);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void write_there(void *arg)
{
    struct ro_region_segment s = {*(int *)arg, PAGE};
    struct ro_region *g = NULL;
    struct ro_region_slot slot;

    if (ro_region_new(&s, 1, &g, NULL) < 0)
        _exit(1);
    ro_region_slot(g, &slot);
    *(volatile uint8_t *)(uintptr_t)slot.hva = 1;
}

static void second_leg_a_bug_here_cannot_write(void **state)
{
    int fd = make_file(RDONLY, 'a', PAGE);

    assert_int_equal(signal_of(write_there, &fd), SIGSEGV);
    (void)close(fd);
}

static void third_leg_the_slot_carries_the_flag(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    struct ro_region_segment s = {make_file(RDONLY, 'a', PAGE), PAGE};
    struct ro_region_slot slot;

    assert_int_equal(ro_region_new(&s, 1, &g, NULL), 0);
    ro_region_slot(g, &slot);
    assert_int_equal(slot.kvm_flags, KVM_MEM_READONLY);
    assert_true(slot.bytes == RO_REGION_ALIGN && (uintptr_t)slot.hva % RO_REGION_ALIGN == 0);
    (void)close(s.fd);
}

static void segments_follow_each_other_and_zeros_follow_them(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    struct ro_region_segment s[3] = {
        {make_file(SEALED, 'm', PAGE), PAGE},
        {make_file(RDONLY, 'b', 512 * PAGE), 512 * PAGE},
        {make_file(RDONLY, 'c', PAGE / 2), PAGE},
    };
    struct ro_region_slot slot;
    const uint8_t *p;

    assert_int_equal(ro_region_new(s, 3, &g, NULL), 0);
    for (size_t i = 0; i < 3; i++)
        (void)close(s[i].fd); /* the region has its own */
    ro_region_slot(g, &slot);
    p = slot.hva;
    assert_true(slot.bytes == 2 * RO_REGION_ALIGN);
    assert_true(p[0] == 'm' && p[PAGE - 1] == 'm' && p[PAGE] == 'b');
    assert_true(p[513 * PAGE - 1] == 'b' && p[513 * PAGE] == 'c');
    assert_true(p[513 * PAGE + PAGE / 2 - 1] == 'c' && p[513 * PAGE + PAGE / 2] == 0);
    for (uint64_t at = 514 * PAGE; at < slot.bytes; at += PAGE / 2)
        assert_int_equal(p[at], 0);
}

static void large_file_is_watched_by_its_size(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    uint64_t bytes = 2 * RO_REGION_PROBED_BYTES;
    struct ro_region_loss loss;
    int writer = make_memfd('x', bytes);
    char path[64];
    struct ro_region_segment s;
    struct ro_region_slot slot;
    const uint8_t *p;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", writer);
    s = (struct ro_region_segment){open(path, O_RDONLY | O_CLOEXEC), bytes, "layer 1"};
    assert_int_equal(ro_region_new(&s, 1, &g, NULL), 0);
    assert_int_equal(ftruncate(writer, (off_t)(bytes / 2)), 0);
    assert_int_equal(ro_region_repair(g, &loss), bytes / 2 / PAGE);
    assert_int_equal(loss.offset, bytes / 2);
    assert_int_equal(loss.files, 1);
    assert_string_equal(loss.file, "layer 1");
    ro_region_slot(g, &slot);
    p = slot.hva;
    assert_true(p[bytes / 2 - 1] == 'x' && p[bytes / 2] == 0 && p[bytes - 1] == 0);
    (void)close(writer);
    (void)close(s.fd);
}

/* What an I/O error looks like to who maps the file, as far as it can be made without a bad disk: its size
 * is right and pages of it cannot be had. */
static void break_pages(const struct ro_region *g, uint64_t offset, uint64_t pages)
{
    struct ro_region_slot slot;
    void *at;

    ro_region_slot(g, &slot);
    at = mmap((uint8_t *)(uintptr_t)slot.hva + offset, pages * PAGE, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    assert_true(at != MAP_FAILED);
}

/* A file that is as long as ever, small or large, and cannot be read. */
static void pages_that_cannot_be_read_are_found(void **state)
{
    const uint64_t big = 2 * RO_REGION_PROBED_BYTES;
    struct ro_region_segment s[] = {
        {make_file(SEALED, 'm', PAGE), PAGE, "metadata"},
        {make_file(RDONLY, 'a', PAGE), PAGE, "creds/a"},
        {make_file(RDONLY, 'b', 2 * PAGE), 2 * PAGE, "creds/b"},
        {make_file(RDONLY, 'L', big), big, "layer"},
        {make_file(RDONLY, 'z', PAGE), PAGE, NULL},
    };
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    struct ro_region_loss loss;
    struct ro_region_slot slot;
    const uint8_t *p;
    int64_t r;

    assert_int_equal(ro_region_new(s, ARRAY_SIZE(s), &g, NULL), 0);
    ro_region_slot(g, &slot);
    p = slot.hva;
    break_pages(g, 3 * PAGE, 1);
    break_pages(g, 4 * PAGE + big / 2, 300);
    do /* a slow machine may need more than one turn for all */
        r = ro_region_repair(g, &loss);
    while (r == -EAGAIN);
    assert_int_equal(loss.offset, 3 * PAGE);
    assert_int_equal(loss.file_offset, PAGE);
    assert_string_equal(loss.file, "creds/b");
    while (r != 0) {
        r = ro_region_repair(g, NULL);
        assert_true(r >= 0 || r == -EAGAIN);
    }
    assert_int_equal(ro_region_repaired(g), 301);
    assert_true(p[PAGE] == 'a' && p[2 * PAGE] == 'b' && p[3 * PAGE] == 0);
    assert_true(p[4 * PAGE + big / 2 - 1] == 'L' && p[4 * PAGE + big / 2] == 0);
    assert_true(p[4 * PAGE + big / 2 + 300 * PAGE] == 'L' && p[4 * PAGE + big] == 'z');
    for (size_t i = 0; i < ARRAY_SIZE(s); i++)
        (void)close(s[i].fd);
}

static size_t open_files(void)
{
    size_t n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* The files of a volume: no descriptor of them stays, and a hole among them is found. */
static void pieces_come_one_after_the_other(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    size_t before = open_files();
    struct ro_region_slot slot;
    struct ro_region_loss loss;
    const uint8_t *p;
    int cut = -EBADF;

    assert_int_equal(ro_region_begin(&g, NULL), 0);
    for (size_t i = 0; i < 700; i++) {
        int fd = make_memfd((char)('a' + i % 26), 100);
        char path[64];
        struct ro_region_segment s = {.bytes = PAGE};

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        s.fd = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(ro_region_append(g, &s, 1, NULL), 0);
        (void)close(s.fd);
        if (i == 600)
            cut = fd;
        else
            (void)close(fd);
    }
    ro_region_slot(g, &slot);
    assert_true(slot.bytes == 0); /* not to be shown yet */
    assert_int_equal(ro_region_finish(g, NULL), 0);
    assert_int_equal(open_files(), before + 1);
    ro_region_slot(g, &slot);
    p = slot.hva;
    assert_true(slot.bytes == 2 * RO_REGION_ALIGN);
    for (size_t i = 0; i < 700; i++)
        assert_true(p[i * PAGE] == 'a' + i % 26 && p[i * PAGE + 100] == 0);
    assert_int_equal(ro_region_repair(g, NULL), 0);
    assert_int_equal(ftruncate(cut, 0), 0);
    assert_int_equal(ro_region_repair(g, &loss), 1);
    assert_int_equal(loss.offset, 600 * PAGE);
    assert_true(p[600 * PAGE] == 0 && p[601 * PAGE] == 'a' + 601 % 26);
    (void)close(cut);
}

static void nothing_is_no_region(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;

    assert_int_equal(ro_region_begin(&g, NULL), 0);
    assert_int_equal(ro_region_finish(g, NULL), -EINVAL);
}

static void a_place_takes_one_set_of_files_after_the_other(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    size_t before = open_files();
    int big = make_file(RDONLY, 'b', RO_REGION_PROBED_BYTES), small = make_file(RDONLY, 's', PAGE);
    struct ro_region_segment first[] = {{big, RO_REGION_PROBED_BYTES}, {small, PAGE}};
    struct ro_region_segment same[] = {{small, PAGE}, {big, RO_REGION_PROBED_BYTES}};
    struct ro_region_segment other = {small, PAGE};
    struct ro_region_segment bad[] = {{small, PAGE},
                                      {open("/dev/null", O_RDONLY | O_CLOEXEC), PAGE}};
    struct ro_region_slot slot, again;
    const uint8_t *p;

    assert_int_equal(ro_region_new(first, 2, &g, NULL), 0);
    ro_region_slot(g, &slot);
    p = slot.hva;
    assert_true(p[0] == 'b' && p[RO_REGION_PROBED_BYTES] == 's');
    assert_int_equal(open_files(), before + 4); /* ours, and the large one is watched */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ro_region_vacate(g), 0);
        assert_int_equal(open_files(), before + 3);
        assert_true(p[0] == 0 && p[RO_REGION_PROBED_BYTES] == 0);
        assert_int_equal(ro_region_refill(g, &other, 1, NULL), -EXDEV); /* another size */
        assert_int_equal(ro_region_refill(g, bad, 2, NULL), -EINVAL);
        assert_true(p[0] == 0);
        assert_int_equal(ro_region_refill(g, same, 2, NULL), 0);
        assert_int_equal(ro_region_refill(g, same, 2, NULL), -EINVAL); /* it is full */
        ro_region_slot(g, &again);
        assert_true(again.hva == slot.hva && again.bytes == slot.bytes);
        assert_true(p[0] == 's' && p[PAGE] == 'b' && p[RO_REGION_PROBED_BYTES] == 'b');
        assert_int_equal(ro_region_repair(g, NULL), 0);
    }
    (void)close(bad[1].fd);
    (void)close(big);
    (void)close(small);
}

static void truncated_file_reads_zeros_after_repair(void **state)
{
    struct ro_region_loss loss;
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    int writer = make_memfd('x', 4 * PAGE);
    char path[64];
    struct ro_region_segment s[2];
    struct ro_region_slot slot;
    const uint8_t *p;

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", writer);
    s[0] = (struct ro_region_segment){open(path, O_RDONLY | O_CLOEXEC), 4 * PAGE};
    s[1] = (struct ro_region_segment){make_file(RDONLY, 'y', PAGE), PAGE};
    assert_int_equal(ro_region_new(s, 2, &g, NULL), 0);
    assert_int_equal(ro_region_repair(g, NULL), 0); /* nothing missing */
    assert_int_equal(ftruncate(writer, (off_t)(PAGE + 10)), 0);
    assert_int_equal(ro_region_repair(g, &loss), 2); /* pages */
    assert_int_equal(loss.offset, 2 * PAGE);
    assert_int_equal(ro_region_repair(g, NULL), 0);
    assert_int_equal(ro_region_repaired(g), 2);
    ro_region_slot(g, &slot);
    p = slot.hva;
    assert_true(p[0] == 'x' && p[PAGE + 9] == 'x' && p[PAGE + 10] == 0);
    assert_true(p[2 * PAGE] == 0 && p[4 * PAGE - 1] == 0 && p[4 * PAGE] == 'y');
    (void)close(writer);
    (void)close(s[0].fd);
    (void)close(s[1].fd);
}

static void truncated_file_read_by_us_is_zeros_without_repair(void **state)
{
    _cleanup_(ro_region_freep) struct ro_region *g = NULL;
    int writer = make_memfd('x', 2 * PAGE);
    char path[64];
    struct ro_region_segment s;
    struct ro_region_slot slot;
    struct ro_region_loss loss;
    int notified = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t count;
    const volatile uint8_t *p;

    assert_int_equal(fault_init(), 0);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", writer);
    s = (struct ro_region_segment){open(path, O_RDONLY | O_CLOEXEC), 2 * PAGE, "cut"};
    assert_int_equal(ro_region_new(&s, 1, &g, NULL), 0);
    assert_int_equal(ftruncate(writer, (off_t)PAGE), 0);
    assert_false(ro_region_take_faults(g, &loss));
    fault_notify(notified);
    ro_region_slot(g, &slot);
    p = slot.hva;
    assert_true(p[0] == 'x' && p[PAGE + 5] == 0);
    assert_true(fault_count() == 1);
    assert_int_equal(read(notified, &count, sizeof(count)), sizeof(count));
    assert_true(ro_region_take_faults(g, &loss));
    assert_int_equal(loss.pages, 1);
    assert_int_equal(loss.file_offset, PAGE);
    assert_string_equal(loss.file, "cut");
    assert_false(ro_region_take_faults(g, &loss)); /* told */
    fault_notify(-1);
    (void)close(notified);
    (void)signal(SIGBUS, SIG_DFL);
    (void)close(writer);
    (void)close(s.fd);
}

static void number_of_segments_is_limited(void **state)
{
    const size_t n = RO_REGION_SEGMENTS_MAX;
    _cleanup_(freep) struct ro_region_segment *s = calloc(n + 1, sizeof(*s));
    struct ro_region *g = NULL;
    int fd = make_file(RDONLY, 'a', PAGE);

    assert_non_null(s);
    for (size_t i = 0; i <= n; i++)
        s[i] = (struct ro_region_segment){fd, PAGE};
    assert_int_equal(ro_region_new(s, 0, &g, NULL), -EINVAL);
    assert_int_equal(ro_region_new(s, RO_REGION_SEGMENTS_MAX + 1, &g, NULL), -E2BIG);
    assert_null(g);
    assert_int_equal(ro_region_new(s, RO_REGION_SEGMENTS_MAX, &g, NULL), 0);
    ro_region_free(g);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_leg_only_files_nobody_writes_through),
        cmocka_unit_test(second_leg_the_mapping_cannot_be_widened),
        cmocka_unit_test(second_leg_a_bug_here_cannot_write),
        cmocka_unit_test(third_leg_the_slot_carries_the_flag),
        cmocka_unit_test(segments_follow_each_other_and_zeros_follow_them),
        cmocka_unit_test(a_place_takes_one_set_of_files_after_the_other),
        cmocka_unit_test(truncated_file_reads_zeros_after_repair),
        cmocka_unit_test(large_file_is_watched_by_its_size),
        cmocka_unit_test(pages_that_cannot_be_read_are_found),
        cmocka_unit_test(pieces_come_one_after_the_other),
        cmocka_unit_test(nothing_is_no_region),
        cmocka_unit_test(truncated_file_read_by_us_is_zeros_without_repair),
        cmocka_unit_test(number_of_segments_is_limited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
