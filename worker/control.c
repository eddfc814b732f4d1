/*
 * The supervisor's channel: descriptor 3, one message per packet, a
 * descriptor may come with it.  When it closes, this process ends: a new
 * supervisor must never find two owners.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/planted.h"
#include "worker/worker.h"

#define ANSWER_MAX	(64 * 1024)
#define QUEUE_MAX	(16 * 1024 * 1024)

int
control_receive(int fd, struct buf *b, int *passed)
{
	union {
		struct cmsghdr	h;
		char		space[CMSG_SPACE(sizeof(int) * 4)];
	} control;
	struct iovec iov;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
	    .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	ssize_t n;

	*passed = -1;
	buf_clear(b);
	iov.iov_base = buf_reserve(b, MSG_MAX_CONTROL);
	iov.iov_len = MSG_MAX_CONTROL;
	do
		n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	while (n == -1 && errno == EINTR);
	if (n <= 0)
		return ((int)n);
	b->len = (size_t)n;
	for (c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			memcpy(passed, CMSG_DATA(c), sizeof(*passed));
	return (1);
}

/* --- sending ----------------------------------------------------------- */

/* Send what is queued; true when nothing is left. */
static bool
flush(struct worker *w)
{
	uint32_t len;
	size_t at = 0;

	while (at < w->control_out.len) {
		memcpy(&len, w->control_out.data + at, sizeof(len));
		if (send(WORKER_CHANNEL, w->control_out.data + at +
		    sizeof(len), len, MSG_NOSIGNAL | MSG_DONTWAIT) == -1) {
			/* Closed: the reader will see it.  Else later, but
			 * one that can never go must not hold up the rest. */
			if (errno != EMSGSIZE)
				break;
			log_error("a message of %u bytes is too large for "
			    "the supervisor's channel", len);
		}
		at += sizeof(len) + len;
	}
	buf_consume(&w->control_out, at);
	return (w->control_out.len == 0);
}

static void
watch(struct worker *w)
{
	int events = w->control_out.len > 0 ? EV_READ | EV_WRITE : EV_READ;

	if (w->loop == NULL || !ev_is_active(&w->control) ||
	    w->control.events == events)
		return;
	ev_io_stop(w->loop, &w->control);
	ev_io_set(&w->control, WORKER_CHANNEL, events);
	ev_io_start(w->loop, &w->control);
}

void
control_send(struct worker *w, struct buf *b)
{
	uint32_t len = (uint32_t)b->len;

	if (w->control_out.len + b->len > QUEUE_MAX)
		return;			/* a supervisor that long stopped */
	buf_add(&w->control_out, &len, sizeof(len));
	buf_add(&w->control_out, b->data, b->len);
	(void)flush(w);
	watch(w);
}

/* Before an exit: give the supervisor a second to take what is queued. */
void
control_flush_blocking(struct worker *w)
{
	struct pollfd p = { WORKER_CHANNEL, POLLOUT, 0 };
	int i;

	for (i = 0; i < 10 && !flush(w); i++)
		(void)poll(&p, 1, 100);
}

/* --- handlers ---------------------------------------------------------- */

struct delivery {		/* a message and what came with it */
	struct worker	*w;
	int		 fd;
};

/* The kernel drops a descriptor for which this process has no room. */
static const char no_fd[] = "a descriptor did not arrive: raise the limit "
    "of open files (LimitNOFILE, ulimit -n)";

static int
take_fd(struct delivery *d)
{
	int fd = d->fd;

	d->fd = -1;
	return (fd);
}

static int
on_peer(void *arg, const struct msg_peer *m, struct err *err)
{
	struct delivery *d = arg;

	if (d->fd == -1)
		return (err_set(err, ERR_SYSTEM, "%s", no_fd));
	peer_attach(d->w, m->worker, take_fd(d));
	return (0);
}

static int
on_conn(void *arg, const struct msg_conn *m, struct err *err)
{
	struct delivery *d = arg;

	if (d->fd == -1)
		return (err_set(err, ERR_SYSTEM, "%s", no_fd));
	source_conn(d->w, m, take_fd(d));
	return (0);
}

static int
on_sinkconn(void *arg, const struct msg_sinkconn *m, struct err *err)
{
	struct delivery *d = arg;

	if (d->fd == -1)
		return (err_set(err, ERR_SYSTEM, "%s", no_fd));
	sink_conn(d->w, m, take_fd(d));
	return (0);
}

static int
on_dropped(void *arg, const struct msg_dropped *m, struct err *err)
{
	struct delivery *d = arg;

	(void)err;
	source_dropped(d->w, m->id);
	return (0);
}

/* Where others end after a power loss, and so where this one does. */
static int
on_cut(void *arg, const struct msg_cut *m, struct err *err)
{
	struct delivery *d = arg;
	struct worker *w = d->w;
	struct msg_cutoff r = { .round = m->round };
	struct buf b = { 0 }, text = { 0 };
	struct cut *cuts;
	bool waited;

	if (w->running || !w->machine ||
	    m->cuts.len != w->n * sizeof(*cuts))
		return (err_set(err, ERR_CORRUPT, "a cut is not expected"));
	cuts = xcalloc(w->n, sizeof(*cuts));
	memcpy(cuts, m->cuts.data, m->cuts.len);
	if (m->last) {
		waited = w->lost;
		if (recover_cut(w, cuts, err) == -1)
			worker_fatal_err(w, err);
		if (waited)
			recover_ends(w);
		r.position = journal_tail(&w->journal);
	} else
		r.position = recover_cutoff(w, cuts, &text);
	r.text = buf_slice(&text);
	msg_put_cutoff(&b, &r);
	control_send(w, &b);
	buf_fini(&b);
	buf_fini(&text);
	free(cuts);
	return (0);
}

static int
on_run(void *arg, const struct msg_run *m, struct err *err)
{
	struct delivery *d = arg;
	struct worker *w = d->w;

	(void)m;
	if (w->running)
		return (0);
	if (w->lost)
		return (err_set(err, ERR_CORRUPT, "run without a cut"));
	source_recover(w);
	poison_decide(w);
	w->running = true;
	w->replay_to = journal_tail(&w->journal);
	peer_run(w);
	ev_idle_start(w->loop, &w->more);
	return (0);
}

static int
on_drain(void *arg, const struct msg_drain *m, struct err *err)
{
	struct delivery *d = arg;
	struct worker *w = d->w;
	struct msg_drained r = { 0 };
	struct buf b = { 0 };

	(void)err;
	w->draining = true;
	source_admit(w);
	r.round = m->round;
	r.idle = loop_quiet(w);
	r.tail = journal_tail(&w->journal);
	r.sinks_empty = r.idle && sink_empty(w);
	msg_put_drained(&b, &r);
	control_send(w, &b);
	buf_fini(&b);
	return (0);
}

static int
on_settle(void *arg, const struct msg_settle *m, struct err *err)
{
	struct delivery *d = arg;
	struct worker *w = d->w;
	struct msg_settled r = { 0 };
	struct buf b = { 0 };

	(void)err;
	r.round = m->round;
	r.idle = source_open_count(w) == 0 && loop_quiet(w) &&
	    automaton_tick(&w->a) == UINT64_MAX;
	r.tail = journal_tail(&w->journal);
	r.sinks_empty = r.idle && sink_empty(w);
	msg_put_settled(&b, &r);
	control_send(w, &b);
	buf_fini(&b);
	return (0);
}

static int
on_finish(void *arg, const struct msg_finish *m, struct err *err)
{
	struct delivery *d = arg;

	(void)err;
	d->w->draining = d->w->finishing = true;	/* between turns */
	d->w->aborting = m->why == FINISH_ABORT;
	return (0);
}

static int
on_checkpoint(void *arg, const struct msg_checkpoint *m, struct err *err)
{
	struct delivery *d = arg;
	struct msg_checkpointed r = { 0 };
	struct buf b = { 0 };

	(void)err;
	if (!d->w->durable) {
		r.id = m->id;
		r.text = msg_cstr("durability is none: nothing is kept");
		msg_put_checkpointed(&b, &r);
		control_send(d->w, &b);
		buf_fini(&b);
		return (0);
	}
	d->w->want_checkpoint = m->id;
	return (0);
}

static bool
is_utf8(struct slice s)
{
	size_t i = 0;
	int more;

	while (i < s.len) {
		uint8_t c = s.data[i++];

		more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 :
		    c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 :
		    -1;
		if (more == -1)
			return (false);
		for (; more > 0; more--, i++)
			if (i >= s.len || (s.data[i] & 0xc0) != 0x80)
				return (false);
	}
	return (true);
}

void
control_json(struct buf *b, struct slice s)
{
	bool text = is_utf8(s);
	size_t i;

	buf_addf(b, "\"");
	for (i = 0; i < s.len; i++) {
		if (s.data[i] == '"' || s.data[i] == '\\')
			buf_addf(b, "\\%c", s.data[i]);
		else if (s.data[i] < 0x20 || s.data[i] == 0x7f)
			buf_addf(b, "\\u%04x", s.data[i]);
		else if (!text && s.data[i] >= 0x80)
			buf_addf(b, "\\\\x%02x", s.data[i]);
		else
			buf_add(b, &s.data[i], 1);
	}
	buf_addf(b, "\"");
}

static void
put_json(struct buf *b, const char *key, struct slice s)
{
	buf_addf(b, "\"%s\": ", key);
	control_json(b, s);
}

static int
on_query(void *arg, const struct msg_query *m, struct err *err)
{
	struct delivery *d = arg;
	struct msg_answer r = { .id = m->id, .ok = 1 };
	struct buf b = { 0 }, repr = { 0 }, json = { 0 };
	struct err e;
	bool found = false;

	(void)err;
	if (automaton_query(&d->w->a, m->step, m->key, &repr, &found, &e) ==
	    -1) {
		r.ok = 0;
		buf_addf(&json, "%s", e.text);
	} else {
		buf_addf(&json, "{");
		put_json(&json, "step", m->step);
		buf_addf(&json, ", ");
		put_json(&json, "key", m->key);
		buf_addf(&json, ", \"worker\": %u, \"found\": %s", d->w->me,
		    found ? "true" : "false");
		if (found) {
			buf_addf(&json, ", ");
			put_json(&json, "value", buf_slice(&repr));
		}
		buf_addf(&json, "}");
	}
	if (json.len > ANSWER_MAX) {
		r.ok = 0;
		buf_clear(&json);
		buf_addf(&json, "the answer is too large");
	}
	r.json = buf_slice(&json);
	msg_put_answer(&b, &r);
	control_send(d->w, &b);
	buf_fini(&b);
	buf_fini(&repr);
	buf_fini(&json);
	return (0);
}

static int
on_putback(void *arg, const struct msg_putback *m, struct err *err)
{
	struct delivery *d = arg;

	(void)err;
	putback_take(d->w, m);
	return (0);
}

static int
on_list(void *arg, const struct msg_list *m, struct err *err)
{
	struct delivery *d = arg;

	(void)err;
	list_answer(d->w, m);
	return (0);
}

static int
on_stdio(void *arg, const struct msg_stdio *m, struct err *err)
{
	struct delivery *d = arg;

	if (d->fd == -1)
		return (err_set(err, ERR_SYSTEM, "%s", no_fd));
	if (m->is_sink)
		sink_stdout(d->w, m->index, take_fd(d));
	else
		source_stdin(d->w, m->index, take_fd(d));
	return (0);
}

static const struct msg_handlers handlers = {
	.peer = on_peer,
	.conn = on_conn,
	.sinkconn = on_sinkconn,
	.dropped = on_dropped,
	.cut = on_cut,
	.run = on_run,
	.drain = on_drain,
	.settle = on_settle,
	.finish = on_finish,
	.checkpoint = on_checkpoint,
	.query = on_query,
	.list = on_list,
	.putback = on_putback,
	.stdio = on_stdio,
};

static void
on_channel(struct ev_loop *loop, ev_io *io, int events)
{
	static struct buf b;
	struct delivery d = { io->data, -1 };
	struct err err;
	bool with_fd;
	int r, i;

	(void)loop;
	if (events & EV_WRITE) {
		(void)flush(d.w);
		watch(d.w);
	}
	for (i = 0; i < 64; i++) {
		FAULT_POINT(channel_receive_before);
		r = control_receive(WORKER_CHANNEL, &b, &d.fd);
		if (r == -1 && errno == EAGAIN)
			return;
		if (r <= 0) {
			if (planted("RULE9")) {
				ev_io_stop(loop, io);
				return;
			}
			_exit(EXIT_TEMPORARY);	/* no supervisor, no work */
		}
		FAULT_POINT(channel_receive_after);
		with_fd = d.fd != -1;
		if (with_fd)
			FAULT_POINT(take_over_before);
		if (b.len < MSG_HEADER || msg_dispatch(&handlers, &d,
		    FROM_SUP, slice_of(b.data + MSG_HEADER, b.len -
		    MSG_HEADER), &err) == -1)
			worker_fatal(d.w, EXIT_TEMPORARY, "message from the "
			    "supervisor: %s", err.text);
		if (with_fd)
			FAULT_POINT(take_over_after);
		if (d.fd != -1)
			close(d.fd);
	}
}

void
control_attach(struct worker *w)
{
	ev_io_init(&w->control, on_channel, WORKER_CHANNEL, EV_READ);
	w->control.data = w;
	ev_io_start(w->loop, &w->control);
	watch(w);
}
