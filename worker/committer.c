/*
 * Sinks that are connectors: each record is a message whose number is the
 * offset of its first byte in this worker's output, and what was sent becomes
 * visible by two-phase commit.
 *
 *	AWAY → GREETING → RESOLVING ┬──────────────────────→ READY
 *	                            └ UNDOING (cut the rest) ─┘
 *
 *	NONE ─Phase 1→ ASKED ─yes→ VOTED ─checkpoint begins→ TAKEN
 *	  ↑______________│no, lost___│lost    committed: Phase 2__│
 *
 * A transaction is committed when a checkpoint that names it is; so after a
 * death the file says what the sink has to do with one that is in doubt.
 * Whatever else the sink has is cut off, and sent again from the outbox,
 * which keeps all that is not committed.  Nobody else goes back.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/mp.h"
#include "worker/committer.h"
#include "worker/connector_wire.h"
#include "worker/worker.h"

#define SINK_VERSION	"v0.0.1"
#define STREAM		1		/* the one that has data */
#define RTAG		77778
#define LEFT_RTAG	7		/* of WorkersLeft */
#define OUT_BYTES	(256 * 1024)	/* written at a time */
#define IN_MOST		(1 << 20)	/* a frame of the sink */
#define RETRY_NS	1000000000ULL
#define SHOWN		200		/* bytes of a text of the sink */
#define UNKNOWN		UINT64_MAX	/* how far the sink has come */

static const struct topo_sink *
sink_of(const struct committer *c)
{
	return (&c->w->topo.sinks[c->s->index]);
}

/* Of what the sink says, for the log. */
static char *
shown(struct slice s)
{
	char *text;
	size_t i;

	if (s.len > SHOWN)
		s.len = SHOWN;
	text = xstrndup(s.len == 0 ? "" : (const char *)s.data, s.len);
	for (i = 0; text[i] != '\0'; i++)
		if (text[i] < 0x20 || text[i] > 0x7e || text[i] == '"')
			text[i] = '?';
	return (text);
}

/* How far this sink may have been sent anything, in the outbox's file. */
static uint64_t *
reached(struct committer *c)
{
	return (&outbox_sink(&c->s->box)->conn_base);
}

/* --- what a checkpoint says ---------------------------------------------- */

void
txns_set(struct txns *t, struct slice sink, uint32_t worker, uint64_t txn,
    uint64_t end)
{
	struct txn_record *r;
	size_t i;

	for (i = 0; i < t->n; i++)
		if (t->r[i].worker == worker &&
		    strlen(t->r[i].sink) == sink.len &&
		    memcmp(t->r[i].sink, sink.data, sink.len) == 0)
			break;
	if (i == t->n) {
		t->r = xreallocarray(t->r, t->n + 1, sizeof(*t->r));
		t->r[t->n++].sink = xstrndup((const char *)sink.data,
		    sink.len);
	}
	r = &t->r[i];
	r->worker = worker;
	r->txn = txn;
	r->end = end;
}

const struct txn_record *
txns_find(const struct txns *t, const char *sink, uint32_t worker)
{
	size_t i;

	for (i = 0; i < t->n; i++)
		if (t->r[i].worker == worker &&
		    strcmp(t->r[i].sink, sink) == 0)
			return (&t->r[i]);
	return (NULL);
}

void
txns_fini(struct txns *t)
{
	while (t->n > 0)
		free(t->r[--t->n].sink);
	free(t->r);
	t->r = NULL;
}

void
txns_pack(const struct txns *t, struct buf *b)
{
	size_t i;

	mp_put_array(b, (uint32_t)t->n);
	for (i = 0; i < t->n; i++) {
		mp_put_array(b, 4);
		mp_put_str(b, t->r[i].sink);
		mp_put_uint(b, t->r[i].worker);
		mp_put_uint(b, t->r[i].txn);
		mp_put_uint(b, t->r[i].end);
	}
}

void
txns_unpack(struct txns *t, struct mp *c)
{
	uint32_t i, n = mp_get_array(c), worker;
	uint64_t txn, end;
	struct slice sink;

	for (i = 0; i < n && mp_ok(c); i++) {
		if (mp_get_array(c) != 4)
			c->bad = true;
		sink = mp_get_str(c);
		worker = (uint32_t)mp_get_uint(c, UINT32_MAX);
		txn = mp_get_uint(c, UINT64_MAX);
		end = mp_get_uint(c, UINT64_MAX);
		if (mp_ok(c))
			txns_set(t, sink, worker, txn, end);
	}
}

void
committer_pack(const struct worker *w, struct buf *b)
{
	struct txns all = { NULL, 0 };
	const struct committer *c;
	const struct txn_record *r;
	const char *name;
	size_t i;

	/* Also those of workers and sinks that there are no more. */
	for (i = 0; i < w->txns.n; i++) {
		r = &w->txns.r[i];
		txns_set(&all, slice_of(r->sink, strlen(r->sink)), r->worker,
		    r->txn, r->end);
	}
	for (i = 0; i < w->topo.nsinks; i++) {
		if ((c = w->sinks[i].committer) == NULL)
			continue;
		name = w->topo.sinks[i].name;
		txns_set(&all, slice_of(name, strlen(name)), w->me,
		    c->txn_state == TXN_TAKEN ? c->txn : c->decided,
		    c->txn_state == TXN_TAKEN ? c->end : c->committed);
	}
	txns_pack(&all, b);
	txns_fini(&all);
}

void
committer_unpack(struct worker *w, struct mp *m)
{
	const struct txn_record *r;
	struct committer *c;
	size_t i;

	txns_fini(&w->txns);
	txns_unpack(&w->txns, m);
	for (i = 0; i < w->topo.nsinks; i++) {
		if ((c = w->sinks[i].committer) == NULL ||
		    (r = txns_find(&w->txns, w->topo.sinks[i].name, w->me)) ==
		    NULL)
			continue;
		c->txn = c->decided = r->txn;
		c->committed = r->end;
	}
}

/* --- sending ------------------------------------------------------------- */

static void
send_out(struct committer *c)
{
	struct sink *s = c->s;

	if (s->fd != -1)
		(void)feeder_send(s->fd, &c->out);
	if (c->out.len > 0 && s->fd != -1)
		ev_io_start(c->w->loop, &c->wr);
	else
		ev_io_stop(c->w->loop, &c->wr);
	/* That it is lost the reader sees, which still has answers. */
}

/* A message on stream 0. */
static void
put_inner(struct committer *c, struct buf *inner)
{
	struct wire_message m = { .body = buf_slice(inner) };

	wire_put_message(&c->out, &m);
	buf_fini(inner);
}

static char *
txn_name(const struct committer *c, uint64_t txn)
{
	return (xasprintf("%s:c_id=%" PRIu64, c->stream, txn));
}

static void
put_phase1(struct committer *c, uint64_t txn, uint64_t from, uint64_t to)
{
	char *name = txn_name(c, txn);
	struct buf raw = { 0 }, inner = { 0 };
	struct wire_phase1 m = { slice_of(name, strlen(name)), { 1,
	    { NULL, 0 } } };

	wire_add_u64(&raw, STREAM);
	wire_add_u64(&raw, from);
	wire_add_u64(&raw, to);
	m.where.raw = buf_slice(&raw);
	wire_body_phase1(&inner, &m);
	put_inner(c, &inner);
	buf_fini(&raw);
	free(name);
	c->since_ns = clock_mono_ns();
}

static void
put_phase2(struct committer *c, struct slice id, bool commit)
{
	struct wire_phase2 m = { id, commit };
	struct buf inner = { 0 };

	wire_body_phase2(&inner, &m);
	put_inner(c, &inner);
}

static void
put_decision(struct committer *c, uint64_t txn, bool commit)
{
	char *name = txn_name(c, txn);

	put_phase2(c, slice_of(name, strlen(name)), commit);
	free(name);
}

/* --- the connection ------------------------------------------------------ */

static void
lost(struct committer *c, const char *why)
{
	struct sink *s = c->s;
	struct msg_close m = { outbox_sink(&s->box)->conn, msg_cstr("lost") };
	struct buf b = { 0 };

	if (s->fd == -1)
		return;
	log_warn("connection to the connector is lost, connecting again "
	    "sink=\"%s\" why=\"%s\"", sink_of(c)->name, why);
	ev_io_stop(c->w->loop, &s->wr);
	ev_io_stop(c->w->loop, &c->wr);
	shutdown(s->fd, SHUT_RDWR);
	close(s->fd);
	s->fd = -1;
	msg_put_close(&b, &m);
	control_send(c->w, &b);
	buf_fini(&b);
	buf_clear(&c->in);
	buf_clear(&c->out);
	c->phase = COMMITTER_AWAY;
	c->same = false;
	/* What a checkpoint does not have yet it will not have. */
	if (c->txn_state != TXN_TAKEN)
		c->txn_state = TXN_NONE;
	s->retry_ns = clock_mono_ns() + RETRY_NS;
}

/* It has broken the rules; it is told so as far as that is possible. */
static void
refuse(struct committer *c, const char *why)
{
	struct wire_error m = { slice_of(why, strlen(why)) };

	wire_put_error(&c->out, &m);
	send_out(c);
	lost(c, why);
}

static void
greet(struct committer *c)
{
	const char *me = c->instance, *program = c->w->topo.application;
	struct wire_hello h = { slice_of(SINK_VERSION,
	    sizeof(SINK_VERSION) - 1), slice_of(sink_of(c)->cookie,
	    strlen(sink_of(c)->cookie)), slice_of(program, strlen(program)),
	    slice_of(me, strlen(me)) };
	struct wire_notify n = { STREAM, slice_of(c->stream,
	    strlen(c->stream)), c->committed };
	struct wire_list_uncommitted l = { RTAG };
	struct buf inner = { 0 };

	wire_put_hello(&c->out, &h);
	wire_put_notify(&c->out, &n);
	wire_body_list_uncommitted(&inner, &l);
	put_inner(c, &inner);
	c->phase = COMMITTER_GREETING;
	c->greeted = 0;
	c->since_ns = clock_mono_ns();
	send_out(c);
}

/* Workers that had output here and are no more, since there are fewer: said
 * with every connection, as nobody knows what the sink has heard. */
static void
put_workers_left(struct committer *c)
{
	struct wire_workers_left m = { LEFT_RTAG, { 0, { NULL, 0 } } };
	struct buf names = { 0 }, inner = { 0 };
	const struct txn_record *r;
	char name[32];
	size_t i;

	for (i = 0; i < c->w->txns.n; i++) {
		r = &c->w->txns.r[i];
		if (r->worker < c->w->n || strcmp(r->sink,
		    sink_of(c)->name) != 0)
			continue;
		(void)snprintf(name, sizeof(name), "worker%" PRIu32,
		    r->worker);
		wire_add_text(&names, slice_of(name, strlen(name)));
		m.workers.n++;
	}
	m.workers.raw = buf_slice(&names);
	if (m.workers.n > 0) {
		wire_body_workers_left(&inner, &m);
		put_inner(c, &inner);
	}
	buf_fini(&names);
}

/* Data goes on behind what is committed. */
static void
ready(struct committer *c)
{
	c->phase = COMMITTER_READY;
	c->same = true;
	sink_seek(c->s, c->committed);
	*reached(c) = c->committed;
	put_workers_left(c);
	log_info("connector is ready sink=\"%s\" committed=%" PRIu64,
	    sink_of(c)->name, c->committed);
}

/* No number is used twice; also when a power loss has forgotten some. */
static uint64_t
next_number(struct committer *c)
{
	c->txn++;
	outbox_sink(&c->s->box)->file_base = c->txn;
	return (c->txn);
}

static void
skip_number(struct committer *c, struct slice id)
{
	uint64_t n = 0;
	size_t i;

	for (i = id.len; i > 0 && id.data[i - 1] >= '0' && id.data[i - 1] <=
	    '9'; )
		i--;
	for (; i < id.len && n < UINT64_MAX / 100; i++)
		n = n * 10 + (uint64_t)(id.data[i] - '0');
	if (n > c->txn && n < UINT64_MAX / 100)
		c->txn = n;
}

/* The decision of what is in doubt, as the checkpoint has it; then, if the
 * sink may have more than was committed, a transaction of nothing that is
 * given up: by that it cuts off the rest. */
static void
resolve(struct committer *c)
{
	char *name = txn_name(c, c->decided), *text;
	struct wire_list l = { c->ndoubt, buf_slice(&c->doubt) };
	bool commit, any = l.n > 0;
	struct slice id;

	while (wire_next_text(&l, &id)) {
		commit = c->decided > 0 && strlen(name) == id.len &&
		    memcmp(name, id.data, id.len) == 0;
		text = shown(id);
		log_info("transaction was in doubt sink=\"%s\" id=\"%s\" "
		    "decision=%s", sink_of(c)->name, text, commit ?
		    "commit" : "abort");
		free(text);
		put_phase2(c, id, commit);
		skip_number(c, id);
	}
	free(name);
	buf_clear(&c->doubt);
	if (any || *reached(c) <= c->committed)
		ready(c);
	else {
		c->phase = COMMITTER_UNDOING;
		put_phase1(c, next_number(c), c->committed,
		    c->committed);
	}
	send_out(c);
}

/* --- what the sink says -------------------------------------------------- */

static void
rewind_data(struct committer *c)
{
	sink_seek(c->s, c->committed);
	*reached(c) = c->committed;
}

static void
on_reply(struct committer *c, const struct wire_reply *m)
{
	static struct log_rate rate;
	char *name = txn_name(c, c->txn);
	bool ours = strlen(name) == m->id.len &&
	    memcmp(name, m->id.data, m->id.len) == 0;

	free(name);
	if (!ours || (c->phase != COMMITTER_UNDOING &&
	    c->txn_state != TXN_ASKED)) {
		refuse(c, "a reply to no question");
		return;
	}
	if (c->phase == COMMITTER_UNDOING) {
		put_decision(c, c->txn, false);
		ready(c);
	} else if (m->commit) {
		c->txn_state = TXN_VOTED;
		c->w->early = true;
	} else {
		if (log_allowed(&rate))
			log_warn("connector has refused a transaction, "
			    "sending its messages again sink=\"%s\" from=%"
			    PRIu64 " to=%" PRIu64, sink_of(c)->name,
			    c->committed, c->end);
		c->txn_state = TXN_NONE;
		put_decision(c, c->txn, false);
		rewind_data(c);
	}
	send_out(c);
}

static void
on_inner(struct committer *c, struct slice frame)
{
	struct wire_reply_uncommitted u;
	struct wire_message m;
	struct wire_reply r;

	if (!wire_get_message(&m, frame) || m.stream != 0) {
		refuse(c, "Unable to decode message");
		return;
	}
	if (wire_get_reply(&r, m.body))
		on_reply(c, &r);
	else if (wire_get_reply_uncommitted(&u, m.body) &&
	    u.rtag == RTAG && c->phase == COMMITTER_GREETING &&
	    c->greeted == 2) {
		buf_clear(&c->doubt);
		buf_add(&c->doubt, u.ids.raw.data, u.ids.raw.len);
		c->ndoubt = u.ids.n;
		c->phase = COMMITTER_RESOLVING;
	} else
		refuse(c, "Invalid message on stream 0");
}

/* OK, then NOTIFY_ACK: once, and in this order. */
static void
on_greeting(struct committer *c, int tag, struct slice frame)
{
	struct wire_notify_ack a;
	struct wire_ok ok;

	if (c->phase != COMMITTER_GREETING || c->greeted !=
	    (tag == WIRE_notify_ack))
		refuse(c, "Bad protocol FSM state");
	else if (tag == WIRE_ok && (!wire_get_ok(&ok, frame) ||
	    ok.credits < 2))
		refuse(c, "HEY, too few credits");
	else if (tag == WIRE_notify_ack && (!wire_get_notify_ack(&a, frame) ||
	    a.success == 0 || a.stream != STREAM))
		refuse(c, "the stream was not accepted");
	else
		c->greeted++;
}

static void
on_frame(struct committer *c, struct slice frame)
{
	int tag = wire_tag(frame);
	struct wire_error e;
	char *why, *text;

	switch (tag) {
	case WIRE_ok:
	case WIRE_notify_ack:
		on_greeting(c, tag, frame);
		return;
	case WIRE_message:
		on_inner(c, frame);
		return;
	case WIRE_restart:
		lost(c, "it wants to be connected to again");
		return;
	case WIRE_error:
		if (!wire_get_error(&e, frame))
			e.message = slice_of("", 0);
		text = shown(e.message);
		why = xasprintf("it says: %s", text);
		lost(c, why);
		free(why);
		free(text);
		return;
	default:
		refuse(c, "Invalid message");
	}
}

static void
take_frames(struct committer *c)
{
	size_t at = 0;
	uint32_t len;

	while (c->s->fd != -1 && c->in.len - at >= WIRE_HEADER) {
		memcpy(&len, c->in.data + at, sizeof(len));
		len = be32toh(len);
		if (len > IN_MOST) {
			refuse(c, "a frame that is too large");
			return;
		}
		if (c->in.len - at - WIRE_HEADER < len)
			break;
		on_frame(c, slice_of(c->in.data + at + WIRE_HEADER, len));
		at += WIRE_HEADER + len;
	}
	if (c->s->fd != -1)
		buf_consume(&c->in, at);
}

static void
on_readable(struct ev_loop *loop, ev_io *io, int events)
{
	struct committer *c = io->data;
	ssize_t n;

	(void)loop;
	(void)events;
	n = recv(c->s->fd, buf_reserve(&c->in, 4096), 4096, MSG_DONTWAIT);
	if (n > 0) {
		c->in.len += (size_t)n;
		take_frames(c);
	} else if (n == 0)
		lost(c, "end");
	else if (errno != EAGAIN && errno != EINTR)
		lost(c, strerror(errno));
}

static void
on_writable(struct ev_loop *loop, ev_io *io, int events)
{
	(void)loop;
	(void)events;
	send_out(io->data);
}

void
committer_conn(struct sink *s, const struct msg_sinkconn *m, int fd)
{
	struct outbox_sink *k = outbox_sink(&s->box);
	struct committer *c = s->committer;

	s->fd = fd;
	s->asked = false;
	ev_io_init(&s->wr, on_readable, fd, EV_READ);
	s->wr.data = c;
	ev_io_init(&c->wr, on_writable, fd, EV_WRITE);
	c->wr.data = c;
	if (k->conn == m->id) {
		/* The predecessor's: what it has said last nobody knows. */
		lost(c, "worker replaced");
		s->retry_ns = 0;
		return;
	}
	k->conn = m->id;
	ev_io_start(c->w->loop, &s->wr);
	greet(c);
}

/* --- data and transactions ----------------------------------------------- */

/* Messages that may leave, as long as little waits to be written. */
static void
put_data(struct committer *c)
{
	struct sink *s = c->s;
	uint64_t limit = durable_sink_limit(c->w), next, at, off;
	struct wire_message m = { .stream = STREAM };
	static struct buf body;
	struct frame f;
	uint32_t i, len;

	while (c->out.len < OUT_BYTES && s->frame < outbox_tail(&s->box)) {
		next = outbox_frame(&s->box, s->frame, &f);
		if (f.pos > limit)
			return;
		at = f.payload;
		for (i = 0; i < f.records && f.lens != 0; i++, at += len) {
			off = s->frame + FRAME_HEADER;
			outbox_read(&s->box, off + f.len + i * 4, &len, 4);
			if (at < s->written || len == 0)
				continue;
			buf_clear(&body);
			outbox_read(&s->box, off + (at - f.payload),
			    buf_reserve(&body, len), len);
			body.len = len;
			m.id = at;
			m.body = buf_slice(&body);
			wire_put_message(&c->out, &m);
			s->written = at + len;
			*reached(c) = s->written;
		}
		s->frame = next;
	}
}

static bool
can_ask(const struct committer *c)
{
	return (c != NULL && c->phase == COMMITTER_READY &&
	    c->txn_state == TXN_NONE && c->s->written > c->committed);
}

static void
ask_commit(struct committer *c)
{
	c->end = c->s->written;
	c->txn_state = TXN_ASKED;
	put_phase1(c, next_number(c), c->committed, c->end);
	send_out(c);
}

bool
committer_tick(struct worker *w)
{
	bool any = false;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++)
		if (can_ask(w->sinks[i].committer)) {
			ask_commit(w->sinks[i].committer);
			any = true;
		}
	return (any);
}

static void
check_time(struct committer *c)
{
	bool waits = c->phase == COMMITTER_GREETING ||
	    c->phase == COMMITTER_UNDOING || (c->phase == COMMITTER_READY &&
	    c->txn_state == TXN_ASKED);

	if (waits && clock_mono_ns() - c->since_ns >
	    (uint64_t)c->w->conf.connector_timeout * 1000000)
		lost(c, "no answer");
}

/* Once per turn. */
void
committer_flush(struct sink *s)
{
	struct committer *c = s->committer;
	uint64_t waiting;

	if (s->fd == -1) {
		if (clock_mono_ns() >= s->retry_ns)
			sink_ask(s);
		return;
	}
	if (c->phase == COMMITTER_RESOLVING && c->txn_state != TXN_TAKEN)
		resolve(c);
	if (c->phase == COMMITTER_READY && c->txn_state == TXN_NONE) {
		put_data(c);
		if (c->out.len > 0)
			send_out(c);
		/* What is not committed keeps its place in the outbox. */
		waiting = s->written - c->committed;
		if (can_ask(c) && (waiting > (uint64_t)
		    c->w->conf.outbox_mark / 2 || (c->w->draining &&
		    s->written == s->box.payload_tail)))
			ask_commit(c);
	}
	check_time(c);
}

/* --- checkpoints --------------------------------------------------------- */

void
committer_taken(struct worker *w)
{
	struct committer *c;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++)
		if ((c = w->sinks[i].committer) != NULL &&
		    c->txn_state == TXN_VOTED)
			c->txn_state = TXN_TAKEN;
}

void
committer_committed(struct worker *w)
{
	struct committer *c;
	size_t i;

	for (i = 0; i < w->topo.nsinks; i++) {
		c = w->sinks[i].committer;
		if (c == NULL || c->txn_state != TXN_TAKEN)
			continue;
		c->txn_state = TXN_NONE;
		c->decided = c->txn;
		c->committed = c->end;
		sink_trim(c->s, c->committed);
		if (!c->same)
			continue;	/* it is asked when it is back */
		put_decision(c, c->decided, true);
		send_out(c);
	}
}

/* --- begin and end ------------------------------------------------------- */

struct committer *
committer_new(struct worker *w, struct sink *s, size_t index)
{
	struct committer *c = xcalloc(1, sizeof(*c));

	c->w = w;
	c->s = s;
	c->instance = w->me > 0 ? xasprintf("worker%u", w->me) :
	    xstrdup(w->conf.machida != NULL && w->conf.machida[0] != '\0' ?
	    w->conf.machida : "initializer");
	c->stream = xasprintf("%s-w-%s-id-%s", w->topo.application,
	    c->instance, w->topo.sinks[index].name);
	return (c);
}

void
committer_free(struct committer *c)
{
	if (c == NULL)
		return;
	buf_fini(&c->in);
	buf_fini(&c->out);
	buf_fini(&c->doubt);
	free(c->instance);
	free(c->stream);
	free(c);
}

uint64_t
committer_begins(const struct sink *s)
{
	return (s->committer == NULL ? 0 : s->committer->committed);
}

int
committer_open(struct sink *s, struct err *err)
{
	struct committer *c = s->committer;

	if (!c->w->durable)
		return (err_set(err, ERR_CONFIG, "sink \"%s\": a connector "
		    "commits with checkpoints, and there are none with "
		    "durability = none", sink_of(c)->name));
	if (outbox_sink(&s->box)->file_base > c->txn)
		c->txn = outbox_sink(&s->box)->file_base;
	/* Killed between the commit and this. */
	sink_trim(s, c->committed);
	sink_seek(s, c->committed);
	if (s->written != c->committed || s->written > s->box.payload_tail)
		return (err_set(err, ERR_CORRUPT, "sink \"%s\": %" PRIu64
		    " bytes are committed, the outbox begins at %" PRIu64,
		    sink_of(c)->name, c->committed, s->written));
	return (0);
}

void
committer_lost(struct sink *s)
{
	outbox_sink(&s->box)->conn = 0;
	outbox_sink(&s->box)->conn_base = UNKNOWN;
}

/* The stop: nothing is said any more; the next start resolves the rest. */
void
committer_finish(struct sink *s)
{
	struct outbox_sink *k = outbox_sink(&s->box);

	k->conn = 0;
	k->resume = s->committer->committed;
}
