/*
 * The channel to a worker: one message per packet, a descriptor may travel
 * with it.  A worker that does not read must not stop the supervisor, so what
 * does not fit waits in a bounded queue; it dies with the worker's life, the
 * next life is told everything anew.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define SEND_AGAIN_S	0.02
#define SEND_MOST	256		/* messages per wake-up */
#define READ_MOST	64

struct out_msg {
	STAILQ_ENTRY(out_msg)	 link;
	int			 fd;		/* -1: none */
	bool			 own;		/* fd is closed with us */
	uint64_t		 held;		/* id whose fd goes, 0 */
	uint32_t		 peer;		/* of a peer message */
	size_t			 len;
	uint8_t			 data[];
};

static void
msg_free(struct child *c, struct out_msg *m)
{
	if (m->own && m->fd != -1)
		close(m->fd);
	c->queued--;
	free(m);
}

static void
drop_queue(struct child *c)
{
	struct out_msg *m;

	while ((m = STAILQ_FIRST(&c->queue)) != NULL) {
		STAILQ_REMOVE_HEAD(&c->queue, link);
		msg_free(c, m);
	}
}

/* 1 sent, 0 not now, -1 never. */
static int
send_one(struct child *c, const struct out_msg *m)
{
	union {
		struct cmsghdr	h;
		char		space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov;
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	const struct held *held;
	int fd = m->fd, r;

	if (m->held != 0) {
		if ((held = hold_find(c->s, m->held)) == NULL)
			return (1);		/* dropped meanwhile */
		fd = held->fd;
	}
	iov.iov_base = (void *)(uintptr_t)m->data;
	iov.iov_len = m->len;
	if (fd != -1) {
		memset(&control, 0, sizeof(control));
		control.h.cmsg_len = CMSG_LEN(sizeof(fd));
		control.h.cmsg_level = SOL_SOCKET;
		control.h.cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
		h.msg_control = &control;
		h.msg_controllen = sizeof(control);
	}
	if (fd != -1)
		FAULT_POINT(hand_over_before);
	do
		r = (int)sendmsg(c->fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r == -1 && errno == EINTR);
	if (fd != -1)
		FAULT_POINT(hand_over_after);
	if (r == -1) {
		if (errno == EAGAIN)
			return (0);
		if (errno == ETOOMANYREFS || errno == ENOBUFS ||
		    errno == ENOMEM) {
			/* Writable all the same: poll would spin. */
			ev_timer_again(c->s->loop, &c->resend);
			return (0);
		}
		return (-1);
	}
	return (1);
}

static void
watch(struct child *c)
{
	int events = EV_READ;

	if (!STAILQ_EMPTY(&c->queue) && !ev_is_active(&c->resend))
		events |= EV_WRITE;
	if (!ev_is_active(&c->io) || (c->io.events & (EV_READ | EV_WRITE)) ==
	    events)
		return;
	ev_io_stop(c->s->loop, &c->io);
	ev_io_set(&c->io, c->fd, events);
	ev_io_start(c->s->loop, &c->io);
}

static void
flush(struct child *c)
{
	struct out_msg *m;
	char name[48];
	int i, r;

	for (i = 0; i < SEND_MOST; i++) {
		if (c->fd == -1 || (m = STAILQ_FIRST(&c->queue)) == NULL)
			break;
		if ((r = send_one(c, m)) == 0)
			break;
		if (r == -1) {
			/* It is dying: what is queued is for its next life. */
			if (errno != EPIPE && errno != ECONNRESET)
				log_error("cannot send to %s: %s",
				    child_name(c, name, sizeof(name)),
				    strerror(errno));
			drop_queue(c);
			break;
		}
		STAILQ_REMOVE_HEAD(&c->queue, link);
		msg_free(c, m);
	}
	watch(c);
}

static void
put(struct child *c, const struct buf *b, int fd, bool own, uint64_t held,
    uint32_t peer)
{
	struct out_msg *m;
	char name[48];

	if (c->fd == -1) {
		if (own && fd != -1)
			close(fd);
		return;
	}
	if (c->queued >= CHANNEL_MAX) {
		log_error("%s has not read %d messages, killing it",
		    child_name(c, name, sizeof(name)), CHANNEL_MAX);
		if (own && fd != -1)
			close(fd);
		drop_queue(c);
		c->guilty = true;
		child_kill(c);
		return;
	}
	m = xmalloc(sizeof(*m) + b->len);
	m->fd = fd;
	m->own = own;
	m->held = held;
	m->peer = peer;
	m->len = b->len;
	memcpy(m->data, b->data, b->len);
	STAILQ_INSERT_TAIL(&c->queue, m, link);
	c->queued++;
	if (STAILQ_FIRST(&c->queue) == m)
		flush(c);
	else
		watch(c);
}

void
channel_send(struct child *c, const struct buf *b, int fd)
{
	put(c, b, fd, false, 0, UINT32_MAX);
}

void
channel_send_peer(struct child *c, const struct buf *b, int fd, uint32_t peer)
{
	struct out_msg *m, *next;

	STAILQ_FOREACH_SAFE(m, &c->queue, link, next) {
		if (m->peer != peer)
			continue;
		STAILQ_REMOVE(&c->queue, m, out_msg, link);
		msg_free(c, m);
	}
	put(c, b, fd, true, 0, peer);
}

void
channel_send_held(struct child *c, const struct buf *b, uint64_t id)
{
	put(c, b, -1, false, id, UINT32_MAX);
}

int
channel_receive(int fd, struct buf *b)
{
	struct iovec iov;
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	buf_clear(b);
	iov.iov_base = buf_reserve(b, MSG_MAX_CONTROL);
	iov.iov_len = MSG_MAX_CONTROL;
	do
		n = recvmsg(fd, &h, MSG_DONTWAIT);
	while (n == -1 && errno == EINTR);
	if (n <= 0)
		return ((int)n);
	b->len = (size_t)n;
	return (1);
}

static void
on_io(struct ev_loop *loop, ev_io *io, int events)
{
	struct child *c = io->data;

	(void)loop;
	if (events & EV_WRITE)
		flush(c);
	if (events & EV_READ)
		child_read(c, READ_MOST);
}

static void
on_resend(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)events;
	ev_timer_stop(loop, t);
	flush(t->data);
}

void
channel_open(struct child *c, int fd)
{
	c->fd = fd;
	ev_io_init(&c->io, on_io, fd, EV_READ);
	c->io.data = c;
	ev_io_start(c->s->loop, &c->io);
	ev_init(&c->resend, on_resend);
	c->resend.repeat = SEND_AGAIN_S;
	c->resend.data = c;
}

void
channel_close(struct child *c)
{
	drop_queue(c);
	if (c->fd == -1)
		return;
	ev_io_stop(c->s->loop, &c->io);
	ev_timer_stop(c->s->loop, &c->resend);
	close(c->fd);
	c->fd = -1;
}

void
channel_take(struct child *c, struct child *from)
{
	int fd = from->fd;

	drop_queue(from);
	ev_io_stop(from->s->loop, &from->io);
	ev_timer_stop(from->s->loop, &from->resend);
	from->fd = -1;
	channel_open(c, fd);
}
