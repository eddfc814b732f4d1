/* See store.h.  Takes jobs from checkpoint.c. */
#include <sys/stat.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/mem.h"
#include "worker/planted.h"
#include "worker/store.h"

#define STORE_VERSION	1

static const char schema[] =
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  version INTEGER NOT NULL, worker INTEGER NOT NULL,"
    "  owner INTEGER NOT NULL, has_checkpoint INTEGER NOT NULL,"
    "  clean INTEGER NOT NULL, lineage INTEGER NOT NULL,"
    "  position INTEGER NOT NULL, automaton BLOB NOT NULL);"
    "CREATE TABLE steps (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);"
    "CREATE TABLE state (step INTEGER NOT NULL, key BLOB NOT NULL,"
    "  value BLOB NOT NULL, PRIMARY KEY (step, key)) WITHOUT ROWID;"
    "CREATE TABLE outbox (id INTEGER PRIMARY KEY, box INTEGER NOT NULL,"
    "  head BLOB NOT NULL, body BLOB NOT NULL);";

static int
db_err(struct store *s, struct err *err, const char *doing)
{
	int rc = sqlite3_extended_errcode(s->db);
	enum err_code code = ERR_STORAGE;

	if ((rc & 0xff) == SQLITE_CORRUPT || (rc & 0xff) == SQLITE_NOTADB)
		code = ERR_CORRUPT;
	return (err_set(err, code, "%s: cannot %s: %s", s->path, doing,
	    sqlite3_errmsg(s->db)));
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

static int
make_schema(struct store *s, uint32_t worker, struct err *err)
{
	char sql[256];

	snprintf(sql, sizeof(sql), "INSERT INTO meta VALUES "
	    "(1, %d, %u, 0, 0, 0, 0, 0, x''); PRAGMA user_version = %d;",
	    STORE_VERSION, worker, STORE_VERSION);
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
	if (sqlite3_step(st) != SQLITE_DONE)
		r = db_err(s, err, "write");
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
	    "position, automaton FROM meta", err) == -1)
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
	}
	sqlite3_finalize(st);
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

int
store_open(struct store *s, const char *path, uint32_t worker,
    const char *const *steps, size_t nsteps, struct store_meta *m,
    struct err *err)
{
	int version = 0;

	memset(s, 0, sizeof(*s));
	memset(m, 0, sizeof(*m));
	s->path = xstrdup(path);
	s->nsteps = nsteps;
	s->step_id = xcalloc(nsteps + 1, sizeof(*s->step_id));
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
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
	    number_steps(s, steps, err) == -1)
		goto fail;
	if (prepare(s, &s->put_row, "INSERT INTO state VALUES (?, ?, ?) "
	    "ON CONFLICT DO UPDATE SET value = excluded.value", err) == -1 ||
	    prepare(s, &s->put_meta, "UPDATE meta SET has_checkpoint = 1, "
	    "clean = ?, lineage = ?, position = ?, automaton = ? "
	    "WHERE owner = ? AND position <= ?3", err) == -1)
		goto fail;
	return (0);
fail:
	buf_fini(&m->automaton);
	store_close(s);
	return (-1);
}

int
store_rows(struct store *s, int (*row)(void *, size_t, struct slice,
    struct slice), void *arg, struct err *err)
{
	sqlite3_stmt *st;
	size_t i;
	int rc = SQLITE_DONE;

	if (prepare(s, &st, "SELECT key, value FROM state WHERE step = ?",
	    err) == -1)
		return (-1);
	for (i = 0; i < s->nsteps && rc == SQLITE_DONE; i++) {
		if (s->step_id[i] == -1)
			continue;
		sqlite3_bind_int64(st, 1, s->step_id[i]);
		while ((rc = sqlite3_step(st)) == SQLITE_ROW)
			if (row(arg, i, slice_of(sqlite3_column_blob(st, 0),
			    (size_t)sqlite3_column_bytes(st, 0)),
			    slice_of(sqlite3_column_blob(st, 1),
			    (size_t)sqlite3_column_bytes(st, 1))) == -1)
				break;
		if (rc != SQLITE_DONE)
			(void)db_err(s, err, "read state");
		sqlite3_reset(st);
	}
	sqlite3_finalize(st);
	return (rc == SQLITE_DONE ? 0 : -1);
}

int
store_boxes(struct store *s, int (*frame)(void *, uint32_t, struct slice,
    struct slice), void *arg, struct err *err)
{
	sqlite3_stmt *st;
	int rc;

	if (prepare(s, &st, "SELECT box, head, body FROM outbox ORDER BY id",
	    err) == -1)
		return (-1);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW)
		if (frame(arg, (uint32_t)sqlite3_column_int64(st, 0),
		    slice_of(sqlite3_column_blob(st, 1),
		    (size_t)sqlite3_column_bytes(st, 1)),
		    slice_of(sqlite3_column_blob(st, 2),
		    (size_t)sqlite3_column_bytes(st, 2))) == -1)
			break;
	if (rc != SQLITE_DONE)
		(void)db_err(s, err, "read saved outputs");
	sqlite3_finalize(st);
	return (rc == SQLITE_DONE ? 0 : -1);
}

/* --- jobs -------------------------------------------------------------- */

struct item {			/* of job->rows and job->boxes */
	uint32_t	number;
	uint32_t	first;		/* bytes of key or head */
	uint32_t	second;		/* bytes of value or body */
};

static void
add_item(struct buf *b, uint32_t number, struct slice first,
    struct slice second)
{
	struct item i = { number, (uint32_t)first.len, (uint32_t)second.len };

	buf_add(b, &i, sizeof(i));
	buf_add(b, first.data, first.len);
	buf_add(b, second.data, second.len);
}

void
store_job_row(struct store_job *j, size_t step, struct slice key,
    struct slice value)
{
	add_item(&j->rows, (uint32_t)step, key, value);
	j->nrows++;
}

void
store_job_box(struct store_job *j, uint32_t box, struct slice head,
    struct slice body)
{
	add_item(&j->boxes, box, head, body);
}

void
store_job_free(struct store_job *j)
{
	if (j == NULL)
		return;
	buf_fini(&j->automaton);
	buf_fini(&j->rows);
	buf_fini(&j->boxes);
	free(j);
}

static int
put_items(struct store *s, sqlite3_stmt *st, const struct buf *b,
    bool rows, struct err *err)
{
	const uint8_t *p = b->data, *end = b->data + b->len;
	struct item i;
	int rc;

	while (p < end) {
		memcpy(&i, p, sizeof(i));
		p += sizeof(i);
		sqlite3_bind_int64(st, 1, rows ? s->step_id[i.number] :
		    (sqlite3_int64)i.number);
		/* A zero-length blob needs a pointer, or it would be NULL. */
		sqlite3_bind_blob(st, 2, p, (int)i.first, SQLITE_STATIC);
		sqlite3_bind_blob(st, 3, p + i.first, (int)i.second,
		    SQLITE_STATIC);
		rc = sqlite3_step(st);
		sqlite3_reset(st);
		if (rc != SQLITE_DONE)
			return (db_err(s, err, "write"));
		p += i.first + i.second;
	}
	return (0);
}

static int
put_boxes(struct store *s, struct store_job *j, struct err *err)
{
	sqlite3_stmt *st;
	int r;

	if (exec(s, "DELETE FROM outbox", "write", err) == -1)
		return (-1);
	if (prepare(s, &st, "INSERT INTO outbox (box, head, body) "
	    "VALUES (?, ?, ?)", err) == -1)
		return (-1);
	r = put_items(s, st, &j->boxes, false, err);
	sqlite3_finalize(st);
	return (r);
}

static int
put_meta(struct store *s, struct store_job *j, struct err *err)
{
	sqlite3_stmt *st = s->put_meta;
	int rc;

	sqlite3_bind_int(st, 1, j->clean);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)j->lineage);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)j->position);
	sqlite3_bind_blob(st, 4, j->automaton.data, (int)j->automaton.len,
	    SQLITE_STATIC);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)s->owner);
	rc = sqlite3_step(st);
	sqlite3_reset(st);
	if (rc != SQLITE_DONE)
		return (db_err(s, err, "write"));
	if (sqlite3_changes(s->db) != 1)
		return (err_set(err, ERR_REFUSED, "%s: another process owns "
		    "this file now, or holds a newer checkpoint", s->path));
	return (0);
}

int
store_commit(struct store *s, struct store_job *j, struct err *err)
{
	if (exec(s, j->sync ? "PRAGMA synchronous = FULL" :
	    "PRAGMA synchronous = NORMAL", "write", err) == -1 ||
	    exec(s, "BEGIN IMMEDIATE", "begin a checkpoint", err) == -1)
		return (-1);
	if (put_meta(s, j, err) == -1 ||
	    put_items(s, s->put_row, &j->rows, true, err) == -1 ||
	    (j->remake && put_boxes(s, j, err) == -1) ||
	    exec(s, "COMMIT", "commit a checkpoint", err) == -1) {
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
		return (-1);
	}
	return (0);
}

/* --- the writer thread ------------------------------------------------- */

static void *
writer(void *arg)
{
	struct store *s = arg;
	struct store_job *j;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->quit && !s->busy)
			pthread_cond_wait(&s->wake, &s->lock);
		if (!s->busy)
			break;
		j = s->job;
		pthread_mutex_unlock(&s->lock);
		j->ok = store_commit(s, j, &j->err) == 0;
		pthread_mutex_lock(&s->lock);
		s->busy = false;
		s->done = true;
		s->notify(s->arg);
	}
	pthread_mutex_unlock(&s->lock);
	return (NULL);
}

int
store_start(struct store *s, void (*notify)(void *), void *arg,
    struct err *err)
{
	int r;

	s->notify = notify;
	s->arg = arg;
	if ((r = pthread_create(&s->thread, NULL, writer, s)) != 0) {
		errno = r;
		return (err_sys(err, ERR_SYSTEM, "cannot start a thread"));
	}
	s->running = true;
	return (0);
}

void
store_give(struct store *s, struct store_job *j)
{
	pthread_mutex_lock(&s->lock);
	s->job = j;
	s->busy = true;
	s->done = false;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

struct store_job *
store_take(struct store *s)
{
	struct store_job *j = NULL;

	pthread_mutex_lock(&s->lock);
	if (s->done) {
		j = s->job;
		s->job = NULL;
		s->done = false;
	}
	pthread_mutex_unlock(&s->lock);
	return (j);
}

void
store_stop(struct store *s)
{
	if (!s->running)
		return;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	s->running = false;
}

void
store_close(struct store *s)
{
	store_stop(s);
	store_job_free(s->job);
	sqlite3_finalize(s->put_row);
	sqlite3_finalize(s->put_meta);
	sqlite3_close(s->db);
	free(s->step_id);
	free(s->path);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->wake);
	memset(s, 0, sizeof(*s));
}
