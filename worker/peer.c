/*
 * Channels to the other workers: whole frames are read, journaled, and
 * acknowledged when they are; what the other side has not acknowledged stays
 * in the outbox and is sent again on the next connection.
 *
 * With durability = machine acknowledged is only what is stable, and each side
 * says how far it is (stable.h).
 *
 * Credit: a sender may have as much of an exchange under way as the receiver
 * has journal room for.  It is withheld while outboxes of later exchanges or
 * of sinks are above their mark; acknowledgements and credit themselves are
 * no journal entries, so later exchanges never wait for earlier ones.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/planted.h"
#include "worker/sizes.h"
#include "worker/worker.h"

static void
detach(struct peer *p)
{
	if (p->fd == -1)
		return;
	ev_io_stop(p->w->loop, &p->rd);
	ev_io_stop(p->w->loop, &p->wr);
	close(p->fd);
	p->fd = -1;
	p->greeted = false;
	buf_clear(&p->in);
	buf_clear(&p->out);
}

/* The other side is gone; the supervisor brings its successor's channel. */
static void
lost(struct peer *p, const char *why)
{
	log_debug("channel is closed worker=%u why=\"%s\"", p->worker, why);
	detach(p);
}

static bool
covers(const struct mark *m, uint64_t pos, uint32_t index)
{
	return (pos < m->pos || (pos == m->pos && (index <= m->index ||
	    planted("RULE2B"))));
}

/* Count an entry of the journal: sign 1 as there, -1 as freed. */
int
peer_scan(struct worker *w, struct entry *e, int sign)
{
	uint32_t from = (uint32_t)(e->channel >> 16);
	uint32_t x = (uint32_t)(e->channel & 0xffff);
	uint64_t size = entry_size(e->len);
	struct frame_head h;
	struct mark *m;
	size_t i;

	if (e->type != ENTRY_FRAME || from >= w->n ||
	    x >= w->topo.nexchanges || e->len < sizeof(h))
		return (0);
	i = channel_of(w, x, from);
	if (sign < 0) {
		w->pending[i] -= size < w->pending[i] ? size : w->pending[i];
		w->pending_all -= size < w->pending_all ? size :
		    w->pending_all;
		return (1);
	}
	w->pending[i] += size;
	w->pending_all += size;
	if (entry_end(e) <= w->a.pos)		/* the checkpoint has it */
		return (1);
	memcpy(&h, e->data, sizeof(h));
	m = &w->journaled[i];
	if (m->lineage != h.lineage || !covers(m, h.pos, h.index)) {
		m->lineage = h.lineage;
		m->pos = h.pos;
		m->index = h.index;
	}
	return (1);
}

/* --- what comes in ----------------------------------------------------- */

static void
send_resume(struct peer *p, uint32_t x)
{
	struct mark *m = &p->w->journaled[channel_of(p->w, x, p->worker)];
	struct msg_resume r = { x, m->lineage, m->pos, m->index };

	msg_put_resume(&p->out, &r);
}

static void
journal_frame(struct worker *w, uint32_t from, const struct msg_data *d,
    uint64_t lineage)
{
	struct frame_head h = { lineage, d->pos, d->index, d->n };
	uint32_t len = (uint32_t)(sizeof(h) + d->records.len);
	uint64_t at = journal_tail(&w->journal);
	uint8_t *to;

	to = journal_stage(&w->journal, ENTRY_FRAME,
	    (uint64_t)from << 16 | d->exchange, 0, len, 0);
	memcpy(to, &h, sizeof(h));
	if (d->records.len > 0)
		memcpy(to + sizeof(h), d->records.data, d->records.len);
	journal_publish(&w->journal, len);
	(void)peer_scan(w, journal_at(&w->journal, at), 1);
}

static int
on_hello(void *arg, const struct msg_hello *h, struct err *err)
{
	struct peer *p = arg;
	struct worker *w = p->w;
	struct mark *m;
	uint32_t x;

	if (h->protocol != MSG_PROTOCOL || h->worker != p->worker ||
	    h->exchanges != w->topo.nexchanges || p->greeted)
		return (err_set(err, ERR_CORRUPT, "worker %u says hello as "
		    "worker %u, protocol %u, %u exchanges", p->worker,
		    h->worker, h->protocol, h->exchanges));
	FAULT_POINT(peer_hello_before);
	p->greeted = true;
	if (w->machine)
		stable_hello(&w->stable, p->worker, h->lineage);
	for (x = 0; x < w->topo.nexchanges; x++) {
		m = &w->journaled[channel_of(w, x, p->worker)];
		if (m->lineage != h->lineage && m->lineage != 0 &&
		    w->durable && !(w->flags & START_ACCEPT_LOSS))
			return (err_set(err, ERR_REFUSED, "worker %u is of "
			    "another life than the one whose messages are "
			    "here (exchange %u, up to position %" PRIu64 ")",
			    p->worker, x, m->pos));
		if (m->lineage != h->lineage) {
			/* An empty frame makes it part of the journal, so
			 * that whoever comes after knows it too. */
			if (m->lineage != 0)
				journal_frame(w, p->worker,
				    &(struct msg_data){ .exchange = x },
				    h->lineage);
			m->lineage = h->lineage;
			m->pos = m->index = 0;
		}
		/* What was acknowledged on a connection that is no more. */
		p->x[x].ack = w->machine;
		send_resume(p, x);
	}
	FAULT_POINT(peer_hello_after);
	return (0);
}

/* The outbox offset behind what (pos, index) covers. */
static uint64_t
behind(const struct outbox *o, uint64_t pos, uint32_t index)
{
	struct mark m = { 0, pos, index };
	uint64_t off = outbox_head(o), next;
	struct frame f;

	while (off < outbox_tail(o)) {
		next = outbox_frame(o, off, &f);
		if (!covers(&m, f.pos, f.index))
			break;
		off = next;
	}
	return (off);
}

static void
acked(struct worker *w, uint32_t peer, uint32_t x, uint64_t pos,
    uint32_t index)
{
	struct outbox *o = &w->peer_box[channel_of(w, x, peer)];

	FAULT_POINT(peer_acked_before);
	outbox_free(o, behind(o, pos, index));
	FAULT_POINT(peer_acked_after);
}

static int
on_resume(void *arg, const struct msg_resume *r, struct err *err)
{
	struct peer *p = arg;
	struct worker *w = p->w;
	struct peer_exchange *px;
	struct outbox *o;

	if (r->exchange >= w->topo.nexchanges)
		return (err_set(err, ERR_CORRUPT, "worker %u resumes exchange "
		    "%u: there is none", p->worker, r->exchange));
	if (r->lineage != 0 && r->lineage != w->lineage && w->durable &&
	    !(w->flags & START_ACCEPT_LOSS))
		return (err_set(err, ERR_REFUSED, "worker %u knows another "
		    "life of this worker (exchange %u, up to position %"
		    PRIu64 ")", p->worker, r->exchange, r->pos));
	if (r->lineage == w->lineage && r->pos > journal_tail(&w->journal) &&
	    w->flags & START_ACCEPT_LOSS)
		log_warn("what is made again up to position %" PRIu64 " is "
		    "lost: worker %u has messages up to there of a journal "
		    "of which this is an older copy exchange=%u journal=%"
		    PRIu64, r->pos, p->worker, r->exchange,
		    journal_tail(&w->journal));
	else if (r->lineage == w->lineage && r->pos >
	    journal_tail(&w->journal))
		return (err_set(err, ERR_REFUSED, "worker %u has messages of "
		    "this worker up to position %" PRIu64 ", but the journal "
		    "here ends at %" PRIu64 ": the files of this worker are "
		    "an older copy", p->worker, r->pos,
		    journal_tail(&w->journal)));
	px = &p->x[r->exchange];
	o = &w->peer_box[channel_of(w, r->exchange, p->worker)];
	px->next = outbox_head(o);
	if (r->lineage == w->lineage && !planted("RULE2")) {
		/* What it has is safe there if that is the same thing. */
		if (!w->machine)
			acked(w, p->worker, r->exchange, r->pos, r->index);
		px->next = behind(o, r->pos, r->index);
	}
	px->resumed = true;
	return (0);
}

static int
on_ack(void *arg, const struct msg_ack *k, struct err *err)
{
	struct peer *p = arg;
	struct peer_exchange *px;
	struct outbox *o;

	if (k->exchange >= p->w->topo.nexchanges)
		return (err_set(err, ERR_CORRUPT, "worker %u acknowledges "
		    "exchange %u: there is none", p->worker, k->exchange));
	acked(p->w, p->worker, k->exchange, k->pos, k->index);
	px = &p->x[k->exchange];
	o = &p->w->peer_box[channel_of(p->w, k->exchange, p->worker)];
	if (px->next < outbox_head(o))
		px->next = outbox_head(o);
	return (0);
}

static int
on_credit(void *arg, const struct msg_credit *c, struct err *err)
{
	struct peer *p = arg;

	if (c->exchange >= p->w->topo.nexchanges)
		return (err_set(err, ERR_CORRUPT, "worker %u gives credit for "
		    "exchange %u: there is none", p->worker, c->exchange));
	if (c->limit > p->x[c->exchange].limit)
		p->x[c->exchange].limit = c->limit;
	return (0);
}

static int
on_stable(void *arg, const struct msg_stable *s, struct err *err)
{
	struct peer *p = arg;

	if (!p->greeted || !p->w->machine)
		return (err_set(err, ERR_CORRUPT, "worker %u announces a "
		    "stable position%s", p->worker, p->greeted ?
		    " with another durability" : " before its hello"));
	stable_heard(&p->w->stable, p->worker, s->pos);
	return (0);
}

#ifdef WALLAROO_PLANTED
/* RULE4: acknowledged when read, journaled a tick later. */
static struct late {
	struct late	*next;
	uint32_t	 from;
	uint64_t	 lineage;
	struct buf	 records;
	struct msg_data	 d;
} *late_head, **late_tail = &late_head;

static void
journal_late(struct worker *w, uint32_t from, const struct msg_data *d,
    uint64_t lineage)
{
	struct late *l = xcalloc(1, sizeof(*l));

	l->from = from;
	l->lineage = lineage;
	l->d = *d;
	buf_add(&l->records, d->records.data, d->records.len);
	*late_tail = l;
	late_tail = &l->next;
	w->journaled[channel_of(w, d->exchange, from)] =
	    (struct mark){ lineage, d->pos, d->index };
}

void
peer_late(struct worker *w)
{
	struct late *l;

	while ((l = late_head) != NULL) {
		if ((late_head = l->next) == NULL)
			late_tail = &late_head;
		l->d.records = buf_slice(&l->records);
		journal_frame(w, l->from, &l->d, l->lineage);
		buf_fini(&l->records);
		free(l);
	}
}
#endif

static int
on_data(void *arg, const struct msg_data *d, struct err *err)
{
	struct peer *p = arg;
	struct worker *w = p->w;
	struct mark *m;
	uint64_t need = entry_size((uint32_t)(sizeof(struct frame_head) +
	    d->records.len));

	if (!p->greeted || d->exchange >= w->topo.nexchanges)
		return (err_set(err, ERR_CORRUPT, "worker %u sends data "
		    "before its hello, or of exchange %u", p->worker,
		    d->exchange));
	m = &w->journaled[channel_of(w, d->exchange, p->worker)];
	p->x[d->exchange].ack = true;
	p->x[d->exchange].got += p->charge;
	if (covers(m, d->pos, d->index) && !planted("RULE2"))
		return (0);			/* sent again: we have it */
	if (journal_used(&w->journal) + need > w->journal.size)
		return (err_set(err, ERR_CORRUPT, "worker %u sends more than "
		    "its credit", p->worker));
#ifdef WALLAROO_PLANTED
	if (planted("RULE4")) {
		journal_late(w, p->worker, d, m->lineage);
		return (0);
	}
#endif
	journal_frame(w, p->worker, d, m->lineage);
	return (0);
}

static const struct msg_handlers handlers = {
	.hello = on_hello,
	.resume = on_resume,
	.data = on_data,
	.ack = on_ack,
	.credit = on_credit,
	.stable = on_stable,
};

static int
take_frames(struct peer *p, struct err *err)
{
	size_t max = (size_t)p->w->conf.max_message + FRAME_SLACK;
	struct slice s = buf_slice(&p->in);
	struct slice frame;
	long n = 0;

	while ((n = msg_frame(s, max)) > 0) {
		frame = slice_of(s.data + MSG_HEADER, (size_t)n - MSG_HEADER);
		p->charge = (uint64_t)n + FRAME_CHARGE;
		if (msg_dispatch(&handlers, p, FROM_PEER, frame, err) == -1)
			return (-1);
		s.data += n;
		s.len -= (size_t)n;
	}
	buf_consume(&p->in, p->in.len - s.len);
	if (n < 0)
		return (err_set(err, ERR_CORRUPT, "worker %u sends a frame "
		    "larger than %zu bytes", p->worker, max));
	return (0);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct peer *p = io->data;
	struct err err;
	ssize_t n;

	(void)loop;
	(void)events;
	FAULT_POINT(peer_read_before);
	n = read(p->fd, buf_reserve(&p->in, CHANNEL_READ), CHANNEL_READ);
	FAULT_POINT(peer_read_after);
	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		lost(p, n == 0 ? "end of file" : strerror(errno));
		return;
	}
	p->in.len += (size_t)n;
	if (take_frames(p, &err) == -1) {
		if (err.code == ERR_REFUSED)
			worker_fatal(p->w, EXIT_PERMANENT, "%s", err.text);
		worker_fatal(p->w, EXIT_TEMPORARY, "%s", err.text);
	}
}

/* --- what goes out ----------------------------------------------------- */

/* Grant what the journal has room for, unless later stages are behind. */
static void
put_credit(struct peer *p, uint32_t x)
{
	struct worker *w = p->w;
	struct peer_exchange *px = &p->x[x];
	uint64_t pending = w->pending[channel_of(w, x, p->worker)];
	struct msg_credit c = { x, 0 };

	if (planted("RULE7B"))			/* although it is not freed */
		pending = 0;
	if (pending >= w->window)
		return;
	c.limit = px->got + w->window - pending;
	/* Not for every frame: when a quarter of the window is new, or what
	 * is left may be too little for the largest frame. */
	if (c.limit <= px->granted ||
	    (c.limit - px->granted < w->window / 4 && px->granted > px->got +
	    w->window / 2 && px->granted > px->got +
	    (uint64_t)w->conf.max_message + FRAME_SLACK))
		return;
	/* At a stop what is inside must come to its sinks' outboxes. */
	if (!w->draining && loop_pressure(w, (int)x) && !planted("RULE7"))
		return;
	px->granted = c.limit;
	msg_put_credit(&p->out, &c);
}

static void
put_ack(struct peer *p, uint32_t x)
{
	struct worker *w = p->w;
	size_t i = channel_of(w, x, p->worker);
	const struct mark *m = &w->journaled[i];
	struct msg_ack k;

	if (!p->x[x].ack)
		return;
	FAULT_POINT(peer_ack_before);
	p->x[x].ack = false;
	/* Safe is what a power loss does not take (rule 4). */
	if (w->machine && !planted("STABLE4")) {
		if (w->stable.safe[i].lineage != m->lineage)
			return;
		m = &w->stable.safe[i];
	}
	k = (struct msg_ack){ x, m->pos, m->index };
	msg_put_ack(&p->out, &k);
	FAULT_POINT(peer_ack_after);
}

/* To whom has frames of ours: how far they are safe. */
static void
put_stable(struct peer *p)
{
	struct msg_stable s = { p->w->stable.pos };

	if (!p->w->machine || s.pos <= p->announced)
		return;
	FAULT_POINT(stable_say_before);
	p->announced = s.pos;
	msg_put_stable(&p->out, &s);
	FAULT_POINT(stable_say_after);
}

static void
put_data(struct peer *p, uint32_t x)
{
	struct worker *w = p->w;
	struct peer_exchange *px = &p->x[x];
	struct outbox *o = &w->peer_box[channel_of(w, x, p->worker)];
	uint64_t next, charge, limit = durable_peer_limit(w);
	struct frame f;

	while (px->resumed && px->next < outbox_tail(o) &&
	    p->out.len < CHANNEL_SEND) {
		next = outbox_frame(o, px->next, &f);
		charge = f.len + FRAME_CHARGE;
		if (px->sent + charge > px->limit || f.pos > limit)
			break;
		outbox_read(o, px->next + FRAME_HEADER,
		    buf_reserve(&p->out, f.len), f.len);
		p->out.len += f.len;
		px->sent += charge;
		px->next = next;
	}
}

static void
flush(struct peer *p)
{
	struct worker *w = p->w;
	uint32_t x;
	ssize_t n;
	int turns;

	for (turns = 0; turns < 16 && p->fd != -1; turns++) {
		if (p->greeted)
			put_stable(p);
		if (p->greeted && p->out.len < CHANNEL_SEND)
			for (x = w->topo.nexchanges; x-- > 0; ) {
				if (!planted("RULE2") || turns > 0)
					put_ack(p, x);
				put_credit(p, x);
				put_data(p, x);
			}
		if (p->out.len == 0) {
			ev_io_stop(w->loop, &p->wr);
			return;
		}
		FAULT_POINT(peer_send_before);
		n = send(p->fd, p->out.data, p->out.len,
		    MSG_NOSIGNAL | MSG_DONTWAIT);
		FAULT_POINT(peer_send_after);
		if (n == -1 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n == -1) {
			lost(p, strerror(errno));
			return;
		}
		buf_consume(&p->out, (size_t)n);
	}
	if (p->fd != -1)
		ev_io_start(w->loop, &p->wr);
}

void
peer_flush(struct worker *w)
{
	uint32_t i;

	for (i = 0; i < w->n; i++)
		if (w->peers[i].fd != -1 && w->running)
			flush(&w->peers[i]);
}

static void
on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	flush(io->data);
}

/* Nothing may be journaled before recovery has looked at the tail, nor said
 * before it is settled which life this is. */
static void
begin(struct peer *p)
{
	struct worker *w = p->w;
	struct msg_hello h = { MSG_PROTOCOL, w->me, w->lineage, w->epoch,
	    w->topo.nexchanges };

	msg_put_hello(&p->out, &h);
	ev_io_start(w->loop, &p->rd);
}

void
peer_run(struct worker *w)
{
	uint32_t i;

	for (i = 0; i < w->n; i++)
		if (w->peers[i].fd != -1)
			begin(&w->peers[i]);
}

/* A channel to worker i: the first, or to its successor. */
void
peer_attach(struct worker *w, uint32_t i, int fd)
{
	struct peer *p;

	if (i >= w->n || i == w->me) {
		close(fd);
		return;
	}
	p = &w->peers[i];
	detach(p);
	p->fd = fd;
	p->announced = 0;
	memset(p->x, 0, (w->topo.nexchanges + 1) * sizeof(*p->x));
	ev_io_init(&p->rd, on_readable, fd, EV_READ);
	ev_io_init(&p->wr, on_writable, fd, EV_WRITE);
	p->rd.data = p->wr.data = p;
	if (w->running)
		begin(p);
}
