/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/origin.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "oci/json.h"

#define CONNECT_TIMEOUT_MS 15000
#define REF_NAME "org.opencontainers.image.ref.name"

int origin_init(struct origin *o, const struct pull_request *req, int stop_fd)
{
    *o = (struct origin){.req = req, .stop_fd = stop_fd};
    if (req->layout_fd < 0)
        o->registry = registry_new(req, stop_fd);
    return 0;
}

void origin_done(struct origin *o)
{
    registry_free(o->registry);
    o->registry = NULL;
}

struct http *origin_connect(const struct origin *o)
{
    struct http_settings set = {.low_speed_s = o->req->low_speed_s,
                                .connect_timeout_ms = CONNECT_TIMEOUT_MS,
                                .stop_fd = o->stop_fd};

    return o->registry ? http_new(&set) : NULL;
}

/* ---- layout: index.json and blobs/sha256/<hex> ---- */

/* A source that owns its descriptor. */
struct owned_source {
    struct source base;
    struct source *inner; /* owned */
    int fd;               /* owned */
};

static ssize_t owned_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct owned_source *o = container_of(s, struct owned_source, base);

    return o->inner->read(o->inner, buf, len, err);
}

static void owned_free(struct source *s)
{
    struct owned_source *o = container_of(s, struct owned_source, base);

    source_free(o->inner);
    close_fd(o->fd);
    free(o);
}

static int layout_blob(const struct origin *o, const struct oci_digest *digest, struct source **ret,
                       struct error **err)
{
    struct owned_source *s;
    char path[96];
    struct stat st;
    int fd;

    (void)snprintf(path, sizeof(path), "blobs/sha256/%s", digest->hex);
    fd = file_open_beneath(o->req->layout_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, fd, "the layout has no blob sha256:%s: %s", digest->hex,
                         strerror(-fd));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close_fd(fd);
        return error_set(err, -EBADMSG, "blob sha256:%s is no file", digest->hex);
    }
    s = xcalloc(1, sizeof(*s));
    s->base = (struct source){owned_read, owned_free};
    s->inner = source_from_fd(fd);
    s->fd = fd;
    *ret = &s->base;
    return 0;
}

/* The digest that index.json gives for a tag: the entry with that name, or the only entry. */
static int layout_resolve(const struct origin *o, const char *tag, struct oci_digest *ret,
                          struct error **err)
{
    _cleanup_(freep) char *text = NULL;
    const json_t *list, *found = NULL;
    const char *digest = NULL;
    json_t *root;
    size_t len;
    int r = file_read_all(o->req->layout_fd, "index.json", LIMIT_MANIFEST_BYTES, &text, &len);

    if (r < 0)
        return error_set(err, r, "cannot read the layout's index.json: %s", strerror(-r));
    r = oci_json_parse(text, len, LIMIT_MANIFEST_BYTES, "the layout's index.json", &root, err);
    if (r < 0)
        return r;
    list = json_object_get(root, "manifests");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *e = json_array_get(list, i);
        const char *name =
            json_string_value(json_object_get(json_object_get(e, "annotations"), REF_NAME));

        if (str_equal(name, tag) || (!found && json_array_size(list) == 1))
            found = e;
    }
    digest = json_string_value(json_object_get(found, "digest"));
    r = digest ? oci_digest_parse(digest, ret) : -ENOENT;
    json_decref(root);
    return r < 0 ? error_set(err, r, "the layout has no manifest named '%s'", tag) : 0;
}

static int layout_manifest(const struct origin *o, const char *name, struct buf *out,
                           struct error **err)
{
    _cleanup_(source_freep) struct source *s = NULL;
    struct oci_digest digest;
    int r = oci_digest_parse(name, &digest);

    if (r < 0)
        r = layout_resolve(o, name, &digest, err);
    if (r == 0)
        r = layout_blob(o, &digest, &s, err);
    return r < 0 ? r : source_read_all(s, out, err);
}

/* ---- either ---- */

int origin_manifest(struct origin *o, struct http *h, const char *name, struct buf *out,
                    char **ret_type, struct error **err)
{
    int r;

    if (o->registry)
        return registry_manifest(o->registry, h, name, out, ret_type, err);
    r = layout_manifest(o, name, out, err);
    if (r == 0)
        *ret_type = NULL;
    return r;
}

int origin_blob(struct origin *o, struct http *h, const struct oci_digest *digest, uint64_t size,
                _Atomic uint64_t *done, struct source **ret, struct error **err)
{
    _cleanup_(freep) char *what = str_printf("blob sha256:%s", digest->hex);
    struct source *raw = NULL;

    if (o->registry) {
        raw = registry_blob(o->registry, h, digest, size);
    } else {
        int r = layout_blob(o, digest, &raw, err);

        if (r < 0)
            return r;
    }
    *ret = source_verify(raw, digest, size, what, done);
    return 0;
}
