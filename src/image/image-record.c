/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "oci/json.h"
#include "oci/reference.h"

#define NAMES_MAX 4096

void image_entry_free(struct image_entry *e)
{
    if (!e)
        return;
    free(e->pub.id);
    strv_free(e->pub.repo_tags);
    strv_free(e->pub.repo_digests);
    free(e->pub.username);
    oci_process_done(&e->pub.process);
    free(e->layers);
    free(e);
}

static json_t *strv_to_json(char *const *v)
{
    json_t *list = json_array();

    for (size_t i = 0; v && v[i]; i++)
        (void)json_array_append_new(list, json_string(v[i]));
    return list;
}

static json_t *layers_to_json(const struct image_entry *e)
{
    json_t *list = json_array();

    for (size_t i = 0; i < e->n_layers; i++) {
        _cleanup_(freep) char *id = str_printf(OCI_DIGEST_PREFIX "%s", e->layers[i].diff_id.hex);

        (void)json_array_append_new(list,
                                    json_pack("{s:s, s:I, s:I}", "diff_id", id, "data_bytes",
                                              (json_int_t)e->layers[i].data_bytes, "index_bytes",
                                              (json_int_t)e->layers[i].index_bytes));
    }
    return list;
}

json_t *image_entry_to_json(const struct image_entry *e)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:I, s:s, s:I, s:b, s:o}", "id", e->pub.id, "repo_tags",
                     strv_to_json(e->pub.repo_tags), "repo_digests",
                     strv_to_json(e->pub.repo_digests), "layers", layers_to_json(e), "meta_bytes",
                     (json_int_t)e->meta_bytes, "meta_sha256", e->meta_digest.hex, "pulled_at_ns",
                     (json_int_t)e->pub.pulled_at_ns, "removed", e->pub.removed, "process",
                     oci_process_to_json(&e->pub.process));
}

static int layer_parse(const json_t *doc, struct image_layer *ret, struct error **err)
{
    const char *id;
    int r;

    if (!json_is_object(doc))
        return error_set(err, -EBADMSG, "a layer is no object");
    r = oci_json_str(doc, "diff_id", &id, err);
    if (r < 0)
        return r;
    if (oci_digest_parse(id, &ret->diff_id) < 0)
        return error_set(err, -EBADMSG, "a layer has no diff_id");
    if (oci_json_u64(doc, "data_bytes", 0, LIMIT_LAYER_UNPACKED_BYTES, &ret->data_bytes, err) < 0 ||
        oci_json_u64(doc, "index_bytes", 1, LIMIT_LAYER_UNPACKED_BYTES, &ret->index_bytes, err) <
            0 ||
        ret->data_bytes % 4096)
        return error_set(err, -EBADMSG, "a layer has no valid sizes");
    return 0;
}

static int layers_parse(const json_t *doc, struct image_entry *e, struct error **err)
{
    const json_t *list = json_object_get(doc, "layers");
    size_t n = json_array_size(list);

    if (!json_is_array(list) || n > LIMIT_IMAGE_LAYERS)
        return error_set(err, -EBADMSG, "no list of layers");
    e->layers = xcalloc(n ? n : 1, sizeof(*e->layers));
    for (size_t i = 0; i < n; i++) {
        int r = layer_parse(json_array_get(list, i), &e->layers[i], err);

        if (r < 0)
            return r;
    }
    e->n_layers = n;
    return 0;
}

/* Names must be what we would write: normalised references with a tag, or with a digest. */
static int names_parse(const json_t *doc, const char *key, bool digests, char ***ret,
                       struct error **err)
{
    int r = oci_json_strv(doc, key, NAMES_MAX, ret, err);

    for (size_t i = 0; r == 0 && *ret && (*ret)[i]; i++) {
        struct oci_reference ref = {0};
        _cleanup_(freep) char *text = NULL;

        r = oci_reference_parse((*ret)[i], &ref, err);
        if (r < 0)
            break;
        text = oci_reference_text(&ref);
        if (strcmp(text, (*ret)[i]) != 0 || oci_digest_is_set(&ref.digest) != digests)
            r = error_set(err, -EBADMSG, "a name in %s is not normalised", key);
        oci_reference_done(&ref);
    }
    return r;
}

static bool is_repeated(const struct image_entry *e, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (oci_digest_equal(&e->layers[k].diff_id, &e->layers[i].diff_id))
            return true;
    return false;
}

static int meta_parse(const json_t *doc, struct image_entry *e, struct error **err)
{
    const char *digest = NULL;
    int r = oci_json_u64(doc, "meta_bytes", 4096, LIMIT_LAYER_UNPACKED_BYTES, &e->meta_bytes, err);

    if (r < 0 || e->meta_bytes % 4096)
        return error_set(err, -EBADMSG, "no valid size of the metadata");
    if (oci_json_str(doc, "meta_sha256", &digest, err) < 0 || !digest || !oci_hex_is_valid(digest))
        return error_set(err, -EBADMSG, "no digest of the metadata");
    memcpy(e->meta_digest.hex, digest, sizeof(e->meta_digest.hex));
    return 0;
}

static int entry_parse(const json_t *doc, struct image_entry *e, struct error **err)
{
    const char *id;
    int r;

    if ((r = oci_json_str(doc, "id", &id, err)) < 0)
        return r;
    if (oci_digest_parse(id, &e->digest) < 0)
        return error_set(err, -EBADMSG, "no image id");
    e->pub.id = str_dup(id);
    e->pub.removed = json_is_true(json_object_get(doc, "removed"));
    if ((r = names_parse(doc, "repo_tags", false, &e->pub.repo_tags, err)) < 0 ||
        (r = names_parse(doc, "repo_digests", true, &e->pub.repo_digests, err)) < 0 ||
        (r = layers_parse(doc, e, err)) < 0 ||
        (r = oci_process_from_json(json_object_get(doc, "process"), &e->pub.process, err)) < 0 ||
        (r = meta_parse(doc, e, err)) < 0)
        return r;
    r = oci_json_u64(doc, "pulled_at_ns", 0, INT64_MAX, &e->pub.pulled_at_ns, err);
    if (r < 0 && r != -ENOENT)
        return r;
    r = oci_user_parse(e->pub.process.user, &e->pub.uid, &e->pub.username);
    if (r < 0)
        return error_set(err, -EBADMSG, "USER is a number, but no uid");
    e->pub.size_bytes = e->meta_bytes;
    for (size_t i = 0; i < e->n_layers; i++)
        if (!is_repeated(e, i))
            e->pub.size_bytes += e->layers[i].data_bytes + e->layers[i].index_bytes;
    return 0;
}

int image_entry_from_json(const json_t *doc, struct image_entry **ret, struct error **err)
{
    _cleanup_(image_entry_freep) struct image_entry *e = xcalloc(1, sizeof(*e));
    int r;

    if (!json_is_object(doc))
        return error_set(err, -EBADMSG, "no object");
    r = entry_parse(doc, e, err);
    if (r < 0)
        return r;
    *ret = TAKE(e);
    return 0;
}
