/* SPDX-License-Identifier: Apache-2.0 */
#include "fakes/fake-script.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/numparse.h"

#define WORD_MAX 96

static bool copy_part(char *out, size_t size, const char *from, size_t len)
{
    if (len >= size)
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

static int parse_word(struct fake_script *s, const char *word)
{
    struct fake_rule *r = &s->rules[s->n];
    size_t n = strcspn(word, "@#=");

    if (s->n == FAKE_RULES_MAX)
        return -EINVAL;
    *r = (struct fake_rule){0};
    if (!copy_part(r->action, sizeof(r->action), word, n))
        return -EINVAL;
    word += n;
    if (*word == '@') {
        n = strcspn(++word, "#=");
        if (!copy_part(r->point, sizeof(r->point), word, n))
            return -EINVAL;
        word += n;
    }
    if (*word == '#') {
        char number[12];

        n = strcspn(++word, "=");
        if (!copy_part(number, sizeof(number), word, n) || parse_u32(number, 1000000, &r->nth) < 0)
            return -EINVAL;
        word += n;
    }
    if (*word == '=') {
        word++;
        if (!copy_part(r->kind, sizeof(r->kind), word, strlen(word)))
            return -EINVAL;
        if (parse_u64(word, UINT64_MAX, &r->arg) < 0)
            r->arg = 0;
    }
    s->n++;
    return 0;
}

int fake_script_parse(struct fake_script *s, const char *text)
{
    static const char separators[] = " \t\n,;";

    while (text && *text) {
        char word[WORD_MAX];
        size_t n;

        text += strspn(text, separators);
        n = strcspn(text, separators);
        if (n == 0)
            break;
        if (!copy_part(word, sizeof(word), text, n) || parse_word(s, word) < 0) {
            (void)fprintf(stderr, "fake script: bad word at: %.40s\n", text);
            return -EINVAL;
        }
        text += n;
    }
    return 0;
}

const struct fake_rule *fake_script_setting(const struct fake_script *s, const char *action)
{
    for (unsigned i = 0; i < s->n; i++)
        if (strcmp(s->rules[i].action, action) == 0)
            return &s->rules[i];
    return NULL;
}

void fake_script_pass(struct fake_script *s, const char *point)
{
    for (unsigned i = 0; i < s->n; i++)
        if (strcmp(s->rules[i].point, point) == 0)
            s->rules[i].passed++;
}

const struct fake_rule *fake_script_due(const struct fake_script *s, const char *action,
                                        const char *point)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct fake_rule *r = &s->rules[i];

        if (strcmp(r->action, action) == 0 && strcmp(r->point, point) == 0 &&
            (r->nth == 0 || r->nth == r->passed))
            return r;
    }
    return NULL;
}
