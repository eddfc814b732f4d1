/* Targets of supervisor/ that need none: names, lines, its catalog. */
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"
#include "tests/fuzz/fuzz.h"

/* --- hold ---------------------------------------------------------------- */

/* Names that come back from the descriptor store. */
void
fuzz_hold(const uint8_t *data, size_t n)
{
	char *name = xstrndup((const char *)data, n), again[HOLD_NAME];
	struct held held;

	(void)notify_is_listener(name);
	if (hold_parse(name, &held) == 0) {
		hold_name(&held, again);
		fuzz_check(strcmp(name, again) == 0);
	}
	free(name);
}

/* --- inherit ------------------------------------------------------------- */

/* Up to the next line's end, as a string. */
static char *
line(struct slice *s)
{
	const uint8_t *nl = s->len == 0 ? NULL : memchr(s->data, '\n',
	    s->len);
	size_t n = nl == NULL ? s->len : (size_t)(nl - s->data);
	char *text = xstrndup((const char *)s->data, n);

	n += nl != NULL;
	s->data += n;
	s->len -= n;
	return (text);
}

/* The variables of systemd, one value a line; "." is our own process id. */
void
fuzz_inherit(const uint8_t *data, size_t n)
{
	static const char *const names[] = { "LISTEN_FDS", "LISTEN_PID",
	    "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID",
	    "WATCHDOG_USEC" };
	struct supervisor *s = xcalloc(1, sizeof(*s));
	struct slice rest = slice_of(data, n);
	char pid[24], *value;
	size_t i;

	(void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		value = line(&rest);
		(void)setenv(names[i], strcmp(value, ".") == 0 ? pid : value,
		    1);
		free(value);
	}
	notify_init(s);
	fuzz_check(getenv("LISTEN_FDS") == NULL);
	for (i = 0; i < s->ninherited; i++) {
		fuzz_check(strchr(s->inherited[i].name, ':') == NULL);
		s->inherited[i].fd = -1;	/* they are the fuzzer's */
	}
	notify_close_rest(s);
	if (s->notify_fd != -1)
		close(s->notify_fd);
	free(s);
}

/* --- address, proc, cgroup ----------------------------------------------- */

void
fuzz_address(const uint8_t *data, size_t n)
{
	char *text = xstrndup((const char *)data, n), *host, *again, *other;
	struct err err;
	uint32_t port;

	if (address_parse(text, &host, &port, &err) == -1) {
		fuzz_check(err.text[0] != '\0');
		free(text);
		return;
	}
	fuzz_check(port > 0 && port < 65536 && strlen(host) < strlen(text));
	again = xasprintf("[%s]:%u", host, port);
	if (host[0] != '\0') {
		fuzz_check(address_parse(again, &other, &port, &err) == 0);
		fuzz_check(strcmp(host, other) == 0);
		free(other);
	}
	free(again);
	free(host);
	free(text);
}

/* What the kernel, or an earlier supervisor, says of processes. */
void
fuzz_proc(const uint8_t *data, size_t n)
{
	char *text = xstrndup((const char *)data, n);
	struct proc_stat st;
	uint64_t start;
	pid_t pid;

	(void)spawn_parse_stat(text, &st);
	if (spawn_parse_record(text, &pid, &start))
		fuzz_check(pid > 1);
	(void)cgroup_count(text);
	free(text);
}

/* --- catalog ------------------------------------------------------------- */

static void
on_loss(const struct loss *l, void *arg)
{
	size_t *sum = arg;

	*sum += strlen(l->text);
}

static void
use_catalog(struct catalog *c, const char *dir)
{
	struct buf b = { 0 };
	struct topo topo;
	struct err err;
	size_t sum = 0;

	if (dlq_open(c, &err) == 0) {
		(void)dlq_pending(c);
		(void)dlq_list(c, &b, &err);
	}
	(void)catalog_losses(c, on_loss, &sum, &err);
	if (topo_parse(&topo, buf_slice(&c->topology), &err) == 0)
		topo_fini(&topo);
	(void)catalog_finish_rename(c, dir, &err);
	(void)catalog_begin(c, 2, 16, &err);
	(void)catalog_loss(c, 1, "text", &err);
	(void)catalog_clean(c, &err);
	buf_fini(&b);
}

static void
make_catalog(const char *dir)
{
	struct catalog c;
	struct err err;

	fuzz_check(catalog_open(&c, dir, "fuzz", &err) == 0 &&
	    dlq_open(&c, &err) == 0 &&
	    catalog_loss(&c, 0, "lost", &err) == 0 &&
	    sqlite3_exec(c.db, "INSERT INTO renames (op, old_name, new_name) "
	    "VALUES (1, 'a', 'b'); INSERT INTO replays (id, worker, time_ns) "
	    "VALUES ('0123456789abcdef', 0, 1)", NULL, NULL, NULL) ==
	    SQLITE_OK);
	catalog_close(&c);
}

/* A good file, with pieces of the input over it; or only the input. */
void
fuzz_catalog(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	bool whole = fuzz_number(&in, 1) & 1;
	static const char dir[] = "/nowhere";
	static struct buf good;
	struct buf *file;
	struct catalog c;
	struct err err;

	fuzz_db();
	file = fuzz_db_file("/nowhere/catalog.sqlite");
	if (good.len == 0) {
		make_catalog(dir);
		buf_add(&good, file->data, file->len);
		fuzz_check(good.len > 0);
	}
	buf_clear(file);
	if (whole)
		buf_add(file, in.p, in.n);
	else {
		buf_add(file, good.data, good.len);
		fuzz_patch(file->data, file->len, &in);
	}
	if (catalog_open(&c, dir, "fuzz", &err) == 0) {
		use_catalog(&c, dir);
		catalog_close(&c);
	} else
		fuzz_check(err.text[0] != '\0');
}
