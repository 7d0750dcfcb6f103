/* SPDX-License-Identifier: Apache-2.0 */
#include "base/numparse.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"

static int digits(const char *s, uint64_t max, uint64_t *ret, const char **ret_end)
{
    uint64_t v = 0;
    const char *p = s;

    for (; *p >= '0' && *p <= '9'; p++) {
        if (!checked_mul(v, 10U, &v) || !checked_add(v, (uint64_t)(*p - '0'), &v))
            return -ERANGE;
    }
    if (p == s)
        return -EINVAL;
    *ret_end = p;
    if (v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

int parse_u64(const char *s, uint64_t max, uint64_t *ret)
{
    const char *end = NULL;
    uint64_t v = 0;
    int r = digits(s, max, &v, &end);

    if (r < 0 && r != -ERANGE)
        return r;
    if (r == -ERANGE)
        return s[strspn(s, "0123456789")] ? -EINVAL : r;
    if (*end)
        return -EINVAL;
    *ret = v;
    return 0;
}

int parse_u32(const char *s, uint32_t max, uint32_t *ret)
{
    uint64_t v = 0;
    int r = parse_u64(s, max, &v);

    if (r == 0)
        *ret = (uint32_t)v;
    return r;
}

int parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret)
{
    uint64_t magnitude = 0;
    int negative = *s == '-';
    int64_t v;
    int r = parse_u64(s + negative, (uint64_t)INT64_MAX + (negative ? 1 : 0), &magnitude);

    if (r < 0)
        return r;
    v = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    if (v < min || v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

int parse_size(const char *s, uint64_t max, uint64_t *ret)
{
    static const char units[] = "KMGT";
    const char *end = NULL, *unit;
    uint64_t v = 0;
    int r = digits(s, UINT64_MAX, &v, &end);

    if (r < 0)
        return r;
    unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        if (!checked_mul(v, 1ULL << (10 * (unit - units + 1)), &v))
            return -ERANGE;
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'B')
        end++;
    if (*end)
        return -EINVAL;
    if (v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

int parse_span_ms(const char *s, uint64_t max_ms, uint64_t *ret)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    const char *end = NULL;
    uint64_t v = 0;
    int r = digits(s, UINT64_MAX, &v, &end);

    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(units[i].unit, end) != 0)
            continue;
        if (!checked_mul(v, units[i].ms, &v) || v > max_ms)
            return -ERANGE;
        *ret = v;
        return 0;
    }
    return -EINVAL;
}
