/*
 * The checkpoint: what is packed comes back, nothing else does; when one is
 * taken, what happens when it fails, and the last one of a stop.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/mp.h"
#include "common/part.h"
#include "tests/unit/rig.h"
#include "tests/unit/unit.h"

static char dir[64];
static struct worker w;
static struct topo topo;
static struct err err;

/* A worker without files, over a journal in memory. */
static void
make_bare(struct worker *v)
{
	rig_make_of(v, "/nonexistent", &topo);
	/* As the file numbers the steps: 0 count, 1 late, 2 has no state. */
	v->store.nsteps = topo.nstages;
	v->store.step_id = xcalloc(topo.nstages, sizeof(int64_t));
	v->store.step_id[0] = 7;
	v->store.step_id[1] = 4;
	v->store.step_id[2] = -1;
	ck_assert_int_eq(journal_create(&v->journal, NULL, 2 << 20, 0, 42, 0,
	    &err), 0);
}

static void
begin(void)
{
	rig_dir_make(dir, sizeof(dir));
	topo = rig_topo;
	rig_make(&w, dir);
}

static void
end(void)
{
	rig_free(&w);
	rig_dir_remove(dir);
}

static void
opened(void)
{
	struct buf text = { 0 };

	ck_assert_msg(recover_open(&w, &text, &err) == 0, "%s", err.text);
	buf_fini(&text);
}

/* --- packed and unpacked ------------------------------------------------- */

static void
add_conn(uint64_t id, uint64_t off, const char *rem, bool eof)
{
	struct in_conn *c = xcalloc(1, sizeof(*c));

	c->id = id;
	c->off = off;
	c->eof = eof;
	c->bad = !eof;
	buf_add(&c->rem, rem, strlen(rem));
	HASH_ADD(hh, w.a.conns, id, sizeof(c->id), c);
}

static void
add_aside(uint64_t at, const char *letter)
{
	struct aside *s = automaton_aside_new(&w.a, at);

	s->stamp = at - 3;
	s->call = 2;
	s->level = 1;
	s->death = xstrdup("signal 11");
	buf_add(&s->letter, letter, strlen(letter));
}

/* Something of everything that there is. */
static void
fill(void)
{
	struct slice window = slice_of("\1\0\0\0\0\0\0\0\1w", WINDOW_HEAD +
	    1);

	w.shape = w.saved_shape = 0x1234567890abcdef;
	w.a.entry = 1000;
	w.a.pos = 1200;
	w.journal.clock_ns = 77;
	add_conn(1, 500, "undecoded", false);
	add_conn(UINT64_MAX, 3, "", true);
	w.a.sources[0].off = 900;
	w.a.sources[0].dev = 1;
	w.a.sources[0].ino = 2;
	w.a.sources[0].ended = true;
	buf_add(&w.a.sources[0].rem, "rest", 4);
	w.a.marks[1] = (struct mark){ 55, 600, 7 };
	add_aside(300, "a letter");
	add_aside(400, "");
	w.a.sum = 99;
	w.a.putback = 12;
	(void)windows_hear(&w.a.windows[1], 3, 70, 80);
	ck_assert_int_eq(automaton_load(&w.a, 0, slice_of("k", 1),
	    slice_of("v", 1), &err), 0);
	ck_assert_int_eq(automaton_load(&w.a, 1, slice_of("k", 1), window,
	    &err), 0);
	w.saved_keys[0] = 3;
}

static void
pack_full(struct buf *b)
{
	topo = rig_topo;
	make_bare(&w);
	fill();
	checkpoint_pack(&w, b);
	rig_free(&w);
}

static int
unpack(struct worker *v, struct slice s)
{
	make_bare(v);
	v->shape = 0x1234567890abcdef;
	memset(&err, 0, sizeof(err));
	return (checkpoint_unpack(v, s, &err));
}

START_TEST(test_everything_comes_back)
{
	struct buf b = { 0 }, again = { 0 };
	struct in_conn *c;
	uint64_t id = 1;

	pack_full(&b);
	ck_assert_int_eq(unpack(&w, buf_slice(&b)), 0);
	ck_assert_uint_eq(w.saved_shape, w.shape);
	ck_assert_uint_eq(w.a.entry, 1000);
	ck_assert_uint_eq(w.a.pos, 1200);
	ck_assert_uint_eq(w.saved_clock_ns, 77);
	ck_assert_uint_eq(HASH_COUNT(w.a.conns), 2);
	HASH_FIND(hh, w.a.conns, &id, sizeof(id), c);
	ck_assert(c != NULL && c->off == 500 && c->bad && !c->eof);
	ck_assert_str_eq(buf_str(&c->rem), "undecoded");
	ck_assert_str_eq(buf_str(&w.a.sources[0].rem), "rest");
	ck_assert(w.a.sources[0].ended);
	ck_assert_uint_eq(w.a.marks[1].pos, 600);
	ck_assert_uint_eq(w.a.naside, 2);
	ck_assert_str_eq(w.a.aside[0].death, "signal 11");
	ck_assert_str_eq(buf_str(&w.a.aside[0].letter), "a letter");
	ck_assert_uint_eq(w.putback, 12);
	ck_assert_uint_eq(w.a.windows[1].watermark, 70);
	ck_assert_uint_eq(w.saved_keys[0], 3);
	ck_assert_uint_eq(w.saved_keys[1], 1);
	/* Nothing is forgotten: it packs to the same bytes. */
	w.journal.clock_ns = w.saved_clock_ns;
	checkpoint_pack(&w, &again);
	ck_assert_uint_eq(again.len, b.len);
	ck_assert_mem_eq(again.data, b.data, b.len);
	rig_free(&w);
	buf_fini(&b);
	buf_fini(&again);
}
END_TEST

START_TEST(test_boxes_come_back)
{
	struct buf b = { 0 };

	begin();
	rig_machine(&w);
	opened();
	rig_live(&w, "one");
	checkpoint_pack(&w, &b);
	ck_assert_int_eq(checkpoint_unpack(&w, buf_slice(&b), &err), 0);
	ck_assert_uint_eq(w.snapshot[0].len, 0);	/* there is none */
	ck_assert_uint_gt(w.snapshot[1].len, 0);
	ck_assert_uint_gt(w.snapshot[2].len, 0);
	ck_assert_int_eq(outbox_keep(&w.peer_box[1], buf_slice(
	    &w.snapshot[1]), &err), 0);
	/* A pipeline with fewer of them does not mind. */
	w.topo.nsinks = 0;
	w.topo.nexchanges = 0;
	ck_assert_int_eq(checkpoint_unpack(&w, buf_slice(&b), &err), 0);
	w.topo = topo;
	buf_fini(&b);
	end();
}
END_TEST

/* Cut off anywhere, or with something behind it. */
START_TEST(test_other_lengths_are_refused)
{
	struct buf b = { 0 };
	struct slice s;
	size_t n;

	pack_full(&b);
	buf_add(&b, "\300", 1);
	for (n = 0; n <= b.len; n++) {
		if (n == b.len - 1)
			continue;
		s = unit_exact(b.data, n);
		ck_assert_msg(unpack(&w, s) == -1, "%zu bytes of %zu", n,
		    b.len - 1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		rig_free(&w);
		unit_free(s);
	}
	buf_fini(&b);
}
END_TEST

/* Any byte changed: refused, or read as something that packs again. */
START_TEST(test_changed_bytes)
{
	static const uint8_t other[] = { 0x00, 0x7f, 0x81, 0x90, 0x95, 0xc0,
	    0xc4, 0xcf, 0xd9, 0xdd, 0xff };
	struct buf b = { 0 }, again = { 0 };
	size_t i, k, bad = 0;
	uint8_t was;

	pack_full(&b);
	for (i = 0; i < b.len; i++) {
		was = b.data[i];
		for (k = 0; k < sizeof(other); k++) {
			b.data[i] = other[k];
			if (unpack(&w, buf_slice(&b)) == -1) {
				ck_assert_int_eq(err.code, ERR_CORRUPT);
				bad++;
			} else {
				buf_clear(&again);
				checkpoint_pack(&w, &again);
				rig_free(&w);
				ck_assert_int_eq(unpack(&w, buf_slice(
				    &again)), 0);
			}
			rig_free(&w);
		}
		b.data[i] = was;
	}
	ck_assert_uint_gt(bad, b.len);
	buf_fini(&b);
	buf_fini(&again);
}
END_TEST

START_TEST(test_another_version)
{
	struct buf b = { 0 };

	pack_full(&b);
	b.data[1]++;
	ck_assert_int_eq(unpack(&w, buf_slice(&b)), -1);
	ck_assert_str_eq(err.text, "the checkpoint is of another version");
	rig_free(&w);
	buf_fini(&b);
}
END_TEST

/* What a new version of the pipeline has no more is let go, the rest is
 * found by its name. */
START_TEST(test_another_pipeline)
{
	static struct topo_source sources[2];
	static struct topo_stage stages[3];
	struct buf b = { 0 };

	pack_full(&b);
	memcpy(stages, rig_topo.stages, sizeof(stages));
	sources[0] = (struct topo_source){ .name = stages[0].name, .kind =
	    SOURCE_GEN, .framing = FRAMING_NONE };
	sources[1] = rig_topo.sources[0];
	stages[1].name = sources[1].name;
	topo.sources = sources;
	topo.nsources = 2;
	topo.stages = stages;
	ck_assert_int_eq(unpack(&w, buf_slice(&b)), 0);
	ck_assert_ptr_null(w.a.conns);		/* source 0 has none now */
	ck_assert_uint_eq(w.a.sources[0].off, 0);
	ck_assert_uint_eq(w.a.sources[1].off, 900);
	ck_assert_uint_eq(w.a.windows[1].watermark, 0);
	rig_free(&w);
	topo = rig_topo;
	topo.nsources = 0;
	topo.nexchanges = 0;
	ck_assert_int_eq(unpack(&w, buf_slice(&b)), 0);
	ck_assert_ptr_null(w.a.conns);
	rig_free(&w);
	topo = rig_topo;
	buf_fini(&b);
}
END_TEST

/* Streams of a connector, open on a connection that is there, or is not. */
START_TEST(test_streams_come_back)
{
	static struct topo_source source;
	struct buf b = { 0 }, packed = { 0 };
	struct streams *t;

	topo = rig_topo;
	source = (struct topo_source){ .name = "feed", .kind =
	    SOURCE_CONNECTOR, .framing = FRAMING_CONNECTOR };
	topo.sources = &source;
	make_bare(&w);
	w.shape = 0x1234567890abcdef;
	w.a.sources[0].off = 9;
	add_conn(1, 0, "half a frame", false);
	mp_put_array(&packed, 2);
	mp_put_array(&packed, 3);
	mp_put_uint(&packed, 5);
	mp_put_uint(&packed, 70);
	mp_put_uint(&packed, 1);
	mp_put_array(&packed, 3);
	mp_put_uint(&packed, 6);
	mp_put_uint(&packed, UINT64_MAX);
	mp_put_uint(&packed, 2);		/* which is gone */
	ck_assert_int_eq(streams_unpack(&w.a.sources[0].streams,
	    buf_slice(&packed)), 0);
	checkpoint_pack(&w, &b);
	rig_free(&w);
	ck_assert_int_eq(unpack(&w, buf_slice(&b)), 0);
	ck_assert_uint_eq(w.a.sources[0].off, 9);
	t = &w.a.sources[0].streams;
	ck_assert_uint_eq(streams_find(t, 5)->seen, 70);
	ck_assert_uint_eq(streams_find(t, 5)->acked, 70);
	ck_assert_uint_eq(streams_find(t, 5)->conn, 1);
	ck_assert_uint_eq(streams_find(t, 6)->seen, UINT64_MAX);
	ck_assert_uint_eq(streams_find(t, 6)->conn, 0);
	rig_free(&w);
	/* Of another kind of source: not what it holds. */
	source.kind = SOURCE_FILE;
	source.framing = FRAMING_LINES;
	make_bare(&w);
	w.shape = 0x1234567890abcdef;
	buf_add(&w.a.sources[0].rem, "x", 1);
	buf_clear(&b);
	checkpoint_pack(&w, &b);
	rig_free(&w);
	source.kind = SOURCE_CONNECTOR;
	source.framing = FRAMING_CONNECTOR;
	ck_assert_int_eq(unpack(&w, buf_slice(&b)), -1);
	rig_free(&w);
	topo = rig_topo;
	buf_fini(&b);
	buf_fini(&packed);
}
END_TEST

/* --- when ---------------------------------------------------------------- */

static void
put_message(uint32_t len)
{
	struct frame_head h = { 77, 1, 0, 1 };
	uint64_t at = journal_tail(&w.journal);

	memcpy(journal_stage(&w.journal, ENTRY_FRAME, 1 << 16, 0, len, 0),
	    &h, sizeof(h));
	journal_publish(&w.journal, len);
	ck_assert_int_eq(peer_scan(&w, journal_at(&w.journal, at), 1), 1);
	w.a.entry = w.a.pos = journal_tail(&w.journal);
	journal_release(&w.journal, w.a.pos);
}

START_TEST(test_urgent)
{
	int i;

	begin();
	opened();
	ck_assert(!checkpoint_urgent(&w));
	w.early = true;
	ck_assert(checkpoint_urgent(&w));
	w.early = false;
	/* A little is processed, nobody waits. */
	put_message(1000);
	ck_assert(!checkpoint_urgent(&w));
	/* Half of the window of a sender. */
	for (i = 0; w.pending[1] <= w.window / 2; i++)
		put_message(1000);
	ck_assert(checkpoint_urgent(&w));
	checkpoint_free(&w, w.a.entry);
	ck_assert_uint_eq(w.pending[1], 0);
	ck_assert_uint_eq(w.pending_all, 0);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	ck_assert(!checkpoint_urgent(&w));
	/* A quarter of the journal, by what no sender waits for. */
	for (i = 0; journal_used(&w.journal) <= w.journal.size / 4; i++) {
		rig_entry(&w.journal, "a line of a client, ninety bytes "
		    "long at most");
		w.a.entry = w.a.pos = journal_tail(&w.journal);
	}
	ck_assert(checkpoint_urgent(&w));
	w.a.entry = journal_head_pos(&w.journal);	/* not processed */
	ck_assert(!checkpoint_urgent(&w));
	/* What leaves after it must leave before the stop. */
	w.after_checkpoint = w.draining = true;
	ck_assert(checkpoint_urgent(&w));
	w.committed = w.a.pos;
	ck_assert(!checkpoint_urgent(&w));
	end();
}
END_TEST

START_TEST(test_urgent_for_outboxes)
{
	begin();
	rig_machine(&w);
	opened();
	rig_live(&w, "one");
	rig_save(&w, "saved", false);
	rig_live(&w, "two");
	outbox_free(&w.sinks[0].box, outbox_tail(&w.sinks[0].box));
	ck_assert_uint_gt(outbox_waiting(&w.sinks[0].box), 0);
	ck_assert(!checkpoint_urgent(&w));
	w.conf.outbox_mark = 10;
	ck_assert(checkpoint_urgent(&w));
	end();
}
END_TEST

/* --- taking one ---------------------------------------------------------- */

static void
ignore(void *arg)
{
	(void)arg;
}

/* With a writer; what is dirty is one key with this state. */
static void
working(const char *state)
{
	struct kent *e;

	opened();
	ck_assert_int_eq(store_start(&w.store, ignore, NULL, &err), 0);
	rig_live(&w, "one");
	e = keytab_add(&w.a.keys[0], slice_of("key", 3),
	    part_hash(slice_of("key", 3)));
	w.a.nkeys++;
	e->obj = xstrdup(state);
	keytab_touch(&w.a.keys[0], e);
}

/* The answer that was queued for the supervisor. */
struct answered { uint64_t id; uint32_t ok, n; char text[200]; };

static int
on_checkpointed(void *arg, const struct msg_checkpointed *m, struct err *e)
{
	struct answered *a = arg;

	(void)e;
	a->n++;
	a->id = m->id;
	a->ok = m->ok;
	snprintf(a->text, sizeof(a->text), "%.*s", (int)m->text.len,
	    (const char *)m->text.data);
	return (0);
}

static struct answered
answered(void)
{
	static const struct msg_handlers handlers = {
		.checkpointed = on_checkpointed };
	struct answered a = { 0 };
	uint32_t len;
	size_t at;

	for (at = 0; at < w.control_out.len; at += sizeof(len) + len) {
		memcpy(&len, w.control_out.data + at, sizeof(len));
		ck_assert_int_eq(msg_dispatch(&handlers, &a, FROM_WORKER,
		    slice_of(w.control_out.data + at + sizeof(len) +
		    MSG_HEADER, len - MSG_HEADER), &err), 0);
	}
	buf_clear(&w.control_out);
	return (a);
}

START_TEST(test_taken_and_committed)
{
	struct answered a;

	begin();
	working("counted");
	checkpoint_begin(&w);
	checkpoint_begin(&w);			/* one at a time */
	ck_assert(w.checkpointing);
	ck_assert_ptr_nonnull(w.taking);	/* its keys wait */
	checkpoint_done(&w);
	ck_assert_uint_eq(w.committed, 0);
	checkpoint_slice(&w, false);		/* enough for one key */
	ck_assert_ptr_null(w.taking);
	checkpoint_wait(&w);
	ck_assert(!w.checkpointing);
	ck_assert_uint_eq(w.committed, w.a.pos);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	ck_assert_uint_eq(STAT_GET(w.stats, checkpoints), 1);
	ck_assert_uint_eq(w.a.keys[0].dirty.n, 0);
	ck_assert_uint_eq(answered().n, 0);	/* nobody has asked */
	/* A request that comes while one is under way gets the next. */
	checkpoint_begin(&w);
	checkpoint_slice(&w, true);
	w.want_checkpoint = 8;
	checkpoint_slice(&w, true);
	while (w.want_checkpoint != 0)
		checkpoint_done(&w);
	checkpoint_wait(&w);
	a = answered();
	ck_assert(a.n == 1 && a.id == 8 && a.ok);
	ck_assert_uint_eq(STAT_GET(w.stats, checkpoints), 3);
	rig_free(&w);
	/* It is what the next life finds. */
	rig_make(&w, dir);
	opened();
	ck_assert_uint_eq(w.a.nkeys, 1);
	ck_assert_uint_eq(w.a.pos, w.a.drop);
	end();
}
END_TEST

START_TEST(test_when_none_is_taken)
{
	begin();
	working("counted");
	w.durable = false;
	checkpoint_begin(&w);
	w.durable = true;
	w.stalled = true;
	checkpoint_begin(&w);
	w.stalled = false;
	w.a.drop = w.a.pos + 1;			/* a replay drops outputs */
	checkpoint_begin(&w);
	ck_assert(!w.checkpointing);
	checkpoint_done(&w);			/* there is none */
	ck_assert_uint_eq(STAT_GET(w.stats, checkpoints), 0);
	end();
}
END_TEST

/* On a disk it waits until it is stable: durable.c gives it. */
START_TEST(test_held_until_stable)
{
	begin();
	rig_machine(&w);
	working("counted");
	w.held_synced = true;
	checkpoint_begin(&w);
	checkpoint_slice(&w, true);
	ck_assert_ptr_nonnull(w.held);
	ck_assert(!w.held_synced);
	ck_assert_uint_eq(w.held->position, w.a.pos);
	ck_assert_uint_eq(STAT_GET(w.stats, checkpoints), 0);
	store_give(&w.store, w.held);
	w.held = NULL;
	checkpoint_wait(&w);
	ck_assert_uint_eq(STAT_GET(w.stats, checkpoints), 1);
	end();
}
END_TEST

static void
limit_pages(int n)
{
	char sql[64];

	snprintf(sql, sizeof(sql), "PRAGMA max_page_count = %d", n);
	ck_assert_int_eq(sqlite3_exec(w.store.db, sql, NULL, NULL, NULL),
	    SQLITE_OK);
}

/* No space: the journal is kept, and it is tried again. */
START_TEST(test_a_full_disk)
{
	struct answered a;
	char *large = xmalloc(200001);

	memset(large, 'x', 200000);
	large[200000] = '\0';
	begin();
	working(large);
	free(large);
	limit_pages(1);				/* none more, that is */
	w.want_checkpoint = 5;
	checkpoint_begin(&w);
	checkpoint_wait(&w);
	a = answered();
	ck_assert(a.n == 1 && a.id == 5 && !a.ok);
	ck_assert_ptr_nonnull(strstr(a.text, "full"));
	ck_assert_ptr_nonnull(w.retry);
	ck_assert_uint_gt(journal_used(&w.journal), 0);
	ck_assert_uint_eq(w.committed, 0);
	/* Not at once. */
	checkpoint_begin(&w);
	ck_assert(!w.checkpointing);
	limit_pages(1 << 20);
	w.failed_ns -= UINT64_C(2000000000);
	checkpoint_begin(&w);
	ck_assert(w.checkpointing);
	checkpoint_wait(&w);
	ck_assert_uint_eq(answered().n, 0);	/* it was said */
	ck_assert_uint_eq(w.committed, w.a.pos);
	ck_assert_uint_eq(journal_used(&w.journal), 0);
	ck_assert_uint_eq(w.failed_ns, 0);
	end();
}
END_TEST

/* Another process has the file: to go on would be two owners. */
static void
lose_the_file(void)
{
	static const char *const steps[] = { "count", "late", NULL };
	struct store_meta m;
	struct store s;

	begin();
	working("counted");
	if (store_open(&s, w.store.path, 0, steps, 3, &m, &err) == -1)
		return;
	checkpoint_begin(&w);
	checkpoint_wait(&w);
}

static int
cannot_save(struct host_app *h, int fn, const void *obj, struct buf *b,
    struct err *e)
{
	(void)h;
	(void)fn;
	(void)obj;
	(void)b;
	return (err_set(e, ERR_USER, "TypeError: cannot pickle a lock"));
}

static void
save_what_cannot_be(void)
{
	begin();
	working("counted");
	rig_host.state_save = cannot_save;
	checkpoint_begin(&w);
	checkpoint_slice(&w, true);
}

START_TEST(test_fatal_errors)
{
	char said[1000];

	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(rig_child(lose_the_file, NULL, said, sizeof(said)),
	    100);
	ck_assert_ptr_nonnull(strstr(said, "another process owns this file"));
	rig_dir_remove(dir);
	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(rig_child(save_what_cannot_be, NULL, said,
	    sizeof(said)), 100);
	ck_assert_ptr_nonnull(strstr(said, "the state of step \"count\" key "
	    "\"key\" cannot be saved:\nTypeError: cannot pickle a lock"));
	rig_dir_remove(dir);
}
END_TEST

/* --- the last one -------------------------------------------------------- */

static void (*harm)(void);		/* between the work and the stop */

/* A worker whose outputs nobody has taken is stopped. */
static void
stop(void)
{
	rig_make(&w, dir);
	if (harm != NULL)
		harm();
	working("counted");
	if (harm != NULL)
		harm();
	checkpoint_finish(&w);
}

struct finish { uint32_t n, clean; uint64_t position; };

static int
on_finished(void *arg, const struct msg_finished *m, struct err *e)
{
	struct finish *f = arg;

	(void)e;
	f->n++;
	f->clean = m->clean;
	f->position = m->position;
	return (0);
}

/* The exit code; what was said is for the supervisor. */
static int
stopped(void (*how)(void), struct finish *f)
{
	static const struct msg_handlers handlers = {
		.finished = on_finished };
	struct buf b = { 0 };
	struct slice s;
	long n;
	int code;

	harm = how;
	memset(f, 0, sizeof(*f));
	code = rig_child(stop, &b, err.text, sizeof(err.text));
	s = buf_slice(&b);
	while ((n = msg_frame(s, 1 << 20)) > 0) {
		ck_assert_msg(msg_dispatch(&handlers, f, FROM_WORKER,
		    slice_of(s.data + MSG_HEADER, (size_t)n - MSG_HEADER),
		    &err) == 0, "%s", err.text);
		s.data += n;
		s.len -= (size_t)n;
	}
	buf_fini(&b);
	return (code);
}

static bool
has(const char *suffix)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/worker-0.%s", dir, suffix);
	return (access(path, F_OK) == 0);
}

static void
on_a_disk(void)
{
	if (w.journal.h == NULL)
		rig_machine(&w);
	else				/* all of it is synced */
		w.stable.pos = w.stable.synced = w.a.pos;
}

/* Nothing but the file is needed, and it has what nobody has taken. */
START_TEST(test_a_clean_stop)
{
	void (*const how[])(void) = { NULL, on_a_disk };
	struct finish f;
	struct frame frame;
	size_t i;

	for (i = 0; i < 2; i++) {
		rig_dir_make(dir, sizeof(dir));
		ck_assert_msg(stopped(how[i], &f) == 0, "%s", err.text);
		ck_assert(f.n == 1 && f.clean);
		ck_assert_uint_gt(f.position, 0);
		ck_assert(!has("journal") && !has("s0.outbox") &&
		    !has("x0.p1.outbox"));
		rig_make(&w, dir);
		if (i == 1)
			rig_machine(&w);
		opened();
		ck_assert_uint_eq(w.a.pos, f.position);
		ck_assert_uint_eq(w.a.nkeys, 1);
		outbox_frame(&w.peer_box[1], 0, &frame);
		ck_assert_uint_eq(frame.pos, f.position);
		ck_assert_uint_eq(frame.len, 3);
		outbox_frame(&w.sinks[0].box, 0, &frame);
		ck_assert_uint_eq(frame.len, 3);
		ck_assert_uint_eq(w.sinks[0].box.payload_tail, 3);
		end();
	}
}
END_TEST

static void
leave_some(void)
{
	if (w.journal.h == NULL)
		return;
	rig_entry(&w.journal, "more");
	w.stalled = true;
}

/* What is inside stays in the mapped files, and goes on from them. */
START_TEST(test_a_stop_with_something_inside)
{
	struct finish f;

	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(stopped(leave_some, &f), 0);
	ck_assert(f.n == 1 && !f.clean);
	ck_assert(has("journal") && has("s0.outbox"));
	rig_make(&w, dir);
	opened();
	ck_assert_uint_lt(w.a.pos, journal_tail(&w.journal));
	ck_assert_uint_eq(journal_tail(&w.journal) - f.position,
	    entry_size(4));
	end();
}
END_TEST

static void
without_durability(void)
{
	w.durable = false;
}

START_TEST(test_a_stop_without_durability)
{
	struct finish f;

	rig_dir_make(dir, sizeof(dir));
	/* Its keys are nowhere: no file is made. */
	ck_assert_int_eq(stopped(without_durability, &f), 0);
	ck_assert(f.n == 1 && f.clean);
	ck_assert_int_eq(rmdir(dir), 0);
	dir[0] = '\0';
}
END_TEST

static void
no_space(void)
{
	if (w.journal.h == NULL)
		return;
	limit_pages(1);
	w.retry = rig_job(&w, "a value", false);
	store_job_row(w.retry, 0, slice_of("large", 5),
	    slice_of(w.journal.ring, 500000));
}

static void
space_again(void)
{
	if (w.journal.h != NULL)
		w.retry = rig_job(&w, "retried", false);
}

/* A checkpoint that failed is part of the last one; nothing is said to be
 * finished when it cannot be. */
START_TEST(test_a_stop_after_a_failure)
{
	struct finish f;

	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(stopped(space_again, &f), 0);
	ck_assert(f.n == 1 && f.clean);
	rig_make(&w, dir);
	opened();
	ck_assert_uint_eq(w.a.nkeys, 1);
	end();
	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(stopped(no_space, &f), 111);
	ck_assert_ptr_nonnull(strstr(err.text, "full"));
	ck_assert_uint_eq(f.n, 0);
	ck_assert(has("journal") && has("s0.outbox"));
	rig_make(&w, dir);
	opened();
	ck_assert_uint_gt(journal_used(&w.journal), 0);
	end();
}
END_TEST

static void
no_space_at_the_end(void)
{
	if (w.journal.h != NULL)
		limit_pages(1);
	while (w.journal.h != NULL && outbox_used(&w.sinks[0].box) < 200000)
		rig_frame(&w.sinks[0].box, w.a.pos, "a line of some bytes");
}

static void
no_sync(void)
{
	on_a_disk();
	if (w.journal.h != NULL)
		close(w.journal.fd);
}

START_TEST(test_a_last_checkpoint_that_fails)
{
	struct finish f;

	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(stopped(no_space_at_the_end, &f), 111);
	ck_assert_ptr_nonnull(strstr(err.text, "full"));
	ck_assert_uint_eq(f.n, 0);
	ck_assert(has("journal") && has("s0.outbox"));
	rig_dir_remove(dir);
	rig_dir_make(dir, sizeof(dir));
	ck_assert_int_eq(stopped(no_sync, &f), 111);
	ck_assert_ptr_nonnull(strstr(err.text, "Bad file descriptor"));
	ck_assert_uint_eq(f.n, 0);
	ck_assert(has("journal"));
	rig_dir_remove(dir);
}
END_TEST

UNIT_MAIN("checkpoint", test_everything_comes_back, test_boxes_come_back,
    test_other_lengths_are_refused, test_changed_bytes, test_another_version,
    test_another_pipeline, test_streams_come_back, test_urgent,
    test_urgent_for_outboxes, test_taken_and_committed,
    test_when_none_is_taken, test_held_until_stable, test_a_full_disk,
    test_fatal_errors, test_a_clean_stop,
    test_a_stop_with_something_inside, test_a_stop_without_durability,
    test_a_stop_after_a_failure, test_a_last_checkpoint_that_fails)
