/*
 * Was it right?  Four answers that trust nothing of the system:
 *
 * - The ledger: each output carries its key's version and a running digest,
 *   so a gap, a repeat, another order or a reset shows in the outputs alone.
 * - The bank: what all payers have paid is what all receivers have got.
 * - The reference: states of the first step, and those of the second where
 *   its inputs' order is determined, are computed from the input.
 * - Golden replay: a run without faults must give the same digest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

#define SINKS	2			/* TCP, file */

static struct {
	bool		 seen[INPUTS][SUBS];
	bool		 ever[INPUTS][SUBS];
	struct output	 got[INPUTS][SUBS];
	struct state	 key[KEYS2];	/* second step, as seen */
	uint32_t	 n;
} sink[SINKS];
static uint32_t expected;
static bool accepted;			/* a loss was: less is known */
static struct {				/* TCP: of each worker in order */
	uint32_t	 n;
	uint16_t	 at[INPUTS][SUBS];
} stream[WORKERS];

/* --- what steps do to a state -------------------------------------------- */

static uint32_t
share(uint32_t seq, uint32_t sub)
{
	const struct input *in = &plan.input[seq];
	uint32_t part = in->amount / in->fan;

	return (sub == 0 ? in->amount - part * (in->fan - 1) : part);
}

void
state_first(struct state *st, uint32_t seq, uint64_t nonce)
{
	st->version++;
	st->digest = plan_mix(st->digest, (seq * UINT64_C(1000) +
	    plan.input[seq].amount) ^ nonce);
	st->balance -= plan.input[seq].amount;
}

void
state_second(struct state *st, const struct output *o)
{
	st->version++;
	st->digest = plan_mix(st->digest, plan_mix(o->d1, o->seq *
	    UINT64_C(16) + o->sub) ^ o->nonce2);
	st->balance += share(o->seq, o->sub);
}

uint64_t
output_sum(const struct output *o)
{
	uint64_t sum = o->len;

	sum = plan_mix(sum, (uint64_t)o->seq << 32 | o->sub);
	sum = plan_mix(sum, (uint64_t)o->key1 << 32 | o->key2);
	sum = plan_mix(sum, o->v1 ^ o->d1);
	sum = plan_mix(sum, o->nonce1 ^ o->nonce2 << 1);
	sum = plan_mix(sum, (uint64_t)o->balance1);
	sum = plan_mix(sum, o->v2 ^ o->d2);
	return (plan_mix(sum, (uint64_t)o->balance2));
}

/* --- each output as it comes --------------------------------------------- */

void
oracle_reset(void)
{
	uint32_t i;

	for (i = 0; i < SINKS; i++) {
		memset(sink[i].seen, 0, sizeof(sink[i].seen));
		memset(sink[i].ever, 0, sizeof(sink[i].ever));
		memset(sink[i].key, 0, sizeof(sink[i].key));
		sink[i].n = 0;
	}
	for (i = 0; i < WORKERS; i++)
		stream[i].n = 0;
	expected = 0;
	accepted = false;
	for (i = 0; i < plan.ninputs; i++)
		if (!plan.input[i].dropped)
			expected += plan.input[i].fan;
	timed_reset();
}

/* What it has shown is not forgotten. */
void
oracle_file_again(void)
{
	memset(sink[1].seen, 0, sizeof(sink[1].seen));
	memset(sink[1].key, 0, sizeof(sink[1].key));
	sink[1].n = 0;
	timed_file_again();
	dump_file_again();
}

static bool
is_whole(const struct output *o, const uint8_t *p, size_t n)
{
	const struct input *in;

	if (o->magic != OUTPUT_MAGIC || o->seq >= plan.ninputs ||
	    o->sum != output_sum(o))
		return (false);
	in = &plan.input[o->seq];
	if (in->dropped || o->sub >= (plan.timed != UNTIMED ? SUBS : FANS) ||
	    o->sub % FANS >= in->fan || o->key1 != in->key1 ||
	    o->key2 != in->key2 || n != sizeof(*o) + in->pad)
		return (false);
	return (memcmp(p + sizeof(*o), plan_pad(o->seq), in->pad) == 0);
}

static void
check_first(const char *where, const struct output *o)
{
	const struct input *in = &plan.input[o->seq];

	if (o->v1 == in->v1 && (o->d1 == in->d1 || plan.after) &&
	    o->balance1 == in->balance1)
		return;
	fail("%s: first step, key %u, input %u: version %llu, the reference "
	    "says %llu%s", where, o->key1, o->seq, (unsigned long long)o->v1,
	    (unsigned long long)in->v1, o->v1 == in->v1 ?
	    ", of another history" : "");
}

static void
check_second(const char *where, struct state *st, const struct output *o)
{
	if (o->v2 <= st->version)
		fail("%s: second step, key %u, input %u: version %llu again",
		    where, o->key2, o->seq, (unsigned long long)o->v2);
	else if (o->v2 > st->version + 1)
		fail("%s: second step, key %u, input %u: a gap, version %llu "
		    "after %llu", where, o->key2, o->seq, (unsigned long
		    long)o->v2, (unsigned long long)st->version);
	else {
		state_second(st, o);
		if (o->d2 != st->digest || o->balance2 != st->balance)
			fail("%s: second step, key %u, input %u: version %llu "
			    "of another history", where, o->key2, o->seq,
			    (unsigned long long)o->v2);
	}
}

/* --- what is saved ------------------------------------------------------- */

struct found {
	struct state	first[FROMS * KEYS], second[KEYS2];
	int64_t		sum;
	uint32_t	worker;		/* at which it is */
};

static void
on_row(void *arg, size_t stage, struct slice key, struct slice value)
{
	struct found *f = arg;
	struct state *st;
	char text[16] = "";
	unsigned long n;

	if (stage != 1 && plan.timed != UNTIMED && key.len < sizeof(text)) {
		memcpy(text, key.data, key.len);
		timed_row(f->worker, strtoul(text + 1, NULL, 10), value);
		return;
	}
	if (key.len >= sizeof(text) || value.len != sizeof(*st)) {
		fail("a saved state cannot be read");
		return;
	}
	memcpy(text, key.data, key.len);
	n = strtoul(text + 1, NULL, 10);
	st = stage == 1 ? &f->first[n] : &f->second[n];
	if (n >= (stage == 1 ? FROMS * KEYS : KEYS2) || st->version != 0) {
		fail("a saved state of step %zu, key \"%s\", is at two "
		    "workers", stage, text);
		return;
	}
	memcpy(st, value.data, sizeof(*st));
	dump_state(stage == 1 ? "first" : "second", text, st);
	f->sum += st->balance;
}

/* --- when a loss was accepted --------------------------------------------- */

static struct found at_loss;		/* when it was */
static bool restarted[SINKS][KEYS2];	/* a key was there since */
#define LEAPS	2			/* what comes of either worker */
static uint8_t leaps[KEYS2];

static void
read_saved(struct found *f)
{
	uint32_t i;

	memset(f, 0, sizeof(*f));
	for (i = 0; i < plan.workers; i++)
		store_sim_rows(i, on_row, f);
}

void
oracle_accept(void)
{
	accepted = true;
	dump_close("dark");		/* no reference knows what is lost */
	read_saved(&at_loss);
	memset(restarted, 0, sizeof(restarted));
	memset(leaps, 0, sizeof(leaps));
}

static bool
goes_on(const struct state *from, const struct output *o)
{
	struct state st = *from;

	state_second(&st, o);
	return (o->v2 == st.version && o->d2 == st.digest &&
	    o->balance2 == st.balance);
}

/*
 * A key goes on where it was, or once at its worker's checkpoint; or it was
 * there before with the same content.  On its way to the file it comes through
 * another worker, where some of it may be lost.
 */
static void
after_loss(const char *where, bool file, const struct output *o)
{
	struct state *st = &sink[file].key[o->key2];
	bool new = goes_on(st, o);

	if (!new && !restarted[file][o->key2]) {
		restarted[file][o->key2] = new =
		    goes_on(&at_loss.second[o->key2], o);
	}
	if (!new && file && leaps[o->key2]++ < LEAPS)
		new = true;
	if (new)
		*st = (struct state){ o->v2, o->d2, o->balance2 };
	else if (!sink[file].ever[o->seq][o->sub] || memcmp(o,
	    &sink[file].got[o->seq][o->sub], sizeof(*o)) != 0)
		fail("%s: after an accepted loss key %u has version %llu of "
		    "neither what was there nor what was saved (%llu)", where,
		    o->key2, (unsigned long long)o->v2, (unsigned long long)
		    at_loss.second[o->key2].version);
}

/* Nothing that was saved is lost, and nothing else was shown. */
void
oracle_accepted_final(void)
{
	static struct found f;
	uint32_t i;

	if (failed)
		return;
	if (world_losses() == 0)
		fail("a loss was accepted, and nothing says which");
	if (!world_clean())
		fail("the catalog does not say that the stop was clean");
	for (i = 0; i < plan.workers; i++)
		if (!store_sim_clean(i))
			fail("worker %u was not stopped cleanly", i);
	read_saved(&f);
	for (i = 0; i < FROMS * KEYS; i++)
		if (f.first[i].version < at_loss.first[i].version)
			fail("first step, key %u: version %llu was saved and "
			    "is lost", i, (unsigned long long)
			    at_loss.first[i].version);
	for (i = 0; i < KEYS2; i++) {
		if (f.second[i].version < at_loss.second[i].version)
			fail("second step, key %u: version %llu was saved "
			    "and is lost", i, (unsigned long long)
			    at_loss.second[i].version);
		if (restarted[0][i] && memcmp(&f.second[i], &sink[0].key[i],
		    sizeof(struct state)) != 0)
			fail("second step, key %u: a receiver's last version "
			    "is %llu, %llu is saved", i, (unsigned long long)
			    sink[0].key[i].version, (unsigned long long)
			    f.second[i].version);
	}
}

/*
 * What one worker sends is one stream.  A connection begins somewhere in what
 * was seen of it, or right behind; from there on nothing is left out, and
 * nothing comes again.
 */
static void
check_stream(uint32_t worker, const struct output *o, uint32_t *next)
{
	uint32_t at = stream[worker].n;

	if (sink[0].ever[o->seq][o->sub])
		at = stream[worker].at[o->seq][o->sub];
	else
		stream[worker].at[o->seq][o->sub] =
		    (uint16_t)stream[worker].n++;
	if (*next != 0 && at + 1 != *next)
		fail("TCP sink: worker %u sends its record %u (input %u.%u) "
		    "after the one before %u", worker, at, o->seq, o->sub,
		    *next - 1);
	*next = at + 2;
}

void
oracle_received(uint32_t worker, const uint8_t *p, size_t n, bool again,
    uint32_t *next)
{
	struct output o;

	memcpy(&o, p, sizeof(o));
	if (is_whole(&o, p, n) && !accepted)
		check_stream(worker, &o, next);
	oracle_output(false, p, n, again);
}

void
oracle_output(bool file, const uint8_t *p, size_t n, bool again)
{
	const char *where = file ? "file sink" : "TCP sink";
	struct output o;

	dump_output(file, p, n, again);
	memcpy(&o, p, sizeof(o));
	if (!is_whole(&o, p, n)) {
		fail("%s: a record of %zu bytes that was never made", where,
		    n);
		return;
	}
	trace("%s: output input=%u.%u key1=%u v1=%llu key2=%u v2=%llu", where,
	    o.seq, o.sub, o.key1, (unsigned long long)o.v1, o.key2,
	    (unsigned long long)o.v2);
	counts.outputs++;
	digest(o.sum);
	if (accepted) {
		after_loss(where, file, &o);
		return;
	}
	if (sink[file].seen[o.seq][o.sub]) {
		counts.repeats++;
		if (!again)
			fail("%s: input %u.%u comes again (key %u, version "
			    "%llu)", where, o.seq, o.sub, o.key2,
			    (unsigned long long)o.v2);
		else if (memcmp(&o, &sink[file].got[o.seq][o.sub],
		    sizeof(o)) != 0)
			fail("%s: input %u.%u comes again with something "
			    "else", where, o.seq, o.sub);
		return;
	}
	if (sink[file].ever[o.seq][o.sub] &&
	    memcmp(&o, &sink[file].got[o.seq][o.sub], sizeof(o)) != 0)
		fail("%s: input %u.%u was something else before the power "
		    "was lost", where, o.seq, o.sub);
	sink[file].seen[o.seq][o.sub] = true;
	sink[file].ever[o.seq][o.sub] = true;
	sink[file].got[o.seq][o.sub] = o;
	sink[file].n += o.sub < FANS;
	check_first(where, &o);
	if (plan.timed != UNTIMED)
		timed_check(where, file, &o);
	else
		check_second(where, &sink[file].key[o.key2], &o);
}

/* All outputs of an input were at a sink. */
bool
oracle_has(uint32_t seq)
{
	const struct input *in = &plan.input[seq];
	uint32_t k;

	for (k = 0; k < in->fan && !in->dropped; k++)
		if (!sink[!plan.tcp_sink].ever[seq][k])
			return (false);
	return (true);
}

bool
oracle_complete(void)
{
	return ((!plan.tcp_sink || sink[0].n == expected) &&
	    (!plan.file_sink || sink[1].n == expected) && timed_complete());
}

void
oracle_missing(char *text, size_t room)
{
	uint32_t s, i, k;

	for (s = 0; s < SINKS; s++)
		for (i = 0; i < plan.ninputs; i++)
			for (k = 0; k < plan.input[i].fan; k++)
				if ((s == 0 ? plan.tcp_sink : plan.file_sink)
				    && !plan.input[i].dropped &&
				    !sink[s].seen[i][k]) {
					(void)snprintf(text, room, "%s has %u "
					    "of %u outputs, that of input "
					    "%u.%u is missing", s == 0 ?
					    "TCP sink" : "file sink",
					    sink[s].n, expected, i, k);
					return;
				}
	(void)snprintf(text, room, "all outputs are there, but it does not "
	    "stop");
}

/* --- after the stop ------------------------------------------------------ */

static void
check_saved(const char *step, size_t key, const struct state *saved,
    const struct state *right)
{
	if (memcmp(saved, right, sizeof(*saved)) != 0)
		fail("saved state of the %s step, key %zu: version %llu, the "
		    "outputs and the reference say %llu", step, key,
		    (unsigned long long)saved->version,
		    (unsigned long long)right->version);
}

/* The first step's histories, from what each input's outputs say. */
static void
check_chains(uint32_t from, uint32_t s, struct state *right)
{
	const struct output *o;
	struct state *st;
	uint32_t i, k, seq;

	for (i = 0; i < plan.nfrom[from]; i++) {
		seq = plan.from[from][i];
		if (plan.input[seq].dropped)
			continue;
		st = &right[plan.input[seq].key1];
		state_first(st, seq, sink[s].got[seq][0].nonce1);
		for (k = 0; k < plan.input[seq].fan; k++) {
			o = &sink[s].got[seq][k];
			if (o->v1 != st->version || o->d1 != st->digest)
				fail("first step, key %u, input %u.%u: of "
				    "another history", o->key1, seq, k);
		}
	}
}

void
oracle_final(void)
{
	static struct found f;
	struct state right[FROMS * KEYS];
	uint32_t i, s = plan.tcp_sink ? 0 : 1;
	char text[256];

	if (failed)
		return;
	if (!oracle_complete()) {
		oracle_missing(text, sizeof(text));
		fail("stopped, but %s", text);
		return;
	}
	memset(&f, 0, sizeof(f));
	memset(right, 0, sizeof(right));
	if (!world_clean())
		fail("the catalog does not say that the stop was clean");
	for (i = 0; i < plan.workers; i++) {
		if (!store_sim_clean(i))
			fail("worker %u was not stopped cleanly", i);
		f.worker = i;
		store_sim_rows(i, on_row, &f);
	}
	for (i = 0; i < FROMS; i++)
		check_chains(i, s, right);
	for (i = 0; i < FROMS * KEYS; i++)
		check_saved("first", i, &f.first[i], &right[i]);
	if (plan.timed != UNTIMED)
		timed_final();
	for (i = 0; plan.timed == UNTIMED && i < KEYS2; i++) {
		check_saved("second", i, &f.second[i], &sink[s].key[i]);
		if (plan.tcp_sink && plan.file_sink && memcmp(
		    &sink[0].key[i], &sink[1].key[i], sizeof(struct state)))
			fail("second step, key %u: the sinks differ", i);
	}
	if (f.sum != 0 && plan.timed == UNTIMED)
		fail("the bank's sum is %lld, it was 0", (long long)f.sum);
	dump_close("stopped");
}

/* The histories of all keys, where these do not depend on the schedule. */
uint64_t
oracle_digest(void)
{
	uint64_t d = 0;
	uint32_t i, s = plan.tcp_sink ? 0 : 1;

	if (plan.timed != UNTIMED)
		return (timed_digest());
	for (i = 0; plan.single && !plan.after && i < KEYS2; i++)
		d = plan_mix(d, sink[s].key[i].digest);
	for (i = 0; i < KEYS2; i++)
		d = plan_mix(d, (uint64_t)sink[s].key[i].balance);
	return (d);
}
