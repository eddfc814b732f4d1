/* See store.h.  Takes jobs from checkpoint.c. */
#include <sys/stat.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/mem.h"
#include "common/part.h"
#include "worker/planted.h"
#include "worker/store.h"

#define STORE_VERSION	2
#define DELTA_LIMIT	(16 << 20)	/* bytes of rows until merged */
#define DELTA_ROWS	(64 << 20)	/* bytes in a row of `delta` */

static const char schema[] =
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  version INTEGER NOT NULL, worker INTEGER NOT NULL,"
    "  owner INTEGER NOT NULL, has_checkpoint INTEGER NOT NULL,"
    "  clean INTEGER NOT NULL, lineage INTEGER NOT NULL,"
    "  position INTEGER NOT NULL, automaton BLOB NOT NULL,"
    "  commits INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    "  deltas INTEGER NOT NULL, sum INTEGER NOT NULL);"
    /* AUTOINCREMENT: the number of a dropped step is never used again. */
    "CREATE TABLE steps (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  name TEXT UNIQUE NOT NULL, sum INTEGER);"
    "CREATE TABLE state (step INTEGER NOT NULL, key BLOB NOT NULL,"
    "  value BLOB NOT NULL, sum INTEGER NOT NULL,"
    "  PRIMARY KEY (step, key)) WITHOUT ROWID;"
    /* Rows newer than those of `state`, in the order of id. */
    "CREATE TABLE delta (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL,"
    "  steps BLOB NOT NULL, rows BLOB NOT NULL);"
    "CREATE TABLE outbox (id INTEGER PRIMARY KEY, box INTEGER NOT NULL,"
    "  head BLOB NOT NULL, body BLOB NOT NULL, sum INTEGER NOT NULL);";

/* SQLite knows whether a page makes sense, not whether it is the one that
 * was written. */
int
store_damaged(const char *path, const char *what, struct err *err)
{
	return (err_set(err, ERR_CORRUPT, "%s is damaged (%s): restore the "
	    "whole state-directory from a backup", path, what));
}

int
store_db_err(const struct store *s, sqlite3 *db, struct err *err,
    const char *doing)
{
	int rc = sqlite3_extended_errcode(db);

	/* SQLite takes an I/O error of a read for damage; restoring a backup
	 * because a disk did not answer once would lose what is there. */
	if ((rc & 0xff) == SQLITE_CORRUPT && errno == EIO)
		return (err_set(err, ERR_STORAGE, "%s: cannot %s: %s",
		    s->path, doing, strerror(EIO)));
	if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB)
		return (store_damaged(s->path, sqlite3_errmsg(db), err));
	return (err_set(err, ERR_STORAGE, "%s: cannot %s: %s", s->path, doing,
	    sqlite3_errmsg(db)));
}

static int
db_err(struct store *s, struct err *err, const char *doing)
{
	return (store_db_err(s, s->db, err, doing));
}

static struct slice
column(sqlite3_stmt *st, int i)
{
	return (slice_of(sqlite3_column_blob(st, i),
	    (size_t)sqlite3_column_bytes(st, i)));
}

static int
exec(struct store *s, const char *sql, const char *doing, struct err *err)
{
	if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return (db_err(s, err, doing));
	return (0);
}

static int
prepare(struct store *s, sqlite3_stmt **st, const char *sql, struct err *err)
{
	if (sqlite3_prepare_v2(s->db, sql, -1, st, NULL) != SQLITE_OK)
		return (db_err(s, err, "prepare a statement"));
	return (0);
}

static int
user_version(struct store *s, int *version, struct err *err)
{
	sqlite3_stmt *st;
	int r = 0;

	if (prepare(s, &st, "PRAGMA user_version", err) == -1)
		return (-1);
	if (sqlite3_step(st) != SQLITE_ROW)
		r = db_err(s, err, "read the schema version");
	else
		*version = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return (r);
}

int64_t
store_item_sum(int64_t number, struct slice first, struct slice second)
{
	uint64_t v[3] = { (uint64_t)number, part_hash(first),
	    part_hash(second) };

	return ((int64_t)(part_hash(slice_of(v, sizeof(v))) & INT64_MAX));
}

int64_t
store_meta_sum(const struct store_meta *m, uint32_t worker)
{
	uint64_t v[8] = { worker, m->exists, m->clean, m->lineage,
	    m->position, m->deltas, m->commits,
	    part_hash(buf_slice(&m->automaton)) };

	return ((int64_t)(part_hash(slice_of(v, sizeof(v))) & INT64_MAX));
}

static int
make_schema(struct store *s, uint32_t worker, struct err *err)
{
	struct store_meta none = { 0 };
	char sql[256];

	snprintf(sql, sizeof(sql), "INSERT INTO meta VALUES "
	    "(1, %d, %u, 0, 0, 0, 0, 0, x'', 0, 0, 0, %" PRId64 "); "
	    "PRAGMA user_version = %d;", STORE_VERSION, worker,
	    store_meta_sum(&none, worker), STORE_VERSION);
	if (exec(s, "BEGIN IMMEDIATE", "begin", err) == -1 ||
	    exec(s, schema, "make the tables", err) == -1 ||
	    exec(s, sql, "make the tables", err) == -1 ||
	    exec(s, "COMMIT", "commit", err) == -1)
		return (-1);
	return (0);
}

static int
take_ownership(struct store *s, struct err *err)
{
	sqlite3_stmt *st;
	int r = 0;

	clock_random(&s->owner, sizeof(s->owner));
	s->owner >>= 1;				/* SQLite's integers: signed */
	if (prepare(s, &st, "UPDATE meta SET owner = ?", err) == -1)
		return (-1);
	sqlite3_bind_int64(st, 1, (sqlite3_int64)s->owner);
	FAULT_POINT(store_own_before);
	if (sqlite3_step(st) != SQLITE_DONE)
		r = db_err(s, err, "write");
	FAULT_POINT(store_own_after);
	sqlite3_finalize(st);
	return (r);
}

static int
read_meta(struct store *s, uint32_t worker, struct store_meta *m,
    struct err *err)
{
	sqlite3_stmt *st;
	int r = 0;

	if (prepare(s, &st, "SELECT worker, has_checkpoint, clean, lineage, "
	    "position, automaton, commits, epoch, deltas, sum FROM meta",
	    err) == -1)
		return (-1);
	if (sqlite3_step(st) != SQLITE_ROW)
		r = db_err(s, err, "read the last checkpoint");
	else if ((uint32_t)sqlite3_column_int(st, 0) != worker)
		r = err_set(err, ERR_CORRUPT, "%s belongs to worker %d, "
		    "not %u", s->path, sqlite3_column_int(st, 0), worker);
	else {
		m->exists = sqlite3_column_int(st, 1) != 0;
		m->clean = sqlite3_column_int(st, 2) != 0;
		m->lineage = (uint64_t)sqlite3_column_int64(st, 3);
		m->position = (uint64_t)sqlite3_column_int64(st, 4);
		buf_add(&m->automaton, sqlite3_column_blob(st, 5),
		    (size_t)sqlite3_column_bytes(st, 5));
		m->commits = (uint64_t)sqlite3_column_int64(st, 6);
		m->epoch = (uint64_t)sqlite3_column_int64(st, 7);
		m->deltas = (uint64_t)sqlite3_column_int64(st, 8);
		if (sqlite3_column_int64(st, 9) != store_meta_sum(m, worker))
			r = store_damaged(s->path, "the last checkpoint does "
			    "not match its checksum", err);
	}
	sqlite3_finalize(st);
	return (r);
}

/* A step that is new, or was renamed, has no checksum. */
static int
sum_steps(struct store *s, struct err *err)
{
	sqlite3_stmt *all = NULL, *put = NULL;
	int64_t sum;
	int rc, r = -1;

	if (prepare(s, &all, "SELECT id, name, sum FROM steps", err) == -1 ||
	    prepare(s, &put, "UPDATE steps SET sum = ? WHERE id = ?", err) ==
	    -1)
		goto out;
	while ((rc = sqlite3_step(all)) == SQLITE_ROW) {
		sum = store_item_sum(sqlite3_column_int64(all, 0),
		    column(all, 1), slice_of("", 0));
		if (sqlite3_column_type(all, 2) != SQLITE_NULL) {
			if (sqlite3_column_int64(all, 2) == sum)
				continue;
			(void)store_damaged(s->path, "the name of a step "
			    "does not match its checksum", err);
			goto out;
		}
		sqlite3_bind_int64(put, 1, sum);
		sqlite3_bind_int64(put, 2, sqlite3_column_int64(all, 0));
		if (sqlite3_step(put) != SQLITE_DONE) {
			(void)db_err(s, err, "number the steps");
			goto out;
		}
		sqlite3_reset(put);
	}
	r = rc == SQLITE_DONE ? 0 : db_err(s, err, "number the steps");
out:
	sqlite3_finalize(all);
	sqlite3_finalize(put);
	return (r);
}

/* Numbers of the steps with state; new names get one. */
static int
number_steps(struct store *s, const char *const *steps, struct err *err)
{
	sqlite3_stmt *add = NULL, *find = NULL;
	size_t i;
	int r = -1;

	if (prepare(s, &add, "INSERT OR IGNORE INTO steps (name) VALUES (?)",
	    err) == -1 ||
	    prepare(s, &find, "SELECT id FROM steps WHERE name = ?", err) ==
	    -1)
		goto out;
	for (i = 0; i < s->nsteps; i++) {
		s->step_id[i] = -1;
		if (steps[i] == NULL)
			continue;
		sqlite3_bind_text(add, 1, steps[i], -1, SQLITE_STATIC);
		sqlite3_bind_text(find, 1, steps[i], -1, SQLITE_STATIC);
		if (sqlite3_step(add) != SQLITE_DONE ||
		    sqlite3_step(find) != SQLITE_ROW) {
			(void)db_err(s, err, "number the steps");
			goto out;
		}
		s->step_id[i] = sqlite3_column_int64(find, 0);
		sqlite3_reset(add);
		sqlite3_reset(find);
	}
	r = 0;
out:
	sqlite3_finalize(add);
	sqlite3_finalize(find);
	return (r);
}

/* How much waits to be merged: all that the last checkpoint says. */
static int
delta_size(struct store *s, const struct store_meta *m, struct err *err)
{
	sqlite3_stmt *st;
	int r = 0;

	if (prepare(s, &st, "SELECT coalesce(sum(length(rows)), 0), count(*) "
	    "FROM delta", err) == -1)
		return (-1);
	if (sqlite3_step(st) != SQLITE_ROW)
		r = db_err(s, err, "read state");
	else if ((uint64_t)sqlite3_column_int64(st, 1) != m->deltas)
		r = store_damaged(s->path, "a part of the state is missing",
		    err);
	else {
		s->delta = (uint64_t)sqlite3_column_int64(st, 0);
		s->ndelta = m->deltas;
	}
	sqlite3_finalize(st);
	return (r);
}

int
store_open(struct store *s, const char *path, uint32_t worker,
    const char *const *steps, size_t nsteps, struct store_meta *m,
    struct err *err)
{
	int version = 0;

	memset(s, 0, sizeof(*s));
	memset(m, 0, sizeof(*m));
	s->path = xstrdup(path);
	s->worker = worker;
	s->nsteps = nsteps;
	s->step_id = xcalloc(nsteps + 1, sizeof(*s->step_id));
	handoff_init(&s->writer);
	if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE |
	    SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
		(void)db_err(s, err, "open");
		goto fail;
	}
	sqlite3_busy_timeout(s->db, 5000);
	if (exec(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
	    "PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -8000;",
	    "open", err) == -1 || user_version(s, &version, err) == -1)
		goto fail;
	if (version == 0) {
		if (make_schema(s, worker, err) == -1)
			goto fail;
	} else if (version != STORE_VERSION) {
		(void)err_set(err, ERR_CORRUPT, "%s has schema version %d, "
		    "this program knows %d", path, version, STORE_VERSION);
		goto fail;
	}
	if (take_ownership(s, err) == -1 ||
	    read_meta(s, worker, m, err) == -1 ||
	    sum_steps(s, err) == -1 || number_steps(s, steps, err) == -1 ||
	    sum_steps(s, err) == -1 ||
	    delta_size(s, m, err) == -1)
		goto fail;
	if (prepare(s, &s->put_row, "INSERT INTO state VALUES (?, ?, ?, ?) "
	    "ON CONFLICT DO UPDATE SET value = excluded.value, "
	    "sum = excluded.sum", err) == -1 ||
	    prepare(s, &s->del_row, "DELETE FROM state WHERE step = ? AND "
	    "key = ?", err) == -1 ||
	    prepare(s, &s->put_delta, "INSERT INTO delta (sum, steps, rows) "
	    "VALUES (?, ?, ?)", err) == -1 ||
	    prepare(s, &s->put_meta, "UPDATE meta SET has_checkpoint = 1, "
	    "clean = ?, lineage = ?, position = ?, automaton = ?, "
	    "commits = ?6, epoch = iif(?7 = 0, epoch, ?7), "
	    "deltas = ?8, sum = ?9 "
	    "WHERE owner = ?5 AND position <= ?3", err) == -1)
		goto fail;
	return (0);
fail:
	buf_fini(&m->automaton);
	store_close(s);
	return (-1);
}

/* --- rows, oldest first ------------------------------------------------ */

/* Over the columns of a delta row: what was written is what is read. */
static uint64_t
delta_sum(struct slice steps, struct slice rows)
{
	return ((part_hash(steps) ^ part_hash(rows)) & INT64_MAX);
}

int
store_delta_rows(const struct store *s, uint64_t sum, struct slice steps,
    struct slice rows, int (*row)(void *, int64_t, struct slice,
    struct slice), void *arg, struct err *err)
{
	const uint8_t *p = rows.data, *end = rows.data + rows.len;
	struct slice key, value;
	struct store_item i;
	int64_t id;

	if (delta_sum(steps, rows) != sum)
		goto torn;
	while (p < end) {
		if (!store_item_next(&p, end, &i, &key, &value) ||
		    i.number >= steps.len / sizeof(id))
			goto torn;
		memcpy(&id, steps.data + i.number * sizeof(id), sizeof(id));
		if (row(arg, id, key, value) == -1)
			return (-1);
	}
	return (0);
torn:
	return (store_damaged(s->path, "the state does not match its "
	    "checksum", err));
}

struct known_rows {		/* store_rows: rows of steps that are known */
	struct store	*s;
	int		(*row)(void *, size_t, struct slice, struct slice);
	void		*arg;
};

static int
known_row(void *arg, int64_t id, struct slice key, struct slice value)
{
	struct known_rows *k = arg;
	size_t i;

	for (i = 0; i < k->s->nsteps; i++)
		if (k->s->step_id[i] == id)
			return (k->row(k->arg, i, key, value));
	return (0);
}

int
store_rows(struct store *s, int (*row)(void *, size_t step,
    struct slice, struct slice), void *arg, struct err *err)
{
	struct known_rows k = { s, row, arg };
	sqlite3_stmt *st;
	int rc, r = 0;

	if (prepare(s, &st, "SELECT step, key, value, sum FROM state", err) ==
	    -1)
		return (-1);
	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		r = known_row(&k, sqlite3_column_int64(st, 0), column(st, 1),
		    column(st, 2));
		if (r == 0 && sqlite3_column_int64(st, 3) != store_item_sum(
		    sqlite3_column_int64(st, 0), column(st, 1), column(st,
		    2)))
			r = store_damaged(s->path, "the state of a key does "
			    "not match its checksum", err);
	}
	if (r == 0 && rc != SQLITE_DONE)
		r = db_err(s, err, "read state");
	sqlite3_finalize(st);
	if (r == -1 || prepare(s, &st, "SELECT sum, steps, rows FROM delta "
	    "ORDER BY id", err) == -1)
		return (-1);
	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
		r = store_delta_rows(s, (uint64_t)sqlite3_column_int64(st,
		    0), column(st, 1), column(st, 2), known_row, &k, err);
	if (r == 0 && rc != SQLITE_DONE)
		r = db_err(s, err, "read state");
	sqlite3_finalize(st);
	return (r);
}

int
store_boxes(struct store *s, int (*frame)(void *, uint32_t, struct slice,
    struct slice), void *arg, struct err *err)
{
	sqlite3_stmt *st;
	int rc, r = 0;

	if (prepare(s, &st, "SELECT box, head, body, sum FROM outbox "
	    "ORDER BY id", err) == -1)
		return (-1);
	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
		if (sqlite3_column_int64(st, 3) != store_item_sum(
		    sqlite3_column_int64(st, 0), column(st, 1), column(st,
		    2)))
			r = store_damaged(s->path, "saved outputs do not "
			    "match their checksum", err);
		else
			r = frame(arg, (uint32_t)sqlite3_column_int64(st, 0),
			    column(st, 1), column(st, 2));
	if (r == 0 && rc != SQLITE_DONE)
		r = db_err(s, err, "read saved outputs");
	sqlite3_finalize(st);
	return (r);
}

/* --- writing ----------------------------------------------------------- */

static int
put_item(struct store *s, sqlite3_stmt *st, int64_t number,
    struct slice first, struct slice second, struct err *err)
{
	int rc;

	if (st != s->put_delta)		/* whose number is its checksum */
		sqlite3_bind_int64(st, 4, store_item_sum(number, first,
		    second));
	sqlite3_bind_int64(st, 1, number);
	/* A zero-length blob needs a pointer, or it would be NULL. */
	sqlite3_bind_blob(st, 2, first.data, (int)first.len, SQLITE_STATIC);
	sqlite3_bind_blob(st, 3, second.data, (int)second.len, SQLITE_STATIC);
	rc = sqlite3_step(st);
	sqlite3_reset(st);
	return (rc == SQLITE_DONE ? 0 : db_err(s, err, "write"));
}

static int
put_boxes(struct store *s, struct store_job *j, struct err *err)
{
	const uint8_t *p = j->boxes.data, *end = p + j->boxes.len;
	struct slice head, body;
	sqlite3_stmt *st;
	struct store_item i;
	int r = 0;

	if (exec(s, "DELETE FROM outbox", "write", err) == -1)
		return (-1);
	if (prepare(s, &st, "INSERT INTO outbox (box, head, body, sum) "
	    "VALUES (?, ?, ?, ?)", err) == -1)
		return (-1);
	while (r == 0 && store_item_next(&p, end, &i, &head, &body))
		r = put_item(s, st, i.number, head, body, err);
	sqlite3_finalize(st);
	return (r);
}

/* --- deltas ------------------------------------------------------------ */

/*
 * A commit appends what changed as one blob; an upsert per key would cost
 * more than the user's own functions.  When enough has come together it goes
 * into the table, each key once, in the table's order; always at a clean
 * stop, so that whoever reads a stopped worker's file finds all in `state`.
 */
static int
put_delta(struct store *s, struct slice rows, struct err *err)
{
	struct slice steps = slice_of(s->step_id,
	    s->nsteps * sizeof(*s->step_id));

	return (put_item(s, s->put_delta, (int64_t)delta_sum(steps, rows),
	    steps, rows, err));
}

static int
put_deltas(struct store *s, const struct buf *rows, uint64_t *n,
    struct err *err)
{
	const uint8_t *p = rows->data, *end = p + rows->len, *from = p;
	struct slice key, value;
	struct store_item i;

	while (store_item_next(&p, end, &i, &key, &value))
		if ((size_t)(p - from) > DELTA_ROWS || p == end) {
			if (put_delta(s, slice_of(from, (size_t)(p - from)),
			    err) == -1)
				return (-1);
			(*n)++;
			from = p;
		}
	return (0);
}

struct newer {
	int64_t		 step;
	struct slice	 key;
	struct slice	 value;
	size_t		 seq;
};

struct merge {
	const struct store *s;
	struct newer	*row;
	size_t		 n, cap;
	struct buf	*kept;		/* what the rows point into */
	size_t		 nkept;
};

static int
merge_row(void *arg, int64_t step, struct slice key, struct slice value)
{
	struct merge *m = arg;
	size_t i;

	for (i = 0; i < m->s->nsteps && m->s->step_id[i] != step; i++)
		continue;
	if (i == m->s->nsteps)
		return (0);		/* of a step that was dropped */
	if (m->n == m->cap) {
		m->cap = m->cap == 0 ? 1024 : m->cap * 2;
		m->row = xreallocarray(m->row, m->cap, sizeof(*m->row));
	}
	m->row[m->n] = (struct newer){ step, key, value, m->n };
	m->n++;
	return (0);
}

/* By step and key, the newest first. */
static int
by_key(const void *a, const void *b)
{
	const struct newer *x = a, *y = b;
	size_t len = x->key.len < y->key.len ? x->key.len : y->key.len;
	int c;

	if (x->step != y->step)
		return (x->step < y->step ? -1 : 1);
	c = len == 0 ? 0 : memcmp(x->key.data, y->key.data, len);
	if (c != 0)
		return (c);
	if (x->key.len != y->key.len)
		return (x->key.len < y->key.len ? -1 : 1);
	return (x->seq > y->seq ? -1 : 1);
}

static bool
same_key(const struct newer *x, const struct newer *y)
{
	return (x->step == y->step && x->key.len == y->key.len &&
	    (x->key.len == 0 ||
	    memcmp(x->key.data, y->key.data, x->key.len) == 0));
}

/* No bytes: the key has expired. */
static int
merge_one(struct store *s, const struct newer *r, struct err *err)
{
	int rc;

	if (r->value.len > 0)
		return (put_item(s, s->put_row, r->step, r->key, r->value,
		    err));
	sqlite3_bind_int64(s->del_row, 1, r->step);
	sqlite3_bind_blob(s->del_row, 2, r->key.data, (int)r->key.len,
	    SQLITE_STATIC);
	rc = sqlite3_step(s->del_row);
	sqlite3_reset(s->del_row);
	return (rc == SQLITE_DONE ? 0 : db_err(s, err, "write"));
}

static int
merge_put(struct store *s, struct merge *m, struct err *err)
{
	size_t i;

	if (m->n > 0)
		qsort(m->row, m->n, sizeof(*m->row), by_key);
	for (i = 0; i < m->n; i++)
		if ((i == 0 || !same_key(&m->row[i - 1], &m->row[i])) &&
		    merge_one(s, &m->row[i], err) == -1)
			return (-1);
	return (exec(s, "DELETE FROM delta", "write", err));
}

/* Bytes of a column are gone at the next sqlite3_step: keep them. */
static struct slice
merge_keep(struct merge *m, struct slice bytes)
{
	m->kept = xreallocarray(m->kept, m->nkept + 1, sizeof(*m->kept));
	memset(&m->kept[m->nkept], 0, sizeof(*m->kept));
	buf_add(&m->kept[m->nkept], bytes.data, bytes.len);
	return (buf_slice(&m->kept[m->nkept++]));
}

static int
merge_read(struct store *s, struct merge *m, struct err *err)
{
	sqlite3_stmt *st;
	int rc, r = 0;

	if (prepare(s, &st, "SELECT sum, steps, rows FROM delta ORDER BY id",
	    err) == -1)
		return (-1);
	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
		r = store_delta_rows(s, (uint64_t)sqlite3_column_int64(st,
		    0), column(st, 1), merge_keep(m, column(st, 2)),
		    merge_row, m, err);
	if (r == 0 && rc != SQLITE_DONE)
		r = db_err(s, err, "read state");
	sqlite3_finalize(st);
	return (r);
}

static int
merge_deltas(struct store *s, const struct store_job *j, struct err *err)
{
	struct slice steps = slice_of(s->step_id,
	    s->nsteps * sizeof(*s->step_id)), rows = buf_slice(&j->rows);
	struct merge m = { .s = s };
	size_t i;
	int r;

	r = merge_read(s, &m, err);
	if (r == 0)
		r = store_delta_rows(s, delta_sum(steps, rows), steps, rows,
		    merge_row, &m, err);
	if (r == 0)
		r = merge_put(s, &m, err);
	for (i = 0; i < m.nkept; i++)
		buf_fini(&m.kept[i]);
	free(m.kept);
	free(m.row);
	return (r);
}

/* The bytes are the job's. */
static int
put_meta(struct store *s, struct store_job *j, uint64_t deltas,
    struct err *err)
{
	struct store_meta m = { .exists = true, .clean = j->clean,
	    .lineage = j->lineage, .position = j->position,
	    .automaton = j->automaton, .deltas = deltas,
	    .commits = j->commits };
	sqlite3_stmt *st = s->put_meta;
	int rc;

	sqlite3_bind_int(st, 1, j->clean);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)j->lineage);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)j->position);
	sqlite3_bind_blob(st, 4, j->automaton.data, (int)j->automaton.len,
	    SQLITE_STATIC);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)s->owner);
	sqlite3_bind_int64(st, 6, (sqlite3_int64)j->commits);
	sqlite3_bind_int64(st, 7, (sqlite3_int64)j->epoch);
	sqlite3_bind_int64(st, 8, (sqlite3_int64)deltas);
	sqlite3_bind_int64(st, 9, store_meta_sum(&m, s->worker));
	rc = sqlite3_step(st);
	sqlite3_reset(st);
	if (rc != SQLITE_DONE)
		return (db_err(s, err, "write"));
	if (sqlite3_changes(s->db) != 1)
		return (err_set(err, ERR_REFUSED, "%s: another process owns "
		    "this file now, or holds a newer checkpoint", s->path));
	return (0);
}

static int
begin(struct store *s, struct err *err)
{
	int r;

	FAULT_POINT(store_begin_before);
	r = exec(s, "BEGIN IMMEDIATE", "begin a checkpoint", err);
	FAULT_POINT(store_begin_after);
	return (r);
}

static int
put_job(struct store *s, struct store_job *j, bool merge, uint64_t *deltas,
    struct err *err)
{
	int r;

	FAULT_POINT(store_rows_before);
	r = (merge ? merge_deltas(s, j, err) :
	    put_deltas(s, &j->rows, deltas, err)) == -1 ||
	    put_meta(s, j, *deltas, err) == -1 ||
	    (j->remake && put_boxes(s, j, err) == -1) ? -1 : 0;
	FAULT_POINT(store_rows_after);
	return (r);
}

static int
commit(struct store *s, struct err *err)
{
	int r;

	FAULT_POINT(store_commit_before);
	r = exec(s, "COMMIT", "commit a checkpoint", err);
	FAULT_POINT(store_commit_after);
	return (r);
}

int
store_commit(struct store *s, struct store_job *j, struct err *err)
{
	bool merge = j->clean || s->delta + j->rows.len > DELTA_LIMIT;
	uint64_t deltas = merge ? 0 : s->ndelta;

	if (exec(s, j->sync ? "PRAGMA synchronous = FULL" :
	    "PRAGMA synchronous = NORMAL", "write", err) == -1 ||
	    begin(s, err) == -1)
		return (-1);
	if (put_job(s, j, merge, &deltas, err) == -1 || commit(s, err) == -1) {
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
		return (-1);
	}
	s->delta = merge ? 0 : s->delta + j->rows.len;
	s->ndelta = deltas;
	return (0);
}

int
store_opened(struct store *s, uint64_t epoch, struct err *err)
{
	sqlite3_stmt *st;
	int r = 0;

	if (exec(s, "PRAGMA synchronous = FULL", "write", err) == -1 ||
	    prepare(s, &st, "UPDATE meta SET epoch = ? WHERE owner = ?",
	    err) == -1)
		return (-1);
	sqlite3_bind_int64(st, 1, (sqlite3_int64)epoch);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)s->owner);
	FAULT_POINT(store_epoch_before);
	if (sqlite3_step(st) != SQLITE_DONE)
		r = db_err(s, err, "write");
	FAULT_POINT(store_epoch_after);
	sqlite3_finalize(st);
	return (r);
}

/* --- the writer thread ------------------------------------------------- */

static void
write_job(void *owner, void *job)
{
	struct store_job *j = job;

	j->ok = store_commit(owner, j, &j->err) == 0;
	if (j->ok)		/* here, where no event waits for it */
		buf_fini(&j->rows);
}

int
store_start(struct store *s, void (*notify)(void *), void *arg,
    struct err *err)
{
	return (handoff_start(&s->writer, write_job, s, notify, arg, err));
}

void
store_give(struct store *s, struct store_job *j)
{
	handoff_give(&s->writer, j);
}

struct store_job *
store_take(struct store *s)
{
	return (handoff_take(&s->writer));
}

void
store_stop(struct store *s)
{
	handoff_stop(&s->writer);
}

void
store_close(struct store *s)
{
	store_stop(s);
	store_job_free(s->writer.job);
	sqlite3_finalize(s->put_row);
	sqlite3_finalize(s->del_row);
	sqlite3_finalize(s->put_delta);
	sqlite3_finalize(s->put_meta);
	sqlite3_close(s->db);
	free(s->step_id);
	free(s->path);
	handoff_fini(&s->writer);
	memset(s, 0, sizeof(*s));
}
