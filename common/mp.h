/*
 * MessagePack.  Writing goes into a struct buf, through msgpack-c's packer
 * but for what every record has: numbers and short bytes.
 * Reading is a strict cursor over a slice that never allocates and never
 * trusts a claimed length: any mismatch sets c->bad and every later read
 * yields zero or empty.  Check mp_ok (and mp_end) once at the end.
 */
#ifndef COMMON_MP_H
#define COMMON_MP_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/buf.h"

/* The same where the room is there: most that they write (of bytes: before
 * the bytes), return the end. */
#define MP_UINT_MAX	9
#define MP_BIN_MAX	5

static inline uint8_t *
mp_write_number(uint8_t *p, uint64_t v)
{
	unsigned int log = v > UINT32_MAX ? 3 : v > UINT16_MAX ? 2 :
	    v > UINT8_MAX;
	unsigned int width = 1U << log;

	p[0] = (uint8_t)(0xcc + log);
	v = htobe64(v << (64 - 8 * width));
	memcpy(p + 1, &v, sizeof(v));	/* what is too much is overwritten */
	return (p + 1 + width);
}

static inline uint8_t *
mp_write_uint(uint8_t *p, uint64_t v)
{
	if (v >= 0x80)
		return (mp_write_number(p, v));
	*p = (uint8_t)v;			/* is its own type */
	return (p + 1);
}

/* What stands in front of n bytes. */
static inline uint8_t *
mp_write_head(uint8_t *p, size_t n)
{
	uint32_t big = htobe32((uint32_t)n);

	if (n <= UINT8_MAX) {
		*p++ = 0xc4;
		*p++ = (uint8_t)n;
	} else if (n <= UINT16_MAX) {
		*p++ = 0xc5;
		*p++ = (uint8_t)(n >> 8);
		*p++ = (uint8_t)n;
	} else {
		*p++ = 0xc6;
		memcpy(p, &big, sizeof(big));
		p += sizeof(big);
	}
	return (p);
}

static inline uint8_t *
mp_write_bin(uint8_t *p, const void *data, size_t n)
{
	p = mp_write_head(p, n);
	if (n > 0)
		memcpy(p, data, n);
	return (p + n);
}

void	mp_put_uint(struct buf *, uint64_t);
void	mp_put_int(struct buf *, int64_t);
void	mp_put_bool(struct buf *, bool);
void	mp_put_nil(struct buf *);
void	mp_put_double(struct buf *, double);
void	mp_put_str(struct buf *, const char *);
void	mp_put_strn(struct buf *, const char *, size_t);
void	mp_put_bin(struct buf *, const void *, size_t);
void	mp_put_array(struct buf *, uint32_t n);
void	mp_put_map(struct buf *, uint32_t n);

struct mp {
	const uint8_t	*p;
	const uint8_t	*end;
	bool		 bad;
};

enum mp_type { MP_NIL, MP_BOOL, MP_UINT, MP_INT, MP_DOUBLE, MP_STR, MP_BIN,
	MP_ARRAY, MP_MAP, MP_EXT, MP_NONE };

static inline void
mp_init(struct mp *c, struct slice s)
{
	c->p = s.data;
	c->end = s.len == 0 ? s.data : s.data + s.len;
	c->bad = false;
}
enum mp_type	mp_peek(const struct mp *);	/* MP_NONE at the end */
uint64_t	mp_get_uint_long(struct mp *, uint64_t max);
/* > max is bad */
static inline uint64_t
mp_get_uint(struct mp *c, uint64_t max)
{
	uint64_t v;

	if (c->bad || c->p == c->end)
		return (mp_get_uint_long(c, max));
	if (*c->p < 0x80 && *c->p <= max)
		return (*c->p++);
	/* Times, positions and ids have 64 bits. */
	if (*c->p == 0xcf && max == UINT64_MAX && c->end - c->p > 8) {
		memcpy(&v, c->p + 1, sizeof(v));
		c->p += 1 + sizeof(v);
		return (be64toh(v));
	}
	return (mp_get_uint_long(c, max));
}
int64_t		mp_get_int(struct mp *);	/* accepts uints <= INT64_MAX */
bool		mp_get_bool(struct mp *);
double		mp_get_double(struct mp *);
struct slice	mp_get_str(struct mp *);	/* str only; UTF-8 unchecked */
struct slice	mp_get_bin_long(struct mp *);
/* bin only */
static inline struct slice
mp_get_bin(struct mp *c)
{
	struct slice s;

	if (c->bad || c->end - c->p < 2 || *c->p != 0xc4 ||
	    c->end - c->p - 2 < c->p[1])
		return (mp_get_bin_long(c));
	s = slice_of(c->p + 2, c->p[1]);
	c->p += 2 + s.len;
	return (s);
}
uint32_t	mp_get_array(struct mp *);	/* count <= bytes left */
uint32_t	mp_get_map(struct mp *);
void		mp_skip(struct mp *);		/* any value; depth <= 32 */
static inline bool
mp_ok(const struct mp *c)
{
	return (!c->bad);
}
bool		mp_end(const struct mp *);	/* ok and nothing left */
/* A str as an owned C string; embedded NUL is bad.  NULL when bad. */
char	       *mp_get_strdup(struct mp *);

#endif
