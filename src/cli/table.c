/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/table.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/cli.h"

struct table {
    const char *const *headings;
    size_t columns;
    char **cells; /* strv, row after row */
    size_t count;
};

struct table *table_new(const char *const *headings)
{
    struct table *t = xcalloc(1, sizeof(*t));

    t->headings = headings;
    while (headings[t->columns])
        t->columns++;
    return t;
}

void table_add(struct table *t, const char *text)
{
    t->cells = xrealloc(t->cells, t->count + 1, sizeof(*t->cells));
    t->cells[t->count++] = cli_clean(text ? text : "");
}

/* Characters, not bytes: enough for text without double-width letters. */
static size_t width_of(const char *s)
{
    size_t n = 0;

    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void print_row(const struct table *t, char *const *cells, const size_t *widths)
{
    for (size_t c = 0; c < t->columns; c++) {
        size_t pad = c + 1 < t->columns ? widths[c] - width_of(cells[c]) + 2 : 0;
        printf("%s%*s", cells[c], (int)pad, "");
    }
    printf("\n");
}

void table_print(const struct table *t)
{
    _cleanup_(freep) size_t *widths = xcalloc(t->columns, sizeof(*widths));

    for (size_t c = 0; c < t->columns; c++)
        widths[c] = width_of(t->headings[c]);
    for (size_t i = 0; i < t->count; i++)
        if (width_of(t->cells[i]) > widths[i % t->columns])
            widths[i % t->columns] = width_of(t->cells[i]);
    print_row(t, (char *const *)(uintptr_t)t->headings, widths);
    for (size_t i = 0; i + t->columns <= t->count; i += t->columns)
        print_row(t, t->cells + i, widths);
}

void table_free(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
}

const char *human_bytes(uint64_t bytes, char out[HUMAN_SIZE])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    uint64_t tenths = bytes; /* of the unit, from kB on */
    size_t u = 0;

    if (bytes < 1000) {
        (void)snprintf(out, HUMAN_SIZE, "%u B", (unsigned)bytes);
        return out;
    }
    for (uint64_t rest = bytes; rest >= 1000; rest /= 1000) {
        tenths = rest / 100;
        u++;
    }
    (void)snprintf(out, HUMAN_SIZE, "%u.%u %s", (unsigned)(tenths / 10), (unsigned)(tenths % 10),
                   units[u]);
    return out;
}

const char *human_ago(int64_t then_ns, uint64_t now_ns, char out[HUMAN_SIZE])
{
    static const struct {
        const char *name;
        uint64_t seconds;
    } units[] = {{"day", 86400}, {"hour", 3600}, {"minute", 60}, {"second", 1}};
    uint64_t age =
        then_ns > 0 && now_ns > (uint64_t)then_ns ? (now_ns - (uint64_t)then_ns) / 1000000000 : 0;
    size_t u = 0;

    if (then_ns <= 0) {
        (void)snprintf(out, HUMAN_SIZE, "-");
        return out;
    }
    while (u + 1 < ARRAY_SIZE(units) && age < units[u].seconds)
        u++;
    age /= units[u].seconds;
    (void)snprintf(out, HUMAN_SIZE, "%llu %s%s ago", (unsigned long long)age, units[u].name,
                   age == 1 ? "" : "s");
    return out;
}

const char *human_id(const char *id, char out[HUMAN_SIZE])
{
    if (str_starts(id, "sha256:"))
        id += strlen("sha256:");
    (void)snprintf(out, HUMAN_SIZE, "%.12s", id);
    return out;
}
