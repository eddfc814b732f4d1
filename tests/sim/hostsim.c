/*
 * The test host: the pipeline of bank transfers with a ledger.
 *
 *	decode → key1 → first: debit, version, digest → key2 (exchange)
 *	    → second: credit, version, digest → sinks
 *
 * In seeds with timers the second step has them, and a ttl (timed.c); where
 * these are by event time, what sources give gets one first.
 *
 * Whatever arrives is compared with what was sent: a stream that was put
 * together wrongly is noticed here already.
 */
#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "tests/sim/plan.h"
#include "worker/host.h"

enum { FN_DECODE, FN_KEY1, FN_FIRST, FN_KEY2, FN_SECOND, FN_GENERATE,
	FN_ENCODE, FN_TIME };
#define STAGE_OF_TIME	5

static uint32_t generated;		/* by this process */

static void
busy(void)
{
	now_ns += rng_below(&plan.sched, plan.user_ns + 1);
}

static int
h_open(struct host_app **app, const struct conf_app *conf, struct err *err)
{
	(void)conf;
	(void)err;
	*app = NULL;
	return (0);
}

static void
h_close(struct host_app *app)
{
	(void)app;
}

/* --- the topology -------------------------------------------------------- */

static void
put_source(struct buf *b, const char *name, const char *kind, int fn)
{
	bool gen = fn == FN_GENERATE;

	mp_put_array(b, 13);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, plan.timed == TIMED_EVENT ? STAGE_OF_TIME : 0);
	mp_put_int(b, fn);
	mp_put_str(b, gen ? "none" : "header");
	mp_put_uint(b, gen ? 0 : 4);
	mp_put_str(b, gen ? "" : ">I");
	mp_put_uint(b, 2000);
	mp_put_str(b, "127.0.0.1");
	mp_put_uint(b, 7000);
	mp_put_str(b, strcmp(kind, "file") == 0 ? "/data/input" : "");
	mp_put_bin(b, "", 0);
	mp_put_uint(b, 8);
}

static void
put_stage(struct buf *b, const char *name, const char *kind, int next, int fn,
    int exchange, bool multi)
{
	mp_put_array(b, strcmp(kind, "timed_state") == 0 ? 9 :
	    strcmp(kind, "event_time") == 0 ? 10 : 8);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, next);
	mp_put_int(b, fn);
	mp_put_int(b, exchange);
	mp_put_bool(b, multi);
	mp_put_str(b, "default");
	mp_put_uint(b, 1);
}

static void
put_sink(struct buf *b, const char *name, const char *kind, const char *path,
    int exchange)
{
	mp_put_array(b, 8);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, exchange == -1 || strcmp(kind, "file") == 0 ?
	    FN_ENCODE : -1);
	mp_put_str(b, "127.0.0.1");
	mp_put_uint(b, 7001);
	mp_put_str(b, path);
	mp_put_int(b, exchange);
	mp_put_str(b, "default");
}

static int
h_describe(struct host_app *app, struct buf *b, struct err *err)
{
	int exchange = 2;

	(void)app;
	(void)err;
	mp_put_array(b, 6);
	mp_put_str(b, "wallaroo-topology");
	mp_put_uint(b, 1);
	mp_put_str(b, "sim");
	mp_put_array(b, (uint32_t)plan.tcp_source + plan.file_source +
	    plan.gen_source);
	if (plan.tcp_source)
		put_source(b, "clients", "tcp", FN_DECODE);
	if (plan.file_source)
		put_source(b, "file", "file", FN_DECODE);
	if (plan.gen_source)
		put_source(b, "generator", "gen", FN_GENERATE);
	mp_put_array(b, plan.timed == TIMED_EVENT ? STAGE_OF_TIME + 1 : 5);
	put_stage(b, "payer", "key_by", 1, FN_KEY1, 0, false);
	put_stage(b, "first", "state", 2, FN_FIRST, -1, true);
	put_stage(b, "receiver", "key_by", 3, FN_KEY2, 1, false);
	put_stage(b, "second", plan.timed == UNTIMED ? "state" :
	    "timed_state", 4, FN_SECOND, -1, false);
	if (plan.timed != UNTIMED)
		mp_put_bool(b, plan.timed == TIMED_EVENT);
	put_stage(b, "out", "sinks", -1, -1, -1, false);
	if (plan.timed == TIMED_EVENT) {
		put_stage(b, "time", "event_time", 0, FN_TIME, -1, false);
		mp_put_uint(b, plan.lateness);
		mp_put_uint(b, plan.idle);
	}
	mp_put_array(b, 1 + (uint32_t)plan.tcp_sink + plan.file_sink);
	if (plan.tcp_sink)
		put_sink(b, "receivers", "tcp", "", -1);
	if (plan.file_sink)
		put_sink(b, "output", "file", "/data/output", exchange++);
	put_sink(b, "dead", "dead-letter", "", exchange);
	return (0);
}

/* --- values -------------------------------------------------------------- */

static struct output *
value_of(uint32_t seq)
{
	const struct input *in = &plan.input[seq];
	struct output *v = xcalloc(1, sizeof(*v));

	v->magic = OUTPUT_MAGIC;
	v->seq = seq;
	v->key1 = in->key1;
	v->key2 = in->key2;
	return (v);
}

static bool
pad_is_right(uint32_t seq, const uint8_t *pad, size_t n)
{
	return (n == plan.input[seq].pad && memcmp(pad, plan_pad(seq), n) ==
	    0);
}

static int
h_decode(struct host_app *app, int fn, struct slice s, host_val *out,
    struct err *err)
{
	uint32_t seq = UINT32_MAX, pad = 0;

	(void)app;
	(void)fn;
	(void)err;
	*out = NULL;
	busy();
	if (s.len >= 8) {
		memcpy(&seq, s.data, 4);
		memcpy(&pad, s.data + 4, 4);
	}
	if (seq >= plan.ninputs || pad != s.len - 8 ||
	    !pad_is_right(seq, s.data + 8, pad)) {
		fail("the decoder got %zu bytes that nobody has sent", s.len);
		return (0);
	}
	trace("decodes input %u", seq);
	if (!plan.input[seq].dropped)
		*out = value_of(seq);
	return (0);
}

static int
h_generate(struct host_app *app, int fn, host_val *out, struct err *err)
{
	(void)app;
	(void)fn;
	(void)err;
	busy();
	while (generated < plan.nfrom[FROM_GEN] &&
	    plan.input[plan.from[FROM_GEN][generated]].dropped)
		generated++;
	*out = generated < plan.nfrom[FROM_GEN] ?
	    value_of(plan.from[FROM_GEN][generated++]) : NULL;
	return (0);
}

static int
h_generate_seek(struct host_app *app, int fn, uint64_t n, struct err *err)
{
	host_val v;

	generated = 0;
	for (; n > 0; n--) {
		(void)h_generate(app, fn, &v, err);
		free(v);
	}
	return (0);
}

static int
h_key(struct host_app *app, int fn, host_val v, struct buf *b,
    struct err *err)
{
	const struct output *o = v;
	uint64_t time;

	(void)app;
	(void)err;
	if (fn == FN_TIME) {
		time = htobe64(plan.input[o->seq].time);
		buf_add(b, &time, sizeof(time));
		return (0);
	}
	buf_addf(b, "%c%u", fn == FN_KEY1 ? 'a' : 'b', fn == FN_KEY1 ?
	    o->key1 : o->key2);
	return (0);
}

/* Outputs that wait for their checkpoint may come of anything. */
static uint64_t
nonce(void)
{
	return (plan.after ? rng_next(&plan.sched) : 0);
}

static int
h_step(struct host_app *app, int fn, bool multi, void *state, host_val in,
    struct host_out *out, struct err *err)
{
	struct output *o = in, *copy;
	struct state *st = state;
	uint32_t i;

	(void)app;
	(void)multi;
	(void)err;
	busy();
	if (fn == FN_SECOND) {
		copy = xmalloc(sizeof(*copy));
		*copy = *o;
		copy->nonce2 = nonce();
		state_second(st, copy);
		copy->v2 = st->version;
		copy->d2 = st->digest;
		copy->balance2 = st->balance;
		trace("second step input=%u.%u key2=%u version=%llu", o->seq,
		    o->sub, o->key2, (unsigned long long)st->version);
		host_out_add(out, copy);
		return (0);
	}
	o->nonce1 = nonce();
	state_first(st, o->seq, o->nonce1);
	trace("first step input=%u key1=%u version=%llu", o->seq, o->key1,
	    (unsigned long long)st->version);
	for (i = 0; i < plan.input[o->seq].fan; i++) {
		copy = xmalloc(sizeof(*copy));
		*copy = *o;
		copy->sub = i;
		copy->v1 = st->version;
		copy->d1 = st->digest;
		copy->balance1 = st->balance;
		host_out_add(out, copy);
	}
	return (0);
}

static void
put_value(const struct output *v, struct buf *b)
{
	buf_add(b, v, sizeof(*v));
	buf_add(b, plan_pad(v->seq), plan.input[v->seq].pad);
}

static int
h_encode(struct host_app *app, int fn, host_val v, struct buf *b, bool *none,
    struct err *err)
{
	struct output *o = v;

	(void)app;
	(void)fn;
	(void)err;
	*none = false;
	o->len = (uint32_t)sizeof(*o) + plan.input[o->seq].pad;
	o->sum = output_sum(o);
	put_value(o, b);
	return (0);
}

static int
h_pack(struct host_app *app, host_val v, struct buf *b, struct err *err)
{
	(void)app;
	(void)err;
	put_value(v, b);
	return (0);
}

static int
h_unpack(struct host_app *app, struct slice s, host_val *out,
    struct err *err)
{
	struct output *v = xcalloc(1, sizeof(*v));

	(void)app;
	(void)err;
	*out = v;
	if (s.len >= sizeof(*v))
		memcpy(v, s.data, sizeof(*v));
	if (v->magic != OUTPUT_MAGIC || v->seq >= plan.ninputs ||
	    !pad_is_right(v->seq, s.data + sizeof(*v), s.len - sizeof(*v)))
		return (err_set(err, ERR_CORRUPT, "a message of %zu bytes "
		    "that nobody has sent", s.len));
	return (0);
}

static void
h_val_free(struct host_app *app, host_val v)
{
	(void)app;
	free(v);
}

/* --- timers and ttl ------------------------------------------------------- */

struct held {
	uint64_t	 place[6];	/* time first, then as in host.h */
	struct output	 o;
};

static void
give(struct host_out *out, struct host_window *win, const struct output *o)
{
	struct output *copy = xmalloc(sizeof(*copy));

	*copy = *o;
	host_window_reserve(win, out->n + 1);
	win->time_ns[out->n] = (uint64_t)o->balance2;
	trace("second step input=%u.%u key2=%u version=%llu at %llu", o->seq,
	    o->sub, o->key2, (unsigned long long)o->v2,
	    (unsigned long long)o->balance2);
	host_out_add(out, copy);
}

static void
apply(struct timed_key *k, const struct output *of, uint64_t at,
    struct host_out *out, struct host_window *win)
{
	struct output o = *of;

	o.nonce2 = nonce();
	timed_message(&k->t, &o, at);
	give(out, win, &o);
}

static bool
comes_before(const struct held *a, const struct held *b)
{
	size_t i;

	for (i = 0; i < 6; i++)
		if (a->place[i] != b->place[i])
			return (a->place[i] < b->place[i]);
	return (false);
}

static void
hold(struct timed_key *k, const struct output *o, uint64_t at,
    const struct event *ev)
{
	struct held new = { { at, ev->source, ev->part, ev->seq, ev->sub,
	    k->count++ }, *o };
	size_t i;

	trace("second step holds input=%u.%u key2=%u at %llu", o->seq,
	    o->sub, o->key2, (unsigned long long)at);
	k->held = xreallocarray(k->held, k->nheld + 1, sizeof(*k->held));
	for (i = k->nheld++; i > 0 && comes_before(&new, &k->held[i - 1]); i--)
		k->held[i] = k->held[i - 1];
	k->held[i] = new;
}

/* When something happens next; a message waits for what is as old. */
static uint64_t
due_of(const struct timed_key *k)
{
	int t = timed_first(&k->t);
	uint64_t due = t < 0 ? UINT64_MAX : k->t.timer[t].due;

	if (k->nheld > 0 && k->held[0].place[0] + 1 < due)
		due = k->held[0].place[0] + 1;
	return (due);
}

static void
happen(struct timed_key *k, struct host_out *out, struct host_window *win)
{
	struct held h;
	struct output o;

	if (k->nheld > 0 && k->held[0].place[0] + 1 == due_of(k)) {
		h = k->held[0];
		memmove(k->held, k->held + 1, --k->nheld * sizeof(*k->held));
		apply(k, &h.o, h.place[0], out, win);
		return;
	}
	timed_fire(&k->t, timed_first(&k->t), nonce(), &o);
	give(out, win, &o);
}

/* What is set meanwhile is for the next call. */
static void
timeout(struct timed_key *k, uint64_t time, bool ending, struct host_out *out,
    struct host_window *win)
{
	size_t left = k->nheld, i;

	for (i = 0; i < TIMERS; i++)
		left += k->t.timer[i].due != 0;
	for (; left > 0 && due_of(k) <= time; left--)
		happen(k, out, win);
	win->gone = out->n == 0 && !ending && k->nheld == 0 &&
	    timed_over(&k->t, time);
	k->wait = UINT64_MAX;
}

/* A key that waits only to expire is not told again whenever it is used. */
static void
say_when(struct timed_key *k, struct host_window *win)
{
	enum { IDLE, OPEN, RESTS } wait = k->nheld > 0 ? OPEN : IDLE;
	uint64_t due = due_of(k);

	if (due == UINT64_MAX) {
		wait = RESTS;
		due = k->t.expires;
		if (k->wait == RESTS && k->due <= due)
			due = k->due;
	}
	win->same = k->due == due && k->wait == (uint64_t)wait;
	win->due = k->due = due;
	k->wait = wait;
	win->open = wait == OPEN;
	win->rests = wait == RESTS;
}

static int
h_window(struct host_app *app, int fn, void *state, struct slice key,
    host_val in, uint64_t time, uint64_t watermark, struct host_out *out,
    struct host_window *win, int (*failed_one)(void *, struct err *),
    void *arg, struct err *err)
{
	struct timed_key *k = state;

	(void)app;
	(void)fn;
	(void)key;
	(void)failed_one;
	(void)arg;
	(void)err;
	busy();
	win->newest_ns = 0;
	if (in == NULL)
		timeout(k, time, watermark == UINT64_MAX, out, win);
	else if (plan.timed == TIMED_EVENT)
		hold(k, in, time > watermark ? time : watermark, win->event);
	else
		apply(k, in, time, out, win);
	say_when(k, win);
	win->same &= in != NULL && out->n == 0;
	return (0);
}

/* --- state --------------------------------------------------------------- */

/* What is freed is told without its step. */
static size_t
state_size(void)
{
	return (plan.timed == UNTIMED ? sizeof(struct state) :
	    sizeof(struct timed_key));
}

static size_t
saved_size(int fn)
{
	return (plan.timed == UNTIMED || fn == FN_FIRST ?
	    sizeof(struct state) : offsetof(struct timed_key, held));
}

static int
h_state_new(struct host_app *app, int fn, void **obj, struct err *err)
{
	(void)app;
	(void)fn;
	(void)err;
	*obj = xcalloc(1, state_size());
	return (0);
}

static int
h_state_save(struct host_app *app, int fn, const void *obj, struct buf *b,
    struct err *err)
{
	const struct timed_key *k = obj;

	(void)app;
	(void)err;
	buf_add(b, obj, saved_size(fn));
	if (saved_size(fn) > sizeof(struct state))
		buf_add(b, k->held, k->nheld * sizeof(*k->held));
	return (0);
}

static int
h_state_load(struct host_app *app, int fn, struct slice s, void **obj,
    struct err *err)
{
	struct timed_key *k;
	size_t n = saved_size(fn);

	(void)app;
	if (s.len < n)
		return (err_set(err, ERR_CORRUPT, "a state of %zu bytes",
		    s.len));
	*obj = k = xcalloc(1, state_size());
	memcpy(k, s.data, n);
	if (s.len - n != (n > sizeof(struct state) ? k->nheld *
	    sizeof(*k->held) : 0)) {
		free(k);
		return (err_set(err, ERR_CORRUPT, "a state of %zu bytes",
		    s.len));
	}
	if (s.len > n) {
		k->held = xmalloc(s.len - n);
		memcpy(k->held, s.data + n, s.len - n);
	}
	return (0);
}

static void
h_state_free(struct host_app *app, void *obj)
{
	struct timed_key *k = obj;

	(void)app;
	if (plan.timed != UNTIMED)
		free(k->held);
	free(obj);
}

static void
h_repr(struct host_app *app, const void *v, struct buf *b)
{
	(void)app;
	(void)v;
	buf_addf(b, "value");
}

static bool
h_changed(struct host_app *h, uint64_t since_ns, struct buf *what)
{
	(void)h;
	(void)since_ns;
	(void)what;
	return (false);
}

static void
h_idle(struct host_app *app)
{
	(void)app;
}

/* The worker asks for its host by this name. */
const struct host host_python = {
	.name = "simulated", .abi = HOST_ABI, .open = h_open,
	.describe = h_describe, .decode = h_decode, .generate = h_generate,
	.generate_seek = h_generate_seek, .key = h_key, .step = h_step,
	.window = h_window, .encode = h_encode, .pack = h_pack,
	.unpack = h_unpack, .val_free = h_val_free, .state_new = h_state_new,
	.state_save = h_state_save, .state_load = h_state_load,
	.state_free = h_state_free, .repr = h_repr, .idle_enter = h_idle,
	.idle_leave = h_idle, .changed = h_changed, .close = h_close,
};
