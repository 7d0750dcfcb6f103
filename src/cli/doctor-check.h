/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of nexus doctor: each looks at one thing a node needs and says what it found and, when it is
 * not good, what to do. They change nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "cli/cli.h"
#include "daemon/config.h"

enum finding_result { FINDING_OK, FINDING_WARNING, FINDING_PROBLEM };

struct finding {
    enum finding_result result;
    char text[512];   /* what was found */
    char advice[512]; /* what to do; "" when it is good */
};

struct doctor {
    struct cli *cli;
    bool address_given;          /* else the configuration's is used */
    const char *config_path;     /* NULL: the default, which may be missing */
    const struct config *config; /* the defaults where the file is bad */
    int config_error;            /* 0, or why the file could not be read … */
    const char *config_text;     /* … and the words */
};

struct doctor_check {
    const char *name;
    void (*run)(const struct doctor *d, struct finding *f);
};
/* In the order they are told; NULL name ends. */
extern const struct doctor_check doctor_checks[];

typedef void (*doctor_tell_fn)(void *userdata, const struct finding *f);
/* Reads every file of every image; a finding for each that is damaged, or one that none is. */
void doctor_check_images(const struct doctor *d, doctor_tell_fn tell, void *userdata);
/* Boots a microVM with the configured monitor, kernel and initramfs, up to its agent's hello. */
void doctor_check_boot(const struct doctor *d, struct finding *f);
