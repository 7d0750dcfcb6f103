/* SPDX-License-Identifier: Apache-2.0 */
#include "oci/manifest.h"

#include <string.h>

#include "base/limit.h"
#include "base/str.h"
#include "oci/json.h"

/* In order of wish: an entry without a variant fits every CPU of the architecture. */
static const char *const variants_amd64[] = {"", "v1"};

static void descriptor_done(struct oci_descriptor *d)
{
    free(d->media_type);
    free(d->os);
    free(d->architecture);
    free(d->variant);
    memset(d, 0, sizeof(*d));
}

void oci_document_done(struct oci_document *doc)
{
    for (size_t i = 0; i < doc->n_entries; i++)
        descriptor_done(&doc->entries[i]);
    free(doc->entries);
    descriptor_done(&doc->config);
    memset(doc, 0, sizeof(*doc));
}

static int platform_parse(const json_t *obj, struct oci_descriptor *ret, struct error **err)
{
    const json_t *p = json_object_get(obj, "platform");
    const char *os, *arch, *variant;
    int r;

    if (!p || json_is_null(p))
        return 0;
    if (!json_is_object(p))
        return error_set(err, -EBADMSG, "\"platform\" is no object");
    if ((r = oci_json_str(p, "os", &os, err)) < 0 ||
        (r = oci_json_str(p, "architecture", &arch, err)) < 0 ||
        (r = oci_json_str(p, "variant", &variant, err)) < 0)
        return r;
    ret->os = str_dup_or_null(os);
    ret->architecture = str_dup_or_null(arch);
    ret->variant = str_dup_or_null(variant);
    return 0;
}

static int descriptor_parse(const json_t *obj, uint64_t max_size, struct oci_descriptor *ret,
                            struct error **err)
{
    const char *type, *digest;
    int r;

    if (!json_is_object(obj))
        return error_set(err, -EBADMSG, "a descriptor is no object");
    if ((r = oci_json_str(obj, "mediaType", &type, err)) < 0 ||
        (r = oci_json_str(obj, "digest", &digest, err)) < 0)
        return r;
    if (!digest)
        return error_set(err, -EBADMSG, "a descriptor has no digest");
    r = oci_digest_parse(digest, &ret->digest);
    if (r == -EOPNOTSUPP)
        return error_set(err, r, "a digest is not sha256");
    if (r < 0)
        return error_set(err, -EBADMSG, "a digest is not valid");
    r = oci_json_u64(obj, "size", 0, max_size, &ret->size, err);
    if (r == -ENOENT)
        return error_set(err, -EBADMSG, "a descriptor has no size");
    if (r < 0)
        return r;
    ret->media_type = str_dup(type ? type : "");
    /* "urls" is not read: we ask the registry, the digest decides */
    return platform_parse(obj, ret, err);
}

static int entries_parse(const json_t *list, size_t max, uint64_t max_size,
                         struct oci_document *doc, struct error **err)
{
    size_t n = json_array_size(list);

    if (!json_is_array(list))
        return error_set(err, -EBADMSG, "manifests or layers are no list");
    if (n > max)
        return error_set(err, -E2BIG, "more than %zu manifests or layers", max);
    doc->entries = xcalloc(n ? n : 1, sizeof(*doc->entries));
    for (size_t i = 0; i < n; i++) {
        int r;

        doc->n_entries = i + 1; /* the half-made one is freed, too */
        r = descriptor_parse(json_array_get(list, i), max_size, &doc->entries[i], err);
        if (r < 0)
            return error_prefix(err, r, "entry %zu", i);
    }
    return 0;
}

static bool type_is_index(const char *type)
{
    return strcmp(type, OCI_TYPE_INDEX) == 0 || strcmp(type, OCI_TYPE_DOCKER_LIST) == 0;
}

static bool type_is_manifest(const char *type)
{
    return strcmp(type, OCI_TYPE_MANIFEST) == 0 || strcmp(type, OCI_TYPE_DOCKER_MANIFEST) == 0;
}

/* A type that names a kind must name ours; types that name none (text/plain) say nothing. */
static int check_type(const char *type, bool is_index, const char *where, struct error **err)
{
    if (!type)
        return 0;
    if (str_starts(type, "application/vnd.docker.distribution.manifest.v1"))
        return error_set(err, -EOPNOTSUPP, "a schema 1 manifest: too old, push the image again");
    if (is_index ? type_is_manifest(type) : type_is_index(type))
        return error_set(err, -EBADMSG, "the %s contradicts the content", where);
    return 0;
}

static int kind_parse(const json_t *root, const char *header_type, bool *ret_index,
                      struct error **err)
{
    _cleanup_(freep) char *header = header_type ? str_dup(header_type) : NULL;
    bool has_manifests = json_object_get(root, "manifests") != NULL;
    bool has_layers = json_object_get(root, "layers") != NULL;
    bool has_config = json_object_get(root, "config") != NULL;
    const char *type;
    uint64_t version;
    int r;

    if (header)
        header[strcspn(header, "; \t")] = '\0'; /* parameters */
    r = oci_json_u64(root, "schemaVersion", 1, 2, &version, err);
    if (r == -ENOENT)
        return error_set(err, -EBADMSG, "no schemaVersion");
    if (r < 0)
        return r;
    if (version == 1)
        return error_set(err, -EOPNOTSUPP, "a schema 1 manifest: too old, push the image again");
    r = oci_json_str(root, "mediaType", &type, err);
    if (r < 0)
        return r;
    if (has_manifests == (has_layers || has_config))
        return error_set(err, -EBADMSG, "neither an index nor a manifest, or both at once");
    *ret_index = has_manifests;
    r = check_type(type, has_manifests, "mediaType", err);
    return r < 0 ? r : check_type(header, has_manifests, "Content-Type", err);
}

static int document_parse(const json_t *root, const char *header_type, struct oci_document *doc,
                          struct error **err)
{
    bool is_index;
    int r;

    r = kind_parse(root, header_type, &is_index, err);
    if (r < 0)
        return r;
    doc->kind = is_index ? OCI_INDEX : OCI_MANIFEST;
    if (is_index)
        return entries_parse(json_object_get(root, "manifests"), OCI_INDEX_ENTRIES,
                             LIMIT_MANIFEST_BYTES, doc, err);
    if (!json_object_get(root, "layers") || !json_object_get(root, "config"))
        return error_set(err, -EBADMSG, "a manifest without %s",
                         json_object_get(root, "config") ? "layers" : "config");
    r = descriptor_parse(json_object_get(root, "config"), LIMIT_IMAGE_CONFIG_BYTES, &doc->config,
                         err);
    if (r < 0)
        return error_prefix(err, r, "config");
    return entries_parse(json_object_get(root, "layers"), LIMIT_IMAGE_LAYERS, OCI_BLOB_BYTES_MAX,
                         doc, err);
}

int oci_document_parse(const void *bytes, size_t len, const char *header_type,
                       struct oci_document *ret, struct error **err)
{
    struct oci_document doc = {0};
    json_t *root;
    int r;

    r = oci_json_parse(bytes, len, LIMIT_MANIFEST_BYTES, "the manifest", &root, err);
    if (r < 0)
        return r;
    r = document_parse(root, header_type, &doc, err);
    json_decref(root);
    if (r < 0) {
        oci_document_done(&doc);
        return error_prefix(err, r, "manifest");
    }
    *ret = doc;
    return 0;
}

const struct oci_descriptor *oci_index_choose(const struct oci_document *index,
                                              const char *architecture)
{
    for (size_t v = 0; v < ARRAY_SIZE(variants_amd64); v++) {
        for (size_t i = 0; i < index->n_entries; i++) {
            const struct oci_descriptor *d = &index->entries[i];
            const char *variant = d->variant ? d->variant : "";

            if (str_equal(d->os, "linux") && str_equal(d->architecture, architecture) &&
                strcmp(variant, variants_amd64[v]) == 0)
                return d;
        }
    }
    return NULL;
}

int oci_layer_check(const struct oci_descriptor *layer, struct error **err)
{
    const char *type = layer->media_type;

    if (strstr(type, "nondistributable") || strstr(type, ".foreign."))
        return error_set(err, -EOPNOTSUPP, "layer sha256:%.12s… is foreign (%.100s): refused",
                         layer->digest.hex, type);
    if (!str_starts(type, "application/vnd.oci.image.layer.v1.tar") &&
        !str_starts(type, "application/vnd.docker.image.rootfs.diff.tar"))
        return error_set(err, -EOPNOTSUPP,
                         "layer sha256:%.12s… has media type '%.100s': not a tar layer",
                         layer->digest.hex, str_is_clean(type, strlen(type)) ? type : "?");
    if (strchr(type, '+') && !str_ends(type, "+gzip") && !str_ends(type, "+zstd"))
        return error_set(err, -EOPNOTSUPP, "layer sha256:%.12s…: compression '%.40s' not supported",
                         layer->digest.hex, strchr(type, '+'));
    return 0;
}
