/*
 * A second step with timers and a ttl: what these do to a key, said once more
 * in a few lines, and whether what came out is that.
 *
 * Each output has the time at which it was made.  From one to the next it is
 * known which timers are set, when each is due, and when the key expires; so a
 * timer that is left out, comes again, or comes when it is not its turn shows,
 * and so does a key that begins anew without having expired, or goes on when
 * it has.  Where no client is involved the times and the order of messages,
 * too, are computed from the input alone.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "worker/window.h"

#define SINKS	2			/* TCP, file */
#define BEGIN	SEC			/* the first event time, about */

struct message {			/* of the reference */
	uint32_t	seq, sub;
};
static struct message line[INPUTS * FANS];	/* by key, as applied */
static uint32_t nline;
static uint32_t place[INPUTS];		/* where from, and behind what */
static uint32_t first_of[KEYS2 + 1];
static uint64_t latest;			/* event time that may be reached */

static struct {
	struct timed	 key[KEYS2];
	uint32_t	 n[KEYS2];	/* messages */
} sink[SINKS];
static uint32_t pending[SINKS];		/* timers that are set */

static struct {
	bool		 there;
	uint32_t	 worker;
	struct timed	 t;
} saved[KEYS2];
static uint64_t reached[WORKERS];	/* at least, by rows that are there */

/* --- what happens to a key ------------------------------------------------ */

int
timed_first(const struct timed *k)
{
	int i, first = -1;

	for (i = 0; i < TIMERS; i++)
		if (k->timer[i].due != 0 && (first < 0 || k->timer[i].due <
		    k->timer[first].due))
			first = i;
	return (first);
}

bool
timed_over(const struct timed *k, uint64_t at)
{
	return (k->expires != 0 && k->expires <= at && timed_first(k) < 0);
}

static void
step(struct timed *k, struct output *o, uint64_t at)
{
	k->st.version++;
	k->st.digest = plan_mix(k->st.digest, plan_mix(o->d1, o->seq *
	    UINT64_C(16) + o->sub) ^ o->nonce2 ^ plan_mix(at, 0));
	k->st.balance = (int64_t)at;
	if (at + plan.ttl > k->expires)
		k->expires = at + plan.ttl;
	o->v2 = k->st.version;
	o->d2 = k->st.digest;
	o->balance2 = k->st.balance;
}

/* What it gives follows in the next round. */
static void
set_timer(struct timed *k, uint32_t which, const struct output *o, uint64_t at)
{
	struct timer *t = &k->timer[which];

	t->due = at + 1 + plan_mix(o->seq, o->sub) % plan.delay;
	t->of = *o;
	t->of.sub += FANS;
	t->of.len = 0;
	t->of.sum = 0;
}

void
timed_message(struct timed *k, struct output *o, uint64_t at)
{
	uint32_t which = (o->seq + o->sub) % TIMERS;

	if (timed_over(k, at))
		memset(&k->st, 0, sizeof(k->st));
	step(k, o, at);
	if (o->seq % 5 == 0)		/* cancelled */
		memset(&k->timer[which], 0, sizeof(k->timer[which]));
	else
		set_timer(k, which, o, at);
}

void
timed_fire(struct timed *k, int which, uint64_t nonce, struct output *o)
{
	struct timer *t = &k->timer[which];
	uint64_t due = t->due;

	*o = t->of;
	memset(t, 0, sizeof(*t));
	o->nonce2 = nonce;
	step(k, o, due);
	if (o->seq % 3 == 0 && o->sub / FANS + 1 < ROUNDS)
		set_timer(k, (uint32_t)which, o, due);
}

/* --- the reference -------------------------------------------------------- */

static int
in_order(const void *a, const void *b)
{
	const struct message *x = a, *y = b;
	const struct input *i = &plan.input[x->seq], *j = &plan.input[y->seq];

	if (i->key2 != j->key2)
		return (i->key2 < j->key2 ? -1 : 1);
	if (i->at != j->at)
		return (i->at < j->at ? -1 : 1);
	if (x->seq != y->seq)
		return (place[x->seq] < place[y->seq] ? -1 : 1);
	return (x->sub < y->sub ? -1 : 1);
}

static void
make_line(void)
{
	uint32_t seq, sub, i, key;

	nline = 0;
	for (seq = 0; seq < plan.ninputs; seq++)
		for (sub = 0; sub < plan.input[seq].fan; sub++)
			if (!plan.input[seq].dropped)
				line[nline++] = (struct message){ seq, sub };
	qsort(line, nline, sizeof(line[0]), in_order);
	for (i = 0, key = 0; key <= KEYS2; key++) {
		while (i < nline && plan.input[line[i].seq].key2 < key)
			i++;
		first_of[key] = i;
	}
}

/* Each source has a watermark of its own, and a message that is late for it
 * counts as if it were of that time. */
static void
make_times(uint32_t from)
{
	uint64_t watermark = 0;
	struct input *in;
	uint32_t i;

	for (i = 0; i < plan.nfrom[from]; i++) {
		place[plan.from[from][i]] = from << 16 | i;
		in = &plan.input[plan.from[from][i]];
		if (in->dropped)
			continue;
		in->at = in->time > watermark ? in->time : watermark;
		if (in->time - plan.lateness > watermark)
			watermark = in->time - plan.lateness;
	}
}

void
timed_make(void)
{
	struct rng r = { plan_mix(plan.seed, 5) };
	struct input *in;
	uint32_t i;

	latest = 0;
	for (i = 0; i < plan.ninputs; i++) {
		in = &plan.input[i];
		in->time = BEGIN + i * US + rng_below(&r, 20 * US);
		if (rng_one_in(&r, 8))
			in->time -= rng_below(&r, 80 * US);
		if (in->time + ROUNDS * (plan.delay + 1) > latest)
			latest = in->time + ROUNDS * (plan.delay + 1);
	}
	for (i = 0; i < FROMS; i++)
		make_times(i);
	make_line();
}

/* --- each output as it comes --------------------------------------------- */

void
timed_reset(void)
{
	if (plan.timed == UNTIMED)
		return;
	memset(sink, 0, sizeof(sink));
	memset(pending, 0, sizeof(pending));
	memset(saved, 0, sizeof(saved));
	memset(reached, 0, sizeof(reached));
}

void
timed_file_again(void)
{
	memset(&sink[1], 0, sizeof(sink[1]));
	pending[1] = 0;
}

/* No watermark or clock is beyond. */
static uint64_t
now_at_most(void)
{
	return (plan.timed == TIMED_EVENT ? latest : world_latest_ns());
}

static bool
is_it(const struct timed *k, const struct output *o)
{
	return (k->st.version == o->v2 && k->st.digest == o->d2 &&
	    k->st.balance == o->balance2);
}

static void
check_turn(const char *where, const struct timed *k, uint32_t number,
    const struct output *o)
{
	const struct message *m = &line[first_of[o->key2] + number];
	const struct input *in = &plan.input[o->seq];
	uint64_t at = (uint64_t)o->balance2;
	int t = timed_first(k);

	if (t >= 0 && k->timer[t].due <= at)
		fail("%s: second step, key %u, input %u.%u: applied at %llu, "
		    "and the timer of %llu has not fired", where, o->key2,
		    o->seq, o->sub, (unsigned long long)at,
		    (unsigned long long)k->timer[t].due);
	if (at < in->time || at < (uint64_t)k->st.balance || at > latest)
		fail("%s: second step, key %u, input %u.%u: applied at %llu, "
		    "it is of %llu, and the key was at %llu", where, o->key2,
		    o->seq, o->sub, (unsigned long long)at, (unsigned long
		    long)in->time, (unsigned long long)k->st.balance);
	if (plan.exact && (m->seq != o->seq || m->sub != o->sub ||
	    at != in->at))
		fail("%s: second step, key %u: input %u.%u at %llu, the "
		    "reference says %u.%u at %llu", where, o->key2, o->seq,
		    o->sub, (unsigned long long)at, m->seq, m->sub,
		    (unsigned long long)plan.input[m->seq].at);
}

/* By processing time a worker may find that a key has expired before it gets
 * a message that is older. */
static bool
may_have_gone(const struct timed *k)
{
	return (plan.timed == TIMED_PROCESSING &&
	    timed_over(k, now_at_most()));
}

static void
check_message(const char *where, struct timed *k, const struct output *o)
{
	struct timed was = *k;
	struct output c = *o;

	timed_message(k, &c, (uint64_t)o->balance2);
	if (!is_it(k, o) && may_have_gone(&was)) {
		memset(k, 0, sizeof(*k));
		c = *o;
		timed_message(k, &c, (uint64_t)o->balance2);
	}
	counts.expired += was.st.version > 0 && o->v2 == 1;
	if (!is_it(k, o))
		fail("%s: second step, key %u, input %u.%u: version %llu "
		    "after %llu, the key expires at %llu and this is of %llu",
		    where, o->key2, o->seq, o->sub, (unsigned long long)o->v2,
		    (unsigned long long)was.st.version, (unsigned long long)
		    was.expires, (unsigned long long)o->balance2);
}

static void
check_timer(const char *where, struct timed *k, const struct output *o)
{
	int t = timed_first(k);
	uint64_t due = (uint64_t)o->balance2;
	struct output c;

	counts.timers++;
	if (t < 0 || k->timer[t].of.seq != o->seq || k->timer[t].of.sub !=
	    o->sub || k->timer[t].due != due) {
		fail("%s: second step, key %u: a timer of input %u.%u fires "
		    "at %llu, it is not the next one that is set", where,
		    o->key2, o->seq, o->sub, (unsigned long long)due);
		return;
	}
	/* At the end of all sources they are called early. */
	if (due > now_at_most() && plan.tcp_source)
		fail("%s: second step, key %u: a timer of input %u.%u fires "
		    "before it is due", where, o->key2, o->seq, o->sub);
	timed_fire(k, t, o->nonce2, &c);
	if (!is_it(k, o))
		fail("%s: second step, key %u: a timer of input %u.%u finds "
		    "another history", where, o->key2, o->seq, o->sub);
}

static uint32_t
timers_of(const struct timed *k)
{
	uint32_t i, n = 0;

	for (i = 0; i < TIMERS; i++)
		n += k->timer[i].due != 0;
	return (n);
}

void
timed_check(const char *where, bool file, const struct output *o)
{
	struct timed *k = &sink[file].key[o->key2];

	pending[file] -= timers_of(k);
	if (o->sub >= FANS)
		check_timer(where, k, o);
	else {
		if (plan.timed == TIMED_EVENT)
			check_turn(where, k, sink[file].n[o->key2], o);
		sink[file].n[o->key2]++;
		check_message(where, k, o);
	}
	pending[file] += timers_of(k);
}

/* By event time some stay set as long as sources are only silent. */
bool
timed_complete(void)
{
	return (plan.timed == UNTIMED || (plan.timed == TIMED_EVENT &&
	    !plan.exact) || ((!plan.tcp_sink || pending[0] == 0) &&
	    (!plan.file_sink || pending[1] == 0)));
}

/* --- after the stop ------------------------------------------------------ */

void
timed_row(uint32_t worker, size_t key, struct slice value)
{
	struct timed_key k;
	size_t n = offsetof(struct timed_key, held);

	if (key >= KEYS2 || saved[key].there || value.len != WINDOW_HEAD + n) {
		fail("a saved state of the second step, key %zu, of %zu bytes "
		    "is not the key's only one, or messages still wait", key,
		    value.len);
		return;
	}
	memcpy(&k, value.data + WINDOW_HEAD, n);
	saved[key].there = true;
	saved[key].worker = worker;
	saved[key].t = k.t;
	if ((uint64_t)k.t.st.balance > reached[worker])
		reached[worker] = (uint64_t)k.t.st.balance;
}

static void
check_row(size_t key, const struct timed *right)
{
	if (!saved[key].there) {
		if (right->st.version != 0 && !timed_over(right,
		    now_at_most()))
			fail("second step, key %zu: it is not saved, and "
			    "cannot have expired", key);
		return;
	}
	if (memcmp(&saved[key].t, right, sizeof(*right)) != 0)
		fail("saved state of the second step, key %zu: version %llu, "
		    "the outputs say %llu", key, (unsigned long long)
		    saved[key].t.st.version, (unsigned long long)
		    right->st.version);
	/* Its worker's watermark was there; the end of sources is none. */
	if (plan.timed == TIMED_EVENT && !plan.exact &&
	    timed_over(&saved[key].t, reached[saved[key].worker]))
		fail("second step, key %zu: it has expired at %llu, and is "
		    "still saved when it is %llu", key, (unsigned long long)
		    saved[key].t.expires, (unsigned long long)
		    reached[saved[key].worker]);
}

void
timed_final(void)
{
	uint32_t s = plan.tcp_sink ? 0 : 1;
	size_t i;

	for (i = 0; i < KEYS2; i++) {
		check_row(i, &sink[s].key[i]);
		if (plan.tcp_sink && plan.file_sink && memcmp(&sink[0].key[i],
		    &sink[1].key[i], sizeof(sink[0].key[i])) != 0)
			fail("second step, key %zu: the sinks differ", i);
	}
}

uint64_t
timed_digest(void)
{
	uint32_t i, s = plan.tcp_sink ? 0 : 1;
	uint64_t d = 0;

	for (i = 0; plan.exact && !plan.after && i < KEYS2; i++)
		d = plan_mix(d, sink[s].key[i].st.digest);
	return (d);
}
