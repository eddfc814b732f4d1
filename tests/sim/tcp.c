/*
 * Connections to the world outside, with the counters that Linux keeps: bytes
 * received (the FIN counts as one), unread, accepted, acknowledged.  What we
 * write is delivered and acknowledged in pieces, later.
 */
#include <ev.h>
#include <linux/sockios.h>
#include <linux/tcp.h>

#define SIM_KERNEL
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"

enum { ESTABLISHED = 1, FIN_WAIT = 4, TIME_WAIT = 6, CLOSED = 7,
	CLOSE_WAIT = 8, LAST_ACK = 9 };

#define SOURCE_PORT	7000
#define OUR_PORT	40000

struct file *listener;
static struct tcp *conns;
static unsigned int next_id;

static int
no(int error)
{
	errno = error;
	return (-1);
}

struct tcp *
tcp_new(bool sink, unsigned int which)
{
	struct tcp *t = calloc(1, sizeof(*t));

	t->id = next_id++;
	t->sink = sink;
	t->which = which;
	t->state = ESTABLISHED;
	t->in_room = rng_range(&plan.sched, 200, 8000);
	t->out_room = rng_range(&plan.sched, 300, 8000);
	t->base = rng_below(&plan.sched, 2);	/* the SYN may count */
	t->next = conns;
	conns = t;
	return (t);
}

void
tcp_reset(void)
{
	struct tcp *t;

	while ((t = conns) != NULL) {
		conns = t->next;
		bytes_free(&t->in);
		bytes_free(&t->out);
		free(t);
	}
	next_id = 0;
}

/* Connections end here without a word to the other side. */
void
tcp_power_loss(void)
{
	struct tcp *t;

	for (t = conns; t != NULL; t = t->next) {
		t->dead = true;
		t->state = CLOSED;
		bytes_skip(&t->in, t->in.len);
		bytes_skip(&t->out, t->out.len);
	}
}

struct tcp *
tcp_given(uint64_t id)
{
	struct tcp *t;

	for (t = conns; t != NULL; t = t->next)
		if (t->given_id == id)
			return (t);
	return (NULL);
}

static void
changed(struct tcp *t)
{
	if (t->file != NULL)
		file_changed(t->file);
}

int
tcp_events(const struct tcp *t)
{
	int e = 0;

	if (t == NULL)
		return (0);
	if (t->error != 0 || t->dead)
		return (EV_READ | EV_WRITE);
	if (t->in.len > 0 || t->fin)
		e |= EV_READ;
	if (t->established && t->accepted - t->acked < t->out_room)
		e |= EV_WRITE;
	return (e);
}

/* --- what comes from the other side -------------------------------------- */

size_t
tcp_arrive(struct tcp *t, const void *p, size_t n)
{
	size_t room = t->in_room > t->in.len ? t->in_room - t->in.len : 0;

	if (t->dead || t->our_fin || t->file == NULL)
		return (n);		/* nobody reads it any more */
	if (n > room)
		n = room;
	bytes_put(&t->in, p, n);
	t->received += n;
	if (n > 0)
		changed(t);
	return (n);
}

void
tcp_fin_by_peer(struct tcp *t)
{
	if (t->dead || t->fin)
		return;
	trace("tcp %u: FIN from the other side", t->id);
	t->fin = true;
	t->received++;
	t->state = t->our_fin ? TIME_WAIT : CLOSE_WAIT;
	changed(t);
}

void
tcp_reset_by_peer(struct tcp *t)
{
	if (t->dead)
		return;
	trace("tcp %u: RST from the other side, delivered=%llu acked=%llu",
	    t->id, (unsigned long long)t->delivered,
	    (unsigned long long)t->acked);
	t->error = t->state == CLOSE_WAIT ? EPIPE : ECONNRESET;
	t->state = CLOSED;
	t->dead = true;
	bytes_skip(&t->out, t->out.len);
	changed(t);
}

/* --- what goes there ----------------------------------------------------- */

static void
acknowledge(void *arg, uint64_t upto)
{
	struct tcp *t = arg;

	if (t->dead || upto <= t->acked)
		return;
	t->acked = upto;
	changed(t);
}

/* Slow receivers stop now and then. */
static uint64_t
delivery_time(void)
{
	uint64_t most = plan.network;

	if (plan.slow && sometimes(4))
		most *= 60;
	return (now_ns + rng_range(&plan.sched, 1, most));
}

static void
deliver(void *arg, uint64_t zero)
{
	struct tcp *t = arg;
	size_t n = t->out.len;

	(void)zero;
	t->moving = false;
	if (t->dead)
		return;
	if (n > 0 && t->peer_closed) {
		tcp_reset_by_peer(t);
		return;
	}
	if (n > 0) {
		n = 1 + rng_below(&plan.sched, n);
		actor_sent(t, t->out.p + t->out.head, n);
		bytes_skip(&t->out, n);
		t->delivered += n;
		sched_at(now_ns + rng_range(&plan.sched, 1, plan.network),
		    acknowledge, t, t->delivered);
	}
	if (t->out.len > 0) {
		t->moving = true;
		sched_at(delivery_time(), deliver, t, 0);
	} else if (t->our_fin) {
		t->dead = true;
		actor_closed(t, false);
	}
}

static void
move(struct tcp *t)
{
	if (t->moving || t->dead)
		return;
	t->moving = true;
	sched_at(delivery_time(), deliver, t, 0);
}

ssize_t
tcp_write(struct file *f, const void *p, size_t n)
{
	struct tcp *t = f->tcp;
	uint64_t queued = t->accepted - t->acked;
	int error = t->error;

	if (error != 0) {
		t->error = 0;
		return (no(error));
	}
	if (t->dead || t->our_fin)
		return (no(EPIPE));
	if (queued >= t->out_room)
		return (no(EAGAIN));
	if (n > t->out_room - queued)
		n = t->out_room - queued;
	n = some_of(n);
	bytes_put(&t->out, p, n);
	t->accepted += n;
	move(t);
	return ((ssize_t)n);
}

ssize_t
tcp_read(struct file *f, void *p, size_t n)
{
	struct tcp *t = f->tcp;
	int error = t->error;

	if (t->in.len > 0) {
		n = bytes_get(&t->in, p, some_of(n < t->in.len ? n :
		    t->in.len));
		actor_room(t);
		return ((ssize_t)n);
	}
	if (t->fin)			/* hides a later reset, as in Linux */
		return (0);
	if (error != 0) {
		t->error = 0;
		return (no(error));
	}
	return (t->dead ? 0 : no(EAGAIN));
}

/* --- our side ends it ---------------------------------------------------- */

static void
abandon(struct tcp *t)			/* RST from us */
{
	if (t->dead)
		return;
	t->dead = true;
	t->state = CLOSED;
	t->expected = actor_expects_end();
	bytes_skip(&t->out, t->out.len);
	actor_closed(t, true);
}

static void
our_end(struct tcp *t)
{
	if (t->dead || t->our_fin)
		return;
	t->our_fin = true;
	t->expected = actor_expects_end();
	t->state = t->fin ? LAST_ACK : FIN_WAIT;
	if (!t->established)
		t->dead = true;
	move(t);
}

void
tcp_last_close(struct tcp *t)
{
	trace("tcp %u: closed by all", t->id);
	if (t->in.len > 0)
		abandon(t);
	else
		our_end(t);
}

int
sim_shutdown(int fd, int how)
{
	struct file *f;

	(void)how;
	point(PT_shutdown, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	if (f->kind == FILE_TCP && f->tcp != NULL) {
		trace("tcp %u: shutdown", f->tcp->id);
		our_end(f->tcp);
	}
	point(PT_shutdown, true);
	return (0);
}

/* --- making connections -------------------------------------------------- */

int
sim_socket(int domain, int type, int protocol)
{
	(void)protocol;
	if (domain == AF_UNIX && (type & 0xf) == SOCK_DGRAM)
		return (fd_install(current, file_new(FILE_NOTIFY), 0));
	return (fd_install(current, file_new(FILE_TCP), 0));
}

int
sim_bind(int fd, const struct sockaddr *sa, socklen_t len)
{
	(void)fd;
	(void)sa;
	(void)len;
	return (0);
}

int
sim_listen(int fd, int backlog)
{
	struct file *f = fd_get(fd);

	(void)backlog;
	if (f == NULL)
		return (-1);
	f->kind = FILE_LISTEN;
	listener = f;
	return (0);
}

static void
fill_address(struct sockaddr *sa, socklen_t *len, unsigned int port)
{
	struct sockaddr_in *sin = (struct sockaddr_in *)(void *)sa;

	memset(sin, 0, sizeof(*sin));
	sin->sin_family = AF_INET;
	sin->sin_port = htons((uint16_t)port);
	sin->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*len = sizeof(*sin);
}

int
sim_accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags)
{
	struct file *f;
	struct tcp *t;

	(void)flags;
	point(PT_accept, false);
	if (fd_get(fd) == NULL)
		return (-1);
	if (sometimes(plan.eintr))
		return (no(EINTR));
	if ((t = actor_accept()) == NULL)
		return (no(EAGAIN));
	f = file_new(FILE_TCP);
	f->tcp = t;
	f->nonblock = true;
	t->file = f;
	t->established = true;
	fill_address(sa, len, OUR_PORT + t->id);
	fd = fd_install(current, f, 0);
	trace("accept tcp %u fd=%d", t->id, fd);
	point(PT_accept, true);
	return (fd);
}

static void
connected(void *arg, uint64_t ok)
{
	struct tcp *t = arg;

	if (t->dead)
		return;
	if (ok != 0)
		t->established = true;
	else {
		t->error = ECONNREFUSED;
		t->dead = true;
	}
	changed(t);
}

int
sim_connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	struct file *f = fd_get(fd);

	(void)len;
	point(PT_connect, false);
	if (f == NULL)
		return (-1);
	if (sa->sa_family == AF_UNSPEC) {	/* disconnect: a reset */
		trace("tcp %u: disconnected", f->tcp->id);
		abandon(f->tcp);
		return (0);
	}
	f->tcp = tcp_new(true, 0);
	f->tcp->file = f;
	sched_at(now_ns + rng_range(&plan.sched, 1, plan.network), connected,
	    f->tcp, !plan_refuses());
	point(PT_connect, true);
	return (no(EINPROGRESS));
}

/* --- questions ----------------------------------------------------------- */

static void
fill_info(const struct tcp *t, struct tcp_info *ti)
{
	memset(ti, 0, sizeof(*ti));
	ti->tcpi_state = (uint8_t)t->state;
	ti->tcpi_bytes_received = t->received;
	ti->tcpi_bytes_acked = t->base + t->acked;
}

int
sim_getsockopt(int fd, int level, int what, void *p, socklen_t *len)
{
	struct file *f;
	int v = 0;

	(void)len;
	point(PT_getsockopt, false);
	if ((f = fd_get(fd)) == NULL)
		return (-1);
	if (level == IPPROTO_TCP && what == TCP_INFO) {
		if (f->tcp == NULL)
			return (no(ENOTCONN));
		fill_info(f->tcp, p);
		point(PT_getsockopt, true);
		return (0);
	}
	if (what == SO_ERROR && f->tcp != NULL) {
		v = f->tcp->error;
		f->tcp->error = 0;
	} else if (what == SO_ACCEPTCONN)
		v = f->kind == FILE_LISTEN;
	else if (what == SO_TYPE)
		v = SOCK_STREAM;
	memcpy(p, &v, sizeof(v));
	return (0);
}

int
sim_setsockopt(int fd, int level, int what, const void *p, socklen_t len)
{
	(void)fd;
	(void)level;
	(void)what;
	(void)p;
	(void)len;
	return (0);
}

int
sim_ioctl(int fd, unsigned long request, ...)
{
	struct file *f;
	va_list ap;
	int *v;

	va_start(ap, request);
	v = va_arg(ap, int *);
	va_end(ap);
	point(PT_ioctl, false);
	if ((f = fd_get(fd)) == NULL || f->tcp == NULL)
		return (no(EINVAL));
	*v = request == SIOCINQ ? (int)f->tcp->in.len :
	    (int)(f->tcp->accepted - f->tcp->acked) + f->tcp->our_fin;
	point(PT_ioctl, true);
	return (0);
}

int
sim_getsockname(int fd, struct sockaddr *sa, socklen_t *len)
{
	struct file *f = fd_get(fd);

	if (f == NULL)
		return (-1);
	fill_address(sa, len, f->kind == FILE_LISTEN ? SOURCE_PORT :
	    OUR_PORT);
	return (0);
}

int
sim_getpeername(int fd, struct sockaddr *sa, socklen_t *len)
{
	if (fd_get(fd) == NULL)
		return (-1);
	fill_address(sa, len, OUR_PORT + 1);
	return (0);
}

int
sim_getaddrinfo(const char *host, const char *service,
    const struct addrinfo *hints, struct addrinfo **res)
{
	struct addrinfo *ai = sim_calloc(1, sizeof(*ai) +
	    sizeof(struct sockaddr_in));

	(void)host;
	(void)hints;
	ai->ai_family = AF_INET;
	ai->ai_addr = (struct sockaddr *)(void *)(ai + 1);
	fill_address(ai->ai_addr, &ai->ai_addrlen, (unsigned int)
	    strtoul(service, NULL, 10));
	*res = ai;
	return (0);
}

void
sim_freeaddrinfo(struct addrinfo *ai)
{
	sim_free(ai);
}

int
sim_getnameinfo(const struct sockaddr *sa, socklen_t len, char *host,
    socklen_t hostlen, char *port, socklen_t portlen, int flags)
{
	const struct sockaddr_in *sin = (const void *)sa;

	(void)len;
	(void)flags;
	(void)snprintf(host, hostlen, "127.0.0.1");
	(void)snprintf(port, portlen, "%u", ntohs(sin->sin_port));
	return (0);
}
