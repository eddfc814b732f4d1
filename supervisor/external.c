/*
 * The external channel: programs of operators, over TCP.  A frame is a 4-byte
 * big-endian size, a 2-byte id, and a payload; size counts id and payload.
 * What is no frame costs its own connection, nothing else.
 *
 * A connection has one request at work at a time: those behind it wait in its
 * buffer, and while its answers are not read no more are taken.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define CONNS_MAX	64
#define LISTENERS_MAX	8
#define ACCEPT_MOST	16		/* per wake-up */
#define ACCEPT_AGAIN_S	0.5		/* after EMFILE and the like */
#define OUT_MARK	(1024 * 1024)	/* unread: no further requests */
#define READ_BYTES	16384

struct ext_conn {
	TAILQ_ENTRY(ext_conn)	 link;
	struct external		*x;
	int			 fd;
	ev_io			 io;
	struct buf		 in;
	struct buf		 out;
	struct ext_list		 list;	/* the request at work */
	bool			 eof;	/* nothing more comes */
};
TAILQ_HEAD(ext_conns, ext_conn);

struct ext_listener {
	int	fd;
	ev_io	io;
};
struct external {
	struct supervisor	*s;
	struct ext_listener	 listener[LISTENERS_MAX];
	size_t			 nlisteners;
	struct ext_conns	 conns;
	size_t			 nconns;
	ev_timer		 again;
	bool			 full;
};

static void watch_listeners(struct external *);
static void next_list(struct external *);

/* --- frames -------------------------------------------------------------- */

long
external_frame(struct slice in, unsigned int *id, struct slice *payload)
{
	const uint8_t *p = in.data;
	uint32_t size;

	if (in.len < 4)
		return (0);
	size = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
	    (uint32_t)p[2] << 8 | p[3];
	if (size < 2 || size > EXTERNAL_MOST)
		return (-1);
	if (in.len - 4 < size)
		return (0);
	*id = (unsigned int)p[4] << 8 | p[5];
	*payload = slice_of(p + EXTERNAL_HEAD, size - 2);
	return ((long)size + 4);
}

/* --- connections --------------------------------------------------------- */

static void
conn_free(struct ext_conn *c)
{
	struct external *x = c->x;

	TAILQ_REMOVE(&x->conns, c, link);
	x->nconns--;
	ev_io_stop(x->s->loop, &c->io);
	close(c->fd);
	buf_fini(&c->in);
	buf_fini(&c->out);
	buf_fini(&c->list.text);
	free(c);
	if (x->full)
		watch_listeners(x);
	next_list(x);
}

static bool
may_read(const struct ext_conn *c)
{
	return (!c->eof && c->out.len < OUT_MARK &&
	    c->in.len < EXTERNAL_MOST + 4);
}

static void
watch(struct ext_conn *c)
{
	int events = (may_read(c) ? EV_READ : 0) |
	    (c->out.len > 0 ? EV_WRITE : 0);

	ev_io_stop(c->x->s->loop, &c->io);
	ev_io_set(&c->io, c->fd, events);
	if (events != 0)
		ev_io_start(c->x->s->loop, &c->io);
}

void
external_reply(struct ext_conn *c, unsigned int id, struct slice payload)
{
	uint32_t size = (uint32_t)payload.len + 2;
	uint8_t head[EXTERNAL_HEAD] = { (uint8_t)(size >> 24),
	    (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size,
	    (uint8_t)(id >> 8), (uint8_t)id };

	buf_add(&c->out, head, sizeof(head));
	buf_add(&c->out, payload.data, payload.len);
}

/* Requests that are complete.  false: what came is none. */
static bool
take_requests(struct ext_conn *c)
{
	static struct log_rate rate;
	struct slice payload;
	unsigned int id;
	long n;

	while (c->list.id == 0 && c->out.len < OUT_MARK) {
		n = external_frame(buf_slice(&c->in), &id, &payload);
		if (n == 0)
			return (true);
		if (n == -1 || !extquery_request(c->x->s, c, &c->list, id,
		    payload)) {
			if (log_allowed(&rate))
				log_warn("external channel: a client sent "
				    "what is no request, its connection is "
				    "closed");
			return (false);
		}
		buf_consume(&c->in, (size_t)n);
	}
	return (true);
}

/* Go on with what is there; the connection may be gone afterwards. */
static void
go_on(struct ext_conn *c)
{
	struct external *x = c->x;
	size_t before;

	do {
		if (!take_requests(c)) {
			conn_free(c);
			return;
		}
		before = c->out.len;
		if (stream_flush(c->fd, &c->out) == -1) {
			conn_free(c);
			return;
		}
	} while (c->out.len < before);
	/* A client that only half closed still gets its answers. */
	if (c->eof && c->list.id == 0 && c->out.len == 0)
		conn_free(c);
	else {
		watch(c);
		next_list(x);
	}
}

/* false: an error. */
static bool
read_some(struct ext_conn *c)
{
	ssize_t n;

	FAULT_POINT(external_read_before);
	n = recv(c->fd, buf_reserve(&c->in, READ_BYTES), READ_BYTES,
	    MSG_DONTWAIT);
	FAULT_POINT(external_read_after);
	if (n == -1)
		return (errno == EAGAIN || errno == EINTR);
	if (n == 0)
		c->eof = true;
	else
		c->in.len += (size_t)n;
	return (true);
}

static void
on_conn(struct ev_loop *loop, ev_io *io, int events)
{
	struct ext_conn *c = io->data;

	(void)loop;
	if ((events & EV_READ) && may_read(c) && !read_some(c)) {
		conn_free(c);
		return;
	}
	go_on(c);
}

/* --- lists of keys, which workers have; one at a time -------------------- */

static void
next_list(struct external *x)
{
	struct ext_conn *c;

	TAILQ_FOREACH(c, &x->conns, link)
		if (c->list.serial != 0)
			return;
	TAILQ_FOREACH(c, &x->conns, link)
		if (c->list.id != 0 && extquery_ask(x->s, &c->list))
			return;
}

void
external_listed(struct child *child, const struct msg_listed *m)
{
	struct external *x = child->s->external;
	struct ext_conn *c;

	if (x == NULL)
		return;
	TAILQ_FOREACH(c, &x->conns, link)
		if (c->list.serial == m->id && m->id != 0)
			break;
	if (c == NULL || !extquery_listed(x->s, &c->list, m)) {
		next_list(x);
		return;
	}
	external_reply(c, c->list.id + 1, buf_slice(&c->list.text));
	buf_fini(&c->list.text);
	memset(&c->list, 0, sizeof(c->list));
	go_on(c);
}

/* The replacement is asked again, from the list's beginning. */
void
external_child_died(struct child *child)
{
	struct external *x = child->s->external;
	struct ext_conn *c;

	if (x == NULL)
		return;
	TAILQ_FOREACH(c, &x->conns, link)
		if (c->list.id != 0 && c->list.worker == child->number) {
			c->list.serial = c->list.from = 0;
			if (c->list.text.len > c->list.at)
				c->list.text.len = c->list.at;
		}
	next_list(x);
}

void
external_child_ready(struct child *child)
{
	if (child->s->external != NULL)
		next_list(child->s->external);
}

/* --- who comes ----------------------------------------------------------- */

/* The oldest that neither waits nor is in the middle of something. */
static bool
make_room(struct external *x)
{
	struct ext_conn *c;

	if (x->nconns < CONNS_MAX)
		return (true);
	TAILQ_FOREACH(c, &x->conns, link)
		if (c->list.id == 0 && c->in.len == 0 && c->out.len == 0) {
			conn_free(c);
			return (true);
		}
	return (false);
}

static void
watch_listeners(struct external *x)
{
	struct ev_loop *loop = x->s->loop;
	size_t i;

	x->full = false;
	for (i = 0; i < x->nlisteners; i++)
		if (ev_is_active(&x->again))
			ev_io_stop(loop, &x->listener[i].io);
		else
			ev_io_start(loop, &x->listener[i].io);
}

static void
on_again(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)events;
	ev_timer_stop(loop, t);
	watch_listeners(t->data);
}

/* Too many are here, or there is no descriptor: look again later. */
static void
accept_later(struct external *x)
{
	ev_timer_again(x->s->loop, &x->again);
	watch_listeners(x);
	x->full = true;
}

void
external_take(struct external *x, int fd)
{
	struct ext_conn *c = xcalloc(1, sizeof(*c));

	c->x = x;
	c->fd = fd;
	ev_io_init(&c->io, on_conn, fd, EV_READ);
	c->io.data = c;
	ev_io_start(x->s->loop, &c->io);
	TAILQ_INSERT_TAIL(&x->conns, c, link);
	x->nconns++;
}

static bool
accept_one(struct external *x, int listener)
{
	int fd;

	if (!make_room(x)) {
		accept_later(x);
		return (false);
	}
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd == -1) {
		if (errno == EINTR || errno == ECONNABORTED)
			return (true);
		if (errno != EAGAIN)
			accept_later(x);
		return (false);
	}
	FAULT_POINT(external_accept_before);
	external_take(x, fd);
	FAULT_POINT(external_accept_after);
	return (true);
}

static void
on_accept(struct ev_loop *loop, ev_io *io, int events)
{
	int i;

	(void)loop;
	(void)events;
	for (i = 0; i < ACCEPT_MOST && accept_one(io->data, io->fd); i++)
		;
}

/* --- listening ----------------------------------------------------------- */

static bool
is_loopback(const struct sockaddr *sa)
{
	const struct sockaddr_in *a4 = (const void *)sa;
	const struct sockaddr_in6 *a6 = (const void *)sa;

	if (sa->sa_family == AF_INET)
		return (ntohl(a4->sin_addr.s_addr) >> 24 == 127);
	return (sa->sa_family == AF_INET6 &&
	    IN6_IS_ADDR_LOOPBACK(&a6->sin6_addr));
}

static int
add_listener(struct external *x, const struct addrinfo *ai, struct err *err)
{
	struct supervisor *s = x->s;
	struct ext_listener *l;
	int fd;

	if (s->conf.access != CONF_ANY && !is_loopback(ai->ai_addr))
		return (err_set(err, ERR_CONFIG, "external-address = \"%s\" "
		    "is not a loopback address: whoever reaches it could stop "
		    "the application and remove its state; if that is wanted, "
		    "set external-access = any", s->conf.external_address));
	fd = address_listen(ai, "external channel", err);
	if (fd == -1)
		return (-1);
	l = &x->listener[x->nlisteners++];
	l->fd = fd;
	ev_io_init(&l->io, on_accept, fd, EV_READ);
	l->io.data = x;
	ev_io_start(s->loop, &l->io);
	return (0);
}

static int
open_all(struct external *x, const struct addrinfo *ai, struct err *err)
{
	for (; ai != NULL && x->nlisteners < LISTENERS_MAX; ai = ai->ai_next)
		if (add_listener(x, ai, err) == -1 &&
		    (err->code == ERR_CONFIG || errno == EADDRINUSE))
			return (-1);
	/* Not each family that a name has need be here. */
	return (x->nlisteners > 0 ? 0 : -1);
}

struct external *
external_begin(struct supervisor *s)
{
	struct external *x = s->external = xcalloc(1, sizeof(*x));

	x->s = s;
	TAILQ_INIT(&x->conns);
	ev_init(&x->again, on_again);
	x->again.repeat = ACCEPT_AGAIN_S;
	x->again.data = x;
	return (x);
}

int
external_open(struct supervisor *s, struct err *err)
{
	struct addrinfo *res;
	uint32_t port;
	char *host;
	int r;

	if (s->conf.external_address[0] == '\0')
		return (0);
	if (address_parse(s->conf.external_address, &host, &port, err) == -1)
		return (err_wrap(err, "external-address"));
	r = address_look_up(host, port, AI_PASSIVE, &res);
	if (r != 0)
		(void)err_set(err, r == EAI_AGAIN ? ERR_SYSTEM : ERR_CONFIG,
		    "external-address: cannot resolve \"%s\": %s", host,
		    gai_strerror(r));
	free(host);
	if (r != 0)
		return (-1);
	r = open_all(external_begin(s), res, err);
	freeaddrinfo(res);
	if (r == -1)
		external_close(s);
	else
		log_info("listening channel=external address=%s",
		    s->conf.external_address);
	return (r);
}

void
external_close(struct supervisor *s)
{
	struct external *x = s->external;
	struct ext_conn *c;
	size_t i;

	if (x == NULL)
		return;
	for (i = 0; i < x->nlisteners; i++) {
		ev_io_stop(s->loop, &x->listener[i].io);
		close(x->listener[i].fd);
	}
	x->nlisteners = 0;
	ev_timer_stop(s->loop, &x->again);
	while ((c = TAILQ_FIRST(&x->conns)) != NULL) {
		(void)stream_flush(c->fd, &c->out);
		conn_free(c);
	}
	free(x);
	s->external = NULL;
}
