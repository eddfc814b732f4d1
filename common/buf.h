/*
 * struct buf owns a growing byte array; struct slice borrows one and dies
 * with what it points into.  Not thread-safe.  Running out of memory aborts
 * the process: recovery from a checkpoint is the answer to death.
 */
#ifndef COMMON_BUF_H
#define COMMON_BUF_H

#include <stddef.h>
#include <stdint.h>

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
void	 buf_clear(struct buf *);		/* len = 0, memory kept */
/* Room for n more bytes; returns where they go (data + len). */
uint8_t	*buf_reserve(struct buf *, size_t n);
void	 buf_add(struct buf *, const void *, size_t n);
void	 buf_addf(struct buf *, const char *, ...)
	    __attribute__((format(printf, 2, 3)));
/* Drop the first n bytes. */
void	 buf_consume(struct buf *, size_t n);
/* NUL-terminate (the NUL is not counted in len) and return as a string. */
char	*buf_str(struct buf *);

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
