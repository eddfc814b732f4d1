/*
 * Errors as values: a function that can fail at run time returns 0 or -1 and
 * describes the failure in a caller-supplied struct err.  Library code never
 * logs; whoever gives up does, once.
 */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

#define ERR_TEXT	2048

/* Exit codes of all programs, a contract with init systems and operators. */
#define EXIT_PERMANENT	100	/* restarting will not help: do not */
#define EXIT_TEMPORARY	111	/* may be restarted */

/* How a text begins that tells of a SystemExit; the status follows. */
#define ERR_EXITED	"application_setup exited with status "
/* What a text contains that tells of an object and its bytes. */
#define ERR_UNSAVED	" cannot be saved\n"
#define ERR_UNREAD	" cannot be read back"

enum err_code {
	ERR_NONE = 0,
	ERR_CONFIG,		/* configuration or application is wrong */
	ERR_USER,		/* user code raised; text holds the traceback */
	ERR_SYSTEM,		/* a system call failed */
	ERR_STORAGE,		/* disk or tmpfs: full, read-only, I/O error */
	ERR_CORRUPT,		/* a file or frame is not what it must be */
	ERR_REFUSED,		/* starting would lose or repeat input */
	ERR_LIMIT,		/* larger than a configured limit */
	ERR_POISON		/* a call that killed the process, not made */
};

struct err {
	enum err_code	code;
	char		text[ERR_TEXT];
};

/* Fill *err (may be NULL) and return -1, so that callers can return it. */
int	err_set(struct err *, enum err_code, const char *, ...)
	    __attribute__((format(printf, 3, 4)));
/* As err_set, with ": strerror(errno)" appended. */
int	err_sys(struct err *, enum err_code, const char *, ...)
	    __attribute__((format(printf, 3, 4)));
/* Put "prefix: " before the text that *err already has; returns -1. */
int	err_wrap(struct err *, const char *, ...)
	    __attribute__((format(printf, 2, 3)));

#endif
