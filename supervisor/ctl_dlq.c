/*
 * wallarooctl dlq: the file of dead letters is read here, by whoever may read
 * it; only what is put back goes through the supervisor.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/err.h"
#include "common/mem.h"
#include "supervisor/wallarooctl.h"

#define ERROR_SHOWN	70	/* bytes of an error in a list */

struct letters {
	int		 fd;		/* of the supervisor, or -1 */
	char		*file;
	struct json	*known;		/* its reply, or NULL */
	FILE		*f;
	char		*line;
	size_t		 cap;
	uint64_t	 n;		/* of the letter at hand, from 1 */
	struct json	*letter;
};

static void
open_letters(struct letters *l, int fd, const char *file)
{
	struct answer a;

	memset(l, 0, sizeof(*l));
	l->fd = fd;
	if (fd != -1) {
		ask(fd, "dlq", "", "", &a);
		if (a.code != 0)
			die(EXIT_FAILED, "%s", buf_str(&a.text));
		if ((l->known = json_read(buf_slice(&a.text))) == NULL)
			die(EXIT_FAILED, "the reply makes no sense: %s",
			    buf_str(&a.text));
		buf_fini(&a.text);
		file = json_text(l->known, "file");
	}
	l->file = xstrdup(file);
	/* None was ever written: an empty list. */
	if ((l->f = fopen(file, "re")) == NULL && errno != ENOENT)
		die(EXIT_FAILED, "cannot read %s: %s", file,
		    strerror(errno));
}

static void
close_letters(struct letters *l)
{
	if (l->f != NULL)
		(void)fclose(l->f);
	json_free(l->letter);
	json_free(l->known);
	free(l->line);
	free(l->file);
}

/* A last line without its end is still being written. */
static bool
next_letter(struct letters *l)
{
	ssize_t len;

	while (l->f != NULL && (len = getline(&l->line, &l->cap, l->f)) > 0 &&
	    l->line[len - 1] == '\n') {
		l->n++;
		l->line[len - 1] = '\0';
		json_free(l->letter);
		l->letter = json_read(slice_of(l->line, (size_t)len - 1));
		if (l->letter != NULL)
			return (true);
		(void)fprintf(stderr, "wallarooctl: %s: line %" PRIu64 " is "
		    "no dead letter\n", l->file, l->n);
	}
	return (false);
}

static const char *
replayed(const struct letters *l)
{
	const char *id = json_text(l->letter, "id");
	const struct json *list = json_member(l->known, "replayed"), *j;

	if (l->known == NULL)
		return ("unknown");
	for (j = list == NULL ? NULL : list->child; j != NULL; j = j->next)
		if (strcmp(json_text(j, "id"), id) == 0)
			return (json_text(j, "state"));
	return ("no");
}

/* Nothing that a terminal would obey: no controls, of U+0080 on neither. */
static char *
harmless(const char *text, size_t most)
{
	size_t len = strlen(text), i;
	char *s;

	if (len > most)
		for (len = most; len > 0 && (text[len] & 0xc0) == 0x80; )
			len--;
	s = xstrndup(text, len);
	for (i = 0; i < len; i++) {
		if (((unsigned char)s[i] < 0x20 && s[i] != '\n') ||
		    s[i] == 0x7f)
			s[i] = '?';
		if ((unsigned char)s[i] == 0xc2 && (s[i + 1] & 0xe0) == 0x80)
			s[i] = s[i + 1] = '?';
	}
	return (s);
}

static void
put_time(struct buf *b, const char *ns)
{
	time_t when = (time_t)(strtoull(ns, NULL, 10) / 1000000000);
	char text[32] = "";
	struct tm tm;

	if (gmtime_r(&when, &tm) != NULL)
		(void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	buf_addf(b, ", \"time\": \"%s\"", text);
}

static void
put_member(struct buf *b, const char *key, const char *value)
{
	buf_addf(b, ", \"%s\": ", key);
	json_put_str(b, value);
}

static int
list(struct letters *l, bool as_json)
{
	static const struct column columns[] = {
		{ "N", "n", true }, { "ID", "id", false },
		{ "TIME", "time", false }, { "WORKER", "worker", true },
		{ "STEP", "step", false }, { "KEY", "key", false },
		{ "REPLAYED", "replayed", false }, { "ERROR", "error", false },
	};
	struct buf b = { 0 };
	struct json *j;
	char *error;

	buf_addf(&b, "{\"file\": ");
	json_put_str(&b, l->file);
	buf_addf(&b, ", \"letters\": [");
	while (next_letter(l)) {
		buf_addf(&b, "%s{\"n\": %" PRIu64, b.data[b.len - 1] == '[' ?
		    "" : ", ", l->n);
		put_member(&b, "id", json_text(l->letter, "id"));
		put_time(&b, json_text(l->letter, "time_ns"));
		buf_addf(&b, ", \"worker\": %u", (unsigned int)strtoul(
		    json_text(l->letter, "worker"), NULL, 10));
		put_member(&b, "step", json_text(l->letter, "step"));
		put_member(&b, "key", json_text(l->letter, "key"));
		error = harmless(json_text(l->letter, "error"), as_json ?
		    SIZE_MAX : ERROR_SHOWN);
		put_member(&b, "error", error);
		put_member(&b, "replayed", replayed(l));
		buf_addf(&b, "}");
		free(error);
	}
	buf_addf(&b, "]}");
	if (as_json) {
		printf("%s\n", buf_str(&b));
		buf_fini(&b);
		return (0);
	}
	j = json_read(buf_slice(&b));
	buf_fini(&b);
	if (json_member(j, "letters") == NULL ||
	    json_member(j, "letters")->child == NULL)
		printf("no dead letters\n");
	else
		print_table(json_member(j, "letters"), columns,
		    sizeof(columns) / sizeof(columns[0]));
	json_free(j);
	return (0);
}

static bool
is_meant(const struct letters *l, const char *which)
{
	char number[24];

	(void)snprintf(number, sizeof(number), "%" PRIu64, l->n);
	return (strcmp(which, number) == 0 ||
	    strcmp(which, json_text(l->letter, "id")) == 0);
}

static void
find(struct letters *l, const char *which)
{
	while (next_letter(l))
		if (is_meant(l, which))
			return;
	die(EXIT_FAILED, "there is no letter %s in %s", which, l->file);
}

static int
show(struct letters *l, const char *which, bool as_json)
{
	const struct json *m;
	char *text;

	find(l, which);
	if (as_json) {
		printf("{\"n\": %" PRIu64 ", \"replayed\": \"%s\", "
		    "\"letter\": %s}\n", l->n, replayed(l), l->line);
		return (0);
	}
	printf("n: %" PRIu64 "\nreplayed: %s\n", l->n, replayed(l));
	for (m = l->letter->child; m != NULL; m = m->next) {
		/* For the program that puts it back. */
		if (m->key == NULL || strcmp(m->key, "record") == 0)
			continue;
		text = harmless(m->text == NULL ? "-" : m->text, SIZE_MAX);
		printf("%s:%s%s\n", m->key, strchr(text, '\n') == NULL ? " " :
		    "\n", text);
		free(text);
	}
	return (0);
}

struct counts {
	uint64_t	done, before, failed;
};

static void
put_back(struct letters *l, struct counts *c)
{
	const char *record = json_text(l->letter, "record");
	struct answer a = { 0 };
	struct json *j = NULL;

	if (strcmp(record, "-") == 0)
		buf_addf(&a.text, "its record was too large, or could not be "
		    "pickled, and was not kept");
	else {
		ask(l->fd, "dlq-replay", json_text(l->letter, "id"), record,
		    &a);
		if (a.code == 0)
			j = json_read(buf_slice(&a.text));
	}
	if (j == NULL) {
		c->failed++;
		(void)fprintf(stderr, "wallarooctl: letter %" PRIu64 ": %s\n",
		    l->n, buf_str(&a.text));
	} else if (strcmp(json_text(j, "replayed"), "true") == 0)
		c->done++;
	else
		c->before++;
	json_free(j);
	buf_fini(&a.text);
}

static int
replay(struct letters *l, const char *which, bool as_json)
{
	bool all = strcmp(which, "all") == 0;
	struct counts c = { 0, 0, 0 };

	if (!all) {
		find(l, which);
		put_back(l, &c);
	} else
		while (next_letter(l))
			put_back(l, &c);
	if (as_json)
		printf("{\"replayed\": %" PRIu64 ", \"already\": %" PRIu64
		    ", \"failed\": %" PRIu64 "}\n", c.done, c.before,
		    c.failed);
	else if (all)
		printf("%" PRIu64 " replayed, %" PRIu64 " had been before, %"
		    PRIu64 " failed\n", c.done, c.before, c.failed);
	else if (c.done > 0)
		printf("letter %s is replayed\n", which);
	else if (c.before > 0)
		(void)fprintf(stderr, "wallarooctl: letter %s was replayed "
		    "already\n", which);
	return (c.failed > 0 || (!all && c.before > 0) ? EXIT_FAILED : 0);
}

int
dlq_command(int fd, const char *file, const char *verb, const char *which,
    bool as_json)
{
	struct letters l;
	int code;

	if (fd == -1 && strcmp(verb, "replay") == 0)
		die(EXIT_TEMPORARY, "no supervisor answers: letters are put "
		    "back while the application runs");
	open_letters(&l, fd, file);
	if (strcmp(verb, "list") == 0)
		code = list(&l, as_json);
	else if (strcmp(verb, "show") == 0)
		code = show(&l, which, as_json);
	else
		code = replay(&l, which, as_json);
	close_letters(&l);
	return (code);
}
