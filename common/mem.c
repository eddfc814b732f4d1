/* Allocation that cannot fail; see mem.h. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"

static void *
checked(void *p, size_t n)
{
	if (p == NULL) {
		log_error("out of memory bytes=%zu", n);
		abort();
	}
	return (p);
}

void *
xmalloc(size_t n)
{
	return (checked(malloc(n == 0 ? 1 : n), n));
}

void *
xcalloc(size_t n, size_t size)
{
	if (n == 0 || size == 0)
		n = size = 1;
	return (checked(calloc(n, size), n));
}

void *
xrealloc(void *p, size_t n)
{
	return (checked(realloc(p, n == 0 ? 1 : n), n));
}

void *
xreallocarray(void *p, size_t n, size_t size)
{
	if (n == 0 || size == 0)
		n = size = 1;
	return (checked(reallocarray(p, n, size), n));
}

char *
xstrdup(const char *s)
{
	return (checked(strdup(s), strlen(s)));
}

char *
xstrndup(const char *s, size_t n)
{
	return (checked(strndup(s, n), n));
}

char *
xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return (checked(n == -1 ? NULL : s, 0));
}
