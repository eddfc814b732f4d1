/*
 * The loop of a worker.  Callbacks only put things into the journal; what
 * follows happens once per turn, in this order:
 *
 *	process records → outboxes → release `done` → what is stable →
 *	sinks, peers → checkpoint → syncing → admission
 *
 * Nothing waits for an outbox: an outbox grows, and while one is above its
 * mark only admission is throttled.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/planted.h"
#include "worker/sizes.h"
#include "worker/worker.h"

#define TURN_NS		2000000ULL	/* of processing per turn */
#define TICK_S		0.05
#define SETTLE_S	0.002	/* between looks at what is acknowledged */

bool
loop_pressure(const struct worker *w, int x)
{
	uint64_t mark = (uint64_t)w->conf.outbox_mark;
	uint32_t i, p;

	for (i = (uint32_t)(x + 1); i < w->topo.nexchanges; i++)
		for (p = 0; p < w->n; p++)
			if (p != w->me && outbox_used(
			    &w->peer_box[channel_of(w, i, p)]) > mark)
				return (true);
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].mine && outbox_used(&w->sinks[i].box) > mark)
			return (true);
	return (false);
}

bool
loop_quiet(struct worker *w)
{
	size_t i, n = (size_t)w->topo.nexchanges * w->n;

	if (!w->running || !w->ready || w->stalled ||
	    w->a.pos < journal_tail(&w->journal) || !source_settled(w) ||
	    !durable_quiet(w))
		return (false);
	for (i = 0; i < n; i++)
		if (i % w->n != w->me && outbox_used(&w->peer_box[i]) > 0)
			return (false);
	return (true);
}

/* --- the turn goes to the outboxes ------------------------------------- */

/* One frame to a peer's outbox is the wire's data message. */
static void
frame_message(struct buf *b, uint32_t x, const struct turn_frame *f,
    struct slice records)
{
	struct msg_data d = { x, f->pos, f->index, f->records, records };

	buf_clear(b);
	msg_put_data(b, &d);
}

#define MESSAGE_SLACK	64		/* a data message around its records */

static int
reserve(struct outbox *o, const struct turn *t, struct err *err)
{
	if (t->nframes == 0)
		return (0);
	return (outbox_reserve(o, t->data.len + t->lens.len + t->nframes *
	    (FRAME_HEADER + MESSAGE_SLACK), err));
}

static int
reserve_all(struct worker *w, struct err *err)
{
	size_t i, n = (size_t)w->topo.nexchanges * w->n;

	for (i = 0; i < n; i++)
		if (reserve(&w->peer_box[i], &w->a.to_peer[i], err) == -1)
			return (-1);
	for (i = 0; i < w->topo.nsinks; i++)
		if (reserve(&w->sinks[i].box, &w->a.to_sink[i], err) == -1)
			return (-1);
	return (0);
}

static void
put_turn(struct outbox *o, const struct turn *t, int x, struct buf *scratch)
{
	size_t i, from = 0;
	const uint32_t *lens = (const uint32_t *)(const void *)t->lens.data;
	struct frame f;

	for (i = 0; i < t->nframes; i++) {
		const struct turn_frame *tf = &t->frame[i];
		struct slice body = slice_of(t->data.data + from, tf->end -
		    from);

		memset(&f, 0, sizeof(f));
		f.pos = tf->pos;
		f.index = tf->index;
		f.records = tf->records;
		if (x >= 0) {
			frame_message(scratch, (uint32_t)x, tf, body);
			outbox_append(o, &f, buf_slice(scratch), NULL);
		} else {
			outbox_append(o, &f, body, lens);
			lens += tf->records;
		}
		from = tf->end;
	}
}

/*
 * All outboxes first, then the one release word.  Without room the turn
 * waits in memory, and with it the worker, until something has left.
 */
void
loop_flush(struct worker *w)
{
	static struct log_rate rate;
	static struct buf scratch;
	size_t i, n = (size_t)w->topo.nexchanges * w->n;
	struct err err;

	if (w->a.pos <= journal_done(&w->journal) && w->a.turn_bytes == 0) {
		/* A replay, whose outputs have left before. */
		STAT_SET(w->stats, journal_done, w->a.pos);
		return;
	}
	if (reserve_all(w, &err) == -1) {
		if (!w->stalled || log_allowed(&rate))
			log_error("outputs wait for space, sources stop: %s",
			    err.text);
		w->stalled = true;
		return;
	}
	if (w->stalled)
		log_info("there is space again");
	w->stalled = false;
	if (planted("RULE1C"))			/* before its outputs */
		journal_release(&w->journal, w->a.pos);
	FAULT_POINT(turn_put_before);
	for (i = 0; i < n; i++)
		if (w->a.to_peer[i].nframes > 0) {
			put_turn(&w->peer_box[i], &w->a.to_peer[i],
			    (int)(i / w->n), &scratch);
			if (planted("RULE1"))
				usleep(3000);
		}
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->a.to_sink[i].nframes > 0)
			put_turn(&w->sinks[i].box, &w->a.to_sink[i], -1,
			    &scratch);
	FAULT_POINT(turn_put_after);
	automaton_turn_clear(&w->a);
	if (w->a.pos > journal_done(&w->journal))
		journal_release(&w->journal, w->a.pos);
	STAT_SET(w->stats, journal_done, w->a.pos);
	if (!w->durable)
		checkpoint_free(w, w->a.entry);
}

void
loop_process(struct worker *w, uint64_t budget_ns)
{
	struct err err;

	if (w->stalled || w->a.pos >= journal_tail(&w->journal) ||
	    durable_holds(w))
		return;
	if (planted("RULE7") && loop_pressure(w, -1))
		return;				/* waits for an outbox */
	if (automaton_run(&w->a, clock_mono_ns, clock_mono_ns() + budget_ns,
	    TURN_BYTES, &err) == 0)
		return;
	/* What came before the failed record has its outputs. */
	loop_flush(w);
	worker_fatal_err(w, &err);
}

/* --- once per turn ----------------------------------------------------- */

static void
say_ready(struct worker *w)
{
	struct msg_ready m = { w->a.pos };
	struct buf b = { 0 };

	w->ready = true;
	msg_put_ready(&b, &m);
	control_send(w, &b);
	buf_fini(&b);
}

static void
update_stats(struct worker *w)
{
	size_t i, n = (size_t)w->topo.nexchanges * w->n;
	uint64_t bytes = 0;

	for (i = 0; i < n; i++)
		if (i % w->n != w->me)
			bytes += outbox_used(&w->peer_box[i]);
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].mine)
			bytes += outbox_used(&w->sinks[i].box);
	STAT_SET(w->stats, outbox_bytes, bytes);
	STAT_SET(w->stats, sources_open, source_open_count(w));
	STAT_SET(w->stats, journal_tail, journal_tail(&w->journal));
}

/* A record was set aside: whatever kills next, it is behind us for good. */
static void
settle_aside(struct worker *w)
{
	w->a.passed = false;
	FAULT_POINT(aside_settle_before);
	if (w->machine) {	/* its commit needs the others: not in here */
		if (w->a.pos >= w->a.drop)
			w->settle_at = w->a.pos;
		w->early = true;
	} else {
		checkpoint_wait(w);
		checkpoint_begin(w);
		checkpoint_wait(w);
	}
	FAULT_POINT(aside_settle_after);
}

/* So many records of sources were in this turn until their outputs were in
 * the outboxes. */
static void
note_latency(struct worker *w, uint64_t began, uint64_t records)
{
	uint64_t ns;
	int bin = 0;

	records = STAT_GET(w->stats, records_in) - records;
	if (records == 0)
		return;
	for (ns = clock_mono_ns() - began; ns > 0; ns >>= 1)
		bin++;
	STAT_ADD(w->stats, latency[bin], records);
}

static void
on_turn(struct ev_loop *loop, ev_prepare *p, int events)
{
	struct worker *w = p->data;
	uint64_t began, records;
	bool more;

	(void)events;
	STAT_ADD(w->stats, turns, 1);
	if (!w->running)
		return;
	if (w->aborting) {
		loop_flush(w);
		sink_finish(w);
		control_flush_blocking(w);
		exit(0);
	}
	if (w->finishing)
		checkpoint_finish(w);
	more = source_pump(w);
	more |= source_tick(w);
	began = clock_mono_ns();
	records = STAT_GET(w->stats, records_in);
	loop_process(w, TURN_NS);
	loop_flush(w);
	note_latency(w, began, records);
	if (w->a.passed)
		settle_aside(w);
	update_stats(w);	/* what is owed is said before it is sent */
	durable_turn(w);
	feeder_talk(w);
	source_garbage(w);
	if (sink_flush(w) && !ev_is_active(&w->settle)) {
		ev_timer_set(&w->settle, SETTLE_S, 0);
		ev_timer_start(loop, &w->settle);
	}
	peer_flush(w);
	if (w->want_checkpoint != 0 || checkpoint_urgent(w))
		checkpoint_begin(w);
	checkpoint_slice(w, false);
	durable_round(w);
	source_admit(w);
	update_stats(w);
	if (!w->ready && w->a.pos >= w->replay_to && !w->stalled)
		say_ready(w);
	more |= w->a.pos < journal_tail(&w->journal) && !w->stalled &&
	    !durable_holds(w);
	more |= w->taking != NULL;
	more |= load_slice(w);
	if (more && !planted("RULE7"))
		ev_idle_start(loop, &w->more);
	else
		ev_idle_stop(loop, &w->more);
	if (more)
		return;
	/* About to wait: let the user's own threads run meanwhile. */
	w->idle = true;
	w->a.host->idle_enter(w->a.app);
}

static void
on_awake(struct ev_loop *loop, ev_check *c, int events)
{
	struct worker *w = c->data;

	(void)loop;
	(void)events;
	if (w->idle)
		w->a.host->idle_leave(w->a.app);
	w->idle = false;
}

static void
on_more(struct ev_loop *loop, ev_idle *i, int events)
{
	(void)loop;
	(void)i;
	(void)events;			/* its being active is its work */
}

static void
on_tick(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)events;			/* a turn follows */
	feeder_silent(t->data);
	kafka_source_lag(t->data);
	log_flush(0);
#ifdef WALLAROO_PLANTED
	peer_late(t->data);
#endif
}

static void
on_settle(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)t;
	(void)events;			/* a turn follows, which settles */
}

static void
on_checkpoint_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct worker *w = t->data;

	(void)loop;
	(void)events;
	if (w->running && !w->durable) {	/* nothing will be safer */
		feeder_taken(w);
		feeder_committed(w);
		kafka_source_taken(w);
		kafka_source_committed(w, false);
	}
	/* A checkpoint follows the votes; but not for ever. */
	if (w->running && committer_tick(w) && !w->asked_commit) {
		w->asked_commit = true;
		return;
	}
	w->asked_commit = false;
	if (w->running && (w->a.pos != STAT_GET(w->stats,
	    checkpoint_position) || w->retry != NULL))
		checkpoint_begin(w);
}

static void
on_committed(struct ev_loop *loop, ev_async *a, int events)
{
	(void)loop;
	(void)events;
	checkpoint_done(a->data);
}

static void
wake(void *arg)
{
	struct worker *w = arg;

	ev_async_send(w->loop, &w->stored);
}

void
loop_run(struct worker *w)
{
	double interval = (double)w->conf.checkpoint_interval / 1000;
	static ev_check awake;
	struct err err;

	ev_async_init(&w->stored, on_committed);
	w->stored.data = w;
	ev_async_start(w->loop, &w->stored);
	if ((w->durable && store_start(&w->store, wake, w, &err) == -1) ||
	    durable_start(w, &err) == -1)
		worker_fatal_err(w, &err);
	ev_prepare_init(&w->turn, on_turn);
	w->turn.data = w;
	ev_prepare_start(w->loop, &w->turn);
	ev_check_init(&awake, on_awake);
	awake.data = w;
	ev_set_priority(&awake, EV_MAXPRI);
	ev_check_start(w->loop, &awake);
	ev_idle_init(&w->more, on_more);
	ev_timer_init(&w->tick, on_tick, TICK_S, TICK_S);
	w->tick.data = w;
	ev_timer_start(w->loop, &w->tick);
	ev_timer_init(&w->settle, on_settle, SETTLE_S, 0);
	ev_timer_init(&w->checkpoint, on_checkpoint_time, interval, interval);
	w->checkpoint.data = w;
	ev_timer_start(w->loop, &w->checkpoint);
	for (;;)
		ev_run(w->loop, 0);
}
