/* MessagePack: msgpack-c's packer, a cursor of our own; see mp.h. */
#include <msgpack/pack.h>

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"

#define MP_DEPTH	32

static int
mp_append(void *b, const char *p, size_t n)
{
	buf_add(b, p, n);
	return (0);
}

#define MP_PACKER(pk, b)	msgpack_packer pk = { (b), mp_append }

void
mp_put_uint(struct buf *b, uint64_t v)
{
	uint8_t *p = buf_reserve(b, MP_UINT_MAX);

	b->len += (size_t)(mp_write_uint(p, v) - p);
}

void
mp_put_int(struct buf *b, int64_t v)
{
	MP_PACKER(pk, b);

	msgpack_pack_int64(&pk, v);
}

void
mp_put_bool(struct buf *b, bool v)
{
	MP_PACKER(pk, b);

	if (v)
		msgpack_pack_true(&pk);
	else
		msgpack_pack_false(&pk);
}

void
mp_put_nil(struct buf *b)
{
	MP_PACKER(pk, b);

	msgpack_pack_nil(&pk);
}

void
mp_put_double(struct buf *b, double v)
{
	MP_PACKER(pk, b);

	msgpack_pack_double(&pk, v);
}

void
mp_put_str(struct buf *b, const char *s)
{
	mp_put_strn(b, s, strlen(s));
}

void
mp_put_strn(struct buf *b, const char *s, size_t n)
{
	MP_PACKER(pk, b);

	assert(n <= UINT32_MAX);
	msgpack_pack_str(&pk, n);
	buf_add(b, s, n);
}

void
mp_put_bin(struct buf *b, const void *p, size_t n)
{
	uint8_t *to;

	assert(n <= UINT32_MAX);
	to = buf_reserve(b, n + MP_BIN_MAX);
	b->len += (size_t)(mp_write_bin(to, p, n) - to);
}

void
mp_put_array(struct buf *b, uint32_t n)
{
	MP_PACKER(pk, b);

	msgpack_pack_array(&pk, n);
}

void
mp_put_map(struct buf *b, uint32_t n)
{
	MP_PACKER(pk, b);

	msgpack_pack_map(&pk, n);
}

/*
 * What the first byte of a value says: its type, the size of the big-endian
 * number that follows, and the number itself where the first byte holds it.
 */
struct mp_first {
	enum mp_type	type;
	uint8_t		width;
	uint8_t		small;
};

static struct mp_first
mp_first(uint8_t b)
{
	static const struct mp_first from_c0[32] = {
		{ MP_NIL, 0, 0 }, { MP_NONE, 0, 0 },
		{ MP_BOOL, 0, 0 }, { MP_BOOL, 0, 1 },
		{ MP_BIN, 1, 0 }, { MP_BIN, 2, 0 }, { MP_BIN, 4, 0 },
		{ MP_EXT, 1, 0 }, { MP_EXT, 2, 0 }, { MP_EXT, 4, 0 },
		{ MP_DOUBLE, 4, 0 }, { MP_DOUBLE, 8, 0 },
		{ MP_UINT, 1, 0 }, { MP_UINT, 2, 0 },
		{ MP_UINT, 4, 0 }, { MP_UINT, 8, 0 },
		{ MP_INT, 1, 0 }, { MP_INT, 2, 0 },
		{ MP_INT, 4, 0 }, { MP_INT, 8, 0 },
		{ MP_EXT, 0, 1 }, { MP_EXT, 0, 2 }, { MP_EXT, 0, 4 },
		{ MP_EXT, 0, 8 }, { MP_EXT, 0, 16 },
		{ MP_STR, 1, 0 }, { MP_STR, 2, 0 }, { MP_STR, 4, 0 },
		{ MP_ARRAY, 2, 0 }, { MP_ARRAY, 4, 0 },
		{ MP_MAP, 2, 0 }, { MP_MAP, 4, 0 },
	};

	if (b < 0x80)
		return ((struct mp_first){ MP_UINT, 0, b });
	if (b < 0x90)
		return ((struct mp_first){ MP_MAP, 0, b & 0x0f });
	if (b < 0xa0)
		return ((struct mp_first){ MP_ARRAY, 0, b & 0x0f });
	if (b < 0xc0)
		return ((struct mp_first){ MP_STR, 0, b & 0x1f });
	if (b < 0xe0)
		return (from_c0[b - 0xc0]);
	return ((struct mp_first){ MP_INT, 0, b });
}

static size_t
mp_left(const struct mp *c)
{
	return ((size_t)(c->end - c->p));
}

/* A big-endian number of 1, 2, 4 or 8 bytes. */
static uint64_t
mp_number(const uint8_t *p, size_t width)
{
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (width) {
	case 1:
		return (*p);
	case 2:
		memcpy(&v16, p, sizeof(v16));
		return (be16toh(v16));
	case 4:
		memcpy(&v32, p, sizeof(v32));
		return (be32toh(v32));
	default:
		memcpy(&v64, p, sizeof(v64));
		return (be64toh(v64));
	}
}

/* Take the first byte and the number after it. */
static enum mp_type
mp_take(struct mp *c, uint64_t *v, uint8_t *width)
{
	struct mp_first f;

	*v = 0;
	*width = 0;
	if (c->bad || c->p == c->end) {
		c->bad = true;
		return (MP_NONE);
	}
	f = mp_first(*c->p);
	if (f.type == MP_NONE || mp_left(c) - 1 < f.width) {
		c->bad = true;
		return (MP_NONE);
	}
	c->p++;
	*v = f.small;
	*width = f.width;
	if (f.width > 0) {
		*v = mp_number(c->p, f.width);
		c->p += f.width;
	}
	return (f.type);
}

static struct slice
mp_bytes(struct mp *c, uint64_t n)
{
	struct slice s = { NULL, 0 };

	if (c->bad || n > mp_left(c)) {
		c->bad = true;
		return (s);
	}
	s = slice_of(c->p, (size_t)n);
	c->p += n;
	return (s);
}

static int64_t
mp_signed(uint64_t v, uint8_t width)
{
	switch (width) {
	case 0:
	case 1:
		return ((int8_t)v);
	case 2:
		return ((int16_t)v);
	case 4:
		return ((int32_t)v);
	default:
		return ((int64_t)v);
	}
}

enum mp_type
mp_peek(const struct mp *c)
{
	if (c->bad || c->p == c->end)
		return (MP_NONE);
	return (mp_first(*c->p).type);
}

uint64_t
mp_get_uint_long(struct mp *c, uint64_t max)
{
	uint8_t first = c->p < c->end ? *c->p : 0xc0;
	uint64_t v = first;
	size_t width = 0;

	if (first >= 0x80) {
		width = (size_t)1 << (first & 3);
		c->bad |= first < 0xcc || first > 0xcf ||
		    mp_left(c) - 1 < width;
	}
	if (!c->bad && width > 0)
		v = mp_number(c->p + 1, width);
	if (c->bad || v > max) {
		c->bad = true;
		return (0);
	}
	c->p += 1 + width;
	return (v);
}

int64_t
mp_get_int(struct mp *c)
{
	uint64_t v;
	uint8_t width;

	switch (mp_take(c, &v, &width)) {
	case MP_INT:
		return (mp_signed(v, width));
	case MP_UINT:
		if (v <= INT64_MAX)
			return ((int64_t)v);
		/* FALLTHROUGH */
	default:
		c->bad = true;
		return (0);
	}
}

bool
mp_get_bool(struct mp *c)
{
	uint64_t v;
	uint8_t width;

	if (mp_take(c, &v, &width) != MP_BOOL) {
		c->bad = true;
		return (false);
	}
	return (v == 1);
}

double
mp_get_double(struct mp *c)
{
	uint64_t v;
	uint32_t v32;
	uint8_t width;
	double d;
	float f;

	if (mp_take(c, &v, &width) != MP_DOUBLE) {
		c->bad = true;
		return (0);
	}
	if (width == 4) {
		v32 = (uint32_t)v;
		memcpy(&f, &v32, sizeof(f));
		return ((double)f);
	}
	memcpy(&d, &v, sizeof(d));
	return (d);
}

static struct slice
mp_get_raw(struct mp *c, enum mp_type type)
{
	uint64_t v;
	uint8_t width;


	if (mp_take(c, &v, &width) != type)
		c->bad = true;
	return (mp_bytes(c, v));
}

struct slice
mp_get_str(struct mp *c)
{
	return (mp_get_raw(c, MP_STR));
}

struct slice
mp_get_bin_long(struct mp *c)
{
	return (mp_get_raw(c, MP_BIN));
}

/* Each element takes at least one byte, so a count can be checked at once. */
static uint32_t
mp_get_count(struct mp *c, enum mp_type type, uint64_t per)
{
	uint64_t v;
	uint8_t width;

	if (mp_take(c, &v, &width) != type || v * per > mp_left(c)) {
		c->bad = true;
		return (0);
	}
	return ((uint32_t)v);
}

uint32_t
mp_get_array(struct mp *c)
{
	return (mp_get_count(c, MP_ARRAY, 1));
}

uint32_t
mp_get_map(struct mp *c)
{
	return (mp_get_count(c, MP_MAP, 2));
}

static void
mp_skip_at(struct mp *c, int depth)
{
	uint64_t v;
	uint8_t width;

	if (depth > MP_DEPTH) {
		c->bad = true;
		return;
	}
	switch (mp_take(c, &v, &width)) {
	case MP_STR:
	case MP_BIN:
		(void)mp_bytes(c, v);
		break;
	case MP_EXT:
		(void)mp_bytes(c, v + 1);	/* + 1: the type byte */
		break;
	case MP_MAP:
		v *= 2;
		/* FALLTHROUGH */
	case MP_ARRAY:
		if (v > mp_left(c))
			c->bad = true;
		while (v-- > 0 && !c->bad)
			mp_skip_at(c, depth + 1);
		break;
	default:
		break;
	}
}

void
mp_skip(struct mp *c)
{
	mp_skip_at(c, 1);
}

bool
mp_end(const struct mp *c)
{
	return (!c->bad && c->p == c->end);
}

char *
mp_get_strdup(struct mp *c)
{
	struct slice s = mp_get_str(c);

	if (c->bad || (s.len > 0 && memchr(s.data, '\0', s.len) != NULL)) {
		c->bad = true;
		return (NULL);
	}
	return (xstrndup(s.len == 0 ? "" : (const char *)s.data, s.len));
}
