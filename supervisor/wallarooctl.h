/*
 * What the files of wallarooctl share: the conversation with the supervisor,
 * JSON, and tables.
 */
#ifndef SUPERVISOR_WALLAROOCTL_H
#define SUPERVISOR_WALLAROOCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

#define EXIT_FAILED	1
#define EXIT_USAGE	2
#define COLUMNS_MAX	16

struct json {
	char		*key;		/* of a member, or NULL */
	char		*text;		/* scalar: as to be shown */
	struct json	*child;		/* of an object or array */
	struct json	*next;
};

/* ctl_json.c */
struct json *json_read(struct slice);	/* NULL: it is none; to be freed */
void	json_free(struct json *);
const struct json *json_member(const struct json *, const char *key);
/* "-" if there is none. */
const char *json_text(const struct json *, const char *key);

/* A string with its quotes; the text is UTF-8. */
void	json_put_str(struct buf *, const char *);

/* wallarooctl.c */
struct column {
	const char	*head;
	const char	*key;
	bool		 number;	/* flush right */
};
void	print_table(const struct json *list, const struct column *, size_t n);
void	die(int code, const char *, ...)
	    __attribute__((noreturn, format(printf, 2, 3)));

struct answer {
	bool		 here;
	uint32_t	 code;		/* 0: text is JSON, else an error */
	struct buf	 text;		/* to be freed */
};
/* fd -1: there is no supervisor. */
void	ask(int fd, const char *verb, const char *a, const char *b,
	    struct answer *);

/* ctl_dlq.c: list, show N, replay N|all.  Returns the exit code.  file is
 * where letters are if there is no supervisor, or NULL. */
int	dlq_command(int fd, const char *file, const char *verb,
	    const char *which, bool as_json);

#endif
