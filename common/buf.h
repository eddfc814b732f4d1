/*
 * struct buf owns a growing byte array; struct slice borrows one and dies
 * with what it points into.  Not thread-safe.  Running out of memory aborts
 * the process: recovery from a checkpoint is the answer to death.
 */
#ifndef COMMON_BUF_H
#define COMMON_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
	const uint8_t	*data;
	size_t		 len;
};

struct buf {
	uint8_t	*data;
	size_t	 len;
	size_t	 cap;
};

void	 buf_init(struct buf *);
void	 buf_fini(struct buf *);		/* frees, leaves it empty */
uint8_t	*buf_grow(struct buf *, size_t n);	/* what buf_reserve calls */
void	 buf_addf(struct buf *, const char *, ...)
	    __attribute__((format(printf, 2, 3)));
/* Drop the first n bytes. */
void	 buf_consume(struct buf *, size_t n);
/* NUL-terminate (the NUL is not counted in len) and return as a string. */
char	*buf_str(struct buf *);

/* len = 0, memory kept */
static inline void
buf_clear(struct buf *b)
{
	b->len = 0;
}

/* Room for n more bytes; returns where they go (data + len). */
static inline uint8_t *
buf_reserve(struct buf *b, size_t n)
{
	if (b->data == NULL || n > b->cap - b->len)
		return (buf_grow(b, n));
	return (b->data + b->len);
}

static inline void
buf_add(struct buf *b, const void *p, size_t n)
{
	uint8_t *to;

	if (n == 0)
		return;
	/* As buf_reserve: where there is room there is memory. */
	to = n <= b->cap - b->len ? b->data + b->len : buf_grow(b, n);
	memcpy(to, p, n);
	b->len += n;
}

static inline struct slice
slice_of(const void *p, size_t n)
{
	struct slice s = { p, n };

	return (s);
}

static inline struct slice
buf_slice(const struct buf *b)
{
	return (slice_of(b->data, b->len));
}

#endif
