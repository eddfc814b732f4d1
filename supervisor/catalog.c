/*
 * catalog.sqlite: what the supervisor must know after any death, a few
 * hundred bytes that are written a few times per start.  Each change is one
 * transaction that is on disk when it returns.
 */
#include <sys/stat.h>

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/fault.h"
#include "common/mem.h"
#include "common/part.h"
#include "supervisor/supervisor.h"

#define CATALOG_VERSION	3
#define BUSY_MS		5000

static const char schema[] =
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  application TEXT NOT NULL, start_time_ns INTEGER NOT NULL,"
    "  epoch INTEGER NOT NULL, generation INTEGER NOT NULL,"
    "  workers INTEGER NOT NULL, partitions INTEGER NOT NULL,"
    "  clean INTEGER NOT NULL, topology BLOB NOT NULL,"
    "  topology_text TEXT NOT NULL, run_dir TEXT NOT NULL,"
    "  opened INTEGER NOT NULL, sum INTEGER);"
    "CREATE TABLE losses (id INTEGER PRIMARY KEY,"
    "  time_ns INTEGER NOT NULL, worker INTEGER NOT NULL,"
    "  text TEXT NOT NULL);"
    /* Renames of states that are under way; new_name NULL: drop it. */
    "CREATE TABLE renames (id INTEGER PRIMARY KEY, op INTEGER NOT NULL,"
    "  old_name TEXT NOT NULL, new_name TEXT);";

/* SQLite's own check finds damaged pages, not another number in a row: `sum`
 * is of all that the row says, and this connection keeps it so. */
#define META_SUM							\
	"catalog_sum(application, start_time_ns, epoch, generation,"	\
	" workers, partitions, clean, topology, run_dir, opened)"

static const char keep_sum[] =
    "CREATE TEMP TRIGGER kept AFTER UPDATE OF application, start_time_ns,"
    "  epoch, generation, workers, partitions, clean, topology, run_dir,"
    "  opened ON main.meta"
    "  BEGIN UPDATE meta SET sum = " META_SUM "; END;"
    "CREATE TEMP TRIGGER made AFTER INSERT ON main.meta"
    "  BEGIN UPDATE meta SET sum = " META_SUM "; END;";

/* --- SQLite's errors as ours --------------------------------------------- */

static int
db_err(sqlite3 *db, const char *path, struct err *err)
{
	int rc = sqlite3_errcode(db) & 0xff;

	switch (rc) {
	case SQLITE_CORRUPT:
		/* So SQLite also calls a read that failed. */
		if (errno == EIO)
			return (err_set(err, ERR_STORAGE, "%s: %s", path,
			    strerror(EIO)));
		/* FALLTHROUGH */
	case SQLITE_NOTADB:
		return (err_set(err, ERR_CORRUPT, "%s is damaged (%s): restore "
		    "the state-directory from a backup", path,
		    sqlite3_errmsg(db)));
	case SQLITE_FULL:
		return (err_set(err, ERR_STORAGE, "%s: the disk is full",
		    path));
	case SQLITE_READONLY:
		return (err_set(err, ERR_STORAGE, "%s cannot be written: the "
		    "file or its file system is read-only", path));
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
		return (err_set(err, ERR_STORAGE, "%s cannot be opened: %s",
		    path, strerror(sqlite3_system_errno(db) != 0 ?
		    sqlite3_system_errno(db) : EACCES)));
	default:
		return (err_set(err, ERR_STORAGE, "%s: %s", path,
		    sqlite3_errmsg(db)));
	}
}

static int
cat_err(const struct catalog *c, struct err *err)
{
	return (db_err(c->db, c->path, err));
}

static int
exec(struct catalog *c, const char *sql, struct err *err)
{
	int rc;

	FAULT_POINT(catalog_write_before);
	rc = sqlite3_exec(c->db, sql, NULL, NULL, NULL);
	FAULT_POINT(catalog_write_after);
	return (rc == SQLITE_OK ? 0 : cat_err(c, err));
}

/* A statement that is stepped once and has no rows. */
static int
finish(struct catalog *c, sqlite3_stmt *st, struct err *err)
{
	int r = 0;

	FAULT_POINT(catalog_write_before);
	if (st == NULL || sqlite3_step(st) != SQLITE_DONE)
		r = cat_err(c, err);
	FAULT_POINT(catalog_write_after);
	sqlite3_finalize(st);
	return (r);
}

static sqlite3_stmt *
prepare(struct catalog *c, const char *sql)
{
	sqlite3_stmt *st = NULL;

	if (sqlite3_prepare_v2(c->db, sql, -1, &st, NULL) != SQLITE_OK) {
		sqlite3_finalize(st);
		return (NULL);
	}
	return (st);
}

static void
bind_slice(sqlite3_stmt *st, int i, struct slice s)
{
	if (s.len == 0)
		sqlite3_bind_zeroblob(st, i, 0);
	else
		sqlite3_bind_blob64(st, i, s.data, s.len, SQLITE_TRANSIENT);
}

/* --- opening ------------------------------------------------------------- */

static int
read_version(struct catalog *c, int *version, struct err *err)
{
	sqlite3_stmt *st = prepare(c, "PRAGMA user_version");
	int r = -1;

	if (st != NULL && sqlite3_step(st) == SQLITE_ROW) {
		*version = sqlite3_column_int(st, 0);
		r = 0;
	} else
		(void)cat_err(c, err);
	sqlite3_finalize(st);
	return (r);
}

static int
check_integrity(struct catalog *c, struct err *err)
{
	sqlite3_stmt *st = prepare(c, "PRAGMA quick_check(1)");
	const char *text;
	int r = 0;

	if (st == NULL || sqlite3_step(st) != SQLITE_ROW)
		r = cat_err(c, err);
	else {
		text = (const char *)sqlite3_column_text(st, 0);
		if (text == NULL || strcmp(text, "ok") != 0)
			r = err_set(err, ERR_CORRUPT, "%s is damaged (%s): "
			    "restore the state-directory from a backup",
			    c->path, text == NULL ? "unknown" : text);
	}
	sqlite3_finalize(st);
	return (r);
}

/* The SQL function catalog_sum(...), of its arguments in their order. */
static void
sum_of(sqlite3_context *context, int n, sqlite3_value **v)
{
	uint64_t sum = 0;
	const void *data;
	int i;

	for (i = 0; i < n; i++) {
		/* As bytes: a number is its text.  The data before its size. */
		data = sqlite3_value_blob(v[i]);
		sum = part_seal(slice_of(data == NULL ? "" : data,
		    (size_t)sqlite3_value_bytes(v[i])), sum);
	}
	sqlite3_result_int64(context, (int64_t)(sum & INT64_MAX));
}

static int
keep_sums(struct catalog *c, struct err *err)
{
	if (sqlite3_create_function(c->db, "catalog_sum", -1, SQLITE_UTF8 |
	    SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS, NULL, sum_of, NULL, NULL)
	    != SQLITE_OK)
		return (cat_err(c, err));
	return (0);
}

static int
make(struct catalog *c, const char *app, struct err *err)
{
	sqlite3_stmt *st;

	if (exec(c, "BEGIN IMMEDIATE", err) == -1 ||
	    exec(c, schema, err) == -1 || exec(c, keep_sum, err) == -1)
		return (-1);
	st = prepare(c, "INSERT INTO meta VALUES (1, ?, ?, 0, 0, 0, 0, 1, "
	    "x'', '', '', 0, NULL)");
	if (st != NULL) {
		sqlite3_bind_text(st, 1, app, -1, SQLITE_STATIC);
		sqlite3_bind_int64(st, 2, (int64_t)clock_wall_ns());
	}
	if (finish(c, st, err) == -1 ||
	    exec(c, "PRAGMA user_version = 3; COMMIT", err) == -1)
		return (-1);
	return (0);
}

static int
read_meta(struct catalog *c, const char *app, struct err *err)
{
	sqlite3_stmt *st = prepare(c, "SELECT application, start_time_ns, "
	    "epoch, generation, workers, partitions, clean, topology, run_dir, "
	    "opened, sum = " META_SUM " FROM meta WHERE id = 1");
	const char *name, *dir;
	int r = 0;

	if (st == NULL || sqlite3_step(st) != SQLITE_ROW) {
		r = st == NULL || sqlite3_errcode(c->db) != SQLITE_DONE ?
		    cat_err(c, err) : err_set(err, ERR_CORRUPT, "%s is "
		    "damaged (empty): restore the state-directory from a "
		    "backup", c->path);
		sqlite3_finalize(st);
		return (r);
	}
	name = (const char *)sqlite3_column_text(st, 0);
	dir = (const char *)sqlite3_column_text(st, 8);
	c->start_time_ns = (uint64_t)sqlite3_column_int64(st, 1);
	c->epoch = (uint64_t)sqlite3_column_int64(st, 2);
	c->generation = (uint64_t)sqlite3_column_int64(st, 3);
	c->workers = (uint32_t)sqlite3_column_int64(st, 4);
	c->partitions = (uint32_t)sqlite3_column_int64(st, 5);
	c->clean = sqlite3_column_int(st, 6) != 0;
	buf_clear(&c->topology);
	buf_add(&c->topology, sqlite3_column_blob(st, 7),
	    (size_t)sqlite3_column_bytes(st, 7));
	c->run_dir = xstrdup(dir == NULL ? "" : dir);
	c->opened = (uint64_t)sqlite3_column_int64(st, 9);
	if (sqlite3_column_int(st, 10) != 1)
		r = err_set(err, ERR_CORRUPT, "%s is damaged (its row is not "
		    "what was written): restore the state-directory from a "
		    "backup", c->path);
	else if (name == NULL || strcmp(name, app) != 0)
		r = err_set(err, ERR_CONFIG, "the state-directory belongs to "
		    "application \"%s\", this is \"%s\" (%s)",
		    name == NULL ? "" : name, app, c->path);
	sqlite3_finalize(st);
	return (r);
}

static int
open_checked(struct catalog *c, const char *app, struct err *err)
{
	int version;

	if (sqlite3_open_v2(c->path, &c->db, SQLITE_OPEN_READWRITE |
	    SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
		return (cat_err(c, err));
	(void)sqlite3_busy_timeout(c->db, BUSY_MS);
	/* Not WAL: a copy of one file is a backup.  EXTRA: a rollback journal
	 * that a power loss brings back would undo the last transaction. */
	if (exec(c, "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA",
	    err) == -1 || keep_sums(c, err) == -1 ||
	    read_version(c, &version, err) == -1)
		return (-1);
	if (version == 0) {
		if (make(c, app, err) == -1)
			return (-1);
	} else if (version != CATALOG_VERSION)
		return (err_set(err, ERR_CORRUPT, "%s has schema version %d, "
		    "this program knows %d", c->path, version,
		    CATALOG_VERSION));
	else if (exec(c, keep_sum, err) == -1)
		return (-1);
	if (check_integrity(c, err) == -1 || read_meta(c, app, err) == -1 ||
	    exec(c, "UPDATE meta SET epoch = epoch + 1", err) == -1)
		return (-1);
	c->epoch++;
	return (0);
}

int
catalog_open(struct catalog *c, const char *dir, const char *app,
    struct err *err)
{
	memset(c, 0, sizeof(*c));
	c->path = xasprintf("%s/catalog.sqlite", dir);
	if (open_checked(c, app, err) == 0)
		return (0);
	catalog_close(c);
	return (-1);
}

void
catalog_close(struct catalog *c)
{
	(void)sqlite3_close(c->db);
	free(c->path);
	free(c->run_dir);
	buf_fini(&c->topology);
	memset(c, 0, sizeof(*c));
}

/* --- changes ------------------------------------------------------------- */

int
catalog_run_dir(struct catalog *c, const char *dir, struct err *err)
{
	sqlite3_stmt *st;

	if (strcmp(c->run_dir, dir) == 0)
		return (0);
	st = prepare(c, "UPDATE meta SET run_dir = ?");
	if (st != NULL)
		sqlite3_bind_text(st, 1, dir, -1, SQLITE_STATIC);
	if (finish(c, st, err) == -1)
		return (-1);
	free(c->run_dir);
	c->run_dir = xstrdup(dir);
	return (0);
}

int
catalog_begin(struct catalog *c, uint32_t workers, uint32_t partitions,
    struct err *err)
{
	sqlite3_stmt *st = prepare(c, "UPDATE meta SET workers = ?, "
	    "partitions = ?, clean = 0");

	if (st != NULL) {
		sqlite3_bind_int64(st, 1, workers);
		sqlite3_bind_int64(st, 2, partitions);
	}
	if (finish(c, st, err) == -1)
		return (-1);
	c->workers = workers;
	c->partitions = partitions;
	c->clean = false;
	return (0);
}

int
catalog_opened(struct catalog *c, struct err *err)
{
	if (exec(c, "UPDATE meta SET opened = epoch", err) == -1)
		return (-1);
	c->opened = c->epoch;
	return (0);
}

static int
put_topology(struct catalog *c, struct slice topology, struct err *err)
{
	sqlite3_stmt *st;
	struct buf text = { 0 };
	struct topo t;
	int r;

	if (topo_parse(&t, topology, err) == -1)
		return (-1);
	topo_print(&t, &text);
	topo_fini(&t);
	st = prepare(c, "UPDATE meta SET topology = ?, topology_text = ?");
	if (st != NULL) {
		bind_slice(st, 1, topology);
		sqlite3_bind_text(st, 2, buf_str(&text), -1,
		    SQLITE_TRANSIENT);
	}
	r = finish(c, st, err);
	buf_fini(&text);
	return (r);
}

int
catalog_topology(struct catalog *c, struct slice topology, struct err *err)
{
	if (c->topology.len == topology.len && memcmp(c->topology.data,
	    topology.data, topology.len) == 0)
		return (0);
	if (put_topology(c, topology, err) == -1)
		return (-1);
	buf_clear(&c->topology);
	buf_add(&c->topology, topology.data, topology.len);
	return (0);
}

int
catalog_clean(struct catalog *c, struct err *err)
{
	if (exec(c, "UPDATE meta SET clean = 1", err) == -1)
		return (-1);
	c->clean = true;
	return (0);
}

/* This start had no consequences, and does not count. */
int
catalog_unused(struct catalog *c, struct err *err)
{
	if (exec(c, "UPDATE meta SET epoch = epoch - 1", err) == -1)
		return (-1);
	c->epoch--;
	return (0);
}

/* The workers' files of the next generation are complete. */
int
catalog_spread(struct catalog *c, uint32_t workers, struct err *err)
{
	sqlite3_stmt *st = prepare(c, "UPDATE meta SET workers = ?, "
	    "generation = generation + 1, opened = 0");

	if (st != NULL)
		sqlite3_bind_int64(st, 1, workers);
	if (finish(c, st, err) == -1)
		return (-1);
	c->workers = workers;
	c->generation++;
	c->opened = 0;
	return (0);
}

int
catalog_discard(struct catalog *c, struct err *err)
{
	if (exec(c, "BEGIN IMMEDIATE; UPDATE meta SET workers = 0, "
	    "generation = generation + 1, clean = 1, opened = 0, "
	    "topology = x'', topology_text = ''; DELETE FROM renames; COMMIT",
	    err) == -1)
		return (-1);
	c->workers = 0;
	c->generation++;
	c->clean = true;
	buf_clear(&c->topology);
	c->opened = 0;
	return (0);
}

int
catalog_loss(struct catalog *c, uint32_t worker, const char *text,
    struct err *err)
{
	sqlite3_stmt *st = prepare(c, "INSERT INTO losses (time_ns, worker, "
	    "text) VALUES (?, ?, ?)");

	if (st != NULL) {
		sqlite3_bind_int64(st, 1, (int64_t)clock_wall_ns());
		sqlite3_bind_int64(st, 2, worker);
		sqlite3_bind_text(st, 3, text, -1, SQLITE_STATIC);
	}
	return (finish(c, st, err));
}

int
catalog_losses(struct catalog *c, void (*each)(const struct loss *, void *),
    void *arg, struct err *err)
{
	sqlite3_stmt *st = prepare(c, "SELECT time_ns, worker, text "
	    "FROM losses ORDER BY id");
	struct loss l;
	int rc = SQLITE_ERROR;

	while (st != NULL && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		l.time_ns = (uint64_t)sqlite3_column_int64(st, 0);
		l.worker = (uint32_t)sqlite3_column_int64(st, 1);
		l.text = (const char *)sqlite3_column_text(st, 2);
		if (l.text != NULL)
			each(&l, arg);
	}
	sqlite3_finalize(st);
	return (rc == SQLITE_DONE ? 0 : cat_err(c, err));
}

/* --- may this version go on with that state? ----------------------------- */

/* The stage with state of that name, or NULL. */
static const struct topo_stage *
has_state(const struct topo *t, const char *name)
{
	size_t i;

	for (i = 0; i < t->nstages; i++)
		if (stage_has_state(&t->stages[i]) &&
		    strcmp(t->stages[i].name, name) == 0)
			return (&t->stages[i]);
	return (NULL);
}

static const struct rename_state *
find_rename(const struct options *o, const char *from)
{
	size_t i;

	for (i = 0; i < o->nrenames; i++)
		if (strcmp(o->renames[i].from, from) == 0)
			return (&o->renames[i]);
	return (NULL);
}

static void
show_both(const struct topo *old, const struct topo *now, struct buf *b)
{
	buf_addf(b, "\nthe state was written by:\n");
	topo_print(old, b);
	buf_addf(b, "this version is:\n");
	topo_print(now, b);
}

static int
refuse(const struct topo *old, const struct topo *now, struct buf *why,
    struct err *err)
{
	int r;

	show_both(old, now, why);
	r = err_set(err, ERR_REFUSED, "%s", buf_str(why));
	buf_fini(why);
	return (r);
}

/* Each request must say something about these two versions. */
static int
check_renames(const struct topo *old, const struct topo *now,
    const struct options *o, struct buf *why)
{
	const struct rename_state *r;
	size_t i, k;

	for (i = 0; i < o->nrenames; i++) {
		r = &o->renames[i];
		for (k = 0; k < i; k++)
			if (strcmp(o->renames[k].from, r->from) == 0 ||
			    (r->to != NULL && o->renames[k].to != NULL &&
			    strcmp(o->renames[k].to, r->to) == 0)) {
				buf_addf(why, "state \"%s\" is renamed or "
				    "dropped twice", r->from);
				return (-1);
			}
		if (!has_state(old, r->from)) {
			buf_addf(why, "there is no state \"%s\" to %s",
			    r->from, r->to == NULL ? "drop" : "rename");
			return (-1);
		}
		if (r->to == NULL)
			continue;
		if (!has_state(now, r->to)) {
			buf_addf(why, "state \"%s\" cannot be renamed: this "
			    "version has no step with state named \"%s\"",
			    r->from, r->to);
			return (-1);
		}
		if (has_state(now, r->to)->kind !=
		    has_state(old, r->from)->kind) {
			buf_addf(why, "state \"%s\" cannot be renamed: "
			    "\"%s\" is a step of another kind", r->from,
			    r->to);
			return (-1);
		}
		if (has_state(old, r->to) && find_rename(o, r->to) == NULL) {
			buf_addf(why, "state \"%s\" cannot be renamed: there "
			    "is a state \"%s\" already", r->from, r->to);
			return (-1);
		}
	}
	return (0);
}

int
catalog_compatible(const struct topo *old, const struct topo *now,
    const struct options *o, struct err *err)
{
	struct buf why = { 0 };
	size_t i;

	if (check_renames(old, now, o, &why) == -1)
		return (refuse(old, now, &why, err));
	for (i = 0; i < old->nstages; i++) {
		const struct topo_stage *s = &old->stages[i], *same;

		if (!stage_has_state(s) || find_rename(o, s->name) != NULL)
			continue;
		same = has_state(now, s->name);
		if (same != NULL && same->kind == s->kind)
			continue;
		if (same != NULL) {
			buf_addf(&why, "%sstep \"%s\" is of another kind "
			    "now and cannot go on with its state: give the "
			    "new step another name and say --drop-state "
			    "\"%s\"", why.len > 0 ? "\n" : "", s->name,
			    s->name);
			continue;
		}
		buf_addf(&why, "%sthere is state of step \"%s\", but this "
		    "version has no such step: say --rename-state "
		    "\"%s\"=NEW if it has another name now, or --drop-state "
		    "\"%s\" if its state is to be deleted",
		    why.len > 0 ? "\n" : "", s->name, s->name, s->name);
	}
	if (why.len > 0)
		return (refuse(old, now, &why, err));
	buf_fini(&why);
	return (0);
}

/* --- renaming in the workers' files -------------------------------------- */

/*
 * All renames of one file in one transaction, marked by application_id, so
 * that doing it again after a kill changes nothing.  Names are taken aside
 * first: A=B and B=A at once is possible.
 */
static const char *const rename_sql[] = {
	"DELETE FROM state WHERE step IN (SELECT steps.id FROM steps JOIN "
	    "cat.renames ON name = old_name WHERE new_name IS NULL)",
	"DELETE FROM steps WHERE name IN (SELECT old_name FROM cat.renames "
	    "WHERE new_name IS NULL)",
	/* Its worker makes the checksum anew. */
	"UPDATE steps SET sum = NULL, name = (SELECT char(1) || new_name FROM "
	    "cat.renames WHERE old_name = name) WHERE name IN "
	    "(SELECT old_name FROM cat.renames)",
	"DELETE FROM state WHERE step IN (SELECT id FROM steps WHERE name IN "
	    "(SELECT new_name FROM cat.renames))",
	"DELETE FROM steps WHERE name IN (SELECT new_name FROM cat.renames)",
	"UPDATE steps SET name = substr(name, 2) WHERE "
	    "substr(name, 1, 1) = char(1)",
	NULL
};

static int
int_of(sqlite3 *db, const char *sql, int64_t *v)
{
	sqlite3_stmt *st = NULL;
	int r = -1;

	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK &&
	    sqlite3_step(st) == SQLITE_ROW) {
		*v = sqlite3_column_int64(st, 0);
		r = 0;
	}
	sqlite3_finalize(st);
	return (r);
}

static int
rename_in(sqlite3 *db, const char *catalog)
{
	char *attach = sqlite3_mprintf("ATTACH %Q AS cat", catalog);
	char *mark = NULL;
	int64_t op, done;
	size_t i;
	int rc, r = -1;

	rc = sqlite3_exec(db, attach, NULL, NULL, NULL);
	sqlite3_free(attach);
	if (rc != SQLITE_OK ||
	    int_of(db, "SELECT max(op) FROM cat.renames", &op) == -1 ||
	    int_of(db, "PRAGMA main.application_id", &done) == -1)
		return (-1);
	if (done == op)
		return (0);
	if (sqlite3_exec(db, "PRAGMA main.synchronous = FULL; "
	    "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
		return (-1);
	for (i = 0; rename_sql[i] != NULL; i++)
		if (sqlite3_exec(db, rename_sql[i], NULL, NULL, NULL) !=
		    SQLITE_OK)
			return (-1);
	mark = sqlite3_mprintf("PRAGMA main.application_id = %lld; COMMIT",
	    (long long)op);
	if (sqlite3_exec(db, mark, NULL, NULL, NULL) == SQLITE_OK)
		r = 0;
	sqlite3_free(mark);
	return (r);
}

int
catalog_finish_rename(struct catalog *c, const char *dir, struct err *err)
{
	sqlite3 *db;
	int64_t n;
	uint32_t i;
	char *path;
	int r = 0;

	if (int_of(c->db, "SELECT count(*) FROM renames", &n) == -1)
		return (cat_err(c, err));
	for (i = 0; n > 0 && i < c->workers && r == 0; i++) {
		path = xasprintf("%s/worker-%u.g%" PRIu64 ".sqlite", dir, i,
		    c->generation);
		db = NULL;
		if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) !=
		    SQLITE_OK || rename_in(db, c->path) == -1)
			r = db_err(db, path, err);
		(void)sqlite3_close(db);
		free(path);
	}
	if (r == 0 && n > 0)
		r = exec(c, "DELETE FROM renames", err);
	return (r);
}

int
catalog_rename(struct catalog *c, const char *dir, const struct options *o,
    struct slice topology, struct err *err)
{
	sqlite3_stmt *st;
	size_t i;

	if (exec(c, "BEGIN IMMEDIATE", err) == -1)
		return (-1);
	for (i = 0; i < o->nrenames; i++) {
		st = prepare(c, "INSERT INTO renames (op, old_name, new_name) "
		    "VALUES (?, ?, ?)");
		if (st != NULL) {
			sqlite3_bind_int64(st, 1, (int64_t)(c->epoch &
			    INT32_MAX));
			sqlite3_bind_text(st, 2, o->renames[i].from, -1,
			    SQLITE_STATIC);
			if (o->renames[i].to != NULL)
				sqlite3_bind_text(st, 3, o->renames[i].to, -1,
				    SQLITE_STATIC);
		}
		if (finish(c, st, err) == -1)
			return (-1);
	}
	/* From here on the state belongs to this version. */
	if (put_topology(c, topology, err) == -1 ||
	    exec(c, "COMMIT", err) == -1)
		return (-1);
	buf_clear(&c->topology);
	buf_add(&c->topology, topology.data, topology.len);
	return (catalog_finish_rename(c, dir, err));
}

/* Files of an earlier generation, or of a spreading that did not complete. */
void
catalog_remove_old(const struct catalog *c, const char *dir, uint32_t workers,
    uint64_t generation)
{
	static const char *const ends[] = { "", "-wal", "-shm", "-journal" };
	uint32_t i;
	size_t k;
	char *path;

	if (generation == c->generation)
		return;
	for (i = 0; i < workers; i++)
		for (k = 0; k < sizeof(ends) / sizeof(ends[0]); k++) {
			path = xasprintf("%s/worker-%u.g%" PRIu64 ".sqlite%s",
			    dir, i, generation, ends[k]);
			FAULT_POINT(old_remove_before);
			if (unlink(path) == -1 && errno != ENOENT)
				log_warn("cannot remove %s: %s", path,
				    strerror(errno));
			FAULT_POINT(old_remove_after);
			free(path);
		}
}
