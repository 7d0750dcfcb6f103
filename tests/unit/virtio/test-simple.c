/* SPDX-License-Identifier: Apache-2.0 */
/* The devices without state: rng, pmem, console. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/le.h"
#include "lib/guest.h"
#include "lib/test.h"
#include "virtio/console.h"
#include "virtio/pmem.h"
#include "virtio/rng.h"

static int setup(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));

    guest_init(g);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct guest *g = *state;

    guest_done(g);
    free(g);
    return 0;
}

static uint32_t round_trip(struct guest *g, unsigned q, const struct guest_buf *b, unsigned n)
{
    uint32_t head = 0, len = UINT32_MAX;

    (void)guest_add(g, q, b, n);
    guest_kick(g, q);
    guest_run(g);
    assert_true(guest_used(g, q, &head, &len));
    return len;
}

static void start_rng(struct guest *g)
{
    struct virtio_device *dev;

    assert_int_equal(virtio_rng_new(&dev), 0);
    assert_true(guest_start(g, dev, GUEST_FEATURES_ALL, 64));
}

static void rng_fills_what_is_writable(void **state)
{
    struct guest *g = *state;
    struct guest_buf b[3];
    static const uint8_t zeros[64];

    start_rng(g);
    assert_int_equal(guest_read(g, 0x008), 4);
    for (int i = 0; i < 3; i++)
        b[i] = (struct guest_buf){guest_alloc(g, 64), 64, i > 0};
    assert_int_equal(round_trip(g, 0, b, 3), 128);
    assert_memory_equal(guest_ptr(g, b[0].gpa, 64), zeros, 64);
    assert_memory_not_equal(guest_ptr(g, b[1].gpa, 64), zeros, 64);
    assert_memory_not_equal(guest_ptr(g, b[2].gpa, 64), zeros, 64);
    b[0].write = false;
    assert_int_equal(round_trip(g, 0, b, 1), 0); /* nothing writable: answered with nothing */
}

static void rng_gives_at_most_64_kib_per_request(void **state)
{
    struct guest *g = *state;
    struct guest_buf b;

    start_rng(g);
    b = (struct guest_buf){guest_alloc(g, 1 << 20), 1 << 20, true};
    assert_int_equal(round_trip(g, 0, &b, 1), 64 << 10);
}

static void rng_request_of_gigabytes_stops_the_device(void **state)
{
    struct guest *g = *state;
    struct guest_buf b;

    start_rng(g);
    b = (struct guest_buf){guest_alloc(g, 64), UINT32_MAX, true};
    (void)guest_add(g, 0, &b, 1);
    guest_kick(g, 0);
    guest_run(g);
    assert_true(guest_needs_reset(g));
}

static const struct {
    const char *name;
    uint32_t type, out, in, want_len, want_ret;
} flushes[] = {
    {"flush", 0, 4, 4, 4, 0},
    {"unknown_request_is_answered_with_an_error", 7, 4, 4, 4, 1},
    {"short_request_is_answered_with_an_error", 0, 3, 4, 4, 1},
    {"longer_request", 0, 64, 64, 4, 0},
    {"short_answer", 0, 4, 2, 2, 0},
    {"no_room_for_an_answer", 0, 4, 0, 0, 0xeeeeeeee},
};

static void pmem_answers_every_request(void **state)
{
    struct guest *g = *state;
    struct virtio_device *dev;

    assert_int_equal(virtio_pmem_new(4ULL << 30, 6 << 20, &dev), 0);
    assert_true(guest_start(g, dev, GUEST_FEATURES_ALL, 64));
    assert_int_equal(guest_read(g, 0x008), 27);
    assert_int_equal(guest_config64(g, 0), 4ULL << 30);
    assert_int_equal(guest_config64(g, 8), 6 << 20);
    for (size_t i = 0; i < ARRAY_SIZE(flushes); i++) {
        struct guest_buf b[2] = {{guest_alloc(g, 64), flushes[i].out, false},
                                 {guest_alloc(g, 64), flushes[i].in, true}};
        uint8_t *ret = guest_ptr(g, b[1].gpa, 4);

        print_message("# %s\n", flushes[i].name);
        le32_store(guest_ptr(g, b[0].gpa, 4), flushes[i].type);
        le32_store(ret, 0xeeeeeeee);
        assert_int_equal(round_trip(g, 0, b, 2), flushes[i].want_len);
        if (flushes[i].in == 2)
            assert_int_equal(le16_load(ret), 0);
        else
            assert_int_equal(le32_load(ret), flushes[i].want_ret);
    }
}

static void pmem_regions_are_aligned(void **state)
{
    struct virtio_device *dev;

    assert_int_equal(virtio_pmem_new(1 << 20, 2 << 20, &dev), -EINVAL);
    assert_int_equal(virtio_pmem_new(2 << 20, 4096, &dev), -EINVAL);
    assert_int_equal(virtio_pmem_new(2 << 20, 0, &dev), -EINVAL);
    assert_int_equal(virtio_pmem_new(0 - (2ULL << 20), 4 << 20, &dev), -EINVAL);
}

struct sink {
    uint8_t bytes[1 << 20];
    size_t n, largest;
};

static void on_output(const uint8_t *bytes, size_t n, void *userdata)
{
    struct sink *s = userdata;

    assert_true(n <= sizeof(s->bytes) - s->n);
    memcpy(s->bytes + s->n, bytes, n);
    s->n += n;
    s->largest = n > s->largest ? n : s->largest;
}

static void console_output_reaches_the_sink_in_order(void **state)
{
    struct guest *g = *state;
    struct sink *s = calloc(1, sizeof(*s));
    struct virtio_device *dev;
    uint64_t at;

    assert_int_equal(virtio_console_new(on_output, s, &dev), 0);
    assert_true(guest_start(g, dev, GUEST_FEATURES_ALL, 64));
    assert_int_equal(guest_read(g, 0x008), 3);
    at = guest_alloc(g, 64 << 10);
    for (uint32_t i = 0; i < 64 << 10; i++)
        *(uint8_t *)guest_ptr(g, at + i, 1) = (uint8_t)(i * 7 + i / 256);
    for (unsigned i = 0; i < 8; i++) { /* eight turns' worth at once */
        struct guest_buf b[2] = {{at, 1 << 15, false}, {at + (1 << 15), 1 << 15, false}};
        (void)guest_add(g, 1, b, 2);
    }
    guest_kick(g, 1);
    guest_run(g);
    assert_int_equal(s->n, 8 * (64 << 10));
    assert_true(s->largest <= 64 << 10);
    for (unsigned i = 0; i < 8; i++)
        assert_memory_equal(s->bytes + (size_t)i * (64 << 10), guest_ptr(g, at, 64 << 10),
                            64 << 10);
    guest_kick(g, 0); /* the input queue exists and is never used */
    guest_run(g);
    assert_false(guest_needs_reset(g));
    free(s);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(rng_fills_what_is_writable),
        T(rng_gives_at_most_64_kib_per_request),
        T(rng_request_of_gigabytes_stops_the_device),
        T(pmem_answers_every_request),
        T(pmem_regions_are_aligned),
        T(console_output_reaches_the_sink_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
