/* SPDX-License-Identifier: Apache-2.0 */
/* pull: layers come out of their compression whole and verified, or not at all; bombs stay small. */
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/limit.h"
#include "base/str.h"
#include "lib/test.h"
#include "oci/sha256.h"
#include "pull/inflate.h"

/* A source that gives its bytes in steps, to cross every border of the stages above. */
struct steps {
    struct source base;
    const uint8_t *at;
    size_t left, step;
};

static ssize_t steps_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct steps *t = container_of(s, struct steps, base);
    size_t n = len < t->step ? len : t->step;

    n = n < t->left ? n : t->left;
    memcpy(buf, t->at, n);
    t->at += n;
    t->left -= n;
    return (ssize_t)n;
}

static void add_gzip(struct buf *out, const void *bytes, size_t len)
{
    z_stream z = {0};
    uint8_t *room = buf_reserve(out, len / 8 + 65536);

    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)len;
    z.next_out = room;
    z.avail_out = (uInt)(len / 8 + 65536);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    out->used += z.total_out;
    (void)deflateEnd(&z);
}

static void add_zstd(struct buf *out, const void *bytes, size_t len)
{
    size_t room = ZSTD_compressBound(len);
    size_t n = ZSTD_compress(buf_reserve(out, room), room, bytes, len, 3);

    assert_false(ZSTD_isError(n));
    out->used += n;
}

static int run(const void *bytes, size_t len, size_t step, uint64_t limit, struct buf *out)
{
    struct steps steps = {.base = {steps_read, NULL}, .at = bytes, .left = len, .step = step};
    _cleanup_(source_freep) struct source *s = source_inflate(&steps.base, limit);
    struct oci_digest got, want;
    struct error *err = NULL;
    uint64_t n;
    int r = source_read_all(s, out, &err);

    assert_int_equal(err != NULL, r < 0);
    error_free(err);
    if (r == 0) {
        source_inflate_result(s, &got, &n);
        assert_int_equal(n, out->used);
        sha256_of(out->data, out->used, &want);
        assert_true(oci_digest_equal(&got, &want));
    }
    return r;
}

static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
static const char text[] =
    "a tar, so to say; long enough to be worth packing packing packing packing";

/* The forms a layer may have, each of them as the same text (twice where it has two parts). */
enum form {
    PLAIN,
    GZIP,
    GZIP_TWICE,
    ZSTD,
    ZSTD_TWICE,
    ZSTD_SKIP,
    ZSTD_SKIP_ONLY,
    EMPTY,
    ONE_BYTE,
    FORMS
};
static const char *const form_names[FORMS] = {"plain",
                                              "gzip",
                                              "gzip_twice",
                                              "zstd",
                                              "zstd_twice",
                                              "zstd_skippable_first",
                                              "zstd_skippable_only",
                                              "empty",
                                              "one_byte"};

static void build(enum form f, struct buf *in, struct buf *want)
{
    size_t n = sizeof(text);

    buf_init(in, 1 << 20);
    buf_init(want, 1 << 20);
    if (f == PLAIN)
        assert_int_equal(buf_append(in, text, n), 0);
    if (f == GZIP || f == GZIP_TWICE)
        add_gzip(in, text, n);
    if (f == GZIP_TWICE)
        add_gzip(in, text, n);
    if (f == ZSTD_SKIP || f == ZSTD_SKIP_ONLY)
        assert_int_equal(buf_append(in, skippable, sizeof(skippable)), 0);
    if (f == ZSTD || f == ZSTD_TWICE || f == ZSTD_SKIP)
        add_zstd(in, text, n);
    if (f == ZSTD_TWICE)
        add_zstd(in, text, n);
    if (f == ONE_BYTE) {
        assert_int_equal(buf_append(in, text, 1), 0);
        assert_int_equal(buf_append(want, text, 1), 0);
    }
    if (f < ZSTD_SKIP_ONLY)
        assert_int_equal(buf_append(want, text, n), 0);
    if (f == GZIP_TWICE || f == ZSTD_TWICE)
        assert_int_equal(buf_append(want, text, n), 0);
}

static void every_form_comes_out_whole_in_any_steps(void **state)
{
    static const size_t steps[] = {1, 2, 3, 7, 100, 1 << 20};

    for (unsigned f = 0; f < FORMS; f++) {
        print_message("# %s\n", form_names[f]);
        for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
            _cleanup_(buf_done) struct buf in, want, out;

            build((enum form)f, &in, &want);
            buf_init(&out, 1 << 20);
            assert_int_equal(run(in.data, in.used, steps[i], 1 << 20, &out), 0);
            assert_int_equal(out.used, want.used);
            if (want.used)
                assert_memory_equal(out.data, want.data, want.used);
        }
    }
}

static void a_cut_stream_is_refused_at_every_length(void **state)
{
    static const enum form forms[] = {GZIP, ZSTD, ZSTD_SKIP};

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        _cleanup_(buf_done) struct buf in, want;

        build(forms[i], &in, &want);
        for (size_t cut = 4; cut < in.used; cut++) {
            _cleanup_(buf_done) struct buf out;

            if (forms[i] == ZSTD_SKIP && cut == sizeof(skippable))
                continue; /* whole frames end there */
            buf_init(&out, 1 << 20);
            assert_int_equal(run(in.data, cut, 5, 1 << 20, &out), -EBADMSG);
        }
    }
}

static void what_follows_a_stream_is_refused(void **state)
{
    static const enum form forms[] = {GZIP, ZSTD};

    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        _cleanup_(buf_done) struct buf in, want, out;

        build(forms[i], &in, &want);
        buf_init(&out, 1 << 20);
        assert_int_equal(buf_append(&in, "garbage!", 8), 0);
        assert_int_equal(run(in.data, in.used, 1000, 1 << 20, &out), -EBADMSG);
    }
}

static void each_flipped_bit_of_a_gzip_is_noticed_or_harmless(void **state)
{
    _cleanup_(buf_done) struct buf in, want;

    build(GZIP, &in, &want);
    for (size_t i = 10; i < in.used; i++) { /* behind the header, whose time and OS say nothing */
        _cleanup_(buf_done) struct buf out;
        int r;

        buf_init(&out, 1 << 20);
        in.data[i] ^= 0x10;
        r = run(in.data, in.used, 1000, 1 << 20, &out);
        in.data[i] ^= 0x10;
        assert_true(r == -EBADMSG || (r == 0 && memcmp(out.data, text, sizeof(text)) == 0));
    }
}

static int read_through(const void *bytes, size_t len, uint64_t limit, uint64_t *ret_out)
{
    _cleanup_(source_freep) struct source *s = source_inflate(source_from_bytes(bytes, len), limit);
    _cleanup_(freep) char *chunk = malloc(1 << 20);
    ssize_t n;

    *ret_out = 0;
    while ((n = s->read(s, chunk, 1 << 20, NULL)) > 0)
        *ret_out += (uint64_t)n;
    return (int)n;
}

/* Zeros pack a thousand times and more: fine for small layers, refused where it begins to hurt. */
static void bombs_end_at_their_limit(void **state)
{
    const size_t size = 128U << 20;
    _cleanup_(freep) char *zeros = calloc(1, size);
    _cleanup_(buf_done) struct buf gz, zs;
    uint64_t out;

    buf_init(&gz, 64 << 20);
    buf_init(&zs, 256 << 20);
    add_gzip(&gz, zeros, size);
    add_zstd(&zs, zeros, size);
    assert_int_equal(read_through(gz.data, gz.used, LIMIT_LAYER_UNPACKED_BYTES, &out), -E2BIG);
    assert_true(out <= 65U << 20);
    assert_int_equal(read_through(zs.data, zs.used, LIMIT_LAYER_UNPACKED_BYTES, &out), -E2BIG);
    assert_true(out <= 65U << 20);
    buf_clear(&gz);
    add_gzip(&gz, zeros, 60U << 20);
    assert_int_equal(read_through(gz.data, gz.used, LIMIT_LAYER_UNPACKED_BYTES, &out), 0);
    assert_int_equal(read_through(gz.data, gz.used, 60U << 20, &out), 0);
    assert_int_equal(read_through(gz.data, gz.used, (60U << 20) - 1, &out), -E2BIG);
}

/* Frame header: single segment off, window descriptor of 2^31. */
static void a_huge_zstd_window_is_refused(void **state)
{
    static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00};
    static const uint8_t fits[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00};
    uint64_t out;

    assert_int_equal(read_through(frame, sizeof(frame), 1 << 20, &out), -EBADMSG);
    assert_int_equal(read_through(fits, sizeof(fits), 1 << 20, &out), 0);
}

static void verify_passes_only_the_right_bytes(void **state)
{
    static const struct {
        const char *name, *bytes;
        uint64_t size;
        int r;
    } rows[] = {
        {"right", "hello", 5, 0},
        {"short", "hell", 5, -EBADMSG},
        {"long", "hello!", 5, -EBADMSG},
        {"other", "hallo", 5, -EBADMSG},
        {"size_lies_low", "hello", 4, -EBADMSG},
        {"size_lies_high", "hello", UINT64_MAX, -EBADMSG},
        {"nothing", "", 5, -EBADMSG},
    };
    struct oci_digest digest;

    sha256_of("hello", 5, &digest);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct source *in = source_from_bytes(rows[i].bytes, strlen(rows[i].bytes));
        _cleanup_(source_freep) struct source *s =
            source_verify(in, &digest, rows[i].size, "blob", NULL);
        _cleanup_(buf_done) struct buf out;

        print_message("# %s\n", rows[i].name);
        buf_init(&out, 100);
        assert_int_equal(source_read_all(s, &out, NULL), rows[i].r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_comes_out_whole_in_any_steps),
        cmocka_unit_test(a_cut_stream_is_refused_at_every_length),
        cmocka_unit_test(what_follows_a_stream_is_refused),
        cmocka_unit_test(each_flipped_bit_of_a_gzip_is_noticed_or_harmless),
        cmocka_unit_test(bombs_end_at_their_limit),
        cmocka_unit_test(a_huge_zstd_window_is_refused),
        cmocka_unit_test(verify_passes_only_the_right_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
