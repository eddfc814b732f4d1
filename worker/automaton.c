/* See automaton.h.  From journal.c, to the turn that loop.c flushes. */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Inlined: hashes of a few words are taken for every record. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/mp.h"
#include "common/part.h"
#include "worker/automaton.h"
#include "worker/planted.h"
#include "worker/sizes.h"

#define LETTER_FN	(-3)		/* determ's number of the two calls
					   that show a record */
#define MARK_INDEX	(UINT64_C(1) << 32)	/* no record: a mark */
#define LAST_TIME	((UINT64_C(1) << 62) - 1)	/* of events */
#define SHOWN_BYTES	200		/* of a key or payload, to people */
#define SEEN_KEYS	3		/* named when a replay differs */

/* A message on its way down the pipeline, beside its value. */
struct flow {
	struct slice	 key;
	uint64_t	 hash;		/* of the key */
	uint32_t	 depth;		/* multi and window stages before */
	struct origin	 o;
	struct err	*err;		/* where errors go to */
};

static int run(struct automaton *, const struct op *, host_val,
	    struct flow *);

static void
init_stage(struct automaton *a, size_t i)
{
	const struct topo_stage *st = &a->topo->stages[i];
	struct op *op = &a->ops[i];

	if (stage_has_state(st))
		keytab_init(&a->keys[i]);
	if (stage_has_dues(st)) {
		windows_init(&a->windows[i], st);
		a->nwindows++;
	}
	op->next = st->next < 0 ? NULL : &a->ops[st->next];
	op->keys = &a->keys[i];
	op->kind = st->kind;
	op->stage = (int)i;
	op->fn = st->fn;
	op->exchange = st->exchange;
	op->multi = st->multi;
	op->ends = st->on_end != 0;
	op->bit = 1ULL << (i & 63);
	op->at = NOTE_CALL(0, i);
	op->in_stage = i + 1;
}

/* The one worker that writes sink i, or that all do themselves. */
static bool
is_sink_here(const struct automaton *a, size_t i)
{
	return (a->topo->sinks[i].exchange < 0 ||
	    automaton_writer(a, i) == a->worker);
}

int
automaton_init(struct automaton *a, struct err *err)
{
	size_t i, nturn = (size_t)a->topo->nexchanges * a->workers;
	uint32_t multi = 0;

	for (i = 0; i < a->topo->nstages; i++)
		multi += a->topo->stages[i].multi ||
		    stage_has_dues(&a->topo->stages[i]);
	if (multi >= AUTOMATON_DEPTH)
		return (err_set(err, ERR_CONFIG, "a pipeline may have at most "
		    "%d multi computations and windows, this one has %u",
		    AUTOMATON_DEPTH - 1, multi));
	a->note = &a->no_note;
	a->by_event = a->topo->event_time;
	a->dead_sink = -1;
	a->live_sinks = a->topo->nsinks;
	for (i = 0; i < a->topo->nsinks; i++)
		if (a->topo->sinks[i].kind == SINK_DEAD) {
			a->dead_sink = (int)i;
			a->live_sinks = i;	/* it is the last */
		}
	for (i = 0; i < a->topo->nstages; i++)
		if (a->topo->stages[i].late != 0 &&
		    (size_t)a->topo->stages[i].late <= a->live_sinks)
			a->live_sinks = (size_t)a->topo->stages[i].late - 1;
	a->sources = xcalloc(a->topo->nsources + 1, sizeof(*a->sources));
	a->source_hash = xcalloc(a->topo->nsources + 1,
	    sizeof(*a->source_hash));
	for (i = 0; i < a->topo->nsources; i++)
		a->source_hash[i] = part_hash(slice_of(
		    a->topo->sources[i].key, a->topo->sources[i].key_len));
	a->marks = xcalloc(nturn + 1, sizeof(*a->marks));
	a->keys = xcalloc(a->topo->nstages + 1, sizeof(*a->keys));
	a->windows = xcalloc(a->topo->nstages + 1, sizeof(*a->windows));
	a->ops = xcalloc(a->topo->nstages + 1, sizeof(*a->ops));
	for (i = 0; i < a->topo->nstages; i++)
		init_stage(a, i);
	a->to_peer = xcalloc(nturn + 1, sizeof(*a->to_peer));
	a->to_sink = xcalloc(a->topo->nsinks + 1, sizeof(*a->to_sink));
	for (i = 0; i < a->topo->nsinks; i++) {
		a->to_sink[i].here = is_sink_here(a, i);
		a->to_sink[i].fn = a->topo->sinks[i].fn;
	}
	progress_init(a);
	return (0);
}

static void
drop_state(void *obj, void *arg)
{
	struct automaton *a = arg;

	a->host->state_free(a->app, obj);
}

static void
free_aside(struct aside *s)
{
	free(s->death);
	buf_fini(&s->letter);
}

void
automaton_aside_forget(struct automaton *a)
{
	while (a->naside > 0)
		free_aside(&a->aside[--a->naside]);
}

static void
fini_stage(struct automaton *a, size_t stage)
{
	struct keytab *t = &a->keys[stage];
	struct kent *e;
	size_t i = 0;

	if (!stage_has_state(&a->topo->stages[stage]))
		return;
	while ((e = keytab_next(t, &i)) != NULL)
		windows_free_key(e);
	keytab_fini(t, drop_state, a);
	if (stage_has_dues(&a->topo->stages[stage]))
		windows_fini(&a->windows[stage]);
}

static void
turn_fini(struct turn *t)
{
	buf_fini(&t->data);
	buf_fini(&t->lens);
	free(t->frame);
}

void
automaton_fini(struct automaton *a)
{
	size_t i, nturn = (size_t)a->topo->nexchanges * a->workers;

	automaton_forget_conns(a);
	for (i = 0; i < a->topo->nsources; i++) {
		buf_fini(&a->sources[i].rem);
		streams_fini(&a->sources[i].streams);
		offsets_fini(&a->sources[i].offsets);
	}
	for (i = 0; i < a->topo->nstages; i++)
		fini_stage(a, i);
	for (i = 0; i < nturn; i++)
		turn_fini(&a->to_peer[i]);
	for (i = 0; i < a->topo->nsinks; i++)
		turn_fini(&a->to_sink[i]);
	for (i = 0; i < AUTOMATON_DEPTH; i++) {
		buf_fini(&a->keybuf[i][0]);
		buf_fini(&a->keybuf[i][1]);
		free(a->out[i].val);
		free(a->win[i].time_ns);
	}
	automaton_aside_forget(a);
	progress_fini(&a->progress);
	free(a->aside);
	buf_fini(&a->scratch);
	buf_fini(&a->seen);
	buf_fini(&a->garbage);
	buf_fini(&a->talk);
	free(a->sources);
	free(a->source_hash);
	free(a->marks);
	free(a->keys);
	free(a->ops);
	free(a->windows);
	free(a->to_peer);
	free(a->to_sink);
}

/* As part_hash, where most are short. */
static inline uint64_t
hash_bytes(struct slice s)
{
	return (s.len <= 16 ? XXH3_64bits(s.data, s.len) : part_hash(s));
}

static inline void
set_key(struct flow *f, struct slice key)
{
	f->key = key;
	f->hash = hash_bytes(key);
}

/* Of a record that comes in: its children share its width. */
static inline void
event_begin(struct automaton *a, uint64_t source, uint64_t id, uint64_t seq,
    struct part *part)
{
	struct event *ev = &a->event[0];

	if (__builtin_expect(!a->by_event, 1))
		return;
	a->part = part;
	ev->seen_ns = 0;
	ev->source = source;
	ev->part = id;
	ev->seq = seq;
	ev->sub = 0;
	ev->width = UINT64_MAX;
}

/* Number i of n that are made of the one at this depth.  When the width is
 * used up they are equal, and in the order in which they come. */
static inline void
event_child(struct automaton *a, uint32_t depth, size_t i, size_t n)
{
	struct event *ev = &a->event[depth + 1];

	if (!a->by_event)
		return;
	*ev = a->event[depth];
	ev->width /= n;
	ev->sub += i * ev->width;
}

static void
flow_init(struct flow *f, struct slice key, const struct origin *o,
    struct err *err)
{
	set_key(f, key);
	f->depth = 0;
	f->o = *o;
	f->err = err;
}

uint32_t
automaton_owner(const struct automaton *a, struct slice key)
{
	return (a->table[part_of(part_hash(key), a->bits)]);
}

/* --- the turn: what this record gives ---------------------------------- */

/* Remember t as it is before the record at work adds to it. */
static inline void
turn_begin(struct automaton *a, struct turn *t)
{
	if (t->undo_stamp == a->stamp)
		return;
	t->undo_stamp = a->stamp;
	t->undo_data = t->data.len;
	t->undo_lens = t->lens.len;
	t->undo_nframes = t->nframes;
	t->undo_start = t->start;
	if (t->nframes > 0)
		t->undo_last = *t->last;
}

static void
turn_undo(struct turn *t, uint64_t stamp)
{
	if (t->undo_stamp != stamp)
		return;
	t->data.len = t->undo_data;
	t->lens.len = t->undo_lens;
	t->nframes = t->undo_nframes;
	t->start = t->undo_start;
	t->last = NULL;
	if (t->nframes > 0) {
		t->last = &t->frame[t->nframes - 1];
		*t->last = t->undo_last;
	}
	t->undo_stamp = 0;
}

/* The last frame, a new one that begins at `start`. */
static void __attribute__((noinline))
turn_frame(struct turn *t, size_t start)
{
	if (t->nframes == t->cap) {
		t->cap = t->cap == 0 ? 4 : t->cap * 2;
		t->frame = xreallocarray(t->frame, t->cap, sizeof(*t->frame));
	}
	t->last = &t->frame[t->nframes++];
	memset(t->last, 0, sizeof(*t->last));
	t->start = start;
}

/* One more record, ending where t->data now ends, was added. */
static inline void
turn_added(struct automaton *a, struct turn *t, size_t before)
{
	struct turn_frame *f;

	if (t->last == NULL || before - t->start >= FRAME_BYTES)
		turn_frame(t, before);
	f = t->last;
	f->pos = a->stamp;
	f->index = a->index++;
	f->records++;
	f->end = t->data.len;
	a->turn_bytes += t->data.len - before;
}

static void
turn_clear(struct turn *t)
{
	t->data.len = 0;
	t->lens.len = 0;
	t->nframes = 0;
	t->start = 0;
	t->last = NULL;
	t->undo_stamp = 0;
}

void
automaton_turn_clear(struct automaton *a)
{
	size_t i, nturn = (size_t)a->topo->nexchanges * a->workers;

	for (i = 0; i < nturn; i++)
		turn_clear(&a->to_peer[i]);
	for (i = 0; i < a->topo->nsinks; i++)
		turn_clear(&a->to_sink[i]);
	a->turn_bytes = 0;
}

static void
undo_record(struct automaton *a)
{
	size_t i, nturn = (size_t)a->topo->nexchanges * a->workers;

	if (a->stamp == 0)		/* it failed before it did anything */
		return;
	for (i = 0; i < nturn; i++)
		turn_undo(&a->to_peer[i], a->stamp);
	for (i = 0; i < a->topo->nsinks; i++)
		turn_undo(&a->to_sink[i], a->stamp);
}

/* --- user code, and the note of what it is at work on -------------------- */

#define NOTE(w, v)	atomic_store_explicit(&(w), (v), memory_order_relaxed)

static inline void
begin_record(struct automaton *a, uint64_t stamp)
{
	a->stamp = stamp;
	a->index = 0;
	a->call = 0;
	host_where.key = slice_of(NULL, 0);
	host_where.position = stamp;
	NOTE(a->note->stamp, stamp);
}

static struct aside *
find_aside(const struct automaton *a, uint64_t stamp, uint32_t call)
{
	size_t i;

	for (i = 0; i < a->naside; i++)
		if (a->aside[i].stamp == stamp && a->aside[i].call == call)
			return (&a->aside[i]);
	return (NULL);
}

uint32_t
automaton_aside_level(const struct automaton *a, uint64_t stamp,
    uint32_t call)
{
	uint32_t level = 0;
	size_t i;

	for (i = 0; i < a->naside; i++)
		if (a->aside[i].stamp == stamp && a->aside[i].call == call &&
		    a->aside[i].level > level)
			level = a->aside[i].level;
	return (level);
}

static inline void
note_user(struct automaton *a, const struct origin *o, uint64_t call, int fn,
    uint64_t in_stage)
{
	struct journal_note *note = a->note;
	struct stats *stats = a->stats;

	STAT_SET(stats, in_stage, in_stage);
	STAT_SET(stats, in_user, 1);
	NOTE(note->call, call);
	atomic_signal_fence(memory_order_seq_cst);
	FAULT_POINT(user_call_before);
	determ_enter(o, fn);
}

/* The stack, if it is known, and as the last line what is done. */
static int
not_called(const struct aside *s, const char *where, struct err *err)
{
	size_t n = strcspn(s->death, "\n");
	const char *stack = s->death[n] == '\0' ? "" : s->death + n + 1;

	return (err_set(err, ERR_POISON, "%s%sset aside: %.*s, twice in %s",
	    stack, stack[0] == '\0' ? "" : "\n", (int)n, s->death, where));
}

static const char *
last_line(const char *text)
{
	const char *p = strrchr(text, '\n');

	return (p == NULL ? text : p + 1);
}

/* Is this the call that is not made?  Then *err says so. */
static bool
is_aside(const struct automaton *a, struct err *err)
{
	const struct aside *s = find_aside(a, a->stamp, a->call);

	if (s != NULL)
		(void)not_called(s, "this call", err);
	return (s != NULL);
}

/*
 * Around each call of user code for the record at work; -1: this call is not
 * made, ERR_POISON.  Its number was taken by the caller, in all replays the
 * same one: loading a state, which may be there already, takes none.
 */
static inline int
enter_user(struct automaton *a, const struct origin *o, int stage, int fn,
    struct err *err)
{
	if (__builtin_expect(a->naside > 0, 0) && is_aside(a, err))
		return (-1);
	note_user(a, o, NOTE_CALL(a->call, stage), fn, (uint64_t)(stage + 1));
	return (0);
}

/* The same where the stage is known as an op; fn may be another's. */
static inline int
enter_op(struct automaton *a, const struct origin *o, const struct op *op,
    int fn, struct err *err)
{
	if (__builtin_expect(a->naside > 0, 0) && is_aside(a, err))
		return (-1);
	note_user(a, o, (uint64_t)a->call << 32 | op->at, fn, op->in_stage);
	return (0);
}

static inline void
leave_user(struct automaton *a)
{
	determ_leave();
	FAULT_POINT(user_call_after);
	atomic_signal_fence(memory_order_seq_cst);
	NOTE(a->note->call, 0);
	STAT_SET(a->stats, in_user, 0);
}

/* User code that belongs to no record that could be set aside. */
static void
enter_other(struct automaton *a, const struct origin *o, int fn)
{
	STAT_SET(a->stats, in_stage, 0);
	STAT_SET(a->stats, in_user, 2);
	determ_enter(o, fn);
}

/* payload_length() is called before there is a record. */
static int
enter_framing(struct automaton *a, uint64_t pos, int fn, struct err *err)
{
	/* It is called whenever more bytes come: nothing may depend on it. */
	static const struct origin fixed = { 0, 0, 0, 0, 0 };
	const struct aside *s;

	if (a->naside > 0 && (s = find_aside(a, pos, FRAMING_CALL)) != NULL)
		return (not_called(s, "payload_length()", err));
	host_where.position = 0;
	NOTE(a->note->stamp, pos);
	note_user(a, &fixed, NOTE_CALL(FRAMING_CALL, -1), fn, 0);
	return (0);
}

/* --- route: to another worker, to a sink -------------------------------- */

/* Bytes for people. */
static void
add_bytes(struct buf *b, struct slice raw)
{
	size_t i;

	for (i = 0; i < raw.len && i < SHOWN_BYTES; i++)
		if (raw.data[i] >= 0x20 && raw.data[i] < 0x7f &&
		    raw.data[i] != '\\')
			buf_add(b, &raw.data[i], 1);
		else
			buf_addf(b, "\\x%02x", raw.data[i]);
}

/* The key of an output that is made again, to be named. */
static void __attribute__((noinline, cold))
see_key(struct automaton *a, struct slice key)
{
	buf_addf(&a->seen, a->nseen++ == 0 ? "" : ", ");
	add_bytes(&a->seen, key);
}

/*
 * An output of the entry at work, whether it leaves or has left already: a
 * replay must come to the same sum.
 */
static inline void
sum_output(struct automaton *a, uint64_t where, const struct flow *f,
    struct slice value)
{
	__extension__ unsigned __int128 both = (unsigned __int128)
	    (UINT64_C(0xe7037ed1a0b428db) ^ (a->sum + hash_bytes(value))) *
	    (UINT64_C(0x8ebc6af09c88c6e3) ^ (f->hash + where));

	/* The halves of a product depend on all bits of both factors. */
	a->sum = (uint64_t)both ^ (uint64_t)(both >> 64);
	if (a->stamp <= a->drop && a->nseen < SEEN_KEYS)
		see_key(a, f->key);
}

/* Ways to a stage of windows; see window.h. */
static uint32_t
via_exchange(const struct automaton *a, int x, uint32_t from)
{
	return ((uint32_t)x * a->workers + from);
}

static uint32_t
via_windows(const struct automaton *a, int stage)
{
	return (a->topo->nexchanges * a->workers + (uint32_t)stage);
}

/* A watermark is close to its record's time, mostly the same: one byte. */
static uint64_t
pack_distance(uint64_t watermark, uint64_t time_ns)
{
	uint64_t d = watermark - time_ns;

	return (d >> 63 ? ~(d << 1) : d << 1);
}

static uint64_t
unpack_distance(uint64_t packed, uint64_t time_ns)
{
	uint64_t d = packed >> 1;

	return (time_ns + (packed & 1 ? ~d : d));
}

#define EVENT_MAX	(7 * MP_UINT_MAX)

/* Behind a record, where event time is used. */
static uint8_t *
write_event(uint8_t *p, const struct origin *o, const struct event *ev)
{
	p = mp_write_uint(p, o->event_ns);
	p = mp_write_uint(p, ev->seen_ns);
	p = mp_write_uint(p, ev->source);
	p = mp_write_uint(p, ev->part);
	p = mp_write_uint(p, ev->seq);
	p = mp_write_uint(p, ev->sub);
	return (mp_write_uint(p, ev->width));
}

static void
add_event(struct buf *b, const struct origin *o, const struct event *ev)
{
	uint8_t *p = write_event(buf_reserve(b, EVENT_MAX), o, ev);

	b->len = (size_t)(p - b->data);
}

static void
read_event(struct mp *c, struct origin *o, struct event *ev)
{
	o->event_ns = mp_get_uint(c, UINT64_MAX);
	ev->seen_ns = mp_get_uint(c, UINT64_MAX);
	ev->source = mp_get_uint(c, UINT64_MAX);
	ev->part = mp_get_uint(c, UINT64_MAX);
	ev->seq = mp_get_uint(c, UINT64_MAX);
	ev->sub = mp_get_uint(c, UINT64_MAX);
	ev->width = mp_get_uint(c, UINT64_MAX);
}

/* How a record for another worker begins, up to its value; room for that is
 * made, too.  The number of its last byte is in t->data. */
static inline void
record_head(struct automaton *a, struct turn *t, struct slice key,
    const struct origin *o, size_t room)
{
	uint8_t *p;

	p = buf_reserve(&t->data, 5 * MP_UINT_MAX + 2 * MP_BIN_MAX +
	    key.len + room + EVENT_MAX);
	p = mp_write_uint(p, a->stamp);
	p = mp_write_uint(p, a->index);
	p = mp_write_bin(p, key.data, key.len);
	p = mp_write_uint(p, o->time_ns);
	p = mp_write_uint(p, o->id);
	p = mp_write_uint(p, pack_distance(o->watermark, o->time_ns));
	t->data.len = (size_t)(p - t->data.data);
}

/* A record for worker `to` through exchange x. */
static void
send_record(struct automaton *a, int x, uint32_t to, struct slice key,
    const struct origin *o, const struct event *ev, struct slice value)
{
	struct turn *t = &a->to_peer[(size_t)x * a->workers + to];
	size_t before;
	uint8_t *p;

	turn_begin(a, t);
	before = t->data.len;
	record_head(a, t, key, o, value.len);
	p = mp_write_bin(t->data.data + t->data.len, value.data, value.len);
	if (ev != NULL)
		p = write_event(p, o, ev);
	t->data.len = (size_t)(p - t->data.data);
	turn_added(a, t, before);
}

/* How far the records before it have come; it counts as one. */
static void
send_mark(struct automaton *a, int x, uint32_t to, const struct reach *r)
{
	struct turn *t = &a->to_peer[(size_t)x * a->workers + to];
	size_t before;
	uint8_t *p;

	turn_begin(a, t);
	before = t->data.len;
	p = buf_reserve(&t->data, 4 * MP_UINT_MAX);
	p = mp_write_uint(p, a->stamp);
	p = mp_write_uint(p, a->index | MARK_INDEX);
	p = mp_write_uint(p, r->status);
	p = mp_write_uint(p, r->watermark);
	t->data.len = (size_t)(p - t->data.data);
	turn_added(a, t, before);
}

/* The bytes in b from `before` on are one more record of this sink. */
static inline void
sink_added(struct automaton *a, struct turn *t, size_t before)
{
	uint32_t len = (uint32_t)(t->data.len - before);

	memcpy(buf_reserve(&t->lens, sizeof(len)), &len, sizeof(len));
	t->lens.len += sizeof(len);
	turn_added(a, t, before);
}

/* Bytes for the sink that this worker writes. */
static void
sink_bytes(struct automaton *a, size_t sink, struct slice bytes)
{
	struct turn *t = &a->to_sink[sink];
	size_t before;

	turn_begin(a, t);
	before = t->data.len;
	buf_add(&t->data, bytes.data, bytes.len);
	sink_added(a, t, before);
}

/* Bytes for a sink, wherever it is written. */
static void
to_sink(struct automaton *a, size_t sink, const struct origin *o,
    struct slice bytes)
{
	if (a->stamp <= a->drop)
		a->index++;
	else if (a->to_sink[sink].here)
		sink_bytes(a, sink, bytes);
	else
		send_record(a, a->topo->sinks[sink].exchange,
		    automaton_writer(a, sink), slice_of(NULL, 0), o, NULL,
		    bytes);
}

static int
check_size(struct automaton *a, size_t len, const char *what, struct err *err)
{
	if (len <= (size_t)a->conf->max_message)
		return (0);
	return (err_set(err, ERR_USER, "%s has %zu bytes, max-message is %"
	    PRId64, what, len, a->conf->max_message));
}

/* --- errors of user code ------------------------------------------------ */

static void
json_text(struct buf *b, const char *key, const char *text, size_t len)
{
	size_t i;

	buf_addf(b, ", \"%s\": \"", key);
	for (i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '"' || c == '\\')
			buf_addf(b, "\\%c", c);
		else if (c == '\n')
			buf_addf(b, "\\n");
		else if (c < 0x20 || c == 0x7f)
			buf_addf(b, "\\u%04x", c);
		else
			buf_add(b, &c, 1);
	}
	buf_addf(b, "\"");
}

/* Where a record failed: what its letter and its policy go by. */
struct spot {
	enum letter_kind	 kind;
	uint32_t		 index;
	const char		*name;
	enum topo_policy	 policy;
};

/* The record as it came to the spot: what can be put back there. */
static void
add_record(const struct automaton *a, struct buf *b, const struct spot *at,
    struct slice key, struct slice value, const struct origin *o)
{
	struct letter l = { at->kind, at->index, slice_of(at->name,
	    strlen(at->name)), key, o->time_ns, o->id, value };
	struct buf packed = { 0 };

	if (a->by_event && o->event_ns != 0)
		l.time_ns = o->event_ns;
	letter_pack(&packed, &l);
	buf_addf(b, ", \"record\": \"");
	letter_text(b, buf_slice(&packed));
	buf_addf(b, "\"");
	buf_fini(&packed);
}

/* repr() and pickling of the message: user code again, noted as the call
 * that failed, and done without where it killed as well. */
static void
add_message(struct automaton *a, struct buf *b, const struct spot *at,
    struct slice key, const void *v, const struct origin *o)
{
	struct buf shown = { 0 }, packed = { 0 };
	int stage = at->kind == LETTER_STAGE ? (int)at->index : -1;
	struct err err;
	int r;

	if (automaton_aside_level(a, a->stamp, a->call) >= ASIDE_BARE) {
		buf_addf(b, ", \"input\": \"(not shown: repr() or pickling "
		    "it killed the process, too)\"");
		return;
	}
	note_user(a, o, NOTE_CALL(a->call, stage), LETTER_FN,
	    (uint64_t)(stage + 1));
	a->host->repr(a->app, v, &shown);
	r = a->host->pack(a->app, (host_val)(uintptr_t)v, &packed, &err);
	leave_user(a);
	json_text(b, "input", (const char *)shown.data, shown.len);
	if (r == 0 && packed.len + key.len <= LETTER_VALUE)
		add_record(a, b, at, key, buf_slice(&packed), o);
	buf_fini(&shown);
	buf_fini(&packed);
}

/* Stable over replays, and over all workers and lives of the state. */
static uint64_t
letter_id(const struct automaton *a, uint64_t stamp, uint32_t call)
{
	uint64_t v[4] = { journal_lineage(a->journal), a->worker, stamp,
	    call };

	return (part_hash(slice_of(v, sizeof(v))));
}

/* v NULL: raw has the bytes. */
static void
write_letter(struct automaton *a, struct buf *b, const struct spot *at,
    struct slice key, const void *v, struct slice raw, const struct origin *o,
    const struct err *e)
{
	/* The last line of a traceback says what was raised. */
	const char *last = last_line(e->text);
	struct buf r = { 0 };

	buf_addf(b, "{\"id\": \"%016" PRIx64 "\", \"time_ns\": %" PRIu64
	    ", \"worker\": %u, \"position\": %" PRIu64
	    ", \"origin\": \"%016" PRIx64 "\"", letter_id(a, a->stamp,
	    a->call), o->time_ns, a->worker, a->stamp, o->id);
	json_text(b, "step", at->name, strlen(at->name));
	add_bytes(&r, key);
	json_text(b, "key", (const char *)r.data, r.len);
	if (v != NULL)
		add_message(a, b, at, key, v, o);
	else {
		buf_clear(&r);
		add_bytes(&r, raw);
		json_text(b, "input", (const char *)r.data, r.len);
		if (raw.data != NULL && raw.len + key.len <= LETTER_VALUE &&
		    a->call != FRAMING_CALL)
			add_record(a, b, at, key, raw, o);
	}
	json_text(b, "error", last, strlen(last));
	json_text(b, "traceback", e->text, strlen(e->text));
	buf_addf(b, "}\n");
	buf_fini(&r);
}

static void
dead_letter(struct automaton *a, const struct spot *at, struct slice key,
    const void *v, struct slice raw, const struct origin *o,
    const struct err *e)
{
	struct buf b = { 0 };

	write_letter(a, &b, at, key, v, raw, o, e);
	to_sink(a, (size_t)a->dead_sink, o, buf_slice(&b));
	buf_fini(&b);
	STAT_ADD(a->stats, dead_letters, 1);
}

/* This call is not made.  The letter waits for the entry that says so: what
 * leaves with the record's own stamp may have left before, without it. */
static void
set_aside(struct automaton *a, const struct spot *at, struct slice key,
    const void *v, struct slice raw, const struct origin *o, uint64_t stamp,
    const struct err *e)
{
	struct buf k = { 0 }, b = { 0 };
	struct aside *s;

	add_bytes(&k, key);
	log_error("record is set aside step=\"%s\" key=\"%s\" position=%"
	    PRIu64 ": %s", at->name, buf_str(&k), stamp, last_line(e->text));
	buf_fini(&k);
	write_letter(a, &b, at, key, v, raw, o, e);
	s = find_aside(a, stamp, a->call);
	buf_fini(&s->letter);
	s->letter = b;
	a->passed = true;
}

/*
 * A user function raised.  0: the record is done with (skipped, put to the
 * dead letters, or set aside); -1: the policy is to fail, or it was no user
 * error.
 */
static int
user_error(struct automaton *a, const struct spot *at, struct slice key,
    const void *v, struct slice raw, const struct origin *o, struct err *err)
{
	static const char *const names[] = { "fail", "skip", "dead-letter" };
	static struct log_rate rate;
	struct buf k = { 0 };
	int p;

	if (err->code == ERR_POISON) {
		set_aside(a, at, key, v, raw, o, a->stamp, err);
		return (0);
	}
	if (err->code != ERR_USER)
		return (-1);
	p = at->policy == POLICY_DEFAULT ? a->conf->on_error :
	    at->policy == POLICY_SKIP ? CONF_SKIP :
	    at->policy == POLICY_DEAD_LETTER ? CONF_DEAD_LETTER : CONF_FAIL;
	if (p == CONF_DEAD_LETTER && a->dead_sink < 0)
		p = CONF_FAIL;
	add_bytes(&k, key);
	STAT_ADD(a->stats, errors, 1);
	if (p == CONF_FAIL)
		err_wrap(err, "user function failed step=\"%s\" key=\"%s\" "
		    "policy=fail", at->name, buf_str(&k));
	else if (log_allowed(&rate))
		log_error("user function failed step=\"%s\" key=\"%s\" "
		    "policy=%s\n%s", at->name, buf_str(&k), names[p],
		    err->text);
	if (p == CONF_SKIP)
		STAT_ADD(a->stats, skipped, 1);
	if (p == CONF_DEAD_LETTER)
		dead_letter(a, at, key, v, raw, o, err);
	buf_fini(&k);
	return (p == CONF_FAIL ? -1 : 0);
}

static struct spot
at_stage(const struct automaton *a, int stage)
{
	const struct topo_stage *st = &a->topo->stages[stage];
	struct spot at = { LETTER_STAGE, (uint32_t)stage, st->name,
	    st->policy };

	return (at);
}

static int
stage_error(struct automaton *a, int stage, const void *v,
    const struct flow *f)
{
	struct spot at = at_stage(a, stage);

	return (user_error(a, &at, f->key, v, slice_of(NULL, 0), &f->o,
	    f->err));
}

/* --- step and state ------------------------------------------------------ */

/* Of a key that has expired there is nothing, until another message comes. */
static void
expire(struct automaton *a, int stage, struct kent *e)
{
	struct keytab *t = &a->keys[stage];

	windows_forget(&a->windows[stage], e);
	a->host->state_free(a->app, e->obj);
	e->obj = NULL;
	e->gone = true;
	t->gone++;
	a->nkeys--;
	STAT_SET(a->stats, keys, a->nkeys);
}

/* That it had expired is saved, if that is still to be done. */
static void
revive(struct automaton *a, int stage, struct kent *e)
{
	struct keytab *t = &a->keys[stage];

	if (keytab_waits(t, e))
		a->save_first(a->save_arg, (size_t)stage, e);
	e->gone = false;
	t->gone--;
	a->nkeys++;
	STAT_SET(a->stats, keys, a->nkeys);
}

void
automaton_forget(struct automaton *a, size_t stage, struct kent *e)
{
	if (e->gone)
		keytab_remove(&a->keys[stage], e);
}

/* A new state, or a saved one that is needed now; NULL: *err is set. */
static struct kent *
make_state(struct automaton *a, int stage, struct flow *f, struct kent *e)
{
	const struct topo_stage *st = &a->topo->stages[stage];
	void *obj = NULL;
	int r;

	if (enter_user(a, &f->o, stage, st->fn, f->err) == -1)
		return (NULL);
	if (e == NULL || e->gone)
		r = a->host->state_new(a->app, st->fn, &obj, f->err);
	else
		r = a->host->state_load(a->app, st->fn,
		    slice_of(e->saved, e->saved_len), &obj, f->err);
	leave_user(a);
	if (r == -1)
		return (NULL);
	if (e == NULL) {
		e = keytab_add(&a->keys[stage], f->key, f->hash);
		a->nkeys++;
		STAT_SET(a->stats, keys, a->nkeys);
	} else if (e->gone)
		revive(a, stage, e);
	e->obj = obj;
	free(e->saved);
	e->saved = NULL;
	return (e);
}

/* Of a key that may be in the file only.  -1: *err is set. */
static int
find_saved(struct automaton *a, size_t stage, struct slice key, uint64_t hash,
    struct kent **e, struct err *err)
{
	*e = NULL;
	if (a->load_key(a->load_arg, stage, key, err) == -1)
		return (-1);
	*e = keytab_find(&a->keys[stage], key, hash);
	return (0);
}

/* The key's, which is there afterwards; NULL: *err is set. */
static inline __attribute__((always_inline)) struct kent *
state_of(struct automaton *a, const struct op *op, struct flow *f)
{
	struct keytab *t = op->keys;
	struct kent *e = keytab_find(t, f->key, f->hash);

	if (e == NULL && __builtin_expect(t->partial, 0) && find_saved(a,
	    (size_t)op->stage, f->key, f->hash, &e, f->err) == -1)
		return (NULL);
	if ((e == NULL || e->obj == NULL) &&
	    (e = make_state(a, op->stage, f, e)) == NULL)
		return (NULL);
	if (e->round == t->round)
		return (e);
	if (keytab_waits(t, e) && !planted("RULE8D"))
		a->save_first(a->save_arg, (size_t)op->stage, e);
	keytab_touch(t, e);
	return (e);
}

/* Call the function of a STEP or STATE stage. */
static inline int
call(struct automaton *a, const struct op *op, host_val v, struct flow *f,
    struct host_out *out)
{
	struct kent *e;
	void *obj = NULL;
	int r;

	a->call++;
	a->steps |= op->bit;
	host_where.key = f->key;
	if (op->kind == STAGE_STATE) {
		if ((e = state_of(a, op, f)) == NULL)
			return (-1);
		obj = e->obj;
		if (__builtin_expect(op->ends, 0))
			windows_state(&a->windows[op->stage], e);
	}
	if (enter_op(a, &f->o, op, op->fn, f->err) == -1)
		return (-1);
	r = a->host->step(a->app, op->fn, op->multi, obj, v, out, f->err);
	leave_user(a);
	return (r);
}

static void
free_outputs(struct automaton *a, struct host_out *out, size_t from)
{
	size_t i;

	for (i = from; i < out->n; i++)
		a->host->val_free(a->app, out->val[i]);
	out->n = 0;
}

/*
 * Each output of a multi computation goes down the pipeline in turn: all but
 * the last one here.  That is left, and *f is its.  -1: all are gone.
 */
static int
run_outputs(struct automaton *a, const struct op *op, struct host_out *out,
    struct flow *f)
{
	size_t i, n = out->n;
	struct flow child;

	for (i = 0; i + 1 < n; i++) {
		child = *f;
		child.depth++;
		event_child(a, f->depth, i, n);
		child.o.id = determ_child(&f->o, op->fn, i);
		if (run(a, op->next, out->val[i], &child) == -1) {
			free_outputs(a, out, i + 1);
			return (-1);
		}
	}
	event_child(a, f->depth, i, n);
	f->depth++;
	f->o.id = determ_child(&f->o, op->fn, i);
	return (0);
}

/* --- encode and sinks ---------------------------------------------------- */

static int
sink_error(struct automaton *a, size_t i, const void *v,
    const struct flow *f)
{
	const struct topo_sink *s = &a->topo->sinks[i];
	struct spot at = { LETTER_SINK, (uint32_t)i, s->name, s->policy };

	return (user_error(a, &at, f->key, v, slice_of(NULL, 0), &f->o,
	    f->err));
}

/* What leaves from here is made where it leaves from. */
static inline int __attribute__((always_inline))
run_sink(struct automaton *a, size_t i, const struct op *op, host_val v,
    struct flow *f)
{
	struct turn *t = &a->to_sink[i];
	bool leaves = a->stamp > a->drop, none = false;
	struct buf *b = &a->scratch;
	struct slice bytes;
	size_t before = 0;
	int r;

	a->call++;
	if (leaves && t->here) {
		turn_begin(a, t);
		b = &t->data;
		before = b->len;
	} else
		buf_clear(b);
	r = enter_op(a, &f->o, op, t->fn, f->err);
	if (r == 0) {
		r = a->host->encode(a->app, t->fn, v, b, &none, f->err);
		leave_user(a);
	}
	bytes = slice_of(b->data + before, b->len - before);
	if (r == 0 && !none)
		r = check_size(a, bytes.len, "an output", f->err);
	if (r == -1 || none) {
		b->len = before;
		return (r == -1 ? sink_error(a, i, v, f) : 0);
	}
	sum_output(a, i, f, bytes);
	if (leaves)
		STAT_ADD(a->stats, records_out, 1);
	if (b == &t->data)
		sink_added(a, t, before);
	else
		to_sink(a, i, &f->o, bytes);
	return (0);
}

/* Takes v. */
static int __attribute__((noinline))
run_sinks(struct automaton *a, const struct op *op, host_val v,
    struct flow *f)
{
	size_t i;
	int r = 0;

	host_where.key = f->key;
	/* Those of late messages and of dead letters are behind these. */
	for (i = 0; i < a->live_sinks && r == 0; i++)
		r = run_sink(a, i, op, v, f);
	a->host->val_free(a->app, v);
	return (r);
}

/*
 * One byte string that is what b has from `at` + 2 on: the head goes in front,
 * and that mostly fits.
 */
static struct slice
close_bin(struct buf *b, size_t at)
{
	uint8_t head[MP_BIN_MAX], *p;
	size_t n, len = b->len - at - 2;

	n = (size_t)(mp_write_head(head, len) - head);
	if (n > 2) {
		(void)buf_reserve(b, n - 2);
		p = b->data + at + 2;
		memmove(p + n - 2, p, len);
		b->len += n - 2;
	}
	memcpy(b->data + at, head, n);
	return (slice_of(b->data + at + n, len));
}

/* The message as bytes at the end of b; -1: b is as it was. */
static inline int
hop_pack(struct automaton *a, const struct op *op, host_val v, struct buf *b,
    struct flow *f)
{
	size_t before = b->len;
	int r;

	r = enter_op(a, &f->o, op, op->fn, f->err);
	if (r == 0) {
		r = a->host->pack(a->app, v, b, f->err);
		leave_user(a);
	}
	if (r == 0)
		r = check_size(a, b->len - before + f->key.len, "a message",
		    f->err);
	return (r);
}

/* Takes v: it goes to another worker. */
static int
hop(struct automaton *a, const struct op *op, uint32_t to, host_val v,
    struct flow *f)
{
	uint64_t where = (uint64_t)(uint32_t)op->exchange << 32 | to;
	struct turn *t = &a->to_peer[(size_t)op->exchange * a->workers + to];
	bool leaves = a->stamp > a->drop;
	struct buf *b = leaves ? &t->data : &a->scratch;
	size_t before, at;
	int r;

	a->call++;
	if (leaves) {
		turn_begin(a, t);
		before = at = b->len;
		record_head(a, t, f->key, &f->o, 0);
		at = b->len;
		b->len += 2;		/* of the value's head */
	} else {
		buf_clear(b);
		before = at = 0;
	}
	r = hop_pack(a, op, v, b, f);
	if (r == -1) {
		b->len = before;
		r = stage_error(a, op->stage, v, f);
		a->host->val_free(a->app, v);
		return (r);
	}
	a->host->val_free(a->app, v);
	if (leaves) {
		sum_output(a, where, f, close_bin(b, at));
		if (a->by_event)
			add_event(b, &f->o, &a->event[f->depth]);
		turn_added(a, t, before);
	} else {			/* has left already */
		sum_output(a, where, f, buf_slice(b));
		a->index++;
	}
	return (0);
}

/* --- keys ----------------------------------------------------------------- */

/* Call the function of a stage that gives bytes: into the one of two buffers
 * that does not have the key before, which a letter may need. */
static inline int
call_key(struct automaton *a, const struct op *op, host_val v, struct flow *f,
    struct buf **b)
{
	int r;

	a->call++;
	*b = &a->keybuf[f->depth][a->keyturn[f->depth]];
	buf_clear(*b);
	host_where.key = f->key;
	if (enter_op(a, &f->o, op, op->fn, f->err) == -1)
		return (-1);
	r = a->host->key(a->app, op->fn, v, *b, f->err);
	leave_user(a);
	return (r);
}

static inline int
new_key(struct automaton *a, const struct op *op, host_val v, struct flow *f)
{
	const char *name;
	struct buf *b;
	int r;

	if (op->kind == STAGE_COLLECT) {
		name = a->topo->stages[op->stage].name;
		set_key(f, slice_of(name, strlen(name)));
		return (0);
	}
	r = call_key(a, op, v, f, &b);
	if (r == 0)
		r = check_size(a, b->len, "a key", f->err);
	if (r == -1)
		return (-1);
	a->keyturn[f->depth] ^= 1;
	set_key(f, buf_slice(b));
	return (0);
}

/* --- event time ----------------------------------------------------------- */

/* FNV-1a: an order of keys that Python can compute, too. */
static uint64_t
key_order(struct slice key)
{
	uint64_t h = 0xcbf29ce484222325;
	size_t i;

	for (i = 0; i < key.len; i++)
		h = (h ^ key.data[i]) * 0x100000001b3;
	return (h);
}

/* The function gives 8 bytes, as if it were a key. */
static int
take_time(struct automaton *a, const struct op *op, host_val v,
    struct flow *f)
{
	struct buf *b;
	uint64_t t;

	if (call_key(a, op, v, f, &b) == -1)
		return (-1);
	if (b->len != sizeof(t))
		return (err_set(f->err, ERR_USER, "an event time has %zu "
		    "bytes", b->len));
	memcpy(&t, b->data, sizeof(t));
	f->o.event_ns = be64toh(t);
	if (a->part != NULL)
		a->event[f->depth].seen_ns = progress_event(a, op->stage,
		    a->part, f->o.event_ns, a->now_ns);
	return (0);
}

/* --- windows -------------------------------------------------------------- */

/* What a window that fails needs to say so. */
struct failing {
	struct automaton	*a;
	int			 stage;
	host_val		 v;
	struct flow		*f;
};

/* Each with a number of its own, by which its letter is known. */
static int
window_failed(void *arg, struct err *err)
{
	const struct failing *w = arg;
	const void *of = w->a->win[w->f->depth].of;

	assert(err == w->f->err);
	w->a->call++;
	return (stage_error(w->a, w->stage, of == NULL ? w->v : of, w->f));
}

/* Output i of a window has a place of its own among those of all keys; one of
 * a late message has the message's. */
static void
event_of_window(struct automaton *a, int stage, const struct flow *f,
    struct flow *child, size_t i)
{
	struct event *ev = &a->event[child->depth];
	const struct windows *w = &a->windows[stage];
	uint64_t t = child->o.time_ns;

	child->o.time_ns = f->o.time_ns;
	child->o.event_ns = t;
	*ev = a->event[f->depth];
	if (w->stage->by_event && ev->seen_ns != 0)
		return;
	if (w->stage->kind == STAGE_STATE)	/* what comes at the end */
		t = LAST_TIME;
	else if (w->stage->kind == STAGE_TIMED && !w->stage->by_event)
		t = w->in.status == REACH_ENDED ? LAST_TIME :
		    w->in.watermark;
	/* Of a count window, it is not late because its messages were. */
	else if (!w->stage->by_event && t < w->in.watermark &&
	    w->in.status != REACH_ENDED)
		t = w->in.watermark;
	child->o.event_ns = t;
	ev->seen_ns = 0;
	ev->source = a->topo->nsources + (uint32_t)stage;
	ev->part = key_order(child->key);
	ev->seq = t;
	ev->sub = i;
	ev->width = 1;
}

/*
 * Each output has its window's time; only the last one carries the stage's
 * new watermark, so that none comes late because of another.
 */
static int
run_fired(struct automaton *a, int stage, const struct flow *f)
{
	const struct topo_stage *st = &a->topo->stages[stage];
	struct windows *w = &a->windows[stage];
	struct host_out *out = &a->out[f->depth];
	struct host_window *win = &a->win[f->depth];
	uint64_t old = w->forwarded;
	struct flow child;
	size_t i, n = out->n;

	if (win->newest_ns > w->forwarded)
		w->forwarded = win->newest_ns;
	for (i = 0; i < n; i++) {
		child = *f;
		child.depth++;
		child.o.id = determ_child(&f->o, st->fn, i);
		child.o.time_ns = win->time_ns[i];
		child.o.watermark = i + 1 == n ? w->forwarded : old;
		child.o.via = via_windows(a, stage);
		/* What timers give is made now. */
		if (st->kind == STAGE_TIMED && !st->by_event)
			child.o.time_ns = child.o.watermark = f->o.time_ns;
		if (a->by_event)
			event_of_window(a, stage, f, &child, i);
		if (run(a, &a->ops[st->next], out->val[i], &child) == -1) {
			free_outputs(a, out, i + 1);
			return (-1);
		}
	}
	out->n = 0;
	return (0);
}

/* What a message gives at once goes on in its place. */
static int
run_passed(struct automaton *a, int stage, const struct flow *f)
{
	const struct op *op = &a->ops[stage];
	struct host_out *out = &a->out[f->depth];
	size_t i, n = out->n;
	struct flow child;

	for (i = 0; i < n; i++) {
		child = *f;
		child.depth++;
		event_child(a, f->depth, i, n);
		child.o.id = determ_child(&f->o, op->fn, i);
		if (run(a, op->next, out->val[i], &child) == -1) {
			free_outputs(a, out, i + 1);
			return (-1);
		}
	}
	out->n = 0;
	return (0);
}

/* Of what a key does without a message. */
static int
fn_of_dues(const struct topo_stage *st)
{
	return (st->kind == STAGE_STATE ? st->on_end - 1 : st->fn);
}

/* Before fire(); NULL with ERR_POISON: this call is not made. */
static struct kent *
enter_windows(struct automaton *a, int stage, struct flow *f)
{
	struct kent *e;

	a->call++;
	a->steps |= 1ULL << (stage & 63);
	host_where.key = f->key;
	e = state_of(a, &a->ops[stage], f);
	if (e != NULL && enter_user(a, &f->o, stage,
	    fn_of_dues(&a->topo->stages[stage]), f->err) == -1)
		return (NULL);
	return (e);
}

/* What time it is for them. */
static uint64_t
time_for(const struct automaton *a, const struct topo_stage *st,
    const void *v, const struct origin *o)
{
	bool by_event = a->by_event;

	if (st->kind == STAGE_TIMED)
		by_event = v == NULL || st->by_event;
	return (by_event ? o->event_ns : o->time_ns);
}

/* A message is too late for all its windows. */
static int
run_late(struct automaton *a, int stage, struct kent *e, host_val v,
    struct flow *f)
{
	int sink = a->topo->stages[stage].late - 1;

	STAT_ADD(a->stats, late, 1);
	if (e->window == NULL)			/* it was made for this */
		expire(a, stage, e);
	return (sink < 0 ? 0 : run_sink(a, (size_t)sink, &a->ops[stage], v,
	    f));
}

/* Give the windows of a key a message, or NULL for a timeout. */
static int
fire(struct automaton *a, int stage, struct kent *e, host_val v,
    uint64_t watermark, struct flow *f)
{
	const struct topo_stage *st = &a->topo->stages[stage];
	struct failing failing = { a, stage, v, f };
	struct host_out *out = &a->out[f->depth];
	struct host_window *win = &a->win[f->depth];
	int r;

	out->n = 0;
	f->key = slice_of(e->key, e->key_len);	/* the same, and it stays */
	win->event = st->by_event ? &a->event[f->depth] : NULL;
	win->late = win->rests = win->gone = false;
	win->of = NULL;
	r = a->host->window(a->app, fn_of_dues(st), e->obj, f->key, v,
	    time_for(a, st, v, &f->o), watermark, out, win, window_failed,
	    &failing, f->err);
	leave_user(a);
	if (r == -1) {
		free_outputs(a, out, 0);
		return (-1);
	}
	if (win->late)
		return (run_late(a, stage, e, v, f));
	if (win->same && st->kind == STAGE_TIMED)
		return (0);
	if (win->same) {
		windows_open(&a->windows[stage], e, a->now_ns);
		return (0);
	}
	if (v == NULL && !win->gone && planted("TIME1"))
		e->round = 0;		/* nobody has touched it */
	if (st->kind == STAGE_STATE)
		windows_had_end(&a->windows[stage], e);
	else if (win->gone)
		expire(a, stage, e);
	else
		windows_note(&a->windows[stage], e, win->due, win->rests ?
		    WAIT_REST : win->open ? WAIT_OPEN : WAIT_IDLE, a->now_ns);
	return (st->kind == STAGE_TIMED && v != NULL ?
	    run_passed(a, stage, f) : run_fired(a, stage, f));
}

/* A message comes to windows; v stays the caller's. */
static int
run_windows(struct automaton *a, int stage, host_val v, struct flow *f)
{
	struct windows *w = &a->windows[stage];
	uint64_t watermark, seen = a->event[f->depth].seen_ns;
	struct kent *e;

	if (w->stage->by_event || w->stage->kind == STAGE_TIMED)
		watermark = seen > w->watermark ? seen : w->watermark;
	else
		watermark = windows_hear(w, f->o.via, f->o.watermark,
		    a->now_ns);
	/* Its source may have been silent again when that was looked at, and
	 * say nothing more: what waits goes on with the next tick. */
	if (w->in.status == REACH_IDLE)
		a->progress.dirty = true;
	if ((e = enter_windows(a, stage, f)) == NULL)
		return (stage_error(a, stage, v, f));
	return (fire(a, stage, e, v, watermark, f));
}

/* --- the pipeline: one message from stage s to where it leaves ---------- */

/* Takes v. */
static int
run_failed(struct automaton *a, const struct op *op, host_val v,
    struct flow *f)
{
	int r = stage_error(a, op->stage, v, f);

	a->host->val_free(a->app, v);
	return (r);
}

/* Takes v; *f is this message's alone. */
static int
run(struct automaton *a, const struct op *op, host_val v, struct flow *f)
{
	struct host_out *out = &a->out[f->depth];
	uint32_t owner;
	int r;

	for (;; op = op->next)
		if (op->kind <= STAGE_STATE) {
			out->n = 0;
			if (call(a, op, v, f, out) == -1) {
				free_outputs(a, out, 0);
				return (run_failed(a, op, v, f));
			}
			a->host->val_free(a->app, v);
			if (out->n == 0)
				return (0);
			if (op->multi && run_outputs(a, op, out, f) == -1)
				return (-1);
			v = out->val[out->n - 1];
			out->n = 0;
			out = &a->out[f->depth];
		} else if (op->kind <= STAGE_EXCHANGE) {
			if (op->kind != STAGE_EXCHANGE &&
			    new_key(a, op, v, f) == -1)
				return (run_failed(a, op, v, f));
			if (op->exchange < 0)
				continue;
			owner = a->workers == 1 ? 0 :
			    a->table[part_of(f->hash, a->bits)];
			if (owner != a->worker)
				return (hop(a, op, owner, v, f));
			f->o.via = via_exchange(a, op->exchange, a->worker);
		} else if (op->kind == STAGE_SINKS)
			return (run_sinks(a, op, v, f));
		else if (op->kind == STAGE_EVENT_TIME) {
			if (take_time(a, op, v, f) == -1)
				return (run_failed(a, op, v, f));
		} else {
			r = run_windows(a, op->stage, v, f);
			a->host->val_free(a->app, v);
			return (r);
		}
}

/* --- decode: bytes of a source to records -------------------------------- */

/* Of what a source gives on one of its ways; different for each offset. */
static inline uint64_t
origin_base(uint64_t source, uint64_t channel)
{
	return (determ_mix(channel + determ_mix(source + 1)));
}

static inline uint64_t
origin_id(uint64_t base, uint64_t off)
{
	return (determ_mix(base + UINT64_C(0x9e3779b97f4a7c15) * off));
}

/* A record that a source gives: its watermark is its time, since the times
 * of a journal never go back. */
static struct origin
source_origin(const struct entry *e, uint64_t id)
{
	struct origin o = { e->time_ns, id, e->time_ns, UINT32_MAX, 0 };

	return (o);
}

static int
source_error(struct automaton *a, uint32_t s, struct slice key,
    struct slice payload, const struct origin *o, struct err *err)
{
	const struct topo_source *src = &a->topo->sources[s];
	struct spot at = { LETTER_SOURCE, s, src->name, POLICY_DEFAULT };

	return (user_error(a, &at, key, NULL, payload, o, err));
}

/* One whole payload of source s, which is src, with the key that it has there
 * and that key's hash; f->o and f->err are set. */
static inline int __attribute__((always_inline))
record_of(struct automaton *a, uint32_t s, const struct topo_source *src,
    struct slice key, uint64_t hash,
    struct slice payload, struct flow *f)
{
	host_val v = NULL;
	int r;

	STAT_ADD(a->stats, records_in, 1);
	a->call++;
	r = enter_user(a, &f->o, -1, src->fn, f->err);
	if (r == 0) {
		r = a->host->decode(a->app, src->fn, payload, &v, f->err);
		leave_user(a);
	}
	if (r == -1)
		return (source_error(a, s, key, payload, &f->o, f->err));
	if (v == NULL)
		return (0);
	f->key = key;
	f->hash = hash;
	f->depth = 0;
	return (run(a, &a->ops[src->next], v, f));
}

static int
record(struct automaton *a, uint32_t s, struct slice key,
    struct slice payload, struct flow *f)
{
	return (record_of(a, s, &a->topo->sources[s], key, hash_bytes(key),
	    payload, f));
}

static uint64_t
header_value(const struct topo_source *src, const uint8_t *p)
{
	uint64_t v = 0;
	uint32_t i, n = src->header_length;

	for (i = 0; i < n; i++)
		v = v << 8 | p[src->header_big ? i : n - 1 - i];
	if (src->header_signed && n < 8 && (v >> (n * 8 - 1)) != 0)
		return (UINT64_MAX);		/* negative: too large */
	return (v);
}

/* What is at the head of some bytes of a source. */
struct cut {
	size_t	skip;		/* payload begins here */
	size_t	len;		/* payload */
	size_t	total;		/* bytes to take; 0: incomplete ... */
	size_t	want;		/* ... and these more would tell more */
};

/* Without a \r at the end, which may be of the end of line. */
static size_t
line_len(struct slice s)
{
	return (s.len > 0 && s.data[s.len - 1] == '\r' ? s.len - 1 : s.len);
}

/* No newline is among the first `known` bytes. */
static inline int
cut_line(const struct topo_source *src, struct slice s, size_t known,
    struct cut *c, const char **why)
{
	const uint8_t *nl = s.len > known ?
	    memchr(s.data + known, '\n', s.len - known) : NULL;

	*why = "line too long";
	c->skip = 0;
	if (nl == NULL) {
		c->total = 0;
		c->want = SIZE_MAX;
		return (line_len(s) > src->max_size ? -1 : 0);
	}
	c->total = (size_t)(nl - s.data) + 1;
	c->len = line_len(slice_of(s.data, c->total - 1));
	return (c->len > src->max_size ? -1 : 0);
}

static int
cut_frame(struct automaton *a, const struct topo_source *src, struct slice s,
    uint64_t pos, struct cut *c, const char **why, struct err *err)
{
	uint64_t len;
	int r;

	memset(c, 0, sizeof(*c));
	if (s.len < src->header_length) {
		c->want = src->header_length - s.len;
		return (0);
	}
	if (src->framing == FRAMING_CUSTOM) {
		*why = "payload_length() failed";
		if (enter_framing(a, pos, src->fn, err) == -1)
			return (-1);
		r = a->host->frame_len(a->app, src->fn,
		    slice_of(s.data, src->header_length), &len, err);
		leave_user(a);
		if (r == -1)
			return (-1);
	} else
		len = header_value(src, s.data);
	if (len > src->max_size) {
		*why = "frame larger than max_size";
		return (-1);
	}
	c->skip = src->header_length;
	c->len = (size_t)len;
	if (s.len < c->skip + c->len)
		c->want = c->skip + c->len - s.len;
	else
		c->total = c->skip + c->len;
	return (0);
}

/* -1: no record can begin like this (*why says so). */
static inline int
cut_record(struct automaton *a, const struct topo_source *src, struct slice s,
    uint64_t pos, size_t known, struct cut *c, const char **why,
    struct err *err)
{
	return (src->framing == FRAMING_LINES ? cut_line(src, s, known, c,
	    why) : cut_frame(a, src, s, pos, c, why, err));
}

/* The bytes of a source in entry e. */
struct intake {
	const struct entry	*e;
	const struct topo_source *src;	/* NULL: there are none to take */
	uint32_t		 source;
	uint64_t		 channel;	/* 0: a file */
	uint64_t		 base;	/* of its records' ids */
	struct buf		*rem;	/* what came before them */
	struct part		*part;	/* whose watermark is theirs */
	uint64_t		*off;	/* how far it is taken */
	struct in_conn		*conn;	/* or NULL */
	bool			 lines;
	size_t			 from;	/* go on here */
	/* What take_record has to say. */
	size_t			 taken;	/* bytes of the entry */
	bool			 had;	/* a record was processed */
	const char		*why;	/* it is garbage */
};

static struct in_conn *
find_conn(struct automaton *a, uint64_t id)
{
	struct in_conn *c;

	HASH_FIND(hh, a->conns, &id, sizeof(id), c);
	return (c);
}

/* The worker has something to say to this connector. */
static void
note_talk(struct automaton *a, struct in_conn *c)
{
	if (!c->talks)
		buf_add(&a->talk, &c->id, sizeof(c->id));
	c->talks = true;
}

/*
 * A frame of the connector protocol.  The first one of a connection is its
 * HELLO, or it has no second: so nothing but the offset need be remembered.
 * What speaks of a stream and a message does not depend on the connection.
 */
static int
take_frame(struct automaton *a, struct intake *in, struct slice frame,
    struct err *err)
{
	static char why[sizeof(((struct session *)0)->why)];
	const struct topo_source *src = &a->topo->sources[in->source];
	struct in_source *s = &a->sources[in->source];
	const struct entry *e = in->e;
	struct in_conn *c = in->conn;
	uint64_t end = e->off + in->from + in->taken;
	struct session x = { .src = src, .streams = &s->streams,
	    .conn = c->id, .reply = &c->reply,
	    .most = (uint64_t)a->conf->connector_streams,
	    .greeted = end > frame.len + src->header_length };
	enum session_verdict verdict = session_frame(&x, frame);
	struct flow f;

	c->frames++;
	note_talk(a, c);
	s->off += x.news;
	if (verdict == SESSION_GO_ON)
		return (0);
	if (verdict == SESSION_END) {
		memcpy(why, x.why, sizeof(why));
		in->why = why;
		err->code = ERR_NONE;
		return (-1);
	}
	event_begin(a, in->source, x.stream, x.id, &s->part);
	f.o = source_origin(e, origin_id(origin_base(in->source, x.stream),
	    x.id));
	f.err = err;
	return (record(a, in->source, x.key, x.body, &f));
}

/* The next tick says so. */
static void
source_ended(struct automaton *a)
{
	a->progress.dirty = a->progress.urgent = true;
}

/* A key that no other record has, for one that came without. */
static struct slice
lone_key(const struct kafka_record *r)
{
	static char text[OFFSETS_TOPIC + 64];
	int n = snprintf(text, sizeof(text), "%.*s-%" PRId32 "-%" PRId64,
	    (int)r->topic.len, (const char *)r->topic.data, r->partition,
	    r->offset);

	return (slice_of(text, (size_t)n));
}

/* What the journal has of a source in Kafka. */
static int
take_kafka(struct automaton *a, struct intake *in, struct slice frame,
    struct err *err)
{
	struct in_source *s = &a->sources[in->source];
	const struct entry *e = in->e;
	struct kafka_record r;
	struct offset *o;
	uint64_t channel;
	struct flow f;

	if (!kafka_record_get(&r, frame) ||
	    (o = offsets_take(&s->offsets, &r, e->time_ns)) == NULL) {
		in->had = false;
		in->why = "no record of Kafka that can come next";
		err->code = ERR_NONE;
		return (-1);
	}
	if (r.kind != KAFKA_RECORD) {
		/* After the end of a finite run there may be another one. */
		s->ended = s->ended && r.kind == KAFKA_MOVED;
		a->progress.dirty |= a->by_event;
		return (0);
	}
	channel = part_hash(r.topic) + (uint64_t)r.partition;
	event_begin(a, in->source, channel, (uint64_t)r.offset, &o->part);
	f.o = source_origin(e, origin_id(origin_base(in->source, channel),
	    (uint64_t)r.offset));
	f.err = err;
	return (record(a, in->source, r.has_key ? r.key : lone_key(&r),
	    in->src->whole ? r.whole : r.value, &f));
}

/* The record that ends where in->taken says. */
static inline int
take_payload(struct automaton *a, struct intake *in, struct slice payload,
    struct err *err)
{
	const struct topo_source *src = &a->topo->sources[in->source];
	const struct entry *e = in->e;
	uint64_t end = in->from + in->taken;
	struct flow f;

	in->had = true;
	begin_record(a, e->pos + ENTRY_HEADER + end);
	if (src->framing == FRAMING_CONNECTOR)
		return (take_frame(a, in, payload, err));
	if (src->framing == FRAMING_KAFKA)
		return (take_kafka(a, in, payload, err));
	event_begin(a, in->source, in->channel, e->off + end, in->part);
	f.o = source_origin(e, origin_id(in->base, e->off + end));
	f.err = err;
	return (record(a, in->source, slice_of(src->key, src->key_len),
	    payload, &f));
}

/* As take_record, where in->rem has the beginning. */
static int
take_joined(struct automaton *a, struct intake *in, struct err *err)
{
	const struct topo_source *src = in->src;
	const uint8_t *data = in->e->data + in->from, *nl;
	size_t n, known = 0, len = in->e->len - in->from;
	struct buf *rem = in->rem;
	struct cut c;
	int r;

	for (;;) {
		if (cut_record(a, src, buf_slice(rem), in->e->pos +
		    ENTRY_HEADER + in->from, known, &c, &in->why, err) == -1)
			return (-1);
		if (c.total != 0)
			break;
		if (in->taken == len)
			return (0);
		known = rem->len;
		n = len - in->taken;
		if (src->framing == FRAMING_LINES) {
			nl = memchr(data + in->taken, '\n', n);
			if (nl != NULL)
				n = (size_t)(nl - data) - in->taken + 1;
		} else if (c.want < n)
			n = c.want;
		buf_add(rem, data + in->taken, n);
		in->taken += n;
	}
	r = take_payload(a, in, slice_of(rem->data + c.skip, c.len), err);
	if (r == 0)
		buf_clear(rem);
	return (r);
}

/*
 * Take one record from what is left of an entry, with what is in rem before
 * it.  -1 with err->code ERR_NONE: the stream is garbage.
 */
static inline int
take_record(struct automaton *a, struct intake *in, struct err *err)
{
	const struct topo_source *src = in->src;
	struct slice data = slice_of(in->e->data + in->from,
	    in->e->len - in->from);
	struct cut c;

	in->taken = 0;
	in->had = false;
	err->code = ERR_NONE;
	if (in->rem->len > 0)
		return (take_joined(a, in, err));
	/* The usual case: in place. */
	if (cut_record(a, src, data, in->e->pos + ENTRY_HEADER + in->from, 0,
	    &c, &in->why, err) == -1)
		return (-1);
	if (c.total == 0) {			/* the rest is kept */
		buf_add(in->rem, data.data, data.len);
		in->taken = data.len;
		return (0);
	}
	in->taken = c.total;
	return (take_payload(a, in, slice_of(data.data + c.skip, c.len),
	    err));
}

/* --- entries --------------------------------------------------------------
 * Each takes what is left of entry e from offset `from` on and says in *used
 * how far it came: one record, or to the entry's end.
 */

static void
stream_garbage(struct automaton *a, struct in_conn *c, const char *why)
{
	static struct log_rate rate;

	c->bad = true;
	progress_part_over(a, c->source, &c->part);
	buf_fini(&c->rem);
	streams_release(&a->sources[c->source].streams, c->id);
	buf_add(&a->garbage, &c->id, sizeof(c->id));
	if (log_allowed(&rate))
		log_warn("client sent garbage, closing its connection "
		    "source=\"%s\" connection=%" PRIu64 " offset=%" PRIu64
		    " why=\"%s\"", a->topo->sources[c->source].name, c->id,
		    c->off, why);
}

/* payload_length() killed: without it there are no records any more. */
static void
framing_aside(struct automaton *a, uint32_t s, const struct buf *rem,
    const struct entry *e, size_t from, const struct err *err)
{
	const struct topo_source *src = &a->topo->sources[s];
	struct spot at = { LETTER_SOURCE, s, src->name, POLICY_DEFAULT };
	struct origin o = { e->time_ns, e->channel, 0, 0, 0 };

	a->call = FRAMING_CALL;
	set_aside(a, &at, slice_of(src->key, src->key_len), NULL,
	    rem->len > 0 ? buf_slice(rem) : slice_of(e->data + from,
	    e->len - from), &o, e->pos + ENTRY_HEADER + from, err);
}

/* Is there anything to be taken from entry e, and for whom? */
static void
intake_begin(struct automaton *a, struct intake *in, const struct entry *e)
{
	struct in_conn *c;

	memset(in, 0, sizeof(*in));
	in->e = e;
	if (e->type == ENTRY_FILE) {
		in->source = (uint32_t)e->channel;
		in->rem = &a->sources[in->source].rem;
		in->part = &a->sources[in->source].part;
		in->off = &a->sources[in->source].off;
		in->base = origin_base(in->source, 0);
	} else if (e->type == ENTRY_BYTES && (c = find_conn(a, e->channel)) !=
	    NULL && !c->bad && !c->eof) {
		in->source = c->source;
		in->channel = e->channel;
		in->rem = &c->rem;
		in->part = &c->part;
		in->off = &c->off;
		in->conn = c;
		in->base = origin_base(in->source, e->channel);
	} else
		return;
	in->src = &a->topo->sources[in->source];
	in->lines = in->src->framing == FRAMING_LINES;
}

/* No record can be taken any more, or the one that was has failed. */
static int
conn_failed(struct automaton *a, const struct intake *in, struct err *err)
{
	struct in_conn *c = in->conn;

	if (in->had && err->code != ERR_NONE)
		return (-1);
	if (err->code == ERR_USER)
		log_error("%s", err->text);
	if (err->code == ERR_POISON)
		framing_aside(a, c->source, &c->rem, in->e, in->from, err);
	if (!in->had && in->src->framing == FRAMING_CONNECTOR) {
		session_refuse(&c->reply, in->why);
		note_talk(a, c);
	}
	stream_garbage(a, c, in->why);
	return (0);
}

static int
file_failed(const struct intake *in, struct err *err)
{
	uint64_t at = in->e->off + in->from;

	if (err->code == ERR_NONE)
		return (err_set(err, ERR_CONFIG, "source \"%s\": %s at byte %"
		    PRIu64, in->src->name, in->why, at));
	if (in->had)
		return (-1);
	return (err_wrap(err, "source \"%s\": %s at byte %" PRIu64,
	    in->src->name, in->why, at));
}

static inline int
on_stream(struct automaton *a, struct intake *in, size_t from, size_t *used,
    struct err *err)
{
	in->from = from;
	if (take_record(a, in, err) == -1) {
		*used = in->e->len;
		return (in->conn != NULL ? conn_failed(a, in, err) :
		    file_failed(in, err));
	}
	*used = from + in->taken;
	*in->off = in->e->off + *used;
	return (0);
}

/* A stream has ended: a last line without its newline is a line. */
static int
on_eof(struct automaton *a, struct entry *e, struct err *err)
{
	struct in_conn *c = NULL;
	struct flow f;
	struct buf *rem;
	uint32_t s;
	int r = 0;

	if (e->flags & ENTRY_SOURCE) {
		s = (uint32_t)e->channel;
		rem = &a->sources[s].rem;
	} else {
		if ((c = find_conn(a, e->channel)) == NULL || c->eof)
			return (0);
		s = c->source;
		rem = &c->rem;
	}
	if (rem->len > 0 && !(c != NULL && c->bad)) {
		if (a->topo->sources[s].framing == FRAMING_LINES &&
		    !(e->flags & ENTRY_RESET)) {
			begin_record(a, e->pos + ENTRY_HEADER + 1);
			event_begin(a, s, c == NULL ? 0 : e->channel, e->off,
			    c == NULL ? &a->sources[s].part : &c->part);
			f.o = source_origin(e, origin_id(origin_base(s,
			    c == NULL ? 0 : e->channel), e->off));
			f.err = err;
			r = record(a, s, slice_of(a->topo->sources[s].key,
			    a->topo->sources[s].key_len), slice_of(rem->data,
			    line_len(buf_slice(rem))), &f);
		} else
			log_warn("stream ended inside a record "
			    "source=\"%s\" connection=%" PRIu64 " bytes=%zu",
			    a->topo->sources[s].name,
			    c == NULL ? 0 : e->channel, rem->len);
	}
	if (r == -1)
		return (-1);
	buf_fini(rem);
	if (c != NULL) {
		if (!c->bad)
			progress_part_over(a, s, &c->part);
		c->eof = true;
		streams_release(&a->sources[s].streams, c->id);
	} else {
		a->sources[s].ended = true;
		source_ended(a);
	}
	return (0);
}

static void
on_open(struct automaton *a, struct entry *e)
{
	struct in_conn *c;

	if (find_conn(a, e->channel) != NULL || e->len < 4)
		return;
	c = xcalloc(1, sizeof(*c));
	c->id = e->channel;
	memcpy(&c->source, e->data, sizeof(c->source));
	c->part.heard_ns = e->time_ns;
	a->progress.dirty |= a->by_event;
	/* A generator has no clients: nothing could be cut from its bytes. */
	if (c->source >= a->topo->nsources ||
	    a->topo->sources[c->source].framing == FRAMING_NONE) {
		c->source = 0;
		c->bad = true;
	}
	HASH_ADD(hh, a->conns, id, sizeof(c->id), c);
}

static void
on_forget(struct automaton *a, struct entry *e)
{
	struct in_conn *c = find_conn(a, e->channel);

	if (c == NULL)
		return;
	if (!c->eof && !c->bad)
		progress_part_over(a, c->source, &c->part);
	streams_release(&a->sources[c->source].streams, c->id);
	HASH_DEL(a->conns, c);
	buf_fini(&c->rem);
	buf_fini(&c->reply);
	free(c);
}

void
automaton_forget_conns(struct automaton *a)
{
	struct in_conn *c, *next;

	HASH_ITER(hh, a->conns, c, next) {
		streams_release(&a->sources[c->source].streams, c->id);
		HASH_DEL(a->conns, c);
		buf_fini(&c->rem);
		buf_fini(&c->reply);
		free(c);
	}
}

static int
on_gen(struct automaton *a, struct entry *e, size_t from, size_t *used,
    struct err *err)
{
	struct in_source *s = &a->sources[e->channel];
	const struct topo_source *src = &a->topo->sources[e->channel];
	struct origin o;
	struct flow f;
	host_val v = NULL;
	int r;

	*used = from + 1;
	if (s->ended) {
		*used = e->len;
		return (0);
	}
	begin_record(a, e->pos + ENTRY_HEADER + from + 1);
	o = source_origin(e, origin_id(origin_base(e->channel, 0),
	    s->off));
	enter_other(a, &o, src->fn);
	r = a->host->generate(a->app, src->fn, &v, err);
	leave_user(a);
	if (r == -1) {
		if (err->code == ERR_USER)
			err_wrap(err, "user function failed step=\"%s\" "
			    "policy=fail", src->name);
		return (-1);
	}
	if (v == NULL) {
		s->ended = true;
		source_ended(a);
		log_info("generator has ended source=\"%s\" values=%" PRIu64,
		    src->name, s->off);
		*used = e->len;
		return (0);
	}
	STAT_ADD(a->stats, records_in, 1);
	event_begin(a, e->channel, 0, s->off, &s->part);
	s->off++;
	flow_init(&f, slice_of(src->key, src->key_len), &o, err);
	return (run(a, &a->ops[src->next], v, &f));
}

static bool
mark_covers(const struct mark *m, uint64_t pos, uint32_t index)
{
	return (pos < m->pos || (pos == m->pos && index <= m->index));
}

/* A message as another worker packed it, from this stage on. */
static int
run_packed(struct automaton *a, int stage, struct slice value,
    struct flow *f)
{
	host_val v = NULL;
	struct spot at;
	int r;

	a->call++;
	r = enter_user(a, &f->o, stage, -1, f->err);
	if (r == 0) {
		r = a->host->unpack(a->app, value, &v, f->err);
		leave_user(a);
	}
	if (r == 0)
		return (run(a, &a->ops[stage], v, f));
	at = at_stage(a, stage);
	return (user_error(a, &at, f->key, NULL, value, &f->o, f->err));
}

static int
cannot_read(uint32_t x, struct err *err)
{
	return (err_set(err, ERR_CORRUPT, "a frame of exchange %u in the "
	    "journal cannot be read", x));
}

/* See send_mark. */
static int
on_mark(struct automaton *a, uint32_t x, uint32_t from, struct mark *m,
    uint64_t pos, uint32_t index, struct mp *c, struct err *err)
{
	struct progress *p = &a->progress;
	struct reach r = reach_unpack(c);

	if (!mp_ok(c))
		return (cannot_read(x, err));
	if (mark_covers(m, pos, index))
		return (0);
	reach_raise(&p->heard[(size_t)x * a->workers + from], r);
	p->dirty = true;
	if (r.status == REACH_ENDED)
		p->urgent = true;
	m->pos = pos;
	m->index = index;
	return (0);
}

/* One record of the frame in entry e: see send_record. */
static inline int
on_frame_record(struct automaton *a, const struct entry *e, struct mark *m,
    struct mp *c, struct err *err)
{
	uint32_t from = (uint32_t)(e->channel >> 16);
	uint32_t x = (uint32_t)(e->channel & 0xffff);
	struct slice value;
	struct flow f;
	uint64_t pos, raw;
	uint32_t index;
	int stage = a->topo->exchange_stage[x], sink;

	pos = mp_get_uint(c, UINT64_MAX);
	raw = mp_get_uint(c, MARK_INDEX | UINT32_MAX);
	index = (uint32_t)raw;
	if (raw & MARK_INDEX)
		return (on_mark(a, x, from, m, pos, index, c, err));
	set_key(&f, mp_get_bin(c));
	f.o.time_ns = mp_get_uint(c, UINT64_MAX);
	f.o.id = mp_get_uint(c, UINT64_MAX);
	f.o.watermark = unpack_distance(mp_get_uint(c, UINT64_MAX),
	    f.o.time_ns);
	f.o.via = via_exchange(a, (int)x, from);
	f.depth = 0;
	f.err = err;
	value = mp_get_bin(c);
	if (__builtin_expect(a->by_event, 0) && stage >= 0)
		read_event(c, &f.o, &a->event[0]);
	if (!mp_ok(c))
		return (cannot_read(x, err));
	begin_record(a, e->pos + ENTRY_HEADER + (uint64_t)(c->p - e->data));
	if (mark_covers(m, pos, index))
		return (0);
	if (stage < 0) {
		sink = a->topo->exchange_sink[x];
		to_sink(a, (size_t)sink, &f.o, value);
	} else {
		if (run_packed(a, stage, value, &f) == -1)
			return (-1);
	}
	m->pos = pos;
	m->index = index;
	return (0);
}

/* --- records that are set aside ------------------------------------------ */

void
automaton_aside_pack(struct buf *b, uint64_t stamp, uint32_t call,
    uint32_t level, const char *death)
{
	mp_put_array(b, 4);
	mp_put_uint(b, stamp);
	mp_put_uint(b, call);
	mp_put_uint(b, level);
	mp_put_str(b, death);
}

struct aside *
automaton_aside_new(struct automaton *a, uint64_t at)
{
	size_t i;

	for (i = 0; i < a->naside; i++)
		if (a->aside[i].at == at)
			return (NULL);
	a->aside = xreallocarray(a->aside, a->naside + 1, sizeof(*a->aside));
	memset(&a->aside[a->naside], 0, sizeof(*a->aside));
	a->aside[a->naside].at = at;
	return (&a->aside[a->naside++]);
}

int
automaton_aside_add(struct automaton *a, const struct entry *e,
    struct err *err)
{
	struct aside *s, in = { .at = e->pos };
	struct mp c;

	mp_init(&c, slice_of(e->data, e->len));
	if (mp_get_array(&c) != 4)
		c.bad = true;
	in.stamp = mp_get_uint(&c, UINT64_MAX);
	in.call = (uint32_t)mp_get_uint(&c, UINT32_MAX);
	in.level = (uint32_t)mp_get_uint(&c, UINT32_MAX);
	in.death = mp_get_strdup(&c);
	if (!mp_end(&c)) {
		free(in.death);
		return (err_set(err, ERR_CORRUPT, "journal entry at %" PRIu64
		    " cannot be read", e->pos));
	}
	if ((s = automaton_aside_new(a, e->pos)) == NULL)
		free(in.death);		/* the checkpoint has it */
	else
		*s = in;
	return (0);
}

/* The record lies before its entry: it has been passed, its letter leaves. */
static void
on_aside(struct automaton *a, struct entry *e)
{
	struct origin o = { e->time_ns, e->pos, 0, 0, 0 };
	struct aside *s;
	size_t i;

	for (i = 0; i < a->naside && a->aside[i].at != e->pos; i++)
		;
	if (i == a->naside)
		return;
	s = &a->aside[i];
	begin_record(a, e->pos + ENTRY_HEADER + 1);
	if (s->letter.len > 0 && a->stamp > a->drop && a->dead_sink >= 0) {
		STAT_ADD(a->stats, dead_letters, 1);
		STAT_ADD(a->stats, set_aside, 1);
		to_sink(a, (size_t)a->dead_sink, &o, buf_slice(&s->letter));
	} else if (s->letter.len == 0 && s->level < ASIDE_BARE)
		log_warn("a record that was to be set aside did not come to "
		    "the call that had killed position=%" PRIu64, s->stamp);
	free_aside(s);
	memmove(s, s + 1, (a->naside - i - 1) * sizeof(*s));
	a->naside--;
}

/* --- records that are put back -------------------------------------------- */

static bool
is_named(const char *name, struct slice s)
{
	return (strlen(name) == s.len && memcmp(name, s.data, s.len) == 0);
}

static const char *
name_in(const struct topo *t, enum letter_kind kind, uint32_t i)
{
	return (kind == LETTER_SOURCE ? t->sources[i].name :
	    kind == LETTER_STAGE ? t->stages[i].name : t->sinks[i].name);
}

int
automaton_letter_place(const struct automaton *a, struct letter *l,
    struct err *err)
{
	static const char *const kinds[] = { "source", "step", "sink" };
	const struct topo *t = a->topo;
	uint32_t n = (uint32_t)(l->kind == LETTER_SOURCE ? t->nsources :
	    l->kind == LETTER_STAGE ? t->nstages : t->nsinks);

	if (l->index >= n || !is_named(name_in(t, l->kind, l->index),
	    l->name))
		for (l->index = 0; l->index < n; l->index++)
			if (is_named(name_in(t, l->kind, l->index), l->name))
				break;		/* in a new version */
	if (l->index < n && automaton_owner(a, l->key) != a->worker)
		return (err_set(err, ERR_REFUSED, "its key belongs to "
		    "another worker now, try again"));
	if (l->index < n)
		return (0);
	return (err_set(err, ERR_CONFIG, "there is no %s \"%.*s\" any more",
	    kinds[l->kind], (int)l->name.len, (const char *)l->name.data));
}

/* The message before one sink's encoder. */
static int
put_back_sink(struct automaton *a, const struct letter *l, struct flow *f)
{
	/* It comes from no stage. */
	static const struct op none = { .stage = -1, .at = NOTE_CALL(0, -1) };
	const struct topo_sink *s = &a->topo->sinks[l->index];
	struct spot at = { LETTER_SINK, l->index, s->name, s->policy };
	host_val v = NULL;
	int r;

	a->call++;
	r = enter_user(a, &f->o, -1, -1, f->err);
	if (r == 0) {
		r = a->host->unpack(a->app, l->value, &v, f->err);
		leave_user(a);
	}
	if (r == -1)
		return (user_error(a, &at, l->key, NULL, l->value, &f->o,
		    f->err));
	host_where.key = f->key;
	r = run_sink(a, l->index, &none, v, f);
	a->host->val_free(a->app, v);
	return (r);
}

static int
on_letter(struct automaton *a, struct entry *e, struct err *err)
{
	struct letter l;
	struct origin o;
	struct flow f;
	uint64_t seq;
	int r;

	if (e->len < sizeof(seq))
		return (err_set(err, ERR_CORRUPT, "journal entry at %" PRIu64
		    " cannot be read", e->pos));
	memcpy(&seq, e->data, sizeof(seq));
	if (letter_unpack(&l, slice_of(e->data + sizeof(seq), e->len -
	    sizeof(seq)), err) == -1 ||
	    automaton_letter_place(a, &l, err) == -1)
		return (-1);
	begin_record(a, e->pos + ENTRY_HEADER + 1);
	/* Its own time; to windows it is one that comes late. */
	o = source_origin(e, l.id);
	o.time_ns = l.time_ns;
	o.event_ns = l.time_ns;
	/* No watermark follows it. */
	event_begin(a, a->topo->nsources, l.id, e->pos, NULL);
	flow_init(&f, l.key, &o, err);
	r = l.kind == LETTER_SOURCE ? record(a, l.index, l.key, l.value, &f) :
	    l.kind == LETTER_STAGE ? run_packed(a, (int)l.index, l.value,
	    &f) : put_back_sink(a, &l, &f);
	if (r == 0)
		a->putback = seq;
	return (r);
}

/* --- is the code deterministic? ------------------------------------------ */

static void
begin_entry(struct automaton *a)
{
	a->sum = 1;
	a->steps = 0;
	a->nseen = 0;
	buf_clear(&a->seen);
}

/* Who has made the outputs of the entry at work, for people. */
static void
name_steps(struct automaton *a, struct buf *b)
{
	const char *comma = "";
	size_t i;

	for (i = 0; i < a->topo->nstages; i++)
		if ((a->topo->stages[i].kind == STAGE_STEP ||
		    stage_has_state(&a->topo->stages[i])) &&
		    (a->steps & 1ULL << (i & 63))) {
			buf_addf(b, "%s%s", comma, a->topo->stages[i].name);
			comma = ", ";
		}
}

static const char *
name_origin(const struct automaton *a, const struct entry *e)
{
	uint32_t x = (uint32_t)(e->channel & 0xffff);
	struct in_conn *c;

	switch ((enum entry_type)e->type) {
	case ENTRY_FILE:
	case ENTRY_GEN:
		return (a->topo->sources[e->channel].name);
	case ENTRY_BYTES:
		HASH_FIND(hh, a->conns, &e->channel, sizeof(e->channel), c);
		return (c == NULL ? "" : a->topo->sources[c->source].name);
	case ENTRY_FRAME:
		return (a->topo->exchange_stage[x] < 0 ? "" :
		    a->topo->stages[a->topo->exchange_stage[x]].name);
	default:
		return ("");
	}
}

/*
 * The sum of the outputs is kept with the entry.  Processed again, all of it
 * for outputs that have left, it must come to the same.
 */
static void
end_entry(struct automaton *a, struct entry *e)
{
	uint32_t sum = (uint32_t)(a->sum ^ a->sum >> 32);
	static struct log_rate rate;
	struct buf steps = { 0 };

	sum += sum == 0;		/* 0: not known */
	if (entry_end(e) > a->drop || e->reserved == 0) {
		e->reserved = sum;
		return;
	}
	if (e->reserved == sum)
		return;
	STAT_ADD(a->stats, nondeterministic, 1);
	if (!log_allowed(&rate))
		return;
	name_steps(a, &steps);
	log_error("a replay gave other outputs than the run before it, which "
	    "have left: the code is not deterministic from=\"%s\" "
	    "steps=\"%s\" keys=\"%s%s\" position=%" PRIu64,
	    name_origin(a, e), steps.len == 0 ? "" : buf_str(&steps),
	    a->seen.len == 0 ? "" : buf_str(&a->seen),
	    a->nseen >= SEEN_KEYS ? ", ..." : "", e->pos);
	buf_fini(&steps);
}

/* As if it were the time for which a timer was set; event_ns is what the host
 * is told. */
static struct origin
origin_of_timer(struct windows *w, const struct kent *k, uint64_t now_ns)
{
	uint64_t due = w->stage->by_event ? windows_event(w, k) :
	    k->window->due;
	struct origin o = { now_ns, 0, 0, 0, now_ns };

	if (w->stage->by_event || w->in.status == REACH_ENDED)
		o.event_ns = due;
	if (o.event_ns < WINDOW_AT_END)
		o.time_ns = o.event_ns;
	return (o);
}

/* Nobody sent this: what the windows of a key do in a tick. */
static int
fire_key(struct automaton *a, const struct entry *e, int i, struct kent *k,
    uint64_t watermark, struct err *err)
{
	const struct topo_stage *st = &a->topo->stages[i];
	struct windows *w = &a->windows[i];
	struct origin o = { e->time_ns, 0, 0, 0, 0 };
	struct flow f;
	uint64_t v[3];

	/* The same at any speed, where the windows are. */
	if (st->kind == STAGE_TIMED) {
		watermark = w->in.status == REACH_ENDED ? REACH_ENDLESS : 0;
		o = origin_of_timer(w, k, e->time_ns);
	} else if (st->by_event)
		o.time_ns = watermark = windows_event(w, k);
	event_begin(a, 0, 0, 0, NULL);
	v[0] = o.time_ns;
	v[1] = k->hash;
	v[2] = part_hash(slice_of(st->name, strlen(st->name)));
	o.id = part_hash(slice_of(v, sizeof(v)));
	flow_init(&f, slice_of(k->key, k->key_len), &o, err);
	if (enter_windows(a, i, &f) != NULL)
		return (fire(a, i, k, NULL, watermark, &f));
	if (err->code != ERR_POISON)
		return (-1);
	/* Not again before a message comes to it. */
	if (st->kind == STAGE_STATE)
		windows_had_end(w, k);
	else
		windows_note(w, k, UINT64_MAX, WAIT_IDLE, e->time_ns);
	return (stage_error(a, i, NULL, &f));
}

/* Say to the others what goes into the exchange of this stage from now on. */
static void
say_mark(struct automaton *a, size_t stage)
{
	int x = a->topo->stages[stage].exchange;
	struct reach *r = &a->progress.said[x];
	uint64_t v[4];
	uint32_t w;

	reach_raise(r, a->progress.at[stage]);
	v[0] = a->sum;
	v[1] = (uint64_t)x;
	v[2] = r->status;
	v[3] = r->watermark;
	a->sum = part_hash(slice_of(v, sizeof(v)));
	for (w = 0; w < a->workers; w++)
		if (w == a->worker)
			continue;
		else if (a->stamp > a->drop)
			send_mark(a, x, w, r);
		else			/* has left already */
			a->index++;
}

/* The first stage on the way to the sinks where a key is to fire, or -1. */
static int
next_ripe(const struct automaton *a, struct kent **k)
{
	size_t i, n;

	for (n = 0; n < a->topo->nstages; n++) {
		i = a->progress.order[n];
		if (stage_has_dues(&a->topo->stages[i]) &&
		    (*k = windows_ripe(&a->windows[i])) != NULL)
			return ((int)i);
	}
	return (-1);
}

/*
 * What fires because of how far the inputs have come, one key per byte of the
 * entry; then what the other workers are to know, an exchange per byte.
 */
static int
on_progress(struct automaton *a, struct entry *e, size_t from, size_t *used,
    struct err *err)
{
	struct progress *p = &a->progress;
	struct kent *k;
	int i;

	if (!p->dirty && p->idle_ns > e->time_ns)
		return (0);
	p->dirty = true;
	p->urgent = true;		/* until all is done */
	if (from == 0)
		progress_pass(a, e->time_ns);
	if ((i = next_ripe(a, &k)) < 0) {
		progress_pass(a, e->time_ns);
		i = next_ripe(a, &k);
	}
	*used = from + 1;
	begin_record(a, e->pos + ENTRY_HEADER + (planted("TIME5") ? 1 :
	    *used));
	if (i >= 0)
		return (fire_key(a, e, i, k, REACH_ENDLESS, err));
	if ((i = progress_unsaid(a)) >= 0) {
		say_mark(a, (size_t)i);
		return (0);
	}
	p->dirty = p->urgent = false;
	p->said_ns = e->time_ns;
	*used = e->len;
	return (0);
}

/*
 * Time has passed: a key of windows whose timeout is due, one per byte of the
 * entry, so that a timeout of many keys is worked off bit by bit.
 */
static int
on_tick(struct automaton *a, struct entry *e, size_t from, size_t *used,
    struct err *err)
{
	struct windows *w = NULL;
	struct kent *k = NULL;
	size_t i;

	for (i = 0; i < a->topo->nstages && k == NULL; i++) {
		w = &a->windows[i];
		if (stage_has_windows(&a->topo->stages[i]) &&
		    windows_ring(w, e->time_ns))
			k = windows_next(w, e->time_ns);
		else if (a->topo->stages[i].kind == STAGE_TIMED &&
		    windows_timer(w, &k) > e->time_ns)
			k = NULL;
	}
	if (k == NULL)
		return (on_progress(a, e, from, used, err));
	*used = from + 1;
	begin_record(a, e->pos + ENTRY_HEADER + *used);
	return (fire_key(a, e, (int)i - 1, k, windows_watermark(w,
	    e->time_ns), err));
}

uint64_t
automaton_tick(const struct automaton *a)
{
	uint64_t first = progress_tick(a), due;
	struct kent *k;
	size_t i;

	for (i = 0; a->nwindows > 0 && i < a->topo->nstages; i++) {
		if (a->topo->stages[i].kind == STAGE_TIMED &&
		    (due = windows_timer(&a->windows[i], &k)) < first)
			first = due;
		if (!stage_has_windows(&a->topo->stages[i]))
			continue;
		if (a->windows[i].firing)
			return (0);
		if (a->windows[i].timer_ns != 0 &&
		    a->windows[i].timer_ns < first)
			first = a->windows[i].timer_ns;
	}
	return (first);
}

/* An entry whose channel is a source's number says what that can have. */
static bool
source_fits(const struct automaton *a, const struct entry *e)
{
	const struct topo_source *s;

	if (e->type != ENTRY_FILE && e->type != ENTRY_GEN &&
	    !(e->type == ENTRY_EOF && (e->flags & ENTRY_SOURCE)))
		return (true);
	if (e->channel >= a->topo->nsources)
		return (false);
	s = &a->topo->sources[e->channel];
	return (e->type == ENTRY_EOF ||
	    (e->type == ENTRY_GEN) == (s->framing == FRAMING_NONE));
}

static int
dispatch(struct automaton *a, struct entry *e, size_t from, size_t *used,
    struct err *err)
{
	*used = e->len;
	switch ((enum entry_type)e->type) {
	case ENTRY_BYTES:		/* of a connection that has ended */
	case ENTRY_FILE:		/* run_lines, on_stream */
	case ENTRY_FRAME:		/* run_frame */
		return (0);
	case ENTRY_GEN:
		return (on_gen(a, e, from, used, err));
	case ENTRY_EOF:
		return (on_eof(a, e, err));
	case ENTRY_OPEN:
		on_open(a, e);
		return (0);
	case ENTRY_FORGET:
		on_forget(a, e);
		return (0);
	case ENTRY_ASIDE:
		on_aside(a, e);
		return (0);
	case ENTRY_LETTER:
		return (on_letter(a, e, err));
	case ENTRY_TICK:
		return (on_tick(a, e, from, used, err));
	case ENTRY_TYPES:
		break;
	}
	return (err_set(err, ERR_CORRUPT, "journal entry at %" PRIu64
	    " has type %u", e->pos, e->type));
}

/* The entry at a->entry; NULL: *err is set. */
static struct entry *
look_at(const struct automaton *a, struct err *err)
{
	struct entry *e = journal_at(a->journal, a->entry);

	if (e == NULL)
		(void)err_set(err, ERR_CORRUPT, "journal has no valid entry "
		    "at %" PRIu64, a->entry);
	else if (!source_fits(a, e)) {
		(void)err_set(err, ERR_CORRUPT, "journal entry at %" PRIu64
		    " is of source %" PRIu64 ": there is none of its kind",
		    e->pos, e->channel);
		e = NULL;
	}
	return (e);
}

/* When a run ends. */
struct pace {
	uint64_t	(*now)(void);
	uint64_t	deadline_ns;
	size_t		max_bytes;
	uint64_t	looked;		/* clock_ticks() when it was asked */
};

/* Is it too late?  To ask a clock costs more than some records do. */
static inline bool
is_late(struct pace *p)
{
	return (p->deadline_ns != 0 && clock_passed(&p->looked) &&
	    p->now() >= p->deadline_ns);
}

/* Processed up to `used` of the entry; true: the run is over. */
static inline bool
advance(struct automaton *a, struct entry *e, size_t used,
    struct pace *p)
{
	FAULT_POINT(apply_after);
	if (used >= e->len) {
		end_entry(a, e);
		a->entry = a->pos = entry_end(e);
	} else
		a->pos = e->pos + ENTRY_HEADER + used;
	return (a->passed || a->turn_bytes >= p->max_bytes || is_late(p));
}

/*
 * The usual case: whole lines, processed where they lie.  *from says how far;
 * 1: the run is over.  What is no such line is left to take_record.
 */
static int
run_lines(struct automaton *a, const struct intake *in, struct entry *e,
    size_t *from, struct pace *p, struct err *err)
{
	const struct topo_source *src = in->src;
	struct slice key = slice_of(src->key, src->key_len);
	uint64_t hash = a->source_hash[in->source];
	const uint8_t *line = e->data + *from, *end = e->data + e->len, *nl;
	struct slice payload;
	struct flow f;
	bool over;

	for (over = false; !over && line < end; line = nl + 1) {
		nl = memchr(line, '\n', (size_t)(end - line));
		if (nl == NULL)
			return (0);
		payload = slice_of(line, line_len(slice_of(line,
		    (size_t)(nl - line))));
		if (payload.len > src->max_size)
			return (0);
		*from = (size_t)(nl + 1 - e->data);
		FAULT_POINT(apply_before);
		begin_record(a, e->pos + ENTRY_HEADER + *from);
		event_begin(a, in->source, in->channel, e->off + *from,
		    in->part);
		f.o = source_origin(e, origin_id(in->base, e->off + *from));
		f.err = err;
		if (record_of(a, in->source, src, key, hash, payload, &f) ==
		    -1) {
			undo_record(a);
			return (-1);
		}
		*in->off = e->off + *from;
		over = advance(a, e, *from, p);
	}
	return (over);
}

/* The mark of a frame's channel; NULL: *err is set. */
static struct mark *
mark_of(const struct automaton *a, const struct entry *e, struct err *err)
{
	uint32_t w = (uint32_t)(e->channel >> 16);
	uint32_t x = (uint32_t)(e->channel & 0xffff);

	if (w < a->workers && x < a->topo->nexchanges &&
	    e->len >= sizeof(struct frame_head))
		return (&a->marks[(size_t)x * a->workers + w]);
	(void)err_set(err, ERR_CORRUPT, "journal entry at %" PRIu64
	    " is from worker %u, exchange %u: there is none", e->pos, w, x);
	return (NULL);
}

/* What is left of a frame; as run_lines. */
static int
run_frame(struct automaton *a, struct entry *e, size_t from, struct pace *p,
    struct err *err)
{
	struct mark *m = mark_of(a, e, err);
	struct frame_head h;
	size_t used;
	struct mp c;

	if (m == NULL)
		return (-1);
	memcpy(&h, e->data, sizeof(h));
	if (from == 0) {
		from = sizeof(h);
		STAT_ADD(a->stats, frames_in, 1);
		if (m->lineage != h.lineage) {
			m->lineage = h.lineage;
			m->pos = m->index = 0;
		}
	}
	mp_init(&c, slice_of(e->data + from, e->len - from));
	do {
		a->stamp = 0;
		FAULT_POINT(apply_before);
		if (c.p < c.end && on_frame_record(a, e, m, &c, err) == -1) {
			undo_record(a);
			return (-1);
		}
		used = (size_t)(c.p - e->data);
		if (used == e->len && !mark_covers(m, h.pos, h.index)) {
			m->pos = h.pos;
			m->index = h.index;
		}
		if (advance(a, e, used, p))
			return (1);
	} while (used < e->len);
	return (0);
}

/* What is left of an entry, as far as that comes; 1: the run is over. */
static int
run_entry(struct automaton *a, struct intake *in, struct entry *e,
    size_t from, struct pace *p, struct err *err)
{
	size_t used;
	int r;

	for (; a->entry == e->pos; from = used) {
		used = from;
		if (in->lines && in->rem->len == 0 && (r = run_lines(a, in, e,
		    &used, p, err)) != 0)
			return (r);
		if (used != from)
			continue;
		a->stamp = 0;
		FAULT_POINT(apply_before);
		r = in->src != NULL ? on_stream(a, in, from, &used, err) :
		    dispatch(a, e, from, &used, err);
		if (r == -1) {
			undo_record(a);
			return (-1);
		}
		assert(used > from || used == e->len);
		if (advance(a, e, used, p))
			return (1);
	}
	return (0);
}

int
automaton_run(struct automaton *a, uint64_t (*now)(void),
    uint64_t deadline_ns, size_t max_bytes, struct err *err)
{
	struct pace pace = { now, deadline_ns, max_bytes, 0 };
	uint64_t tail = journal_tail(a->journal);
	struct intake in;
	struct entry *e;
	size_t from;
	int r;

	while (a->pos < tail) {
		if ((e = look_at(a, err)) == NULL)
			return (-1);
		intake_begin(a, &in, e);
		from = a->pos == a->entry ? 0 :
		    (size_t)(a->pos - a->entry - ENTRY_HEADER);
		if (from == 0)
			begin_entry(a);
		a->now_ns = e->time_ns;
		r = e->type == ENTRY_FRAME ? run_frame(a, e, from, &pace,
		    err) : run_entry(a, &in, e, from, &pace, err);
		if (r != 0)
			return (r == -1 ? -1 : 0);
	}
	return (0);
}

/* --- saved keys ----------------------------------------------------------- */

int
automaton_load(struct automaton *a, size_t stage, struct slice key,
    struct slice value, struct err *err)
{
	const struct topo_stage *st = &a->topo->stages[stage];
	uint64_t hash = part_hash(key);
	struct keytab *t = &a->keys[stage];
	struct kent *e = keytab_find(t, key, hash);

	if (e == NULL) {
		e = keytab_add(t, key, hash);
		if (t->left > 0)	/* that was one of them */
			t->left--;
		else
			a->nkeys++;
	}
	if (st->on_end != 0)
		windows_state(&a->windows[stage], e);
	if (stage_has_heads(st) &&
	    windows_take_head(&a->windows[stage], e, &value) == -1)
		return (err_set(err, ERR_CORRUPT, "the saved windows of step "
		    "\"%s\" cannot be read", st->name));
	free(e->saved);			/* an older one */
	e->saved = xmalloc(value.len + 1);
	memcpy(e->saved, value.data, value.len);
	e->saved_len = (uint32_t)value.len;
	return (0);
}

int
automaton_save(struct automaton *a, size_t stage, struct kent *e,
    struct buf *b, struct err *err)
{
	const struct topo_stage *st = &a->topo->stages[stage];

	if (e->gone)
		return (0);
	if (stage_has_heads(st))
		windows_put_head(e, b);
	return (a->host->state_save(a->app, st->fn, e->obj, b, err));
}

int
automaton_query(struct automaton *a, struct slice step, struct slice key,
    struct buf *repr, bool *found, struct err *err)
{
	const struct topo_stage *st;
	struct kent *e;
	void *obj = NULL;
	size_t i;

	*found = false;
	for (i = 0; i < a->topo->nstages; i++) {
		st = &a->topo->stages[i];
		if (stage_has_state(st) && strlen(st->name) == step.len &&
		    memcmp(st->name, step.data, step.len) == 0)
			break;
	}
	if (i == a->topo->nstages)
		return (err_set(err, ERR_CONFIG, "no step with state is "
		    "called \"%.*s\"", (int)step.len,
		    (const char *)step.data));
	e = keytab_find(&a->keys[i], key, part_hash(key));
	if (e == NULL && a->keys[i].partial && find_saved(a, i, key,
	    part_hash(key), &e, err) == -1)
		return (-1);
	if (e == NULL || e->gone)
		return (0);
	*found = true;
	if (e->obj != NULL) {
		a->host->repr(a->app, e->obj, repr);
		return (0);
	}
	if (a->host->state_load(a->app, st->fn,
	    slice_of(e->saved, e->saved_len), &obj, err) == -1)
		return (-1);
	a->host->repr(a->app, obj, repr);
	a->host->state_free(a->app, obj);
	return (0);
}
