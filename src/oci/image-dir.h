/* SPDX-License-Identifier: Apache-2.0 */
/* Names in the image directory, shared by nexus-pull, which writes the files, and nexusd, which opens
 * them. The number is the version of the formats: raise it when converted files change.
 *
 *   layers/<diff_id hex>.2.data   file data of a layer, 4 KiB blocks        immutable, 0400
 *   layers/<diff_id hex>.2.index  its members; written after the data        immutable, 0400
 *   meta/<image id hex>.2.erofs   merged metadata of one image               immutable, 0400
 *   {layers,meta}/.tmp-<tag>-…    of the pull with that tag; swept
 *   records/                      nexusd's (src/store)
 */
#pragma once

#define IMAGE_DIR_LAYERS "layers"
#define IMAGE_DIR_META "meta"
#define IMAGE_DIR_RECORDS "records"
#define IMAGE_DIR_DATA_SUFFIX ".2.data"
#define IMAGE_DIR_INDEX_SUFFIX ".2.index"
#define IMAGE_DIR_META_SUFFIX ".2.erofs"
#define IMAGE_DIR_TMP_PREFIX ".tmp-"
#define IMAGE_DIR_NAME 128        /* room for any of these names */
#define IMAGE_REGION_SEGMENTS 128 /* most segments of one image: metadata and layers with data */
