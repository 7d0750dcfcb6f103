/* SPDX-License-Identifier: Apache-2.0 */
/* What a fake guest is told to do wrong. A script is words separated by white space, commas or
 * semicolons: ACTION[@POINT[#N]][=ARG]; N: at the Nth pass of the point only (else at each).
 *
 * Actions at a point:
 *   delay@P=MS   the answer comes MS later        mute@P       this answer never comes
 *   hang@P       from now on nothing is answered  fail@P=ERRNO the answer is that error
 *   die@P        the agent's connections close    panic@P[=oom], poweroff@P, reset@P  the VM ends so
 *   kill@P       the fake's own process gets SIGKILL
 *   lie@P=KIND   wrong-id, twice, foreign-oom, hello-again, host-message, garbage, huge-frame, slow-header
 *                (control connection); bad-exit, early-output, late-output, exit-twice, message, stdin,
 *                no-exit, hang-up (streams)
 *   flood@P=N    N log events at once
 * Points: hello configure create start started exec exec-started forward forward-started exit signal remove release
 *   update shutdown ping stats limits; region: nexus-vmm is given files, once per message; it knows fail alone
 * Settings: no-hello, hello-version=N, unknown-runs (unknown commands run for ever instead of 127),
 *   stats=KIND (numbers that are wrong: overflow, garbage, backwards, noise), many-groups=N (what a container is said to run as, else 1000:100 and two groups),
 *   times=PERCENT (of the supervisor's time-outs; read by fake-vmm) */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define FAKE_RULES_MAX 32

struct fake_rule {
    char action[16], point[16], kind[24];
    uint64_t arg;
    unsigned nth, passed; /* nth 0: each time */
};

struct fake_script {
    struct fake_rule rules[FAKE_RULES_MAX];
    unsigned n;
};

/* 0; -EINVAL: the text is wrong (said on stderr). text NULL: nothing. */
int fake_script_parse(struct fake_script *s, const char *text);
/* The setting of that name, or NULL. */
const struct fake_rule *fake_script_setting(const struct fake_script *s, const char *action);
/* Counts a pass of the point for every rule and marks those that are due. */
void fake_script_pass(struct fake_script *s, const char *point);
/* A rule of that action that is due at the pass last counted of the point, or NULL. */
const struct fake_rule *fake_script_due(const struct fake_script *s, const char *action,
                                        const char *point);
