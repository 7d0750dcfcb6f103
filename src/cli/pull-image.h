/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling an image with progress on stderr: nexusd's own method where it is offered, CRI's otherwise. */
#pragma once

#include "cli/cli.h"

struct pull_auth {
    const char *username, *password; /* NULL: anonymous */
};

/* Pulls whatever is present. quiet: no progress. *ret_ref: the image's id, the caller's. */
int pull_image(struct cli *cli, const char *image, const struct pull_auth *auth, bool quiet,
               char **ret_ref, struct error **err);
/* True if the image is there: *ret_id is the caller's. 0: it is not. */
int image_present(struct cli *cli, const char *image, char **ret_id, struct error **err);

/* What is shown, apart from where. */
struct progress {
    const char *image; /* borrowed */
    bool terminal;     /* one line that changes; else a line now and then */
    unsigned told;     /* plain lines: tenths told so far */
    int phase;         /* plain lines: last phase told; -1: none */
    bool dirty;        /* a terminal line is unfinished */
};
/* The text to print now (with its \r or \n), or "" for nothing. phase: of nexus.v1.PullProgress,
 * or 4: verifying. out has
 * 256 bytes. columns: width of the terminal. */
void progress_format(struct progress *p, int phase, uint64_t done, uint64_t total, unsigned columns,
                     char out[256]);
