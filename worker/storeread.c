/* See storeread.h.  What is newer than the table is a few megabytes at most:
 * it is taken into memory as it is, with an index. */
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/part.h"
#include "worker/storeread.h"

struct storeread {
	struct store	*s;
	sqlite3		*db;
	sqlite3_stmt	*find, *scan;
	bool		*done;		/* [nsteps] all of it was given */

	struct buf	 newer;		/* rows as store_item_next reads them,
					   with our numbers of the steps */
	uint64_t	*slot;		/* offsets + 1 of the newest of each
					   key; 0: none */
	size_t		 nslots;	/* a power of two */

	/* Where storeread_next is: in slot, then in the steps. */
	size_t		 next_slot;
	size_t		 next_step;
	bool		 scanning;	/* next_step has begun */
	struct buf	 last;		/* key of it that was given last */
};

static struct slice
column(sqlite3_stmt *st, int i)
{
	return (slice_of(sqlite3_column_blob(st, i),
	    (size_t)sqlite3_column_bytes(st, i)));
}

static int
read_err(struct storeread *r, struct err *err)
{
	return (store_db_err(r->s, r->db, err, "read state"));
}

static int
prepare(struct storeread *r, sqlite3_stmt **st, const char *sql,
    struct err *err)
{
	if (sqlite3_prepare_v2(r->db, sql, -1, st, NULL) != SQLITE_OK)
		return (read_err(r, err));
	return (0);
}

/* --- what is newer than the table ---------------------------------------- */

static void
item_at(const struct storeread *r, uint64_t at, struct store_item *i,
    struct slice *key, struct slice *value)
{
	const uint8_t *p = r->newer.data + at;

	(void)store_item_next(&p, r->newer.data + r->newer.len, i, key,
	    value);
}

/* The slot of a key, or the one where it would go. */
static uint64_t *
slot_of(const struct storeread *r, size_t step, struct slice key)
{
	size_t i = (size_t)(part_hash(key) + step) & (r->nslots - 1);
	struct store_item it;
	struct slice k, value;

	for (;; i = (i + 1) & (r->nslots - 1)) {
		if (r->slot[i] == 0)
			return (&r->slot[i]);
		item_at(r, r->slot[i] - 1, &it, &k, &value);
		if (it.number == step && k.len == key.len && (key.len == 0 ||
		    memcmp(k.data, key.data, key.len) == 0))
			return (&r->slot[i]);
	}
}

static int
add_newer(void *arg, int64_t id, struct slice key, struct slice value)
{
	struct storeread *r = arg;
	struct store_item it = { 0, (uint32_t)key.len, (uint32_t)value.len };
	size_t i;

	for (i = 0; i < r->s->nsteps && r->s->step_id[i] != id; i++)
		continue;
	if (i == r->s->nsteps)
		return (0);		/* of a step that was dropped */
	it.number = (uint32_t)i;
	buf_add(&r->newer, &it, sizeof(it));
	buf_add(&r->newer, key.data, key.len);
	buf_add(&r->newer, value.data, value.len);
	r->nslots++;			/* so far, how many rows */
	return (0);
}

static void
index_newer(struct storeread *r)
{
	const uint8_t *p = r->newer.data, *end = p + r->newer.len, *at;
	struct slice key, value;
	struct store_item it;
	size_t n = 16;

	while (n < r->nslots * 2)
		n *= 2;
	r->nslots = n;
	r->slot = xcalloc(n, sizeof(*r->slot));
	for (at = p; store_item_next(&p, end, &it, &key, &value); at = p)
		*slot_of(r, it.number, key) = (uint64_t)(at -
		    r->newer.data) + 1;
}

static int
read_newer(struct storeread *r, struct err *err)
{
	sqlite3_stmt *st;
	int rc = SQLITE_DONE, e = 0;

	if (prepare(r, &st, "SELECT sum, steps, rows FROM delta ORDER BY id",
	    err) == -1)
		return (-1);
	while (e == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
		e = store_delta_rows(r->s,
		    (uint64_t)sqlite3_column_int64(st, 0),
		    column(st, 1), column(st, 2), add_newer, r,
		    err);
	if (e == 0 && rc != SQLITE_DONE)
		e = read_err(r, err);
	sqlite3_finalize(st);
	if (e == 0)
		index_newer(r);
	return (e);
}

/* --- one key ------------------------------------------------------------ */

static int
check_row(struct storeread *r, int64_t id, struct slice key,
    struct slice value, int64_t sum, struct err *err)
{
	if (sum == store_item_sum(id, key, value))
		return (0);
	return (store_damaged(r->s->path, "the state of a key does not match "
	    "its checksum", err));
}

/* Has storeread_next come past it? */
static bool
passed(const struct storeread *r, size_t step, struct slice key)
{
	size_t len = key.len < r->last.len ? key.len : r->last.len;
	int c;

	if (r->done[step])
		return (true);
	if (!r->scanning || step != r->next_step)
		return (false);
	c = len == 0 ? 0 : memcmp(key.data, r->last.data, len);
	return (c < 0 || (c == 0 && key.len <= r->last.len));
}

int
storeread_key(struct storeread *r, size_t step, struct slice key,
    struct slice *value, struct err *err)
{
	int64_t id = r->s->step_id[step];
	struct store_item it;
	struct slice k;
	uint64_t *slot;
	int rc, found = 0;

	if (*(slot = slot_of(r, step, key)) != 0) {
		item_at(r, *slot - 1, &it, &k, value);
		return (value->len > 0);	/* else it has expired */
	}
	if (passed(r, step, key))
		return (0);
	FAULT_POINT(key_load_before);
	sqlite3_reset(r->find);
	sqlite3_bind_int64(r->find, 1, id);
	sqlite3_bind_blob(r->find, 2, key.len == 0 ? (const void *)"" :
	    key.data, (int)key.len, SQLITE_STATIC);
	rc = sqlite3_step(r->find);
	if (rc == SQLITE_ROW) {
		*value = column(r->find, 0);
		found = check_row(r, id, key, *value,
		    sqlite3_column_int64(r->find, 1), err) == -1 ? -1 : 1;
	} else if (rc != SQLITE_DONE)
		found = read_err(r, err);
	FAULT_POINT(key_load_after);
	return (found);
}

/* --- all of them -------------------------------------------------------- */

static int
begin_step(struct storeread *r, size_t step)
{
	sqlite3_reset(r->scan);
	buf_clear(&r->last);
	return (sqlite3_bind_int64(r->scan, 1, r->s->step_id[step]) ==
	    SQLITE_OK ? 0 : -1);
}

/* The next row of the step that has begun: as sqlite3_step, or -1.  *fresh:
 * it was given, since there is no newer one. */
static int
give_row(struct storeread *r, size_t step, storeread_row *row, void *arg,
    bool *fresh, struct err *err)
{
	struct slice key, value;
	int rc = sqlite3_step(r->scan);

	*fresh = false;
	if (rc == SQLITE_DONE)
		return (rc);
	if (rc != SQLITE_ROW)
		return (read_err(r, err));
	key = column(r->scan, 0);
	value = column(r->scan, 1);
	buf_clear(&r->last);
	buf_add(&r->last, key.data, key.len);
	if (check_row(r, r->s->step_id[step], key, value,
	    sqlite3_column_int64(r->scan, 2), err) == -1)
		return (-1);
	if (*slot_of(r, step, key) != 0)
		return (rc);
	*fresh = true;
	return (row(arg, step, key, value) == -1 ? -1 : rc);
}

/* One of the newer ones, if slot i has one of a step that is wanted. */
static int
give_newer(struct storeread *r, size_t i, int step, storeread_row *row,
    void *arg, bool *given)
{
	struct slice key, value;
	struct store_item it;

	*given = false;
	if (r->slot[i] == 0)
		return (0);
	item_at(r, r->slot[i] - 1, &it, &key, &value);
	if (value.len == 0 || (step == -1 ? r->done[it.number] :
	    it.number != (uint32_t)step))
		return (0);
	*given = true;
	return (row(arg, it.number, key, value));
}

int
storeread_step(struct storeread *r, size_t step, storeread_row *row,
    void *arg, struct err *err)
{
	bool given;
	size_t i;
	int rc;

	for (i = 0; i < r->nslots; i++)
		if (give_newer(r, i, (int)step, row, arg, &given) == -1)
			return (-1);
	if (begin_step(r, step) == -1)
		return (read_err(r, err));
	do
		rc = give_row(r, step, row, arg, &given, err);
	while (rc == SQLITE_ROW);
	sqlite3_reset(r->scan);
	if (rc != SQLITE_DONE)
		return (-1);
	r->done[step] = true;
	return (0);
}

/* The newer ones come first: who has them needs no older ones. */
static int
next_newer(struct storeread *r, size_t *most, storeread_row *row, void *arg)
{
	bool given;

	for (; r->next_slot < r->nslots && *most > 0; r->next_slot++) {
		if (give_newer(r, r->next_slot, -1, row, arg, &given) == -1)
			return (-1);
		*most -= given;
	}
	return (0);
}

int
storeread_next(struct storeread *r, size_t most, storeread_row *row,
    void *arg, struct err *err)
{
	bool given;
	int rc;

	if (next_newer(r, &most, row, arg) == -1)
		return (-1);
	while (most > 0 && r->next_step < r->s->nsteps) {
		if (r->s->step_id[r->next_step] == -1 ||
		    r->done[r->next_step]) {
			r->next_step++;
			continue;
		}
		if (!r->scanning && begin_step(r, r->next_step) == -1)
			return (read_err(r, err));
		r->scanning = true;
		rc = give_row(r, r->next_step, row, arg, &given, err);
		if (rc == SQLITE_DONE) {
			r->scanning = false;
			r->done[r->next_step] = true;
		} else if (rc != SQLITE_ROW)
			return (-1);
		else
			most--;
	}
	return (most == 0);
}

/* --- beginning and end -------------------------------------------------- */

static int
begin(struct storeread *r, struct err *err)
{
	if (sqlite3_open_v2(r->s->path, &r->db, SQLITE_OPEN_READONLY |
	    SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
		return (store_db_err(r->s, r->db, err, "open"));
	(void)sqlite3_busy_timeout(r->db, 5000);
	if (sqlite3_exec(r->db, "PRAGMA cache_size = -8000; BEGIN", NULL,
	    NULL, NULL) != SQLITE_OK)
		return (read_err(r, err));
	if (read_newer(r, err) == -1 ||
	    prepare(r, &r->find, "SELECT value, sum FROM state WHERE "
	    "step = ? AND key = ?", err) == -1 ||
	    prepare(r, &r->scan, "SELECT key, value, sum FROM state WHERE "
	    "step = ? ORDER BY key", err) == -1)
		return (-1);
	return (0);
}

struct storeread *
storeread_new(struct store *s, struct err *err)
{
	struct storeread *r = xcalloc(1, sizeof(*r));

	r->s = s;
	r->done = xcalloc(s->nsteps + 1, sizeof(*r->done));
	if (begin(r, err) == 0)
		return (r);
	storeread_free(r);
	return (NULL);
}

void
storeread_free(struct storeread *r)
{
	if (r == NULL)
		return;
	sqlite3_finalize(r->find);
	sqlite3_finalize(r->scan);
	sqlite3_close(r->db);
	buf_fini(&r->newer);
	buf_fini(&r->last);
	free(r->slot);
	free(r->done);
	free(r);
}
