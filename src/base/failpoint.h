/* SPDX-License-Identifier: Apache-2.0 */
/* Named failpoints: `r = FP("pod.run.after_cni")` is 0 unless armed by NEXUS_FAILPOINTS, e.g.
 *   NEXUS_FAILPOINTS='pod.run.after_cni=kill;file.write.data=2*error(ENOSPC)'
 * Actions: off, error(ERRNO-NAME-OR-NUMBER) → that negative errno, kill → SIGKILL to itself,
 * abort, delay(MS). A leading N* arms it for the Nth pass only (1-based); N+ from the Nth pass on.
 * Only in builds with -Dfailpoints=true; otherwise FP() is the constant 0. Names are literals:
 * tests list them with `grep -rhoE 'FP\("[a-z0-9_.]+"\)' src`. */
#pragma once

#ifdef NEXUS_FAILPOINTS
int failpoint_hit(const char *name);
#define FP(name) failpoint_hit(name)
#else
#define FP(name) 0
#endif
