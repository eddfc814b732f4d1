/*
 * Log lines on stderr: "<N>ROLE: text key=value ..." with N the syslog
 * priority that journald reads; when stderr is a terminal, a time of day
 * stands in place of <N>.  One write(2) per line, lines are cut at LOG_LINE
 * bytes; newlines inside a text are written as several lines.  No payload of
 * users above debug.  Thread-safe.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdarg.h>
#include <stdint.h>
#include <syslog.h>

#define LOG_LINE	4096

/* role ("supervisor", "worker-3") is copied; level: LOG_ERR .. LOG_DEBUG. */
void	log_init(const char *role, int level);
void	log_level(int level);
void	log_at(int priority, const char *, ...)
	    __attribute__((format(printf, 2, 3)));
void	log_error(const char *, ...) __attribute__((format(printf, 1, 2)));
void	log_warn(const char *, ...) __attribute__((format(printf, 1, 2)));
void	log_info(const char *, ...) __attribute__((format(printf, 1, 2)));
void	log_debug(const char *, ...) __attribute__((format(printf, 1, 2)));
/* Tests replace the sink; NULL restores stderr.  The line has no newline. */
void	log_sink(void (*)(int priority, const char *line, void *), void *);

/*
 * Rate limit of one call site: at most 10 lines a second; the next allowed
 * line after a suppressed one is preceded by "suppressed=N".  Use:
 *	static struct log_rate rate;
 *	if (log_allowed(&rate)) log_warn(...);
 */
struct log_rate {
	int64_t		 second;
	uint32_t	 lines;
	uint32_t	 suppressed;
	uint32_t	 listed;
	struct log_rate	*next;
};
int	log_allowed(struct log_rate *);
/* Say the counts that no later line has said, each a second after its last;
 * now: at once (before an exit).  Call sites must be static. */
void	log_flush(int now);

#endif
