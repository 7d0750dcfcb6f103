/* SPDX-License-Identifier: Apache-2.0 */
/* image: names, removal and use as CRI wants them, and what a crash or damage leaves is put right. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/str.h"
#include "image/image-internal.h"
#include "image/image-store.h"
#include "lib/test.h"
#include "oci/reference.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define L1 "1111111111111111111111111111111111111111111111111111111111111111"
#define L2 "2222222222222222222222222222222222222222222222222222222222222222"
#define M "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
#define L3 "3333333333333333333333333333333333333333333333333333333333333333"

struct fixture {
    char dir[40];
    int dirfd;
    sd_event *event;
    struct store_queue *queue;
    struct image_store *s;
    unsigned bad;
};

static void on_bad(const char *name, const char *reason, void *userdata)
{
    ((struct fixture *)userdata)->bad++;
    print_message("# set aside: %.12s %s\n", name, reason);
}

/* Everything is on disk, and told. */
static void settle(struct fixture *f)
{
    assert_int_equal(store_queue_drain(f->queue, 60000), 0);
    while (f->s && (f->s->walk_job || !list_is_empty(&f->s->writes)))
        assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
}

static void reopen(struct fixture *f)
{
    struct image_config cfg = {.queue = f->queue, .root = f->dir, .pull_helper = "/bin/false"};

    image_store_close(f->s);
    f->s = NULL;
    settle(f);
    f->bad = 0;
    assert_int_equal(image_store_open(f->event, &cfg, on_bad, f, &f->s, NULL), 0);
}

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof(*f));

    memcpy(f->dir, "/tmp/nexus-image.XXXXXX", sizeof("/tmp/nexus-image.XXXXXX"));
    if (!mkdtemp(f->dir) || sd_event_new(&f->event) < 0 ||
        store_queue_new(f->event, &f->queue, NULL) < 0)
        return -1;
    f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = f;
    reopen(f);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    image_store_close(f->s);
    f->s = NULL;
    settle(f);
    store_queue_free(f->queue);
    sd_event_unref(f->event);
    close_fd(f->dirfd);
    (void)dir_remove_tree(AT_FDCWD, f->dir);
    free(f);
    return 0;
}

static void make_file(struct fixture *f, const char *sub, const char *hex, const char *suffix,
                      off_t size)
{
    char path[200];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%s%s", sub, hex, suffix);
    fd = openat(f->dirfd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close_fd(fd);
}

static bool has_file(struct fixture *f, const char *sub, const char *hex, const char *suffix)
{
    char path[200];

    (void)snprintf(path, sizeof(path), "%s/%s%s", sub, hex, suffix);
    return faccessat(f->dirfd, path, F_OK, 0) == 0;
}

/* What a pull leaves: the files, and an entry for image_store_add. data of the second layer is empty. */
static struct image_entry *make_entry(struct fixture *f, const char *id, const char *layer1,
                                      const char *layer2)
{
    struct image_entry *e = NULL;
    char text[800];
    json_t *doc;

    (void)snprintf(text, sizeof(text),
                   "{\"id\":\"sha256:%s\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                   "\",\"process\":{\"user\":\"www-data\"},\"layers\":["
                   "{\"diff_id\":\"sha256:%s\",\"data_bytes\":8192,\"index_bytes\":200},"
                   "{\"diff_id\":\"sha256:%s\",\"data_bytes\":0,\"index_bytes\":130}]}",
                   id, layer1, layer2);
    doc = json_loads(text, 0, NULL);
    assert_non_null(doc);
    assert_int_equal(image_entry_from_json(doc, &e, NULL), 0);
    json_decref(doc);
    make_file(f, "layers", layer1, ".2.data", 8192);
    make_file(f, "layers", layer1, ".2.index", 200);
    make_file(f, "layers", layer2, ".2.data", 0);
    make_file(f, "layers", layer2, ".2.index", 130);
    make_file(f, "meta", id, ".2.erofs", 4096);
    return e;
}

static void on_added(int r, const struct error *err, struct image_entry *e, void *userdata)
{
    assert_int_equal(r, 0);
    *(struct image_entry **)userdata = e;
}

static void on_removed(int r, const struct error *err, void *userdata)
{
    *(int *)userdata = r;
}

/* To the end; it is not listed from the first moment on. */
static int remove_image(struct fixture *f, const char *name)
{
    struct image_write *w = NULL;
    int end = 1, r = image_remove(f->s, name, on_removed, &end, &w, NULL);

    assert_null(image_lookup(f->s, name));
    settle(f);
    assert_true(r == 0 || (r == 1 && end <= 0));
    return r == 0 ? 0 : end;
}

static void drop(struct fixture *f, const struct image *i)
{
    image_unref(f->s, i);
    settle(f);
}

static const struct image *add(struct fixture *f, const char *reference, const char *id,
                               const char *layer1, const char *layer2)
{
    struct image_entry *e = make_entry(f, id, layer1, layer2);
    struct oci_digest top;
    struct oci_reference ref;

    assert_int_equal(oci_reference_parse(reference, &ref, NULL), 0);
    memset(&top, 0, sizeof(top));
    memcpy(top.hex, id, 64);
    top.hex[0] = 'c';
    assert_int_equal(image_store_add(f->s, e, &ref, &top, on_added, &e, NULL), 0);
    settle(f);
    oci_reference_done(&ref);
    return &e->pub;
}

static void an_image_is_found_by_every_form_of_its_name(void **state)
{
    struct fixture *f = *state;
    const struct image *i = add(f, "busybox", A, L1, L2);
    static const char *const forms[] = {
        "busybox",
        "busybox:latest",
        "docker.io/busybox",
        "docker.io/library/busybox:latest",
        "sha256:" A,
        A,
        "busybox@sha256:c"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    static const char *const others[] = {"busybox:1", "Busybox",          "", "sha256:" B, "aaaa",
                                         "x/busybox", "busybox@sha256:" A};

    for (int again = 0; again < 2; again++) {
        for (size_t k = 0; k < ARRAY_SIZE(forms); k++) {
            print_message("# %s\n", forms[k]);
            i = image_lookup(f->s, forms[k]);
            assert_non_null(i);
            assert_string_equal(i->id, "sha256:" A);
        }
        for (size_t k = 0; k < ARRAY_SIZE(others); k++)
            assert_null(image_lookup(f->s, others[k]));
        assert_string_equal(i->username, "www-data");
        assert_int_equal(i->uid, -1);
        assert_int_equal(i->size_bytes, 4096 + 8192 + 200 + 130);
        reopen(f); /* the record says the same */
        assert_int_equal(f->bad, 0);
    }
}

static void a_tag_moves_to_the_newer_image(void **state)
{
    struct fixture *f = *state;

    (void)add(f, "app:1", A, L1, L2);
    (void)add(f, "app:2", A, L1, L2);
    (void)add(f, "app:1", B, L1, L3);
    for (int again = 0; again < 2; again++) {
        assert_string_equal(image_lookup(f->s, "app:1")->id, "sha256:" B);
        assert_string_equal(image_lookup(f->s, "app:2")->id, "sha256:" A);
        assert_int_equal(strv_len(image_lookup(f->s, A)->repo_tags), 1);
        assert_int_equal(strv_len(image_lookup(f->s, A)->repo_digests), 1);
        reopen(f);
    }
}

static void listing_goes_by_id_and_leaves_out_removed_images(void **state)
{
    struct fixture *f = *state;
    const struct image *i;

    assert_null(image_next(f->s, NULL));
    (void)add(f, "b", B, L1, L3);
    i = add(f, "a", A, L1, L2);
    assert_ptr_equal(image_next(f->s, NULL), i);
    assert_string_equal(image_next(f->s, i)->id, "sha256:" B);
    assert_null(image_next(f->s, image_next(f->s, i)));
    (void)image_ref(f->s, "sha256:" A);
    assert_int_equal(remove_image(f, "a"), 0);
    assert_string_equal(image_next(f->s, NULL)->id, "sha256:" B);
    drop(f, i);
}

static void removal_by_one_name_removes_all_and_keeps_shared_layers(void **state)
{
    struct fixture *f = *state;
    struct image_fs_info before, after;

    (void)add(f, "app:1", A, L1, L2);
    (void)add(f, "app:2", A, L1, L2);
    (void)add(f, "other", B, L1, L3);
    assert_int_not_equal(image_collect(f->s), 0); /* counts; a pull does that before it adds */
    settle(f);
    image_fs_info(f->s, &before);
    for (int i = 0; i < 5; i++) /* idempotent */
        assert_int_equal(remove_image(f, "app:2"), 0);
    image_fs_info(f->s, &after);
    assert_null(image_lookup(f->s, "app:1"));
    assert_null(image_lookup(f->s, A));
    assert_false(has_file(f, "meta", A, ".2.erofs"));
    assert_false(has_file(f, "layers", L2, ".2.index"));
    assert_true(has_file(f, "layers", L1, ".2.data"));
    assert_true(has_file(f, "layers", L3, ".2.data"));
    assert_int_equal(before.inodes_used - after.inodes_used, 4);
    assert_string_equal(after.mountpoint, f->dir);
    assert_int_equal(remove_image(f, "never heard of it!"), 0);
    reopen(f);
    assert_null(image_lookup(f->s, A));
    assert_non_null(image_lookup(f->s, "other"));
}

static void a_used_image_keeps_its_files_until_the_last_unref(void **state)
{
    struct fixture *f = *state;
    const struct image *i = add(f, "app", A, L1, L2);

    assert_ptr_equal(image_ref(f->s, "sha256:" A), i);
    assert_ptr_equal(image_ref(f->s, "sha256:" A), i);
    assert_null(image_ref(f->s, A));
    assert_null(image_ref(f->s, "sha256:" B));
    assert_int_equal(remove_image(f, "app"), 0);
    assert_null(image_lookup(f->s, "app"));
    assert_null(image_lookup(f->s, A));
    drop(f, i);
    assert_true(has_file(f, "layers", L1, ".2.data"));
    drop(f, i);
    assert_false(has_file(f, "layers", L1, ".2.data"));
    assert_false(has_file(f, "meta", A, ".2.erofs"));
}

static void a_used_image_survives_a_restart_if_the_use_is_taken_again(void **state)
{
    struct fixture *f = *state;
    const struct image *i;

    (void)add(f, "app", A, L1, L2);
    (void)add(f, "gone", B, L3, L2);
    (void)image_ref(f->s, "sha256:" A);
    (void)image_ref(f->s, "sha256:" B);
    assert_int_equal(remove_image(f, "app"), 0);
    assert_int_equal(remove_image(f, "gone"), 0);
    reopen(f);
    assert_null(image_lookup(f->s, "app"));
    i = image_ref(f->s, "sha256:" A);
    assert_non_null(i);
    image_store_settle(f->s);
    settle(f);
    assert_true(has_file(f, "layers", L1, ".2.data"));
    assert_true(has_file(f, "layers", L2, ".2.index"));
    assert_false(has_file(f, "layers", L3, ".2.data"));
    assert_false(has_file(f, "meta", B, ".2.erofs"));
    drop(f, i);
    assert_false(has_file(f, "layers", L1, ".2.data"));
}

/* nexus-pull holds the lock while it may use a file that no record names. */
static void nothing_is_collected_while_a_pull_holds_the_lock(void **state)
{
    struct fixture *f = *state;
    int pull = openat(f->dirfd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)add(f, "app", A, L1, L2);
    (void)add(f, "other", B, L3, L2);
    assert_int_equal(flock(pull, LOCK_SH), 0);
    assert_int_equal(remove_image(f, "app"), 0);
    assert_true(has_file(f, "layers", L1, ".2.data"));
    close_fd(pull);
    assert_int_equal(remove_image(f, "other"), 0); /* the next walk remembers */
    assert_false(has_file(f, "layers", L1, ".2.data"));
    assert_false(has_file(f, "layers", L3, ".2.data"));
    assert_false(has_file(f, "meta", A, ".2.erofs"));
}

/* Layers that a failed pull has left go with the next walk, however new, also when that pull fails while a walk
 * is under way, and when the walk finds the lock taken. */
static void what_a_failed_pull_left_goes_with_the_next_walk(void **state)
{
    struct fixture *f = *state;
    int pull = openat(f->dirfd, "layers", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_int_not_equal(image_collect(f->s), 0);
    assert_non_null(f->s->walk);
    make_file(f, "layers", L1, ".2.data", 8192);
    f->s->fresh_orphans = true;
    assert_int_not_equal(image_collect(f->s), 0);
    settle(f);
    assert_false(has_file(f, "layers", L1, ".2.data"));

    make_file(f, "layers", L2, ".2.data", 8192);
    f->s->fresh_orphans = true;
    assert_int_equal(flock(pull, LOCK_SH), 0);
    assert_int_not_equal(image_collect(f->s), 0);
    settle(f);
    assert_true(has_file(f, "layers", L2, ".2.data"));
    close_fd(pull);
    assert_int_not_equal(image_collect(f->s), 0);
    settle(f);
    assert_false(has_file(f, "layers", L2, ".2.data"));

    make_file(f, "layers", L3, ".2.data", 8192); /* what another pull may be about to name */
    assert_int_not_equal(image_collect(f->s), 0);
    settle(f);
    assert_true(has_file(f, "layers", L3, ".2.data"));
}

/* A walk that is told to stop says nothing about what is there, and who waited is told all the same. */
static void a_walk_that_was_stopped_is_done_again(void **state)
{
    struct fixture *f = *state;
    struct image_fs_info before, after;
    struct image_write *w = NULL;
    int end = 1;

    (void)add(f, "app", A, L1, L2);
    assert_int_not_equal(image_collect(f->s), 0);
    settle(f);
    image_fs_info(f->s, &before);
    assert_int_equal(image_remove(f->s, "app", on_removed, &end, &w, NULL), 1);
    while (!f->s->walk)
        assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
    image_collect_stop(f->s);
    settle(f);
    assert_int_equal(end, 0);
    assert_int_not_equal(image_collect(f->s), 0);
    settle(f);
    image_fs_info(f->s, &after);
    assert_int_equal(before.inodes_used - after.inodes_used, 6);
    assert_false(has_file(f, "layers", L1, ".2.data"));
}

/* RemoveImage and PullImage of the same image at once: it is there in the end, in memory and on disk. */
static void an_image_pulled_while_it_is_removed_stays(void **state)
{
    struct fixture *f = *state;
    struct image_entry *e;
    struct image_write *w = NULL;
    struct oci_digest top = {.hex = M};
    struct oci_reference ref;
    int end = 1;

    (void)add(f, "app", A, L1, L2);
    assert_int_equal(image_remove(f->s, "app", on_removed, &end, &w, NULL), 1);
    e = make_entry(f, A, L1, L2);
    assert_int_equal(oci_reference_parse("app", &ref, NULL), 0);
    assert_int_equal(image_store_add(f->s, e, &ref, &top, on_added, &e, NULL), 0);
    settle(f);
    oci_reference_done(&ref);
    assert_int_equal(end, 0);
    for (int again = 0; again < 2; again++) {
        assert_non_null(image_lookup(f->s, "app"));
        assert_true(has_file(f, "layers", L1, ".2.data"));
        reopen(f);
        assert_int_equal(f->bad, 0);
    }
}

static void a_removed_image_that_is_pulled_again_is_back(void **state)
{
    struct fixture *f = *state;
    const struct image *i = add(f, "app:1", A, L1, L2);

    (void)image_ref(f->s, "sha256:" A);
    assert_int_equal(remove_image(f, "app:1"), 0);
    assert_ptr_equal(add(f, "app:2", A, L1, L2), i);
    assert_null(image_lookup(f->s, "app:1"));
    assert_ptr_equal(image_lookup(f->s, "app:2"), i);
    drop(f, i);
    assert_true(has_file(f, "layers", L1, ".2.data"));
}

static void the_region_is_metadata_then_the_layers_with_data(void **state)
{
    struct fixture *f = *state;
    const struct image *i = add(f, "app", A, L1, L2);
    struct image_region *r = NULL;
    struct stat st;

    assert_int_equal(image_region_new(f->s, i, &r, NULL), 0);
    assert_int_equal(r->n, 2); /* the layer without data has no segment */
    assert_int_equal(r->bytes[0], 4096);
    assert_int_equal(r->bytes[1], 8192);
    assert_int_equal(image_region_open(r, NULL), 0);
    for (size_t k = 0; k < r->n; k++) {
        assert_int_equal(fcntl(r->fds[k], F_GETFL) & O_ACCMODE, O_RDONLY);
        assert_true(fcntl(r->fds[k], F_GETFD) & FD_CLOEXEC);
        assert_int_equal(fstat(r->fds[k], &st), 0);
        assert_int_equal(st.st_size, r->bytes[k]);
    }
    assert_string_equal(r->names[0], A ".2.erofs");
    assert_string_equal(r->names[1], L1 ".2.data");
    assert_null(r->names[2]);
    image_region_free(r);
    assert_int_equal(image_region_new(f->s, i, &r, NULL), 0);
    make_file(f, "layers", L1, ".2.data", 4096);
    assert_int_equal(image_region_open(r, NULL), -EBADMSG);
    image_region_free(r);
}

static void a_record_without_its_files_is_set_aside(void **state)
{
    struct fixture *f = *state;

    (void)add(f, "a", A, L1, L2);
    (void)add(f, "b", B, L3, L2);
    make_file(f, "layers", L1, ".2.data", 1);
    reopen(f);
    assert_int_equal(f->bad, 1);
    assert_null(image_lookup(f->s, "a"));
    assert_non_null(image_lookup(f->s, "b"));
    assert_int_equal(unlinkat(f->dirfd, "meta/" B ".2.erofs", 0), 0);
    reopen(f);
    assert_int_equal(f->bad, 1);
    assert_null(image_lookup(f->s, "b"));
}

static void open_sweeps_temporaries_and_old_orphans(void **state)
{
    struct fixture *f = *state;
    const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};

    make_file(f, "layers", ".tmp-x-data-0", "", 5);
    make_file(f, "layers", L1, ".2.data", 4096); /* fresh: a pull that failed may come again */
    make_file(f, "layers", L2, ".2.data", 4096);
    make_file(f, "meta", A, ".2.erofs", 4096);
    make_file(f, "layers", "README", "", 1); /* not ours */
    assert_int_equal(utimensat(f->dirfd, "layers/" L2 ".2.data", old, 0), 0);
    reopen(f);
    assert_false(has_file(f, "layers", ".tmp-x-data-0", ""));
    assert_true(has_file(f, "layers", L1, ".2.data"));
    assert_false(has_file(f, "layers", L2, ".2.data"));
    assert_false(has_file(f, "meta", A, ".2.erofs"));
    assert_true(has_file(f, "layers", "README", ""));
}

static const struct {
    const char *name, *text;
} damaged[] = {
    {"empty", "{}"},
    {"no_layers",
     "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"" M "\",\"process\":{}}"},
    {"short_id", "{\"id\":\"sha256:aa\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                 "\",\"process\":{},\"layers\":[]}"},
    {"path_id", "{\"id\":\"sha256:../../etc\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                "\",\"process\":{},\"layers\":[]}"},
    {"odd_meta", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4097,\"meta_sha256\":\"" M
                 "\",\"process\":{},\"layers\":[]}"},
    {"no_meta", "{\"id\":\"sha256:" A "\",\"process\":{},\"layers\":[]}"},
    {"no_meta_digest",
     "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"process\":{},\"layers\":[]}"},
    {"bad_meta_digest", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"x\","
                        "\"process\":{},\"layers\":[]}"},
    {"bad_user", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                 "\",\"process\":{\"user\":\"4294967296\"},\"layers\":[]}"},
    {"bad_tag", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                "\",\"process\":{},\"layers\":[],\"repo_tags\":[\"busybox\"]}"},
    {"tag_as_digest", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                      "\",\"process\":{},\"layers\":[],"
                      "\"repo_digests\":[\"docker.io/library/x:y\"]}"},
    {"layer_path", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                   "\",\"process\":{},\"layers\":[{\"diff_id\":\"../x\",\"data_bytes\":0,"
                   "\"index_bytes\":1}]}"},
    {"layer_size", "{\"id\":\"sha256:" A "\",\"meta_bytes\":4096,\"meta_sha256\":\"" M
                   "\",\"process\":{},\"layers\":[{\"diff_id\":\"sha256:" L1
                   "\",\"data_bytes\":1,\"index_bytes\":1}]}"},
};

static void damaged_results_are_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
        json_t *doc = json_loads(damaged[i].text, 0, NULL);
        struct image_entry *e = NULL;

        print_message("# %s\n", damaged[i].name);
        assert_non_null(doc);
        assert_true(image_entry_from_json(doc, &e, NULL) < 0);
        json_decref(doc);
    }
}

static const struct {
    const char *name, *reference;
    struct image_registry registry;
    struct image_auth auth;
    const char *want; /* url or url+ (sees credentials), space between */
    bool has_auth;
} requests[] = {
    {"plain_host", "a.b/x", {0}, {.username = "u"}, "https://a.b+", true},
    {"docker_hub", "x", {0}, {.username = "u"}, "https://registry-1.docker.io+", true},
    {"no_auth", "x", {0}, {0}, "https://registry-1.docker.io+", true},
    {"plain_http",
     "a.b:5000/x",
     {.host = "a.b:5000", .plain_http = true},
     {0},
     "http://a.b:5000+",
     true},
    {"other_hosts_settings",
     "a.c/x",
     {.host = "a.b", .plain_http = true},
     {0},
     "https://a.c+",
     true},
    {"mirror_sees_no_credentials",
     "a.b/x",
     {.host = "a.b", .endpoints = (const char *const[]){"http://m:1", NULL}},
     {.username = "u"},
     "http://m:1 https://a.b+",
     true},
    {"mirror_only",
     "a.b/x",
     {.host = "a.b",
      .endpoints = (const char *const[]){"http://m:1", NULL},
      .only_endpoints = true,
      .mirror_credentials = true},
     {.username = "u"},
     "http://m:1+",
     true},
    {"auth_for_this_host",
     "a.b/x",
     {0},
     {.username = "u", .server_address = "https://a.b/v1/"},
     "https://a.b+",
     true},
    {"auth_for_hub",
     "x",
     {0},
     {.username = "u", .server_address = "https://index.docker.io/v1/"},
     "https://registry-1.docker.io+",
     true},
    {"auth_for_another",
     "a.b/x",
     {0},
     {.username = "u", .server_address = "c.d"},
     "https://a.b+",
     false},
};

static void credentials_go_where_they_belong(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        struct image_registry reg = requests[i].registry;
        struct image_store s = {.registries = &reg, .n_registries = reg.host ? 1 : 0};
        struct oci_reference ref;
        char got[200] = "";
        json_t *doc, *list;

        print_message("# %s\n", requests[i].name);
        assert_int_equal(oci_reference_parse(requests[i].reference, &ref, NULL), 0);
        assert_int_equal(image_request_build(&s, &ref, &requests[i].auth, &doc, NULL), 0);
        list = json_object_get(doc, "endpoints");
        for (size_t k = 0; k < json_array_size(list); k++) {
            json_t *e = json_array_get(list, k);
            size_t n = strlen(got);

            (void)snprintf(got + n, sizeof(got) - n, "%s%s%s", k ? " " : "",
                           json_string_value(json_object_get(e, "url")),
                           json_is_true(json_object_get(e, "credentials")) ? "+" : "");
        }
        assert_string_equal(got, requests[i].want);
        assert_int_equal(json_object_get(doc, "auth") != NULL, requests[i].has_auth);
        json_decref(doc);
        oci_reference_done(&ref);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_image_is_found_by_every_form_of_its_name, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_tag_moves_to_the_newer_image, setup, teardown),
        cmocka_unit_test_setup_teardown(listing_goes_by_id_and_leaves_out_removed_images, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(removal_by_one_name_removes_all_and_keeps_shared_layers,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_used_image_keeps_its_files_until_the_last_unref, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_used_image_survives_a_restart_if_the_use_is_taken_again,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_collected_while_a_pull_holds_the_lock, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_a_failed_pull_left_goes_with_the_next_walk, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_walk_that_was_stopped_is_done_again, setup, teardown),
        cmocka_unit_test_setup_teardown(an_image_pulled_while_it_is_removed_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(a_removed_image_that_is_pulled_again_is_back, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_region_is_metadata_then_the_layers_with_data, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_record_without_its_files_is_set_aside, setup, teardown),
        cmocka_unit_test_setup_teardown(open_sweeps_temporaries_and_old_orphans, setup, teardown),
        cmocka_unit_test(damaged_results_are_refused),
        cmocka_unit_test(credentials_go_where_they_belong),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
