/* wallarooctl's reader of JSON: a tree of strings. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "supervisor/wallarooctl.h"

#define JSON_DEPTH	32

struct reader {
	const char	*p;
	const char	*end;
	bool		 bad;
};

static struct json *read_value(struct reader *, int);

static int
peek(struct reader *r)
{
	while (r->p < r->end && isspace((unsigned char)*r->p))
		r->p++;
	return (r->p < r->end ? (unsigned char)*r->p : -1);
}

static bool
accept_char(struct reader *r, int c)
{
	if (peek(r) != c)
		return (false);
	r->p++;
	return (true);
}

static unsigned int
read_hex(struct reader *r)
{
	char digits[5] = "";
	int i;

	for (i = 0; i < 4 && r->p < r->end; i++)
		digits[i] = *r->p++;
	return ((unsigned int)strtoul(digits, NULL, 16));
}

static void
put_utf8(struct buf *b, unsigned int c)
{
	if (c < 0x80)
		buf_addf(b, "%c", (int)c);
	else if (c < 0x800)
		buf_addf(b, "%c%c", (int)(0xc0 | c >> 6),
		    (int)(0x80 | (c & 0x3f)));
	else
		buf_addf(b, "%c%c%c", (int)(0xe0 | c >> 12),
		    (int)(0x80 | (c >> 6 & 0x3f)), (int)(0x80 | (c & 0x3f)));
}

static void
put_escape(struct buf *b, struct reader *r, char c)
{
	switch (c) {
	case 'n':
		buf_addf(b, "\n");
		break;
	case 't':
		buf_addf(b, "\t");
		break;
	case 'r':
		buf_addf(b, "\r");
		break;
	case 'u':
		put_utf8(b, read_hex(r));
		break;
	default:
		buf_addf(b, "%c", c);
		break;
	}
}

static char *
read_string(struct reader *r)
{
	struct buf b = { 0 };
	char *s;

	if (!accept_char(r, '"')) {
		r->bad = true;
		return (xstrdup(""));
	}
	while (r->p < r->end && *r->p != '"') {
		if (*r->p == '\\' && r->p + 1 < r->end) {
			r->p += 2;
			put_escape(&b, r, r->p[-1]);
		} else
			buf_add(&b, r->p++, 1);
	}
	if (r->p >= r->end)
		r->bad = true;
	else
		r->p++;
	s = xstrdup(b.len == 0 ? "" : buf_str(&b));
	buf_fini(&b);
	return (s);
}

static void
read_members(struct reader *r, struct json *j, int close, int depth)
{
	struct json **end = &j->child, *one;
	char *key;

	if (accept_char(r, close))
		return;
	do {
		key = NULL;
		if (close == '}') {
			key = read_string(r);
			if (!accept_char(r, ':'))
				r->bad = true;
		}
		one = read_value(r, depth + 1);
		one->key = key;
		*end = one;
		end = &one->next;
	} while (!r->bad && accept_char(r, ','));
	if (!accept_char(r, close))
		r->bad = true;
}

static struct json *
read_value(struct reader *r, int depth)
{
	struct json *j = xcalloc(1, sizeof(*j));
	const char *begin;

	if (depth > JSON_DEPTH)
		r->bad = true;
	if (r->bad)
		return (j);
	switch (peek(r)) {
	case '{':
		r->p++;
		read_members(r, j, '}', depth);
		break;
	case '[':
		r->p++;
		read_members(r, j, ']', depth);
		break;
	case '"':
		j->text = read_string(r);
		break;
	default:
		begin = r->p;
		while (r->p < r->end && strchr(",]} \t\r\n", *r->p) == NULL)
			r->p++;
		if (r->p == begin)
			r->bad = true;
		j->text = xstrndup(begin, (size_t)(r->p - begin));
		break;
	}
	return (j);
}

void
json_free(struct json *j)
{
	struct json *next;

	for (; j != NULL; j = next) {
		next = j->next;
		json_free(j->child);
		free(j->key);
		free(j->text);
		free(j);
	}
}

const struct json *
json_member(const struct json *j, const char *key)
{
	const struct json *m;

	for (m = j == NULL ? NULL : j->child; m != NULL; m = m->next)
		if (m->key != NULL && strcmp(m->key, key) == 0)
			return (m);
	return (NULL);
}

const char *
json_text(const struct json *j, const char *key)
{
	const struct json *m = json_member(j, key);

	return (m == NULL || m->text == NULL ? "-" : m->text);
}

struct json *
json_read(struct slice s)
{
	struct reader r = { (const char *)s.data,
	    (const char *)s.data + s.len, false };
	struct json *j = read_value(&r, 0);

	if (!r.bad)
		return (j);
	json_free(j);
	return (NULL);
}

void
json_put_str(struct buf *b, const char *text)
{
	buf_addf(b, "\"");
	for (; *text != '\0'; text++)
		if (*text == '"' || *text == '\\')
			buf_addf(b, "\\%c", *text);
		else if ((unsigned char)*text < 0x20 || *text == 0x7f)
			buf_addf(b, "\\u%04x", (unsigned char)*text);
		else
			buf_add(b, text, 1);
	buf_addf(b, "\"");
}
