/* SPDX-License-Identifier: Apache-2.0 */
/* Does a mounted file system really map its files directly? */
#pragma once

/* Asks the first regular file with content found below path, within bounds. 1: yes; 0: no; -ENOENT:
 * no such file was seen; errno. Source: statx(2), STATX_ATTR_DAX. */
int dax_probe(const char *path);
