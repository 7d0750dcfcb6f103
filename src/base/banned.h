/* SPDX-License-Identifier: Apache-2.0 */
/* Force-included into every file of the project: calls that are wrong in any code of ours become
 * compile errors. Each has a replacement in base/. */
#pragma once

/* the declarations must be seen before the names are poisoned */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat stpcpy strtok /* base/str.h, base/buf.h */
#undef sprintf /* a macro under clang with _FORTIFY_SOURCE, and poisoning a macro is an error there */
#pragma GCC poison sprintf vsprintf gets          /* snprintf, str_printf */
#pragma GCC poison atoi atol atoll                /* base/numparse.h */
#pragma GCC poison system popen                   /* argv vectors only */
#pragma GCC poison gmtime localtime ctime asctime /* the _r forms */
#pragma GCC poison tmpnam mktemp                  /* base/file.h */
