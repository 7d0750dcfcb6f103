/* SPDX-License-Identifier: Apache-2.0 */
/* One directory of records. A file is believed only when it is ours (owner, mode, one link, regular)
 * and its checksum over schema, name and record holds; the name is in it, so that swapped or copied
 * files are noticed. {"checksum": null} marks a record mended by hand: no accident writes that. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/crc32c.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/limit.h"
#include "base/str.h"
#include "store/store-internal.h"

#define SCHEMA 1
#define RESERVE_NAME ".reserve"
#define RESERVE_BYTES (4 << 20)

static bool name_is_valid(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n > NAME_LIMIT || name[0] == '.')
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-") == n;
}

static void reserve_make(struct store *s)
{
    _cleanup_(closep) int fd = -EBADF;

    s->has_reserve = false;
    fd = openat(s->dirfd, RESERVE_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC,
                0600);
    if (fd < 0)
        return;
    if (posix_fallocate(fd, 0, RESERVE_BYTES) == 0)
        s->has_reserve = true;
    else
        (void)unlinkat(s->dirfd, RESERVE_NAME, 0);
}

static void sweep_temporaries(int dirfd)
{
    _cleanup_(closep) int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct dirent *e;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d)
        return;
    TAKE_FD(fd);
    while ((e = readdir(d)))
        if (e->d_name[0] == '.' && strstr(e->d_name, ".json.tmp"))
            (void)unlinkat(dirfd, e->d_name, 0);
    (void)closedir(d);
}

int store_open(const char *dir, struct store_queue *queue, struct store **ret, struct error **err)
{
    _cleanup_(store_freep) struct store *s = xcalloc(1, sizeof(*s));

    s->refs = 1;
    s->queue = queue;
    s->dirfd = dir_open_or_make(dir, 0700);
    if (s->dirfd < 0)
        return error_set(err, s->dirfd, "cannot open record directory %s: %s", dir,
                         strerror(-s->dirfd));
    sweep_temporaries(s->dirfd);
    reserve_make(s);
    *ret = TAKE(s);
    return 0;
}

int store_open_readonly(const char *dir, struct store **ret, struct error **err)
{
    _cleanup_(store_freep) struct store *s = xcalloc(1, sizeof(*s));

    s->refs = 1;
    s->readonly = true;
    s->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dirfd < 0)
        return error_set(err, -errno, "cannot open record directory %s: %s", dir, strerror(errno));
    *ret = TAKE(s);
    return 0;
}

void store_unref(struct store *s)
{
    if (--s->refs > 0)
        return;
    close_fd(s->dirfd);
    free(s);
}

void store_free(struct store *s)
{
    if (s)
        store_unref(s);
}

/* Over "schema\0name\0record" with the record compact and its keys sorted. -EINVAL: no text can be made. */
static int checksum(json_int_t schema, const char *name, const json_t *record, char out[17])
{
    _cleanup_(freep) char *text = json_dumps(record, JSON_COMPACT | JSON_SORT_KEYS);
    char head[24];
    uint32_t crc;

    if (!text) /* no memory, or a string that is no UTF-8 */
        return -EINVAL;
    (void)snprintf(head, sizeof(head), "%" JSON_INTEGER_FORMAT, schema);
    crc = crc32c_update(~0U, head, strlen(head) + 1);
    crc = crc32c_update(crc, name, strlen(name) + 1);
    crc = ~crc32c_update(crc, text, strlen(text));
    (void)snprintf(out, 17, "crc32c:%08" PRIx32, crc);
    return 0;
}

static int dump_append(const char *bytes, size_t len, void *userdata)
{
    return buf_append(userdata, bytes, len);
}

static int envelope_write(const char *name, const json_t *doc, struct buf *out, struct error **err)
{
    json_t *envelope;
    char sum[17];
    int r;

    if (!name_is_valid(name))
        return error_set(err, -EINVAL, "'%.64s' is no record name", name);
    if (!json_is_object(doc))
        return error_set(err, -EINVAL, "record %s is no object", name);
    r = checksum(SCHEMA, name, doc, sum);
    if (r < 0)
        return error_set(err, r, "record %s: cannot be written as text", name);
    envelope = json_pack("{s:i, s:s, s:O}", "schema", SCHEMA, "checksum", sum, "record", doc);
    if (!envelope)
        return error_set(err, -ENOMEM, "record %s: out of memory", name);
    r = json_dump_callback(envelope, dump_append, out, JSON_INDENT(1));
    json_decref(envelope);
    if (r < 0)
        return error_set(err, -E2BIG, "record %s is larger than %u bytes", name,
                         LIMIT_RECORD_BYTES);
    r = buf_append(out, "\n", 1);
    return r < 0 ? error_set(err, -E2BIG, "record %s is too large", name) : 0;
}

int store_write_file(struct store *s, const char *name, const struct buf *text, bool owed)
{
    char file[NAME_LIMIT + 8];
    int r;

    (void)snprintf(file, sizeof(file), "%s.json", name);
    r = FP("store.put");
    if (r == 0)
        r = file_write_atomic(s->dirfd, file, text->data, text->used, 0600, /* durable= */ true);
    if ((r == -ENOSPC || r == -EDQUOT) && owed && s->has_reserve) {
        (void)unlinkat(s->dirfd, RESERVE_NAME, 0);
        s->has_reserve = false;
        s->reserve_given_up = true;
        r = file_write_atomic(s->dirfd, file, text->data, text->used, 0600, /* durable= */ true);
    } else if (r == 0 && s->reserve_given_up) {
        reserve_make(s);
        s->reserve_given_up = !s->has_reserve;
    }
    return r;
}

int store_delete_file(struct store *s, const char *name)
{
    char file[NAME_LIMIT + 8];
    int r = FP("store.delete");

    (void)snprintf(file, sizeof(file), "%s.json", name);
    return r < 0 ? r : file_unlink_durable(s->dirfd, file);
}

static int check_writable(const struct store *s, struct error **err)
{
    return s->queue ? 0 : error_set(err, -EROFS, "this store is only read");
}

int store_put(struct store *s, const char *name, const json_t *doc, unsigned flags,
              store_done_fn done, void *userdata, struct store_op **ret, struct error **err)
{
    _cleanup_(buf_done) struct buf text;
    int r = check_writable(s, err);

    buf_init(&text, LIMIT_RECORD_BYTES);
    if (r == 0)
        r = envelope_write(name, doc, &text, err);
    if (r < 0)
        return r;
    return store_queue_add(s->queue, s, name, &text, flags & STORE_OWED, done, userdata, ret, err);
}

int store_delete(struct store *s, const char *name, store_done_fn done, void *userdata,
                 struct store_op **ret, struct error **err)
{
    int r = check_writable(s, err);

    if (r < 0)
        return r;
    if (!name_is_valid(name))
        return error_set(err, -EINVAL, "'%.64s' is no record name", name);
    return store_queue_add(s->queue, s, name, NULL, false, done, userdata, ret, err);
}

/* What a file holds, without touching it. */
struct loaded {
    json_t *record;     /* owned; NULL unless good */
    const char *reason; /* why it is damaged; NULL unless it is */
    json_int_t newer;   /* a schema above ours; 0 unless so */
};

static int damaged(struct loaded *l, const char *reason)
{
    l->reason = reason;
    return -EBADMSG;
}

/* A newer schema counts as one only if its checksum holds: a flipped byte must not stop the start. */
static int envelope_read(const char *name, json_t *envelope, struct loaded *ret)
{
    json_t *schema = json_object_get(envelope, "schema");
    json_t *sum = json_object_get(envelope, "checksum");
    json_t *record = json_object_get(envelope, "record");
    char want[17];
    int r;

    if (!json_is_integer(schema) || !json_is_object(record) || json_object_size(envelope) != 3)
        return damaged(ret, "not an envelope of a record");
    if (!json_is_null(sum)) {
        r = checksum(json_integer_value(schema), name, record, want);
        if (r < 0)
            return r;
        if (!json_is_string(sum) || strcmp(json_string_value(sum), want) != 0)
            return damaged(ret, "the checksum does not hold");
    }
    if (json_integer_value(schema) > SCHEMA) {
        ret->newer = json_integer_value(schema);
        return -EPROTONOSUPPORT;
    }
    if (json_integer_value(schema) < 1)
        return damaged(ret, "impossible schema version");
    ret->record = json_incref(record);
    return 0;
}

/* 0 good; -EBADMSG damaged (reason set); -EPROTONOSUPPORT newer; other errno: could not be read. */
static int load(const struct store *s, const char *name, struct loaded *ret)
{
    _cleanup_(closep) int fd = -EBADF;
    _cleanup_(freep) char *text = NULL;
    char file[NAME_LIMIT + 8];
    json_error_t je;
    json_t *envelope;
    struct stat st;
    size_t len;
    int r;

    memset(ret, 0, sizeof(*ret));
    (void)snprintf(file, sizeof(file), "%s.json", name);
    fd = openat(s->dirfd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && (errno == ELOOP || errno == ENXIO || errno == ENODEV))
        return damaged(ret, "not a regular file");
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return damaged(ret, "not a regular file");
    if (st.st_uid != geteuid() || (st.st_mode & 022) || st.st_nlink != 1)
        return damaged(ret, "owner, mode or link count is not ours");
    r = fd_read_all(fd, LIMIT_RECORD_BYTES, &text, &len);
    if (r == -EFBIG)
        return damaged(ret, "larger than a record can be");
    if (r < 0)
        return r;
    envelope = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!envelope)
        return damaged(ret, "not valid JSON");
    r = envelope_read(name, envelope, ret);
    json_decref(envelope);
    return r;
}

/* Moves the file away under a name that keeps earlier ones. */
static int set_aside(struct store *s, const char *name)
{
    char from[NAME_LIMIT + 8], to[NAME_LIMIT + 40], tag[9];

    if (mkdirat(s->dirfd, "damaged", 0700) < 0 && errno != EEXIST)
        return -errno;
    random_hex(tag, 8);
    (void)snprintf(from, sizeof(from), "%s.json", name);
    (void)snprintf(to, sizeof(to), "damaged/%s.json.%s", name, tag);
    if (renameat(s->dirfd, from, s->dirfd, to) < 0)
        return -errno;
    return fsync(s->dirfd) < 0 ? -errno : 0;
}

int store_get(struct store *s, const char *name, json_t **ret, struct error **err)
{
    struct loaded l;
    int r;

    if (!name_is_valid(name))
        return error_set(err, -EINVAL, "'%.64s' is no record name", name);
    r = load(s, name, &l);
    if (r == 0) {
        *ret = l.record;
        return 0;
    }
    if (r == -ENOENT)
        return error_set(err, r, "no record %s", name);
    if (r == -EPROTONOSUPPORT)
        return error_set(err, r, "record %s has schema %" JSON_INTEGER_FORMAT ", newer than %d",
                         name, l.newer, SCHEMA);
    if (r != -EBADMSG)
        return error_set(err, r, "cannot read record %s: %s", name, strerror(-r));
    r = set_aside(s, name);
    if (r < 0)
        return error_set(err, -EBADMSG, "record %s is damaged (%s) and cannot be set aside: %s",
                         name, l.reason, strerror(-r));
    return error_set(err, -EBADMSG, "record %s is damaged (%s), set aside", name, l.reason);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int list_names(const struct store *s, char ***ret)
{
    _cleanup_(closep) int fd = openat(s->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_(strv_freep) char **names = NULL;
    size_t used = 0, room = 0;
    struct dirent *e;
    DIR *d;

    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d)
        return -errno;
    TAKE_FD(fd);
    while ((e = readdir(d))) {
        size_t n = strlen(e->d_name);
        char *name;

        if (!str_ends(e->d_name, ".json"))
            continue;
        name = str_ndup(e->d_name, n - 5);
        if (!name_is_valid(name)) {
            free(name);
            continue;
        }
        if (used + 1 >= room) {
            room = room ? room * 2 : 64;
            names = xrealloc(names, room, sizeof(*names));
        }
        names[used++] = name;
        names[used] = NULL;
    }
    (void)closedir(d);
    if (used)
        qsort(names, used, sizeof(*names), compare_names);
    *ret = TAKE(names);
    return 0;
}

static int refuse_newer(struct store *s, char **names, struct error **err)
{
    for (size_t i = 0; names && names[i]; i++) {
        struct loaded l;
        int r = load(s, names[i], &l);

        json_decref(l.record);
        if (r == -EPROTONOSUPPORT)
            return error_set(err, r,
                             "record %s has schema %" JSON_INTEGER_FORMAT
                             ", newer than the %d this version knows",
                             names[i], l.newer, SCHEMA);
    }
    return 0;
}

int store_scan(struct store *s, store_record_fn fn, store_damaged_fn bad, void *userdata,
               struct error **err)
{
    _cleanup_(strv_freep) char **names = NULL;
    int r = list_names(s, &names);

    if (r < 0)
        return error_set(err, r, "cannot list the records: %s", strerror(-r));
    r = refuse_newer(s, names, err);
    if (r < 0)
        return r;
    for (size_t i = 0; names && names[i]; i++) {
        struct loaded l;

        r = load(s, names[i], &l);
        if (r == 0) {
            fn(names[i], l.record, userdata);
            json_decref(l.record);
            continue;
        }
        if (r == -ENOENT) /* deleted by fn meanwhile */
            continue;
        if (r != -EBADMSG)
            return error_set(err, r, "cannot read record %s: %s", names[i], strerror(-r));
        if (!s->readonly)
            (void)set_aside(s, names[i]); /* still damaged at the next start if it fails */
        if (bad)
            bad(names[i], l.reason, userdata);
    }
    return 0;
}
