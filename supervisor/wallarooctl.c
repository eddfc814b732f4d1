/*
 * wallarooctl: one request to the supervisor, its reply as a table or as the
 * JSON that it is.
 */
#include <sys/socket.h>

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"

#define EXIT_FAILED	1
#define EXIT_USAGE	2
#define REPLY_MAX	(64 * 1024 * 1024)
#define JSON_DEPTH	32
#define COLUMNS_MAX	16

/* --- reading JSON -------------------------------------------------------- */

struct json {
	char		*key;		/* of a member, or NULL */
	char		*text;		/* scalar: as to be shown */
	struct json	*child;		/* of an object or array */
	struct json	*next;
};

struct reader {
	const char	*p;
	const char	*end;
	bool		 bad;
};

static struct json *read_value(struct reader *, int);

static int
peek(struct reader *r)
{
	while (r->p < r->end && isspace((unsigned char)*r->p))
		r->p++;
	return (r->p < r->end ? (unsigned char)*r->p : -1);
}

static bool
accept_char(struct reader *r, int c)
{
	if (peek(r) != c)
		return (false);
	r->p++;
	return (true);
}

static unsigned int
read_hex(struct reader *r)
{
	char digits[5] = "";
	int i;

	for (i = 0; i < 4 && r->p < r->end; i++)
		digits[i] = *r->p++;
	return ((unsigned int)strtoul(digits, NULL, 16));
}

static void
put_utf8(struct buf *b, unsigned int c)
{
	if (c < 0x80)
		buf_addf(b, "%c", (int)c);
	else if (c < 0x800)
		buf_addf(b, "%c%c", (int)(0xc0 | c >> 6),
		    (int)(0x80 | (c & 0x3f)));
	else
		buf_addf(b, "%c%c%c", (int)(0xe0 | c >> 12),
		    (int)(0x80 | (c >> 6 & 0x3f)), (int)(0x80 | (c & 0x3f)));
}

static void
put_escape(struct buf *b, struct reader *r, char c)
{
	switch (c) {
	case 'n':
		buf_addf(b, "\n");
		break;
	case 't':
		buf_addf(b, "\t");
		break;
	case 'r':
		buf_addf(b, "\r");
		break;
	case 'u':
		put_utf8(b, read_hex(r));
		break;
	default:
		buf_addf(b, "%c", c);
		break;
	}
}

static char *
read_string(struct reader *r)
{
	struct buf b = { 0 };
	char *s;

	if (!accept_char(r, '"')) {
		r->bad = true;
		return (xstrdup(""));
	}
	while (r->p < r->end && *r->p != '"') {
		if (*r->p == '\\' && r->p + 1 < r->end) {
			r->p += 2;
			put_escape(&b, r, r->p[-1]);
		} else
			buf_add(&b, r->p++, 1);
	}
	if (r->p >= r->end)
		r->bad = true;
	else
		r->p++;
	s = xstrdup(b.len == 0 ? "" : buf_str(&b));
	buf_fini(&b);
	return (s);
}

static void
read_members(struct reader *r, struct json *j, int close, int depth)
{
	struct json **end = &j->child, *one;
	char *key;

	if (accept_char(r, close))
		return;
	do {
		key = NULL;
		if (close == '}') {
			key = read_string(r);
			if (!accept_char(r, ':'))
				r->bad = true;
		}
		one = read_value(r, depth + 1);
		one->key = key;
		*end = one;
		end = &one->next;
	} while (!r->bad && accept_char(r, ','));
	if (!accept_char(r, close))
		r->bad = true;
}

static struct json *
read_value(struct reader *r, int depth)
{
	struct json *j = xcalloc(1, sizeof(*j));
	const char *begin;

	if (depth > JSON_DEPTH)
		r->bad = true;
	if (r->bad)
		return (j);
	switch (peek(r)) {
	case '{':
		r->p++;
		read_members(r, j, '}', depth);
		break;
	case '[':
		r->p++;
		read_members(r, j, ']', depth);
		break;
	case '"':
		j->text = read_string(r);
		break;
	default:
		begin = r->p;
		while (r->p < r->end && strchr(",]} \t\r\n", *r->p) == NULL)
			r->p++;
		if (r->p == begin)
			r->bad = true;
		j->text = xstrndup(begin, (size_t)(r->p - begin));
		break;
	}
	return (j);
}

static void
json_free(struct json *j)
{
	struct json *next;

	for (; j != NULL; j = next) {
		next = j->next;
		json_free(j->child);
		free(j->key);
		free(j->text);
		free(j);
	}
}

static const struct json *
member(const struct json *j, const char *key)
{
	const struct json *m;

	for (m = j == NULL ? NULL : j->child; m != NULL; m = m->next)
		if (m->key != NULL && strcmp(m->key, key) == 0)
			return (m);
	return (NULL);
}

static const char *
text(const struct json *j, const char *key)
{
	const struct json *m = member(j, key);

	return (m == NULL || m->text == NULL ? "-" : m->text);
}

/* --- tables -------------------------------------------------------------- */

struct column {
	const char	*head;
	const char	*key;
	bool		 number;	/* flush right */
};

static void
print_cell(const struct column *col, const char *value, size_t width,
    bool last)
{
	if (col->number)
		printf("%*s", (int)width, value);
	else if (last)
		printf("%s", value);
	else
		printf("%-*s", (int)width, value);
	printf("%s", last ? "\n" : "  ");
}

static void
print_table(const struct json *list, const struct column *col, size_t n)
{
	const struct json *row;
	size_t width[COLUMNS_MAX], i, len;

	if (list == NULL || list->child == NULL)
		return;
	for (i = 0; i < n; i++) {
		width[i] = strlen(col[i].head);
		for (row = list->child; row != NULL; row = row->next) {
			len = strlen(text(row, col[i].key));
			if (len > width[i])
				width[i] = len;
		}
	}
	printf("\n");
	for (i = 0; i < n; i++)
		print_cell(&col[i], col[i].head, width[i], i + 1 == n);
	for (row = list->child; row != NULL; row = row->next)
		for (i = 0; i < n; i++)
			print_cell(&col[i], text(row, col[i].key), width[i],
			    i + 1 == n);
}

#define PRINT_TABLE(list, columns)					\
	print_table(list, columns, sizeof(columns) / sizeof((columns)[0]))

static void
print_status(const struct json *j)
{
	static const struct column workers[] = {
		{ "WORKER", "worker", true }, { "PID", "pid", true },
		{ "STATE", "state", false }, { "RESTARTS", "restarts", true },
		{ "UP", "uptime_s", true }, { "IN", "records_in", true },
		{ "FRAMES", "frames_in", true },
		{ "OUT", "records_out", true }, { "KEYS", "keys", true },
		{ "CONNS", "connections", true },
		{ "OUTBOX", "outbox_bytes", true },
		{ "POSITION", "journal_done", true },
		{ "CHECKPOINT", "checkpoint_position", true },
		{ "ERRORS", "errors", true },
		{ "REPEATS", "repeats", true },
	};
	static const struct column sources[] = {
		{ "SOURCE", "name", false }, { "KIND", "kind", false },
		{ "CONNS", "connections", true },
		{ "ADDRESS", "address", false },
	};
	static const struct column sinks[] = {
		{ "SINK", "name", false }, { "KIND", "kind", false },
		{ "CONNS", "connected", true },
		{ "ADDRESS", "address", false },
	};
	static const struct column losses[] = {
		{ "LOSS ACCEPTED", "time", false },
		{ "WORKER", "worker", true }, { "TEXT", "text", false },
	};

	printf("%s is %s: pid %s, epoch %s, generation %s, durability %s\n",
	    text(j, "application"), text(j, "state"), text(j, "pid"),
	    text(j, "epoch"), text(j, "generation"), text(j, "durability"));
	PRINT_TABLE(member(j, "workers"), workers);
	PRINT_TABLE(member(j, "sources"), sources);
	PRINT_TABLE(member(j, "sinks"), sinks);
	PRINT_TABLE(member(j, "losses"), losses);
}

static void
print_stop(const struct json *j)
{
	(void)j;
	printf("stopped\n");
}

static void
print_checkpoint(const struct json *j)
{
	printf("%s workers have a checkpoint\n", text(j, "workers"));
}

static void
print_restart(const struct json *j)
{
	printf("worker %s is replaced, process %s is killed\n",
	    text(j, "worker"), text(j, "pid"));
}

static void
print_state(const struct json *j)
{
	printf("%s\n", text(j, "value"));
}

static void
print_version(const struct json *j)
{
	printf("%s\n", text(j, "version"));
}

/* --- commands ------------------------------------------------------------ */

static const struct command {
	const char	*word;		/* on the command line */
	const char	*second;	/* and after it, or NULL */
	const char	*verb;		/* on the wire */
	int		 args;
	void		(*print)(const struct json *);
} commands[] = {
	{ "status", NULL, "status", 0, print_status },
	{ "stop", NULL, "stop", 0, print_stop },
	{ "checkpoint", NULL, "checkpoint", 0, print_checkpoint },
	{ "restart", NULL, "restart", 1, print_restart },
	{ "state", "get", "state-get", 2, print_state },
	{ "version", NULL, "version", 0, print_version },
};

static void
usage(FILE *f)
{
	(void)fprintf(f, "usage: wallarooctl [-c file | -s socket] [--json] "
	    "command\n"
	    "commands: status, stop, checkpoint, restart worker,\n"
	    "          state get step key, version\n");
}

static void __attribute__((noreturn, format(printf, 2, 3)))
die(int code, const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "wallarooctl: ");
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "\n");
	exit(code);
}

static const struct command *
find_command(int argc, char *argv[], int *first)
{
	const struct command *c;
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		c = &commands[i];
		if (argc < 1 || strcmp(argv[0], c->word) != 0)
			continue;
		if (c->second != NULL && (argc < 2 ||
		    strcmp(argv[1], c->second) != 0))
			continue;
		*first = c->second == NULL ? 1 : 2;
		return (argc - *first == c->args ? c : NULL);
	}
	return (NULL);
}

/* --- the conversation ---------------------------------------------------- */

struct answer {
	bool		 here;
	uint32_t	 code;
	struct buf	 text;
};

static int
on_reply(void *arg, const struct msg_ctl_reply *m, struct err *err)
{
	struct answer *a = arg;

	(void)err;
	a->here = true;
	a->code = m->code;
	buf_add(&a->text, m->text.data, m->text.len);
	return (0);
}

static const struct msg_handlers handlers = { .ctl_reply = on_reply };

static void
send_all(int fd, const struct buf *b)
{
	size_t at = 0;
	ssize_t n;

	while (at < b->len) {
		n = send(fd, b->data + at, b->len - at, MSG_NOSIGNAL);
		if (n == -1 && errno != EINTR)
			die(EXIT_TEMPORARY, "the supervisor closed the "
			    "connection: %s", strerror(errno));
		if (n > 0)
			at += (size_t)n;
	}
}

static void
ask(int fd, const struct command *c, char *args[], struct answer *a)
{
	struct msg_ctl m = { .verb = msg_cstr(c->verb) };
	struct buf b = { 0 };
	struct err err;
	ssize_t n;
	long len;

	if (c->args > 0)
		m.a = msg_cstr(args[0]);
	if (c->args > 1)
		m.b = msg_cstr(args[1]);
	msg_put_ctl(&b, &m);
	send_all(fd, &b);
	buf_clear(&b);
	while ((len = msg_frame(buf_slice(&b), REPLY_MAX)) == 0) {
		n = recv(fd, buf_reserve(&b, 65536), 65536, 0);
		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			die(EXIT_FAILED, "the supervisor ended before it "
			    "answered");
		b.len += (size_t)n;
	}
	if (len < 0 || msg_dispatch(&handlers, a, FROM_SUP, slice_of(b.data +
	    MSG_HEADER, (size_t)len - MSG_HEADER), &err) == -1)
		die(EXIT_FAILED, "the reply makes no sense: %s", len < 0 ?
		    "too long" : err.text);
	buf_fini(&b);
}

static void
show(const struct command *c, struct answer *a, bool as_json)
{
	struct reader r = { (const char *)a->text.data,
	    (const char *)a->text.data + a->text.len, false };
	struct json *j;

	if (as_json) {
		printf("%s\n", buf_str(&a->text));
		return;
	}
	j = read_value(&r, 0);
	if (r.bad)
		die(EXIT_FAILED, "the reply makes no sense: %s",
		    buf_str(&a->text));
	c->print(j);
	json_free(j);
}

static char *
find_socket(const char *file, const char *path)
{
	struct conf_app conf;
	struct err err;
	char *found;

	if (path != NULL)
		return (xstrdup(path));
	if (file == NULL)
		die(EXIT_USAGE, "-c or -s is needed: which application?");
	if (conf_read(&conf, file, &err) == -1)
		die(EXIT_PERMANENT, "%s", err.text);
	found = usock_path(&conf);
	conf_fini(&conf);
	return (found);
}

int
main(int argc, char *argv[])
{
	static const struct option long_options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 }
	};
	const char *file = NULL, *path = NULL;
	const struct command *c;
	struct answer a = { 0 };
	bool as_json = false;
	char *socket_path;
	struct err err;
	int ch, fd, first = 0;

	while ((ch = getopt_long(argc, argv, "c:s:h", long_options, NULL)) !=
	    -1)
		switch (ch) {
		case 'c':
			file = optarg;
			break;
		case 's':
			path = optarg;
			break;
		case 'j':
			as_json = true;
			break;
		case 'h':
			usage(stdout);
			return (0);
		default:
			usage(stderr);
			return (EXIT_USAGE);
		}
	argc -= optind;
	argv += optind;
	if ((c = find_command(argc, argv, &first)) == NULL || (file != NULL &&
	    path != NULL)) {
		usage(stderr);
		return (EXIT_USAGE);
	}
	socket_path = find_socket(file, path);
	if ((fd = usock_connect(socket_path, &err)) == -1)
		die(EXIT_TEMPORARY, "no supervisor answers: %s", err.text);
	ask(fd, c, argv + first, &a);
	if (a.code != 0)
		die(EXIT_FAILED, "%s", buf_str(&a.text));
	show(c, &a, as_json);
	close(fd);
	free(socket_path);
	buf_fini(&a.text);
	return (fflush(stdout) == 0 ? 0 : EXIT_FAILED);
}
