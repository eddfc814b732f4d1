/* Errors as values; see err.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/err.h"

int
err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
	va_list ap;

	if (err == NULL)
		return (-1);
	err->code = code;
	va_start(ap, fmt);
	(void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return (-1);
}

int
err_sys(struct err *err, enum err_code code, const char *fmt, ...)
{
	char reason[128];
	const char *text;
	size_t len;
	va_list ap;
	int saved = errno;

	if (err == NULL)
		return (-1);
	err->code = code;
	va_start(ap, fmt);
	(void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	len = strlen(err->text);
	text = strerror_r(saved, reason, sizeof(reason));
	(void)snprintf(err->text + len, sizeof(err->text) - len, ": %s", text);
	errno = saved;
	return (-1);
}

int
err_wrap(struct err *err, const char *fmt, ...)
{
	char old[ERR_TEXT];
	size_t len;
	va_list ap;

	if (err == NULL)
		return (-1);
	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	(void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	len = strlen(err->text);
	/* %.*s: the old text may have to be cut, and that is intended. */
	(void)snprintf(err->text + len, sizeof(err->text) - len, ": %.*s",
	    (int)sizeof(old) - 1, old);
	return (-1);
}
