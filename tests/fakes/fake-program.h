/* SPDX-License-Identifier: Apache-2.0 */
/* A process of a fake guest: a few commands interpreted in this process, so that fifty pods cost nothing.
 *   echo WORDS…   err WORDS… (to stderr)   bye WORDS… (to the termination log)   args WORDS… (one a line)   true  false  exit N
 *   sleep SECONDS|infinity  pause  httpd  nginx   cat (stdin → stdout)
 *   yes [N]  lines N (numbered)  bytes N (no newline)   crash SIGNAL   oom   ignore-term   hostname
 *   sh -c 'COMMAND; COMMAND && COMMAND >&2; …' with '…' and "…", no variables
 * A path before the name and a leading "busybox" are ignored. "noexec" is 126, an unknown name 127.
 * SIGTERM and the like end it, SIGKILL always. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct fake_program;

struct fake_program_ops {
    /* Bytes taken of output; fewer: fake_program_run when there is room. type: TLV_STDOUT, TLV_STDERR. */
    size_t (*output)(void *ud, uint8_t type, const uint8_t *p, size_t n);
    /* fake_program_stdin has room again after a short one. */
    void (*stdin_room)(void *ud);
    /* It ended, with all output given out. May free it. */
    void (*on_exit)(void *ud, int code, unsigned signal, bool oom);
};

/* 0, or the exit code of a failed start: 126, 127. argv is copied. Runs from fake_program_run on. */
int fake_program_new(struct loop *loop, char **argv, size_t n, const char *hostname,
                     bool open_stdin, bool unknown_runs, const struct fake_program_ops *ops,
                     void *ud, struct fake_program **ret);
void fake_program_free(struct fake_program *p);
/* Goes on as far as there is room. */
void fake_program_run(struct fake_program *p);
/* Bytes taken for stdin (64 KiB wait at most); n 0: end of stdin. */
size_t fake_program_stdin(struct fake_program *p, const uint8_t *bytes, size_t n);
void fake_program_signal(struct fake_program *p, unsigned sig);
