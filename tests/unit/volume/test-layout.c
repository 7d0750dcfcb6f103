/* SPDX-License-Identifier: Apache-2.0 */
/* volume: scans become metadata and pieces that nobody can change. What the bytes mean is checked by
 * independent readers in tests/integration/volume. */
#include <linux/memfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/fdpass.h"
#include "lib/volume-fixture.h"
#include "volume/layout.h"

static struct volume_scan *scan(const struct fixture *f, bool live)
{
    struct volume_scan *s = NULL;

    assert_int_equal(volume_scan(f->fd, live, &volume_limits_default, &s, NULL), 0);
    return s;
}

static struct volume_layout *layout(const struct volume_part *parts, size_t n,
                                    enum volume_data data)
{
    struct volume_layout *l = NULL;
    struct error *err = NULL;
    int r = volume_layout_new(parts, n, data, &l, &err);

    if (err)
        print_message("# %s\n", err->message);
    error_free(err);
    assert_int_equal(r, 0);
    return l;
}

/* The region as one buffer of the caller. */
static uint8_t *compose(const struct volume_layout *l)
{
    uint8_t *bytes = xcalloc(l->pages, 4096), *at = bytes;

    for (size_t i = 0; i < l->n; i++) {
        const struct volume_piece *p = &l->pieces[i];

        assert_int_equal(pread_full(p->fd, at, p->bytes, 0), p->bytes);
        at += p->pages * 4096;
    }
    assert_true(at == bytes + l->pages * 4096);
    return bytes;
}

static void put_sizes(const struct fixture *f)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 1 << 20};
    char name[16];
    char *bytes = xcalloc(1, 1 << 20);

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        (void)snprintf(name, sizeof(name), "s%zu", sizes[i]);
        memset(bytes, 'a' + (int)i, sizes[i]);
        put_bytes(f->fd, name, bytes, sizes[i], 0644);
    }
    free(bytes);
}

static void pieces_are_whole_pages_in_order(void **state)
{
    static const struct {
        const char *path;
        uint64_t bytes, pages;
    } want[] = {{"v/s1", 1, 1},
                {"v/s1048576", 1 << 20, 256},
                {"v/s4095", 4095, 1},
                {"v/s4096", 4096, 1},
                {"v/s4097", 4097, 2}};
    const struct fixture *f = *state;
    struct volume_part part = {.name = "v"};
    struct volume_layout *l;

    put_sizes(f);
    part.scan = scan(f, false);
    l = layout(&part, 1, VOLUME_DATA_MAP);
    assert_int_equal(l->n, 1 + ARRAY_SIZE(want));
    assert_int_equal(l->inodes, 1 + 1 + 6);
    for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
        const struct volume_piece *p = &l->pieces[i + 1];

        assert_string_equal(p->path, want[i].path);
        assert_int_equal(p->bytes, want[i].bytes);
        assert_int_equal(p->pages, want[i].pages);
        assert_int_equal(fcntl(p->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    }
    volume_scan_free(part.scan); /* nothing of it is needed any more */
    free(compose(l));
    volume_layout_free(l);
}

static void assert_sealed(int fd)
{
    const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

    assert_int_equal(fcntl(fd, F_GET_SEALS) & seals, seals);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_true(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
}

static void metadata_and_copies_are_sealed(void **state)
{
    const struct fixture *f = *state;
    struct volume_part part = {.name = "v"};
    struct volume_layout *l;

    put_sizes(f);
    part.scan = scan(f, false);
    l = layout(&part, 1, VOLUME_DATA_COPY);
    assert_int_equal(l->n, 2);
    assert_sealed(l->pieces[0].fd);
    assert_sealed(l->pieces[1].fd);
    for (size_t i = 0; i < part.scan->n; i++)
        assert_true(part.scan->entries[i].fd < 0); /* the files themselves are let go */
    volume_scan_free(part.scan);
    volume_layout_free(l);
}

static void copies_have_the_bytes_of_the_files(void **state)
{
    const struct fixture *f = *state;
    struct volume_part part = {.name = "v"};
    struct volume_layout *map, *copy;
    uint8_t *a, *b;

    put_sizes(f);
    assert_int_equal(linkat(f->fd, "s4097", f->fd, "a-link", 0), 0);
    part.scan = scan(f, false);
    map = layout(&part, 1, VOLUME_DATA_MAP);
    volume_scan_free(part.scan);
    part.scan = scan(f, false);
    copy = layout(&part, 1, VOLUME_DATA_COPY);
    volume_scan_free(part.scan);
    assert_int_equal(map->pages, copy->pages);
    a = compose(map);
    b = compose(copy);
    assert_memory_equal(a, b, map->pages * 4096);
    put(f->fd, "s1", "!"); /* in place: the mapping shows it, the copy does not */
    free(a);
    a = compose(map);
    assert_true(memcmp(a, b, map->pages * 4096) != 0);
    free(b);
    b = compose(copy);
    assert_true(memcmp(a, b, map->pages * 4096) != 0);
    free(a);
    free(b);
    volume_layout_free(map);
    volume_layout_free(copy);
}

static void the_last_page_ends_in_zeros(void **state)
{
    const struct fixture *f = *state;
    struct volume_part part = {.name = "v"};
    struct volume_layout *l;
    int fd;

    put_sizes(f);
    put(f->fd, "shrunk", "a long text that was here before");
    fd = openat(f->fd, "shrunk", O_WRONLY);
    assert_int_equal(ftruncate(fd, 5), 0);
    (void)close(fd);
    part.scan = scan(f, false);
    l = layout(&part, 1, VOLUME_DATA_MAP);
    for (size_t i = 1; i < l->n; i++) {
        const struct volume_piece *p = &l->pieces[i];
        const uint8_t *at = mmap(NULL, p->pages * 4096, PROT_READ, MAP_SHARED, p->fd, 0);

        assert_true(at != MAP_FAILED);
        for (uint64_t k = p->bytes; k < p->pages * 4096; k++)
            assert_int_equal(at[k], 0);
        (void)munmap((void *)(uintptr_t)at, p->pages * 4096);
    }
    volume_scan_free(part.scan);
    volume_layout_free(l);
}

static void no_volume_and_empty_volumes_have_metadata_alone(void **state)
{
    const struct fixture *f = *state;
    struct volume_part parts[2] = {{.name = "a"}, {.name = "b"}};
    struct volume_layout *l = layout(NULL, 0, VOLUME_DATA_MAP);

    assert_int_equal(l->n, 1);
    assert_int_equal(l->pages, 1);
    volume_layout_free(l);
    put(f->fd, "empty", "");
    for (enum volume_data data = VOLUME_DATA_MAP; data <= VOLUME_DATA_COPY; data++) {
        parts[0].scan = scan(f, false);
        parts[1].scan = scan(f, false);
        l = layout(parts, 2, data);
        assert_int_equal(l->n, 1);
        volume_layout_free(l);
        volume_scan_free(parts[0].scan);
        volume_scan_free(parts[1].scan);
    }
}

static void batches_cover_all_pieces_once(void **state)
{
    const struct fixture *f = *state;
    struct volume_part parts[2] = {{.name = "a"}, {.name = "b"}};
    uint64_t sizes[FDPASS_MAX], pages = 0;
    int fds[FDPASS_MAX];
    struct volume_layout *l;
    char name[16];
    unsigned before = open_fds(), batches = 0;
    size_t n, total = 0;

    for (unsigned i = 0; i < 150; i++) {
        (void)snprintf(name, sizeof(name), "k%u", i);
        put(f->fd, name, name);
    }
    parts[0].scan = scan(f, false);
    parts[1].scan = scan(f, false);
    l = layout(parts, 2, VOLUME_DATA_MAP);
    volume_scan_free(parts[0].scan);
    volume_scan_free(parts[1].scan);
    assert_int_equal(open_fds(), before + 301);
    while ((n = volume_layout_batch(l, FDPASS_MAX, fds, sizes)) > 0) {
        for (size_t i = 0; i < n; i++) {
            assert_true(fcntl(fds[i], F_GETFD) >= 0);
            assert_int_equal(sizes[i] % 4096, 0);
            pages += sizes[i] / 4096;
        }
        volume_layout_drop(l, n);
        total += n;
        batches++;
        assert_int_equal(open_fds(), before + 301 - total);
    }
    assert_int_equal(batches, 3);
    assert_int_equal(total, 301);
    assert_int_equal(pages, l->pages);
    volume_layout_drop(l, 5); /* harmless */
    volume_layout_free(l);
    assert_int_equal(open_fds(), before);
}

static void the_same_volume_gives_the_same_metadata(void **state)
{
    const struct fixture *f = *state;
    struct volume_part part = {.name = "v"};
    uint8_t *bytes[2];
    uint64_t pages = 0;

    put_sizes(f);
    for (int i = 0; i < 2; i++) {
        struct volume_layout *l;

        part.scan = scan(f, false);
        l = layout(&part, 1, VOLUME_DATA_MAP);
        bytes[i] = compose(l);
        pages = l->pages;
        volume_layout_free(l);
        volume_scan_free(part.scan);
    }
    assert_memory_equal(bytes[0], bytes[1], pages * 4096);
    free(bytes[0]);
    free(bytes[1]);
}

static void bad_parts_are_refused(void **state)
{
    static const char *const names[] = {"", ".", "..", "a/b"};
    const struct fixture *f = *state;
    struct volume_part parts[2] = {{.name = "v"}, {.name = "v"}}, *many;
    struct volume_layout *l;
    struct error *err = NULL;
    char longest[300];

    parts[0].scan = scan(f, false);
    parts[1].scan = scan(f, false);
    assert_int_equal(volume_layout_new(parts, 2, VOLUME_DATA_MAP, &l, &err), -EINVAL);
    assert_non_null(strstr(err->message, "used twice"));
    error_free(err);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        parts[0].name = names[i];
        assert_int_equal(volume_layout_new(parts, 1, VOLUME_DATA_MAP, &l, NULL), -EINVAL);
    }
    memset(longest, 'n', 256);
    longest[256] = '\0';
    parts[0].name = longest;
    assert_int_equal(volume_layout_new(parts, 1, VOLUME_DATA_MAP, &l, NULL), -EINVAL);
    longest[255] = '\0';
    volume_layout_free(layout(parts, 1, VOLUME_DATA_MAP));
    many = xcalloc(257, sizeof(*many));
    assert_int_equal(volume_layout_new(many, 257, VOLUME_DATA_MAP, &l, NULL), -E2BIG);
    free(many);
    volume_scan_free(parts[0].scan);
    volume_scan_free(parts[1].scan);
}

static void a_copy_of_what_changed_is_refused(void **state)
{
    static const char *const texts[] = {"short", "0123456789", "0123456789 and more"};
    const struct fixture *f = *state;
    struct volume_part part = {.name = "v"};
    const unsigned before = open_fds();

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)i}};
        struct volume_layout *l;
        struct error *err = NULL;

        put(f->fd, "key", "abcdefghij");
        part.scan = scan(f, false);
        put(f->fd, "key", texts[i]);
        assert_int_equal(utimensat(f->fd, "key", times, 0),
                         0); /* a tick is too coarse for a test */
        assert_int_equal(volume_layout_new(&part, 1, VOLUME_DATA_COPY, &l, &err), -EAGAIN);
        assert_non_null(strstr(err->message, "volume v: key: it changed"));
        error_free(err);
        volume_scan_free(part.scan);
    }
    assert_int_equal(open_fds(), before);
}

static void too_many_bytes_in_all_are_refused(void **state)
{
    const struct fixture *f = *state;
    struct volume_part parts[5];
    char names[5][2];
    struct volume_layout *l;
    struct error *err = NULL;
    int fd;

    put(f->fd, "sparse", "");
    fd = openat(f->fd, "sparse", O_WRONLY);
    assert_int_equal(ftruncate(fd, 64 << 20), 0);
    (void)close(fd);
    for (int i = 0; i < 5; i++) {
        names[i][0] = (char)('a' + i);
        names[i][1] = '\0';
        parts[i] = (struct volume_part){.name = names[i], .scan = scan(f, false)};
    }
    assert_int_equal(volume_layout_new(parts, 5, VOLUME_DATA_MAP, &l, &err), -E2BIG);
    error_free(err);
    l = layout(parts, 4, VOLUME_DATA_MAP);
    volume_layout_free(l);
    for (int i = 0; i < 5; i++)
        volume_scan_free(parts[i].scan);
}

static void the_setting_is_parsed(void **state)
{
    assert_int_equal(volume_data_parse("map"), VOLUME_DATA_MAP);
    assert_int_equal(volume_data_parse("copy"), VOLUME_DATA_COPY);
    assert_int_equal(volume_data_parse(""), -EINVAL);
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#if !defined(HAS_ASAN) && !defined(__SANITIZE_ADDRESS__)

enum { WHOLE, OUT_OF_MEMORY, SOMETHING_ELSE };

/* In a child, which may have so many bytes more of address space, or so many in a file. */
static int layout_within(const struct fixture *f, __rlimit_resource_t resource, rlim_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    struct volume_part part = {.name = "many", .scan = scan(f, false)};
    const unsigned before = open_fds();
    struct volume_layout *l = NULL;
    struct error *err = NULL;
    int r;

    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(resource, &limit) < 0)
        return SOMETHING_ELSE;
    r = volume_layout_new(&part, 1, VOLUME_DATA_MAP, &l, &err);
    if (r == 0)
        return WHOLE;
    if ((r != -ENOMEM && r != -EFBIG) || l || !err || open_fds() != before)
        return SOMETHING_ELSE;
    return OUT_OF_MEMORY;
}

static rlim_t address_space(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    (void)fclose(f);
    return (rlim_t)pages * 4096;
}

/* How it ended: 0 to 2 as above, or a signal's number + 128. */
static int in_a_child(const struct fixture *f, __rlimit_resource_t resource, rlim_t bytes)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(layout_within(f, resource, bytes));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Wherever memory runs out while metadata is built: an error that says so, and nothing is left. */
static void memory_that_runs_out_is_an_error(void **state)
{
    const struct fixture *f = *state;
    unsigned ended[2] = {0, 0};
    char name[240];

    for (int i = 0; i < 3000; i++) {
        (void)snprintf(name, sizeof(name), "%0200d", i);
        put(f->fd, name, i % 10 ? "" : "x");
    }
    for (rlim_t more = 0; more < 4 << 20; more += 16 << 10) {
        int how = in_a_child(f, RLIMIT_AS, address_space() + (1 << 20) + more);

        assert_in_range(how, WHOLE, OUT_OF_MEMORY);
        ended[how]++;
    }
    print_message("# %u whole, %u out of memory\n", ended[0], ended[1]);
    assert_true(ended[WHOLE] > 0 && ended[OUT_OF_MEMORY] > 10);
    for (rlim_t file = 0; file < 512 << 10; file += 64 << 10)
        assert_int_equal(in_a_child(f, RLIMIT_FSIZE, file), OUT_OF_MEMORY);
    assert_int_equal(in_a_child(f, RLIMIT_FSIZE, 64 << 20), WHOLE);
}
#define MEMORY_CASES CASE(memory_that_runs_out_is_an_error),
#else
#define MEMORY_CASES /* a sanitizer takes address space for itself */
#endif

#define CASE(f) cmocka_unit_test_setup_teardown(f, fixture_setup_fast, fixture_teardown)

/* A user's shell may begin with fewer descriptors than a volume has files. */
static void take_all_descriptors(void)
{
    struct rlimit files;

    (void)getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(pieces_are_whole_pages_in_order),
        CASE(metadata_and_copies_are_sealed),
        CASE(copies_have_the_bytes_of_the_files),
        CASE(the_last_page_ends_in_zeros),
        CASE(no_volume_and_empty_volumes_have_metadata_alone),
        CASE(batches_cover_all_pieces_once),
        CASE(the_same_volume_gives_the_same_metadata),
        CASE(bad_parts_are_refused),
        CASE(a_copy_of_what_changed_is_refused),
        CASE(too_many_bytes_in_all_are_refused),
        MEMORY_CASES cmocka_unit_test(the_setting_is_parsed),
    };

    take_all_descriptors();
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
