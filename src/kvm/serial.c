/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of a UART that is always ready to send. */
#include "kvm/serial.h"

#include <pthread.h>
#include <stdbool.h>

#include "base/str.h"
#include "kvm/bus.h"

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_THRE 0x02U
#define IIR_NONE 0x01U
#define IIR_THRE 0x02U
#define IIR_FIFO 0xC0U
#define FCR_ENABLE 0x01U
#define LCR_DLAB 0x80U
#define LSR_IDLE 0x60U /* holding and shift register empty */
#define MCR_LOOP 0x10U
#define MSR_READY 0xB0U /* DCD, DSR, CTS */

struct serial {
    pthread_mutex_t lock; /* guards everything below */
    serial_sink_fn sink;
    void *userdata;
    int irq_fd; /* borrowed */
    uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
    bool thre_pending; /* the THRE interrupt was raised and not yet read from IIR */
};

int serial_new(int irq_fd, serial_sink_fn sink, void *userdata, struct serial **ret)
{
    struct serial *s = xcalloc(1, sizeof(*s));

    (void)pthread_mutex_init(&s->lock, NULL);
    s->irq_fd = irq_fd;
    s->sink = sink;
    s->userdata = userdata;
    s->dll = 12; /* 9600 */
    *ret = s;
    return 0;
}

void serial_free(struct serial *s)
{
    if (!s)
        return;
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

static void raise_thre(struct serial *s)
{
    const uint64_t one = 1;

    if (!(s->ier & IER_THRE) || s->thre_pending)
        return;
    s->thre_pending = true;
    if (s->irq_fd >= 0 && write(s->irq_fd, &one, sizeof(one)) < 0)
        s->thre_pending = false; /* a full counter is a pulse already on its way */
}

static uint8_t read_iir(struct serial *s)
{
    uint8_t fifo = s->fcr & FCR_ENABLE ? IIR_FIFO : 0;

    if (!s->thre_pending)
        return fifo | IIR_NONE;
    s->thre_pending = false;
    return fifo | IIR_THRE;
}

/* In loop-back the modem outputs are the modem inputs: that is how drivers find a UART. */
static uint8_t read_msr(const struct serial *s)
{
    unsigned m = s->mcr;

    if (!(m & MCR_LOOP))
        return MSR_READY;
    return (uint8_t)((m & 0x0CU) << 4 | (m & 0x02U) << 3 | (m & 0x01U) << 5);
}

static uint8_t reg_read(struct serial *s, uint64_t reg)
{
    bool dlab = s->lcr & LCR_DLAB;

    switch (reg) {
    case REG_DATA:
        return dlab ? s->dll : 0;
    case REG_IER:
        return dlab ? s->dlm : s->ier;
    case REG_IIR_FCR:
        return read_iir(s);
    case REG_LCR:
        return s->lcr;
    case REG_MCR:
        return s->mcr;
    case REG_LSR:
        return LSR_IDLE;
    case REG_MSR:
        return read_msr(s);
    default:
        return s->scr;
    }
}

static void write_data(struct serial *s, uint8_t v)
{
    if (s->lcr & LCR_DLAB) {
        s->dll = v;
        return;
    }
    if (!(s->mcr & MCR_LOOP))
        s->sink(v, s->userdata);
    s->thre_pending = false;
    raise_thre(s); /* sent at once, so empty again */
}

static void reg_write(struct serial *s, uint64_t reg, uint8_t v)
{
    switch (reg) {
    case REG_DATA:
        write_data(s, v);
        break;
    case REG_IER:
        if (s->lcr & LCR_DLAB) {
            s->dlm = v;
            break;
        }
        s->ier = v & 0x0FU;
        if (!(s->ier & IER_THRE))
            s->thre_pending = false;
        raise_thre(s);
        break;
    case REG_IIR_FCR:
        s->fcr = v;
        break;
    case REG_LCR:
        s->lcr = v;
        break;
    case REG_MCR:
        s->mcr = v & 0x1FU;
        break;
    case REG_SCR:
        s->scr = v;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
}

static void on_read(void *userdata, uint64_t offset, void *data, uint32_t len)
{
    struct serial *s = userdata;
    uint8_t *bytes = data;

    (void)pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < len; i++)
        bytes[i] = reg_read(s, offset + i);
    (void)pthread_mutex_unlock(&s->lock);
}

static void on_write(void *userdata, uint64_t offset, const void *data, uint32_t len)
{
    struct serial *s = userdata;
    const uint8_t *bytes = data;

    (void)pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < len; i++)
        reg_write(s, offset + i, bytes[i]);
    (void)pthread_mutex_unlock(&s->lock);
}

const struct bus_ops serial_bus_ops = {.read = on_read, .write = on_write};
