/* SPDX-License-Identifier: Apache-2.0 */
/* serial: a driver finds the UART by its loop-back, bytes reach the sink once, and the interrupt
 * comes once per reason. */
#include <sys/eventfd.h>

#include "kvm/bus.h"
#include "kvm/serial.h"
#include "lib/test.h"

static char seen[16];
static size_t seen_n;

static void sink(uint8_t byte, void *ud)
{
    if (seen_n < sizeof(seen))
        seen[seen_n++] = (char)byte;
}

static void put(struct serial *s, uint64_t reg, uint8_t v)
{
    serial_bus_ops.write(s, reg, &v, 1);
}

static uint8_t get(struct serial *s, uint64_t reg)
{
    uint8_t v = 0xFF;

    serial_bus_ops.read(s, reg, &v, 1);
    return v;
}

static uint64_t pulses(int fd)
{
    uint64_t n = 0;

    return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void bytes_reach_the_sink_and_nowhere_else(void **state)
{
    _cleanup_(serial_freep) struct serial *s = NULL;

    seen_n = 0;
    assert_int_equal(serial_new(-1, sink, NULL, &s), 0);
    put(s, 3, 0x80); /* divisor latch: no data */
    put(s, 0, 1);
    put(s, 1, 0);
    put(s, 3, 0x03);
    assert_int_equal(get(s, 0), 0);
    put(s, 0, 'h');
    put(s, 0, 'i');
    put(s, 4, 0x10); /* loop-back: not to the line */
    put(s, 0, 'x');
    assert_int_equal(seen_n, 2);
    assert_memory_equal(seen, "hi", 2);
    assert_int_equal(get(s, 5), 0x60); /* always idle, never data */
}

static void loop_back_shows_modem_lines(void **state)
{
    _cleanup_(serial_freep) struct serial *s = NULL;

    assert_int_equal(serial_new(-1, sink, NULL, &s), 0);
    put(s, 4, 0x1A); /* what Linux writes and expects 0x90 for */
    assert_int_equal(get(s, 6) & 0xF0, 0x90);
    put(s, 7, 0x5A);
    assert_int_equal(get(s, 7), 0x5A);
    put(s, 2, 0x01);
    assert_int_equal(get(s, 2) & 0xC0, 0xC0); /* a 16550A with FIFO */
}

static void interrupt_once_per_reason(void **state)
{
    _cleanup_(serial_freep) struct serial *s = NULL;
    _cleanup_(closep) int irq = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    assert_int_equal(serial_new(irq, sink, NULL, &s), 0);
    assert_int_equal(get(s, 2), 0x01);
    put(s, 1, 0x02); /* transmitter empty: at once */
    assert_int_equal(pulses(irq), 1);
    put(s, 1, 0x02);
    assert_int_equal(pulses(irq), 0); /* still the same one */
    assert_int_equal(get(s, 2), 0x02);
    assert_int_equal(get(s, 2), 0x01);
    put(s, 0, 'a');
    assert_int_equal(pulses(irq), 1);
    put(s, 1, 0);
    assert_int_equal(get(s, 2), 0x01);
    put(s, 0, 'b');
    assert_int_equal(pulses(irq), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_reach_the_sink_and_nowhere_else),
        cmocka_unit_test(loop_back_shows_modem_lines),
        cmocka_unit_test(interrupt_once_per_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
