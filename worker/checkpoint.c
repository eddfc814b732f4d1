/*
 * A checkpoint: the keys that changed, and everything else that the automaton
 * holds, at one position between two records.  Taken by the loop's thread as
 * bytes, committed by store.c's writer; the journal before it is freed, and
 * credit returned, when that commit is done.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/mp.h"
#include "worker/planted.h"
#include "worker/sizes.h"
#include "worker/worker.h"

#define RETRY_NS		1000000000ULL
#define FINISH_NS		10000000000ULL	/* for what is inside */

/* --- the automaton as bytes -------------------------------------------- */

static void
pack_conns(const struct automaton *a, struct buf *b)
{
	struct in_conn *c, *next;

	mp_put_array(b, (uint32_t)HASH_COUNT(a->conns));
	HASH_ITER(hh, a->conns, c, next) {
		mp_put_array(b, 8);
		mp_put_uint(b, c->id);
		mp_put_uint(b, c->source);
		mp_put_bool(b, c->eof);
		mp_put_bool(b, c->bad);
		mp_put_uint(b, c->off);
		mp_put_bin(b, c->rem.data,
		    planted("RULE8") || planted("RULE8B") ? 0 : c->rem.len);
		part_pack(&c->part, b);
	}
}

static void
pack_sources(const struct worker *w, struct buf *b)
{
	const struct in_source *s;
	struct buf streams = { 0 };
	size_t i;

	/* By name, so that a new version may have other sources. */
	mp_put_array(b, (uint32_t)w->topo.nsources);
	for (i = 0; i < w->topo.nsources; i++) {
		s = &w->a.sources[i];
		mp_put_array(b, 8);
		mp_put_str(b, w->topo.sources[i].name);
		mp_put_uint(b, planted("RULE8") ? 0 : s->off);
		mp_put_uint(b, s->dev);
		mp_put_uint(b, s->ino);
		mp_put_bool(b, s->ended);
		if (w->topo.sources[i].kind == SOURCE_CONNECTOR) {
			buf_clear(&streams);
			streams_pack(&s->streams, &streams);
			mp_put_bin(b, streams.data, streams.len);
		} else if (w->topo.sources[i].kind == SOURCE_KAFKA) {
			buf_clear(&streams);
			if (!planted("RULE8"))
				offsets_pack(&s->offsets, &streams);
			mp_put_bin(b, streams.data, streams.len);
		} else
			mp_put_bin(b, s->rem.data,
			    planted("RULE8") ? 0 : s->rem.len);
		part_pack(&s->part, b);
	}
	buf_fini(&streams);
}

static void
pack_marks(const struct worker *w, struct buf *b)
{
	const struct mark *m;
	uint32_t x, p;

	mp_put_array(b, w->topo.nexchanges);
	for (x = 0; x < w->topo.nexchanges; x++) {
		mp_put_array(b, w->n);
		for (p = 0; p < w->n; p++) {
			m = &w->a.marks[channel_of(w, x, p)];
			if (planted("RULE5B"))	/* of the tail */
				m = &w->journaled[channel_of(w, x, p)];
			mp_put_array(b, 3);
			mp_put_uint(b, planted("RULE8") || planted("RULE8C") ?
			    0 : m->lineage);
			mp_put_uint(b, m->pos);
			mp_put_uint(b, m->index);
		}
	}
}

/* How many there are, by the file's number of the step, which a renamed one
 * keeps: a row that is lost leaves no other trace. */
static void
pack_keys(const struct worker *w, struct buf *b)
{
	const struct keytab *t = w->a.keys;
	uint64_t keys;
	uint32_t i, n = 0;

	for (i = 0; i < w->topo.nstages; i++)
		n += stage_has_state(&w->topo.stages[i]);
	mp_put_array(b, n);
	for (i = 0; i < w->topo.nstages; i++)
		if (stage_has_state(&w->topo.stages[i])) {
			mp_put_array(b, 2);
			mp_put_int(b, w->store.step_id[i]);
			/* At the start they are not loaded yet.  Those that
			 * have expired will not be in the file. */
			keys = t[i].n + t[i].left - t[i].gone;
			mp_put_uint(b, keys > w->saved_keys[i] ? keys :
			    w->saved_keys[i]);
		}
}

/* Those of a record that was passed, whose entry was not. */
static void
pack_asides(const struct automaton *a, struct buf *b)
{
	const struct aside *s;
	size_t i;

	mp_put_array(b, (uint32_t)a->naside);
	for (i = 0; i < a->naside; i++) {
		s = &a->aside[i];
		mp_put_array(b, 6);
		mp_put_uint(b, s->at);
		mp_put_uint(b, s->stamp);
		mp_put_uint(b, s->call);
		mp_put_uint(b, s->level);
		mp_put_str(b, s->death);
		mp_put_bin(b, s->letter.data, s->letter.len);
	}
}

static void
pack_windows(const struct automaton *a, struct buf *b)
{
	size_t i;

	mp_put_array(b, (uint32_t)a->nwindows);
	for (i = 0; i < a->topo->nstages; i++)
		if (stage_has_dues(&a->topo->stages[i]))
			windows_pack(&a->windows[i], b);
}

/* Where sealed outboxes stand; they are in no other file that is believed. */
static void
pack_boxes(const struct worker *w, struct buf *b)
{
	struct buf s = { 0 };
	struct outbox *o;
	size_t i;

	mp_put_array(b, w->machine ? (uint32_t)worker_nboxes(w) : 0);
	for (i = 0; w->machine && i < worker_nboxes(w); i++) {
		buf_clear(&s);
		if ((o = worker_box(w, i)) != NULL && o->h != NULL)
			outbox_snapshot(o, &s);
		mp_put_bin(b, s.data, s.len);
	}
	buf_fini(&s);
}

void
checkpoint_pack(const struct worker *w, struct buf *b)
{
	mp_put_array(b, AUTOMATON_FIELDS);
	mp_put_uint(b, AUTOMATON_VERSION);
	mp_put_uint(b, w->shape);
	mp_put_uint(b, w->a.entry);
	mp_put_uint(b, w->a.pos);
	mp_put_uint(b, w->journal.clock_ns);
	pack_conns(&w->a, b);
	pack_sources(w, b);
	pack_marks(w, b);
	pack_asides(&w->a, b);
	mp_put_uint(b, w->a.sum);
	mp_put_uint(b, w->a.putback);
	pack_windows(&w->a, b);
	progress_pack(&w->a, b);
	pack_boxes(w, b);
	pack_keys(w, b);
	committer_pack(w, b);
}

static void
unpack_conns(struct worker *w, struct mp *c)
{
	struct in_conn *conn;
	struct slice rem;
	uint32_t i, n = mp_get_array(c);

	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != 8)
			c->bad = true;
		conn = xcalloc(1, sizeof(*conn));
		conn->id = mp_get_uint(c, UINT64_MAX);
		conn->source = (uint32_t)mp_get_uint(c, UINT32_MAX);
		conn->eof = mp_get_bool(c);
		conn->bad = mp_get_bool(c);
		conn->off = mp_get_uint(c, UINT64_MAX);
		rem = mp_get_bin(c);
		conn->part = part_unpack(c);
		/* A source that a new version has no more: let it go. */
		if (!mp_ok(c) || conn->source >= w->topo.nsources ||
		    w->topo.sources[conn->source].framing == FRAMING_NONE) {
			free(conn);
			continue;
		}
		buf_add(&conn->rem, rem.data, rem.len);
		HASH_ADD(hh, w->a.conns, id, sizeof(conn->id), conn);
	}
}

/* Streams that were open on connections that there are no more, because the
 * state was spread anew, are closed. */
static int
unpack_streams(struct worker *w, struct streams *t, struct slice packed)
{
	struct stream *s, *next;
	struct in_conn *c;

	if (streams_unpack(t, packed) == -1)
		return (-1);
	HASH_ITER(hh, t->by_id, s, next) {
		HASH_FIND(hh, w->a.conns, &s->conn, sizeof(s->conn), c);
		if (c == NULL)
			s->conn = 0;
	}
	return (0);
}

static void
unpack_sources(struct worker *w, struct mp *c)
{
	struct in_source in, *s;
	struct slice name, rem;
	uint32_t i, n = mp_get_array(c);
	size_t k;

	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != 8)
			c->bad = true;
		memset(&in, 0, sizeof(in));
		name = mp_get_str(c);
		in.off = mp_get_uint(c, UINT64_MAX);
		in.dev = mp_get_uint(c, UINT64_MAX);
		in.ino = mp_get_uint(c, UINT64_MAX);
		in.ended = mp_get_bool(c);
		rem = mp_get_bin(c);
		in.part = part_unpack(c);
		for (k = 0; mp_ok(c) && k < w->topo.nsources; k++) {
			if (strlen(w->topo.sources[k].name) != name.len ||
			    memcmp(w->topo.sources[k].name, name.data,
			    name.len) != 0)
				continue;
			s = &w->a.sources[k];
			buf_fini(&s->rem);
			streams_fini(&s->streams);
			offsets_fini(&s->offsets);
			*s = in;
			if (w->topo.sources[k].kind == SOURCE_KAFKA)
				c->bad |= offsets_unpack(&s->offsets, rem) ==
				    -1;
			else if (w->topo.sources[k].kind != SOURCE_CONNECTOR)
				buf_add(&s->rem, rem.data, rem.len);
			else if (unpack_streams(w, &s->streams, rem) == -1)
				c->bad = true;
			break;
		}
	}
}

/* Exchanges are numbered anew by a new version of the pipeline; a clean stop
 * has left nothing under way between workers, so marks may be forgotten. */
static void
unpack_marks(struct worker *w, struct mp *c)
{
	uint32_t x, p, nx = mp_get_array(c), np;
	struct mark m;

	for (x = 0; x < nx && mp_ok(c); x++) {
		np = mp_get_array(c);
		for (p = 0; p < np && mp_ok(c); p++) {
			if (mp_get_array(c) != 3)
				c->bad = true;
			m.lineage = mp_get_uint(c, UINT64_MAX);
			m.pos = mp_get_uint(c, UINT64_MAX);
			m.index = (uint32_t)mp_get_uint(c, UINT32_MAX);
			if (mp_ok(c) && x < w->topo.nexchanges && p < w->n)
				w->a.marks[channel_of(w, x, p)] = m;
		}
	}
}

static void
unpack_keys(struct worker *w, struct mp *c)
{
	uint32_t i, n = mp_get_array(c);
	uint64_t keys;
	int64_t id;
	size_t k;

	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != 2)
			c->bad = true;
		id = mp_get_int(c);
		keys = mp_get_uint(c, UINT64_MAX);
		for (k = 0; mp_ok(c) && k < w->topo.nstages; k++)
			if (w->store.step_id[k] == id)
				w->saved_keys[k] = keys;
	}
}

static void
unpack_asides(struct worker *w, struct mp *c)
{
	struct aside in = { 0 }, *s;
	struct slice letter;
	uint32_t i, n = mp_get_array(c);

	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != 6)
			c->bad = true;
		in.at = mp_get_uint(c, UINT64_MAX);
		in.stamp = mp_get_uint(c, UINT64_MAX);
		in.call = (uint32_t)mp_get_uint(c, UINT32_MAX);
		in.level = (uint32_t)mp_get_uint(c, UINT32_MAX);
		in.death = mp_get_strdup(c);
		letter = mp_get_bin(c);
		if (!mp_ok(c) || (s = automaton_aside_new(&w->a, in.at)) ==
		    NULL) {
			free(in.death);
			continue;
		}
		*s = in;
		buf_add(&s->letter, letter.data, letter.len);
	}
}

/* By name; how messages come to a stage may be another way in a new version
 * of the pipeline, and then nobody is waited for who spoke before. */
static void
unpack_windows(struct worker *w, struct mp *c)
{
	uint32_t i, n = mp_get_array(c);
	struct windows *found;
	struct slice name;
	size_t k;

	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != WINDOWS_FIELDS)
			c->bad = true;
		name = mp_get_str(c);
		found = NULL;
		for (k = 0; mp_ok(c) && k < w->topo.nstages; k++)
			if (stage_has_dues(&w->topo.stages[k]) &&
			    strlen(w->topo.stages[k].name) == name.len &&
			    memcmp(w->topo.stages[k].name, name.data,
			    name.len) == 0)
				found = &w->a.windows[k];
		windows_unpack(found, c, w->saved_shape == w->shape);
	}
}

static void
unpack_boxes(struct worker *w, struct mp *c)
{
	struct slice s;
	uint32_t i, n = mp_get_array(c);

	for (i = 0; i < n && mp_ok(c); i++) {
		s = mp_get_bin(c);
		/* Of another shape: it is not used then. */
		if (i >= worker_nboxes(w))
			continue;
		buf_clear(&w->snapshot[i]);
		buf_add(&w->snapshot[i], s.data, s.len);
	}
}

int
checkpoint_unpack(struct worker *w, struct slice s, struct err *err)
{
	struct mp c;

	mp_init(&c, s);
	if (mp_get_array(&c) != AUTOMATON_FIELDS ||
	    mp_get_uint(&c, UINT32_MAX) != AUTOMATON_VERSION)
		return (err_set(err, ERR_CORRUPT,
		    "the checkpoint is of another version"));
	w->saved_shape = mp_get_uint(&c, UINT64_MAX);
	w->a.entry = mp_get_uint(&c, UINT64_MAX);
	w->a.pos = mp_get_uint(&c, UINT64_MAX);
	w->saved_clock_ns = mp_get_uint(&c, UINT64_MAX);
	unpack_conns(w, &c);
	unpack_sources(w, &c);
	unpack_marks(w, &c);
	unpack_asides(w, &c);
	w->a.sum = mp_get_uint(&c, UINT64_MAX);
	w->putback = w->a.putback = mp_get_uint(&c, UINT64_MAX);
	unpack_windows(w, &c);
	progress_unpack(&w->a, &c, w->saved_shape == w->shape);
	unpack_boxes(w, &c);
	unpack_keys(w, &c);
	committer_unpack(w, &c);
	if (!mp_end(&c))
		return (err_set(err, ERR_CORRUPT,
		    "the checkpoint cannot be read"));
	return (0);
}

/* --- taking one -------------------------------------------------------- */

/* One key as it is now, which is as it was when w->taking began. */
static void
save_key(void *arg, size_t stage, struct kent *e)
{
	static struct buf b;
	struct worker *w = arg;
	struct err err;

	buf_clear(&b);
	if (automaton_save(&w->a, stage, e, &b, &err) == -1)
		worker_fatal(w, EXIT_PERMANENT, "the state of step \"%s\" "
		    "key \"%.*s\" cannot be saved:\n%s",
		    w->topo.stages[stage].name, (int)(e->key_len < 100 ?
		    e->key_len : 100), (const char *)e->key, err.text);
	if (b.len == 0 && !e->gone)
		worker_fatal(w, EXIT_PERMANENT, "the state of step \"%s\" "
		    "was saved as no bytes, which means that there is none",
		    w->topo.stages[stage].name);
	if (!(e->gone && planted("TIME2")))
		store_job_row(w->taking, stage, slice_of(e->key, e->key_len),
		    buf_slice(&b));
	e->round = 0;
}

/* Save keys until then, 0: all; false: some are left. */
static bool
save_keys(struct worker *w, uint64_t until)
{
	size_t i, most;
	struct kent *e;

	for (i = 0; i < w->topo.nstages; i++) {
		if (!stage_has_state(&w->topo.stages[i]))
			continue;
		do {
			most = SLICE_KEYS;
			while ((e = keytab_waiting(&w->a.keys[i], &most)) !=
			    NULL) {
				save_key(w, i, e);
				automaton_forget(&w->a, i, e);
			}
			if (most == 0 && until != 0 && clock_mono_ns() >=
			    until)
				return (false);
		} while (most == 0);
	}
	return (true);
}

/* A checkpoint of this position; its keys are yet to be saved. */
static void
begin_job(struct worker *w)
{
	struct store_job *j = xcalloc(1, sizeof(*j));
	size_t i;

	FAULT_POINT(checkpoint_take_before);
	j->position = w->a.pos;
	j->lineage = w->lineage;
	j->request = w->want_checkpoint;
	j->commits = w->commits + 1;
	j->sync = w->machine && !planted("STABLE13");
	w->want_checkpoint = 0;
	w->early = false;
	for (i = 0; i < w->topo.nstages; i++)
		if (stage_has_state(&w->topo.stages[i]))
			keytab_round(&w->a.keys[i]);
	committer_taken(w);
	checkpoint_pack(w, &j->automaton);
	feeder_taken(w);
	kafka_source_taken(w);
	w->taking = j;
	w->a.save_first = save_key;
	w->a.save_arg = w;
}

/* All keys are saved. */
static struct store_job *
end_job(struct worker *w)
{
	struct store_job *j = w->taking;

	w->taking = NULL;
	FAULT_POINT(checkpoint_take_after);
	return (j);
}

static void
give_job(struct worker *w, struct store_job *j)
{
	if (planted("RULE5")) {			/* freed before committed */
		checkpoint_free(w, j->position);
		usleep(20000);
	}
	FAULT_POINT(checkpoint_give_before);
	if (w->machine) {			/* until it is stable */
		w->held = j;
		w->held_synced = false;
	} else
		store_give(&w->store, j);
	FAULT_POINT(checkpoint_give_after);
}

/* Go on with the one that is being taken, for a slice of time or to its end:
 * what is processed meanwhile waits no longer. */
void
checkpoint_slice(struct worker *w, bool all)
{
	if (w->taking != NULL && save_keys(w, all ? 0 : clock_mono_ns() +
	    SLICE_NS))
		give_job(w, end_job(w));
}

/* Is the journal filling faster than the timer empties it, with much of it
 * processed and only waiting for a commit? */
bool
checkpoint_urgent(const struct worker *w)
{
	uint64_t waiting = w->a.entry - journal_head_pos(&w->journal);
	size_t i, n = (size_t)w->topo.nexchanges * w->n;
	struct outbox *o;

	if (w->early)
		return (true);
	/* What leaves after it must leave before the stop. */
	if (w->after_checkpoint && w->draining && w->a.pos > w->committed)
		return (true);
	for (i = 0; w->machine && i < worker_nboxes(w); i++)
		if ((o = worker_box(w, i)) != NULL &&
		    outbox_waiting(o) > (uint64_t)w->conf.outbox_mark)
			return (true);
	if (waiting > w->journal.size / 8 &&
	    journal_used(&w->journal) > w->journal.size / 4)
		return (true);
	/* Half a window, or a sender of a large message, waits for it. */
	if (waiting > 0)
		for (i = 0; i < n; i++)
			/* Nobody sends to itself: there is no window. */
			if (i % w->n != w->me &&
			    ((w->pending[i] > w->window / 2 && waiting >
			    w->window / 4) || w->pending[i] +
			    (uint64_t)w->conf.max_message + FRAME_SLACK >
			    w->window))
				return (true);
	return (false);
}

/*
 * None is begun while a replay is still dropping outputs, nor inside a turn:
 * callers stand between turns, so pos == done.  Turns go on while its keys
 * are saved.
 */
void
checkpoint_begin(struct worker *w)
{
	if (!w->durable || w->checkpointing || w->stalled ||
	    w->a.pos < w->a.drop)
		return;
	if (w->retry != NULL) {
		if (clock_mono_ns() - w->failed_ns < RETRY_NS)
			return;
		store_give(&w->store, w->retry);
		w->retry = NULL;
	} else
		begin_job(w);
	w->checkpointing = true;
}

/* For the rare case that the next record must not find it undone. */
void
checkpoint_wait(struct worker *w)
{
	checkpoint_slice(w, true);
	while (w->checkpointing) {
		checkpoint_done(w);
		if (w->checkpointing)
			usleep(200);
	}
}

/* Entries before pos are no longer needed: their room and credit return. */
void
checkpoint_free(struct worker *w, uint64_t pos)
{
	uint64_t at = journal_head_pos(&w->journal);
	struct entry *e;

	while (at < pos && (e = journal_at(&w->journal, at)) != NULL &&
	    entry_end(e) <= pos) {
		(void)peer_scan(w, e, -1);
		at = entry_end(e);
	}
	journal_free(&w->journal, pos);
	STAT_SET(w->stats, journal_head, journal_head_pos(&w->journal));
}

static void
answer(struct worker *w, const struct store_job *j)
{
	struct msg_checkpointed m = { 0 };
	struct buf b = { 0 };

	if (j->request == 0)
		return;
	m.id = j->request;
	m.ok = j->ok;
	m.text = msg_cstr(j->ok ? "" : j->err.text);
	msg_put_checkpointed(&b, &m);
	control_send(w, &b);
	buf_fini(&b);
}

/* Every file says how many commits it has seen. */
static void
committed(struct worker *w, const struct store_job *j)
{
	struct outbox *o;
	size_t i;

	w->committed = j->position;
	checkpoint_count(w, j->commits);
	for (i = 0; w->machine && i < worker_nboxes(w); i++)
		if ((o = worker_box(w, i)) != NULL)
			outbox_committed(o);
	sink_committed(w);
	feeder_committed(w);
	kafka_source_committed(w, false);
	committer_committed(w);
}

void
checkpoint_count(struct worker *w, uint64_t commits)
{
	struct outbox *o;
	size_t i;

	w->commits = commits;
	journal_set_commits(&w->journal, commits);
	for (i = 0; i < worker_nboxes(w); i++)
		if ((o = worker_box(w, i)) != NULL)
			outbox_set_commits(o, commits);
}

void
checkpoint_done(struct worker *w)
{
	static struct log_rate rate;
	struct store_job *j = store_take(&w->store);

	if (j == NULL)
		return;
	w->checkpointing = false;
	FAULT_POINT(checkpoint_end_before);
	answer(w, j);
	if (!j->ok) {
		if (j->err.code != ERR_STORAGE)
			worker_fatal_err(w, &j->err);
		/* Nothing is lost: the journal keeps what it covers. */
		if (log_allowed(&rate))
			log_error("checkpoint failed, trying again each "
			    "second: %s", j->err.text);
		j->request = 0;
		w->retry = j;
		w->failed_ns = clock_mono_ns();
		return;
	}
	if (w->failed_ns != 0)
		log_info("checkpoints succeed again");
	w->failed_ns = 0;
	committed(w, j);
	checkpoint_free(w, j->position);
	STAT_ADD(w->stats, checkpoints, 1);
	STAT_SET(w->stats, checkpoint_position, j->position);
	FAULT_POINT(checkpoint_end_after);
	store_job_free(j);
	if (w->want_checkpoint != 0 && !w->finishing)
		checkpoint_begin(w);
}

/* --- the last one ------------------------------------------------------ */

static void
save_box(struct store_job *j, uint32_t number, struct outbox *o)
{
	uint64_t off = outbox_head(o), next;
	struct buf body = { 0 };
	struct frame f;

	while (off < outbox_tail(o)) {
		next = outbox_frame(o, off, &f);
		buf_clear(&body);
		outbox_read(o, off + FRAME_HEADER, buf_reserve(&body,
		    f.len + f.lens), f.len + f.lens);
		body.len = f.len + f.lens;
		store_job_box(j, number, slice_of(&f, sizeof(f)),
		    buf_slice(&body));
		off = next;
	}
	buf_fini(&body);
}

static void
save_boxes(struct worker *w, struct store_job *j)
{
	size_t i, n = (size_t)w->topo.nexchanges * w->n;

	for (i = 0; i < n; i++)
		if (i % w->n != w->me)
			save_box(j, (uint32_t)i, &w->peer_box[i]);
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].mine) {
			struct slice head = slice_of(
			    outbox_sink(&w->sinks[i].box),
			    sizeof(struct outbox_sink));

			store_job_box(j, BOX_SINKS + 2 * (uint32_t)i, head,
			    msg_cstr(w->topo.sinks[i].name));
			save_box(j, BOX_SINKS + 2 * (uint32_t)i + 1,
			    &w->sinks[i].box);
		}
}

static void
say_finished(struct worker *w, bool clean)
{
	struct msg_finished m = { w->a.pos, clean };
	struct buf b = { 0 };

	log_flush(1);
	FAULT_POINT(finish_say_before);
	msg_put_finished(&b, &m);
	control_send(w, &b);
	control_flush_blocking(w);
	FAULT_POINT(finish_say_after);
	buf_fini(&b);
}

/*
 * Process what is inside, settle with the receivers, and put everything that
 * is left into the file, so that the runtime directory is not needed again.
 */
void
checkpoint_finish(struct worker *w)
{
	uint64_t until = clock_mono_ns() + FINISH_NS;
	struct store_job *j;
	struct err err;

	while (!w->stalled && !durable_holds(w) && clock_mono_ns() < until &&
	    (source_pump(w) || w->a.pos < journal_tail(&w->journal))) {
		loop_process(w, 100000000);
		loop_flush(w);
	}
	checkpoint_slice(w, true);
	durable_stop(w);
	sink_finish(w);
	if (!w->durable) {
		log_info("durability is none: state is not kept");
		say_finished(w, true);
		exit(0);
	}
	store_stop(&w->store);
	checkpoint_done(w);
	if (w->stalled || w->a.pos < journal_tail(&w->journal) ||
	    w->a.pos < w->a.drop || !durable_quiet(w)) {
		log_warn("stopped before everything inside was processed; "
		    "the rest is kept in %s%s bytes=%" PRIu64, w->run_dir,
		    w->machine ? "" : " and a reboot would lose it",
		    journal_tail(&w->journal) - w->a.pos);
		say_finished(w, false);
		exit(0);
	}
	if (w->machine && durable_sync_all(w, &err) == -1)
		worker_fatal_err(w, &err);
	if (w->retry != NULL) {
		if (store_commit(&w->store, w->retry, &err) == -1)
			worker_fatal_err(w, &err);
		checkpoint_count(w, w->retry->commits);
		store_job_free(w->retry);
		w->retry = NULL;
	}
	begin_job(w);
	(void)save_keys(w, 0);
	j = end_job(w);
	j->clean = j->sync = j->remake = true;
	save_boxes(w, j);
	FAULT_POINT(finish_commit_before);
	if (store_commit(&w->store, j, &err) == -1)
		worker_fatal_err(w, &err);
	FAULT_POINT(finish_commit_after);
	feeder_committed(w);
	kafka_source_committed(w, true);
	committer_committed(w);
	feeder_finish(w);
	store_job_free(j);
	load_end(w);
	store_close(&w->store);
	FAULT_POINT(finish_unlink_before);
	recover_unlink(w);
	FAULT_POINT(finish_unlink_after);
	say_finished(w, true);
	exit(0);
}
