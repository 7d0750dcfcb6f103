/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses a pull may ask, and which of them may see the credentials. */
#include <fcntl.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "oci/reference.h"

#define CA_BYTES (512U << 10)
#define DOUBTFUL_MAX 8192 /* as nexus-pull has it */

static bool has_text(const char *s)
{
    return s && *s;
}

/* docker.io goes by several names. */
static const char *canonical_host(const char *host)
{
    if (strcmp(host, "index.docker.io") == 0 || strcmp(host, "registry-1.docker.io") == 0)
        return "docker.io";
    return host;
}

/* The host of "https://host/path", "host/path" or "host"; the caller frees. */
static char *host_of(const char *url)
{
    const char *p = strstr(url, "://");

    p = p ? p + 3 : url;
    return str_ndup(p, strcspn(p, "/?#"));
}

/* Credentials that name another server are for that one. */
static bool auth_applies(const struct image_auth *auth, const char *host)
{
    _cleanup_(freep) char *server = NULL;

    if (!auth)
        return false;
    if (!has_text(auth->server_address))
        return true;
    server = host_of(auth->server_address);
    return strcmp(canonical_host(server), canonical_host(host)) == 0;
}

static void set_text(json_t *obj, const char *key, const char *value)
{
    if (has_text(value))
        (void)json_object_set_new(obj, key, json_string(value));
}

static json_t *auth_to_json(const struct image_auth *auth)
{
    json_t *obj = json_object();

    set_text(obj, "username", auth->username);
    set_text(obj, "password", auth->password);
    set_text(obj, "auth", auth->auth);
    set_text(obj, "identity_token", auth->identity_token);
    set_text(obj, "registry_token", auth->registry_token);
    return obj;
}

static const struct image_registry *registry_for(const struct image_store *s, const char *host)
{
    for (size_t i = 0; i < s->n_registries; i++)
        if (strcmp(s->registries[i].host, host) == 0)
            return &s->registries[i];
    return NULL;
}

static void endpoint_add(json_t *list, const char *url, bool credentials, const char *ca_pem)
{
    json_t *e = json_pack("{s:s, s:b}", "url", url, "credentials", credentials);

    set_text(e, "ca_pem", ca_pem);
    (void)json_array_append_new(list, e);
}

static json_t *endpoints_to_json(const struct image_registry *r, const char *host,
                                 const char *ca_pem)
{
    const char *where = strcmp(host, "docker.io") == 0 ? "registry-1.docker.io" : host;
    _cleanup_(freep) char *own =
        str_printf("%s://%s", r && r->plain_http ? "http" : "https", where);
    json_t *list = json_array();

    for (size_t i = 0; r && r->endpoints && r->endpoints[i]; i++) {
        _cleanup_(freep) char *at = host_of(r->endpoints[i]);
        bool same = strcmp(canonical_host(at), host) == 0;

        endpoint_add(list, r->endpoints[i], same || r->mirror_credentials, ca_pem);
    }
    if (!r || !r->only_endpoints)
        endpoint_add(list, own, true, ca_pem);
    return list;
}

/* An image that was removed while containers use it keeps its files: pulled again, it gets them back, and
 * they may be the reason why it was removed. */
static json_t *doubtful_layers(const struct image_store *s)
{
    json_t *list = json_array();

    for (size_t i = 0; i < s->n_entries; i++) {
        const struct image_entry *e = s->entries[i];

        for (size_t k = 0; e->pub.removed && k < e->n_layers; k++)
            if (json_array_size(list) < DOUBTFUL_MAX)
                (void)json_array_append_new(list, json_string(e->layers[k].diff_id.hex));
    }
    return list;
}

int image_request_build(const struct image_store *s, const struct oci_reference *ref,
                        const struct image_auth *auth, json_t **ret, struct error **err)
{
    const struct image_registry *reg = registry_for(s, ref->host);
    _cleanup_(freep) char *text = oci_reference_text(ref);
    _cleanup_(freep) char *ca_pem = NULL;
    json_t *doc;

    if (reg && reg->ca_file) {
        int r = file_read_all(AT_FDCWD, reg->ca_file, CA_BYTES, &ca_pem, NULL);

        if (r < 0)
            return error_set_class(err, ERROR_INTERNAL, r, "cannot read the certificates in %s: %s",
                                   reg->ca_file, strerror(-r));
    }
    doc = json_pack("{s:s, s:o, s:o, s:i, s:i}", "reference", text, "endpoints",
                    endpoints_to_json(reg, ref->host, ca_pem), "doubtful", doubtful_layers(s),
                    "retry_base_ms", (int)s->retry_base_ms, "low_speed_s", (int)s->low_speed_s);
    if (doc && auth_applies(auth, ref->host)) {
        json_t *a = auth_to_json(auth);

        if (json_object_set_new(doc, "auth", a) < 0) {
            json_decref(doc);
            doc = NULL;
        }
    }
    if (!doc)
        return error_set(err, -EINVAL, "the pull's credentials are not text");
    *ret = doc;
    return 0;
}
