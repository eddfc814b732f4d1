/*
 * The end of a finite run (at-end = stop): every source has ended, what they
 * gave is processed, the sinks have it; then the application stops as if
 * somebody had told it to.
 *
 * The counters in shared memory say cheaply when it is worth asking.  The
 * answer comes from the workers, by rounds as at a stop, but nothing is
 * stopped meanwhile: a window that still waits for its time, or an outbox
 * whose receiver is away, only makes it later.
 */
#include <string.h>

#include "common/log.h"
#include "supervisor/supervisor.h"

#define LOOK_S	0.05		/* between looks and between rounds */

static const char *
endless_source(const struct topo *t)
{
	uint32_t i;

	for (i = 0; i < t->nsources; i++)
		if (t->sources[i].kind != SOURCE_FILE &&
		    t->sources[i].kind != SOURCE_STDIN &&
		    t->sources[i].kind != SOURCE_GEN &&
		    t->sources[i].kind != SOURCE_KAFKA)
			return (t->sources[i].name);
	return (NULL);
}

static bool
may_have_ended(const struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (s->child[i].state != CHILD_RUNNING ||
		    STAT_GET(s->child[i].stats, sources_open) > 0)
			return (false);
	return (true);
}

static void
ask(struct child *c)
{
	struct msg_settle m = { c->s->settle.round };
	struct buf b = { 0 };

	msg_put_settle(&b, &m);
	channel_send(c, &b, -1);
	buf_fini(&b);
}

static void
on_look(struct ev_loop *loop, ev_timer *t, int events)
{
	struct supervisor *s = t->data;
	uint32_t i;

	(void)events;
	if (s->state != APP_RUNNING) {
		ev_timer_stop(loop, t);
		return;
	}
	if (s->settle.empty) {
		log_info("every source has ended, and the sinks have "
		    "everything app=%s", s->conf.name);
		app_stop(s);
		return;
	}
	if (s->settle.round > 0 && !drain_complete(&s->settle))
		return;
	if (!may_have_ended(s))
		return;
	(void)drain_next(&s->settle);
	for (i = 0; i < s->n; i++)
		ask(&s->child[i]);
}

void
finite_start(struct supervisor *s)
{
	const char *endless = endless_source(&s->topo);

	if (s->conf.at_end != CONF_LEAVE)
		return;
	if (endless != NULL) {
		log_info("at-end = stop, but a source never ends: the "
		    "application runs until it is stopped source=\"%s\"",
		    endless);
		return;
	}
	drain_init(&s->settle, s->n);
	ev_timer_init(&s->look, on_look, 0, LOOK_S);
	s->look.data = s;
	ev_timer_start(s->loop, &s->look);
}

void
finite_stop(struct supervisor *s)
{
	ev_timer_stop(s->loop, &s->look);
	drain_fini(&s->settle);
}

void
finite_answer(struct child *c, const struct msg_settled *m)
{
	struct msg_drained r = { m->round, m->idle, m->tail, m->sinks_empty };

	if (c->s->state == APP_RUNNING && c->s->settle.n > 0)
		drain_answer(&c->s->settle, c->number, &r);
}

/* What it has answered does not count any more. */
void
finite_child_died(struct child *c)
{
	drain_forget(&c->s->settle, c->number);
}

/* The round at work waits for this life's answer. */
void
finite_child_ready(struct child *c)
{
	struct drain *d = &c->s->settle;

	if (d->round > 0 && !drain_complete(d))
		ask(c);
}
