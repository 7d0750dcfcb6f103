/* SPDX-License-Identifier: Apache-2.0 */
/* Start at image_verify: records → list of files → each file once. */
#include "image/image-verify.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/str.h"
#include "erofs/layer-index.h"
#include "image/image-internal.h"
#include "oci/image-dir.h"
#include "oci/sha256.h"

#define CHUNK_BYTES (1U << 20)
#define ALIGN_BYTES 4096 /* of what is read past the page cache */

/* A layer, or the metadata of an image. */
struct subject {
    bool is_layer;
    struct oci_digest name;   /* diff_id, or the image's id */
    uint64_t bytes;           /* data, or metadata */
    uint64_t index_bytes;     /* of a layer */
    struct oci_digest digest; /* of metadata; a layer's is in its index */
    char **images, **ids;     /* owned; who has it: for people, and as records are named */
};

struct verify {
    const struct image_verify_ops *ops;
    void *userdata;
    int root; /* owned */
    struct subject *subjects;
    size_t n_subjects;
    uint64_t total_bytes;
    uint8_t *chunk; /* owned, aligned */
    struct image_verified result;
};

/* ---- what there is ---- */

static struct subject *subject_get(struct verify *v, bool is_layer, const struct oci_digest *name)
{
    struct subject *s;

    for (size_t i = 0; i < v->n_subjects; i++)
        if (v->subjects[i].is_layer == is_layer && oci_digest_equal(&v->subjects[i].name, name))
            return &v->subjects[i];
    v->subjects = xrealloc(v->subjects, v->n_subjects + 1, sizeof(*v->subjects));
    s = &v->subjects[v->n_subjects++];
    *s = (struct subject){.is_layer = is_layer, .name = *name};
    return s;
}

static void subject_used(struct subject *s, const struct image_entry *e)
{
    const char *name = e->pub.id;

    if (e->pub.repo_tags && e->pub.repo_tags[0])
        name = e->pub.repo_tags[0];
    else if (e->pub.repo_digests && e->pub.repo_digests[0])
        name = e->pub.repo_digests[0];
    if (!strv_contains(s->ids, e->digest.hex)) {
        strv_push(&s->images, name);
        strv_push(&s->ids, e->digest.hex);
    }
}

static void on_record(const char *name, const json_t *doc, void *userdata)
{
    _cleanup_(image_entry_freep) struct image_entry *e = NULL;
    _cleanup_(error_freep) struct error *err = NULL;
    struct verify *v = userdata;
    struct subject *s;
    int r = image_entry_from_json(doc, &e, &err);

    if (r == 0 && strcmp(e->digest.hex, name) != 0)
        r = error_set(&err, -EBADMSG, "the record is another image's");
    v->result.images++;
    if (r < 0) {
        _cleanup_(freep) char *file = str_printf(IMAGE_DIR_RECORDS "/%s.json", name);
        char *images[] = {(char *)(uintptr_t)name, NULL};

        v->ops->damaged(&(struct image_damage){file, error_text(err, r), images}, v->userdata);
        v->result.damaged++;
        return;
    }
    s = subject_get(v, false, &e->digest);
    s->bytes = e->meta_bytes;
    s->digest = e->meta_digest;
    subject_used(s, e);
    for (size_t i = 0; i < e->n_layers; i++) {
        s = subject_get(v, true, &e->layers[i].diff_id);
        s->bytes = e->layers[i].data_bytes;
        s->index_bytes = e->layers[i].index_bytes;
        subject_used(s, e);
    }
}

static void on_damaged_record(const char *name, const char *reason, void *userdata)
{
    struct verify *v = userdata;
    _cleanup_(freep) char *file = str_printf(IMAGE_DIR_RECORDS "/%s.json", name);
    char *images[] = {(char *)(uintptr_t)name, NULL};

    v->ops->damaged(&(struct image_damage){file, reason, images}, v->userdata);
    v->result.damaged++;
}

static int read_records(struct verify *v, const char *root, struct error **err)
{
    _cleanup_(freep) char *dir = str_printf("%s/" IMAGE_DIR_RECORDS, root);
    _cleanup_(store_freep) struct store *records = NULL;
    int r = store_open_readonly(dir, &records, err);

    if (r == 0)
        r = store_scan(records, on_record, on_damaged_record, v, err);
    for (size_t i = 0; i < v->n_subjects; i++)
        v->total_bytes += v->subjects[i].bytes + v->subjects[i].index_bytes;
    return r;
}

/* Images may be removed while we look. */
static bool is_still_recorded(const struct verify *v, const struct subject *s)
{
    for (char **id = s->ids; id && *id; id++) {
        _cleanup_(freep) char *file = str_printf(IMAGE_DIR_RECORDS "/%s.json", *id);

        if (faccessat(v->root, file, F_OK, 0) == 0)
            return true;
    }
    return false;
}

/* ---- one file ---- */

typedef void (*piece_fn)(void *ctx, const uint8_t *bytes, size_t len);

static void tell_damage(struct verify *v, const struct subject *s, const char *file,
                        const char *reason)
{
    if (!is_still_recorded(v, s))
        return;
    v->ops->damaged(&(struct image_damage){file, reason, s->images}, v->userdata);
    v->result.damaged++;
}

/* len is a whole chunk, as reading past the page cache wants it; want of it are in the file. Bytes or errno. */
static ssize_t read_piece(int fd, uint8_t *bytes, size_t len, size_t want, uint64_t at)
{
    size_t got = 0;

    while (got < want) {
        ssize_t n = pread(fd, bytes + got, len - got, (off_t)(at + got));
        int flags = n < 0 && errno == EINVAL ? fcntl(fd, F_GETFL) : 0;

        if (n < 0 && errno == EINTR)
            continue;
        if (flags > 0 && (flags & O_DIRECT)) { /* it was opened with it and cannot do it */
            (void)fcntl(fd, F_SETFL, flags & ~O_DIRECT);
            continue;
        }
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}

/* NULL: all bytes were given to fn; else what is wrong with the file. text: room for that. */
static const char *read_file(struct verify *v, const char *file, uint64_t bytes, piece_fn fn,
                             void *ctx, char text[128])
{
    _cleanup_(closep) int fd =
        file_open_beneath(v->root, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_DIRECT, 0);
    struct stat st;

    if (fd == -EINVAL) /* tmpfs and others know no way past the page cache */
        fd = file_open_beneath(v->root, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd == -ENOENT)
        return "it is not there";
    if (fd < 0 || fstat(fd, &st) < 0) {
        (void)snprintf(text, 128, "it cannot be opened: %s", strerror(fd < 0 ? -fd : errno));
        return text;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != bytes)
        return "it has another size than what was written";
    for (uint64_t at = 0; at < bytes;) {
        size_t want = (size_t)min_of(bytes - at, (uint64_t)CHUNK_BYTES);
        ssize_t n = read_piece(fd, v->chunk, CHUNK_BYTES, want, at);

        if (n < (ssize_t)want) {
            (void)snprintf(text, 128, "it cannot be read at byte %llu: %s", (unsigned long long)at,
                           n < 0 ? strerror((int)-n) : "it ends there");
            return text;
        }
        fn(ctx, v->chunk, want);
        at += want;
        v->result.bytes += want;
        if (v->ops->progress)
            v->ops->progress(v->result.bytes, v->total_bytes, v->userdata);
    }
    return NULL;
}

static void add_to_digest(void *ctx, const uint8_t *bytes, size_t len)
{
    sha256_add(ctx, bytes, len);
}

static bool check_content(struct verify *v, const struct subject *s, const char *file,
                          const char *want_hex)
{
    _cleanup_(sha256_freep) struct sha256 *sum = sha256_new();
    const char *wrong = "no memory for its digest";
    struct oci_digest got;
    char text[128];

    if (sum)
        wrong = read_file(v, file, s->bytes, add_to_digest, sum, text);
    if (!wrong) {
        sha256_finish(sum, &got);
        if (strcmp(got.hex, want_hex) != 0)
            wrong = "its content is not what was written";
    }
    if (wrong)
        tell_damage(v, s, file, wrong);
    return !wrong;
}

struct index_sum {
    uint8_t header[LAYER_INDEX_HEADER];
    size_t header_len;
    uint32_t crc;
};

static void add_to_index(void *ctx, const uint8_t *bytes, size_t len)
{
    struct index_sum *sum = ctx;
    size_t n = min_of(len, sizeof(sum->header) - sum->header_len);

    memcpy(sum->header + sum->header_len, bytes, n);
    sum->header_len += n;
    sum->crc = crc32c_update(sum->crc, bytes + n, len - n);
}

static bool check_index(struct verify *v, const struct subject *s, const char *file,
                        struct layer_info *ret)
{
    struct index_sum sum = {.crc = ~0U};
    char text[128];
    const char *wrong = read_file(v, file, s->index_bytes, add_to_index, &sum, text);

    if (!wrong && (sum.header_len < sizeof(sum.header) ||
                   layer_index_read_header(sum.header, ret) < 0 || ret->checksum != ~sum.crc ||
                   strcmp(ret->diff_id, s->name.hex) != 0 || ret->data_bytes != s->bytes))
        wrong = "its content is not what was written";
    if (wrong)
        tell_damage(v, s, file, wrong);
    return !wrong;
}

static void check(struct verify *v, const struct subject *s)
{
    struct layer_info info;
    char file[IMAGE_DIR_NAME + sizeof(IMAGE_DIR_LAYERS)];

    if (!s->is_layer) {
        (void)snprintf(file, sizeof(file), IMAGE_DIR_META "/%s" IMAGE_DIR_META_SUFFIX, s->name.hex);
        (void)check_content(v, s, file, s->digest.hex);
        return;
    }
    v->result.layers++;
    (void)snprintf(file, sizeof(file), IMAGE_DIR_LAYERS "/%s" IMAGE_DIR_INDEX_SUFFIX, s->name.hex);
    if (!check_index(v, s, file, &info))
        return; /* the digest of the data is not known then; the layer is damaged anyhow */
    (void)snprintf(file, sizeof(file), IMAGE_DIR_LAYERS "/%s" IMAGE_DIR_DATA_SUFFIX, s->name.hex);
    (void)check_content(v, s, file, info.data_sha256);
}

/* ---- all ---- */

static void verify_done(struct verify *v)
{
    for (size_t i = 0; i < v->n_subjects; i++) {
        strv_free(v->subjects[i].images);
        strv_free(v->subjects[i].ids);
    }
    free(v->subjects);
    free(v->chunk);
    v->root = close_fd(v->root);
}

int image_verify(const char *root, const struct image_verify_ops *ops, void *userdata,
                 struct image_verified *ret, struct error **err)
{
    _cleanup_(verify_done) struct verify v = {.ops = ops, .userdata = userdata};
    int r;

    v.chunk = aligned_alloc(ALIGN_BYTES, CHUNK_BYTES);
    v.root = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (v.root < 0)
        return error_set(err, -errno, "cannot open the image directory %s: %s", root,
                         strerror(errno));
    if (!v.chunk)
        return error_set(err, -ENOMEM, "out of memory");
    r = read_records(&v, root, err);
    for (size_t i = 0; r == 0 && i < v.n_subjects; i++)
        check(&v, &v.subjects[i]);
    *ret = v.result;
    return r;
}
