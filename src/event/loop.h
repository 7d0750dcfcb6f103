/* SPDX-License-Identifier: Apache-2.0 */
/* The small epoll loop of nexus-vmm and nexus-agent (nexusd and its helpers use sd-event): fds,
 * timers, deferred calls. Rules:
 *  1 A loop belongs to one thread; only loop_wake() may be called from another.
 *  2 Ready sources are collected before callbacks run; a callback may add, change and remove any
 *    source, also its own; a removed source's callback does not run any more in that turn.
 *  3 A source is freed when the turn ends; its fd leaves epoll at once and is never closed by the loop.
 *  4 A callback does bounded work; what is left over is continued by a deferred call.
 *  5 A loop does not survive fork. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_source;

#define LOOP_READ 1U
#define LOOP_WRITE 2U
#define LOOP_HANGUP 4U /* reported always, never asked for */

typedef void (*loop_io_fn)(struct loop_source *s, int fd, unsigned events, void *userdata);
typedef void (*loop_fn)(struct loop_source *s, void *userdata);

/* 0 or errno. */
int loop_new(struct loop **ret);
void loop_free(struct loop *l); /* frees all sources */

/* Watches fd (borrowed; remove the source before closing it). */
int loop_add_io(struct loop *l, int fd, unsigned events, loop_io_fn fn, void *userdata,
                struct loop_source **ret);
/* Changes what is watched; 0 events: errors and hang-ups are not reported either. */
int loop_io_set(struct loop_source *s, unsigned events);

/* One-shot timer, initially off. */
int loop_add_timer(struct loop *l, loop_fn fn, void *userdata, struct loop_source **ret);
/* Fires once at or after CLOCK_MONOTONIC deadline_ns (see base/clock.h); UINT64_MAX disarms. */
void loop_timer_set(struct loop_source *s, uint64_t deadline_ns);
void loop_timer_set_after_ms(struct loop_source *s, uint64_t ms);

/* Runs once per loop_defer_arm(), on the next turn. */
int loop_add_defer(struct loop *l, loop_fn fn, void *userdata, struct loop_source **ret);
void loop_defer_arm(struct loop_source *s);

/* NULL is allowed. */
void loop_remove(struct loop_source *s);

/* Runs until loop_exit(); returns its code, or a negative errno. */
int loop_run(struct loop *l);
/* One turn; waits at most timeout_ms (-1: for ever). Number of callbacks run, or errno. For tests. */
int loop_turn(struct loop *l, int timeout_ms);
void loop_exit(struct loop *l, int code);
/* From any thread: the loop's wake function runs soon on its own thread. */
void loop_set_wake(struct loop *l, void (*fn)(void *userdata), void *userdata);
void loop_wake(struct loop *l);
