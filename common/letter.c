/* See letter.h. */
#include <string.h>

#include "common/letter.h"
#include "common/mp.h"

#define LETTER_VERSION	1

void
letter_pack(struct buf *b, const struct letter *l)
{
	mp_put_array(b, 8);
	mp_put_uint(b, LETTER_VERSION);
	mp_put_uint(b, l->kind);
	mp_put_uint(b, l->index);
	mp_put_strn(b, (const char *)l->name.data, l->name.len);
	mp_put_bin(b, l->key.data, l->key.len);
	mp_put_uint(b, l->time_ns);
	mp_put_uint(b, l->id);
	mp_put_bin(b, l->value.data, l->value.len);
}

int
letter_unpack(struct letter *l, struct slice s, struct err *err)
{
	struct mp c;

	memset(l, 0, sizeof(*l));
	mp_init(&c, s);
	if (mp_get_array(&c) != 8 ||
	    mp_get_uint(&c, UINT32_MAX) != LETTER_VERSION)
		return (err_set(err, ERR_CORRUPT,
		    "the dead letter is of another version"));
	l->kind = (enum letter_kind)mp_get_uint(&c, LETTER_SINK);
	l->index = (uint32_t)mp_get_uint(&c, UINT32_MAX);
	l->name = mp_get_str(&c);
	l->key = mp_get_bin(&c);
	l->time_ns = mp_get_uint(&c, UINT64_MAX);
	l->id = mp_get_uint(&c, UINT64_MAX);
	l->value = mp_get_bin(&c);
	if (!mp_end(&c))
		return (err_set(err, ERR_CORRUPT,
		    "the dead letter cannot be read"));
	return (0);
}

/* --- base64 (RFC 4648) --------------------------------------------------- */

static const char digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
letter_text(struct buf *b, struct slice s)
{
	uint32_t v;
	size_t i, n;
	char c[4];

	for (i = 0; i < s.len; i += 3) {
		n = s.len - i < 3 ? s.len - i : 3;
		v = (uint32_t)s.data[i] << 16;
		if (n > 1)
			v |= (uint32_t)s.data[i + 1] << 8;
		if (n > 2)
			v |= s.data[i + 2];
		c[0] = digits[v >> 18];
		c[1] = digits[v >> 12 & 63];
		c[2] = n > 1 ? digits[v >> 6 & 63] : '=';
		c[3] = n > 2 ? digits[v & 63] : '=';
		buf_add(b, c, sizeof(c));
	}
}

/* A group of four; the number of bytes that it gives, 0: it is none. */
static size_t
group(const uint8_t *p, uint8_t out[3])
{
	size_t i, n = p[2] == '=' ? 2 : p[3] == '=' ? 3 : 4;
	const char *d;
	uint32_t v = 0;

	for (i = 0; i < 4; i++) {
		if (i >= n) {
			if (p[i] != '=')
				return (0);
			v <<= 6;
			continue;
		}
		d = p[i] == '\0' ? NULL : strchr(digits, p[i]);
		if (d == NULL)
			return (0);
		v = v << 6 | (uint32_t)(d - digits);
	}
	out[0] = (uint8_t)(v >> 16);
	out[1] = (uint8_t)(v >> 8);
	out[2] = (uint8_t)v;
	return (n - 1);
}

int
letter_bytes(struct buf *b, struct slice text, struct err *err)
{
	uint8_t out[3];
	size_t i, n = 0;

	for (i = 0; i + 4 <= text.len; i += 4) {
		n = group(text.data + i, out);
		if (n == 0 || (n < 3 && i + 4 < text.len))
			break;
		buf_add(b, out, n);
	}
	if (i != text.len)
		return (err_set(err, ERR_CORRUPT,
		    "the dead letter's record is not base64"));
	return (0);
}
