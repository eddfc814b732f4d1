/*
 * wallarooctl: one request to the supervisor, its reply as a table or as the
 * JSON that it is.
 */
#include <sys/socket.h>

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"
#include "supervisor/wallarooctl.h"

#define REPLY_MAX	(64 * 1024 * 1024)

/* --- tables -------------------------------------------------------------- */

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

void
print_table(const struct json *list, const struct column *col, size_t n)
{
	const struct json *row;
	size_t width[COLUMNS_MAX], i, len;

	if (list == NULL || list->child == NULL)
		return;
	for (i = 0; i < n; i++) {
		width[i] = strlen(col[i].head);
		for (row = list->child; row != NULL; row = row->next) {
			len = strlen(json_text(row, col[i].key));
			if (len > width[i])
				width[i] = len;
		}
	}
	printf("\n");
	for (i = 0; i < n; i++)
		print_cell(&col[i], col[i].head, width[i], i + 1 == n);
	for (row = list->child; row != NULL; row = row->next)
		for (i = 0; i < n; i++)
			print_cell(&col[i], json_text(row, col[i].key),
			    width[i], i + 1 == n);
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
		{ "WAITS", "waits", false },
	};
	static const struct column partitions[] = {
		{ "TOPIC", "topic", false }, { "PARTITION", "partition", true },
		{ "SOURCE", "source", false }, { "WORKER", "worker", true },
		{ "LAG", "lag", true },
	};
	static const struct column connectors[] = {
		{ "CONNECTOR", "name", false }, { "PID", "pid", true },
		{ "STATE", "state", false }, { "RESTARTS", "restarts", true },
		{ "UP", "uptime_s", true }, { "KIND", "kind", false },
		{ "SERVES", "serves", false }, { "TEXT", "text", false },
	};
	static const struct column losses[] = {
		{ "LOSS ACCEPTED", "time", false },
		{ "WORKER", "worker", true }, { "TEXT", "text", false },
	};

	printf("%s%s%s is %s: pid %s, epoch %s, generation %s, "
	    "durability %s\n", json_text(j, "application"),
	    json_text(j, "version")[0] == '\0' ? "" : " ",
	    json_text(j, "version"), json_text(j, "state"),
	    json_text(j, "pid"), json_text(j, "epoch"),
	    json_text(j, "generation"), json_text(j, "durability"));
	PRINT_TABLE(json_member(j, "workers"), workers);
	PRINT_TABLE(json_member(j, "sources"), sources);
	PRINT_TABLE(json_member(j, "sinks"), sinks);
	PRINT_TABLE(json_member(j, "partitions"), partitions);
	PRINT_TABLE(json_member(j, "connectors"), connectors);
	PRINT_TABLE(json_member(j, "losses"), losses);
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
	printf("%s workers have a checkpoint\n", json_text(j, "workers"));
}

static void
print_restart(const struct json *j)
{
	if (json_member(j, "connector") != NULL) {
		printf("connector %s is started again", json_text(j,
		    "connector"));
		if (strcmp(json_text(j, "pid"), "0") != 0)
			printf(", process %s is ended", json_text(j, "pid"));
		printf("\n");
		return;
	}
	printf("worker %s is replaced, process %s is killed\n",
	    json_text(j, "worker"), json_text(j, "pid"));
}

static void
print_state(const struct json *j)
{
	printf("%s\n", json_text(j, "value"));
}

static void
print_version(const struct json *j)
{
	printf("%s\n", json_text(j, "version"));
}

/* --- commands ------------------------------------------------------------ */

static const struct command {
	const char	*word;		/* on the command line */
	const char	*second;	/* and after it, or NULL */
	const char	*verb;		/* on the wire; NULL: more than one */
	int		 args;
	void		(*print)(const struct json *);
} commands[] = {
	{ "status", NULL, "status", 0, print_status },
	{ "stop", NULL, "stop", 0, print_stop },
	{ "checkpoint", NULL, "checkpoint", 0, print_checkpoint },
	{ "restart", NULL, "restart", 1, print_restart },
	{ "state", "get", "state-get", 2, print_state },
	{ "dlq", "list", NULL, 0, NULL },
	{ "dlq", "show", NULL, 1, NULL },
	{ "dlq", "replay", NULL, 1, NULL },
	{ "version", NULL, "version", 0, print_version },
};

static void
usage(FILE *f)
{
	(void)fprintf(f, "usage: wallarooctl [-c file | -s socket] [--json] "
	    "command\n"
	    "commands: status, stop, checkpoint, restart worker | connector,\n"
	    "          state get step key, dlq list, dlq show letter,\n"
	    "          dlq replay letter | all, version,\n"
	    "          copy worker directory, replay directory [options]\n");
}

void
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

void
ask(int fd, const char *verb, const char *first, const char *second,
    struct answer *a)
{
	struct msg_ctl m = { .verb = msg_cstr(verb), .a = msg_cstr(first),
	    .b = msg_cstr(second) };
	struct buf b = { 0 };
	struct err err;
	ssize_t n;
	long len;

	memset(a, 0, sizeof(*a));
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
	struct json *j;

	if (as_json) {
		printf("%s\n", buf_str(&a->text));
		return;
	}
	if ((j = json_read(buf_slice(&a->text))) == NULL)
		die(EXIT_FAILED, "the reply makes no sense: %s",
		    buf_str(&a->text));
	c->print(j);
	json_free(j);
}

/* Where the supervisor listens and, from the configuration, dead letters
 * go; both to be freed. */
static char *
find_socket(const char *file, const char *path, char **letters)
{
	struct conf_app conf;
	struct err err;
	char *found;

	*letters = NULL;
	if (path != NULL)
		return (xstrdup(path));
	if (file == NULL)
		die(EXIT_USAGE, "-c or -s is needed: which application?");
	if (conf_read(&conf, file, &err) == -1)
		die(EXIT_PERMANENT, "%s", err.text);
	found = usock_path(&conf);
	*letters = xstrdup(conf.dead_letter_file);
	conf_fini(&conf);
	return (found);
}

static int
simple_command(int fd, const struct command *c, char *args[], bool as_json)
{
	struct answer a;

	ask(fd, c->verb, c->args > 0 ? args[0] : "", c->args > 1 ? args[1] :
	    "", &a);
	if (a.code != 0)
		die(EXIT_FAILED, "%s", buf_str(&a.text));
	show(c, &a, as_json);
	buf_fini(&a.text);
	return (0);
}

/* The worker's program copies a worker's files, and runs such a copy. */
static void __attribute__((noreturn))
become_worker(const char *option, const char *file, int argc, char *argv[])
{
	char **args = xcalloc((size_t)argc + 4, sizeof(*args));
	char *program = spawn_program(true);
	int i, n = 0;

	args[n++] = program;
	args[n++] = xstrdup(option);
	if (file != NULL)
		args[n++] = xstrdup(file);
	for (i = 0; i < argc; i++)
		args[n++] = argv[i];
	(void)execv(program, args);
	die(EXIT_TEMPORARY, "cannot execute %s: %s", program,
	    strerror(errno));
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
	bool as_json = false;
	char *socket_path, *letters;
	struct err err;
	int ch, fd, code, first = 0;

	/* Its options are its own, and no application need be here. */
	if (argc > 1 && strcmp(argv[1], "replay") == 0)
		become_worker("--replay", NULL, argc - 2, argv + 2);
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
	if (argc == 3 && strcmp(argv[0], "copy") == 0 && file != NULL)
		become_worker("--copy", file, argc - 1, argv + 1);
	if ((c = find_command(argc, argv, &first)) == NULL || (file != NULL &&
	    path != NULL)) {
		usage(stderr);
		return (EXIT_USAGE);
	}
	socket_path = find_socket(file, path, &letters);
	fd = usock_connect(socket_path, &err);
	if (fd == -1 && (c->verb != NULL || letters == NULL))
		die(EXIT_TEMPORARY, "no supervisor answers: %s", err.text);
	code = c->verb != NULL ? simple_command(fd, c, argv + first,
	    as_json) : dlq_command(fd, letters, c->second, c->args > 0 ?
	    argv[first] : NULL, as_json);
	if (fd != -1)
		close(fd);
	free(socket_path);
	free(letters);
	return (fflush(stdout) == 0 ? code : EXIT_FAILED);
}
