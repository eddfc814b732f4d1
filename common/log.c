/* Log lines on stderr; see log.h. */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

#define LOG_RATE	10	/* lines a second of one call site */
#define LOG_WAIT_MS	100	/* for a reader of stderr that is behind */

static char		 log_role[32] = "wallaroo";
static _Atomic int	 log_max = LOG_INFO;
static _Atomic bool	 log_terminal;
static void		(*log_to)(int, const char *, void *);
static void		*log_to_arg;

void
log_init(const char *role, int level)
{
	(void)snprintf(log_role, sizeof(log_role), "%s", role);
	log_max = level;
	log_terminal = isatty(STDERR_FILENO) == 1;
}

void
log_level(int level)
{
	log_max = level;
}

void
log_sink(void (*to)(int, const char *, void *), void *arg)
{
	log_to = to;
	log_to_arg = arg;
}

/*
 * A log must not stop the program that writes it: a reader that does not
 * take the line in time loses the rest of it.
 */
static void
log_write(const char *p, size_t n)
{
	struct pollfd pfd = { .fd = STDERR_FILENO, .events = POLLOUT };
	ssize_t done;
	bool waited = false;

	while (n > 0) {
		done = write(STDERR_FILENO, p, n);
		if (done >= 0) {
			p += done;
			n -= (size_t)done;
		} else if (errno == EAGAIN && !waited) {
			waited = true;
			(void)poll(&pfd, 1, LOG_WAIT_MS);
		} else if (errno != EINTR)
			return;
	}
}

/* "<N>" for journald, a time of day for people. */
static size_t
log_prefix(char *p, size_t room, int priority)
{
	struct tm tm;
	time_t now;
	int n;

	if (log_to != NULL)
		n = snprintf(p, room, "%s: ", log_role);
	else if (log_terminal) {
		now = (time_t)(clock_wall_ns() / 1000000000);
		if (localtime_r(&now, &tm) == NULL)
			memset(&tm, 0, sizeof(tm));
		n = snprintf(p, room, "%02d:%02d:%02d %s: ", tm.tm_hour,
		    tm.tm_min, tm.tm_sec, log_role);
	} else
		n = snprintf(p, room, "<%d>%s: ", priority, log_role);
	return ((size_t)n);
}

static void
log_line(int priority, const char *text, size_t n)
{
	char line[LOG_LINE];
	size_t len;

	len = log_prefix(line, sizeof(line), priority);
	if (n > sizeof(line) - 1 - len) {
		n = sizeof(line) - 1 - len;
		/* Do not cut inside a UTF-8 character. */
		while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
	}
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		/* Nobody's text moves the cursor of who reads the log. */
		line[len++] = (c < 0x20 && c != '\t') || c == 0x7f ? '?' :
		    (char)c;
	}
	if (log_to != NULL) {
		line[len] = '\0';
		log_to(priority, line, log_to_arg);
		return;
	}
	line[len++] = '\n';
	log_write(line, len);
}

static void __attribute__((format(printf, 2, 0)))
log_va(int priority, const char *fmt, va_list ap)
{
	char *text, *p, *end, fallback[LOG_LINE];
	int saved = errno;
	va_list again;

	if (priority > log_max)
		return;
	va_copy(again, ap);
	if (vasprintf(&text, fmt, ap) == -1) {
		text = fallback;
		(void)vsnprintf(text, sizeof(fallback), fmt, again);
	}
	va_end(again);
	for (p = text; (end = strchr(p, '\n')) != NULL; p = end + 1)
		log_line(priority, p, (size_t)(end - p));
	if (*p != '\0' || p == text)
		log_line(priority, p, strlen(p));
	if (text != fallback)
		free(text);
	errno = saved;
}

#define LOG_VA(priority)						\
	va_list ap;							\
									\
	va_start(ap, fmt);						\
	log_va(priority, fmt, ap);					\
	va_end(ap)

void
log_at(int priority, const char *fmt, ...)
{
	LOG_VA(priority);
}

void
log_error(const char *fmt, ...)
{
	LOG_VA(LOG_ERR);
}

void
log_warn(const char *fmt, ...)
{
	LOG_VA(LOG_WARNING);
}

void
log_info(const char *fmt, ...)
{
	LOG_VA(LOG_INFO);
}

void
log_debug(const char *fmt, ...)
{
	LOG_VA(LOG_DEBUG);
}

/* Call sites that have suppressed a line. */
static struct log_rate *limited;

static void
say_suppressed(struct log_rate *r, const char *what)
{
	if (r->suppressed > 0)
		log_warn("%s suppressed=%u", what, r->suppressed);
	r->suppressed = 0;
}

void
log_flush(int now)
{
	int64_t second = (int64_t)(clock_mono_ns() / 1000000000) + 1;

	for (struct log_rate *r = limited; r != NULL; r = r->next)
		if (now || r->second != second)
			say_suppressed(r, "more lines like earlier ones");
}

int
log_allowed(struct log_rate *r)
{
	/* + 1: a zeroed struct belongs to no second. */
	int64_t second = (int64_t)(clock_mono_ns() / 1000000000) + 1;

	if (r->second != second) {
		r->second = second;
		r->lines = 0;
	}
	if (r->lines >= LOG_RATE) {
		r->suppressed++;
		if (!r->listed) {
			r->listed = 1;
			r->next = limited;
			limited = r;
		}
		return (0);
	}
	r->lines++;
	say_suppressed(r, "more lines like the next one");
	return (1);
}
