/* SPDX-License-Identifier: Apache-2.0 */
/* store: on a full disk (a failpoint says so) the reserve is spent for what is owed and for nothing else. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/file.h"
#include "lib/test.h"
#include "store/store.h"

static off_t reserve_bytes(int dirfd)
{
    struct stat st;

    return fstatat(dirfd, ".reserve", &st, 0) == 0 ? st.st_size : 0;
}

static struct store_queue *queue;

static void on_written(void *userdata, int r, const struct error *err)
{
    *(int *)userdata = r;
}

/* To the end. */
static int put(struct store *s, const char *name, const json_t *doc, unsigned flags)
{
    int end = 1, r = store_put(s, name, doc, flags, on_written, &end, NULL, NULL);

    assert_int_equal(store_queue_drain(queue, 60000), 0);
    return r < 0 ? r : end;
}

static void the_reserve_is_for_what_is_owed(void **state)
{
    char dir[] = "/tmp/nexus-reserve.XXXXXX";
    struct store *s = NULL;
    json_t *doc = json_pack("{s:i}", "n", 1);
    sd_event *event = NULL;
    int dirfd;

    assert_true(sd_event_new(&event) >= 0);
    assert_int_equal(store_queue_new(event, &queue, NULL), 0);
    assert_non_null(mkdtemp(dir));
    assert_int_equal(store_open(dir, queue, &s, NULL), 0);
    dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(reserve_bytes(dirfd), 4 << 20);
    assert_int_equal(put(s, "a", doc, 0), -ENOSPC); /* it and the next find no space */
    assert_int_equal(reserve_bytes(dirfd), 4 << 20);
    assert_int_equal(put(s, "a", doc, STORE_OWED), 0);
    assert_int_equal(reserve_bytes(dirfd), 0);
    assert_int_equal(put(s, "b", doc, 0), 0); /* space again: the reserve comes back */
    assert_int_equal(reserve_bytes(dirfd), 4 << 20);
    store_free(s);
    store_queue_free(queue);
    sd_event_unref(event);
    close_fd(dirfd);
    json_decref(doc);
    assert_int_equal(dir_remove_tree(AT_FDCWD, dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_reserve_is_for_what_is_owed)};

#ifndef NEXUS_FAILPOINTS
    return 77; /* a build without failpoints: skipped */
#endif
    (void)setenv("NEXUS_FAILPOINTS", "store.put=1*error(ENOSPC);file.write.open=1*error(ENOSPC)",
                 1);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
