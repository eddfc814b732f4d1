/*
 * After a clean stop, before a start with another number of workers: read
 * every old worker's file, write every new one's.  Keys go to their new
 * owners; sources keep their positions; what sinks had not taken goes to one
 * of the new workers.  Files of generation g+1 count only when the supervisor
 * says so, so a kill in between costs nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/mp.h"
#include "common/part.h"
#include "worker/worker.h"

struct names {
	char	**name;
	size_t	  n;
};

struct found_source {
	char		*name;
	uint64_t	 off, dev, ino;
	bool		 ended;
	struct part	 part;
	struct buf	 rem;
	struct offsets	 offsets;	/* in Kafka: of all old workers */
};

struct spread {
	struct worker	*w;
	uint32_t	 old_n, new_n;
	uint16_t	*table;
	unsigned int	 bits;
	struct names	 steps;
	struct store_job **job;		/* [new_n] */
	struct found_source *source;
	size_t		 nsources;
	uint64_t	 clock_ns;
	uint64_t	 nrows;
	struct txns	 txns;		/* of all old workers at connectors */
	sqlite3		*db;		/* the file being read */
	char		*path;
	struct buf	 ids;		/* of its steps */
	uint64_t	 keys;		/* how many it says */
	uint64_t	 found;		/* and as they are */
};

static int
sql_err(sqlite3 *db, const char *path, struct err *err)
{
	int rc = sqlite3_errcode(db) & 0xff;

	if (rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB)
		return (store_damaged(path, sqlite3_errmsg(db), err));
	return (err_set(err, ERR_STORAGE, "%s: %s", path,
	    sqlite3_errmsg(db)));
}

static int
open_old(struct spread *s, uint32_t i, struct err *err)
{
	s->path = worker_db_path(s->w->conf.state_directory, i,
	    s->w->generation);
	if (sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE, NULL) !=
	    SQLITE_OK)
		return (sql_err(s->db, s->path, err));
	return (0);
}

static void
close_old(struct spread *s)
{
	sqlite3_close(s->db);
	free(s->path);
	s->db = NULL;
	s->path = NULL;
}

/* Call row for each row of a query. */
static int
each(struct spread *s, uint32_t old, const char *sql,
    int (*row)(struct spread *, uint32_t, sqlite3_stmt *, struct err *),
    struct err *err)
{
	sqlite3_stmt *st = NULL;
	int r = 0, rc = SQLITE_OK;

	if (sqlite3_prepare_v2(s->db, sql, -1, &st, NULL) != SQLITE_OK)
		return (sql_err(s->db, s->path, err));
	while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
		r = row(s, old, st, err);
	if (r == 0 && rc != SQLITE_DONE)
		r = sql_err(s->db, s->path, err);
	sqlite3_finalize(st);
	return (r);
}

static struct slice
blob(sqlite3_stmt *st, int i)
{
	return (slice_of(sqlite3_column_blob(st, i),
	    (size_t)sqlite3_column_bytes(st, i)));
}

static size_t
step_number(struct spread *s, const char *name)
{
	size_t i;

	for (i = 0; i < s->steps.n; i++)
		if (strcmp(s->steps.name[i], name) == 0)
			return (i);
	s->steps.name = xreallocarray(s->steps.name, s->steps.n + 1,
	    sizeof(*s->steps.name));
	s->steps.name[s->steps.n] = xstrdup(name);
	return (s->steps.n++);
}

static int
damaged(const struct spread *s, struct err *err)
{
	return (store_damaged(s->path, "something does not match its "
	    "checksum", err));
}

static int
on_step_name(struct spread *s, uint32_t old, sqlite3_stmt *st,
    struct err *err)
{
	int64_t id = sqlite3_column_int64(st, 1);

	(void)old;
	buf_add(&s->ids, &id, sizeof(id));
	if (sqlite3_column_type(st, 2) != SQLITE_NULL &&
	    sqlite3_column_int64(st, 2) != store_item_sum(
	    id, blob(st, 0), slice_of("", 0)))
		return (damaged(s, err));
	(void)step_number(s, (const char *)sqlite3_column_text(st, 0));
	return (0);
}

static int
on_state(struct spread *s, uint32_t old, sqlite3_stmt *st, struct err *err)
{
	struct slice key = blob(st, 1);
	uint32_t to = s->table[part_of(part_hash(key), s->bits)];

	(void)old;
	if (sqlite3_column_int64(st, 4) != store_item_sum(
	    sqlite3_column_int64(st, 3), key, blob(st, 2)))
		return (damaged(s, err));
	store_job_row(s->job[to], step_number(s,
	    (const char *)sqlite3_column_text(st, 0)), key, blob(st, 2));
	s->nrows++;
	s->found++;
	return (0);
}

static bool
has_step(const struct spread *s, int64_t id)
{
	size_t i;

	for (i = 0; i < s->ids.len; i += sizeof(id))
		if (memcmp(s->ids.data + i, &id, sizeof(id)) == 0)
			return (true);
	return (false);
}

static struct found_source *
source_named(struct spread *s, struct slice name)
{
	size_t i;

	for (i = 0; i < s->nsources; i++)
		if (strlen(s->source[i].name) == name.len &&
		    memcmp(s->source[i].name, name.data, name.len) == 0)
			return (&s->source[i]);
	s->source = xreallocarray(s->source, s->nsources + 1,
	    sizeof(*s->source));
	memset(&s->source[s->nsources], 0, sizeof(*s->source));
	s->source[s->nsources].name = xstrndup((const char *)name.data,
	    name.len);
	return (&s->source[s->nsources++]);
}

/* Each file has its worker's, and perhaps those of workers that there were
 * once. */
static void
read_txns(struct spread *s, uint32_t old, struct mp *c)
{
	struct txns t = { NULL, 0 };
	const struct txn_record *r;
	size_t i;

	txns_unpack(&t, c);
	for (i = 0; i < t.n; i++) {
		r = &t.r[i];
		if (r->worker == old || txns_find(&s->txns, r->sink,
		    r->worker) == NULL)
			txns_set(&s->txns, slice_of(r->sink,
			    strlen(r->sink)), r->worker, r->txn, r->end);
	}
	txns_fini(&t);
}

static bool
in_kafka(const struct spread *s, const struct found_source *f)
{
	size_t i;

	for (i = 0; i < s->w->topo.nsources; i++)
		if (strcmp(s->w->topo.sources[i].name, f->name) == 0)
			return (s->w->topo.sources[i].kind == SOURCE_KAFKA);
	return (false);
}

/* The automaton as checkpoint.c packs it: its sources are of interest. */
static int
on_meta(struct spread *s, uint32_t old, sqlite3_stmt *st, struct err *err)
{
	struct found_source *f, in;
	struct store_meta m = { 0 };
	struct slice name, rem;
	uint64_t clock, keys;
	int64_t id;
	bool same;
	struct mp c;
	uint32_t i, n;

	m.exists = sqlite3_column_int(st, 3) != 0;
	m.clean = sqlite3_column_int(st, 0) != 0;
	m.lineage = (uint64_t)sqlite3_column_int64(st, 4);
	m.position = (uint64_t)sqlite3_column_int64(st, 5);
	m.deltas = (uint64_t)sqlite3_column_int64(st, 6);
	m.commits = (uint64_t)sqlite3_column_int64(st, 8);
	buf_add(&m.automaton, blob(st, 1).data, blob(st, 1).len);
	same = sqlite3_column_int64(st, 7) == store_meta_sum(&m, old);
	buf_fini(&m.automaton);
	if (!same)
		return (damaged(s, err));
	if (!m.clean)
		return (err_set(err, ERR_REFUSED, "worker %u was not stopped "
		    "cleanly: its state cannot be spread over another number "
		    "of workers", old));
	if ((uint64_t)sqlite3_column_int64(st, 2) < s->w->opened)
		return (err_set(err, ERR_REFUSED, "the file of worker %u is "
		    "an older copy: it was last opened by start %lld, the "
		    "application by start %" PRIu64, old,
		    (long long)sqlite3_column_int64(st, 2), s->w->opened));
	mp_init(&c, blob(st, 1));
	if (mp_get_array(&c) != AUTOMATON_FIELDS)
		c.bad = true;
	for (i = 0; i < 4; i++)			/* version shape entry pos */
		(void)mp_get_uint(&c, UINT64_MAX);
	clock = mp_get_uint(&c, UINT64_MAX);
	if (clock > s->clock_ns)
		s->clock_ns = clock;
	mp_skip(&c);				/* connections */
	n = mp_get_array(&c);
	for (i = 0; i < n && mp_ok(&c); i++) {
		(void)mp_get_array(&c);
		name = mp_get_str(&c);
		in.off = mp_get_uint(&c, UINT64_MAX);
		in.dev = mp_get_uint(&c, UINT64_MAX);
		in.ino = mp_get_uint(&c, UINT64_MAX);
		in.ended = mp_get_bool(&c);
		rem = mp_get_bin(&c);
		in.part = part_unpack(&c);
		if (!mp_ok(&c))
			break;
		f = source_named(s, name);
		if (in.part.watermark > f->part.watermark)
			f->part.watermark = in.part.watermark;
		if (in.part.heard_ns > f->part.heard_ns)
			f->part.heard_ns = in.part.heard_ns;
		if (in_kafka(s, f) && offsets_unpack(&f->offsets, rem) == -1)
			c.bad = true;
		/* Only its one reader has moved it. */
		if (in.off < f->off || (in.off == f->off && f->ended))
			continue;
		f->off = in.off;
		f->dev = in.dev;
		f->ino = in.ino;
		f->ended = in.ended;
		buf_clear(&f->rem);
		buf_add(&f->rem, rem.data, rem.len);
	}
	for (i = 0; i < 7; i++)			/* marks .. outboxes */
		mp_skip(&c);
	s->keys = s->found = 0;
	n = mp_get_array(&c);
	for (i = 0; i < n && mp_ok(&c); i++) {
		(void)mp_get_array(&c);
		id = mp_get_int(&c);
		keys = mp_get_uint(&c, UINT64_MAX);
		if (has_step(s, id))		/* else it was dropped */
			s->keys += keys;
	}
	read_txns(s, old, &c);
	if (!mp_end(&c))
		return (err_set(err, ERR_CORRUPT, "the checkpoint of worker "
		    "%u cannot be read", old));
	return (0);
}

/* --- what sinks had not taken ------------------------------------------ */

static struct {			/* the sink whose frames are being read */
	bool		 open;
	uint32_t	 to;		/* new worker */
	uint32_t	 number;	/* its box number there */
	uint64_t	 resume;
} now;

static int
on_box_head(struct spread *s, uint32_t old, struct slice head,
    struct slice name, struct err *err)
{
	const struct topo *t = &s->w->topo;
	const struct txn_record *r;
	struct outbox_sink k;
	size_t i;

	now.open = false;
	if (head.len != sizeof(k))
		return (err_set(err, ERR_CORRUPT, "saved outputs of worker "
		    "%u cannot be read", old));
	memcpy(&k, head.data, sizeof(k));
	for (i = 0; i < t->nsinks; i++)
		if (strlen(t->sinks[i].name) == name.len &&
		    memcmp(t->sinks[i].name, name.data, name.len) == 0)
			break;
	if (i == t->nsinks)
		return (0);
	now.open = true;
	/* How far a topic has come must be known: its frames get new places. */
	if (t->sinks[i].kind == SINK_KAFKA && k.opened == 1 &&
	    k.file_base != 1)
		return (err_set(err, ERR_REFUSED, "worker %u does not know "
		    "what the topic of sink \"%s\" has got: start as many "
		    "workers as before, and stop when the brokers run", old,
		    t->sinks[i].name));
	now.to = sink_is_everywhere(&t->sinks[i]) ? old % s->new_n :
	    (uint32_t)(i % s->new_n);
	now.number = BOX_SINKS + 2 * (uint32_t)i;
	now.resume = k.resume;
	r = txns_find(&s->txns, t->sinks[i].name, old);
	if (t->sinks[i].kind == SINK_CONNECTOR && r != NULL &&
	    r->end > now.resume)
		now.resume = r->end;
	return (0);
}

/* Each new worker's boxes, sink by sink, in order of payload. */
struct carried {
	struct carried	*next;
	uint32_t	 to, number;
	struct frame	 f;
	struct buf	 body;
};
static struct carried *carried, **carried_tail = &carried;

static int
on_box_frame(struct slice head, struct slice body, struct err *err)
{
	struct carried *c;
	struct frame f;
	const uint8_t *lens;
	uint32_t i, len, skip = 0;
	size_t first = 0;

	if (head.len != sizeof(f))
		return (err_set(err, ERR_CORRUPT,
		    "saved outputs cannot be read"));
	memcpy(&f, head.data, sizeof(f));
	if (!frame_fits(&f, body) || f.lens == 0)
		return (err_set(err, ERR_CORRUPT,
		    "saved outputs cannot be read"));
	lens = body.data + f.len;
	for (i = 0; i < f.records && f.payload + first < now.resume; i++) {
		memcpy(&len, lens + i * 4, 4);
		first += len;
		skip++;
	}
	if (skip == f.records)
		return (0);
	c = xcalloc(1, sizeof(*c));
	c->to = now.to;
	c->number = now.number;
	c->f.records = f.records - skip;
	c->f.len = f.len - (uint32_t)first;
	c->f.lens = c->f.records * 4;
	buf_add(&c->body, body.data + first, c->f.len);
	buf_add(&c->body, lens + (size_t)skip * 4, c->f.lens);
	*carried_tail = c;
	carried_tail = &c->next;
	return (0);
}

static int
on_box(struct spread *s, uint32_t old, sqlite3_stmt *st, struct err *err)
{
	uint32_t box = (uint32_t)sqlite3_column_int64(st, 0);

	if (sqlite3_column_int64(st, 3) != store_item_sum(box, blob(st, 1),
	    blob(st, 2)))
		return (damaged(s, err));
	if (box < BOX_SINKS)
		return (err_set(err, ERR_REFUSED, "worker %u still has "
		    "messages for another worker: start with the old number "
		    "of workers and stop again", old));
	if ((box - BOX_SINKS) % 2 == 0)
		return (on_box_head(s, old, blob(st, 1), blob(st, 2), err));
	if (!now.open)
		return (0);
	return (on_box_frame(blob(st, 1), blob(st, 2), err));
}

static void
give_carried(struct spread *s)
{
	const struct topo *t = &s->w->topo;
	const struct txn_record *r;
	struct outbox_sink k = { 0 };
	struct carried *c;
	uint32_t i, number;
	uint64_t payload;
	size_t sink;

	for (i = 0; i < s->new_n; i++)
		for (sink = 0; sink < t->nsinks; sink++) {
			number = BOX_SINKS + 2 * (uint32_t)sink;
			/* A connector counts on from what it has. */
			r = txns_find(&s->txns, t->sinks[sink].name, i);
			payload = t->sinks[sink].kind == SINK_CONNECTOR &&
			    r != NULL ? r->end : 0;
			k.resume = payload;
			k.conn_base = t->sinks[sink].kind == SINK_CONNECTOR ?
			    UINT64_MAX : 0;
			store_job_box(s->job[i], number, slice_of(&k,
			    sizeof(k)), msg_cstr(t->sinks[sink].name));
			for (c = carried; c != NULL; c = c->next) {
				if (c->to != i || c->number != number)
					continue;
				c->f.payload = payload;
				payload += c->f.len;
				store_job_box(s->job[i], number + 1,
				    slice_of(&c->f, sizeof(c->f)),
				    buf_slice(&c->body));
			}
		}
}

/* --- the new files ----------------------------------------------------- */

/* Nobody has heard or said anything. */
static void
pack_progress(struct buf *b)
{
	mp_put_array(b, PROGRESS_FIELDS);
	mp_put_bool(b, false);
	mp_put_bool(b, false);
	mp_put_bool(b, false);
	mp_put_uint(b, 0);
	mp_put_uint(b, UINT64_MAX);
	mp_put_array(b, 0);
	mp_put_array(b, 0);
}

static void
pack_rem(struct spread *s, uint32_t worker, struct found_source *f,
    struct buf *b)
{
	if (in_kafka(s, f)) {
		buf_clear(&f->rem);
		offsets_pack_of(&f->offsets, worker, s->new_n, &f->rem);
	}
	mp_put_bin(b, f->rem.data, f->rem.len);
}

static void
pack_automaton(struct spread *s, uint32_t worker, struct buf *b)
{
	size_t i;

	mp_put_array(b, AUTOMATON_FIELDS);
	mp_put_uint(b, AUTOMATON_VERSION);
	mp_put_uint(b, 0);			/* shape: asked when unclean */
	mp_put_uint(b, 0);
	mp_put_uint(b, 0);
	mp_put_uint(b, s->clock_ns);
	mp_put_array(b, 0);
	mp_put_array(b, (uint32_t)s->nsources);
	for (i = 0; i < s->nsources; i++) {
		mp_put_array(b, 8);
		mp_put_str(b, s->source[i].name);
		mp_put_uint(b, s->source[i].off);
		mp_put_uint(b, s->source[i].dev);
		mp_put_uint(b, s->source[i].ino);
		mp_put_bool(b, s->source[i].ended);
		pack_rem(s, worker, &s->source[i], b);
		part_pack(&s->source[i].part, b);
	}
	mp_put_array(b, 0);
	mp_put_array(b, 0);			/* nothing is inside */
	mp_put_uint(b, 0);
	mp_put_uint(b, 0);
	mp_put_array(b, 0);			/* windows: time begins anew */
	pack_progress(b);
	mp_put_array(b, 0);
	mp_put_array(b, 0);			/* keys: not counted */
	txns_pack(&s->txns, b);
}

static int
write_new(struct spread *s, uint32_t i, struct err *err)
{
	struct store_job *j = s->job[i];
	struct store_meta m;
	struct store st;
	char *path;
	int r;

	path = worker_db_path(s->w->conf.state_directory, i,
	    s->w->generation + 1);
	if (unlink(path) == -1 && errno != ENOENT)
		return (err_sys(err, ERR_STORAGE, "cannot remove %s", path));
	r = store_open(&st, path, i, (const char *const *)s->steps.name,
	    s->steps.n, &m, err);
	free(path);
	if (r == -1)
		return (-1);
	clock_random(&j->lineage, sizeof(j->lineage));
	j->lineage &= INT64_MAX;
	j->clean = j->sync = j->remake = true;
	pack_automaton(s, i, &j->automaton);
	r = store_commit(&st, j, err);
	buf_fini(&m.automaton);
	store_close(&st);
	return (r);
}

static void
spread_fini(struct spread *s)
{
	struct carried *c;
	size_t i;

	while ((c = carried) != NULL) {
		carried = c->next;
		buf_fini(&c->body);
		free(c);
	}
	carried_tail = &carried;
	for (i = 0; i < s->new_n; i++)
		store_job_free(s->job[i]);
	for (i = 0; i < s->steps.n; i++)
		free(s->steps.name[i]);
	for (i = 0; i < s->nsources; i++) {
		free(s->source[i].name);
		buf_fini(&s->source[i].rem);
		offsets_fini(&s->source[i].offsets);
	}
	buf_fini(&s->ids);
	txns_fini(&s->txns);
	free(s->job);
	free(s->steps.name);
	free(s->source);
	free(s->table);
}

static int
read_tables(struct spread *s, uint32_t i, struct err *err)
{
	if (each(s, i, "SELECT name, id, sum FROM steps", on_step_name,
	    err) == -1 ||
	    each(s, i, "SELECT clean, automaton, epoch, "
	    "has_checkpoint, lineage, position, deltas, sum, commits "
	    "FROM meta", on_meta, err) == -1 ||
	    each(s, i, "SELECT name, key, value, step, "
	    "state.sum FROM state, steps "
	    "WHERE steps.id = state.step", on_state, err) == -1 ||
	    (s->found < s->keys && damaged(s, err) == -1))
		return (-1);
	return (each(s, i, "SELECT box, head, body, sum FROM outbox "
	    "ORDER BY id", on_box, err));
}

static int
read_old(struct spread *s, struct err *err)
{
	uint32_t i;
	int r = 0;

	for (i = 0; r == 0 && i < s->old_n; i++) {
		buf_clear(&s->ids);
		r = open_old(s, i, err);
		if (r == 0)
			r = read_tables(s, i, err);
		close_old(s);
	}
	return (r);
}

int
respread(struct worker *w, struct err *err)
{
	struct spread s = { .w = w, .old_n = w->me, .new_n = w->n };
	uint32_t parts = (uint32_t)w->conf.partitions, i;
	int r;

	s.bits = part_bits(parts);
	s.table = xcalloc(parts, sizeof(*s.table));
	part_assign(s.table, parts, s.new_n);
	s.job = xcalloc(s.new_n, sizeof(*s.job));
	for (i = 0; i < s.new_n; i++)
		s.job[i] = xcalloc(1, sizeof(**s.job));
	FAULT_POINT(spread_read_before);
	r = read_old(&s, err);
	if (r == 0)
		give_carried(&s);
	FAULT_POINT(spread_read_after);
	for (i = 0; r == 0 && i < s.new_n; i++) {
		FAULT_POINT(spread_write_before);
		r = write_new(&s, i, err);
		FAULT_POINT(spread_write_after);
	}
	if (r == 0)
		log_info("state is spread anew workers=%u before=%u keys=%"
		    PRIu64, s.new_n, s.old_n, s.nrows);
	spread_fini(&s);
	return (r);
}
