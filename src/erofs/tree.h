/* SPDX-License-Identifier: Apache-2.0 */
/* The merged tree of an image's layers, in memory. Members of each layer are applied in their order,
 * base layer first; names are resolved inside the tree and nowhere else.
 *
 * Rules (those of containerd's archive.Apply, so that the same image is the same tree):
 *  - "/", "." and ".." are cleaned as text; ".." at the root is the root. A member that is the root
 *    itself is ignored: the root is 0755 root:root.
 *  - A parent that is a symlink is followed inside the tree, at most 40 times; missing parents are made
 *    (0755 root:root). A parent that is something else is -ENOTDIR.
 *  - A directory over a directory takes the new attributes and keeps its children; anything else
 *    replaces what was there, with all below it.
 *  - A hard link's target must be there and be no directory; the link takes the inode as it is.
 *  - .wh.NAME hides NAME of the layers below, .wh..wh..opq all children of its directory of the layers
 *    below; what this layer itself brings stays, whatever the order (OCI layer.md, "Whiteouts"). Other
 *    .wh..wh.* names are AUFS's own and are dropped.
 *
 * Low tier: errno only. One thread per tree. */
#pragma once

#include "base/cleanup.h"
#include "erofs/entry.h"

#define EROFS_TREE_SEGMENTS 256 /* layers */

struct erofs_tree;

/* max_bytes: most memory the tree may use; max_inodes: most inodes alive. 0 or -ENOMEM. */
int erofs_tree_new(size_t max_bytes, uint32_t max_inodes, struct erofs_tree **ret);
void erofs_tree_free(struct erofs_tree *t);
DEFINE_CLEANUP(struct erofs_tree *, erofs_tree_free);

/* From now on names are only names: ".wh.x" is a file like any other. For trees that are no layers. */
void erofs_tree_ignore_whiteouts(struct erofs_tree *t);

/* The members that follow are of the next layer, whose data is segment 0, 1, 2 … -E2BIG. */
int erofs_tree_begin_layer(struct erofs_tree *t);

/* Applies one member; e is borrowed. -EINVAL: a bad name, whiteout, mode or time; -ENAMETOOLONG; -ELOOP;
 * -ENOTDIR; -ENOENT, -EPERM: hard link to nothing, to a directory; -E2BIG: more than the tree may
 * hold; -ENOMEM. After an error the tree can only be freed. */
int erofs_tree_apply(struct erofs_tree *t, const struct erofs_entry *e);

/* Inodes alive, the root among them. */
uint32_t erofs_tree_inodes(const struct erofs_tree *t);
/* Bytes of memory in use. */
size_t erofs_tree_memory(const struct erofs_tree *t);
