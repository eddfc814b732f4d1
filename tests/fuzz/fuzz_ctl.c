/* Targets of wallarooctl: what a supervisor may answer, and files of dead
 * letters. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/letter.h"
#include "common/mem.h"
#include "supervisor/wallarooctl.h"
#include "tests/fuzz/fuzz.h"

/* --- json ---------------------------------------------------------------- */

static void
put_json(struct buf *b, const struct json *j)
{
	const struct json *m;
	const char *comma = "";

	if (j->text != NULL) {
		json_put_str(b, j->text);
		return;
	}
	buf_addf(b, j->child != NULL && j->child->key != NULL ? "{" : "[");
	for (m = j->child; m != NULL; m = m->next) {
		buf_addf(b, "%s", comma);
		comma = ", ";
		if (m->key != NULL) {
			json_put_str(b, m->key);
			buf_addf(b, ": ");
		}
		put_json(b, m);
	}
	buf_addf(b, j->child != NULL && j->child->key != NULL ? "}" : "]");
}

/* What is accepted is written, and must read the same again. */
void
fuzz_json(const uint8_t *data, size_t n)
{
	struct json *j = json_read(slice_of(data, n)), *k;
	struct buf one = { 0 }, two = { 0 };

	if (j == NULL)
		return;
	(void)json_text(j, "application");
	(void)json_member(j, "workers");
	put_json(&one, j);
	k = json_read(buf_slice(&one));
	fuzz_check(k != NULL);
	put_json(&two, k);
	fuzz_check(one.len == two.len &&
	    memcmp(one.data, two.data, one.len) == 0);
	json_free(j);
	json_free(k);
	buf_fini(&one);
	buf_fini(&two);
}

/* --- letters ------------------------------------------------------------- */

/* What the supervisor answers, in the place of wallarooctl.c. */
static struct slice answers;
static char *letters_path;

void
die(int code, const char *fmt, ...)
{
	(void)code;
	(void)fmt;
	fuzz_check(!"a file of letters is no reason to die");
	abort();
}

void
ask(int fd, const char *verb, const char *a, const char *b, struct answer *r)
{
	struct buf bytes = { 0 };
	struct letter l;
	struct err err;

	(void)fd;
	memset(r, 0, sizeof(*r));
	r->here = true;
	if (strcmp(verb, "dlq") == 0) {
		buf_addf(&r->text, "{\"file\": ");
		json_put_str(&r->text, letters_path);
		buf_addf(&r->text, ", \"replayed\": [{\"id\": \"a\", "
		    "\"state\": \"yes\"}]}");
		return;
	}
	r->code = answers.len > 0 && answers.data[0] & 1;
	if (letter_bytes(&bytes, slice_of(b, strlen(b)), &err) == 0)
		(void)letter_unpack(&l, buf_slice(&bytes), &err);
	buf_fini(&bytes);
	buf_addf(&r->text, "%s", a[0] == 'y' ? "{\"replayed\": true}" :
	    a[0] == 'n' ? "{\"replayed\": false}" : "x");
}

void
print_table(const struct json *list, const struct column *col, size_t n)
{
	const struct json *row;
	size_t i;

	for (row = list->child; row != NULL; row = row->next)
		for (i = 0; i < n; i++)
			fuzz_check(json_text(row, col[i].key) != NULL);
}

/* Nobody reads what is printed. */
static void
silence(int fd[2])
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC), i;

	(void)fflush(stdout);
	(void)fflush(stderr);
	for (i = 0; i < 2; i++) {
		fd[i] = fcntl(i + 1, F_DUPFD_CLOEXEC, 3);
		(void)dup2(null, i + 1);
	}
	close(null);
}

static void
speak(const int fd[2])
{
	int i;

	(void)fflush(stdout);
	(void)fflush(stderr);
	for (i = 0; i < 2; i++) {
		(void)dup2(fd[i], i + 1);
		close(fd[i]);
	}
}

/* The first byte says how, the rest is the file. */
void
fuzz_letters(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	uint64_t how = fuzz_number(&in, 1);
	const char *path = fuzz_file(in.p, in.n);
	int fd[2];

	answers = slice_of(data, n);
	letters_path = xstrdup(path);
	silence(fd);
	(void)dlq_command(how & 2 ? 1 : -1, letters_path, "list", NULL,
	    how & 4);
	if (how & 8)
		(void)dlq_command(1, letters_path, "replay", "all", how & 4);
	speak(fd);
	free(letters_path);
}
