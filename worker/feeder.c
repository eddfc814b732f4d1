/*
 * Connectors that feed sources: what they are answered.  The automaton says
 * what (connector.h); here it is written to their connections, with credits
 * for what they have sent, and with acknowledgements of what a committed
 * checkpoint holds.
 *
 * A connection ends with its worker.  The connector comes back, is told the
 * acknowledged points, and sends again from there; what the journal has of it
 * already is recognised by its id.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/connector_wire.h"
#include "worker/worker.h"

#define OUT_MOST	(1 << 20)	/* bytes that it has not taken */
#define ACK_POINTS	1000		/* in one frame */
#define POINT_BYTES	16
#define LOOK_NS		250000000ULL

static const struct topo_source *
source_of(const struct conn *c)
{
	return (&c->w->topo.sources[c->source]);
}

int
feeder_send(int fd, struct buf *out)
{
	ssize_t n = 0;
	size_t at = 0;

	while (at < out->len) {
		n = send(fd, out->data + at, out->len - at, MSG_NOSIGNAL |
		    MSG_DONTWAIT);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			break;
		at += (size_t)n;
	}
	buf_consume(out, at);
	return (n == -1 ? -1 : 0);
}

static void
send_out(struct conn *c)
{
	if (feeder_send(c->fd, &c->out) == -1 && errno != EAGAIN &&
	    errno != ENOBUFS) {
		buf_clear(&c->out);	/* the reader will see its end */
		ev_io_stop(c->w->loop, &c->wr);
		return;
	}
	if (c->out.len > OUT_MOST) {
		log_warn("connector does not take its answers, closing its "
		    "connection source=\"%s\" connection=%" PRIu64 " bytes=%zu",
		    source_of(c)->name, c->id, c->out.len);
		source_end(c, ENTRY_RESET, "takes no answers");
	} else if (c->out.len > 0)
		ev_io_start(c->w->loop, &c->wr);
	else
		ev_io_stop(c->w->loop, &c->wr);
}

static void
on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	send_out(io->data);
}

void
feeder_attach(struct conn *c)
{
	ev_io_init(&c->wr, on_writable, c->fd, EV_WRITE);
	c->wr.data = c;
}

/* New credits, and the points that wait. */
static void
put_acks(struct conn *c)
{
	uint32_t max = source_of(c)->max_credits;
	size_t at = 0, n = c->acks.len / POINT_BYTES, k;
	struct wire_ack m = { .credits = max - c->credits };

	c->credits = max;
	do {
		k = n > ACK_POINTS ? ACK_POINTS : n;
		m.points.n = (uint32_t)k;
		m.points.raw = slice_of(c->acks.data + at, k * POINT_BYTES);
		if (c->acks.len == 0)
			m.points.raw = slice_of("", 0);
		wire_put_ack(&c->out, &m);
		m.credits = 0;
		at += k * POINT_BYTES;
		n -= k;
	} while (n > 0);
	buf_clear(&c->acks);
}

/* Its frames were processed; what they are answered is in the journal's
 * order.  The first one was its HELLO, which costs nothing. */
static void
answer(struct conn *c, struct in_conn *in)
{
	uint32_t frames = in->frames;

	buf_add(&c->out, in->reply.data, in->reply.len);
	if (!c->greeted && !in->bad && frames > 0) {
		c->greeted = true;
		c->credits = source_of(c)->max_credits;
		frames--;
	}
	if (c->greeted && !in->bad) {
		c->credits -= frames < c->credits ? frames : c->credits;
		if (c->credits <= source_of(c)->refill_credits)
			put_acks(c);
	}
	send_out(c);
}

void
feeder_talk(struct worker *w)
{
	struct in_conn *in;
	struct conn *c;
	uint64_t id;
	size_t i;

	for (i = 0; i + sizeof(id) <= w->a.talk.len; i += sizeof(id)) {
		memcpy(&id, w->a.talk.data + i, sizeof(id));
		HASH_FIND(hh, w->a.conns, &id, sizeof(id), in);
		if (in == NULL)
			continue;
		/* In a replay they are gone. */
		if ((c = source_find(w, id)) != NULL && c->fd != -1)
			answer(c, in);
		buf_clear(&in->reply);
		in->frames = 0;
		in->talks = false;
	}
	buf_clear(&w->a.talk);
}

/* --- checkpoints --------------------------------------------------------- */

void
feeder_taken(struct worker *w)
{
	size_t i;

	for (i = 0; i < w->topo.nsources; i++)
		if (w->topo.sources[i].kind == SOURCE_CONNECTOR)
			streams_taken(&w->a.sources[i].streams);
}

static void
ack_point(void *arg, uint64_t id, uint64_t stream, uint64_t point)
{
	struct conn *c = source_find(arg, id);

	if (c == NULL || c->fd == -1)
		return;
	wire_add_u64(&c->acks, stream);
	wire_add_u64(&c->acks, point);
}

void
feeder_committed(struct worker *w)
{
	struct conn *c, *next;
	bool any = false;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++) {
		if (w->topo.sources[i].kind != SOURCE_CONNECTOR)
			continue;
		streams_committed(&w->a.sources[i].streams, ack_point, w);
		any = true;
	}
	if (!any)
		return;
	HASH_ITER(hh, w->conns, c, next) {
		if (!source_is_feeder(c) || c->fd == -1 || !c->greeted ||
		    (c->acks.len == 0 &&
		    c->credits == source_of(c)->max_credits))
			continue;
		put_acks(c);
		send_out(c);
	}
}

/* The worker ends as it was told to.  All points have been said; whoever has
 * the streams next, with another number of workers perhaps another one, is
 * found at the same address. */
void
feeder_finish(struct worker *w)
{
	struct wire_restart m = { slice_of("", 0) };
	struct conn *c, *next;

	HASH_ITER(hh, w->conns, c, next) {
		if (!source_is_feeder(c) || c->fd == -1 || !c->greeted)
			continue;
		wire_put_restart(&c->out, &m);
		(void)feeder_send(c->fd, &c->out);
	}
}

/* --- silence ------------------------------------------------------------- */

/* Time in which nobody is read does not count. */
void
feeder_silent(struct worker *w)
{
	uint64_t now = clock_mono_ns();
	struct conn *c, *next;

	if (!w->running || now < w->silent_ns)
		return;
	w->silent_ns = now + LOOK_NS;
	HASH_ITER(hh, w->conns, c, next) {
		if (!source_is_feeder(c) || c->fd == -1 || c->greeted)
			continue;
		if (!w->admitting || w->a.pos < journal_tail(&w->journal))
			c->since_ns = now;
		if (now - c->since_ns <
		    (uint64_t)w->conf.connector_timeout * 1000000)
			continue;
		log_warn("connector has not said hello, closing its "
		    "connection source=\"%s\" connection=%" PRIu64,
		    source_of(c)->name, c->id);
		source_end(c, ENTRY_RESET, "no hello");
	}
}
