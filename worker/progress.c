/* See progress.h. */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/automaton.h"
#include "worker/planted.h"

static const struct reach nothing = { REACH_ENDED, REACH_ENDLESS };

/* --- marks --------------------------------------------------------------- */

struct reach
reach_join(struct reach a, struct reach b)
{
	struct reach r;

	if (a.status == REACH_ENDED || b.status == REACH_ENDED)
		return (a.status == REACH_ENDED ? b : a);
	if (a.status == REACH_LIVE && b.status == REACH_LIVE)
		return (a.watermark < b.watermark ? a : b);
	if (a.status == REACH_LIVE || b.status == REACH_LIVE)
		return (a.status == REACH_LIVE ? a : b);
	/* Nobody is there: how far the one was who came farthest. */
	r.status = a.status < b.status ? a.status : b.status;
	r.watermark = a.watermark > b.watermark ? a.watermark : b.watermark;
	return (r);
}

void
reach_raise(struct reach *r, struct reach to)
{
	if (r->status != REACH_ENDED && to.watermark < r->watermark)
		to.watermark = r->watermark;
	*r = to;
}

static bool
same(struct reach a, struct reach b)
{
	return (a.status == b.status && a.watermark == b.watermark);
}

/* --- places -------------------------------------------------------------- */

static size_t
distance(const struct topo *t, size_t stage)
{
	size_t n = 0;

	while (t->stages[stage].next >= 0) {
		stage = (size_t)t->stages[stage].next;
		n++;
	}
	return (n);
}

/* The farthest from the sinks first. */
static void
put_in_order(const struct topo *t, uint32_t *order)
{
	size_t i, k, n = 0;

	for (i = 0; i < t->nstages; i++) {
		for (k = n++; k > 0 && distance(t, order[k - 1]) <
		    distance(t, i); k--)
			order[k] = order[k - 1];
		order[k] = (uint32_t)i;
	}
}

void
progress_init(struct automaton *a)
{
	struct progress *p = &a->progress;
	size_t n = a->topo->nexchanges;

	p->heard = xcalloc(n * a->workers + 1, sizeof(*p->heard));
	p->said = xcalloc(n + 1, sizeof(*p->said));
	p->at = xcalloc(a->topo->nstages + 1, sizeof(*p->at));
	p->order = xcalloc(a->topo->nstages + 1, sizeof(*p->order));
	put_in_order(a->topo, p->order);
	p->dirty = a->topo->event_time;
	p->urgent = false;
	/* A worker to which nothing leads has come to its end. */
	progress_pass(a, 0);
}

void
progress_fini(struct progress *p)
{
	free(p->heard);
	free(p->said);
	free(p->at);
	free(p->order);
	memset(p, 0, sizeof(*p));
}

/* --- sources ------------------------------------------------------------- */

static const struct topo_stage *
times_of(const struct automaton *a, size_t s)
{
	return (&a->topo->stages[a->topo->sources[s].event_stage]);
}

/* Has nothing come for so long that nobody waits for it? */
static bool
is_idle(const struct part *part, uint64_t idle_ns, uint64_t now_ns)
{
	return (idle_ns != 0 && now_ns > part->heard_ns &&
	    now_ns - part->heard_ns > idle_ns);
}

/* Part of a source, which is `status` until it is idle. */
static struct reach
of_part(struct automaton *a, const struct part *part,
    enum reach_status status, uint64_t idle_ns, uint64_t now_ns)
{
	struct progress *p = &a->progress;
	struct reach r = { status, part->watermark };

	if (is_idle(part, idle_ns, now_ns))
		r.status = REACH_IDLE;
	else if (idle_ns != 0 && part->heard_ns + idle_ns < p->idle_ns)
		p->idle_ns = part->heard_ns + idle_ns + 1;
	return (r);
}

/* A listening source: nobody is waited for who has gone, or never came.  The
 * streams of connectors have one watermark, that of their source. */
static struct reach
of_clients(struct automaton *a, size_t s, uint64_t idle_ns, uint64_t now_ns)
{
	bool streams = a->topo->sources[s].kind == SOURCE_CONNECTOR;
	struct part *all = &a->sources[s].part;
	struct reach r = of_part(a, all, REACH_AWAY, idle_ns, now_ns);
	struct in_conn *c, *next;

	HASH_ITER(hh, a->conns, c, next)
		if (c->source == s && !c->eof && !c->bad)
			r = reach_join(r, of_part(a, streams ? all : &c->part,
			    REACH_LIVE, idle_ns, now_ns));
	return (r);
}

/* A source in Kafka: nobody knows what it gives before all partitions were
 * found, and who has none is not waited for. */
static struct reach
of_partitions(struct automaton *a, size_t s, uint64_t idle_ns,
    uint64_t now_ns)
{
	const struct offsets *t = &a->sources[s].offsets;
	struct reach r = of_part(a, &a->sources[s].part, t->looked ?
	    REACH_AWAY : REACH_LIVE, t->looked ? idle_ns : 0, now_ns);
	uint32_t i;

	for (i = 0; i < t->n; i++)
		r = reach_join(r, of_part(a, &t->o[i].part, REACH_LIVE,
		    idle_ns, now_ns));
	return (r);
}

/* What source s still gives here. */
static struct reach
of_source(struct automaton *a, size_t s, uint64_t now_ns)
{
	static const struct reach live = { REACH_LIVE, 0 };
	bool listens = source_listens(&a->topo->sources[s]);

	if (!listens && (!automaton_reads(a, s) || a->sources[s].ended))
		return (nothing);
	if (!a->topo->event_time)
		return (live);
	if (a->topo->sources[s].kind == SOURCE_KAFKA)
		return (of_partitions(a, s, times_of(a, s)->idle_ns, now_ns));
	return (listens ? of_clients(a, s, times_of(a, s)->idle_ns, now_ns) :
	    of_part(a, &a->sources[s].part, REACH_LIVE, times_of(a,
	    s)->idle_ns, now_ns));
}

uint64_t
progress_event(struct automaton *a, int stage, struct part *part,
    uint64_t time_ns, uint64_t now_ns)
{
	const struct topo_stage *st = &a->topo->stages[stage];
	uint64_t before = part->watermark, watermark = 0;

	if (time_ns > st->lateness_ns)
		watermark = time_ns - st->lateness_ns;
	if (watermark > part->watermark)
		part->watermark = watermark;
	if (watermark > before || is_idle(part, st->idle_ns, now_ns))
		a->progress.dirty = true;
	part->heard_ns = now_ns;
	return (before);
}

void
progress_part_over(struct automaton *a, size_t s, const struct part *part)
{
	struct part *all = &a->sources[s].part;

	if (!a->topo->event_time)
		return;
	if (part->watermark > all->watermark)
		all->watermark = part->watermark;
	if (part->heard_ns > all->heard_ns)
		all->heard_ns = part->heard_ns;
	a->progress.dirty = true;
}

uint64_t
progress_tick(const struct automaton *a)
{
	const struct progress *p = &a->progress;
	uint64_t due;

	if (p->urgent)
		return (0);
	due = p->said_ns + (uint64_t)a->conf->watermark_interval * 1000000;
	return (p->dirty && due < p->idle_ns ? due : p->idle_ns);
}

/* --- passing on ---------------------------------------------------------- */

/* What comes out of exchange x here; `in` goes into it here. */
static struct reach
through(struct automaton *a, int x, struct reach in)
{
	struct reach *heard = &a->progress.heard[(size_t)x * a->workers];
	struct reach r = nothing;
	uint32_t w;

	reach_raise(&heard[a->worker], in);
	for (w = 0; w < a->workers; w++)
		r = reach_join(r, heard[w]);
	return (r);
}

void
progress_pass(struct automaton *a, uint64_t now_ns)
{
	const struct topo *t = a->topo;
	struct progress *p = &a->progress;
	struct reach *at = p->at, r;
	size_t i, k;

	p->idle_ns = UINT64_MAX;
	for (i = 0; i < t->nstages; i++)
		at[i] = nothing;
	for (i = 0; i < t->nsources; i++)
		at[t->sources[i].next] = reach_join(at[t->sources[i].next],
		    of_source(a, i, now_ns));
	for (k = 0; k < t->nstages; k++) {
		i = p->order[k];
		r = at[i];
		if (t->stages[i].exchange >= 0)
			r = through(a, t->stages[i].exchange, r);
		else if (stage_has_dues(&t->stages[i]))
			r = windows_reach(&a->windows[i], r);
		if (t->stages[i].next >= 0)
			at[t->stages[i].next] = reach_join(
			    at[t->stages[i].next], r);
		else
			p->ended = r.status == REACH_ENDED;
	}
}

int
progress_unsaid(const struct automaton *a)
{
	const struct progress *p = &a->progress;
	struct reach will;
	size_t i, k;
	int x;

	for (k = 0; k < a->topo->nstages; k++) {
		i = p->order[k];
		x = a->topo->stages[i].exchange;
		if (x < 0)
			continue;
		will = p->said[x];
		reach_raise(&will, p->at[i]);
		if (!same(will, p->said[x]))
			return ((int)i);
	}
	return (-1);
}

/* --- saving -------------------------------------------------------------- */

void
part_pack(const struct part *part, struct buf *b)
{
	mp_put_uint(b, part->watermark);
	mp_put_uint(b, part->heard_ns);
}

struct part
part_unpack(struct mp *c)
{
	struct part part;

	part.watermark = mp_get_uint(c, UINT64_MAX);
	if (planted("TIME4"))
		part.watermark = 0;
	part.heard_ns = mp_get_uint(c, UINT64_MAX);
	return (part);
}

void
reach_pack(const struct reach *r, struct buf *b)
{
	mp_put_uint(b, r->status);
	mp_put_uint(b, r->watermark);
}

struct reach
reach_unpack(struct mp *c)
{
	struct reach r;

	r.status = (enum reach_status)mp_get_uint(c, REACH_STATUSES - 1);
	r.watermark = mp_get_uint(c, UINT64_MAX);
	return (r);
}

static void
pack_reaches(const struct reach *r, size_t n, struct buf *b)
{
	size_t i;

	mp_put_array(b, (uint32_t)(2 * n));
	for (i = 0; i < n; i++)
		reach_pack(&r[i], b);
}

void
progress_pack(const struct automaton *a, struct buf *b)
{
	const struct progress *p = &a->progress;

	mp_put_array(b, PROGRESS_FIELDS);
	mp_put_bool(b, p->dirty);
	mp_put_bool(b, p->urgent);
	mp_put_bool(b, p->ended);
	mp_put_uint(b, p->said_ns);
	mp_put_uint(b, p->idle_ns);
	pack_reaches(p->said, a->topo->nexchanges, b);
	pack_reaches(p->heard, (size_t)a->topo->nexchanges * a->workers, b);
}

static void
unpack_reaches(struct reach *r, size_t n, struct mp *c, bool whole)
{
	uint32_t i, found = mp_get_array(c);
	struct reach in;

	for (i = 0; i < found / 2 && mp_ok(c); i++) {
		in = reach_unpack(c);
		if (mp_ok(c) && whole && i < n && !planted("TIME6"))
			r[i] = in;
	}
}

/* In another shape everybody says everything again; with event times that is
 * on its way from the beginning. */
void
progress_unpack(struct automaton *a, struct mp *c, bool whole)
{
	struct progress *p = &a->progress, in = { 0 };
	size_t i;

	if (mp_get_array(c) != PROGRESS_FIELDS)
		c->bad = true;
	in.dirty = mp_get_bool(c);
	in.urgent = mp_get_bool(c);
	in.ended = mp_get_bool(c);
	in.said_ns = mp_get_uint(c, UINT64_MAX);
	in.idle_ns = mp_get_uint(c, UINT64_MAX);
	unpack_reaches(p->said, a->topo->nexchanges, c, whole);
	unpack_reaches(p->heard, (size_t)a->topo->nexchanges * a->workers, c,
	    whole);
	if (mp_ok(c) && whole) {
		p->dirty = in.dirty;
		p->urgent = in.urgent;
		p->ended = in.ended;
		p->said_ns = in.said_ns;
		p->idle_ns = in.idle_ns;
		return;
	}
	for (i = 0; i < a->topo->nsources; i++)
		if (a->sources[i].ended)
			p->dirty = p->urgent = true;
}
