/* SPDX-License-Identifier: Apache-2.0 */
/* The hot slots and their read-only regions. Order of a hot-add: region mapped, memory slot, device in
 * its window, presence bit, pulse on the event device (first use of a slot).
 *
 * KVM forgets every page that it has mapped for the guest when a memory slot is removed
 * (kvm_arch_flush_shadow_memslot), and a volume that is updated removes one each time. So the slot of a
 * region that goes is kept with nothing but zeros behind it, and the next region of its size is mapped
 * there: that costs the guest the pages of that region alone.
 *
 * A device that comes and goes costs the guest far more than a mount (ACPI, virtio, libnvdimm, the kernel's page
 * descriptors for its memory), and a volume that is updated needs one each time. So a few small regions are
 * parked when they go: slot, device and the guest's driver stay, and the next small one is mapped there. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/checked.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/str.h"
#include "event/loop.h"
#include "kvm/gmem.h"
#include "kvm/vm.h"
#include "mapper/fault.h"
#include "mapper/region.h"
#include "virtio/device.h"
#include "virtio/pmem.h"
#include "vmm/machine-internal.h"

#define NAME_BYTES 520 /* a key, what it is, punctuation */
/* Of a memory slot that is kept for the next region: a volume has a few MiB, an image does not come again. */
#define VACANT_BYTES_MAX (16ULL << 20)

static void set_present(struct machine *m, unsigned slot, bool present)
{
    _Atomic uint32_t *word = &m->state_words[slot / 32];
    uint32_t bit = 1U << slot % 32;

    if (present)
        (void)atomic_fetch_or(word, bit);
    else
        (void)atomic_fetch_and(word, ~bit);
}

static void pulse_event_device(struct machine *m)
{
    const uint64_t one = 1;

    if (write(m->gsi_fd[LAYOUT_GSI_GED], &one, sizeof(one)) < 0)
        return; /* EAGAIN: as many pulses are on their way as fit */
}

static unsigned slot_index(const struct machine *m, const struct hot_slot *s)
{
    return (unsigned)(s - m->hot);
}

static struct hot_slot *slot_take(struct machine *m)
{
    struct hot_slot *fresh = NULL;

    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++) {
        struct hot_slot *s = &m->hot[i];

        if (s->region)
            continue;
        if (virtio_mmio_was_driven(s->window))
            return s;
        if (!fresh)
            fresh = s;
    }
    return fresh;
}

/* The guest learns of a slot that it has not met yet from its firmware code, which walks through all of them;
 * a slot that it has met keeps its platform device, and the agent is told which one to bind. */
static void slot_announce(struct machine *m, const struct hot_slot *s)
{
    set_present(m, slot_index(m, s), true);
    if (!virtio_mmio_was_driven(s->window))
        pulse_event_device(m);
}

static void slot_set(struct machine *m, struct hot_slot *s, struct ro_region *region,
                     const char *key, const char *what, uint64_t gpa, uint64_t bytes)
{
    (void)pthread_mutex_lock(&m->regions_lock);
    s->region = region;
    free(s->key);
    s->key = str_dup_or_null(key);
    free(s->what);
    s->what = str_dup_or_null(what);
    s->gpa = gpa;
    s->bytes = bytes;
    s->denied = 0;
    s->lossy = false;
    (void)pthread_mutex_unlock(&m->regions_lock);
}

/* ---- memory slots */

/* The region is freed unless KVM may still use it. */
static int memory_remove(struct machine *m, uint64_t gpa, struct ro_region *region)
{
    int r = vm_remove_readonly(m->vm, gpa);

    if (r < 0)
        return log_error_errno(r, "removing the memory slot at 0x%" PRIx64, gpa);
    ro_region_free(region);
    return 0;
}

static void vacant_drop(struct machine *m, struct vacant_slot *v)
{
    (void)memory_remove(m, v->gpa, TAKE(v->region));
}

/* NULL: there is none of that size (0: none that is empty). */
static struct vacant_slot *vacant_find(struct machine *m, uint64_t bytes)
{
    for (unsigned i = 0; i < VACANT_MAX; i++)
        if (bytes ? m->vacant[i].region && m->vacant[i].bytes == bytes : !m->vacant[i].region)
            return &m->vacant[i];
    return NULL;
}

/* Keeps the memory slot, with nothing behind it. False: it is to go. */
static bool vacant_keep(struct machine *m, struct ro_region *region, uint64_t gpa, uint64_t bytes)
{
    struct vacant_slot *v = vacant_find(m, 0);

    if (bytes > VACANT_BYTES_MAX || ro_region_vacate(region) < 0)
        return false;
    if (!v) { /* the oldest size has had its time */
        v = &m->vacant[m->next_vacant++ % VACANT_MAX];
        vacant_drop(m, v);
    }
    *v = (struct vacant_slot){region, gpa, bytes};
    return true;
}

static int memory_add(struct machine *m, const struct ro_region_slot *view, uint64_t *ret_gpa)
{
    int r = gmem_find_readonly(m->mem, view->bytes, vm_get_gpa_limit(m->vm), ret_gpa);

    return r < 0 ? r : vm_add_readonly(m->vm, *ret_gpa, view->hva, view->bytes);
}

/* At the cost of those that are kept, if it has to be. */
static int memory_add_or_make_room(struct machine *m, const struct ro_region_slot *view,
                                   uint64_t *ret_gpa)
{
    int r = memory_add(m, view, ret_gpa);

    if (r != -ENOSPC)
        return r;
    for (unsigned i = 0; i < VACANT_MAX; i++)
        if (m->vacant[i].region)
            vacant_drop(m, &m->vacant[i]);
    return memory_add(m, view, ret_gpa);
}

/* ---- files that come in several calls */

static struct hot_partial *partial_find(struct machine *m, const char *key)
{
    struct hot_partial *p;

    list_foreach (p, &m->partials, link)
        if (strcmp(p->key, key) == 0)
            return p;
    return NULL;
}

/* The region, which is the caller's then. */
static struct ro_region *partial_take(struct hot_partial *p)
{
    struct ro_region *region = p->region;

    list_remove(&p->link);
    free(p->key);
    free(p);
    return region;
}

void machine_forget_region(struct machine *m, const char *key)
{
    struct hot_partial *p = partial_find(m, key);

    if (p)
        ro_region_free(partial_take(p));
}

/* *ret: what came before under this key, else a new one; the caller's. */
static int region_begun(struct machine *m, const char *key, bool more, struct ro_region **ret,
                        struct error **err)
{
    struct hot_partial *p = partial_find(m, key);

    *ret = p ? partial_take(p) : NULL;
    return *ret || !more ? 0 : ro_region_begin(ret, err);
}

static void keep_for_later(struct machine *m, const char *key, struct ro_region *region)
{
    struct hot_partial *p = xcalloc(1, sizeof(*p));

    p->key = str_dup(key);
    p->region = region;
    list_append(&m->partials, &p->link);
}

/* ---- adding and removing */

static struct ro_region_segment *segments_of(const int *fds, const uint64_t *bytes,
                                             char *const *names, size_t n)
{
    struct ro_region_segment *segments = xcalloc(n + 1, sizeof(*segments));

    for (size_t i = 0; i < n; i++)
        segments[i] = (struct ro_region_segment){fds[i], bytes[i], names ? names[i] : NULL};
    return segments;
}

static int region_build(struct machine *m, const char *key,
                        const struct ro_region_segment *segments, size_t n, bool more,
                        struct ro_region **ret, struct error **err)
{
    _cleanup_(ro_region_freep) struct ro_region *region = NULL;
    struct ro_region_slot view;
    int r = region_begun(m, key, more, &region, err);

    if (r < 0)
        return r;
    if (!region)
        r = ro_region_new(segments, n, &region, err);
    else
        r = ro_region_append(region, segments, n, err);
    if (r < 0)
        return r;
    ro_region_slot(region, &view);
    if (!more && !view.bytes) /* it came in pieces, this was the last one */
        r = ro_region_finish(region, err);
    if (r < 0)
        return r;
    *ret = TAKE(region);
    return 0;
}

static bool bytes_of(const struct ro_region_segment *segments, size_t n, uint64_t *ret)
{
    uint64_t total = 0;

    for (size_t i = 0; i < n; i++)
        if (!checked_add(total, segments[i].bytes, &total))
            return false;
    return align_up(total, RO_REGION_ALIGN, ret) && *ret;
}

static struct hot_slot *parked_find(struct machine *m, uint64_t bytes)
{
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        if (m->hot[i].parked && m->hot[i].bytes == bytes)
            return &m->hot[i];
    return NULL;
}

/* Behind a device that the guest has already. -EXDEV: there is none of its size. */
static int add_to_parked(struct machine *m, const char *key, const char *what,
                         const struct ro_region_segment *segments, size_t n, struct hot_slot **ret,
                         struct error **err)
{
    uint64_t bytes = 0;
    struct hot_slot *s = bytes_of(segments, n, &bytes) ? parked_find(m, bytes) : NULL;
    int r = s ? ro_region_refill(s->region, segments, n, err) : -EXDEV;

    if (r < 0)
        return r;
    s->parked = s->may_park = false;
    slot_set(m, s, s->region, key, what, s->gpa, bytes);
    *ret = s;
    return 0;
}

/* Into a memory slot that was kept. -EXDEV: there is none of its size. */
static int add_to_vacant(struct machine *m, const struct ro_region_segment *segments, size_t n,
                         struct ro_region **ret, uint64_t *ret_gpa, struct error **err)
{
    uint64_t bytes = 0;
    struct vacant_slot *v = bytes_of(segments, n, &bytes) ? vacant_find(m, bytes) : NULL;
    int r;

    if (!v)
        return -EXDEV;
    r = ro_region_refill(v->region, segments, n, err);
    if (r < 0)
        return r;
    *ret = TAKE(v->region);
    *ret_gpa = v->gpa;
    return 0;
}

static int add_to_new(struct machine *m, const char *key, const struct ro_region_segment *segments,
                      size_t n, struct ro_region **ret, uint64_t *ret_gpa, struct error **err)
{
    _cleanup_(ro_region_freep) struct ro_region *region = NULL;
    struct ro_region_slot view;
    int r = region_build(m, key, segments, n, false, &region, err);

    if (r < 0)
        return r;
    ro_region_slot(region, &view);
    r = memory_add_or_make_room(m, &view, ret_gpa);
    if (r < 0)
        return error_set(err, r, "hot-adding it");
    *ret = TAKE(region);
    return 0;
}

static int device_add(struct machine *m, struct hot_slot *s, uint64_t gpa, uint64_t bytes)
{
    struct virtio_device *dev = NULL;
    int r = virtio_pmem_new(gpa, bytes, &dev);

    if (r >= 0)
        r = machine_window_attach(m, s->window, LAYOUT_MMIO_HOT + slot_index(m, s), dev);
    return r;
}

static int add_pieces(struct machine *m, const char *key, const struct ro_region_segment *segments,
                      size_t n, struct error **err)
{
    struct ro_region *region = NULL;
    int r = region_build(m, key, segments, n, true, &region, err);

    if (r >= 0)
        keep_for_later(m, key, region);
    return r;
}

/* The memory, then the device that leads there. */
static int slot_fill(struct machine *m, struct hot_slot *s, const char *key, const char *what,
                     const struct ro_region_segment *segments, size_t n, struct error **err)
{
    struct ro_region *region = NULL;
    struct ro_region_slot view;
    uint64_t gpa = 0;
    int r = -EXDEV;

    if (!partial_find(m, key))
        r = add_to_vacant(m, segments, n, &region, &gpa, err);
    if (r == -EXDEV)
        r = add_to_new(m, key, segments, n, &region, &gpa, err);
    if (r < 0)
        return r;
    ro_region_slot(region, &view);
    r = device_add(m, s, gpa, view.bytes);
    if (r < 0) {
        (void)memory_remove(m, gpa, region);
        return error_set(err, r, "hot-adding it");
    }
    slot_set(m, s, region, key, what, gpa, view.bytes);
    return 0;
}

/* In a slot without a region. */
static int add_to_free(struct machine *m, const char *key, const char *what,
                       const struct ro_region_segment *segments, size_t n, struct hot_slot **ret,
                       struct error **err)
{
    struct hot_slot *s = slot_take(m);
    int r;

    if (!s) {
        machine_forget_region(m, key);
        return error_set(err, -ENOSPC, "all %d slots of this VM are in use", LIMIT_REGIONS);
    }
    r = slot_fill(m, s, key, what, segments, n, err);
    if (r < 0)
        return r;
    s->may_park = false;
    slot_announce(m, s);
    *ret = s;
    return 0;
}

int machine_add_region(struct machine *m, const char *key, const char *what, const int *fds,
                       const uint64_t *segment_bytes, char *const *names, size_t n, bool more,
                       uint64_t *ret_gpa, uint64_t *ret_bytes, struct error **err)
{
    _cleanup_(freep) struct ro_region_segment *segments = NULL;
    struct hot_slot *s = NULL;
    int r = -EXDEV;

    if (n > RO_REGION_SEGMENTS_MAX)
        return error_set(err, -E2BIG, "%zu segments", n);
    segments = segments_of(fds, segment_bytes, names, n);
    if (more)
        return add_pieces(m, key, segments, n, err);
    if (!partial_find(m, key))
        r = add_to_parked(m, key, what, segments, n, &s, err);
    if (r == -EXDEV)
        r = add_to_free(m, key, what, segments, n, &s, err);
    if (r < 0)
        return r;
    *ret_gpa = s->gpa;
    *ret_bytes = s->bytes;
    return 0;
}

static struct hot_slot *slot_at(struct machine *m, uint64_t gpa)
{
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        if (m->hot[i].region && gpa - m->hot[i].gpa < m->hot[i].bytes)
            return &m->hot[i];
    return NULL;
}

int machine_remove_region(struct machine *m, uint64_t gpa)
{
    struct hot_slot *s = slot_at(m, gpa);
    struct ro_region *region;
    uint64_t bytes;

    if (!s || s->gpa != gpa)
        return -ENOENT;
    region = s->region;
    bytes = s->bytes;
    set_present(m, slot_index(m, s), false);
    machine_window_unwire(m, s->window, LAYOUT_MMIO_HOT + slot_index(m, s));
    virtio_mmio_detach(s->window);
    slot_set(m, s, NULL, NULL, NULL, 0, 0);
    s->may_park = false;
    return vacant_keep(m, region, gpa, bytes) ? 0 : memory_remove(m, gpa, region);
}

bool machine_may_park(struct machine *m, uint64_t gpa)
{
    struct hot_slot *s = slot_at(m, gpa);
    unsigned others = 0;

    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        others += &m->hot[i] != s && (m->hot[i].may_park || m->hot[i].parked);
    if (!s || s->bytes != RO_REGION_ALIGN || others >= LIMIT_PARKED)
        return false;
    s->may_park = true;
    return true;
}

int machine_park_region(struct machine *m, uint64_t gpa)
{
    struct hot_slot *s = slot_at(m, gpa);
    int r = s && s->gpa == gpa ? ro_region_vacate(s->region) : -ENOENT;

    if (r < 0)
        return r;
    slot_set(m, s, s->region, NULL, NULL, s->gpa, s->bytes);
    s->parked = true;
    return 0;
}

void machine_regions_free(struct machine *m)
{
    if (m->fault_source) {
        fault_notify(-1);
        loop_remove(m->fault_source);
        m->fault_fd = close_fd(m->fault_fd);
    }
    for (unsigned i = 0; i < VACANT_MAX; i++)
        ro_region_free(m->vacant[i].region);
    while (m->partials.next && !list_is_empty(&m->partials))
        ro_region_free(partial_take(list_first(&m->partials, struct hot_partial, link)));
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++) {
        ro_region_free(m->hot[i].region);
        free(m->hot[i].key);
        free(m->hot[i].what);
    }
}

/* ---- what happens to them */

/* "key (what)" as far as it fits. */
static void slot_name(const struct hot_slot *s, char *out, size_t size)
{
    bool what = s->what && s->what[0];

    if (!s->key)
        (void)snprintf(out, size, "none: parked");
    else
        (void)snprintf(out, size, what ? "%s (%s)" : "%s", s->key, s->what);
}

/* A flood costs its guest an exit each and the host ten lines in five seconds; but whichever region is
 * written to for the first time is told, however loud another one is. */
void machine_denied(void *machine, uint64_t gpa)
{
    struct machine *m = machine;
    char name[NAME_BYTES] = "?";
    uint64_t offset = 0, count = 0;
    struct hot_slot *s;

    (void)pthread_mutex_lock(&m->regions_lock);
    s = slot_at(m, gpa);
    if (s) {
        count = ++s->denied;
        offset = gpa - s->gpa;
        slot_name(s, name, sizeof(name));
    }
    (void)pthread_mutex_unlock(&m->regions_lock);
    if (count == 1)
        log_warning("region %s: the guest wrote at offset %" PRIu64 "; dropped", name, offset);
    else
        log_limited(LOG_WARNING,
                    "region %s: the guest wrote at offset %" PRIu64 "; dropped, %" PRIu64 " so far",
                    name, offset, count);
}

static void loss_text(const struct hot_slot *s, const struct ro_region_loss *loss, char *out,
                      size_t size)
{
    char name[NAME_BYTES], file[4 * RO_REGION_NAME_MAX + 1], more[64] = "";

    slot_name(s, name, sizeof(name));
    log_escape(file, sizeof(file), loss->file, false);
    if (loss->files > 1)
        (void)snprintf(more, sizeof(more), ", pages of %" PRIu64 " more files among them",
                       loss->files - 1);
    (void)snprintf(
        out, size,
        "region %s: file %s was cut short on the host or cannot be read (I/O error): from "
        "offset %" PRIu64 " on %" PRIu64 " pages are zeros now%s",
        name, file[0] ? file : "?", loss->file_offset, loss->pages, more);
}

/* The first loss of each region is told in any case: what a guest can cause elsewhere must not hide it. */
static void tell_loss(struct hot_slot *s, const struct ro_region_loss *loss)
{
    char text[2048];

    loss_text(s, loss, text, sizeof(text));
    if (s->lossy)
        log_limited(LOG_WARNING, "%s", text);
    else
        log_warning("%s", text);
    s->lossy = true;
}

/* True: another look may help. */
static bool repair_slot(struct hot_slot *s)
{
    struct ro_region_loss loss;
    int64_t pages = ro_region_repair(s->region, &loss);
    char name[NAME_BYTES];

    if (pages > 0) {
        tell_loss(s, &loss);
    } else if (pages < 0 && pages != -EAGAIN) {
        slot_name(s, name, sizeof(name));
        log_limited(LOG_WARNING, "region %s: looking for lost pages: %s", name,
                    strerror((int)-pages));
    }
    return pages > 0 || pages == -EAGAIN;
}

bool machine_repair(void *machine)
{
    struct machine *m = machine;
    bool mended = false;

    if (FP("vmm.repair") < 0) /* as if it were another vCPU's to mend, or were readable again */
        return false;
    (void)pthread_mutex_lock(&m->regions_lock);
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        if (m->hot[i].region && repair_slot(&m->hot[i]))
            mended = true;
    (void)pthread_mutex_unlock(&m->regions_lock);
    return mended;
}

uint32_t machine_region_device(struct machine *m, uint64_t gpa)
{
    struct hot_slot *s = slot_at(m, gpa);

    return s ? LAYOUT_MMIO_HOT + slot_index(m, s) : 0;
}

/* In the loop: the signal handler has mended it already. */
static void on_fault(struct loop_source *source, int fd, unsigned events, void *userdata)
{
    struct machine *m = userdata;
    struct ro_region_loss loss;
    uint64_t count;

    (void)!read(fd, &count, sizeof(count));
    (void)pthread_mutex_lock(&m->regions_lock);
    for (unsigned i = 0; i < LAYOUT_HOT_SLOTS; i++)
        if (m->hot[i].region && ro_region_take_faults(m->hot[i].region, &loss))
            tell_loss(&m->hot[i], &loss);
    (void)pthread_mutex_unlock(&m->regions_lock);
}

int machine_regions_init(struct machine *m)
{
    int r = fault_init();

    if (r < 0)
        return r;
    m->fault_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->fault_fd < 0)
        return -errno;
    fault_notify(m->fault_fd);
    return loop_add_io(m->loop, m->fault_fd, LOOP_READ, on_fault, m, &m->fault_source);
}

bool machine_region_is_driven(struct machine *m, uint64_t gpa)
{
    struct hot_slot *s = slot_at(m, gpa);

    return s && virtio_mmio_is_driven(s->window);
}

void machine_count_region(struct machine *m, uint64_t gpa, uint64_t *ret_denied,
                          uint64_t *ret_repaired)
{
    struct hot_slot *s;

    *ret_denied = *ret_repaired = 0;
    (void)pthread_mutex_lock(&m->regions_lock);
    s = slot_at(m, gpa);
    if (s) {
        *ret_denied = s->denied;
        *ret_repaired = ro_region_repaired(s->region);
    }
    (void)pthread_mutex_unlock(&m->regions_lock);
}
