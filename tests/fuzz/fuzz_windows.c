/*
 * The automaton with windows, timeouts, letters and records that are set
 * aside, by entries as a worker writes them: the input only says which.
 * However it is interrupted it must come to the same: the automaton that
 * goes on from a checkpoint at any record gives the same outputs and ends
 * with the same bytes, and a replay drops exactly what had left.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/letter.h"
#include "common/mem.h"
#include "common/mp.h"
#include "tests/fuzz/fuzz_worker.h"

#define WINDOW_NS	1000
#define BEGIN_NS	(1ULL << 62)	/* later than any clock shows */

/* --- a host with windows -------------------------------------------------- */

enum { FN_OTHER, FN_RANGE, FN_COUNT, FN_TIME };

struct key_state {
	uint64_t	n;
	uint64_t	due;
};

static int
h_state_new(struct host_app *h, int fn, void **obj, struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	*obj = xcalloc(1, sizeof(struct key_state));
	return (0);
}

static int
h_state_save(struct host_app *h, int fn, const void *obj, struct buf *b,
    struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	buf_add(b, obj, sizeof(struct key_state));
	return (0);
}

static int
h_state_load(struct host_app *h, int fn, struct slice s, void **obj,
    struct err *err)
{
	if (s.len != sizeof(struct key_state))
		return (err_set(err, ERR_CORRUPT, "no state"));
	(void)h_state_new(h, fn, obj, err);
	memcpy(*obj, s.data, s.len);
	return (0);
}

static int
h_step(struct host_app *h, int fn, bool multi, void *state, host_val in,
    struct host_out *out, struct err *err)
{
	struct key_state *k = state;
	const char *text = in;

	(void)h;
	(void)fn;
	if (text[0] == '!')
		return (err_set(err, ERR_USER, "ValueError"));
	if (text[0] == '-')
		return (0);
	if (k != NULL)
		host_out_add(out, xasprintf("%.20s=%lu", text,
		    (unsigned long)++k->n));
	else
		host_out_add(out, xstrdup(text));
	if (multi && text[0] == '+')
		host_out_add(out, xstrdup(text + 1));
	return (0);
}

static int
h_unpack(struct host_app *h, struct slice s, host_val *v, struct err *err)
{
	(void)h;
	if (s.len > 0 && s.data[0] == '#')
		return (err_set(err, ERR_USER, "ValueError"));
	*v = xstrndup((const char *)s.data, s.len);
	return (0);
}

/* The time of "a..": 97 steps behind the first one, or so. */
static int
h_key(struct host_app *h, int fn, host_val v, struct buf *key,
    struct err *err)
{
	const char *text = v;
	uint64_t t = htobe64(BEGIN_NS + (uint64_t)(uint8_t)text[0] * 64);

	(void)h;
	if (text[0] == '?')
		return (err_set(err, ERR_USER, "ValueError"));
	if (fn == FN_TIME)
		buf_add(key, &t, sizeof(t));
	else
		buf_add(key, text, strlen(text));
	return (0);
}

/* A window of time is due when the watermark has come to its end, one of
 * three messages when it is full; a timeout puts out what may be. */
static int
h_window(struct host_app *h, int fn, void *state, struct slice key,
    host_val in, uint64_t time_ns, uint64_t watermark, struct host_out *out,
    struct host_window *w, int (*failed)(void *, struct err *), void *arg,
    struct err *err)
{
	struct key_state *k = state;
	bool full;

	(void)h;
	w->newest_ns = 0;
	if (in != NULL && w->event != NULL && time_ns + WINDOW_NS <=
	    watermark) {
		w->late = w->same = true;
		return (0);
	}
	if (in != NULL && ((const char *)in)[0] == '!') {
		(void)err_set(err, ERR_USER, "ValueError");
		if (failed(arg, err) == -1)
			return (-1);
	} else if (in != NULL && ++k->n == 1)
		k->due = time_ns + WINDOW_NS;
	full = fn == FN_COUNT ? k->n >= 3 || in == NULL :
	    k->due <= watermark;
	if (k->n > 0 && full) {
		host_window_reserve(w, 1);
		w->time_ns[0] = w->newest_ns = k->due;
		host_out_add(out, xasprintf("%.*s:%lu", (int)key.len,
		    (const char *)key.data, (unsigned long)k->n));
		k->n = 0;
		k->due = UINT64_MAX;
	}
	w->due = k->n > 0 ? k->due : UINT64_MAX;
	w->open = k->n > 0;
	w->same = in != NULL && k->n > 1;
	return (0);
}

/* --- the pipeline -------------------------------------------------------- */

static struct topo_source sources[] = {
	{ .name = "lines", .kind = SOURCE_TCP, .framing = FRAMING_LINES,
	    .max_size = 100 },
};
static struct topo_stage stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1,
	    .multi = true, .policy = POLICY_DEAD_LETTER },
	{ .name = "word", .kind = STAGE_KEY_BY, .next = 2, .exchange = 0 },
	{ .name = "range", .kind = STAGE_RANGE, .next = 3, .fn = FN_RANGE,
	    .exchange = -1, .timeout_ns = 700, .patience_ns = 3000 },
	{ .name = "late", .kind = STAGE_RANGE, .next = 4, .fn = FN_RANGE,
	    .exchange = -1, .patience_ns = 500 },
	{ .name = "all", .kind = STAGE_COLLECT, .next = 5, .exchange = -1 },
	{ .name = "three", .kind = STAGE_COUNT, .next = 6, .fn = FN_COUNT,
	    .exchange = -1, .timeout_ns = 400 },
	{ .name = "sum", .kind = STAGE_STATE, .next = 7, .exchange = -1,
	    .policy = POLICY_DEAD_LETTER },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};
static struct topo_sink sinks[] = {
	{ .name = "tcp", .kind = SINK_TCP, .exchange = -1 },
	{ .name = "dead-letters", .kind = SINK_DEAD, .exchange = 1 },
};
static int exchange_stage[] = { 2, -1 }, exchange_sink[] = { -1, 1 };
/* The same with event times: the windows of time are of these. */
static struct topo_stage event_stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1,
	    .multi = true, .policy = POLICY_DEAD_LETTER },
	{ .name = "time", .kind = STAGE_EVENT_TIME, .next = 2, .fn = FN_TIME,
	    .exchange = -1, .lateness_ns = 500, .idle_ns = 3000 },
	{ .name = "word", .kind = STAGE_KEY_BY, .next = 3, .exchange = 0 },
	{ .name = "range", .kind = STAGE_RANGE, .next = 4, .fn = FN_RANGE,
	    .exchange = -1, .by_event = true },
	{ .name = "all", .kind = STAGE_COLLECT, .next = 5, .exchange = -1 },
	{ .name = "three", .kind = STAGE_COUNT, .next = 6, .fn = FN_COUNT,
	    .exchange = -1, .timeout_ns = 400 },
	{ .name = "again", .kind = STAGE_RANGE, .next = 7, .fn = FN_RANGE,
	    .exchange = -1, .by_event = true },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};
static int event_exchange_stage[] = { 3, -1 };
static struct topo topo = { .sources = sources, .nsources = 1,
	.stages = stages, .nstages = 8, .sinks = sinks, .nsinks = 2,
	.nexchanges = 2, .exchange_stage = exchange_stage,
	.exchange_sink = exchange_sink };
static struct host host;

static void
choose(bool events)
{
	topo.event_time = events;
	topo.stages = events ? event_stages : stages;
	topo.exchange_stage = events ? event_exchange_stage : exchange_stage;
	sources[0].event_stage = events ? 1 : -1;
}

/* Runs from w's journal, if there is one. */
static struct worker *
begin(struct worker *w)
{
	struct worker *v = fuzz_begin(&topo, 2);

	host = fuzz_host;
	host.state_new = h_state_new;
	host.state_save = h_state_save;
	host.state_load = h_state_load;
	host.step = h_step;
	host.key = h_key;
	host.unpack = h_unpack;
	host.window = h_window;
	v->a.host = &host;
	v->shape = v->saved_shape = 5;
	if (w != NULL)
		v->a.journal = &w->journal;
	v->journal.clock_ns = BEGIN_NS;
	return (v);
}

/* --- entries -------------------------------------------------------------- */

/* Of where they are made, and where positions in them point to. */
struct maker {
	struct worker	*w;
	struct fuzz_in	*in;
	uint64_t	 off;		/* of the one client */
	uint64_t	 pos;		/* of the other worker */
	uint64_t	 seq;		/* of letters */
	uint64_t	 last;		/* entry, to be set aside */
};

static void
put(struct maker *m, unsigned int type, uint64_t channel, struct slice data,
    unsigned int flags)
{
	uint64_t at = journal_tail(&m->w->journal);

	if (fuzz_put(m->w, type, channel, m->off, data, flags) &&
	    type != ENTRY_ASIDE)
		m->last = at;
}

static void
put_bytes(struct maker *m)
{
	struct slice s = fuzz_piece(m->in, 32);

	put(m, ENTRY_BYTES, 1, s, 0);
	m->off += s.len;
}

/* Where its records come from, or how far it is. */
static void
put_event(struct buf *b, uint64_t bits, uint64_t time)
{
	uint64_t i;

	mp_put_uint(b, time);
	mp_put_uint(b, bits & 1 ? time : 0);
	for (i = 0; i < 5; i++)
		mp_put_uint(b, bits + i);
}

static void
put_mark(struct maker *m, struct buf *b, uint64_t i, uint64_t bits)
{
	mp_put_uint(b, m->pos);
	mp_put_uint(b, i | UINT64_C(1) << 32);
	mp_put_uint(b, bits >> 2 & 3);
	mp_put_uint(b, BEGIN_NS + (bits >> 4) * 512);
}

/* Records of the other worker, with its watermarks. */
static void
put_frame(struct maker *m)
{
	uint64_t n = 1 + fuzz_number(m->in, 1) % 4, i, time, bits;
	uint64_t clock = m->w->journal.clock_ns;
	struct frame_head h = { 7, 0, 0, (uint32_t)n };
	struct buf b = { 0 };
	struct slice key;

	buf_add(&b, &h, sizeof(h));
	for (i = 0; i < n; i++) {
		bits = fuzz_number(m->in, 1);
		m->pos += bits & 3;
		if (bits % 5 == 0) {
			put_mark(m, &b, i, bits);
			continue;
		}
		key = fuzz_piece(m->in, 3);
		time = clock - (bits >> 2) * 64;
		mp_put_uint(&b, m->pos);
		mp_put_uint(&b, i);
		mp_put_bin(&b, key.data, key.len);
		mp_put_uint(&b, time);
		mp_put_uint(&b, i);
		mp_put_uint(&b, bits & 1 ? bits : 0);
		key = fuzz_piece(m->in, 8);
		mp_put_bin(&b, key.data, key.len);
		if (topo.event_time)
			put_event(&b, bits, time);
	}
	h.pos = m->pos;
	h.index = (uint32_t)n - 1;
	memcpy(b.data, &h, sizeof(h));
	put(m, ENTRY_FRAME, 1 << 16, buf_slice(&b), 0);
	buf_fini(&b);
}

static void
put_letter(struct maker *m)
{
	static const char *const names[] = { "lines", "split", "word",
	    "range", "three", "sum", "tcp" };
	uint64_t bits = fuzz_number(m->in, 1);
	struct letter l = { (enum letter_kind)(bits % 3),
	    (uint32_t)(bits >> 2 & 7), msg_cstr(names[(bits >> 2) % 7]),
	    fuzz_piece(m->in, 3), m->w->journal.clock_ns - bits, bits,
	    fuzz_piece(m->in, 16) };
	struct buf b = { 0 };

	m->seq++;
	buf_add(&b, &m->seq, sizeof(m->seq));
	letter_pack(&b, &l);
	put(m, ENTRY_LETTER, 0, buf_slice(&b), 0);
	buf_fini(&b);
}

/* A call of a record of the last entry. */
static void
put_aside(struct maker *m)
{
	uint64_t bits = fuzz_number(m->in, 2);
	struct buf b = { 0 };

	automaton_aside_pack(&b, m->last + ENTRY_HEADER + (bits & 31),
	    bits >> 5 & 7 ? bits >> 5 & 7 : FRAMING_CALL,
	    1 + (bits >> 8 & 1), "signal 11");
	put(m, ENTRY_ASIDE, 0, buf_slice(&b), 0);
	buf_fini(&b);
}

static void
put_entries(struct maker *m)
{
	uint32_t source = 0;
	uint64_t op;

	put(m, ENTRY_OPEN, 1, slice_of(&source, sizeof(source)), 0);
	while (m->in->n > 0) {
		op = fuzz_number(m->in, 1);
		m->w->journal.clock_ns += (op >> 3) * 100;
		switch (op & 7) {
		case 0:
		case 1:
			put_bytes(m);
			break;
		case 2:
			put_frame(m);
			break;
		case 3:
			put(m, ENTRY_TICK, 0, slice_of("\0\0\0\0\0", 1 + (op >>
			    3 & 3)), 0);
			break;
		case 4:
			put_letter(m);
			break;
		case 5:
			put_aside(m);
			break;
		case 6:
			put(m, ENTRY_EOF, 1, slice_of("", 1), op >> 3 & 1);
			break;
		default:
			put(m, ENTRY_FORGET, 1, slice_of("", 1), 0);
			put(m, ENTRY_OPEN, 1, slice_of(&source,
			    sizeof(source)), 0);
		}
	}
}

/* --- running -------------------------------------------------------------- */

static uint64_t
at_once(void)
{
	return (1);
}

/* As recovery does, before anything runs. */
static void
find_asides(struct worker *v)
{
	uint64_t pos = v->a.entry, tail = journal_tail(v->a.journal);
	struct entry *e;
	struct err err;

	for (; pos < tail; pos = entry_end(e)) {
		e = journal_at(v->a.journal, pos);
		fuzz_check(e != NULL);
		if (e->type == ENTRY_ASIDE)
			fuzz_check(automaton_aside_add(&v->a, e, &err) == 0);
	}
}

/* Up to so many records; false: it failed. */
static bool
run(struct worker *v, uint64_t records)
{
	uint64_t before;
	struct err err;

	for (; records > 0 && v->a.pos < journal_tail(v->a.journal);
	    records--) {
		before = v->a.pos;
		if (automaton_run(&v->a, at_once, 1, SIZE_MAX, &err) == -1) {
			fuzz_check(err.text[0] != '\0');
			return (false);
		}
		fuzz_check(v->a.pos > before);
		/* loop.c ends a turn at once. */
		v->a.passed = false;
	}
	return (true);
}

/* The bytes of a key, which may not be loaded yet. */
static void
save_key(struct worker *w, size_t stage, struct kent *e, struct buf *b)
{
	struct err err;

	if (e->obj != NULL) {
		fuzz_check(automaton_save(&w->a, stage, e, b, &err) == 0);
		return;
	}
	if (stage_has_windows(&topo.stages[stage]))
		windows_put_head(e, b);
	buf_add(b, e->saved, e->saved_len);
}

static int
by_key(const void *a, const void *b)
{
	const struct kent *x = *(struct kent *const *)a;
	const struct kent *y = *(struct kent *const *)b;
	size_t n = x->key_len < y->key_len ? x->key_len : y->key_len;
	int c = memcmp(x->key, y->key, n);

	return (c != 0 ? c : (x->key_len > y->key_len) -
	    (x->key_len < y->key_len));
}

/* All keys of a stage in order: to v, or to b. */
static void
each_key(struct worker *w, size_t stage, struct worker *v, struct buf *b)
{
	struct keytab *t = &w->a.keys[stage];
	struct kent **all = xcalloc(t->n + 1, sizeof(*all)), *e;
	struct buf value = { 0 };
	size_t i = 0, n = 0;
	struct err err;

	while ((e = keytab_next(t, &i)) != NULL)
		all[n++] = e;
	qsort(all, n, sizeof(*all), by_key);
	for (i = 0; i < n; i++) {
		struct slice key = slice_of(all[i]->key, all[i]->key_len);

		buf_clear(&value);
		save_key(w, stage, all[i], &value);
		if (v != NULL)
			fuzz_check(automaton_load(&v->a, stage, key,
			    buf_slice(&value), &err) == 0);
		if (b != NULL) {
			mp_put_bin(b, key.data, key.len);
			mp_put_bin(b, value.data, value.len);
		}
	}
	buf_fini(&value);
	free(all);
}

/* v goes on where w stands. */
static void
restore(struct worker *w, struct worker *v)
{
	struct buf b = { 0 };
	struct err err;
	size_t i;

	w->journal.clock_ns = BEGIN_NS;
	checkpoint_pack(w, &b);
	fuzz_check(checkpoint_unpack(v, buf_slice(&b), &err) == 0);
	for (i = 0; i < topo.nstages; i++)
		if (stage_has_state(&topo.stages[i]))
			each_key(w, i, v, NULL);
	for (i = 0; i < topo.nstages; i++)
		if (stage_has_windows(&topo.stages[i]))
			windows_loaded(&v->a.windows[i], v->saved_clock_ns);
	find_asides(v);
	buf_fini(&b);
}

/* Everything that the automaton holds. */
static void
digest(struct worker *w, struct buf *b)
{
	size_t i;

	w->journal.clock_ns = BEGIN_NS;
	memset(w->saved_keys, 0, topo.nstages * sizeof(*w->saved_keys));
	checkpoint_pack(w, b);
	for (i = 0; i < topo.nstages; i++)
		if (stage_has_state(&topo.stages[i]))
			each_key(w, i, NULL, b);
}

static void
same_bytes(const struct buf *a, const struct buf *b)
{
	fuzz_check(a->len == b->len &&
	    (a->len == 0 || memcmp(a->data, b->data, a->len) == 0));
}

static void
same_turn(const struct turn *a, const struct turn *b)
{
	size_t i;

	same_bytes(&a->data, &b->data);
	same_bytes(&a->lens, &b->lens);
	fuzz_check(a->nframes == b->nframes);
	for (i = 0; i < a->nframes; i++)
		fuzz_check(a->frame[i].pos == b->frame[i].pos &&
		    a->frame[i].index == b->frame[i].index &&
		    a->frame[i].end == b->frame[i].end);
}

static void
same(struct worker *w, struct worker *v)
{
	struct buf a = { 0 }, b = { 0 };
	size_t i;

	for (i = 0; i < topo.nsinks; i++)
		same_turn(&w->a.to_sink[i], &v->a.to_sink[i]);
	for (i = 0; i < (size_t)topo.nexchanges * 2; i++)
		same_turn(&w->a.to_peer[i], &v->a.to_peer[i]);
	digest(w, &a);
	digest(v, &b);
	same_bytes(&a, &b);
	buf_fini(&a);
	buf_fini(&b);
}

static bool
is_silent(const struct worker *v)
{
	size_t i;

	for (i = 0; i < topo.nsinks; i++)
		if (v->a.to_sink[i].nframes > 0)
			return (false);
	for (i = 0; i < (size_t)topo.nexchanges * 2; i++)
		if (v->a.to_peer[i].nframes > 0)
			return (false);
	return (true);
}

/* Processed once more, when all of it has left. */
static void
replay(struct worker *w)
{
	struct worker *v = begin(w);
	struct buf a = { 0 }, b = { 0 };

	v->a.drop = w->a.pos;
	find_asides(v);
	fuzz_check(run(v, UINT64_MAX));
	fuzz_check(is_silent(v));
	fuzz_check(STAT_GET(v->stats, nondeterministic) == 0);
	digest(w, &a);
	digest(v, &b);
	same_bytes(&a, &b);
	buf_fini(&a);
	buf_fini(&b);
	fuzz_end(v);
}

void
fuzz_windows(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	uint64_t cut = fuzz_number(&in, 1);
	struct maker m = { .in = &in };
	struct worker *w, *v;
	bool good;

	choose(cut >> 7);
	cut &= 0x7f;
	m.w = w = begin(NULL);
	v = begin(w);
	put_entries(&m);
	find_asides(w);
	good = run(w, cut);
	if (good) {
		automaton_turn_clear(&w->a);
		restore(w, v);
		good = run(w, UINT64_MAX);
		fuzz_check(run(v, UINT64_MAX) == good);
		fuzz_check(w->a.pos == v->a.pos);
	}
	if (good) {
		same(w, v);
		replay(w);
	}
	fuzz_end(v);
	fuzz_end(w);
}
