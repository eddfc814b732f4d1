/* A growing byte array; see buf.h. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/mem.h"

void
buf_init(struct buf *b)
{
	b->data = NULL;
	b->len = b->cap = 0;
}

void
buf_fini(struct buf *b)
{
	free(b->data);
	buf_init(b);
}

uint8_t *
buf_grow(struct buf *b, size_t n)
{
	size_t cap;

	assert(n <= SIZE_MAX / 2 && b->len <= SIZE_MAX / 2);
	/* Doubling keeps a long series of small additions linear. */
	cap = b->cap < 32 ? 64 : b->cap * 2;
	if (cap < b->len + n)
		cap = b->len + n;
	b->data = xrealloc(b->data, cap);
	b->cap = cap;
	return (b->data + b->len);
}

void
buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	size_t room;
	int n;

	(void)buf_reserve(b, 1);
	room = b->cap - b->len;
	va_start(ap, fmt);
	n = vsnprintf((char *)b->data + b->len, room, fmt, ap);
	va_end(ap);
	assert(n >= 0);
	if ((size_t)n >= room) {
		room = (size_t)n + 1;
		(void)buf_reserve(b, room);
		va_start(ap, fmt);
		(void)vsnprintf((char *)b->data + b->len, room, fmt, ap);
		va_end(ap);
	}
	b->len += (size_t)n;
}

void
buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	if (n == 0)
		return;
	b->len -= n;
	memmove(b->data, b->data + n, b->len);
}

char *
buf_str(struct buf *b)
{
	*buf_reserve(b, 1) = '\0';
	return ((char *)b->data);
}
