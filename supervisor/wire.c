/*
 * Workers talk to each other directly: each pair has a socketpair, made here
 * and handed to both.  A worker that was replaced gets fresh ones; which life
 * of which worker has which end is remembered, so that this can be repeated.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "supervisor/supervisor.h"

static void
tell(struct child *c, const struct child *other, int fd)
{
	struct msg_peer m = { other->number, 0 };
	struct buf b = { 0 };

	/* The pair of lives: whichever is younger names it. */
	m.generation = c->serial > other->serial ? c->serial : other->serial;
	msg_put_peer(&b, &m);
	channel_send_peer(c, &b, fd, other->number);
	buf_fini(&b);
	c->wired[other->number] = other->serial;
}

static int
wire_pair(struct child *a, struct child *b)
{
	int fd[2];

	if (a->wired[b->number] == b->serial &&
	    b->wired[a->number] == a->serial)
		return (0);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
	    fd) == -1)
		return (-1);
	FAULT_POINT(wire_before);
	/* First the one that is at work, then the new one. */
	if (a->serial > b->serial) {
		tell(b, a, fd[0]);
		tell(a, b, fd[1]);
	} else {
		tell(a, b, fd[0]);
		tell(b, a, fd[1]);
	}
	FAULT_POINT(wire_after);
	return (0);
}

void
wire_child(struct child *c)
{
	static struct log_rate rate;
	struct supervisor *s = c->s;
	uint32_t i;

	for (i = 0; i < s->n; i++) {
		if (i == c->number || !child_alive(&s->child[i]) ||
		    wire_pair(c, &s->child[i]) == 0)
			continue;
		if (log_allowed(&rate))
			log_error("cannot connect workers %u and %u, trying "
			    "again: %s", c->number, i, strerror(errno));
		ev_timer_again(s->loop, &s->wire);
		return;
	}
}

void
wire_retry(struct supervisor *s)
{
	uint32_t i;

	ev_timer_stop(s->loop, &s->wire);
	for (i = 0; i < s->n; i++)
		if (child_alive(&s->child[i]))
			wire_child(&s->child[i]);
}
