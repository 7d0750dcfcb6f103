/* SPDX-License-Identifier: Apache-2.0 */
/* Checks on text and numbers of CRI requests. Every string has passed the gRPC layer: valid UTF-8, no
 * NUL. what: the field's name for the message, which never repeats more than a few bytes of the value.
 * 0, or -EINVAL (ERROR_INVALID) with *err set. Pure; any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A name: 1 to max bytes, no '/', no control characters, not "." or "..". */
int check_name(const char *what, const char *s, size_t max, struct error **err);
/* Text of up to max bytes without control characters; may be empty. */
int check_text(const char *what, const char *s, size_t max, struct error **err);
/* One word: 1 to max bytes, no blanks, no control characters. */
int check_word(const char *what, const char *s, size_t max, struct error **err);
/* Absolute, no ".." part, no control characters, less than PATH_MAX. */
int check_absolute_path(const char *what, const char *s, struct error **err);
/* The same relative, not empty. */
int check_relative_path(const char *what, const char *s, struct error **err);
int check_ip(const char *what, const char *s, struct error **err);
/* Letters, digits, '-' and '.', at most LIMIT_HOSTNAME_MAX; may be empty. */
int check_hostname(const char *what, const char *s, struct error **err);
int check_range(const char *what, int64_t v, int64_t min, int64_t max, struct error **err);
/* "0-3,5"; may be empty. */
int check_cpu_list(const char *what, const char *s, struct error **err);
/* "net.ipv4.ip_forward", '/' allowed for '.'. */
int check_sysctl_name(const char *s, struct error **err);
/* It belongs to a namespace of the pod (net, ipc, uts), as kubelet means it; with dots. */
int check_sysctl_namespaced(const char *s, struct error **err);
