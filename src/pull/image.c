/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/image.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "oci/config.h"
#include "oci/image-dir.h"
#include "oci/manifest.h"
#include "oci/sha256.h"
#include "pull/layer-file.h"
#include "pull/merge.h"
#include "pull/origin.h"
#include "pull/report.h"

#define INDEX_DEPTH 2
#define THREAD_STACK_BYTES (1U << 20)
#define PROGRESS_NS 500000000ULL

struct fetch {
    const struct pull_request *req;
    struct converter *converters; /* borrowed; one per thread */
    struct origin origin;
    int layers_fd, meta_fd; /* owned */
    int stop_fd;            /* owned eventfd: readable when a thread has failed */
    struct oci_digest top;  /* of the document the reference names */
    struct oci_document manifest;
    struct oci_config config;
    struct oci_digest id;
    struct layer_info layers[LIMIT_IMAGE_LAYERS];
    struct merged merged;

    atomic_uint next_layer, next_thread;
    _Atomic uint64_t done_bytes;
    uint64_t total_bytes;
    pthread_mutex_t lock; /* of what follows */
    struct error *error;  /* owned; the first one */
    int r;
    uint64_t last_progress_ns;
};

/* ---- documents ---- */

/* Fetches a document, checks that its bytes are want (if set) and parses it. */
static int fetch_document(struct fetch *f, struct http *h, const char *name,
                          const struct oci_digest *want, struct oci_digest *ret_digest,
                          struct oci_document *ret, struct error **err)
{
    _cleanup_(freep) char *type = NULL;
    _cleanup_(buf_done) struct buf body;
    int r;

    buf_init(&body, LIMIT_MANIFEST_BYTES);
    r = origin_manifest(&f->origin, h, name, &body, &type, err);
    if (r < 0)
        return error_prefix(err, r, "manifest %s", name);
    sha256_of(body.data, body.used, ret_digest);
    if (want && !oci_digest_equal(want, ret_digest))
        return error_set(err, -EBADMSG, "manifest %s has the digest sha256:%s", name,
                         ret_digest->hex);
    return oci_document_parse(body.data, body.used, type, ret, err);
}

/* From an index down to the manifest for our platform. */
static int descend(struct fetch *f, struct http *h, struct error **err)
{
    struct oci_digest digest;

    for (int depth = 0; f->manifest.kind == OCI_INDEX; depth++) {
        const struct oci_descriptor *d = oci_index_choose(&f->manifest, f->req->architecture);
        struct oci_document next = {0};
        char name[80];
        int r;

        if (!d)
            return error_set(err, -EOPNOTSUPP, "the image is not made for linux/%s",
                             f->req->architecture);
        if (depth == INDEX_DEPTH)
            return error_set(err, -EOPNOTSUPP, "indexes within indexes, more than %d deep",
                             INDEX_DEPTH);
        (void)snprintf(name, sizeof(name), OCI_DIGEST_PREFIX "%s", d->digest.hex);
        r = fetch_document(f, h, name, &d->digest, &digest, &next, err);
        if (r < 0)
            return r;
        oci_document_done(&f->manifest);
        f->manifest = next;
    }
    return 0;
}

static int fetch_config(struct fetch *f, struct http *h, struct error **err)
{
    _cleanup_(source_freep) struct source *s = NULL;
    _cleanup_(buf_done) struct buf body;
    int r;

    buf_init(&body, LIMIT_IMAGE_CONFIG_BYTES);
    r = origin_blob(&f->origin, h, &f->manifest.config.digest, f->manifest.config.size, NULL, &s,
                    err);
    if (r < 0)
        return r;
    r = source_read_all(s, &body, err);
    if (r < 0)
        return error_prefix(err, r, "image config");
    f->id = f->manifest.config.digest;
    return oci_config_parse(body.data, body.used, &f->config, err);
}

static int check_config(const struct fetch *f, struct error **err)
{
    const struct oci_config *c = &f->config;
    int64_t uid;
    char *name;
    int r;

    if ((c->os[0] && strcmp(c->os, "linux") != 0) ||
        (c->architecture[0] && strcmp(c->architecture, f->req->architecture) != 0))
        return error_set(err, -EOPNOTSUPP, "the image is made for %.40s/%.40s, not for linux/%s",
                         str_is_clean(c->os, strlen(c->os)) ? c->os : "?",
                         str_is_clean(c->architecture, strlen(c->architecture)) ? c->architecture
                                                                                : "?",
                         f->req->architecture);
    if (c->n_diff_ids != f->manifest.n_entries)
        return error_set(err, -EBADMSG, "the manifest has %zu layers, the config %zu",
                         f->manifest.n_entries, c->n_diff_ids);
    for (size_t i = 0; i < f->manifest.n_entries; i++) {
        r = oci_layer_check(&f->manifest.entries[i], err);
        if (r < 0)
            return r;
    }
    r = oci_user_parse(c->process.user, &uid, &name);
    free(name);
    return r < 0 ? error_set(err, r, "the image's USER is a number, but no uid") : 0;
}

static int fetch_documents(struct fetch *f, struct http *h, struct error **err)
{
    const struct oci_reference *ref = &f->req->reference;
    bool by_digest = oci_digest_is_set(&ref->digest);
    char name[160];
    int r;

    if (by_digest)
        (void)snprintf(name, sizeof(name), OCI_DIGEST_PREFIX "%s", ref->digest.hex);
    else
        (void)snprintf(name, sizeof(name), "%s", ref->tag);
    r = fetch_document(f, h, name, by_digest ? &ref->digest : NULL, &f->top, &f->manifest, err);
    if (r == 0)
        r = descend(f, h, err);
    if (r == 0)
        r = fetch_config(f, h, err);
    return r < 0 ? r : check_config(f, err);
}

/* ---- layers, a few threads ---- */

static void fail(struct fetch *f, int r, struct error *e)
{
    const uint64_t one = 1;

    (void)pthread_mutex_lock(&f->lock);
    if (f->r == 0) {
        f->r = r;
        f->error = e;
        e = NULL;
    }
    (void)pthread_mutex_unlock(&f->lock);
    error_free(e);
    (void)write_full(f->stop_fd, &one, sizeof(one));
}

static bool has_failed(struct fetch *f)
{
    bool failed;

    (void)pthread_mutex_lock(&f->lock);
    failed = f->r < 0;
    (void)pthread_mutex_unlock(&f->lock);
    return failed;
}

static void report_layer(const struct fetch *f, size_t i, const char *state)
{
    char id[80];

    (void)snprintf(id, sizeof(id), OCI_DIGEST_PREFIX "%s", f->config.diff_ids[i].hex);
    report_line(json_pack("{s:s, s:s, s:s}", "event", "layer", "diff_id", id, "state", state));
}

static void report_progress(struct fetch *f, bool force)
{
    uint64_t now = clock_mono_ns();
    bool due;

    (void)pthread_mutex_lock(&f->lock);
    due = force || now - f->last_progress_ns >= PROGRESS_NS;
    if (due)
        f->last_progress_ns = now;
    (void)pthread_mutex_unlock(&f->lock);
    if (due)
        report_line(json_pack("{s:s, s:I, s:I}", "event", "progress", "bytes",
                              (json_int_t)atomic_load(&f->done_bytes), "total",
                              (json_int_t)f->total_bytes));
}

/* A source that reports what passes. */
struct reporting_source {
    struct source base;
    struct source *inner; /* owned */
    struct fetch *f;
};

static ssize_t reporting_read(struct source *s, void *buf, size_t len, struct error **err)
{
    struct reporting_source *p = container_of(s, struct reporting_source, base);
    ssize_t n = has_failed(p->f) ? error_set(err, -ECANCELED, "the pull was given up")
                                 : p->inner->read(p->inner, buf, len, err);

    if (n > 0)
        report_progress(p->f, /* force= */ false);
    return n;
}

static void reporting_free(struct source *s)
{
    struct reporting_source *p = container_of(s, struct reporting_source, base);

    source_free(p->inner);
    free(p);
}

static bool is_repeated(const struct fetch *f, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (oci_digest_equal(&f->config.diff_ids[k], &f->config.diff_ids[i]))
            return true;
    return false;
}

static int fetch_layer(struct fetch *f, struct http *h, struct converter *converter, size_t i,
                       struct error **err)
{
    const struct oci_descriptor *d = &f->manifest.entries[i];
    struct reporting_source *p;
    struct source *blob;
    int r;

    if (layer_file_check(f->layers_fd, &f->config.diff_ids[i],
                         strv_contains(f->req->doubtful, f->config.diff_ids[i].hex),
                         &f->layers[i])) {
        atomic_fetch_add(&f->done_bytes, d->size);
        report_layer(f, i, "exists");
        return 0;
    }
    report_layer(f, i, "start");
    r = origin_blob(&f->origin, h, &d->digest, d->size, &f->done_bytes, &blob, err);
    if (r < 0)
        return r;
    p = xcalloc(1, sizeof(*p));
    p->base = (struct source){reporting_read, reporting_free};
    p->inner = blob;
    p->f = f;
    r = layer_file_make(f->layers_fd, f->req->tag, &f->config.diff_ids[i], converter, &p->base,
                        d->size, &f->layers[i], err);
    if (r == 0)
        report_layer(f, i, "done");
    return r;
}

static void *layer_thread(void *userdata)
{
    struct fetch *f = userdata;
    struct converter *converter = &f->converters[atomic_fetch_add(&f->next_thread, 1)];
    _cleanup_(http_freep) struct http *h = origin_connect(&f->origin);

    while (!has_failed(f)) {
        unsigned i = atomic_fetch_add(&f->next_layer, 1);
        struct error *e = NULL;
        int r;

        if (i >= f->manifest.n_entries)
            break;
        if (is_repeated(f, i))
            continue;
        r = fetch_layer(f, h, converter, i, &e);
        if (r < 0) {
            (void)error_prefix(&e, r, "layer %u (sha256:%.12s…)", i,
                               f->manifest.entries[i].digest.hex);
            fail(f, r, e);
        }
    }
    return NULL;
}

/* The same layer twice: what one thread learned holds for all places. */
static void fill_repeated(struct fetch *f)
{
    for (size_t i = 0; i < f->manifest.n_entries; i++)
        for (size_t k = 0; k < i; k++)
            if (oci_digest_equal(&f->config.diff_ids[k], &f->config.diff_ids[i]))
                f->layers[i] = f->layers[k];
}

static int fetch_layers(struct fetch *f, struct error **err)
{
    pthread_t threads[PULL_CONCURRENCY_MAX];
    pthread_attr_t attr;
    size_t n = 0, want = f->req->concurrency;

    for (size_t i = 0; i < f->manifest.n_entries; i++)
        if (!is_repeated(f, i))
            f->total_bytes += f->manifest.entries[i].size;
    report_progress(f, /* force= */ true);
    if (want > f->manifest.n_entries)
        want = f->manifest.n_entries;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
    while (n < want && pthread_create(&threads[n], &attr, layer_thread, f) == 0)
        n++;
    (void)pthread_attr_destroy(&attr);
    if (n == 0 && want > 0)
        return error_set(err, -EAGAIN, "no thread can be started");
    for (size_t i = 0; i < n; i++)
        (void)pthread_join(threads[i], NULL);
    if (f->r < 0) {
        if (err && !*err)
            *err = TAKE(f->error);
        return f->r;
    }
    fill_repeated(f);
    report_progress(f, /* force= */ true);
    return 0;
}

/* ---- metadata and result ---- */

static int make_metadata(struct fetch *f, struct error **err)
{
    struct new_file out;
    char name[IMAGE_DIR_NAME];
    int r;

    r = new_file_open(&out, f->meta_fd, f->req->tag, "meta", err);
    if (r < 0)
        return r;
    r = merge_layers(f->layers_fd, f->config.diff_ids, f->config.n_diff_ids, &f->id, out.fd,
                     &f->merged, err);
    (void)snprintf(name, sizeof(name), "%s" IMAGE_DIR_META_SUFFIX, f->id.hex);
    if (r == 0)
        r = new_file_publish(&out, name, err);
    if (r == 0 && fsync(f->meta_fd) < 0)
        r = error_set(err, -errno, "cannot sync the image directory: %s", strerror(errno));
    new_file_done(&out);
    return r;
}

static void report_done(const struct fetch *f)
{
    json_t *layers = json_array();
    char text[80];

    for (size_t i = 0; i < f->manifest.n_entries; i++) {
        (void)snprintf(text, sizeof(text), OCI_DIGEST_PREFIX "%s", f->config.diff_ids[i].hex);
        (void)json_array_append_new(
            layers, json_pack("{s:s, s:I, s:I}", "diff_id", text, "data_bytes",
                              (json_int_t)f->layers[i].data_bytes, "index_bytes",
                              (json_int_t)(f->layers[i].index_bytes + LAYER_INDEX_HEADER)));
    }
    (void)snprintf(text, sizeof(text), OCI_DIGEST_PREFIX "%s", f->top.hex);
    json_t *image =
        json_pack("{s:s, s:o, s:I, s:s, s:I, s:o}", "digest", text, "layers", layers, "meta_bytes",
                  (json_int_t)f->merged.meta_bytes, "meta_sha256", f->merged.digest.hex, "inodes",
                  (json_int_t)f->merged.inodes, "process", oci_process_to_json(&f->config.process));
    (void)snprintf(text, sizeof(text), OCI_DIGEST_PREFIX "%s", f->id.hex);
    (void)json_object_set_new(image, "id", json_string(text));
    report_line(json_pack("{s:s, s:o}", "event", "done", "image", image));
}

static int open_subdir(int dir, const char *name, struct error **err)
{
    int fd;

    if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
        return error_set(err, -errno, "cannot make %s: %s", name, strerror(errno));
    fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? error_set(err, -errno, "cannot open %s: %s", name, strerror(errno)) : fd;
}

/* Until we end: nexusd deletes no layer without a name, for we may use one that a pull before us left. Waits
 * while it is just deleting. */
static int lock_layers(int layers_fd, struct error **err)
{
    int r;

    do
        r = flock(layers_fd, LOCK_SH);
    while (r < 0 && errno == EINTR);
    return r < 0 ? error_set(err, -errno, "cannot lock %s: %s", IMAGE_DIR_LAYERS, strerror(errno))
                 : 0;
}

static int run(struct fetch *f, int dir_fd, struct error **err)
{
    _cleanup_(http_freep) struct http *h = NULL;
    int r;

    f->layers_fd = open_subdir(dir_fd, IMAGE_DIR_LAYERS, err);
    if (f->layers_fd < 0)
        return f->layers_fd;
    r = lock_layers(f->layers_fd, err);
    if (r < 0)
        return r;
    f->meta_fd = open_subdir(dir_fd, IMAGE_DIR_META, err);
    if (f->meta_fd < 0)
        return f->meta_fd;
    h = origin_connect(&f->origin);
    r = fetch_documents(f, h, err);
    if (r < 0)
        return r;
    r = FP("pull.layers");
    if (r < 0)
        return error_set(err, r, "failpoint");
    r = fetch_layers(f, err);
    if (r == 0)
        r = make_metadata(f, err);
    if (r == 0)
        report_done(f);
    return r;
}

int image_fetch(const struct pull_request *req, struct converter *converters, int dir_fd,
                struct error **err)
{
    struct fetch *f = xcalloc(1, sizeof(*f));
    int r;

    f->req = req;
    f->converters = converters;
    f->layers_fd = f->meta_fd = -EBADF;
    (void)pthread_mutex_init(&f->lock, NULL);
    f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->stop_fd < 0)
        r = error_set(err, -errno, "cannot make an eventfd: %s", strerror(errno));
    else
        r = origin_init(&f->origin, req, f->stop_fd);
    if (r == 0)
        r = run(f, dir_fd, err);
    origin_done(&f->origin);
    oci_document_done(&f->manifest);
    oci_config_done(&f->config);
    close_fd(f->layers_fd);
    close_fd(f->meta_fd);
    close_fd(f->stop_fd);
    (void)pthread_mutex_destroy(&f->lock);
    error_free(f->error);
    free(f);
    return r;
}
