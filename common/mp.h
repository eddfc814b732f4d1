/*
 * MessagePack.  Writing goes through msgpack-c's packer into a struct buf.
 * Reading is a strict cursor over a slice that never allocates and never
 * trusts a claimed length: any mismatch sets c->bad and every later read
 * yields zero or empty.  Check mp_ok (and mp_end) once at the end.
 */
#ifndef COMMON_MP_H
#define COMMON_MP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

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

void		mp_init(struct mp *, struct slice);
enum mp_type	mp_peek(const struct mp *);	/* MP_NONE at the end */
uint64_t	mp_get_uint(struct mp *, uint64_t max);	/* > max is bad */
int64_t		mp_get_int(struct mp *);	/* accepts uints <= INT64_MAX */
bool		mp_get_bool(struct mp *);
double		mp_get_double(struct mp *);
struct slice	mp_get_str(struct mp *);	/* str only; UTF-8 unchecked */
struct slice	mp_get_bin(struct mp *);	/* bin only */
uint32_t	mp_get_array(struct mp *);	/* count <= bytes left */
uint32_t	mp_get_map(struct mp *);
void		mp_skip(struct mp *);		/* any value; depth <= 32 */
bool		mp_ok(const struct mp *);
bool		mp_end(const struct mp *);	/* ok and nothing left */
/* A str as an owned C string; embedded NUL is bad.  NULL when bad. */
char	       *mp_get_strdup(struct mp *);

#endif
