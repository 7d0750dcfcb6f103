/* SPDX-License-Identifier: Apache-2.0 */
/* RuntimeDefault compiled: some ten milliseconds each time, and few sets of capabilities on a node. */
#include <pthread.h>
#include <string.h>

#include "base/str.h"
#include "seccomp/profile.h"

#define KEPT 16

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept {
    uint64_t capabilities;
    void *bpf; /* NULL: free; lives as long as the program */
    size_t len;
} kept[KEPT];
static size_t oldest;

static const struct kept *find(uint64_t capabilities)
{
    for (size_t i = 0; i < KEPT; i++)
        if (kept[i].bpf && kept[i].capabilities == capabilities)
            return &kept[i];
    return NULL;
}

static int compile(uint64_t capabilities, const struct kept **ret, struct error **err)
{
    struct kept *k = &kept[oldest];
    struct syscall_profile p = {0};
    void *bpf = NULL;
    size_t len = 0;
    int r;

    syscall_profile_default(capabilities, &p);
    r = syscall_profile_compile(&p, &bpf, &len, err);
    syscall_profile_done(&p);
    if (r < 0)
        return r;
    free(k->bpf);
    *k = (struct kept){capabilities, bpf, len};
    oldest = (oldest + 1) % KEPT;
    *ret = k;
    return 0;
}

int syscall_filter_default(uint64_t capabilities, void **ret, size_t *ret_len, struct error **err)
{
    const struct kept *k;
    int r = 0;

    (void)pthread_mutex_lock(&lock);
    k = find(capabilities);
    if (!k)
        r = compile(capabilities, &k, err);
    if (r == 0) {
        *ret = xcalloc(1, k->len);
        memcpy(*ret, k->bpf, k->len);
        *ret_len = k->len;
    }
    (void)pthread_mutex_unlock(&lock);
    return r;
}
