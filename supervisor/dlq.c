/*
 * Dead letters that are put back.  The catalog has a row for each, written
 * before the worker hears of it and marked when the worker has it in its
 * journal.  Rows in between are sent again to each new life of that worker,
 * in order; it takes each number once.
 */
#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/letter.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/part.h"
#include "supervisor/supervisor.h"

#define ID_LEN		16

static int
db_err(const struct catalog *c, struct err *err)
{
	return (err_set(err, ERR_STORAGE, "%s: %s", c->path,
	    sqlite3_errmsg(c->db)));
}

static sqlite3_stmt *
prepare(const struct catalog *c, const char *sql)
{
	sqlite3_stmt *st = NULL;

	if (sqlite3_prepare_v2(c->db, sql, -1, &st, NULL) != SQLITE_OK) {
		sqlite3_finalize(st);
		return (NULL);
	}
	return (st);
}

static int
finish(const struct catalog *c, sqlite3_stmt *st, struct err *err)
{
	int r = 0;

	if (st == NULL || sqlite3_step(st) != SQLITE_DONE)
		r = db_err(c, err);
	sqlite3_finalize(st);
	return (r);
}

int
dlq_open(struct catalog *c, struct err *err)
{
	/* AUTOINCREMENT: a number is never used twice, see putback.c. */
	return (finish(c, prepare(c, "CREATE TABLE IF NOT EXISTS replays ("
	    "seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, "
	    "worker INTEGER NOT NULL, time_ns INTEGER NOT NULL, "
	    "record BLOB)"), err));
}

/* Is one under way whose worker has not answered? */
bool
dlq_pending(const struct catalog *c)
{
	sqlite3_stmt *st = prepare(c, "SELECT 1 FROM replays "
	    "WHERE record IS NOT NULL LIMIT 1");
	bool found = st != NULL && sqlite3_step(st) == SQLITE_ROW;

	sqlite3_finalize(st);
	return (found);
}

static enum dlq_state
find(const struct catalog *c, struct slice id, uint64_t *seq)
{
	sqlite3_stmt *st = prepare(c, "SELECT seq, record IS NULL "
	    "FROM replays WHERE id = ?");
	enum dlq_state state = DLQ_NEW;

	if (st != NULL)
		sqlite3_bind_text(st, 1, (const char *)id.data, (int)id.len,
		    SQLITE_STATIC);
	if (st != NULL && sqlite3_step(st) == SQLITE_ROW) {
		*seq = (uint64_t)sqlite3_column_int64(st, 0);
		state = sqlite3_column_int(st, 1) ? DLQ_DONE : DLQ_PENDING;
	}
	sqlite3_finalize(st);
	return (state);
}

static void
send_record(struct child *c, uint64_t seq, struct slice record)
{
	struct msg_putback m = { seq, record };
	struct buf b = { 0 };

	msg_put_putback(&b, &m);
	channel_send(c, &b, -1);
	buf_fini(&b);
}

static uint32_t
owner(const struct supervisor *s, struct slice key)
{
	uint32_t parts = (uint32_t)s->conf.partitions, w;
	uint16_t *table = xcalloc(parts, sizeof(*table));

	part_assign(table, parts, s->n);
	w = table[part_of(part_hash(key), part_bits(parts))];
	free(table);
	return (w);
}

static int
check_id(struct slice id, struct err *err)
{
	size_t i;

	for (i = 0; i < id.len && id.len == ID_LEN; i++)
		if (strchr("0123456789abcdef", id.data[i]) == NULL ||
		    id.data[i] == '\0')
			break;
	if (id.len != ID_LEN || i != id.len)
		return (err_set(err, ERR_CORRUPT, "this is no id of a dead "
		    "letter"));
	return (0);
}

static int
insert(struct supervisor *s, struct slice id, uint32_t worker,
    struct slice record, uint64_t *seq, struct err *err)
{
	sqlite3_stmt *st = prepare(&s->catalog, "INSERT INTO replays (id, "
	    "worker, time_ns, record) VALUES (?, ?, ?, ?)");
	int r;

	if (st != NULL) {
		sqlite3_bind_text(st, 1, (const char *)id.data, (int)id.len,
		    SQLITE_STATIC);
		sqlite3_bind_int64(st, 2, worker);
		sqlite3_bind_int64(st, 3, (int64_t)clock_wall_ns());
		sqlite3_bind_blob64(st, 4, record.data, record.len,
		    SQLITE_STATIC);
	}
	FAULT_POINT(letter_note_before);
	r = finish(&s->catalog, st, err);
	FAULT_POINT(letter_note_after);
	if (r == -1)
		return (-1);
	*seq = (uint64_t)sqlite3_last_insert_rowid(s->catalog.db);
	return (0);
}

/* text is the letter's record, base64.  *seq is what dlq_done will name. */
int
dlq_put_back(struct supervisor *s, struct slice id, struct slice text,
    enum dlq_state *state, uint64_t *seq, struct err *err)
{
	struct buf b = { 0 };
	struct letter l;
	struct child *c;
	int r;

	if (check_id(id, err) == -1)
		return (-1);
	*state = find(&s->catalog, id, seq);
	if (*state != DLQ_NEW)
		return (0);
	r = letter_bytes(&b, text, err);
	if (r == 0)
		r = letter_unpack(&l, buf_slice(&b), err);
	if (r == 0) {
		c = &s->child[owner(s, l.key)];
		r = insert(s, id, c->number, buf_slice(&b), seq, err);
		/* Else it is sent when there is a worker. */
		if (r == 0 && c->state == CHILD_RUNNING)
			send_record(c, *seq, buf_slice(&b));
	}
	buf_fini(&b);
	return (r);
}

/* A new life of a worker: what the one before may not have taken. */
void
dlq_resend(struct child *c)
{
	sqlite3_stmt *st = prepare(&c->s->catalog, "SELECT seq, record "
	    "FROM replays WHERE record IS NOT NULL AND worker = ? "
	    "ORDER BY seq");
	struct err err;
	int rc = SQLITE_ERROR;

	if (st != NULL)
		sqlite3_bind_int64(st, 1, c->number);
	while (st != NULL && (rc = sqlite3_step(st)) == SQLITE_ROW)
		send_record(c, (uint64_t)sqlite3_column_int64(st, 0),
		    slice_of(sqlite3_column_blob(st, 1),
		    (size_t)sqlite3_column_bytes(st, 1)));
	if (rc != SQLITE_DONE) {
		(void)db_err(&c->s->catalog, &err);
		log_error("dead letters are put back later: %s", err.text);
	}
	sqlite3_finalize(st);
}

void
dlq_done(struct child *c, const struct msg_putback_done *m)
{
	struct catalog *cat = &c->s->catalog;
	sqlite3_stmt *st;
	struct err err;

	st = prepare(cat, m->ok ? "UPDATE replays SET record = NULL "
	    "WHERE seq = ? AND worker = ?" :
	    "DELETE FROM replays WHERE seq = ? AND worker = ?");
	if (st != NULL) {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)m->seq);
		sqlite3_bind_int64(st, 2, c->number);
	}
	/* Not noted: the next life is asked again, and knows. */
	FAULT_POINT(letter_done_before);
	if (finish(cat, st, &err) == -1)
		log_error("%s", err.text);
	FAULT_POINT(letter_done_after);
	ctl_put_back(c->s, m);
}

/* Of all that were put back: [{"id": ..., "state": ...}, ...] */
int
dlq_list(const struct catalog *c, struct buf *b, struct err *err)
{
	sqlite3_stmt *st = prepare(c, "SELECT id, record IS NULL "
	    "FROM replays ORDER BY seq");
	const char *comma = "";
	int rc = SQLITE_ERROR;

	buf_addf(b, "[");
	while (st != NULL && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		buf_addf(b, "%s{\"id\": \"%s\", \"state\": \"%s\"}", comma,
		    (const char *)sqlite3_column_text(st, 0),
		    sqlite3_column_int(st, 1) ? "yes" : "pending");
		comma = ", ";
	}
	sqlite3_finalize(st);
	buf_addf(b, "]");
	return (rc == SQLITE_DONE ? 0 : db_err(c, err));
}
