/* SPDX-License-Identifier: Apache-2.0 */
/* nexus doctor --images: every file of every image against its digest, read from the disk. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/str.h"
#include "cli/doctor-check.h"
#include "cli/pull-image.h"
#include "cli/table.h"
#include "image/image-verify.h"

#define NAMES_TOLD 4
#define PHASE_VERIFYING 4

struct images_check {
    doctor_tell_fn tell;
    void *userdata;
    struct progress progress;
};

static void clear_line(struct progress *p)
{
    if (p->dirty)
        (void)fputs("\r\033[K", stderr);
    p->dirty = false;
}

static void on_progress(uint64_t done, uint64_t total, void *userdata)
{
    struct images_check *c = userdata;
    struct winsize size = {.ws_col = 80};
    char out[256];

    if (!c->progress.terminal)
        return; /* a log has use for what was found only */
    (void)ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
    progress_format(&c->progress, PHASE_VERIFYING, done, total, size.ws_col, out);
    (void)fputs(out, stderr);
    (void)fflush(stderr);
}

/* "PREFIX a PREFIX b", the first few. The caller's. */
static char *each_name(char *const *images, const char *prefix, const char *between)
{
    char *text = str_dup("");

    for (size_t i = 0; images[i] && i <= NAMES_TOLD; i++) {
        char *longer = i == NAMES_TOLD
                           ? str_printf("%s%s…", text, between)
                           : str_printf("%s%s%s%s", text, i ? between : "", prefix, images[i]);

        free(text);
        text = longer;
    }
    return text;
}

static void on_damaged(const struct image_damage *damage, void *userdata)
{
    struct images_check *c = userdata;
    struct finding f = {.result = FINDING_PROBLEM};
    _cleanup_(freep) char *who = each_name(damage->images, "", ", ");
    _cleanup_(freep) char *remove = each_name(damage->images, "", " ");
    _cleanup_(freep) char *pull = each_name(damage->images, "nexus pull ", "; ");

    clear_line(&c->progress);
    (void)snprintf(f.text, sizeof(f.text), "%s (%.200s): %s", damage->file, who, damage->reason);
    (void)snprintf(f.advice, sizeof(f.advice),
                   "nexus rmi %.150s; %.200s; then make the pods anew that use it, they keep the "
                   "damaged file",
                   remove, pull);
    c->tell(c->userdata, &f);
}

void doctor_check_images(const struct doctor *d, doctor_tell_fn tell, void *userdata)
{
    static const struct image_verify_ops ops = {on_progress, on_damaged};
    struct images_check c = {
        .tell = tell,
        .userdata = userdata,
        .progress = {.image = "images", .terminal = isatty(STDERR_FILENO), .phase = -1}};
    _cleanup_(error_freep) struct error *err = NULL;
    struct image_verified done = {0};
    struct finding f = {.result = FINDING_OK};
    char bytes[HUMAN_SIZE];
    int r = image_verify(d->config->images_dir, &ops, &c, &done, &err);

    clear_line(&c.progress);
    if (r == -ENOENT) {
        (void)snprintf(f.text, sizeof(f.text), "%s is not there: no image was pulled yet",
                       d->config->images_dir);
    } else if (r < 0) {
        f.result = FINDING_PROBLEM;
        (void)snprintf(f.text, sizeof(f.text), "%s", error_text(err, r));
        (void)snprintf(f.advice, sizeof(f.advice), "%s",
                       r == -EACCES ? "run nexus doctor as root"
                                    : "see that the file system works");
    } else if (done.damaged == 0) {
        (void)snprintf(f.text, sizeof(f.text), "%zu image%s, %zu layer%s, %s: as they were written",
                       done.images, done.images == 1 ? "" : "s", done.layers,
                       done.layers == 1 ? "" : "s", human_bytes(done.bytes, bytes));
    } else {
        return; /* each was told */
    }
    tell(userdata, &f);
}
